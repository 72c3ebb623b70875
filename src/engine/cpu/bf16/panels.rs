//! The right matrix: weights of a convolution, in panels of 16 channels out.

use super::super::lines::HalfLine;
use super::{STEP, Step, TILE};

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
    /// `weights` are `[frames, rows, run, filters]`, of which each of `order` is up to
    /// [`STEP`] values of a run; see `avx512.rs` for what lies in fours.
    pub(super) fn pack(
        [frames, rows, run]: [usize; 3],
        order: &[Step],
        filters: usize,
        fours: bool,
        weights: &[f32],
    ) -> Self {
        let steps = frames * order.len();
        let panels = filters.div_ceil(TILE);
        let mut lines = vec![HalfLine([0; 32]); panels * steps * STEP_LINES];
        for step in 0..steps {
            let (frame, Step { row, first }) = (step / order.len(), order[step % order.len()]);
            for within in 0..STEP.min(run - first) {
                let k = (frame * rows + row) * run + first + within;
                let weights = &weights[k * filters..][..filters];
                for (filter, weight) in weights.iter().enumerate() {
                    let (panel, column) = (filter / TILE, filter % TILE);
                    let (line, place) = if fours && panel + 1 == panels && panels % 2 == 1 {
                        let line = within / 4 * 2 + column / 8;
                        (line, column % 8 * 4 + within % 4)
                    } else {
                        (within / 2, 2 * column + within % 2)
                    };
                    let line = (panel * steps + step) * STEP_LINES + line;
                    lines[line].0[place] = half::bf16::from_f32(*weight).to_bits();
                }
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
