//! The stem that reads grey pictures.

use std::ops::Range;
use std::sync::Arc;

use super::super::reference::{self, Tensor};
use super::{Held, Noise, compare, hold, read, room, wide};
use crate::engine::cuda::kernels::{self, Activations, Conv, ConvIo, Way, Window};
use crate::engine::cuda::launch::{Card, Memory, bytes_of};
use crate::engine::cuda::weights::{self, Matrix};
use crate::engine::cuda::{CudaError, Precision};

/// A stem to check.
#[derive(Clone, Copy, Debug)]
pub(super) struct StemShape {
    pub(super) name: &'static str,
    /// So many clips that every block computes several tiles; else two.
    filling: bool,
    extent: [usize; 3],
    channels: [usize; 2],
    window: Window,
    residual: bool,
    relu: bool,
}

const PLAIN: StemShape = StemShape {
    name: "stem 3x7x7 in strides",
    filling: false,
    extent: [4, 13, 15],
    channels: [3, 20],
    window: Window {
        kernel: [3, 7, 7],
        stride: [1, 2, 2],
        padding: [1, 3, 3],
    },
    residual: false,
    relu: true,
};

pub(super) const STEMS: [StemShape; 8] = [
    PLAIN,
    StemShape {
        name: "stem 3x7x7 in strides, of one channel, of many tiles",
        filling: true,
        extent: [4, 32, 31],
        channels: [1, 24],
        ..PLAIN
    },
    StemShape {
        name: "stem 1x7x7 in strides, to 45 channels",
        extent: [3, 24, 40],
        channels: [3, 45],
        window: Window {
            kernel: [1, 7, 7],
            padding: [0, 3, 3],
            ..PLAIN.window
        },
        ..PLAIN
    },
    StemShape {
        name: "stem 2x5x5 in strides of frames, to 8 channels",
        extent: [6, 18, 22],
        channels: [1, 8],
        window: Window {
            kernel: [2, 5, 5],
            stride: [2, 2, 2],
            padding: [0, 2, 2],
        },
        ..PLAIN
    },
    StemShape {
        name: "stem 3x3x3 to over 64 channels, with a residual",
        extent: [4, 9, 21],
        channels: [3, 70],
        window: Window {
            kernel: [3, 3, 3],
            stride: [1, 1, 1],
            padding: [1, 1, 1],
        },
        residual: true,
        relu: false,
        ..PLAIN
    },
    StemShape {
        name: "stem 4x3x2, all strides differ",
        extent: [9, 17, 19],
        channels: [1, 33],
        window: Window {
            kernel: [4, 3, 2],
            stride: [2, 3, 1],
            padding: [2, 0, 1],
        },
        ..PLAIN
    },
    StemShape {
        name: "stem 1x1x1",
        extent: [3, 3, 5],
        window: Window {
            kernel: [1, 1, 1],
            stride: [1, 1, 1],
            padding: [0, 0, 0],
        },
        ..PLAIN
    },
    StemShape {
        name: "stem 1x11x11 in strides of four",
        extent: [2, 40, 41],
        channels: [3, 16],
        window: Window {
            kernel: [1, 11, 11],
            stride: [1, 4, 4],
            padding: [0, 2, 2],
        },
        ..PLAIN
    },
];

const MEAN: [f32; 3] = [0.43, 0.39, 0.37];
const STD: [f32; 3] = [0.22, 0.21, 0.25];

/// A stem on a card, and what it reads.
struct Stem {
    conv: Conv,
    shape: StemShape,
    pictures: Memory,
    residual: Held,
    /// Kept for the addresses in `conv`.
    _memory: [Memory; 2],
}

impl Stem {
    /// Computes some output frames of some clips, as sessions do: what those frames do not
    /// read is not there.
    fn run(
        &self,
        card: &Arc<dyn Card>,
        precision: Precision,
        clips: Range<usize>,
        frames: Range<usize>,
        output: Activations,
    ) -> Result<(), CudaError> {
        let Window {
            kernel,
            stride,
            padding,
        } = self.shape.window;
        let [in_time, rows, columns] = self.shape.extent;
        let begin = frames.start * stride[0];
        let first = begin.saturating_sub(padding[0]);
        let end = ((frames.end - 1) * stride[0] + kernel[0])
            .saturating_sub(padding[0])
            .min(in_time);
        let conv = Conv {
            window: Window {
                padding: [padding[0].saturating_sub(begin), padding[1], padding[2]],
                ..self.shape.window
            },
            ..self.conv
        };
        let area = rows * columns;
        let skipped = clips.start * in_time * area + first * area;
        let input = Activations {
            address: self.pictures.address() + skipped as u64,
            clip: in_time * area,
            channels: 1,
            extent: [end - first, rows, columns],
        };
        let beside = |whole: Activations| {
            let [_, rows, columns] = whole.extent;
            let skipped = clips.start * whole.clip + frames.start * rows * columns * whole.channels;
            Activations {
                address: whole.address + (skipped * super::bytes_each(precision)) as u64,
                extent: [frames.len(), rows, columns],
                ..whole
            }
        };
        let io = ConvIo {
            input,
            residual: self
                .shape
                .residual
                .then(|| beside(self.residual.activations)),
            output: beside(output),
            partial: 0,
        };
        kernels::conv(card.as_ref(), precision, clips.len(), &conv, io)
    }
}

/// All clips against the definition; and the last one's frames, but for the first, alone:
/// the same bits, though tiles and what is there of the pictures differ.
pub(super) fn stem(
    card: &Arc<dyn Card>,
    precision: Precision,
    shape: StemShape,
) -> Result<f64, CudaError> {
    let mut noise = Noise(3);
    let clips = if shape.filling {
        card.limits().multiprocessors
    } else {
        2
    };
    let ([channels, outputs], window) = (shape.channels, shape.window);
    let taps: usize = window.kernel.iter().product();
    let (mean, std) = (&MEAN[..channels], &STD[..channels]);
    let mut input = Tensor::zeros(clips, shape.extent, channels);
    let grey: Vec<u8> = (0..input.values.len() / channels)
        .map(|_| (noise.next() * 127.5 + 127.5) as u8)
        .collect();
    for (row, grey) in input.values.chunks_exact_mut(channels).zip(&grey) {
        for ((value, mean), std) in row.iter_mut().zip(mean).zip(std) {
            *value = (f64::from(*grey) / 255.0 - f64::from(*mean)) / f64::from(*std);
        }
    }
    let values = noise.values(taps * channels * outputs);
    let mut bias = noise.values(outputs);
    let extent = reference::slid(shape.extent, window);
    let residual = noise.tensor(clips, extent, outputs, precision);
    let expected = reference::conv(
        &input,
        window,
        &wide(&values),
        &wide(&bias),
        shape.residual.then_some(&residual),
        shape.relu,
    );

    let centre = weights::centre_of(mean);
    let padded = outputs.next_multiple_of(weights::CHANNELS);
    let packed = Matrix {
        values: &values,
        taps,
        channels,
        outputs,
    }
    .packed_for_grey(mean, std, centre, padded);
    bias.resize(padded, 0.0);
    let weights = Memory::of(card, &weights::rounded(&packed.values, precision))?;
    let bias = Memory::of(card, &bytes_of(&bias))?;
    let stem = Stem {
        conv: Conv {
            window,
            weights: weights.address(),
            bias: bias.address(),
            k: packed.k,
            segment: packed.k,
            way: Way::Warps,
            relu: shape.relu,
            output_is_f32: false,
            centre: Some(centre),
        },
        shape,
        pictures: Memory::of(card, &grey)?,
        residual: hold(card, &residual, precision)?,
        _memory: [weights, bias],
    };
    let whole = room(card, clips, extent, outputs, precision)?;
    stem.run(card, precision, 0..clips, 0..extent[0], whole.activations)?;
    let part = room(card, clips, extent, outputs, precision)?;
    let frames = 1.min(extent[0] - 1)..extent[0];
    stem.run(
        card,
        precision,
        clips - 1..clips,
        frames.clone(),
        part.activations,
    )?;

    let bits = |held: &Held| -> Result<Vec<u64>, CudaError> {
        let frame = held.activations.clip / extent[0];
        let values = read(&held.memory, clips * held.activations.clip, precision)?;
        let last = &values[values.len() - frames.len() * frame..];
        Ok(last.iter().map(|value| value.to_bits()).collect())
    };
    if bits(&whole)? != bits(&part)? {
        return Ok(f64::INFINITY);
    }
    compare(&whole, &expected, precision)
}
