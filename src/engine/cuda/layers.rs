//! The steps of a plan as layers on a card: weights packed and uploaded, values
//! placed in buffers.

use std::ops::Range;
use std::sync::Arc;

use super::kernels::{self, Activations, Conv, Of, Recurrence, Way, Window};
use super::launch::{Card, Memory};
use super::weights::{self, CHANNELS, Matrix};
use super::{CudaError, Precision};
use crate::engine::plan::{ConvStep, Kernel, LstmLayer, Step, Value};
use crate::engine::window::TimeWindow;
use crate::model::{InputSpec, Shape};

/// A value in a buffer, `[N, T, H, W, channels]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) buffer: usize,
    /// Bytes from the buffer's beginning.
    pub(super) offset: usize,
    /// Values from one clip's to the next one's.
    pub(super) clip: usize,
    pub(super) channels: usize,
    pub(super) extent: [usize; 3],
    pub(super) is_f32: bool,
}

/// One step of a plan, with its weights on the card.
#[derive(Debug)]
pub(super) enum Layer {
    Conv {
        conv: Conv,
        /// In place of `conv` where grey pictures come in.
        stem: Option<Box<Conv>>,
        input: Place,
        residual: Option<Place>,
        output: Place,
    },
    WindowPool {
        of: Of,
        window: Window,
        input: Place,
        output: Place,
    },
    Pointwise {
        layer: kernels::Pointwise,
        input: Place,
        other: Option<Place>,
        output: Place,
    },
    MeanPool {
        by_frame: bool,
        input: Place,
        output: Place,
    },
    Linear {
        layer: kernels::Linear,
        input: Place,
        output: Place,
    },
    /// An LSTM from its first layer's projection on, which is a convolution
    /// before it: it knows nothing of other frames.
    Lstm {
        first: Recurrence,
        above: Vec<(Conv, Recurrence)>,
        frames: usize,
        input: Place,
        output: Place,
    },
    LogMeanSoftmax {
        frames: usize,
        classes: usize,
        input: Place,
        output: Place,
    },
}

impl Layer {
    pub(super) fn output(&self) -> &Place {
        match self {
            Self::Conv { output, .. }
            | Self::WindowPool { output, .. }
            | Self::Pointwise { output, .. }
            | Self::MeanPool { output, .. }
            | Self::Linear { output, .. }
            | Self::Lstm { output, .. }
            | Self::LogMeanSoftmax { output, .. } => output,
        }
    }

    /// What is read beside the input, frame by frame as the output.
    pub(super) fn residual(&self) -> Option<&Place> {
        match self {
            Self::Conv { residual, .. } => residual.as_ref(),
            Self::Pointwise { other, .. } => other.as_ref(),
            _ => None,
        }
    }

    pub(super) fn input(&self) -> &Place {
        let (Self::Conv { input, .. }
        | Self::WindowPool { input, .. }
        | Self::Pointwise { input, .. }
        | Self::MeanPool { input, .. }
        | Self::Linear { input, .. }
        | Self::Lstm { input, .. }
        | Self::LogMeanSoftmax { input, .. }) = self;
        input
    }

    pub(super) fn reads(&self, buffer: usize) -> bool {
        let is_there = |place: &Place| place.buffer == buffer;
        is_there(self.input()) || self.residual().is_some_and(is_there)
    }

    /// How it slides over time.
    pub(super) fn window(&self) -> TimeWindow {
        match self {
            Self::Conv {
                conv: Conv { window, .. },
                ..
            }
            | Self::WindowPool { window, .. } => TimeWindow {
                kernel: window.kernel[0],
                stride: window.stride[0],
                padding: window.padding[0],
            },
            Self::Pointwise { .. }
            | Self::Linear { .. }
            | Self::MeanPool { by_frame: true, .. } => TimeWindow::FRAME,
            Self::MeanPool { input, .. }
            | Self::Lstm { input, .. }
            | Self::LogMeanSoftmax { input, .. } => TimeWindow::over(input.extent[0]),
        }
    }
}

impl Place {
    /// On a card, in a buffer at this address.
    pub(super) fn at(&self, buffer: u64) -> Activations {
        self.frames(buffer, 0..self.extent[0])
    }

    /// Some of its frames, of every clip.
    pub(super) fn frames(&self, buffer: u64, frames: Range<usize>) -> Activations {
        let [_, rows, columns] = self.extent;
        Activations {
            address: buffer + (self.offset + frames.start * self.frame_bytes()) as u64,
            clip: self.clip,
            channels: self.channels,
            extent: [frames.len(), rows, columns],
        }
    }

    /// Bytes of one value.
    pub(super) fn value_bytes(&self) -> usize {
        if self.is_f32 { 4 } else { 2 }
    }

    /// Bytes of one frame of one clip.
    pub(super) fn frame_bytes(&self) -> usize {
        let [_, rows, columns] = self.extent;
        rows * columns * self.channels * self.value_bytes()
    }
}

/// Multiplications and additions of one tap in time of one output frame of a
/// step's layers, in their order.
pub(super) fn costs(step: &Step) -> Vec<usize> {
    match &step.kernel {
        Kernel::Conv(conv) => {
            let [_, rows, columns] = conv.output.extent;
            let [_, taps_down, taps_across] = conv.conv.kernel;
            let taps = taps_down * taps_across * conv.input.channels / conv.conv.groups;
            vec![rows * columns * taps * conv.output.channels]
        }
        Kernel::Linear { weights, .. } => vec![weights.len()],
        Kernel::Lstm(layers) => {
            let projections = layers.iter().map(|layer| layer.input.len());
            let recurrences = layers.iter().map(|layer| layer.recurrent.len());
            let first = layers.first().map_or(0, |layer| layer.input.len());
            vec![first, projections.chain(recurrences).sum::<usize>() - first]
        }
        _ => vec![0],
    }
}

pub(super) fn value_bytes(precision: Precision) -> usize {
    if precision == Precision::F32 { 4 } else { 2 }
}

/// Segments that a sum over `k` is cut into, in a layer with so few tiles that
/// one clip cannot fill a card. By the clip's shape alone: the same bits on
/// every card and in every batch.
fn segment_of(
    window: Window,
    channels: usize,
    k: usize,
    positions: usize,
    outputs: usize,
) -> usize {
    /// Multiprocessors of a data centre's card, about.
    const BLOCKS: usize = 128;
    /// Of k, at the least: below, adding the segments costs more than it saves.
    const SHORTEST: usize = 512;
    // Channels out of a tile that is split on Hopper; others have twice as many tiles then.
    // `conv_halo.cu` adds no segments: what it is for has one, if its tiles fill a card.
    let width = if kernels::halo_suits(window, channels) {
        64
    } else {
        128
    };
    let tiles = positions.div_ceil(128) * outputs.div_ceil(width);
    let segments = (BLOCKS / tiles).min(k / SHORTEST).max(1);
    k.div_ceil(segments).next_multiple_of(64)
}

/// Lays a plan out, step by step.
pub(super) struct Builder<'a> {
    pub(super) card: &'a Arc<dyn Card>,
    pub(super) precision: Precision,
    pub(super) spec: &'a InputSpec,
    pub(super) weights: Vec<Memory>,
    pub(super) buffers: Vec<usize>,
    /// What each buffer holds at this step, and whether it is the input.
    pub(super) held: Vec<Option<(Place, bool)>>,
}

impl Builder<'_> {
    pub(super) fn upload(
        &mut self,
        values: &[f32],
        precision: Precision,
    ) -> Result<u64, CudaError> {
        let largest = match precision {
            Precision::F32 => f32::MAX,
            Precision::F16 => f32::from(half::f16::MAX),
            Precision::Bf16 => f32::from(half::bf16::MAX),
        };
        // Not a number fails the comparison, too.
        if !values.iter().all(|value| value.abs() <= largest) {
            return Err(CudaError::Weights { precision });
        }
        let memory = Memory::of(self.card, &weights::rounded(values, precision))?;
        let address = memory.address();
        self.weights.push(memory);
        Ok(address)
    }

    /// Where a value of the plan lies now.
    pub(super) fn place(&self, value: Value) -> Option<Place> {
        let (held, _) = self.held.get(value.buffer).copied().flatten()?;
        let bytes = if held.is_f32 {
            4
        } else {
            value_bytes(self.precision)
        };
        Some(Place {
            offset: value.offset / value.shape.channels * held.channels * bytes,
            extent: value.shape.extent,
            ..held
        })
    }

    /// Room for a step's value, which the buffer holds from now on.
    pub(super) fn put(&mut self, value: Value, channels: usize, is_f32: bool) -> Place {
        let bytes = if is_f32 {
            4
        } else {
            value_bytes(self.precision)
        };
        let place = Place {
            buffer: value.buffer,
            offset: 0,
            clip: value.shape.positions() * channels,
            channels,
            extent: value.shape.extent,
            is_f32: is_f32 || self.precision == Precision::F32,
        };
        let room = &mut self.buffers[value.buffer];
        *room = (*room).max(place.clip * bytes);
        self.held[value.buffer] = Some((place, false));
        place
    }

    fn conv(&mut self, step: &ConvStep, input: Place) -> Result<(Conv, Option<Conv>), CudaError> {
        let outputs = step.output.channels.next_multiple_of(CHANNELS);
        let matrix = Matrix {
            values: &step.weights,
            taps: step.conv.kernel.iter().product(),
            channels: step.input.channels,
            outputs: step.output.channels,
        };
        let mut bias = step.bias.clone();
        bias.resize(outputs, 0.0);
        let packed = matrix.packed(self.precision, input.channels, outputs);
        let window = Window {
            kernel: step.conv.kernel,
            stride: step.conv.stride,
            padding: step.conv.padding,
        };
        let positions = step.output.positions();
        let conv = Conv {
            window,
            weights: self.upload(&packed.values, self.precision)?,
            bias: self.upload(&bias, Precision::F32)?,
            k: packed.k,
            segment: segment_of(window, input.channels, packed.k, positions, outputs),
            way: Way::of(self.card.limits()),
            relu: step.relu,
            output_is_f32: false,
            centre: None,
        };
        let of_input = self.held[input.buffer].is_some_and(|(_, is_input)| is_input);
        if !of_input || input.offset > 0 || self.precision == Precision::F32 {
            return Ok((conv, None));
        }
        let centre = weights::centre_of(&self.spec.mean);
        let packed = matrix.packed_for_grey(&self.spec.mean, &self.spec.std, centre, outputs);
        if !kernels::stem_fits(conv.window, packed.k, self.card.limits()) {
            return Ok((conv, None));
        }
        let stem = Conv {
            weights: self.upload(&packed.values, self.precision)?,
            k: packed.k,
            segment: packed.k,
            centre: Some(centre),
            ..conv
        };
        Ok((conv, Some(stem)))
    }

    fn lstm_layer(
        &mut self,
        layer: &LstmLayer,
        channels: usize,
    ) -> Result<(Conv, Recurrence), CudaError> {
        let hidden = layer.hidden.next_multiple_of(16);
        let wide = weights::padded_gates(&layer.input, layer.features, layer.hidden, hidden);
        let packed = Matrix {
            values: &wide,
            taps: 1,
            channels: layer.features,
            outputs: 4 * hidden,
        }
        .packed(self.precision, channels, 4 * hidden);
        let bias = weights::padded_gates(&layer.bias, 1, layer.hidden, hidden);
        let projection = Conv {
            window: Window {
                kernel: [1; 3],
                stride: [1; 3],
                padding: [0; 3],
            },
            weights: self.upload(&packed.values, self.precision)?,
            bias: self.upload(&bias, Precision::F32)?,
            k: packed.k,
            segment: packed.k,
            way: Way::of(self.card.limits()),
            relu: false,
            output_is_f32: true,
            centre: None,
        };
        let limits = self.card.limits();
        let units = kernels::lstm_units(self.precision, hidden, limits).ok_or(CudaError::Plan {
            problem: "an LSTM has more hidden units than the card can compute at once",
        })?;
        let packed = weights::recurrent(
            &layer.recurrent,
            layer.hidden,
            hidden,
            units,
            self.precision,
        );
        let precision = self.precision;
        let asked_for = |error| match error {
            CudaError::Weights { .. } => CudaError::Weights { precision },
            other => other,
        };
        let recurrence = Recurrence {
            recurrent: self
                .upload(&packed, weights::recurrent_type(self.precision))
                .map_err(asked_for)?,
            hidden,
            units,
            clusters: limits.clusters,
        };
        Ok((projection, recurrence))
    }

    /// Adds one step's layers; `next` are the steps behind it.
    pub(super) fn add(
        &mut self,
        step: &Step,
        next: &[Step],
        layers: &mut Vec<Layer>,
    ) -> Result<(), CudaError> {
        let misplaced = || CudaError::Plan {
            problem: "a value is read before it is written",
        };
        let input = self.place(step.input).ok_or_else(misplaced)?;
        let padded = step.output.shape.channels.next_multiple_of(CHANNELS);
        let wants = |is_f32: bool| {
            if input.is_f32 == is_f32 || self.precision == Precision::F32 {
                return Ok(());
            }
            Err(CudaError::Plan {
                problem: "a layer of the head lies between convolutions",
            })
        };
        // Rows of all clips lie behind one another.
        let whole = || {
            if input.offset == 0
                && input.clip == input.extent.iter().product::<usize>() * input.channels
            {
                return Ok(());
            }
            Err(CudaError::Plan {
                problem: "the head reads a part of a value",
            })
        };
        let layer = match &step.kernel {
            Kernel::Conv(conv) => {
                wants(false)?;
                let residual = match conv.residual {
                    Some(value) => Some(self.place(value).ok_or_else(misplaced)?),
                    None => None,
                };
                let (conv, stem) = self.conv(conv, input)?;
                Layer::Conv {
                    conv,
                    stem: stem.map(Box::new),
                    input,
                    residual,
                    output: self.put(step.output, padded, false),
                }
            }
            Kernel::MaxPool(pool) | Kernel::AveragePool(pool) => {
                wants(false)?;
                Layer::WindowPool {
                    of: match step.kernel {
                        Kernel::MaxPool(_) => Of::Largest,
                        _ => Of::Mean,
                    },
                    window: Window {
                        kernel: pool.kernel,
                        stride: pool.stride,
                        padding: pool.padding,
                    },
                    input,
                    output: self.put(step.output, padded, false),
                }
            }
            Kernel::Pointwise {
                scale,
                shift,
                other,
                relu,
            } => {
                let wide = |values: &[f32]| {
                    let mut values = values.to_vec();
                    values.resize(input.channels, 0.0);
                    values
                };
                let layer = kernels::Pointwise {
                    scale: self.upload(&wide(scale), Precision::F32)?,
                    shift: self.upload(&wide(shift), Precision::F32)?,
                    relu: *relu,
                };
                let other = match other {
                    Some(value) => Some(self.place(*value).ok_or_else(misplaced)?),
                    None => None,
                };
                Layer::Pointwise {
                    layer,
                    input,
                    other,
                    output: self.put(step.output, input.channels, input.is_f32),
                }
            }
            Kernel::GlobalAveragePool | Kernel::FrameAveragePool => {
                wants(false)?;
                let reader = next
                    .iter()
                    .find(|next| next.input.buffer == step.output.buffer);
                let to_lstm = reader.is_some_and(|step| matches!(step.kernel, Kernel::Lstm(_)));
                Layer::MeanPool {
                    by_frame: matches!(step.kernel, Kernel::FrameAveragePool),
                    input,
                    output: self.put(step.output, padded, !to_lstm),
                }
            }
            Kernel::Linear { weights, bias } => {
                wants(true)?;
                whole()?;
                let layer = kernels::Linear {
                    weights: self.upload(weights, Precision::F32)?,
                    bias: self.upload(bias, Precision::F32)?,
                    features: weights.len() / bias.len(),
                    classes: bias.len(),
                };
                Layer::Linear {
                    layer,
                    input,
                    output: self.put(step.output, padded, true),
                }
            }
            Kernel::Lstm(steps) => {
                wants(false)?;
                let frames = step.input.shape.extent[0];
                let mut channels = input.channels;
                let mut of_layers = Vec::new();
                for layer in steps {
                    of_layers.push(self.lstm_layer(layer, channels)?);
                    channels = layer.hidden.next_multiple_of(16);
                }
                let mut of_layers = of_layers.into_iter();
                let (projection, first) = of_layers.next().ok_or(CudaError::Plan {
                    problem: "an LSTM has no layers",
                })?;
                let gates = self.put_aside(frames, 4 * first.hidden);
                layers.push(Layer::Conv {
                    conv: projection,
                    stem: None,
                    input,
                    residual: None,
                    output: gates,
                });
                Layer::Lstm {
                    first,
                    above: of_layers.collect(),
                    frames,
                    input: gates,
                    output: self.put(step.output, channels, true),
                }
            }
            Kernel::LogMeanSoftmax => {
                wants(true)?;
                whole()?;
                Layer::LogMeanSoftmax {
                    frames: step.input.shape.positions(),
                    classes: step.output.shape.channels,
                    input,
                    output: self.put(step.output, input.channels, true),
                }
            }
        };
        layers.push(layer);
        Ok(())
    }

    /// Room for one row of f32 a frame, in a buffer of its own.
    fn put_aside(&mut self, frames: usize, channels: usize) -> Place {
        self.buffers.push(0);
        self.held.push(None);
        let value = Value {
            buffer: self.buffers.len() - 1,
            offset: 0,
            shape: Shape {
                channels,
                extent: [frames, 1, 1],
            },
        };
        self.put(value, channels, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_a_video_network_are_cut_where_its_tiles_are_few() {
        // Frames, rows and columns of r3d_18's layers in clips of 16 x 112 x 112.
        let segments = |stride: usize, positions: usize, channels: usize, outputs| {
            let window = Window {
                kernel: [3; 3],
                stride: [stride; 3],
                padding: [1; 3],
            };
            let k = 27 * channels;
            k.div_ceil(segment_of(window, channels, k, positions, outputs))
        };
        // Those of `conv_halo.cu` are whole.
        assert_eq!(segments(1, 16 * 56 * 56, 64, 64), 1);
        assert_eq!(segments(1, 8 * 28 * 28, 128, 128), 1);
        // Of the others, tiles and segments fill a card.
        assert_eq!(segments(2, 8 * 28 * 28, 64, 128), 2);
        assert_eq!(segments(1, 4 * 14 * 14, 256, 256), 9);
        assert_eq!(segments(1, 2 * 7 * 7, 512, 512), 27);
    }
}
