//! The CPU backend: executes a plan, one clip at a time, on the calling thread.

mod conv;
mod dense;
mod pool;
mod product;

use super::Plan;
use super::plan::{Kernel, Value};

/// Every intermediate value of one clip, and scratch for the steps.
#[derive(Debug)]
pub(super) struct Buffers {
    values: Vec<Vec<f32>>,
    /// Room to gather taps.
    tile: Vec<f32>,
    lstm: dense::LstmState,
}

impl Buffers {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            values: plan.buffers.iter().map(|&len| vec![0.0; len]).collect(),
            tile: vec![0.0; plan.tile],
            lstm: dense::LstmState::default(),
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
        // Taken out while it is written: the plan never lets a step read the
        // buffer that it writes.
        let mut buffer = std::mem::take(&mut buffers.values[step.output.buffer]);
        let mut tile = std::mem::take(&mut buffers.tile);
        let mut lstm = std::mem::take(&mut buffers.lstm);
        let output = &mut buffer[..step.output.shape.len()];
        let input = buffers.get(step.input);
        match &step.kernel {
            Kernel::Conv(conv) => {
                let residual = conv.residual.map(|value| buffers.get(value));
                conv::convolve(conv, input, residual, output, &mut tile);
            }
            Kernel::MaxPool(window) => {
                pool::largest(*window, step.input.shape, step.output.shape, input, output);
            }
            Kernel::GlobalAveragePool => pool::mean(input, output),
            Kernel::FrameAveragePool => pool::mean_by_frame(step.input.shape, input, output),
            Kernel::Linear { weights, bias } => dense::linear(weights, bias, input, output),
            Kernel::Lstm(layers) => dense::lstm(layers, input, output, &mut lstm),
            Kernel::LogMeanSoftmax => dense::log_mean_softmax(input, output),
        }
        buffers.values[step.output.buffer] = buffer;
        buffers.tile = tile;
        buffers.lstm = lstm;
    }
    plan.steps
        .last()
        .map_or(&[], |step| buffers.get(step.output))
}
