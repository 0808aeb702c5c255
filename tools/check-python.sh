#!/bin/sh
# Usage: sh tools/check-python.sh PYTHON
# Ends with an error and what to type where PYTHON cannot make a virtual environment for this project.
set -u
python=$1

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "error: '$python' is not Python 3.10 or newer: $("$python" --version 2>&1)" >&2
    echo "       install one and name it: make PYTHON=python3.12 ..." >&2
    exit 1
fi
usable="$python -c 'import ensurepip, venv'"
sh -c "$usable" 2>/dev/null && exit 0

# Debian and its kin keep these two in a package of their own.
package="$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
sh "$(dirname "$0")/system-package.sh" "$package" "$usable"
sh -c "$usable" 2>/dev/null && exit 0
echo "error: '$python' cannot make virtual environments (ensurepip or venv is missing)" >&2
echo "       on Debian and Ubuntu: sudo apt-get install $package" >&2
exit 1
