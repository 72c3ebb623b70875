//! One step of a program: what it computes, from which values, where to.

use super::conv::{Arithmetic, Convolution, Epilogue, Geometry};
use super::dense::{Lstm, LstmState, Projection};
use super::pool::Of;
use super::product::Isa;
use super::values::{Kept, Place, Values, ValuesMut};
use super::work::{Batch, TimeWindow, Work};
use super::{Buffers, dense, pool};
use crate::engine::plan::Kernel;
use crate::model::{Pool, Shape};

/// A step, with the frames of a whole clip as its work.
#[derive(Debug)]
pub(super) struct Operation {
    /// Of the network's node.
    pub(super) name: String,
    pub(super) input: Place,
    /// A second input, frame by frame beside the output.
    pub(super) residual: Option<Place>,
    pub(super) output: Place,
    pub(super) window: TimeWindow,
    pub(super) whole: Work,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Conv {
        conv: Box<Convolution>,
        /// Multiplications and additions of one tap in time of one output frame.
        cost: usize,
    },
    Pool(pool::Sliding),
    Pointwise {
        scale: Vec<f32>,
        shift: Vec<f32>,
        relu: bool,
    },
    FrameAveragePool(Shape),
    MeanOverFrames,
    Linear {
        weights: Vec<f32>,
        bias: Vec<f32>,
    },
    Projection(Projection),
    Lstm(Lstm),
    LogMeanSoftmax,
}

impl Kind {
    /// From a kernel that is one step, with how it slides over time.
    pub(super) fn new(
        arithmetic: Arithmetic,
        input: Shape,
        output: Shape,
        kernel: Kernel,
    ) -> (TimeWindow, Self) {
        let sliding = |of, window: Pool| {
            let time = TimeWindow {
                kernel: window.kernel[0],
                stride: window.stride[0],
                padding: window.padding[0],
            };
            let (from, to) = (input, output);
            let pool = pool::Sliding {
                of,
                window,
                from,
                to,
            };
            (time, Self::Pool(pool))
        };
        match kernel {
            Kernel::Conv(step) => {
                let conv = step.conv;
                let geometry = Geometry {
                    kernel: conv.kernel,
                    stride: conv.stride,
                    padding: conv.padding,
                    input: input.extent,
                    output: output.extent,
                    channels: input.channels,
                    filters: output.channels,
                };
                let window = TimeWindow {
                    kernel: conv.kernel[0],
                    stride: conv.stride[0],
                    padding: conv.padding[0],
                };
                let taps = conv.kernel[1] * conv.kernel[2];
                let cost = geometry.area() * taps * input.channels / conv.groups * output.channels;
                let epilogue = Epilogue {
                    bias: step.bias,
                    relu: step.relu,
                };
                let conv = Convolution::new(arithmetic, geometry, &step.weights, epilogue);
                let conv = Box::new(conv);
                (window, Self::Conv { conv, cost })
            }
            Kernel::MaxPool(pool) => sliding(Of::Largest, pool),
            Kernel::AveragePool(pool) => sliding(Of::Mean, pool),
            Kernel::Pointwise {
                scale, shift, relu, ..
            } => (TimeWindow::FRAME, Self::Pointwise { scale, shift, relu }),
            Kernel::FrameAveragePool => (TimeWindow::FRAME, Self::FrameAveragePool(input)),
            Kernel::Linear { weights, bias } => (TimeWindow::FRAME, Self::Linear { weights, bias }),
            Kernel::LogMeanSoftmax => (TimeWindow::over(input.extent[0]), Self::LogMeanSoftmax),
            Kernel::GlobalAveragePool | Kernel::Lstm(_) => {
                unreachable!("these are several steps")
            }
        }
    }

    pub(super) fn weight_bytes(&self) -> usize {
        match self {
            Self::Conv { conv, .. } => conv.weight_bytes(),
            Self::Linear { weights, .. } => size_of_val(weights.as_slice()),
            Self::Projection(projection) => projection.weight_bytes(),
            Self::Lstm(lstm) => lstm.weight_bytes(),
            _ => 0,
        }
    }

    /// What is computed, and how.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Conv { conv, .. } => conv.method(),
            Self::Pool(pool) => match pool.of {
                Of::Largest => "max",
                Of::Mean => "mean",
            },
            Self::Pointwise { .. } => "by channel",
            Self::FrameAveragePool(_) => "mean of each frame",
            Self::MeanOverFrames => "mean over frames",
            Self::Linear { .. } => "linear",
            Self::Projection(_) => "lstm, projection",
            Self::Lstm(_) => "lstm, recurrence",
            Self::LogMeanSoftmax => "log mean softmax",
        }
    }

    /// How a convolution is computed.
    pub(super) fn method(&self) -> Option<&'static str> {
        match self {
            Self::Conv { conv, .. } => Some(conv.method()),
            _ => None,
        }
    }
}

impl Operation {
    pub(super) fn scratch_len(&self) -> usize {
        match &self.kind {
            Kind::Conv { conv, .. } => conv.scratch_len(Batch::of_one(&self.whole)),
            _ => 0,
        }
    }

    /// Multiplications and additions of one tap in time of one output frame.
    pub(super) fn cost(&self) -> u64 {
        let cost = match &self.kind {
            Kind::Conv { cost, .. } => *cost,
            Kind::Linear { weights, .. } => weights.len(),
            Kind::Projection(projection) => projection.cost(),
            // A tap is a frame.
            Kind::Lstm(lstm) => lstm.cost(),
            _ => 0,
        };
        cost as u64
    }

    /// Values of one output frame.
    pub(super) fn frame_len(&self) -> usize {
        let shape = self.output.value.shape;
        shape.len() / shape.extent[0]
    }

    /// Bytes of one output frame.
    pub(super) fn frame_bytes(&self) -> usize {
        self.output.format.bytes(self.frame_len())
    }

    /// Computes the frames that `work` lists, in the first so many clips.
    pub(super) fn run(&self, isa: Isa, work: &Work, clips: usize, buffers: &mut Buffers) {
        // Taken out while it is written: the plan never lets a step read the
        // buffer that it writes.
        let number = self.output.value.buffer;
        let mut buffer = std::mem::take(&mut buffers.values[number]);
        let mut scratch = std::mem::take(&mut buffers.scratch);
        let mut lstm = std::mem::take(&mut buffers.lstm);
        if let Kind::Conv { conv, .. } = &self.kind {
            let batch = Batch {
                work,
                clips,
                pitch: buffers.pitch,
            };
            let taps: usize = work.jobs().map(|(taps, _)| taps.len()).sum();
            let team = &buffers.team;
            team.expect((clips * taps) as u64 * self.cost() / conv.speed());
            let input = buffers.of_all(self.input, clips);
            let residual = self.residual.map(|place| buffers.of_all(place, clips));
            let output = self.output.format.of_mut(&mut buffer);
            conv.run(isa, team, batch, input, residual, output, &mut scratch);
        } else {
            for clip in 0..clips {
                let residual = self.residual.map(|place| buffers.values(clip, place));
                let output = self.output.format.of_mut(&mut buffer);
                let len = self.output.value.shape.len();
                self.run_clip(
                    isa,
                    work,
                    buffers.values(clip, self.input),
                    residual,
                    output.part(clip * buffers.pitch, len),
                    &mut lstm,
                );
            }
        }
        buffers.values[number] = buffer;
        buffers.scratch = scratch;
        buffers.lstm = lstm;
    }

    /// One clip's, of what is not a convolution.
    fn run_clip(
        &self,
        isa: Isa,
        work: &Work,
        input: Values<'_>,
        residual: Option<Values<'_>>,
        output: ValuesMut<'_>,
        lstm: &mut LstmState,
    ) {
        if let Kind::Pool(pool) = &self.kind {
            return pool.run(isa, work, input, output);
        }
        let (input, residual, output) = (input.f32(), residual.map(Kept::f32), output.f32());
        match &self.kind {
            Kind::Conv { .. } | Kind::Pool(_) => unreachable!("done elsewhere"),
            Kind::Pointwise { scale, shift, relu } => {
                let len = self.frame_len();
                for (_, job) in work.jobs() {
                    let begin = job.output * len;
                    let residual = residual.map(|residual| &residual[begin..][..len]);
                    let (input, output) = (&input[begin..][..len], &mut output[begin..][..len]);
                    pointwise(scale, shift, residual, *relu, input, output);
                }
            }
            Kind::FrameAveragePool(from) => pool::mean_by_frame(*from, work, input, output),
            Kind::MeanOverFrames => pool::mean(input, output),
            Kind::Linear { weights, bias } => dense::linear(weights, bias, work, input, output),
            Kind::Projection(projection) => projection.run(work, input, output, lstm),
            Kind::Lstm(layers) => layers.run(input, output, lstm),
            Kind::LogMeanSoftmax => dense::log_mean_softmax(input, output),
        }
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
