#!/usr/bin/env bash
# Times hepaflow beside PyTorch, ONNX Runtime and OpenVINO on the CPU, in a virtual
# environment that it makes in target/peers. The first argument is one of
# benches/*peers.py; it gets the others.
set -euo pipefail
cd "$(dirname "$0")/.."
bench=$1
shift
if [[ ! -x target/peers/bin/python ]]; then
  python3 -m venv target/peers || {
    echo 'python3 with venv is needed (Debian: apt-get install python3-venv)' >&2
    exit 1
  }
fi
target/peers/bin/pip install --quiet --disable-pip-version-check \
  torch==2.15.0 torchvision==0.29.2 onnxruntime==1.32.0 openvino==2026.4.1 \
  matplotlib==3.11.2 numpy safetensors
cargo build --release --locked ${FEATURES:+--features "$FEATURES"}
exec target/peers/bin/python "benches/$bench.py" "$@"
