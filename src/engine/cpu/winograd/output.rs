//! From the products of each tile to pictures.

use std::ops::Range;

use pulp::Simd;

use super::super::conv::Target;
use super::super::lines::OnLines;
use super::super::product::Task;
use super::points::{PATCH, TILE, output_values};
use super::{Band, Winograd, load, plane, vector_starts};

/// `output = A^T M A` and what follows, for some tiles of one frame.
pub(super) struct TransformOutput<'a> {
    pub(super) conv: &'a Winograd,
    /// Counted over all that are computed.
    pub(super) frame: usize,
    /// Where its values begin.
    pub(super) place: usize,
    /// Within the band.
    pub(super) tiles: Range<usize>,
    pub(super) band: Band<'a>,
    pub(super) m: &'a [f32],
    pub(super) target: Target<'a>,
}

impl Task for TransformOutput<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const MR: usize, const NV: usize>(self, simd: S) {
        let Self {
            conv,
            frame,
            place,
            tiles,
            band,
            m,
            target,
        } = self;
        let geometry = &conv.geometry;
        let [_, height, width] = geometry.output;
        let filters = geometry.filters;
        let products = Products {
            m: &m[(frame * band.count + tiles.start) * filters..],
            plane: plane(band.batch.count() * band.count * filters),
            size: [height, width],
            place,
            tiles_a_row: conv.tiles[1],
            filters,
            target,
        };
        let tiles = band.first + tiles.start..band.first + tiles.end;
        products.transform(simd, tiles);
    }
}

/// The products of some tiles.
struct Products<'a> {
    /// `M` at the first point, from the first tile on.
    m: &'a [f32],
    /// Values of M at one point.
    plane: usize,
    /// Rows and columns of the output.
    size: [usize; 2],
    /// Where the frame's values begin.
    place: usize,
    tiles_a_row: usize,
    filters: usize,
    target: Target<'a>,
}

impl Products<'_> {
    /// The outputs of these tiles.
    #[inline(always)]
    fn transform<S: Simd>(&self, simd: S, tiles: Range<usize>) {
        let [height, width] = self.size;
        let zero = simd.splat_f32s(0.0);
        let mut half = OnLines([[zero; PATCH]; TILE]);
        let half = &mut half.0;
        for channel in vector_starts(self.filters, S::F32_LANES) {
            let finish = self.target.of(simd, channel..channel + S::F32_LANES);
            for (number, tile) in tiles.clone().enumerate() {
                let first = number * self.filters + channel;
                for j in 0..PATCH {
                    let points = &self.m[first + j * self.plane..];
                    let points = &points[..(PATCH - 1) * PATCH * self.plane + S::F32_LANES];
                    let mut m = [zero; PATCH];
                    for i in 0..PATCH {
                        m[i] = load(simd, points, i * PATCH * self.plane);
                    }
                    let values = output_values(simd, m);
                    for i in 0..TILE {
                        half[i][j] = values[i];
                    }
                }
                let top = tile / self.tiles_a_row * TILE;
                let left = tile % self.tiles_a_row * TILE;
                let place = self.place + (top * width + left) * self.filters;
                let [rows, columns] = [height - top, width - left].map(|size| size.min(TILE));
                // Said twice: of whole tiles, the loops' ends are constants.
                if rows == TILE && columns == TILE {
                    for i in 0..TILE {
                        let place = place + i * width * self.filters;
                        let values = output_values(simd, half[i]);
                        for j in 0..TILE {
                            // SAFETY: tiles are apart, and each belongs to one task.
                            unsafe { finish.put(simd, place + j * self.filters, &[values[j]]) };
                        }
                    }
                } else {
                    for i in 0..rows {
                        let place = place + i * width * self.filters;
                        let values = output_values(simd, half[i]);
                        for j in 0..columns {
                            // SAFETY: as above.
                            unsafe { finish.put(simd, place + j * self.filters, &[values[j]]) };
                        }
                    }
                }
            }
        }
    }
}
