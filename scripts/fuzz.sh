#!/usr/bin/env bash
# Builds the fuzz targets and runs each for a while, or those that are named:
#   scripts/fuzz.sh [SECONDS] [TARGET..]
# What breaks is written to fuzz/artifacts/TARGET, and the exit code is 1; give such
# a file to the target's binary to see it again. What was learnt stays in fuzz/corpus.
# Needs a nightly toolchain (rustup toolchain install nightly) and a C++ compiler.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"
seconds=${1:-60}
shift || true
targets=("$@")
if ((${#targets[@]} == 0)); then
  for file in fuzz_targets/*.rs; do
    targets+=("$(basename "$file" .rs)")
  done
fi

# What cargo-fuzz passes, without a sanitizer: there is hardly any unsafe code
# behind these doors, and nothing but the targets would have to be built again.
flags=(-Cpasses=sancov-module -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks --cfg=fuzzing)
for flag in level=4 inline-8bit-counters pc-table trace-compares; do
  flags+=("-Cllvm-args=-sanitizer-coverage-$flag")
done
host=$(rustc -vV | sed -n 's/^host: //p')
[[ -e Cargo.lock ]] || cp ../Cargo.lock Cargo.lock
# With --target, build scripts and macros are left as they are.
RUSTFLAGS="${flags[*]}" cargo +nightly build --release --target "$host"

# Good input to begin with, where there is some; real DICOM is fetched once.
../scripts/fetch-test-data.sh
seeds() {
  case $1 in
    dicom) echo ../tests/data/cache/pydicom ;;
    onnx) echo ../tests/onnx ;;
    pipeline) echo ../pipelines ;;
  esac
}

broken=()
for target in "${targets[@]}"; do
  mkdir -p "corpus/$target" "artifacts/$target"
  read -ra more <<<"$(seeds "$target")"
  "target/$host/release/$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 \
    -max_len=65536 -print_final_stats=1 -artifact_prefix="artifacts/$target/" \
    "corpus/$target" "${more[@]}" 2>&1 | tail -n 12 | sed "s/^/$target: /" || broken+=("$target")
done
if ((${#broken[@]})); then
  echo "broken: ${broken[*]}; see fuzz/artifacts" >&2
  exit 1
fi
