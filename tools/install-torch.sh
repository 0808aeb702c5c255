#!/bin/sh
# Usage: sh tools/install-torch.sh PYTHON PIN [CPU]
# Installs PyTorch. With CPU=1, and with CPU=auto where there is no driver of a GPU, the build for processors only, which
# is a fraction of the size; it has an index of its own, and where that cannot be reached the usual build is taken. Any
# other CPU: the usual build. Of a build for processors, the programs that PyTorch itself is tested with are removed:
# nothing runs them, and they are 130 MB.
set -u
python=$1
pin=$2
cpu=${3:-}
index=https://download.pytorch.org/whl/cpu
pip="$python -m pip install --quiet --disable-pip-version-check --no-compile"

driver() { # of NVIDIA or AMD
    [ -e /dev/nvidiactl ] || [ -e /dev/nvidia0 ] || [ -e /dev/dxg ] || [ -e /dev/kfd ] || command -v nvidia-smi >/dev/null 2>&1
}

case "$(uname -s)" in
Darwin) cpu=0 ;; # has one build for all
esac
if [ "$cpu" = auto ]; then
    if driver; then cpu=0; else cpu=1; fi
fi
if [ "$cpu" = 1 ]; then
    echo "installing $pin for processors only"
    $pip --retries 1 --timeout 15 --index-url "$index" "$pin" 2>/dev/null || {
        echo "$index cannot be reached: taking the build of the usual index"
        $pip "$pin" || exit 1
    }
    packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))') && rm -rf "$packages"/torch/test "$packages"/torch/bin/*[Tt]est*
    exit 0
fi
exec $pip "$pin"
