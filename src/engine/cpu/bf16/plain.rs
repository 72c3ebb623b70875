//! What the other two compute, in plain Rust: the reference, and how the packing is
//! tested on a machine that has neither.

use half::bf16;

use super::{Left, STEP, Sums, TILE};

/// `sums [tiles][16][panels][16]`.
pub(super) fn multiply<const TILES: usize, const PANELS: usize>(
    left: Left<'_>,
    tiles: [usize; TILES],
    panels: [&[u16]; PANELS],
    sums: &mut Sums,
) {
    left.check(&tiles, &panels);
    let value = |bits: u16| bf16::from_bits(bits).to_f32();
    for (place, sum) in sums.0.iter_mut().enumerate() {
        let (column, panel) = (place % 16, place / 16 % PANELS);
        let (row, tile) = (place / (16 * PANELS) % TILE, place / (16 * PANELS) / TILE);
        *sum = 0.0;
        for (number, step) in left.steps.iter().enumerate() {
            let begin = tiles[tile] + row * left.pitch + step;
            for k in 0..STEP {
                let right = panels[panel][((number * STEP + k) / 2 * 16 + column) * 2 + k % 2];
                *sum += value(left.picture[begin + k]) * value(right);
            }
        }
    }
}
