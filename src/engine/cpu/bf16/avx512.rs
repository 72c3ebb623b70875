//! Vectors of pairs: AVX-512 with bfloat16, for processors without tiles.
//!
//! `VDPBF16PS` multiplies 16 columns' pairs of K with one pair of the left
//! matrix, and adds both products to 16 sums in f32.

#![allow(
    clippy::unused_self,
    reason = "who holds it has asked for the instructions"
)]

use std::arch::x86_64::{
    __cpuid, __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mask_storeu_epi16, _mm512_maskz_loadu_ps, _mm512_set1_epi32,
    _mm512_setzero_ps, _mm512_storeu_ps, _mm512_storeu_si512,
};

use super::vectors::ROWS;
use super::{STEP, TILE};

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

    /// `sums [ROWS][PANELS][16] += rows * panels`, or `=` to begin with, for those of the
    /// rows that begin at `bases` in the picture. Each has a run of so many values at
    /// each of `deltas`; a panel has as many whole steps of K for it.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "two matrices, and their product")]
    pub(super) fn multiply<const PANELS: usize>(
        self,
        picture: &[u16],
        bases: &[usize],
        deltas: &[usize],
        run: usize,
        panels: [&[u16]; PANELS],
        sums: &mut [f32],
        fresh: bool,
    ) {
        let furthest = |places: &[usize]| places.iter().copied().max();
        if let (Some(row), Some(delta)) = (furthest(bases), furthest(deltas)) {
            let end = row + delta + run.next_multiple_of(2);
            assert!(end <= picture.len(), "rows reach behind the picture");
        }
        let pitch = run.next_multiple_of(STEP) * TILE;
        for panel in panels {
            assert_eq!(panel.len(), deltas.len() * pitch, "steps of a panel");
        }
        let left = Left {
            picture,
            bases,
            deltas,
            pairs: run.div_ceil(2),
        };
        // The last rows cost what they are, not a whole group.
        // SAFETY: the processor has the instructions, or there were no `Avx512`; rows
        // and panels were checked.
        unsafe {
            match bases.len() {
                1..=2 => multiply::<2, PANELS>(left, panels, pitch, sums, fresh),
                3..=4 => multiply::<4, PANELS>(left, panels, pitch, sums, fresh),
                5..=8 => multiply::<8, PANELS>(left, panels, pitch, sums, fresh),
                _ => multiply::<ROWS, PANELS>(left, panels, pitch, sums, fresh),
            }
        }
    }

    /// Rounds to the nearest bfloat16, ties to even; what is denormal becomes zero.
    pub(super) fn narrow(self, from: &[f32], to: &mut [u16]) {
        // SAFETY: as above.
        unsafe { narrow(from, to) };
    }
}

/// Rows of the left matrix, which lie in a picture.
#[derive(Clone, Copy)]
struct Left<'a> {
    picture: &'a [u16],
    /// Where each begins.
    bases: &'a [usize],
    /// How far behind its beginning each run of a row lies.
    deltas: &'a [usize],
    /// Of values, in a run.
    pairs: usize,
}

/// See [`Avx512::multiply`]; of fewer rows than `M`, the last one fills up what is
/// missing. From one run to the next, a panel goes on by `pitch` values.
///
/// # Safety
/// The processor must have the instructions; every run of every row must lie in
/// the picture, and the panels must have a pitch for each.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn multiply<const M: usize, const PANELS: usize>(
    left: Left<'_>,
    panels: [&[u16]; PANELS],
    pitch: usize,
    sums: &mut [f32],
    fresh: bool,
) {
    let (tile, _) = sums.as_chunks_mut::<16>();
    let tile = &mut tile[..M * PANELS];
    let mut kept = [[_mm512_setzero_ps(); PANELS]; M];
    if !fresh {
        for row in 0..M {
            for panel in 0..PANELS {
                // SAFETY: there are 16 values.
                kept[row][panel] = unsafe { _mm512_loadu_ps(tile[row * PANELS + panel].as_ptr()) };
            }
        }
    }
    let last = left.bases.len() - 1;
    let mut rows = [left.picture.as_ptr(); M];
    for row in 0..M {
        rows[row] = left
            .picture
            .as_ptr()
            .wrapping_add(left.bases[row.min(last)]);
    }
    let mut right = panels.map(<[u16]>::as_ptr);
    for &delta in left.deltas {
        for pair in 0..left.pairs {
            let mut columns = [zero(); PANELS];
            for panel in 0..PANELS {
                // SAFETY: a run of a panel has 16 columns for each pair.
                let place = unsafe { right[panel].add(pair * 2 * TILE) };
                // SAFETY: as above.
                columns[panel] = pairs_of(unsafe { _mm512_loadu_si512(place.cast()) });
            }
            for row in 0..M {
                // SAFETY: this run of the row lies in the picture.
                let place = unsafe { rows[row].add(delta + 2 * pair) };
                // SAFETY: as above; two values are 32 bits.
                let value = unsafe { place.cast::<i32>().read_unaligned() };
                let value = pairs_of(_mm512_set1_epi32(value));
                for panel in 0..PANELS {
                    kept[row][panel] = _mm512_dpbf16_ps(kept[row][panel], value, columns[panel]);
                }
            }
        }
        // SAFETY: the run's end in the panel.
        right = right.map(|panel| unsafe { panel.add(pitch) });
    }
    for (sums, kept) in tile.iter_mut().zip(kept.as_flattened()) {
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
