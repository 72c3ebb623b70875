//! Convolution as an implicit matrix product: output positions by channels out,
//! summed over taps and channels in. The input is read where it lies; only a
//! picture that needs zeros around it is copied first, with its border:
//!
//! ```text
//! row of the product      output position (t, h, w)
//!   begins at             input (t st - pt, h sh, w sw), all C of it
//!   segment (kt, kh)      the kw * C values that lie side by side there
//! ```

use pulp::Simd;

use super::conv::{Geometry, Target};
use super::product::{Isa, Panels, Rows, Storage, Task, multiply};
use super::team::{Parts, Scratch, Team};
use super::work::Work;

/// Output positions of one task: their inputs stay in cache while the weights
/// pass by.
const POSITIONS: usize = 96;

/// See the module.
#[derive(Debug)]
pub(super) struct Direct {
    geometry: Geometry,
    panels: Panels,
    /// Rows and columns of the input with its border.
    padded: [usize; 2],
}

/// Consecutive rows of the product within one class of frames.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    class: usize,
    begin: usize,
    end: usize,
}

impl Direct {
    pub(super) fn new(isa: Isa, storage: Storage, geometry: Geometry, weights: &[f32]) -> Self {
        let [kt, kh, kw] = geometry.kernel;
        let filters = geometry.filters;
        let depth = kt * kh * kw * geometry.channels;
        let panels = Panels::pack(isa, storage, depth, filters, |k, n| {
            weights[k * filters + n]
        });
        let [_, height, width] = geometry.input;
        let [_, top, left] = geometry.padding;
        Self {
            panels,
            padded: [height + 2 * top, width + 2 * left],
            geometry,
        }
    }

    fn is_padded(&self) -> bool {
        self.geometry.padding[1..] != [0, 0]
    }

    pub(super) fn scratch_len(&self, work: &Work) -> usize {
        if !self.is_padded() {
            return 0;
        }
        work.reads().len() * self.padded[0] * self.padded[1] * self.geometry.channels
    }

    /// The task of this number; each class of frames begins a new one.
    fn chunk(&self, work: &Work, mut number: usize) -> Option<Chunk> {
        for (class, frames) in work.classes().iter().enumerate() {
            let rows = frames.frames.len() * self.geometry.area();
            let chunks = rows.div_ceil(POSITIONS);
            if number < chunks {
                let begin = number * POSITIONS;
                let end = rows.min(begin + POSITIONS);
                return Some(Chunk { class, begin, end });
            }
            number -= chunks;
        }
        None
    }

    fn chunks(&self, work: &Work) -> usize {
        let classes = work.classes().iter();
        classes
            .map(|class| (class.frames.len() * self.geometry.area()).div_ceil(POSITIONS))
            .sum()
    }

    pub(super) fn weight_bytes(&self) -> usize {
        self.panels.bytes()
    }

    pub(super) fn run(
        &self,
        isa: Isa,
        team: &Team,
        work: &Work,
        input: &[f32],
        target: Target<'_>,
        scratch: &mut [f32],
    ) {
        let reads = work.reads();
        let frame_len = self.geometry.input_frame_len();
        let input = &input[reads.start * frame_len..reads.end * frame_len];
        let input = if self.is_padded() {
            self.pad(team, input, scratch);
            &*scratch
        } else {
            input
        };
        team.each(self.chunks(work), |number, scratch| {
            let Some(chunk) = self.chunk(work, number) else {
                return;
            };
            isa.run(Tile {
                conv: self,
                work,
                chunk,
                input,
                target,
                scratch,
            });
        });
    }

    /// Copies frames into a border of zeros.
    fn pad(&self, team: &Team, input: &[f32], padded: &mut [f32]) {
        let [_, height, width] = self.geometry.input;
        let frames = input.len() / self.geometry.input_frame_len();
        let channels = self.geometry.channels;
        let [_, top, left] = self.geometry.padding;
        let [_, padded_width] = self.padded;
        let pitch = padded_width * channels;
        let frame_len = self.padded[0] * pitch;
        let parts = Parts::new(padded);
        team.each(frames, |frame, _| {
            // SAFETY: each task has a frame of its own.
            let padded = unsafe { parts.part(frame * frame_len, frame_len) };
            let input = &input[frame * height * width * channels..][..height * width * channels];
            padded[..top * pitch].fill(0.0);
            padded[(top + height) * pitch..].fill(0.0);
            let rows = padded[top * pitch..].chunks_exact_mut(pitch);
            for (row, input) in rows.zip(input.chunks_exact(width * channels)) {
                let (before, rest) = row.split_at_mut(left * channels);
                let (inside, after) = rest.split_at_mut(width * channels);
                before.fill(0.0);
                inside.copy_from_slice(input);
                after.fill(0.0);
            }
        });
    }
}

struct Tile<'a> {
    conv: &'a Direct,
    work: &'a Work,
    chunk: Chunk,
    /// From the first frame on that is read.
    input: &'a [f32],
    target: Target<'a>,
    scratch: &'a mut Scratch,
}

impl Task for Tile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const MR: usize, const NV: usize>(self, simd: S) {
        let Self {
            conv,
            work,
            chunk,
            input,
            target,
            scratch,
        } = self;
        let Target {
            epilogue,
            residual,
            output,
        } = target;
        let geometry = &conv.geometry;
        let class = &work.classes()[chunk.class];
        let [_, kh, kw] = geometry.kernel;
        let channels = geometry.channels;
        let [rows, columns] = conv.padded;
        let (pitch, frame_len) = (columns * channels, rows * columns * channels);
        let Scratch {
            sums,
            bases,
            deltas,
            places,
        } = scratch;

        // Segments: taps in time and rows; all the columns' taps are one run.
        deltas.clear();
        for t in 0..class.taps.len() {
            deltas.extend((0..kh).map(|h| t * frame_len + h * pitch));
        }
        let area = geometry.area();
        let begin = work.reads().start;
        let [_, height, width] = geometry.output;
        let (mut number, place) = (chunk.begin / area, chunk.begin % area);
        let (mut h, mut w) = (place / width, place % width);
        bases.clear();
        places.clear();
        // Counted on: a division a row costs more than a row of a narrow product.
        for _ in chunk.begin..chunk.end {
            let frame = class.frames[number];
            bases.push(
                frame.input.saturating_sub(begin) * frame_len
                    + h * geometry.stride[1] * pitch
                    + w * geometry.stride[2] * channels,
            );
            places.push((frame.output * area + h * width + w) * geometry.filters);
            w += 1;
            if w == width {
                (h, w) = (h + 1, 0);
                if h == height {
                    (number, h) = (number + 1, 0);
                }
            }
        }
        let rows = Rows {
            input,
            bases,
            deltas,
            run: kw * channels,
        };
        let first = class.taps.start * kh * kw * channels;
        for panel in 0..conv.panels.count() {
            let filters = conv.panels.columns_of(panel);
            multiply::<S, MR, NV>(simd, rows, &conv.panels, panel, first, sums, |row, sums| {
                let begin = places[row] + filters.start;
                let residual = residual.map(|residual| &residual[begin..][..filters.len()]);
                // SAFETY: each row of the product has its own place, and each
                // row belongs to one task.
                let output = unsafe { output.part(begin, filters.len()) };
                epilogue.apply(filters.start, sums, residual, output);
            });
        }
    }
}
