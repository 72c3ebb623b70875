#!/usr/bin/env bash
# The study on a synthetic cohort, end to end: what `make study` runs. Goes on where
# it was interrupted. WORK is where cohort and study go; with SIZE=large it is the
# paper's number of patients many times over, for a machine that has a night.
set -euo pipefail
cd "$(dirname "$0")/.."
work=${WORK:-study}
case ${SIZE:-small} in
  small) patients=110 epochs=40 rates=0.003 ;;
  large) patients=1100 epochs=20 rates=0.001,0.003 ;;
  *)
    echo "SIZE is small or large, not $SIZE" >&2
    exit 2
    ;;
esac
program=target/release/hepaflow
if [[ ! -f $work/cohort/cohort.csv ]]; then
  # The probe goes its way in 2.6 s, and back: windows begin anywhere in it, as those of a
  # running stream do.
  "$program" phantom --patients "$patients" --clips-per-patient 5 --seed 7 --seconds 5.2 --sweep-seconds 2.6 \
    --frames-per-second 25 --frame-size 640x480 --format mixed --episodes 0 --out "$work/cohort"
fi
# The capsule and what lies around it, half a millimetre a pixel. What tells disease
# from artefact is how the capsule moves while the probe sweeps on, so the network on
# moving pictures sees 63 frames, one sweep: the means of three times 21, in which speckle
# is less and the line's bumps of one third stand beside those of the next.
exec "$program" study --cohort "$work/cohort" --crop 208,90,224,120 --size 60x112 \
  --widths 16,32 --batch 16 --frames 4 --stride 12 --frames-3d 63 --stem-frames 21 \
  --frames-per-second 25 --epochs "$epochs" --keep last --rates "$rates" --out "$work/results"
