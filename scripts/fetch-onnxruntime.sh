#!/bin/sh
# Fetches ONNX Runtime from PyPI, by which the tests read what `hepaflow model
# export` writes. Needs python3 with pip, and the network, once; prints the folder
# for PYTHONPATH. About 35 MB to download.
set -eu
cd "$(dirname "$0")/.."
runtime=1.32.0
numpy=2.4.6
folder=$PWD/tests/data/cache/onnxruntime-$runtime
if [ ! -d "$folder" ]; then
    python3 -m pip --version >/dev/null 2>&1 || {
        echo "fetch-onnxruntime: python3 with pip is needed (Debian: apt-get install python3-pip)" >&2
        exit 1
    }
    download=$(mktemp -d)
    trap 'rm -rf "$download" "$folder.part"' EXIT
    python3 -m pip download --quiet --disable-pip-version-check --no-deps \
        --only-binary :all: --dest "$download" "onnxruntime==$runtime" "numpy==$numpy" >&2
    rm -rf "$folder.part"
    mkdir -p "$folder.part"
    for wheel in "$download"/*.whl; do
        python3 -m zipfile --extract "$wheel" "$folder.part"
    done
    mv "$folder.part" "$folder"
fi
echo "$folder"
