//! Vectors of pairs: AVX-512 with bfloat16, for processors without tiles.
//!
//! `VDPBF16PS` multiplies 16 columns' pairs of K with one pair of the left
//! matrix, and adds both products to 16 sums in f32.

#![allow(
    clippy::unused_self,
    reason = "who holds it has asked for the instructions"
)]

use std::arch::x86_64::{
    __cpuid, __m512bh, __m512i, _mm512_add_ps, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_storeu_epi16, _mm512_maskz_loadu_ps,
    _mm512_permutex2var_ps, _mm512_set1_epi32, _mm512_set1_epi64, _mm512_setr_epi32,
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
    /// Zen 4 and 5; Intel's processors with tiles take so long for the instruction that
    /// f32 is faster.
    pub(super) fn is_fast() -> bool {
        let vendor = __cpuid(0);
        let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
        name.as_flattened() == b"AuthenticAMD"
    }

    /// Whether a panel that is multiplied alone is to lie in fours.
    pub(super) fn takes_fours(run: usize) -> bool {
        run.is_multiple_of(4)
    }

    /// `sums [ROWS][PANELS][16] += left * panels`, or `=` to begin with.
    #[inline(always)]
    pub(super) fn multiply<const PANELS: usize>(
        self,
        left: Left<'_>,
        panels: [&[u16]; PANELS],
        sums: &mut [f32],
        fresh: bool,
    ) {
        let furthest = |places: &[usize]| places.iter().copied().max();
        if let (Some(row), Some(delta)) = (furthest(left.bases), furthest(left.deltas)) {
            let end = row + delta + left.run.next_multiple_of(2);
            assert!(end <= left.picture.len(), "rows reach behind the picture");
        }
        let pitch = left.run.next_multiple_of(STEP) * TILE;
        for panel in panels {
            assert_eq!(panel.len(), left.deltas.len() * pitch, "steps of a panel");
        }
        let fours = PANELS == 1 && Self::takes_fours(left.run);
        // The last rows cost what they are, not a whole group.
        // SAFETY: the processor has the instructions, or there were no `Avx512`; rows
        // and panels were checked.
        unsafe {
            match left.bases.len() {
                1..=4 if fours => multiply_fours::<4>(left, panels[0], pitch, sums, fresh),
                _ if fours => multiply_fours::<ROWS>(left, panels[0], pitch, sums, fresh),
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
pub(super) struct Left<'a> {
    pub(super) picture: &'a [u16],
    /// Where each begins.
    pub(super) bases: &'a [usize],
    /// How far behind its beginning each run of a row lies.
    pub(super) deltas: &'a [usize],
    /// Values in a run; a panel has as many whole steps of K for each.
    pub(super) run: usize,
}

impl Left<'_> {
    /// Where the rows begin; of fewer than `M`, the last one fills up what is missing.
    #[inline(always)]
    fn rows<const M: usize>(&self) -> [*const u16; M] {
        let last = self.bases.len() - 1;
        let mut rows = [self.picture.as_ptr(); M];
        for row in 0..M {
            // Rows without runs may begin anywhere.
            rows[row] = rows[row].wrapping_add(self.bases[row.min(last)]);
        }
        rows
    }
}

/// See [`Avx512::multiply`]. From one run to the next, a panel goes on by `pitch`
/// values.
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
    let rows = left.rows::<M>();
    let mut right = panels.map(<[u16]>::as_ptr);
    for &delta in left.deltas {
        for pair in 0..left.run.div_ceil(2) {
            let mut columns = [zero(); PANELS];
            for panel in 0..PANELS {
                // SAFETY: a run of a panel has 16 columns for each pair.
                columns[panel] = unsafe { vector(right[panel].add(pair * 2 * TILE)) };
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

/// The same for one panel whose steps lie in fours, twice as many values of each row at
/// a time. Of one panel, a pair of the left matrix is multiplied but once, and loading
/// it takes longer than that; a four is one load and two products:
///
/// ```text
/// left      [ x0 x1 x2 x3 | x0 x1 x2 x3 | ... ]
/// right     [ k 0, k 1, k 2, k 3 of column 0 | of column 1 | ... | of column 7 ]
///           [ k 0, k 1, k 2, k 3 of column 8 | ...               | of column 15 ]
/// ```
///
/// Sums of each column's two pairs are added at the end.
///
/// # Safety
/// As for [`multiply`]; runs are of whole fours.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn multiply_fours<const M: usize>(
    left: Left<'_>,
    panel: &[u16],
    pitch: usize,
    sums: &mut [f32],
    fresh: bool,
) {
    let (tile, _) = sums.as_chunks_mut::<16>();
    let tile = &mut tile[..M];
    let mut kept = [[_mm512_setzero_ps(); 2]; M];
    let rows = left.rows::<M>();
    let mut right = panel.as_ptr();
    for &delta in left.deltas {
        for four in 0..left.run / 4 {
            // SAFETY: a run of a panel has two vectors for each four.
            let columns = unsafe { right.add(four * 4 * TILE) };
            // SAFETY: as above.
            let columns = unsafe { [vector(columns), vector(columns.add(2 * TILE))] };
            for row in 0..M {
                // SAFETY: this run of the row lies in the picture.
                let place = unsafe { rows[row].add(delta + 4 * four) };
                // SAFETY: as above; four values are 64 bits.
                let value = unsafe { place.cast::<i64>().read_unaligned() };
                let value = pairs_of(_mm512_set1_epi64(value));
                for half in 0..2 {
                    kept[row][half] = _mm512_dpbf16_ps(kept[row][half], value, columns[half]);
                }
            }
        }
        // SAFETY: the run's end in the panel.
        right = unsafe { right.add(pitch) };
    }
    for (sums, [low, high]) in tile.iter_mut().zip(kept) {
        let mut sum = _mm512_add_ps(
            _mm512_permutex2var_ps(low, even(), high),
            _mm512_permutex2var_ps(low, odd(), high),
        );
        if !fresh {
            // SAFETY: there are 16 values.
            sum = _mm512_add_ps(unsafe { _mm512_loadu_ps(sums.as_ptr()) }, sum);
        }
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), sum) };
    }
}

/// Places of even number in two vectors.
#[target_feature(enable = "avx512f")]
fn even() -> __m512i {
    _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
}

/// Places of odd number in two vectors.
#[target_feature(enable = "avx512f")]
fn odd() -> __m512i {
    _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)
}

/// # Safety
/// There must be 32 values.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn vector(values: *const u16) -> __m512bh {
    // SAFETY: as the caller says.
    pairs_of(unsafe { _mm512_loadu_si512(values.cast()) })
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
