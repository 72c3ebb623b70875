//! Pooling: all values are `[T, H, W, C]`.

use std::ops::Range;

use pulp::Simd;

use super::product::{Isa, Task};
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
    pub(super) fn run(self, isa: Isa, work: &Work, input: &[f32], output: &mut [f32]) {
        isa.run(Slide {
            pool: self,
            work,
            input,
            output,
        });
    }
}

struct Slide<'a> {
    pool: Sliding,
    work: &'a Work,
    input: &'a [f32],
    output: &'a mut [f32],
}

impl Task for Slide<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const MR: usize, const NV: usize>(self, _: S) {
        let Sliding {
            of,
            window,
            from,
            to,
        } = self.pool;
        let [_, rows, columns] = from.extent;
        let [_, rows_out, columns_out] = to.extent;
        let channels = from.channels;
        let frame_len = rows_out * columns_out * channels;
        let span = |axis: usize, place: usize| -> Range<usize> {
            let begin = place * window.stride[axis];
            let end = (begin + window.kernel[axis]).saturating_sub(window.padding[axis]);
            begin.saturating_sub(window.padding[axis])..end.min(from.extent[axis])
        };
        let count = window.kernel.iter().product::<usize>() as f32;
        for (taps, job) in self.work.jobs() {
            let frame = &mut self.output[job.output * frame_len..][..frame_len];
            for (place, output) in frame.chunks_exact_mut(channels).enumerate() {
                let (under, beside) = (span(1, place / columns_out), span(2, place % columns_out));
                output.fill(match of {
                    Of::Largest => f32::NEG_INFINITY,
                    Of::Mean => 0.0,
                });
                for t in job.input..job.input + taps.len() {
                    for h in under.clone() {
                        for w in beside.clone() {
                            let begin = ((t * rows + h) * columns + w) * channels;
                            let input = &self.input[begin..][..channels];
                            let values = output.iter_mut().zip(input);
                            match of {
                                Of::Largest => values.for_each(|(a, b)| *a = a.max(*b)),
                                Of::Mean => values.for_each(|(a, b)| *a += b),
                            }
                        }
                    }
                }
                if matches!(of, Of::Mean) {
                    for value in output {
                        *value /= count;
                    }
                }
            }
        }
    }
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
