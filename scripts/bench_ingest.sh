#!/usr/bin/env bash
# Times ingest beside OpenCV and PyAV on the same files, in a virtual environment
# that it makes in target/ingest-peers; then how many live streams one core takes,
# and the listener beside DCMTK's storescp. `--quick` for shorter recordings.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ ! -x target/ingest-peers/bin/python ]]; then
  python3 -m venv target/ingest-peers || {
    echo 'python3 with venv is needed (Debian: apt-get install python3-venv)' >&2
    exit 1
  }
fi
target/ingest-peers/bin/pip install --quiet --disable-pip-version-check \
  av==18.1.0 numpy==2.4.6 opencv-python-headless==5.0.0.93
# Figures for benches/README.md on stdout, and for programs in this file.
json=benches/results/ingest.json
[[ " $* " == *" --quick "* ]] && json=target/ingest-quick.json
rm -f "$json"
cargo bench --locked --bench ingest -- "$@" --json "$json" --peers target/ingest-peers/bin/python
taskset -c 0 cargo bench --locked --bench ingest -- "$@" --json "$json" --streams
cargo bench --locked --bench ingest -- "$@" --json "$json" --listener
