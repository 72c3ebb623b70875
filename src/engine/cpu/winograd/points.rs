//! The transforms along one axis: F(4, 3), three taps, four outputs and six products.

use pulp::Simd;

use super::super::product::mul_add;

/// Outputs of a tile, in rows and columns.
pub(super) const TILE: usize = 4;
/// Inputs of a tile, in rows and columns; as many products.
pub(super) const PATCH: usize = TILE + 2;

/// The transform of the kernel, at the points 0, 1, -1, 2, -2 and infinity.
pub(super) const G: [[f64; 3]; PATCH] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

/// `B^T d`.
#[inline(always)]
pub(super) fn input_points<S: Simd>(simd: S, d: [S::f32s; PATCH]) -> [S::f32s; PATCH] {
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
pub(super) fn output_values<S: Simd>(simd: S, m: [S::f32s; PATCH]) -> [S::f32s; TILE] {
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
