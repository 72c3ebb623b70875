//! The CPU backend: convolutions as matrix products over gathered taps.
//!
//! A step takes a few output rows at a time, gathers the input values under
//! each of their taps into a matrix `[positions, taps]` (im2col, but only as
//! much as stays in cache), and multiplies it by the weights `[taps, C']` onto
//! an output that holds bias and residual already. Sums run over the taps in
//! one order, whatever the thread or the batch.

use super::Plan;
use super::plan::{ConvStep, Step, Value};

/// Every intermediate value of one clip, and room to gather taps.
#[derive(Debug)]
pub(super) struct Buffers {
    values: Vec<Vec<f32>>,
    tile: Vec<f32>,
}

impl Buffers {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            values: plan.buffers.iter().map(|&len| vec![0.0; len]).collect(),
            tile: vec![0.0; plan.tile],
        }
    }

    /// Where the clip goes: `[T, H, W, C]`.
    pub(super) fn input_mut(&mut self, plan: &Plan) -> &mut [f32] {
        &mut self.values[0][..plan.input_len]
    }

    fn get(&self, value: Value) -> &[f32] {
        &self.values[value.buffer][value.offset..][..value.shape.len()]
    }
}

/// Executes the plan on what lies in the input; gives the last step's output.
pub(super) fn run<'a>(plan: &Plan, buffers: &'a mut Buffers) -> &'a [f32] {
    for step in &plan.steps {
        // The output's buffer is no input's: the plan keeps them apart.
        let place = step.output().buffer;
        let mut output = std::mem::take(&mut buffers.values[place]);
        match step {
            Step::Conv(step) => {
                let mut tile = std::mem::take(&mut buffers.tile);
                let input = buffers.get(step.input);
                let residual = step.residual.map(|value| buffers.get(value));
                convolve(
                    step,
                    input,
                    residual,
                    &mut output[..step.output.shape.len()],
                    &mut tile,
                );
                buffers.tile = tile;
            }
            Step::Pool {
                input,
                output: value,
            } => {
                pool(buffers.get(*input), &mut output[..value.shape.len()]);
            }
            Step::Linear {
                input,
                weights,
                bias,
                ..
            } => {
                linear(weights, bias, buffers.get(*input), &mut output);
            }
        }
        buffers.values[place] = output;
    }
    plan.steps
        .last()
        .map_or(&[], |step| buffers.get(step.output()))
}

fn convolve(
    step: &ConvStep,
    input: &[f32],
    residual: Option<&[f32]>,
    output: &mut [f32],
    tile: &mut [f32],
) {
    let [_, rows, columns] = step.output.shape.extent;
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
    let channels = step.input.shape.channels;
    let [frames, rows, columns] = step.input.shape.extent;
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

/// `c += a * b`, row-major, `a: [m, k]`, `b: [k, n]`, `c: [m, n]`.
fn add_product(a: &[f32], b: &[f32], c: &mut [f32], m: usize, k: usize, n: usize) {
    assert!(
        a.len() == m * k && b.len() == k * n && c.len() == m * n,
        "matrices misshapen"
    );
    let (row_a, row_b, row_c) = (k as isize, n as isize, n as isize);
    // SAFETY: the lengths were checked above against the extents and the
    // row strides given; column strides are 1; `c` is borrowed exclusively.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            1.0,
            a.as_ptr(),
            row_a,
            1,
            b.as_ptr(),
            row_b,
            1,
            1.0,
            c.as_mut_ptr(),
            row_c,
            1,
        );
    }
}

fn pool(input: &[f32], output: &mut [f32]) {
    let channels = output.len().min(input.len());
    let positions = input.len() / channels;
    for (channel, output) in output.iter_mut().enumerate() {
        // In f64: thousands of values of one sign lose digits in f32.
        let sum: f64 = input
            .iter()
            .skip(channel)
            .step_by(channels)
            .map(|&value| f64::from(value))
            .sum();
        *output = (sum / positions as f64) as f32;
    }
}

fn linear(weights: &[f32], bias: &[f32], input: &[f32], output: &mut [f32]) {
    for ((output, bias), weights) in output
        .iter_mut()
        .zip(bias)
        .zip(weights.chunks_exact(input.len()))
    {
        let sum: f64 = weights
            .iter()
            .zip(input)
            .map(|(w, x)| f64::from(*w) * f64::from(*x))
            .sum();
        *output = (sum + f64::from(*bias)) as f32;
    }
}
