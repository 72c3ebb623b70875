//! Convolutions.

mod shapes;

use std::sync::Arc;

use super::super::reference::{self, Tensor};
use super::{Held, Noise, bytes_each, compare, difference, hold, read, room, wide};
use crate::engine::cuda::kernels::{self, Activations, Conv, ConvIo, Way, Window};
use crate::engine::cuda::launch::{Card, Memory, bytes_of};
use crate::engine::cuda::weights::{self, Matrix};
use crate::engine::cuda::{CudaError, Precision};
pub(super) use shapes::{CONVS, ConvShape};
use shapes::{Clips, PLAIN};

/// A convolution's weights on a card.
struct Weights {
    conv: Conv,
    /// Kept for the addresses in `conv`.
    _memory: [Memory; 2],
}

impl Weights {
    fn new(
        card: &Arc<dyn Card>,
        precision: Precision,
        shape: ConvShape,
        weights: &[f32],
        bias: &[f32],
    ) -> Result<Self, CudaError> {
        let [channels, outputs] = shape.channels;
        let padded_outputs = outputs.next_multiple_of(weights::CHANNELS);
        let packed = Matrix {
            values: weights,
            taps: shape.window.kernel.iter().product(),
            channels,
            outputs,
        }
        .packed(
            precision,
            channels.next_multiple_of(weights::CHANNELS),
            padded_outputs,
        );
        let mut bias = bias.to_vec();
        bias.resize(padded_outputs, 0.0);
        let weights = Memory::of(card, &weights::rounded(&packed.values, precision))?;
        let bias = Memory::of(card, &bytes_of(&bias))?;
        Ok(Self {
            conv: Conv {
                window: shape.window,
                weights: weights.address(),
                bias: bias.address(),
                k: packed.k,
                segment: shape.segment.min(packed.k),
                way: Way::Warps,
                relu: shape.relu,
                output_is_f32: false,
                centre: None,
            },
            _memory: [weights, bias],
        })
    }
}

/// What a convolution reads, without a pattern.
struct Sample {
    shape: ConvShape,
    clips: usize,
    precision: Precision,
    /// Of which the first and the last frames are left out.
    whole: Tensor,
    residual: Tensor,
    values: Vec<f32>,
    bias: Vec<f32>,
    /// Of the output.
    extent: [usize; 3],
}

impl Sample {
    fn new(card: &Arc<dyn Card>, shape: ConvShape, precision: Precision) -> Self {
        let mut noise = Noise(7);
        let clips = shape.clips(card);
        let [channels, outputs] = shape.channels;
        let whole = noise.tensor(clips, shape.extent, channels, precision);
        let taps: usize = shape.window.kernel.iter().product();
        let values = noise.exact(taps * channels * outputs, precision);
        let bias = noise.values(outputs);
        let extent = shape.extent_out();
        // The residual, too, leaves frames out.
        let longer = [extent[0] + 2 * shape.cropped, extent[1], extent[2]];
        Self {
            residual: noise.tensor(clips, longer, outputs, precision),
            shape,
            clips,
            precision,
            whole,
            values,
            bias,
            extent,
        }
    }

    fn expected(&self) -> Tensor {
        let shape = self.shape;
        let seen = |tensor: &Tensor| tensor.frames(shape.cropped, tensor.extent[0] - shape.cropped);
        let added = seen(&self.residual);
        reference::conv(
            &seen(&self.whole),
            shape.window,
            &wide(&self.values),
            &wide(&self.bias),
            shape.residual.then_some(&added),
            shape.relu,
        )
    }

    /// What a card makes of it, each way.
    fn outputs(&self, card: &Arc<dyn Card>, ways: &[Way]) -> Result<Vec<Held>, CudaError> {
        let (shape, clips, precision) = (self.shape, self.clips, self.precision);
        let mut layer = Weights::new(card, precision, shape, &self.values, &self.bias)?;
        let crop = |held: &Held| {
            let Activations {
                extent: [frames, rows, columns],
                channels,
                ..
            } = held.activations;
            let skipped = shape.cropped * rows * columns * channels * bytes_each(precision);
            Activations {
                address: held.activations.address + skipped as u64,
                extent: [frames - 2 * shape.cropped, rows, columns],
                ..held.activations
            }
        };
        let input = hold(card, &self.whole, precision)?;
        let residual = hold(card, &self.residual, precision)?;
        let multiprocessors = card.limits().multiprocessors;
        let mut outputs = Vec::new();
        for way in ways {
            layer.conv.way = *way;
            let output = room(card, clips, self.extent, shape.channels[1], precision)?;
            let to = output.activations;
            let partial = layer.conv.partial_bytes(clips, to, multiprocessors);
            let partial = Memory::new(card, partial)?;
            let io = ConvIo {
                input: crop(&input),
                residual: shape.residual.then(|| crop(&residual)),
                output: to,
                partial: partial.address(),
            };
            kernels::conv(card.as_ref(), precision, clips, &layer.conv, io)?;
            outputs.push(output);
        }
        Ok(outputs)
    }
}

pub(super) fn conv(
    card: &Arc<dyn Card>,
    precision: Precision,
    shape: ConvShape,
) -> Result<f64, CudaError> {
    let sample = Sample::new(card, shape, precision);
    let expected = sample.expected();
    let outputs = sample.outputs(card, &ways(card, precision))?;
    outputs.iter().try_fold(0.0_f64, |worst, output| {
        Ok(worst.max(compare(output, &expected, precision)?))
    })
}

/// Whether convolutions whose values the tensor memory accelerator brings have the bits of
/// those that bring their own, wherever both add in one order: products are added sixteen
/// at a time, and segments may end elsewhere where a tile is not whole.
pub(crate) fn copies_conform(card: &Arc<dyn Card>) -> Result<bool, CudaError> {
    let precision = Precision::F16;
    let same_order = |shape: &&ConvShape| {
        let whole = if shape.segment == usize::MAX { 16 } else { 64 };
        shape.channels[0] >= 32 && shape.channels[0].is_multiple_of(whole)
    };
    for shape in CONVS.iter().filter(same_order) {
        let sample = Sample::new(card, *shape, precision);
        let ways = Way::all(card.limits()).filter(|way| *way != Way::Warps);
        let outputs = sample.outputs(card, &ways.collect::<Vec<_>>())?;
        let values: Result<Vec<_>, _> = outputs
            .iter()
            .map(|output| {
                let count = sample.clips * output.activations.clip;
                read(&output.memory, count, precision)
            })
            .collect();
        let bits: Vec<Vec<u64>> = values?
            .iter()
            .map(|values| values.iter().map(|value| value.to_bits()).collect())
            .collect();
        if bits.iter().any(|of_way| *of_way != bits[0]) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// All ways that the card has.
fn ways(card: &Arc<dyn Card>, precision: Precision) -> Vec<Way> {
    match precision {
        Precision::F32 => vec![Way::Warps],
        Precision::F16 | Precision::Bf16 => Way::all(card.limits()).collect(),
    }
}

/// The same clips, alone and in a batch that does not split its sums.
pub(super) fn split_is_the_same(
    card: &Arc<dyn Card>,
    precision: Precision,
    channels: usize,
    kernel: [usize; 3],
) -> Result<f64, CudaError> {
    let (clips, extent) = (8 * card.limits().multiprocessors, [1, 8, 8]);
    let shape = ConvShape {
        extent,
        channels: [channels, 64],
        window: Window {
            kernel,
            padding: kernel.map(|taps| taps / 2),
            ..PLAIN.window
        },
        segment: 128,
        ..PLAIN
    };
    let mut noise = Noise(11);
    let input = noise.tensor(clips, extent, channels, precision);
    let taps: usize = kernel.iter().product();
    let values = noise.exact(taps * channels * 64, precision);
    let mut layer = Weights::new(card, precision, shape, &values, &noise.values(64))?;
    let run = |layer: &Weights, tensor: &Tensor| {
        let held = hold(card, tensor, precision)?;
        let output = room(card, tensor.clips, extent, 64, precision)?;
        let multiprocessors = card.limits().multiprocessors;
        let bytes = layer
            .conv
            .partial_bytes(tensor.clips, output.activations, multiprocessors);
        assert_eq!(
            bytes > 0,
            tensor.clips == 1,
            "one clip is split, the batch is not"
        );
        let partial = Memory::new(card, bytes)?;
        let io = ConvIo {
            input: held.activations,
            residual: None,
            output: output.activations,
            partial: partial.address(),
        };
        kernels::conv(card.as_ref(), precision, tensor.clips, &layer.conv, io)?;
        read(&output.memory, tensor.clips * 64 * 64, precision)
    };
    let mut one = Tensor::zeros(1, extent, channels);
    one.values = input.values[input.values.len() - one.values.len()..].to_vec();
    let mut worst = 0.0_f64;
    for way in ways(card, precision) {
        layer.conv.way = way;
        let together = run(&layer, &input)?;
        let alone = run(&layer, &one)?;
        let last = &together[together.len() - alone.len()..];
        worst = worst.max(difference(&alone, last));
    }
    Ok(worst)
}

/// Some frames alone, of an input that goes on behind them, and the same among all.
pub(super) fn frames_are_the_same(
    card: &Arc<dyn Card>,
    precision: Precision,
) -> Result<f64, CudaError> {
    const FIRST: usize = 5;
    let (extent, some) = ([24, 2, 2], [2, 2, 2]);
    let [channels, outputs] = [72, 16];
    let shape = ConvShape {
        clips: Clips::Few(1),
        extent,
        channels: [channels, outputs],
        window: Window {
            kernel: [3, 1, 1],
            padding: [1, 0, 0],
            ..PLAIN.window
        },
        ..PLAIN
    };
    let sample = Sample::new(card, shape, precision);
    let mut layer = Weights::new(card, precision, shape, &sample.values, &sample.bias)?;
    let input = hold(card, &sample.whole, precision)?;
    let run = |conv: &Conv, input: Activations, extent: [usize; 3]| {
        let output = room(card, 1, extent, outputs, precision)?;
        let io = ConvIo {
            input,
            residual: None,
            output: output.activations,
            partial: 0,
        };
        kernels::conv(card.as_ref(), precision, 1, conv, io)?;
        read(&output.memory, output.activations.clip, precision)
    };
    // What the first of them reads first.
    let skipped = (FIRST - 1) * extent[1] * extent[2] * channels * bytes_each(precision);
    let late = Activations {
        address: input.activations.address + skipped as u64,
        extent: [extent[0] - (FIRST - 1), extent[1], extent[2]],
        ..input.activations
    };
    let mut worst = 0.0_f64;
    for way in ways(card, precision) {
        layer.conv.way = way;
        let mut unpadded = layer.conv;
        unpadded.window.padding = [0; 3];
        let all = run(&layer.conv, input.activations, extent)?;
        let alone = run(&unpadded, late, some)?;
        let begin = FIRST * extent[1] * extent[2] * outputs;
        worst = worst.max(difference(&alone, &all[begin..][..alone.len()]));
    }
    Ok(worst)
}
