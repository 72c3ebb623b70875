//! Tasks of vectors: output positions by channels out, as `direct.rs` has them in f32.
//!
//! A row of the product begins anywhere in the picture; for each run of K, twelve rows
//! by two panels stay in registers:
//!
//! ```text
//! sums [12][2][16]  +=  pairs [12] * columns' pairs [2][16]     at each pair of a run
//! ```

use pulp::Simd;

use super::super::product::Task;
use super::super::team::Scratch;
use super::avx512::{Avx512, Left};
use super::conv::Beat;
use super::{STEP, TILE};

/// Output positions of one task: their inputs stay in cache while the weights
/// pass by.
pub(super) const POSITIONS: usize = 96;
/// Rows of the product that stay in registers.
pub(super) const ROWS: usize = 12;
/// Values of K that go through the rows at once: of two panels, 32 KiB of them, which
/// stay in the first level of cache for all rows. Little in tests, so that sums are
/// taken up again.
const DEPTH_AT_ONCE: usize = if cfg!(test) { 40 } else { 512 };

/// Consecutive positions of a beat's frames, by all panels.
pub(super) struct Positions<'a> {
    pub(super) unit: Avx512,
    pub(super) beat: Beat<'a>,
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) scratch: &'a mut Scratch,
}

impl Task for Positions<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const MR: usize, const NV: usize>(self, simd: S) {
        let Self {
            unit,
            beat,
            first,
            count,
            scratch,
        } = self;
        let (conv, band, target) = (beat.conv, beat.band, beat.target);
        let (geometry, layout) = (&conv.geometry, &conv.layout);
        let [_, kh, kw] = geometry.kernel;
        let run = kw * geometry.channels;
        let Scratch {
            sums,
            bases,
            deltas,
            places,
            ..
        } = scratch;
        deltas.clear();
        for t in 0..beat.taps.len() {
            deltas.extend((0..kh).map(|h| t * band.frame + h * layout.row));
        }
        bases.clear();
        places.clear();
        let columns = geometry.output[2];
        // Row by row of the output.
        let mut next = first;
        while next < first + count {
            let (line, w) = (next / columns, next % columns);
            let (frame, h) = (line / band.rows.len(), line % band.rows.len());
            let end = columns.min(w + first + count - next);
            next += end - w;
            let (begin, place) = beat.frame(frame);
            let begin = begin + h * layout.rows_on();
            bases.extend((w..end).map(|w| begin + w * layout.tile_row));
            let position = (band.rows.start + h) * columns;
            places.extend((w..end).map(|w| place + (position + w) * geometry.filters));
        }
        let steps_a_run = run.div_ceil(STEP);
        let at_once = (DEPTH_AT_ONCE / run).max(1);
        let (panels, mut number) = (&conv.panels, 0);
        while number < panels.count() {
            let both = number + 1 < panels.count();
            let width = if both { 2 * TILE } else { TILE };
            let sums = sums.tiles(bases.len().next_multiple_of(ROWS) * width);
            // Sums of nothing are sums too.
            for turn in 0..deltas.len().div_ceil(at_once).max(1) {
                let begin = turn * at_once;
                let deltas = &deltas[begin..deltas.len().min(begin + at_once)];
                let step = (beat.taps.start * kh + begin) * steps_a_run;
                let steps = |panel| panels.steps(panel, step, deltas.len() * steps_a_run);
                let groups = bases.chunks(ROWS).zip(sums.chunks_exact_mut(ROWS * width));
                for (bases, sums) in groups {
                    let left = Left {
                        picture: beat.pictures,
                        bases,
                        deltas,
                        run,
                    };
                    let fresh = turn == 0;
                    if both {
                        let panels = [steps(number), steps(number + 1)];
                        unit.multiply(left, panels, sums, fresh);
                    } else {
                        unit.multiply(left, [steps(number)], sums, fresh);
                    }
                }
            }
            let begin = number * TILE;
            let finish = target.of(simd, begin..geometry.filters.min(begin + width));
            for (place, sums) in places.iter().zip(sums.chunks_exact(width)) {
                let (sums, _) = S::as_simd_f32s(sums);
                // SAFETY: each position has its own place, and belongs to one task.
                unsafe { finish.put(simd, *place, sums) };
            }
            number += width / TILE;
        }
    }
}
