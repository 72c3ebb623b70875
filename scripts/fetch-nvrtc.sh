#!/bin/sh
# Fetches NVRTC, NVIDIA's compiler as a library, from PyPI, so that tests compile
# every kernel for real cards on a machine without one. Needs python3 with pip,
# and the network, once; prints where the library lies. About 90 MB to download.
set -eu
cd "$(dirname "$0")/.."
version=12.9.86
folder=$PWD/tests/data/cache/nvrtc-$version
library=$folder/libnvrtc.so.12
if [ ! -f "$library" ]; then
    python3 -m pip --version >/dev/null 2>&1 || {
        echo "fetch-nvrtc: python3 with pip is needed (Debian: apt-get install python3-pip)" >&2
        exit 1
    }
    download=$(mktemp -d)
    trap 'rm -rf "$download"' EXIT
    python3 -m pip download --quiet --disable-pip-version-check --no-deps \
        --platform manylinux_2_28_x86_64 --platform manylinux2010_x86_64 \
        --platform manylinux_2_12_x86_64 --only-binary :all: \
        --dest "$download" "nvidia-cuda-nvrtc-cu12==$version" >&2
    python3 -m zipfile --extract "$download"/nvidia_cuda_nvrtc_cu12-*.whl "$download/out"
    mkdir -p "$folder"
    for name in libnvrtc-builtins.so.12.9 libnvrtc.so.12; do
        cp "$download/out/nvidia/cuda_nvrtc/lib/$name" "$folder/$name.part"
        mv "$folder/$name.part" "$folder/$name"
    done
fi
echo "$library"
