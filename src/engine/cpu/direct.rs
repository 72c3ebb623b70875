//! Convolution as an implicit matrix product: output positions by channels out,
//! summed over taps and channels in. The input is read where it lies:
//!
//! ```text
//! row of the product      output position (t, h, w)
//!   begins at             input (t st - pt, h sh - ph, w sw - pw), all C of it
//!   segment (kt, kh)      the kw * C values that lie side by side there
//! ```
//!
//! Of most pictures only the windows of positions at the edge are copied first, with the
//! zeros around them. Small pictures have much of an edge: those are copied whole into a
//! frame of zeros, and no window reaches over it.

use std::ops::Range;

use pulp::Simd;

use super::conv::{Geometry, Target};
use super::product::{Isa, Panels, Rows, Storage, Task, multiply};
use super::team::{Parts, Scratch, Team};
use super::work::Batch;

/// Output positions of one task, about: their inputs stay in cache while the weights
/// pass by.
const POSITIONS: usize = 96;

/// What it costs to begin with copying another run of values, counted in those: some
/// tens of cycles.
const BEGINNING: usize = 32;

/// See the module.
#[derive(Debug)]
pub(super) struct Direct {
    /// Of the input as it comes.
    bare: Geometry,
    /// Of the input as it is read: in its frame of zeros, if it is copied into one.
    geometry: Geometry,
    panels: Panels,
    /// Rows and columns of the output whose windows lie inside the picture.
    inside: [Range<usize>; 2],
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
        let bare = geometry.clone();
        let mut geometry = geometry;
        if framing_pays(&geometry) {
            for axis in [1, 2] {
                geometry.input[axis] += 2 * geometry.padding[axis];
                geometry.padding[axis] = 0;
            }
        }
        Self {
            inside: inside(&geometry),
            bare,
            geometry,
            panels,
        }
    }

    fn is_framed(&self) -> bool {
        self.geometry.input != self.bare.input
    }

    /// The frames in their frames of zeros.
    pub(super) fn scratch_len(&self, batch: Batch<'_>) -> usize {
        if !self.is_framed() {
            return 0;
        }
        batch.reads() * self.geometry.input_frame_len()
    }

    /// Positions of one task, of which those of a large picture are in one frame.
    fn block(&self) -> usize {
        let area = self.geometry.area();
        match (area + POSITIONS / 2) / POSITIONS {
            0 | 1 => POSITIONS,
            // Whole tiles, be they of 4, 6 or 12 rows.
            blocks => area.div_ceil(blocks).next_multiple_of(12),
        }
    }

    /// Tasks of so many frames of a class.
    fn chunks_of(&self, frames: usize) -> usize {
        let (area, block) = (self.geometry.area(), self.block());
        if block < area {
            frames * area.div_ceil(block)
        } else {
            (frames * area).div_ceil(block)
        }
    }

    /// The task of this number; each class of frames begins a new one. Of large pictures,
    /// the same positions of all frames follow each other: what one frame's tap read, the
    /// next one's finds in the cache.
    fn chunk(&self, batch: Batch<'_>, mut number: usize) -> Option<Chunk> {
        let (area, block) = (self.geometry.area(), self.block());
        for (class, frames) in batch.work.classes().iter().enumerate() {
            let frames = batch.frames_of(frames);
            let chunks = self.chunks_of(frames);
            if number < chunks {
                let (begin, end) = if block < area {
                    let (first, frame) = (number / frames * block, number % frames * area);
                    (frame + first, frame + area.min(first + block))
                } else {
                    let begin = number * block;
                    (begin, (frames * area).min(begin + block))
                };
                return Some(Chunk { class, begin, end });
            }
            number -= chunks;
        }
        None
    }

    fn chunks(&self, batch: Batch<'_>) -> usize {
        let classes = batch.work.classes().iter();
        classes
            .map(|class| self.chunks_of(batch.frames_of(class)))
            .sum()
    }

    pub(super) fn weight_bytes(&self) -> usize {
        self.panels.bytes()
    }

    pub(super) fn run(
        &self,
        team: &Team,
        batch: Batch<'_>,
        input: &[f32],
        target: Target<'_>,
        scratch: &mut [f32],
    ) {
        let reads = batch.work.reads();
        let frame_len = self.bare.input_frame_len();
        let mut input = &input[reads.start * frame_len..];
        let mut pitch = batch.pitch;
        if self.is_framed() {
            let len = self.geometry.input_frame_len();
            let parts = Parts::new(scratch);
            team.each(batch.reads(), |number, _| {
                let (clip, frame) = (number / reads.len(), number % reads.len());
                // SAFETY: each frame is one task.
                let framed = unsafe { parts.part(number * len, len) };
                let begin = clip * pitch + frame * frame_len;
                self.frame(&input[begin..][..frame_len], framed);
            });
            input = scratch;
            pitch = reads.len() * len;
        }
        team.each(self.chunks(batch), |number, scratch| {
            let Some(chunk) = self.chunk(batch, number) else {
                return;
            };
            self.panels.isa().run(Tile {
                conv: self,
                batch,
                chunk,
                input,
                pitch,
                target,
                scratch,
            });
        });
    }

    /// Copies a picture, `[H, W, C]`, into a frame of zeros.
    fn frame(&self, picture: &[f32], framed: &mut [f32]) {
        let [_, above, before] = self.bare.padding;
        let [len, row] = [&self.bare, &self.geometry].map(|it| it.input[2] * it.channels);
        let mut rows = framed.chunks_exact_mut(row);
        (rows.by_ref().take(above)).for_each(|row| row.fill(0.0));
        for (picture, framed) in picture.chunks_exact(len).zip(rows.by_ref()) {
            let begin = before * self.bare.channels;
            framed[..begin].fill(0.0);
            framed[begin..][..len].copy_from_slice(picture);
            framed[begin + len..].fill(0.0);
        }
        rows.for_each(|row| row.fill(0.0));
    }

    /// Appends the window of position (h, w), `[taps, kh, kw, C]`, with zeros where
    /// it reaches over the edge; `input` begins with the window's first frame.
    fn copy_window(&self, input: &[f32], taps: usize, [h, w]: [usize; 2], values: &mut Vec<f32>) {
        let geometry = &self.geometry;
        let channels = geometry.channels;
        let [_, height, width] = geometry.input;
        let [_, kh, kw] = geometry.kernel;
        let [_, above, before] = geometry.padding;
        // Columns of the picture under the window, counted behind the padding.
        let left = w * geometry.stride[2];
        let begin = left.clamp(before, before + width);
        let end = (left + kw).clamp(before, before + width);
        for t in 0..taps {
            let frame = &input[t * geometry.input_frame_len()..];
            for row in (0..kh).map(|row| h * geometry.stride[1] + row) {
                let all = values.len() + kw * channels;
                if (above..above + height).contains(&row) && begin < end {
                    values.resize(values.len() + (begin - left) * channels, 0.0);
                    let row = &frame[(row - above) * width * channels..][..width * channels];
                    values.extend_from_slice(
                        &row[(begin - before) * channels..(end - before) * channels],
                    );
                }
                values.resize(all, 0.0);
            }
        }
    }
}

/// Rows and columns of the output whose windows lie inside the picture.
fn inside(geometry: &Geometry) -> [Range<usize>; 2] {
    [1, 2].map(|axis| {
        let (stride, padding) = (geometry.stride[axis], geometry.padding[axis]);
        let room = (padding + geometry.input[axis]).checked_sub(geometry.kernel[axis]);
        let end = room.map_or(0, |room| geometry.output[axis].min(room / stride + 1));
        padding.div_ceil(stride)..end
    })
}

/// Whether copying a picture costs less than copying the windows at its edge, counted
/// in values.
fn framing_pays(geometry: &Geometry) -> bool {
    let within: usize = inside(geometry).iter().map(Range::len).product();
    let [kt, kh, kw] = geometry.kernel;
    let window = kt * kh * (kw * geometry.channels + BEGINNING);
    (geometry.area() - within) * window > geometry.input_frame_len()
}

struct Tile<'a> {
    conv: &'a Direct,
    batch: Batch<'a>,
    chunk: Chunk,
    /// From the first frame on that is read.
    input: &'a [f32],
    /// From one clip to the next, in values of the input as it is read.
    pitch: usize,
    target: Target<'a>,
    scratch: &'a mut Scratch,
}

impl Task for Tile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const MR: usize, const NV: usize>(self, simd: S) {
        let Self {
            conv,
            batch,
            chunk,
            input,
            pitch: clip_pitch,
            target,
            scratch,
        } = self;
        let geometry = &conv.geometry;
        let class = &batch.work.classes()[chunk.class];
        let [_, kh, kw] = geometry.kernel;
        let channels = geometry.channels;
        let (pitch, frame_len) = (geometry.input[2] * channels, geometry.input_frame_len());
        let [_, above, before] = geometry.padding;
        let Scratch {
            sums,
            bases,
            deltas,
            places,
            edge,
        } = scratch;
        let taps = class.taps.len();
        let run = kw * channels;

        // Segments: taps in time and rows; all the columns' taps are one run.
        deltas.clear();
        edge.deltas.clear();
        for t in 0..taps {
            deltas.extend((0..kh).map(|h| t * frame_len + h * pitch));
            edge.deltas.extend((0..kh).map(|h| (t * kh + h) * run));
        }
        let area = geometry.area();
        let begin = batch.work.reads().start;
        let [_, height, width] = geometry.output;
        let [rows, columns] = &conv.inside;
        bases.clear();
        places.clear();
        edge.values.clear();
        edge.bases.clear();
        edge.places.clear();
        // Row by row of the output: what is said for each position costs as much as the
        // sums of a narrow product.
        let mut next = chunk.begin;
        while next < chunk.end {
            let (line, w) = (next / width, next % width);
            let (number, h) = (line / height, line % height);
            let end = width.min(w + chunk.end - next);
            next += end - w;
            let (clip, frame) = class.frame(number);
            let first = clip * clip_pitch + frame.input.saturating_sub(begin) * frame_len;
            let position = frame.output * area + h * width;
            let place = |w: usize| clip * batch.pitch + (position + w) * geometry.filters;
            let inner = if rows.contains(&h) {
                let start = columns.start.clamp(w, end);
                start..columns.end.clamp(start, end)
            } else {
                end..end
            };
            let row = first + (h * geometry.stride[1]).saturating_sub(above) * pitch;
            let base = |w: usize| row + (w * geometry.stride[2] - before) * channels;
            bases.extend(inner.clone().map(base));
            places.extend(inner.clone().map(place));
            for w in (w..inner.start).chain(inner.end..end) {
                edge.bases.push(edge.values.len());
                edge.places.push(place(w));
                // A window in the padding of time alone has no first frame.
                let input = input.get(first..).unwrap_or_default();
                conv.copy_window(input, taps, [h, w], &mut edge.values);
            }
        }
        let inside = Rows {
            input,
            bases,
            deltas,
            run,
        };
        let outside = Rows {
            input: &edge.values,
            bases: &edge.bases,
            deltas: &edge.deltas,
            run,
        };
        let first = class.taps.start * kh * kw * channels;
        for panel in 0..conv.panels.count() {
            let finish = target.of(simd, conv.panels.columns_of(panel));
            for (rows, places) in [(inside, &*places), (outside, &edge.places)] {
                multiply::<S, MR, NV>(
                    simd,
                    rows,
                    &conv.panels,
                    panel,
                    first,
                    sums,
                    #[inline(always)]
                    |row, sums| {
                        let places = &places[row..][..sums.len()];
                        // SAFETY: each row of the product has its own place, and each
                        // row belongs to one task.
                        unsafe { finish.put_all(simd, places, sums) };
                    },
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cpu::work::{TimeWindow, Work};

    #[test]
    fn every_position_of_every_frame_is_in_one_chunk() {
        for size in 1..=30 {
            let extent = [3, size, size];
            let geometry = Geometry {
                kernel: [2, 1, 1],
                stride: [1; 3],
                padding: [1, 0, 0],
                input: extent,
                output: [4, size, size],
                channels: 1,
                filters: 1,
            };
            let conv = Direct::new(Isa::Portable, Storage::F32, geometry, &[1.0, 1.0]);
            let window = TimeWindow {
                kernel: 2,
                stride: 1,
                padding: 1,
            };
            let work = Work::whole(window, 3, 4);
            let batch = Batch {
                work: &work,
                clips: 2,
                pitch: 0,
            };
            let mut chunks: Vec<_> = (0..conv.chunks(batch))
                .map(|number| conv.chunk(batch, number).unwrap())
                .map(|chunk| (chunk.class, chunk.begin..chunk.end))
                .collect();
            assert!(conv.chunk(batch, chunks.len()).is_none());
            chunks.sort_by_key(|(class, rows)| (*class, rows.start));
            let mut next = vec![0; work.classes().len()];
            for (class, rows) in chunks {
                assert_eq!(rows.start, next[class], "{size}");
                assert!(rows.len() <= 2 * POSITIONS, "{size}");
                next[class] = rows.end;
            }
            let frames = work.classes().iter().map(|class| batch.frames_of(class));
            let expected: Vec<_> = frames.map(|frames| frames * size * size).collect();
            assert_eq!(next, expected, "{size}");
        }
    }
}
