#!/usr/bin/env bash
# Runs every test: with nextest where it is installed, with cargo otherwise, and
# the examples in the documentation, which nextest leaves out. Training is a feature
# that not every build has; here everything is built with it, once.
set -euo pipefail
cd "$(dirname "$0")/.."
# Kernels are compiled for real cards where their compiler can be had.
scripts/fetch-nvrtc.sh >/dev/null || {
  echo 'SKIPPED: no CUDA kernel is compiled for a card: NVRTC could not be fetched' >&2
}
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --locked --features train --no-fail-fast
else
  cargo test --locked --features train --lib --bins --tests --no-fail-fast
fi
cargo test --locked --features train --doc
