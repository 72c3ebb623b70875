#!/usr/bin/env bash
# Everything that can only be known on a card, in one command:
#
#     scripts/gpu_suite.sh HEPAFLOW_BINARY FOLDER [--seconds N]
#
# The binary may come from another machine; there it is built with
#     cargo build --release --no-default-features
# Here an NVIDIA driver is needed, NVRTC (with the CUDA toolkit or PyTorch), and
# for the comparison PyTorch. Results go to FOLDER: results.json (with the date,
# card, driver, hash of the kernels, and PyTorch's and cuDNN's versions), the table
# in table.md, and what compute-sanitizer said. PyTorch is timed for N seconds at the
# most, where that is said: torch.compile takes up to a minute for each network,
# precision and batch.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[[ $# -ge 2 ]] || { sed -n '2,16s/^# \{0,1\}//p' "$0" >&2; exit 2; }
binary=$1 folder=$2
shift 2
mkdir -p "$folder"

# NVRTC under a name that the linker does not know: PyTorch's wheels bring it.
if [[ -z ${HEPAFLOW_NVRTC:-} ]]; then
  for library in /usr/local/cuda/lib64/libnvrtc.so.* $(python3 - <<'PY' 2>/dev/null || true
import glob, sysconfig
print(" ".join(glob.glob(sysconfig.get_paths()["purelib"] + "/nvidia/**/libnvrtc.so.*", recursive=True)))
PY
  ); do
    case $library in *builtins*) continue ;; esac
    if [[ -f $library ]]; then export HEPAFLOW_NVRTC=$library; break; fi
  done
fi

nvidia-smi --query-gpu=name,driver_version,clocks.sm,power.limit --format=csv | tee "$folder/card.csv"
status=0
# What waits for ever must not take the card's time with it.
timeout 600 "$binary" gpu-suite --output "$folder" || status=$?
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck synccheck racecheck; do
    timeout 600 compute-sanitizer --tool $tool --error-exitcode 9 \
      "$binary" gpu-suite --output "$folder/sanitizer" --only kernels >"$folder/$tool.log" 2>&1 \
      && echo "compute-sanitizer $tool: nothing found" \
      || { echo "compute-sanitizer $tool found something, see $folder/$tool.log" >&2; status=1; }
  done
else
  echo 'compute-sanitizer is not here: no memory pass' >&2
fi
if python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
  python3 "$here/gpu_peer.py" "$folder" "$@" || status=$?
else
  echo 'PyTorch with CUDA is not here: no comparison' >&2
fi
cat "$folder/table.md"
echo "to keep them: cp $folder/results.json benches/results/gpu-$(date -u +%F).json" >&2
exit $status
