//! The matrix product that everything else is made of.

/// `c += a * b`, row-major, `a: [m, k]`, `b: [k, n]`, `c: [m, n]`.
pub(super) fn add_product(a: &[f32], b: &[f32], c: &mut [f32], m: usize, k: usize, n: usize) {
    assert!(
        a.len() == m * k && b.len() == k * n && c.len() == m * n,
        "matrices misshapen"
    );
    let (row_a, row_b, row_c) = (k as isize, n as isize, n as isize);
    // SAFETY: the lengths were checked above against the extents and the
    // row strides given; column strides are 1; `c` is borrowed exclusively.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            1.0,
            a.as_ptr(),
            row_a,
            1,
            b.as_ptr(),
            row_b,
            1,
            1.0,
            c.as_mut_ptr(),
            row_c,
            1,
        );
    }
}
