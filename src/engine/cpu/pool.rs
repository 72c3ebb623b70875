//! Pooling: all values are `[T, H, W, C]`.

use crate::model::{Pool, Shape};

/// The largest value under each place of a window; padding does not count.
pub(super) fn largest(window: Pool, from: Shape, to: Shape, input: &[f32], output: &mut [f32]) {
    let channels = from.channels;
    let [_, rows, columns] = from.extent;
    let [_, rows_out, columns_out] = to.extent;
    // Input places along one axis that lie under the window at `place`.
    let under = |axis: usize, place: usize| {
        let begin = place * window.stride[axis];
        let end = (begin + window.kernel[axis]).saturating_sub(window.padding[axis]);
        begin.saturating_sub(window.padding[axis])..end.min(from.extent[axis])
    };
    for (position, output) in output.chunks_exact_mut(channels).enumerate() {
        let (rest, column) = (position / columns_out, position % columns_out);
        let (frame, row) = (rest / rows_out, rest % rows_out);
        output.fill(f32::NEG_INFINITY);
        for t in under(0, frame) {
            for h in under(1, row) {
                for w in under(2, column) {
                    let place = ((t * rows + h) * columns + w) * channels;
                    for (output, &value) in output.iter_mut().zip(&input[place..][..channels]) {
                        *output = output.max(value);
                    }
                }
            }
        }
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

/// The mean over rows and columns of each channel, frame by frame.
pub(super) fn mean_by_frame(from: Shape, input: &[f32], output: &mut [f32]) {
    let frame_len = from.len() / from.extent[0];
    let frames = input
        .chunks_exact(frame_len)
        .zip(output.chunks_exact_mut(from.channels));
    frames.for_each(|(frame, output)| mean(frame, output));
}
