//! The CPU backend: a plan with its weights packed for this machine's vectors,
//! executed one clip at a time.
//!
//! `product.rs` is the arithmetic, once for every instruction set; `direct.rs`
//! and `winograd.rs` are two ways to make a convolution of it; `team.rs` shares
//! one clip among threads. Everything sums in one order: the same clip gives the
//! same bits on one machine, whatever the number of threads.

#![allow(
    clippy::inline_always,
    reason = "what is not inlined is not compiled for the vectors that were found"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "the loops are those of the formulas, index by index"
)]

mod conv;
mod dense;
mod direct;
mod pool;
mod product;
mod team;
mod winograd;

use super::plan::{Kernel, Plan, Step, Value};
use crate::model::{Pool, Shape};
use conv::{Convolution, Epilogue, Geometry};
use dense::{LstmLayer, LstmState};
use product::Isa;
pub(super) use product::Storage;
pub(super) use team::Team;

/// A network, ready for this machine.
#[derive(Debug)]
pub(super) struct Program {
    isa: Isa,
    steps: Vec<Operation>,
    /// Length of each buffer, in values. Buffer 0 is the input.
    buffers: Vec<usize>,
    /// The most scratch memory that a step asks for, in values.
    scratch: usize,
    input_len: usize,
}

#[derive(Debug)]
struct Operation {
    input: Value,
    output: Value,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Conv {
        conv: Box<Convolution>,
        residual: Option<Value>,
    },
    MaxPool(Pool, Shape, Shape),
    AveragePool(Pool, Shape, Shape),
    Pointwise {
        scale: Vec<f32>,
        shift: Vec<f32>,
        other: Option<Value>,
        relu: bool,
    },
    GlobalAveragePool,
    FrameAveragePool(Shape),
    Linear {
        weights: Vec<f32>,
        bias: Vec<f32>,
    },
    Lstm(Vec<LstmLayer>),
    LogMeanSoftmax,
}

/// Every intermediate value of one clip, and scratch for the steps.
#[derive(Debug)]
pub(super) struct Buffers {
    values: Vec<Vec<f32>>,
    scratch: Vec<f32>,
    lstm: LstmState,
    team: Team,
}

impl Program {
    /// Packs a plan's weights.
    pub(super) fn new(plan: Plan, storage: Storage) -> Self {
        let isa = Isa::detect();
        let steps: Vec<_> = plan
            .steps
            .into_iter()
            .map(|step| Operation::new(isa, storage, step))
            .collect();
        let scratch = steps.iter().map(|step| match &step.kind {
            Kind::Conv { conv, .. } => conv.scratch_len(),
            _ => 0,
        });
        Self {
            isa,
            scratch: scratch.max().unwrap_or(0),
            steps,
            buffers: plan.buffers,
            input_len: plan.input_len,
        }
    }

    /// The instruction set, for people.
    pub(super) fn isa(&self) -> &'static str {
        self.isa.name()
    }

    /// Bytes of packed weights.
    pub(super) fn weight_bytes(&self) -> usize {
        self.steps.iter().map(Operation::weight_bytes).sum()
    }

    /// Bytes of memory that each thread that scores clips takes.
    pub(super) fn workspace_bytes(&self) -> usize {
        (self.buffers.iter().sum::<usize>() + self.scratch) * size_of::<f32>()
    }

    /// How each convolution is computed, in order.
    pub(super) fn methods(&self) -> impl Iterator<Item = &'static str> {
        self.steps.iter().filter_map(|step| match &step.kind {
            Kind::Conv { conv, .. } => Some(conv.method()),
            _ => None,
        })
    }

    /// Executes the network on what lies in the input; gives the last step's
    /// output.
    pub(super) fn run<'a>(&self, buffers: &'a mut Buffers) -> &'a [f32] {
        for step in &self.steps {
            // Taken out while it is written: the plan never lets a step read the
            // buffer that it writes.
            let mut buffer = std::mem::take(&mut buffers.values[step.output.buffer]);
            let mut scratch = std::mem::take(&mut buffers.scratch);
            let mut lstm = std::mem::take(&mut buffers.lstm);
            let output = &mut buffer[..step.output.shape.len()];
            let input = buffers.get(step.input);
            match &step.kind {
                Kind::Conv { conv, residual } => {
                    let residual = residual.map(|value| buffers.get(value));
                    conv.run(
                        self.isa,
                        &buffers.team,
                        input,
                        residual,
                        output,
                        &mut scratch,
                    );
                }
                Kind::MaxPool(window, from, to) => {
                    pool::largest(*window, *from, *to, input, output);
                }
                Kind::AveragePool(window, from, to) => {
                    pool::average(*window, *from, *to, input, output);
                }
                Kind::Pointwise {
                    scale,
                    shift,
                    other,
                    relu,
                } => {
                    let other = other.map(|value| buffers.get(value));
                    pointwise(scale, shift, other, *relu, input, output);
                }
                Kind::GlobalAveragePool => pool::mean(input, output),
                Kind::FrameAveragePool(from) => pool::mean_by_frame(*from, input, output),
                Kind::Linear { weights, bias } => dense::linear(weights, bias, input, output),
                Kind::Lstm(layers) => dense::lstm(self.isa, layers, input, output, &mut lstm),
                Kind::LogMeanSoftmax => dense::log_mean_softmax(input, output),
            }
            buffers.values[step.output.buffer] = buffer;
            buffers.scratch = scratch;
            buffers.lstm = lstm;
        }
        self.steps
            .last()
            .map_or(&[], |step| buffers.get(step.output))
    }
}

impl Operation {
    fn new(isa: Isa, storage: Storage, step: Step) -> Self {
        let kind = match step.kernel {
            Kernel::Conv(conv) => {
                let geometry = Geometry {
                    kernel: conv.conv.kernel,
                    stride: conv.conv.stride,
                    padding: conv.conv.padding,
                    input: conv.input.extent,
                    output: conv.output.extent,
                    channels: conv.input.channels,
                    filters: conv.output.channels,
                };
                let residual = conv.residual;
                let epilogue = Epilogue {
                    bias: conv.bias,
                    relu: conv.relu,
                };
                let weights = &conv.weights;
                let conv = Convolution::new(isa, storage, geometry, weights, epilogue);
                Kind::Conv {
                    conv: Box::new(conv),
                    residual,
                }
            }
            Kernel::MaxPool(window) => Kind::MaxPool(window, step.input.shape, step.output.shape),
            Kernel::AveragePool(window) => {
                Kind::AveragePool(window, step.input.shape, step.output.shape)
            }
            Kernel::Pointwise {
                scale,
                shift,
                other,
                relu,
            } => Kind::Pointwise {
                scale,
                shift,
                other,
                relu,
            },
            Kernel::GlobalAveragePool => Kind::GlobalAveragePool,
            Kernel::FrameAveragePool => Kind::FrameAveragePool(step.input.shape),
            Kernel::Linear { weights, bias } => Kind::Linear { weights, bias },
            Kernel::Lstm(layers) => {
                let layers = layers.into_iter();
                Kind::Lstm(
                    layers
                        .map(|layer| LstmLayer::new(isa, storage, layer))
                        .collect(),
                )
            }
            Kernel::LogMeanSoftmax => Kind::LogMeanSoftmax,
        };
        Self {
            input: step.input,
            output: step.output,
            kind,
        }
    }

    fn weight_bytes(&self) -> usize {
        match &self.kind {
            Kind::Conv { conv, .. } => conv.weight_bytes(),
            Kind::Linear { weights, .. } => weights.len() * size_of::<f32>(),
            Kind::Lstm(layers) => layers.iter().map(LstmLayer::weight_bytes).sum(),
            _ => 0,
        }
    }
}

impl Buffers {
    /// Memory for one clip at a time, which the team works on.
    pub(super) fn new(program: &Program, team: Team) -> Self {
        let values = program.buffers.iter().map(|&len| vec![0.0; len]);
        Self {
            values: values.collect(),
            scratch: vec![0.0; program.scratch],
            lstm: LstmState::default(),
            team,
        }
    }

    /// Where the clip goes: `[T, H, W, C]`.
    pub(super) fn input_mut(&mut self, program: &Program) -> &mut [f32] {
        &mut self.values[0][..program.input_len]
    }

    fn get(&self, value: Value) -> &[f32] {
        &self.values[value.buffer][value.offset..][..value.shape.len()]
    }
}

/// `output = relu?(input * scale + shift + other?)`, channel by channel.
fn pointwise(
    scale: &[f32],
    shift: &[f32],
    other: Option<&[f32]>,
    relu: bool,
    input: &[f32],
    output: &mut [f32],
) {
    let channels = scale.len();
    let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
    for (place, (output, input)) in output
        .chunks_exact_mut(channels)
        .zip(input.chunks_exact(channels))
        .enumerate()
    {
        let other = other.map(|other| &other[place * channels..][..channels]);
        for channel in 0..channels {
            let other = other.map_or(0.0, |other| other[channel]);
            let value = input[channel] * scale[channel] + shift[channel] + other;
            output[channel] = value.max(floor);
        }
    }
}

#[cfg(test)]
mod tests;
