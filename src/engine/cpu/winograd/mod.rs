//! Winograd's minimal filtering, F(4x4, 3x3), for kernels of three by three in
//! rows and columns that move by one; any extent in time.
//!
//! A tile of 4 x 4 outputs costs 36 products a pair of channels instead of 144.
//! With `d` the 6 x 6 inputs under the tile, `g` the kernel, all products
//! element by element summed over channels and taps in time:
//!
//! ```text
//! output = A^T [ sum (G g G^T) * (B^T d B) ] A
//!
//! input [T, H, W, C] --B--> V [36][T][tiles][C] --36 products--> M [36][T'][tiles][C'] --A--> output
//! ```
//!
//! Each frame is transformed once (`input.rs`) and serves every tap in time; products
//! become outputs in `output.rs`; `points.rs` is what both do along one axis. Some tiles
//! of all frames are done at a time, so that V and M stay in cache.
//!
//! Kernels that move by two can be taken apart into even and odd taps, with 81 products
//! instead of 144. That was tried, and the transforms cost what it saved.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.

mod input;
mod output;
mod points;

use std::ops::{Range, RangeInclusive};

use pulp::Simd;

use super::conv::{Geometry, Target};
use super::lines::LINE;
use super::product::{Isa, Panels, Rows, Storage, Task, multiply};
use super::team::{Parts, Scratch, Team};
use super::work::Batch;
use input::TransformInput;
use output::TransformOutput;
use points::{G, PATCH, TILE};

/// Values of V that a band of tiles holds, about: as many as there are weights, which
/// pass by once for each band, but not so few that bands cost more than they do, nor so
/// many that V and M leave the cache.
const BAND_VALUES: RangeInclusive<usize> = 64 * 1024..=512 * 1024;
/// Tiles of one task.
const TILES: usize = 8;

/// Tiles of a clip that make up for four times the weights, as measured.
const MIN_TILES: usize = 16;
/// Products of a tile.
const POINTS: usize = PATCH * PATCH;

/// See the module.
#[derive(Debug)]
pub(super) struct Winograd {
    geometry: Geometry,
    /// One matrix `[kt * C, C']` for each point.
    panels: Vec<Panels>,
    /// Tiles in rows and columns of a picture.
    tiles: [usize; 2],
}

impl Winograd {
    /// Whether the method can compute the convolution at all.
    pub(super) fn fits(isa: Isa, geometry: &Geometry) -> bool {
        geometry.kernel[1..] == [3, 3]
            && geometry.stride[1..] == [1, 1]
            && geometry.channels >= isa.lanes()
            && geometry.filters >= isa.lanes()
    }

    /// Whether it is the faster one: its weights are four times as many, and few
    /// tiles do not make up for reading them.
    pub(super) fn pays(geometry: &Geometry) -> bool {
        geometry.output[0] * tiles(geometry).iter().product::<usize>() >= MIN_TILES
    }

    /// `weights` are `[kt, 3, 3, C, C']`.
    pub(super) fn new(isa: Isa, storage: Storage, geometry: Geometry, weights: &[f32]) -> Self {
        let (channels, filters) = (geometry.channels, geometry.filters);
        let depth = geometry.kernel[0] * channels;
        let weight = |t: usize, tap: usize, channel: usize, filter: usize| {
            f64::from(weights[((t * 9 + tap) * channels + channel) * filters + filter])
        };
        let at = |point: usize, k: usize, filter: usize| {
            let (g_row, g_column) = (G[point / PATCH], G[point % PATCH]);
            let (t, channel) = (k / channels, k % channels);
            let mut sum = 0.0;
            for (tap, product) in (0..9).map(|tap| (tap, g_row[tap / 3] * g_column[tap % 3])) {
                sum += product * weight(t, tap, channel, filter);
            }
            sum as f32
        };
        let panels = (0..POINTS)
            .map(|point| Panels::pack(isa, storage, depth, filters, |k, n| at(point, k, n)))
            .collect();
        let tiles = tiles(&geometry);
        Self {
            geometry,
            panels,
            tiles,
        }
    }

    /// Tiles that are done together.
    fn band(&self, batch: Batch<'_>) -> usize {
        let all = self.tiles[0] * self.tiles[1];
        let tile_values = POINTS * batch.reads() * self.geometry.channels;
        let weights = self.weight_bytes() / size_of::<f32>();
        let values = weights.clamp(*BAND_VALUES.start(), *BAND_VALUES.end());
        let band = (values / tile_values.max(1)).clamp(1, all);
        // Bands of one size, as far as that goes.
        all.div_ceil(all.div_ceil(band))
    }

    fn input_len(&self, batch: Batch<'_>) -> usize {
        POINTS * plane(batch.reads() * self.band(batch) * self.geometry.channels)
    }

    pub(super) fn scratch_len(&self, batch: Batch<'_>) -> usize {
        let output = plane(batch.count() * self.band(batch) * self.geometry.filters);
        self.input_len(batch) + POINTS * output
    }

    pub(super) fn weight_bytes(&self) -> usize {
        self.panels.iter().map(Panels::bytes).sum()
    }

    pub(super) fn run(
        &self,
        isa: Isa,
        team: &Team,
        batch: Batch<'_>,
        input: &[f32],
        target: Target<'_>,
        scratch: &mut [f32],
    ) {
        let (v, m) = scratch.split_at_mut(self.input_len(batch));
        let all = self.tiles[0] * self.tiles[1];
        let count = self.band(batch);
        for first in (0..all).step_by(count) {
            let band = Band {
                batch,
                first,
                count: count.min(all - first),
            };
            let parts = Parts::new(v);
            let chunks = band.count.div_ceil(TILES);
            team.each(batch.reads() * chunks, |number, _| {
                isa.run(TransformInput {
                    conv: self,
                    frame: number / chunks,
                    tiles: band.chunk(number % chunks),
                    band,
                    input,
                    v: parts,
                });
            });
            let (v, parts) = (&*v, Parts::new(m));
            team.each(POINTS, |point, scratch| {
                self.panels[point].isa().run(Product {
                    conv: self,
                    point,
                    band,
                    v,
                    m: parts,
                    scratch,
                });
            });
            let m = &*m;
            team.each(batch.count() * chunks, |number, _| {
                let frame = number / chunks;
                let Some((clip, job)) = batch.frame(frame) else {
                    return;
                };
                isa.run(TransformOutput {
                    conv: self,
                    frame,
                    place: clip * batch.pitch + job.output * self.geometry.output_frame_len(),
                    tiles: band.chunk(number % chunks),
                    band,
                    m,
                    target,
                });
            });
        }
    }
}

fn tiles(geometry: &Geometry) -> [usize; 2] {
    [
        geometry.output[1].div_ceil(TILE),
        geometry.output[2].div_ceil(TILE),
    ]
}

/// From one point's values to the next one's: an odd number of cache lines, so that a
/// tile's points do not push each other out of the same set of the cache.
fn plane(values: usize) -> usize {
    (values.div_ceil(LINE) | 1) * LINE
}

/// Tiles that are done together, row after row of them.
#[derive(Clone, Copy)]
struct Band<'a> {
    batch: Batch<'a>,
    first: usize,
    count: usize,
}

impl Band<'_> {
    /// The tiles of a task, counted from the band's first one.
    fn chunk(&self, number: usize) -> Range<usize> {
        number * TILES..self.count.min((number + 1) * TILES)
    }
}

/// `M = V * U` at one point.
struct Product<'a> {
    conv: &'a Winograd,
    point: usize,
    band: Band<'a>,
    v: &'a [f32],
    m: Parts<'a>,
    scratch: &'a mut Scratch,
}

impl Task for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const MR: usize, const NV: usize>(self, simd: S) {
        let Self {
            conv,
            point,
            band,
            v,
            m,
            scratch,
        } = self;
        let geometry = &conv.geometry;
        let (channels, filters) = (geometry.channels, geometry.filters);
        let tiles = band.count;
        let batch = band.batch;
        let reads = batch.work.reads();
        let values = batch.reads() * tiles * channels;
        let v = &v[point * plane(values)..][..values];
        let mut m_begin = point * plane(batch.count() * tiles * filters);
        let panels = &conv.panels[point];
        let Scratch {
            sums,
            bases,
            deltas,
            ..
        } = scratch;
        for class in batch.work.classes() {
            bases.clear();
            for number in 0..batch.frames_of(class) {
                let (clip, frame) = class.frame(number);
                let first = clip * reads.len() + frame.input.saturating_sub(reads.start);
                bases.extend((0..tiles).map(|tile| (first * tiles + tile) * channels));
            }
            deltas.clear();
            deltas.extend((0..class.taps.len()).map(|tap| tap * tiles * channels));
            let rows = Rows {
                input: v,
                bases,
                deltas,
                run: channels,
            };
            for panel in 0..panels.count() {
                let of = panels.columns_of(panel);
                multiply::<S, MR, NV>(
                    simd,
                    rows,
                    panels,
                    panel,
                    class.taps.start * channels,
                    sums,
                    #[inline(always)]
                    |row, sums| {
                        let begin = m_begin + row * filters + of.start;
                        let len = (sums.len() - 1) * filters + of.len();
                        // SAFETY: each point is one task.
                        let m = unsafe { m.part(begin, len) };
                        for (i, sums) in sums.iter().enumerate() {
                            put(simd, sums, &mut m[i * filters..][..of.len()]);
                        }
                    },
                );
            }
            // The next class's frames come behind.
            m_begin += bases.len() * filters;
        }
    }
}

/// `output = sums`, of which the last ones may be of no column.
#[inline(always)]
fn put<S: Simd, const NV: usize>(simd: S, sums: &[S::f32s; NV], output: &mut [f32]) {
    let (vectors, rest) = S::as_mut_simd_f32s(output);
    // Nearly always, and then this is as many stores.
    if vectors.len() == NV {
        return vectors.copy_from_slice(sums);
    }
    let whole = vectors.len();
    vectors.copy_from_slice(&sums[..whole]);
    simd.partial_store_f32s(rest, sums[whole]);
}

/// Where vectors begin that cover `len` values; the last one overlaps the one
/// before, if it must. `len` is at least one vector.
#[inline(always)]
fn vector_starts(len: usize, lanes: usize) -> impl Iterator<Item = usize> {
    (0..len.div_ceil(lanes)).map(move |number| (number * lanes).min(len - lanes))
}

#[inline(always)]
fn load<S: Simd>(_: S, values: &[f32], begin: usize) -> S::f32s {
    S::as_simd_f32s(&values[begin..][..S::F32_LANES]).0[0]
}

#[inline(always)]
fn store<S: Simd>(_: S, values: &mut [f32], vector: S::f32s) {
    S::as_mut_simd_f32s(values).0[0] = vector;
}
