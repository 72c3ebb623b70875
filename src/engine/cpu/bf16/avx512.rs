//! Vectors of pairs: AVX-512 with bfloat16, for processors without tiles.
//!
//! `VDPBF16PS` multiplies 16 columns' pairs of K with one pair of the left
//! matrix, and adds both products to 16 sums in f32. Eight rows of two panels, or
//! 16 rows of one, stay in registers while K runs through them.

#![allow(
    clippy::unused_self,
    reason = "who holds it has asked for the instructions"
)]

use std::arch::x86_64::{
    __cpuid, __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mask_storeu_epi16, _mm512_maskz_loadu_ps, _mm512_set1_epi32,
    _mm512_setzero_ps, _mm512_storeu_ps, _mm512_storeu_si512,
};

use super::{Left, STEP, Sums, TILE};

/// Proof that this processor has the instructions.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine::cpu) struct Avx512(());

impl Avx512 {
    pub(super) fn try_new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512bf16")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512f");
        has.then_some(Self(()))
    }

    /// Whether there are twice as many products a cycle as in f32. There are on AMD's
    /// Zen 4 and 5, as AMD says; Intel's processors with tiles take so
    /// long for the instruction that f32 is faster.
    pub(super) fn is_fast() -> bool {
        let vendor = __cpuid(0);
        let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
        name.as_flattened() == b"AuthenticAMD"
    }

    /// Two tiles by two panels: `sums [2][16][32]`.
    #[inline(always)]
    pub(super) fn square(
        self,
        left: Left<'_>,
        tiles: [usize; 2],
        panels: [&[u16]; 2],
        sums: &mut Sums,
    ) {
        left.check(&tiles, &panels);
        let halves = sums.0.chunks_exact_mut(8 * 32);
        for (number, sums) in halves.enumerate() {
            let row = tiles[number / 2] + number % 2 * 8 * left.pitch;
            // SAFETY: the processor has the instructions, or there were no `Avx512`;
            // rows and panels were checked.
            unsafe { multiply::<8, 2>(left, row, panels, sums) };
        }
    }

    /// Four tiles by one panel: `sums [4][16][16]`.
    #[inline(always)]
    pub(super) fn tall(self, left: Left<'_>, tiles: [usize; 4], panel: &[u16], sums: &mut Sums) {
        left.check(&tiles, &[panel]);
        let whole = sums.0.chunks_exact_mut(TILE * 16);
        for (tile, sums) in tiles.into_iter().zip(whole) {
            // SAFETY: as above.
            unsafe { multiply::<16, 1>(left, tile, [panel], sums) };
        }
    }

    /// Rounds to the nearest bfloat16, ties to even; what is denormal becomes zero.
    pub(super) fn narrow(self, from: &[f32], to: &mut [u16]) {
        // SAFETY: as above.
        unsafe { narrow(from, to) };
    }
}

/// `sums [ROWS][PANELS][16]`, the rows from value `row` of the picture on.
///
/// # Safety
/// The processor must have the instructions; every step of every row must lie in
/// the picture, and the panels must have as many steps.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn multiply<const ROWS: usize, const PANELS: usize>(
    left: Left<'_>,
    row: usize,
    panels: [&[u16]; PANELS],
    sums: &mut [f32],
) {
    assert_eq!(sums.len(), ROWS * PANELS * 16);
    let mut kept = [[_mm512_setzero_ps(); PANELS]; ROWS];
    // SAFETY: the row lies in the picture.
    let first = unsafe { left.picture.as_ptr().add(row) };
    let steps_a_run = left.run.div_ceil(STEP);
    let (mut within, mut right) = (0, panels.map(<[u16]>::as_ptr));
    for &step in left.steps {
        // Behind a run come zeros only.
        let pairs = (left.run - within * STEP).min(STEP).div_ceil(2);
        within = if within + 1 == steps_a_run {
            0
        } else {
            within + 1
        };
        for pair in 0..pairs {
            let mut columns = [_mm512_setzero_ps(); PANELS].map(|_| zero());
            for panel in 0..PANELS {
                // SAFETY: a step of a panel is 16 pairs of 16 columns.
                let place = unsafe { right[panel].add(pair * 2 * 16) };
                // SAFETY: as above.
                columns[panel] = pairs_of(unsafe { _mm512_loadu_si512(place.cast()) });
            }
            for row in 0..ROWS {
                // SAFETY: the step of this row lies in the picture.
                let place = unsafe { first.add(row * left.pitch + step + 2 * pair) };
                // SAFETY: as above; two values are 32 bits.
                let value = unsafe { place.cast::<i32>().read_unaligned() };
                let value = pairs_of(_mm512_set1_epi32(value));
                for panel in 0..PANELS {
                    kept[row][panel] = _mm512_dpbf16_ps(kept[row][panel], value, columns[panel]);
                }
            }
        }
        // SAFETY: the step's end in the panel.
        right = right.map(|panel| unsafe { panel.add(STEP * 16) });
    }
    for (sums, kept) in sums
        .as_chunks_mut::<16>()
        .0
        .iter_mut()
        .zip(kept.as_flattened())
    {
        // SAFETY: there are 16 values.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), *kept) };
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn zero() -> __m512bh {
    pairs_of(_mm512_set1_epi32(0))
}

/// The same bits.
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs_of(bits: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without a meaning of their own.
    unsafe { std::mem::transmute(bits) }
}

/// See [`Avx512::narrow`].
///
/// # Safety
/// The processor must have the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn narrow(from: &[f32], to: &mut [u16]) {
    assert_eq!(from.len(), to.len());
    let (whole, rest) = from.as_chunks::<32>();
    let (to, to_rest) = to.as_chunks_mut::<32>();
    for (from, to) in whole.iter().zip(to) {
        // SAFETY: 32 values are two vectors, and one of half the width.
        unsafe {
            let (low, high) = (from.as_ptr(), from.as_ptr().add(16));
            let values = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(high), _mm512_loadu_ps(low));
            _mm512_storeu_si512(
                to.as_mut_ptr().cast(),
                std::mem::transmute::<__m512bh, __m512i>(values),
            );
        }
    }
    if !rest.is_empty() {
        let mask = (1_u32 << rest.len()) - 1;
        // SAFETY: what the mask leaves out is neither read nor written.
        unsafe {
            let low = _mm512_maskz_loadu_ps(mask as u16, rest.as_ptr());
            let high = _mm512_maskz_loadu_ps((mask >> 16) as u16, rest.as_ptr().wrapping_add(16));
            let values = _mm512_cvtne2ps_pbh(high, low);
            _mm512_mask_storeu_epi16(
                to_rest.as_mut_ptr().cast(),
                mask,
                std::mem::transmute::<__m512bh, __m512i>(values),
            );
        }
    }
}
