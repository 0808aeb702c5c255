#!/bin/sh
# Usage: sh tools/system-package.sh PACKAGE TEST
# Sees to it that the shell command TEST succeeds. Installs Debian's PACKAGE where that needs nobody's password, else says
# what to type. A missing package is no error, since the tests that need it say so themselves; under CI it is one.
set -u
package=$1
test=$2

sh -c "$test" >/dev/null 2>&1 && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "$package is missing and this system has no apt-get: install it by the system's own means"
    exit 0
elif [ "$(id -u)" = 0 ]; then
    as_root=""
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    echo "$package is missing; to install it: sudo apt-get install $package"
    exit 0
fi

echo "installing $package with apt-get"
if $as_root apt-get update -qq && $as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$package" >/dev/null && sh -c "$test" >/dev/null 2>&1; then
    exit 0
fi
echo "$package could not be installed; later: apt-get install $package" >&2
[ "${CI:-}" = "" ] || exit 1
