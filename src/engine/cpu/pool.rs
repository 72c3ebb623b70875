//! Pooling: all values are `[T, H, W, C]`.

use std::ops::Range;

use pulp::Simd;

use super::product::{Isa, Task};
use super::values::{Kept, Values, ValuesMut};
use super::work::Work;
use crate::model::{Pool, Shape};

/// What is made of the values under a window.
#[derive(Clone, Copy, Debug)]
pub(super) enum Of {
    /// The largest; padding does not count.
    Largest,
    /// The mean; padding counts as zeros.
    Mean,
}

/// A window that slides over frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sliding {
    pub(super) of: Of,
    pub(super) window: Pool,
    pub(super) from: Shape,
    pub(super) to: Shape,
}

impl Sliding {
    /// The output frames that work lists.
    pub(super) fn run(self, isa: Isa, work: &Work, input: Values<'_>, output: ValuesMut<'_>) {
        isa.run(Slide {
            pool: self,
            work,
            input,
            output,
        });
    }

    /// Makes `end(take(.. take(take(start, a), b) ..))` of the values under each window.
    #[inline(always)]
    fn slide<T: Copy>(
        self,
        work: &Work,
        input: &[T],
        output: &mut [T],
        start: T,
        take: impl Fn(T, T) -> T,
        end: impl Fn(T) -> T,
    ) {
        let Self {
            window, from, to, ..
        } = self;
        let [_, rows, columns] = from.extent;
        let [_, rows_out, columns_out] = to.extent;
        let channels = from.channels;
        let frame_len = rows_out * columns_out * channels;
        let span = |axis: usize, place: usize| -> Range<usize> {
            let begin = place * window.stride[axis];
            let end = (begin + window.kernel[axis]).saturating_sub(window.padding[axis]);
            begin.saturating_sub(window.padding[axis])..end.min(from.extent[axis])
        };
        for (taps, job) in work.jobs() {
            let frame = &mut output[job.output * frame_len..][..frame_len];
            for (place, output) in frame.chunks_exact_mut(channels).enumerate() {
                let (under, beside) = (span(1, place / columns_out), span(2, place % columns_out));
                output.fill(start);
                for t in job.input..job.input + taps.len() {
                    for h in under.clone() {
                        for w in beside.clone() {
                            let begin = ((t * rows + h) * columns + w) * channels;
                            for (a, b) in output.iter_mut().zip(&input[begin..][..channels]) {
                                *a = take(*a, *b);
                            }
                        }
                    }
                }
                for value in output {
                    *value = end(*value);
                }
            }
        }
    }
}

struct Slide<'a> {
    pool: Sliding,
    work: &'a Work,
    input: Values<'a>,
    output: ValuesMut<'a>,
}

impl Task for Slide<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const MR: usize, const NV: usize>(self, _: S) {
        let (pool, work) = (self.pool, self.work);
        // Whatever is called for each value must be inlined, or it is not compiled for
        // the vectors.
        match (pool.of, self.input, self.output) {
            (Of::Largest, Kept::Bf16(input), Kept::Bf16(output)) => pool.slide(
                work,
                input,
                output,
                ordered(half::bf16::NEG_INFINITY.to_bits()),
                #[inline(always)]
                |a, b| {
                    a.cast_signed()
                        .max(ordered(b).cast_signed())
                        .cast_unsigned()
                },
                ordered,
            ),
            (Of::Largest, input, output) => pool.slide(
                work,
                input.f32(),
                output.f32(),
                f32::NEG_INFINITY,
                #[inline(always)]
                |a, b| if b > a { b } else { a },
                #[inline(always)]
                |largest| largest,
            ),
            (Of::Mean, input, output) => {
                let count = pool.window.kernel.iter().product::<usize>() as f32;
                pool.slide(
                    work,
                    input.f32(),
                    output.f32(),
                    0.0,
                    #[inline(always)]
                    |a, b| a + b,
                    #[inline(always)]
                    |sum| sum / count,
                );
            }
        }
    }
}

/// A number of bfloat16 as an integer of the same order, and back: those below zero lie
/// the other way round.
#[inline(always)]
fn ordered(bits: u16) -> u16 {
    let bits = bits.cast_signed();
    (bits ^ (bits >> 15 & i16::MAX)).cast_unsigned()
}

/// The mean over rows and columns of each channel, frame by frame.
pub(super) fn mean_by_frame(from: Shape, work: &Work, input: &[f32], output: &mut [f32]) {
    let frame_len = from.len() / from.extent[0];
    for (_, job) in work.jobs() {
        let frame = &input[job.input * frame_len..][..frame_len];
        let means = &mut output[job.output * from.channels..][..from.channels];
        mean(frame, means);
    }
}

/// The mean over all positions of each channel.
pub(super) fn mean(input: &[f32], output: &mut [f32]) {
    let channels = output.len();
    let positions = (input.len() / channels) as f64;
    for (channel, output) in output.iter_mut().enumerate() {
        // In f64: thousands of values of one sign lose digits in f32.
        let values = input.iter().skip(channel).step_by(channels);
        *output = (values.map(|&value| f64::from(value)).sum::<f64>() / positions) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::super::work::TimeWindow;
    use super::*;

    #[test]
    fn the_largest_in_bfloat16_are_those_in_f32() {
        let shape = |extent| Shape {
            channels: 37,
            extent,
        };
        let pool = Sliding {
            of: Of::Largest,
            window: Pool {
                kernel: [2, 3, 3],
                stride: [1, 2, 1],
                padding: [1, 1, 1],
            },
            from: shape([3, 5, 4]),
            to: shape([4, 3, 4]),
        };
        // Below zero, nearly all of them.
        let bits = |place: usize| {
            let value = (place * 7919 % 1009) as f32 / 100.0 - 9.5;
            half::bf16::from_f32(value).to_bits()
        };
        let input: Vec<u16> = (0..pool.from.len()).map(bits).collect();
        let widen = |bits: &u16| half::bf16::from_bits(*bits).to_f32();
        let in_f32: Vec<f32> = input.iter().map(widen).collect();
        let window = TimeWindow {
            kernel: 2,
            stride: 1,
            padding: 1,
        };
        let work = Work::whole(window, 3, 4);
        let mut found = vec![0; pool.to.len()];
        let mut expected = vec![0.0; pool.to.len()];
        for isa in Isa::all() {
            pool.run(isa, &work, Kept::Bf16(&input), Kept::Bf16(&mut found));
            pool.run(isa, &work, Kept::F32(&in_f32), Kept::F32(&mut expected));
            assert_eq!(found.iter().map(widen).collect::<Vec<_>>(), expected);
            assert!(expected.iter().any(|value| *value < 0.0));
        }
    }

    #[test]
    fn numbers_of_bfloat16_are_put_in_order() {
        let numbers = [
            f32::NEG_INFINITY,
            -3.0,
            -1.0,
            -1e-38,
            -0.0,
            0.0,
            1e-38,
            0.5,
            2.0,
            f32::INFINITY,
        ];
        for a in numbers {
            for b in numbers {
                let place = |value: f32| {
                    let bits = half::bf16::from_f32(value).to_bits();
                    assert_eq!(ordered(ordered(bits)), bits);
                    ordered(bits).cast_signed()
                };
                assert_eq!(place(a).cmp(&place(b)), a.total_cmp(&b), "{a} {b}");
            }
        }
    }
}
