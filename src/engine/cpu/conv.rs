//! Convolutions as matrix products over gathered taps.
//!
//! A few output rows at a time, the input values under each of their taps are
//! gathered into a matrix `[positions, taps]` (im2col, but only as much as stays
//! in cache), which is multiplied by the weights `[taps, C']` onto an output
//! that holds bias and residual already. Sums run over the taps in one order,
//! whatever the thread or the batch.

use super::super::plan::ConvStep;
use super::product::add_product;

/// `output = relu?(conv(input) + bias + residual?)`, all `[T, H, W, C]`.
pub(super) fn convolve(
    step: &ConvStep,
    input: &[f32],
    residual: Option<&[f32]>,
    output: &mut [f32],
    tile: &mut [f32],
) {
    let [_, rows, columns] = step.output.extent;
    let (taps, channels) = (step.taps(), step.conv.channels);
    let at_once = step.rows_at_once();
    let frame_len = rows * columns * channels;
    for (frame, output) in output.chunks_exact_mut(frame_len).enumerate() {
        for (number, output) in output.chunks_mut(at_once * columns * channels).enumerate() {
            let first_row = number * at_once;
            let positions = output.len() / channels;
            match residual {
                Some(residual) => {
                    let begin = frame * frame_len + first_row * columns * channels;
                    let residual = &residual[begin..][..output.len()];
                    for (output, residual) in output
                        .chunks_exact_mut(channels)
                        .zip(residual.chunks_exact(channels))
                    {
                        for ((output, residual), bias) in
                            output.iter_mut().zip(residual).zip(&step.bias)
                        {
                            *output = residual + bias;
                        }
                    }
                }
                None => output
                    .chunks_exact_mut(channels)
                    .for_each(|output| output.copy_from_slice(&step.bias)),
            }
            let tile = &mut tile[..positions * taps];
            for (row, tile) in tile.chunks_exact_mut(columns * taps).enumerate() {
                gather(step, input, frame, first_row + row, tile);
            }
            add_product(tile, &step.weights, output, positions, taps, channels);
            if step.relu {
                for value in output.iter_mut() {
                    *value = value.max(0.0);
                }
            }
        }
    }
}

/// The input values under every tap of one output row: `[columns, taps]`.
fn gather(step: &ConvStep, input: &[f32], frame: usize, row: usize, tile: &mut [f32]) {
    let channels = step.input.channels;
    let [frames, rows, columns] = step.input.extent;
    let ([kt, kh, kw], [st, sh, sw]) = (step.conv.kernel, step.conv.stride);
    let [pt, ph, pw] = step.conv.padding;
    // Index of the input under a tap, or none where it lies in the padding.
    let under = |output: usize, stride: usize, tap: usize, padding: usize, extent: usize| {
        (output * stride + tap)
            .checked_sub(padding)
            .filter(|&index| index < extent)
    };
    for (column, tile) in tile.chunks_exact_mut(step.taps()).enumerate() {
        // Taps that lie beside each other in a row do so in memory, too.
        let begin = (pw.saturating_sub(column * sw)).min(kw);
        let end = (columns + pw).saturating_sub(column * sw).clamp(begin, kw);
        for t in 0..kt {
            let frame = under(frame, st, t, pt, frames);
            for h in 0..kh {
                let run = &mut tile[(t * kh + h) * kw * channels..][..kw * channels];
                match (frame, under(row, sh, h, ph, rows)) {
                    (Some(frame), Some(row)) if begin < end => {
                        let first = (frame * rows + row) * columns + column * sw + begin - pw;
                        let source = &input[first * channels..][..(end - begin) * channels];
                        run[..begin * channels].fill(0.0);
                        run[begin * channels..end * channels].copy_from_slice(source);
                        run[end * channels..].fill(0.0);
                    }
                    _ => run.fill(0.0),
                }
            }
        }
    }
}
