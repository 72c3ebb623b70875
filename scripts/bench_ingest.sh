#!/usr/bin/env bash
# Times ingest beside OpenCV and PyAV on the same files, in a virtual environment
# that it makes in target/ingest-peers; then how many live streams one core takes,
# and the listener beside DCMTK's storescp. `--quick` for shorter recordings.
# PROFILE=dev FEATURES=train tries it with what tests have built; such figures say
# nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
for program in storescp storescu dcmodify taskset; do
  command -v "$program" >/dev/null || {
    echo "$program is needed: scripts/install-dependencies.sh --tests" >&2
    exit 1
  }
done
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
bench() {
  "${under[@]}" cargo bench --locked --profile "${PROFILE:-bench}" \
    ${FEATURES:+--features "$FEATURES"} --bench ingest -- "$@" --json "$json"
}
under=()
bench "$@" --peers target/ingest-peers/bin/python
# The first core that this shell may use.
core=$(taskset -pc $$ | sed -E 's/.*: ([0-9]+).*/\1/')
under=(taskset -c "$core")
bench "$@" --streams
under=()
bench "$@" --listener
echo "These figures are in $json, too." >&2
