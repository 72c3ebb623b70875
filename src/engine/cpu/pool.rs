//! Pooling: all values are `[T, H, W, C]`.

use crate::model::{Pool, Shape};

/// The largest value under each place of a window; padding does not count.
pub(super) fn largest(window: Pool, from: Shape, to: Shape, input: &[f32], output: &mut [f32]) {
    let places = output.chunks_exact_mut(from.channels).enumerate();
    for (position, output) in places {
        output.fill(f32::NEG_INFINITY);
        under(window, from, to, position, |place| {
            for (output, &value) in output.iter_mut().zip(&input[place..]) {
                *output = output.max(value);
            }
        });
    }
}

/// The mean under each place of a window; padding counts as zeros.
pub(super) fn average(window: Pool, from: Shape, to: Shape, input: &[f32], output: &mut [f32]) {
    let count = window.kernel.iter().product::<usize>() as f32;
    let places = output.chunks_exact_mut(from.channels).enumerate();
    for (position, output) in places {
        output.fill(0.0);
        under(window, from, to, position, |place| {
            for (output, &value) in output.iter_mut().zip(&input[place..]) {
                *output += value;
            }
        });
        for value in output.iter_mut() {
            *value /= count;
        }
    }
}

/// Where the channels of every input place under a window begin.
fn under(window: Pool, from: Shape, to: Shape, position: usize, mut visit: impl FnMut(usize)) {
    let [_, rows, columns] = from.extent;
    let [_, rows_out, columns_out] = to.extent;
    let span = |axis: usize, place: usize| {
        let begin = place * window.stride[axis];
        let end = (begin + window.kernel[axis]).saturating_sub(window.padding[axis]);
        begin.saturating_sub(window.padding[axis])..end.min(from.extent[axis])
    };
    let (rest, column) = (position / columns_out, position % columns_out);
    let (frame, row) = (rest / rows_out, rest % rows_out);
    for t in span(0, frame) {
        for h in span(1, row) {
            for w in span(2, column) {
                visit(((t * rows + h) * columns + w) * from.channels);
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
