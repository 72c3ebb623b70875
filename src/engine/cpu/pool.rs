//! Pooling: all values are `[T, H, W, C]`.

use super::work::{FrameJob, Work};
use crate::model::{Pool, Shape};
use std::ops::Range;

/// The largest value under each place of a window; padding does not count.
pub(super) fn largest(
    window: Pool,
    from: Shape,
    to: Shape,
    work: &Work,
    input: &[f32],
    output: &mut [f32],
) {
    each_place(window, from, to, work, output, |output, places| {
        output.fill(f32::NEG_INFINITY);
        for place in places {
            for (output, &value) in output.iter_mut().zip(&input[place..]) {
                *output = output.max(value);
            }
        }
    });
}

/// The mean under each place of a window; padding counts as zeros.
pub(super) fn average(
    window: Pool,
    from: Shape,
    to: Shape,
    work: &Work,
    input: &[f32],
    output: &mut [f32],
) {
    let count = window.kernel.iter().product::<usize>() as f32;
    each_place(window, from, to, work, output, |output, places| {
        output.fill(0.0);
        for place in places {
            for (output, &value) in output.iter_mut().zip(&input[place..]) {
                *output += value;
            }
        }
        for value in output {
            *value /= count;
        }
    });
}

/// Every place of the output frames that work lists, with where the channels of
/// each input place under its window begin.
fn each_place(
    window: Pool,
    from: Shape,
    to: Shape,
    work: &Work,
    output: &mut [f32],
    mut visit: impl FnMut(&mut [f32], &mut dyn Iterator<Item = usize>),
) {
    let [_, rows, columns] = from.extent;
    let [_, rows_out, columns_out] = to.extent;
    let channels = from.channels;
    let frame_len = rows_out * columns_out * channels;
    let span = |axis: usize, place: usize| -> Range<usize> {
        let begin = place * window.stride[axis];
        let end = (begin + window.kernel[axis]).saturating_sub(window.padding[axis]);
        begin.saturating_sub(window.padding[axis])..end.min(from.extent[axis])
    };
    for (taps, &FrameJob { input, output: at }) in work.jobs() {
        let frames = input..input + taps.len();
        let frame = &mut output[at * frame_len..][..frame_len];
        for (place, output) in frame.chunks_exact_mut(channels).enumerate() {
            let (under, beside) = (span(1, place / columns_out), span(2, place % columns_out));
            let mut places = frames.clone().flat_map(|t| {
                let beside = beside.clone();
                under.clone().flat_map(move |h| {
                    beside
                        .clone()
                        .map(move |w| ((t * rows + h) * columns + w) * channels)
                })
            });
            visit(output, &mut places);
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
