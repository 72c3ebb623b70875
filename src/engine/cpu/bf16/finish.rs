//! What becomes of the sums of tiles: `output = relu?(sums + bias + residual?)`, where
//! output and residual may lie in f32 or in bfloat16.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_castsi512_ps, _mm512_castsi512_si256,
    _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh, _mm512_extracti64x4_epi64, _mm512_loadu_ps,
    _mm512_mask_storeu_epi16, _mm512_mask_storeu_ps, _mm512_maskz_loadu_epi16,
    _mm512_maskz_loadu_ps, _mm512_max_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32,
};
use std::ops::Range;

use half::bf16;

use super::super::conv::Target;
use super::super::values::Kept;
use super::TILE;

/// The place of a sum that nobody asked for.
pub(super) const NOWHERE: usize = usize::MAX;

/// The sums of some filters, those of one panel or of two.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    target: Target<'a>,
    first: usize,
    filters: usize,
    floor: f32,
}

impl<'a> Finish<'a> {
    pub(super) fn new(target: Target<'a>, filters: Range<usize>) -> Self {
        Self {
            target,
            first: filters.start,
            filters: filters.len(),
            floor: if target.epilogue.relu {
                0.0
            } else {
                f32::NEG_INFINITY
            },
        }
    }

    fn bias(&self) -> &'a [f32] {
        &self.target.epilogue.bias[self.first..][..self.filters]
    }

    fn check<const PANELS: usize>(&self, places: &[usize], sums: &[f32]) {
        let columns = PANELS * TILE;
        assert!((1..=columns).contains(&self.filters), "filters of a panel");
        assert!(places.len() * columns <= sums.len(), "sums of a position");
    }

    /// `sums` are `[positions][PANELS][16]`; the values of each position begin at its
    /// place.
    ///
    /// # Panics
    /// If there are no filters, or more than the panels have.
    ///
    /// # Safety
    /// Nobody else may finish the same filters there at the same time.
    pub(super) unsafe fn plain<const PANELS: usize>(self, places: &[usize], sums: &[f32]) {
        self.check::<PANELS>(places, sums);
        let rows = places.iter().zip(sums.chunks_exact(PANELS * TILE));
        for (place, sums) in rows.filter(|(place, _)| **place != NOWHERE) {
            let begin = place + self.first;
            let values = (0..self.filters).map(|number| {
                let value = sums[number] + self.bias()[number];
                let residual = self.target.residual.map_or(0.0, |values| match values {
                    Kept::F32(values) => values[begin + number],
                    Kept::Bf16(values) => bf16::from_bits(values[begin + number]).to_f32(),
                });
                (value + residual).max(self.floor)
            });
            // SAFETY: as the caller says.
            unsafe {
                match self.target.output {
                    Kept::F32(output) => {
                        let output = output.part(begin, self.filters).iter_mut();
                        output.zip(values).for_each(|(to, value)| *to = value);
                    }
                    Kept::Bf16(output) => {
                        let output = output.part(begin, self.filters).iter_mut();
                        let narrow = |value| bf16::from_f32(value).to_bits();
                        output
                            .zip(values)
                            .for_each(|(to, value)| *to = narrow(value));
                    }
                }
            }
        }
    }

    /// The same by vectors.
    ///
    /// # Safety
    /// As of `plain`; and the processor must have the instructions.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn vectors<const PANELS: usize>(self, places: &[usize], sums: &[f32]) {
        self.check::<PANELS>(places, sums);
        let mask = u32::MAX >> (32 - self.filters);
        let masks = [mask as u16, (mask >> 16) as u16];
        let (floor, bias) = (_mm512_set1_ps(self.floor), self.bias().as_ptr());
        let mut biases = [_mm512_setzero_ps(); PANELS];
        for panel in 0..PANELS {
            // SAFETY: what the mask leaves out is not read, here and below.
            biases[panel] =
                unsafe { _mm512_maskz_loadu_ps(masks[panel], bias.wrapping_add(panel * TILE)) };
        }
        for (row, &place) in places.iter().enumerate() {
            if place == NOWHERE {
                continue;
            }
            let begin = place + self.first;
            let mut values = [_mm512_setzero_ps(); PANELS];
            for panel in 0..PANELS {
                let begin = (row * PANELS + panel) * TILE;
                // SAFETY: each position has so many sums, as was checked.
                let sums = unsafe { _mm512_loadu_ps(sums.as_ptr().add(begin)) };
                values[panel] = _mm512_add_ps(sums, biases[panel]);
            }
            match self.target.residual {
                None => {}
                Some(Kept::F32(residual)) => {
                    let residual = residual[begin..][..self.filters].as_ptr();
                    for panel in 0..PANELS {
                        let from = residual.wrapping_add(panel * TILE);
                        // SAFETY: as above.
                        let residual = unsafe { _mm512_maskz_loadu_ps(masks[panel], from) };
                        values[panel] = _mm512_add_ps(values[panel], residual);
                    }
                }
                Some(Kept::Bf16(residual)) => {
                    let residual = residual[begin..][..self.filters].as_ptr();
                    // SAFETY: as above.
                    let residual = unsafe { _mm512_maskz_loadu_epi16(mask, residual.cast()) };
                    let halves = widened(residual);
                    for panel in 0..PANELS {
                        values[panel] = _mm512_add_ps(values[panel], halves[panel]);
                    }
                }
            }
            for panel in 0..PANELS {
                values[panel] = _mm512_max_ps(values[panel], floor);
            }
            // SAFETY: as the caller says; what the mask leaves out is not written.
            unsafe {
                match self.target.output {
                    Kept::F32(output) => {
                        let output = output.part(begin, self.filters).as_mut_ptr();
                        for panel in 0..PANELS {
                            let to = output.wrapping_add(panel * TILE);
                            _mm512_mask_storeu_ps(to, masks[panel], values[panel]);
                        }
                    }
                    Kept::Bf16(output) => {
                        let output = output.part(begin, self.filters).as_mut_ptr();
                        let high = if PANELS == 2 {
                            values[PANELS - 1]
                        } else {
                            floor
                        };
                        let both = _mm512_cvtne2ps_pbh(high, values[0]);
                        let both = std::mem::transmute::<__m512bh, __m512i>(both);
                        _mm512_mask_storeu_epi16(output.cast(), mask, both);
                    }
                }
            }
        }
    }
}

/// 32 values of bfloat16 as two vectors of f32.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
fn widened(values: __m512i) -> [__m512; 2] {
    // Not by `map`, which would not be compiled for these vectors.
    let low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(values));
    let high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(values));
    [
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(low)),
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(high)),
    ]
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use proptest::prelude::*;

    use super::super::super::conv::Epilogue;
    use super::super::super::values::{Format, ValuesMut};
    use super::super::avx512::Avx512;
    use super::*;

    /// Four positions, of which one is nobody's, by each way of finishing.
    fn finished(
        epilogue: &Epilogue,
        filters: Range<usize>,
        residual: Option<(&[f32], Format)>,
        format: Format,
        sums: &[f32],
        by_vectors: bool,
    ) -> Vec<f32> {
        let all = epilogue.bias.len();
        let places = [3 * all, 0, NOWHERE, all];
        let mut output = vec![7.0; 4 * all];
        let output_values: ValuesMut<'_> = format.of_mut(&mut output);
        let target = Target {
            epilogue,
            residual: residual.map(|(values, format)| format.of(values)),
            output: output_values.room(),
        };
        let is_pair = filters.len() > TILE;
        let finish = Finish::new(target, filters);
        // SAFETY: nobody else is there; and whoever asks for vectors has seen to it that
        // there are the instructions.
        unsafe {
            match (by_vectors, is_pair) {
                (false, false) => finish.plain::<1>(&places, sums),
                (false, true) => finish.plain::<2>(&places, sums),
                (true, false) => finish.vectors::<1>(&places, sums),
                (true, true) => finish.vectors::<2>(&places, sums),
            }
        }
        output
    }

    proptest! {
        #[test]
        fn vectors_finish_as_the_reference_does(
            (before, filters, behind) in (0..3usize, 1..=2 * TILE, 0..3usize),
            values in prop::collection::vec(-4.0_f32..4.0, 8 * TILE + 40 + 4 * 40),
            relu: bool,
            with_residual: bool,
            in_bf16: [bool; 2],
        ) {
            if Avx512::try_new().is_none() {
                return Ok(());
            }
            let all = before + filters + behind;
            let (sums, rest) = values.split_at(8 * TILE);
            let (bias, residual) = rest.split_at(40);
            let epilogue = Epilogue { bias: bias[..all].to_vec(), relu };
            let [of_residual, format] =
                in_bf16.map(|is| if is { Kept::Bf16(()) } else { Kept::F32(()) });
            let residual = with_residual.then_some((residual, of_residual));
            let [expected, found] = [false, true].map(|by_vectors| {
                let filters = before..before + filters;
                finished(&epilogue, filters, residual, format, sums, by_vectors)
            });
            prop_assert_eq!(found, expected);
        }
    }
}
