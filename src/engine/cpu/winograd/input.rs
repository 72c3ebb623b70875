//! From pictures to the points of each tile.

use std::ops::Range;

use pulp::Simd;

use super::super::lines::OnLines;
use super::super::product::Task;
use super::super::team::Parts;
use super::points::{PATCH, TILE, input_points};
use super::{Band, Winograd, load, plane, store, vector_starts};

/// `V = B^T d B` for some tiles of one frame.
pub(super) struct TransformInput<'a> {
    pub(super) conv: &'a Winograd,
    /// Counted over all that are read.
    pub(super) frame: usize,
    /// Within the band.
    pub(super) tiles: Range<usize>,
    pub(super) band: Band<'a>,
    pub(super) input: &'a [f32],
    pub(super) v: Parts<'a>,
}

impl Task for TransformInput<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const MR: usize, const NV: usize>(self, simd: S) {
        let Self {
            conv,
            frame,
            tiles,
            band,
            input,
            v,
        } = self;
        let geometry = &conv.geometry;
        let [_, height, width] = geometry.input;
        let (channels, len) = (geometry.channels, geometry.input_frame_len());
        let reads = band.batch.work.reads();
        let (clip, within) = (frame / reads.len(), frame % reads.len());
        let begin = clip * band.batch.pitch + (reads.start + within) * len;
        let patches = Patches {
            input: &input[begin..][..len],
            size: [height, width],
            padding: [geometry.padding[1], geometry.padding[2]],
            channels,
            tiles_a_row: conv.tiles[1],
            plane: plane(band.batch.reads() * band.count * channels),
            v,
        };
        let place = frame * band.count + tiles.start;
        let tiles = band.first + tiles.start..band.first + tiles.end;
        patches.transform(simd, tiles, place);
    }
}

/// The patches under the tiles of a frame.
struct Patches<'a> {
    /// One frame.
    input: &'a [f32],
    /// Its rows and columns.
    size: [usize; 2],
    padding: [usize; 2],
    channels: usize,
    tiles_a_row: usize,
    /// Values of V at one point.
    plane: usize,
    v: Parts<'a>,
}

impl Patches<'_> {
    /// `V` of tiles, from a place there on.
    #[inline(always)]
    fn transform<S: Simd>(&self, simd: S, tiles: Range<usize>, place: usize) {
        let [height, width] = self.size;
        let [top, left] = self.padding;
        // Once for all: filling it takes longer than a tile's arithmetic.
        let mut half = OnLines([[simd.splat_f32s(0.0); PATCH]; PATCH]);
        let half = &mut half.0;
        for (place, tile) in (place..).zip(tiles) {
            let row = tile / self.tiles_a_row * TILE;
            let column = tile % self.tiles_a_row * TILE;
            let rows = inside(row, top, height);
            let columns = inside(column, left, width);
            let is_whole = rows == (0..PATCH) && columns == (0..PATCH);
            // Where the patch begins, were there padding; positions wrap around before
            // the picture, and nobody asks for those.
            let corner = (row * width + column).wrapping_sub(top * width + left);
            for channel in vector_starts(self.channels, S::F32_LANES) {
                for j in 0..PATCH {
                    let mut d = [simd.splat_f32s(0.0); PATCH];
                    if is_whole {
                        for i in 0..PATCH {
                            d[i] = self.load(simd, corner, i, j, channel);
                        }
                    } else if columns.contains(&j) {
                        for i in 0..PATCH {
                            if rows.contains(&i) {
                                d[i] = self.load(simd, corner, i, j, channel);
                            }
                        }
                    }
                    let d = input_points(simd, d);
                    for i in 0..PATCH {
                        half[i][j] = d[i];
                    }
                }
                let first = place * self.channels + channel;
                for i in 0..PATCH {
                    let d = input_points(simd, half[i]);
                    let begin = first + i * PATCH * self.plane;
                    // SAFETY: tiles are apart, and each belongs to one task.
                    let mut points =
                        unsafe { self.v.spaced::<PATCH>(begin, self.plane, S::F32_LANES) };
                    for j in 0..PATCH {
                        store(simd, points.part(j), d[j]);
                    }
                }
            }
        }
    }

    /// The channels at row `i` and column `j` of a patch, which must lie inside.
    #[inline(always)]
    fn load<S: Simd>(&self, simd: S, corner: usize, i: usize, j: usize, channel: usize) -> S::f32s {
        let position = corner.wrapping_add(i * self.size[1] + j);
        load(simd, self.input, position * self.channels + channel)
    }
}

/// Which of a patch's rows, or columns, lie inside the picture: the patch begins at
/// `begin` of what has `before` zeros and then `len` values.
fn inside(begin: usize, before: usize, len: usize) -> Range<usize> {
    before.saturating_sub(begin)..(before + len).saturating_sub(begin).min(PATCH)
}
