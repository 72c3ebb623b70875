#!/usr/bin/env bash
# The demonstration: a small synthetic cohort, recorded once, is replayed at its
# own pace through the whole pipeline, and a browser shows it. With a DURATION it
# ends by itself, without one by Ctrl-C; then there is a table of patients.
# Usage: scripts/demo.sh [DURATION], after `cargo build --release`.
set -euo pipefail
cd "$(dirname "$0")/.."
hepaflow=${CARGO_TARGET_DIR:-target}/release/hepaflow
cohort=demo/cohort

if [[ ! -f $cohort/videos.csv ]]; then
  echo 'recording a synthetic cohort (once) ...' >&2
  # Sweeps as long as those that the model has learned from.
  "$hepaflow" phantom --patients 4 --seed 7 --seconds 40 --sweep-seconds 2.6 --frame-size 640x480 \
    --frames-per-second 25 --format mixed --episodes 0 --out "$cohort"
fi
# Each demonstration begins without answers, so that there is something to see.
rm -f demo/results.sqlite demo/results.sqlite-wal demo/results.sqlite-shm
# The cohort's blood tests and elastography stand beside the answers.
"$hepaflow" labels import "$cohort/cohort.csv" --store demo/results.sqlite \
  --reason 'the demonstration' >&2 \
  || echo 'the cohort table could not be taken; going on without it' >&2

cat >&2 <<'TEXT'

Replaying four recordings at their own pace. See it in a browser:

  http://127.0.0.1:9464/

or in another terminal:
  curl -s http://127.0.0.1:9464/api/v1/patients
  curl -s http://127.0.0.1:9464/metrics | grep ^hepaflow
  target/release/hepaflow results patients --store demo/results.sqlite

TEXT
if [[ -n ${1:-} ]]; then
  exec "$hepaflow" run pipelines/demo.toml --duration "$1"
fi
echo 'Ctrl-C ends it.' >&2
exec "$hepaflow" run pipelines/demo.toml --stay
