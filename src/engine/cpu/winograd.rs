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
//! Each frame is transformed once and serves every tap in time. A band of tile
//! rows is done at a time, so that V and M stay in cache.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.

use pulp::Simd;

use super::conv::{Geometry, Target};
use super::product::{Isa, Panels, Rows, Storage, Task, mul_add, multiply};
use super::team::{Parts, Scratch, Team};
use super::work::{FrameJob, Work};

/// Outputs of a tile, in rows and columns.
const TILE: usize = 4;
/// Inputs of a tile, in rows and columns.
const PATCH: usize = TILE + 2;
/// Products of a tile.
const POINTS: usize = PATCH * PATCH;
/// Values of V that a band of tile rows may hold: 2 MiB.
const BAND_VALUES: usize = 512 * 1024;

/// Tiles of a clip that make up for four times the weights, as measured.
const MIN_TILES: usize = 16;

/// The transform of the kernel, at the points 0, 1, -1, 2, -2 and infinity.
const G: [[f64; 3]; PATCH] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

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

    /// Tile rows that are done together.
    fn band(&self, work: &Work) -> usize {
        let [rows, columns] = self.tiles;
        let row_values = POINTS * work.reads().len() * columns * self.geometry.channels;
        let band = (BAND_VALUES / row_values.max(1)).clamp(1, rows);
        // Bands of one height, as far as that goes.
        rows.div_ceil(rows.div_ceil(band))
    }

    fn input_len(&self, work: &Work) -> usize {
        POINTS * work.reads().len() * self.band(work) * self.tiles[1] * self.geometry.channels
    }

    pub(super) fn scratch_len(&self, work: &Work) -> usize {
        let output = work.count() * self.band(work) * self.tiles[1] * self.geometry.filters;
        self.input_len(work) + POINTS * output
    }

    pub(super) fn weight_bytes(&self) -> usize {
        self.panels.iter().map(Panels::bytes).sum()
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
        let (v, m) = scratch.split_at_mut(self.input_len(work));
        let rows = self.band(work);
        for first in (0..self.tiles[0]).step_by(rows) {
            let band = Band {
                work,
                first,
                rows: rows.min(self.tiles[0] - first),
            };
            let parts = Parts::new(v);
            team.each(reads.len() * band.rows, |number, _| {
                let (frame, row) = (number / band.rows, number % band.rows);
                isa.run(TransformInput {
                    conv: self,
                    frame,
                    row,
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
            team.each(work.count() * band.rows, |number, _| {
                let (frame, row) = (number / band.rows, number % band.rows);
                let Some((_, &job)) = work.jobs().nth(frame) else {
                    return;
                };
                isa.run(TransformOutput {
                    conv: self,
                    frame,
                    job,
                    row,
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

/// Tile rows that are done together.
#[derive(Clone, Copy)]
struct Band<'a> {
    work: &'a Work,
    first: usize,
    rows: usize,
}

/// `V = B^T d B` for one tile row of one frame.
struct TransformInput<'a> {
    conv: &'a Winograd,
    /// Counted from the first one that is read.
    frame: usize,
    /// Within the band.
    row: usize,
    band: Band<'a>,
    input: &'a [f32],
    v: Parts<'a>,
}

impl Task for TransformInput<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const MR: usize, const NV: usize>(self, simd: S) {
        let Self {
            conv,
            frame,
            row,
            band,
            input,
            v,
        } = self;
        let geometry = &conv.geometry;
        let [_, height, width] = geometry.input;
        let frames = band.work.reads().len();
        let channels = geometry.channels;
        let [_, top, left] = geometry.padding;
        let columns = conv.tiles[1];
        let plane = frames * band.rows * columns * channels;
        let input = &input[frame * height * width * channels..][..height * width * channels];
        let zero = simd.splat_f32s(0.0);
        for column in 0..columns {
            let tile = (frame * band.rows + row) * columns + column;
            // Where each of the patch's values lies, if inside the picture.
            let mut places = [None; POINTS];
            for (point, place) in places.iter_mut().enumerate() {
                let h = ((band.first + row) * TILE + point / PATCH).checked_sub(top);
                let w = (column * TILE + point % PATCH).checked_sub(left);
                if let (Some(h), Some(w)) = (h.filter(|h| *h < height), w.filter(|w| *w < width)) {
                    *place = Some((h * width + w) * channels);
                }
            }
            for channel in vector_starts(channels, S::F32_LANES) {
                let mut half = [[zero; PATCH]; PATCH];
                for j in 0..PATCH {
                    let mut d = [zero; PATCH];
                    for i in 0..PATCH {
                        if let Some(place) = places[i * PATCH + j] {
                            d[i] = load(simd, input, place + channel);
                        }
                    }
                    let d = input_points(simd, d);
                    for i in 0..PATCH {
                        half[i][j] = d[i];
                    }
                }
                for (i, half) in half.into_iter().enumerate() {
                    for (j, value) in input_points(simd, half).into_iter().enumerate() {
                        let begin = (i * PATCH + j) * plane + tile * channels + channel;
                        // SAFETY: tiles are apart, and each belongs to one task.
                        store(simd, unsafe { v.part(begin, S::F32_LANES) }, value);
                    }
                }
            }
        }
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
        let tiles = band.rows * conv.tiles[1];
        let work = band.work;
        let reads = work.reads();
        let v = &v[point * reads.len() * tiles * channels..][..reads.len() * tiles * channels];
        let mut m_begin = point * work.count() * tiles * filters;
        let panels = &conv.panels[point];
        let Scratch {
            sums,
            bases,
            deltas,
            ..
        } = scratch;
        for class in work.classes() {
            bases.clear();
            for frame in &class.frames {
                let first = frame.input.saturating_sub(reads.start);
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
                    |row, sums| {
                        let begin = m_begin + row * filters + of.start;
                        // SAFETY: rows are apart, and each point is one task.
                        unsafe { m.part(begin, of.len()) }.copy_from_slice(&sums[..of.len()]);
                    },
                );
            }
            // The next class's frames come behind.
            m_begin += bases.len() * filters;
        }
    }
}

/// `output = A^T M A` and what follows, for one tile row of one frame.
struct TransformOutput<'a> {
    conv: &'a Winograd,
    /// Counted over all that are computed.
    frame: usize,
    job: FrameJob,
    /// Within the band.
    row: usize,
    band: Band<'a>,
    m: &'a [f32],
    target: Target<'a>,
}

impl Task for TransformOutput<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const MR: usize, const NV: usize>(self, simd: S) {
        let Self {
            conv,
            frame,
            job,
            row,
            band,
            m,
            target,
        } = self;
        let Target {
            epilogue,
            residual,
            output,
        } = target;
        let geometry = &conv.geometry;
        let [_, height, width] = geometry.output;
        let frames = band.work.count();
        let filters = geometry.filters;
        let columns = conv.tiles[1];
        let plane = frames * band.rows * columns * filters;
        let top = (band.first + row) * TILE;
        let zero = simd.splat_f32s(0.0);
        let floor = simd.splat_f32s(if epilogue.relu {
            0.0
        } else {
            f32::NEG_INFINITY
        });
        for column in 0..columns {
            let tile = (frame * band.rows + row) * columns + column;
            let left = column * TILE;
            for channel in vector_starts(filters, S::F32_LANES) {
                let mut half = [[zero; PATCH]; TILE];
                for j in 0..PATCH {
                    let mut points = [zero; PATCH];
                    for i in 0..PATCH {
                        points[i] =
                            load(simd, m, (i * PATCH + j) * plane + tile * filters + channel);
                    }
                    let points = output_values(simd, points);
                    for i in 0..TILE {
                        half[i][j] = points[i];
                    }
                }
                let bias = load(simd, &epilogue.bias, channel);
                for (i, half) in half.into_iter().enumerate().take(height - top.min(height)) {
                    let values = output_values(simd, half);
                    for (j, value) in values.into_iter().enumerate().take(width - left) {
                        let place = ((top + i) * width + left + j) * filters + channel;
                        let begin = job.output * height * width * filters + place;
                        let mut value = simd.add_f32s(value, bias);
                        if let Some(residual) = residual {
                            value = simd.add_f32s(value, load(simd, residual, begin));
                        }
                        // SAFETY: tiles are apart, and each belongs to one task.
                        let place = unsafe { output.part(begin, S::F32_LANES) };
                        store(simd, place, simd.max_f32s(value, floor));
                    }
                }
            }
        }
    }
}

/// `B^T d`.
#[inline(always)]
fn input_points<S: Simd>(simd: S, d: [S::f32s; PATCH]) -> [S::f32s; PATCH] {
    let k = |value| simd.splat_f32s(value);
    let [d0, d1, d2, d3, d4, d5] = d;
    // 4 d0 - 5 d2 + d4, and the same one further.
    let first = mul_add(simd, k(4.0), d0, mul_add(simd, k(-5.0), d2, d4));
    let last = mul_add(simd, k(4.0), d1, mul_add(simd, k(-5.0), d3, d5));
    let (even, odd) = (
        mul_add(simd, k(-4.0), d2, d4),
        mul_add(simd, k(-4.0), d1, d3),
    );
    let (even2, odd2) = (simd.sub_f32s(d4, d2), simd.sub_f32s(d3, d1));
    [
        first,
        simd.add_f32s(even, odd),
        simd.sub_f32s(even, odd),
        mul_add(simd, k(2.0), odd2, even2),
        mul_add(simd, k(-2.0), odd2, even2),
        last,
    ]
}

/// `A^T m`.
#[inline(always)]
fn output_values<S: Simd>(simd: S, m: [S::f32s; PATCH]) -> [S::f32s; TILE] {
    let k = |value| simd.splat_f32s(value);
    let [m0, m1, m2, m3, m4, m5] = m;
    let (sum1, difference1) = (simd.add_f32s(m1, m2), simd.sub_f32s(m1, m2));
    let (sum2, difference2) = (simd.add_f32s(m3, m4), simd.sub_f32s(m3, m4));
    [
        simd.add_f32s(simd.add_f32s(m0, sum1), sum2),
        mul_add(simd, k(2.0), difference2, difference1),
        mul_add(simd, k(4.0), sum2, sum1),
        simd.add_f32s(mul_add(simd, k(8.0), difference2, difference1), m5),
    ]
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
