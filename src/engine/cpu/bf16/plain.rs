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
    for (row, sums) in sums.0.chunks_exact_mut(TILE * PANELS).enumerate() {
        let begin = tiles[row / TILE] + row % TILE * left.pitch;
        for (panel, sums) in sums.chunks_exact_mut(TILE).enumerate() {
            sums.fill(0.0);
            let steps = panels[panel].chunks_exact(STEP * TILE);
            for (step, lines) in left.steps.iter().zip(steps) {
                let row = &left.picture[begin + step..][..STEP];
                for (row, line) in row.chunks_exact(2).zip(lines.chunks_exact(2 * TILE)) {
                    for (sum, column) in sums.iter_mut().zip(line.chunks_exact(2)) {
                        *sum += value(row[0]) * value(column[0]);
                        *sum += value(row[1]) * value(column[1]);
                    }
                }
            }
        }
    }
}
