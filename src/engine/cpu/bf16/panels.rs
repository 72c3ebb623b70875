//! The right matrix: weights of a convolution, in panels of 16 channels out.

use super::super::lines::HalfLine;
use super::{STEP, TILE};

/// See the module above for what lies where.
#[derive(Debug)]
pub(super) struct Panels {
    lines: Vec<HalfLine>,
    /// Of one panel.
    steps: usize,
    filters: usize,
}

/// Cache lines of one step of a panel.
const STEP_LINES: usize = STEP * TILE / 32;

impl Panels {
    /// `weights` are `[runs, run, filters]`; see `avx512.rs` for what lies in fours.
    pub(super) fn pack(
        runs: usize,
        run: usize,
        filters: usize,
        fours: bool,
        weights: &[f32],
    ) -> Self {
        let steps_a_run = run.div_ceil(STEP);
        let steps = runs * steps_a_run;
        let panels = filters.div_ceil(TILE);
        let mut lines = vec![HalfLine([0; 32]); panels * steps * STEP_LINES];
        for filter in 0..filters {
            let (panel, column) = (filter / TILE, filter % TILE);
            for k in 0..runs * run {
                let (step, within) = (k / run * steps_a_run + k % run / STEP, k % run % STEP);
                let (line, place) = if fours && panel + 1 == panels && panels % 2 == 1 {
                    let line = within / 4 * 2 + column / 8;
                    (line, column % 8 * 4 + within % 4)
                } else {
                    (within / 2, 2 * column + within % 2)
                };
                let line = (panel * steps + step) * STEP_LINES + line;
                let value = half::bf16::from_f32(weights[k * filters + filter]);
                lines[line].0[place] = value.to_bits();
            }
        }
        Self {
            lines,
            steps,
            filters,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.filters.div_ceil(TILE)
    }

    /// So many steps of a panel, from step `first` on.
    pub(super) fn steps(&self, panel: usize, first: usize, count: usize) -> &[u16] {
        assert!(first + count <= self.steps, "steps outside the panel");
        let begin = (panel * self.steps + first) * STEP_LINES;
        bytemuck::cast_slice(&self.lines[begin..][..count * STEP_LINES])
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(self.lines.as_slice())
    }
}
