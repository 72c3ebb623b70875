//! Every kernel against its definition, over odd shapes.

use std::sync::Arc;

use half::{bf16, f16};

use super::super::kernels::{self, Activations, Conv, ConvIo, Grey, Incoming, Of, Window};
use super::super::launch::{Card, Memory, bytes_of, floats_of};
use super::super::weights::{self, Matrix};
use super::super::{CudaError, Precision};
use super::reference::{self, Tensor};
use super::{Case, Check};

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::F16, Precision::Bf16];

/// What rounding the output costs, and sums in f32.
fn tolerance(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 2e-6,
        Precision::F16 => 1e-3,
        Precision::Bf16 => 8e-3,
    }
}

/// Values between -1 and 1 that look like nothing: `SplitMix64`.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }

    /// Values that the precision holds exactly.
    fn exact(&mut self, count: usize, precision: Precision) -> Vec<f32> {
        let round = |value: f32| match precision {
            Precision::F32 => value,
            Precision::F16 => f16::from_f32(value).to_f32(),
            Precision::Bf16 => bf16::from_f32(value).to_f32(),
        };
        (0..count).map(|_| round(self.next())).collect()
    }

    fn tensor(
        &mut self,
        clips: usize,
        extent: [usize; 3],
        channels: usize,
        precision: Precision,
    ) -> Tensor {
        let mut tensor = Tensor::zeros(clips, extent, channels);
        tensor.values = wide(&self.exact(tensor.values.len(), precision));
        tensor
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// The largest difference, as a part of the largest value; not a number is
/// infinitely far.
fn difference(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected
        .iter()
        .fold(1e-30_f64, |scale, value| scale.max(value.abs()));
    let differences = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs() / scale);
    differences.fold(0.0, |worst, difference| {
        if difference.is_nan() {
            f64::INFINITY
        } else {
            worst.max(difference)
        }
    })
}

/// A tensor on a card, channels padded with zeros.
struct Held {
    memory: Memory,
    activations: Activations,
}

fn padded(tensor: &Tensor, channels: usize) -> Vec<f32> {
    let mut values = Vec::new();
    for row in tensor.values.chunks_exact(tensor.channels) {
        values.extend(row.iter().map(|value| *value as f32));
        values.resize(values.len() + channels - tensor.channels, 0.0);
    }
    values
}

fn hold(card: &Arc<dyn Card>, tensor: &Tensor, precision: Precision) -> Result<Held, CudaError> {
    let channels = tensor.channels.next_multiple_of(weights::CHANNELS);
    let values = weights::rounded(&padded(tensor, channels), precision);
    let memory = Memory::of(card, &values)?;
    Ok(Held {
        activations: Activations {
            address: memory.address(),
            clip: tensor.extent.iter().product::<usize>() * channels,
            channels,
            extent: tensor.extent,
        },
        memory,
    })
}

/// Room for a tensor.
fn room(
    card: &Arc<dyn Card>,
    clips: usize,
    extent: [usize; 3],
    channels: usize,
    precision: Precision,
) -> Result<Held, CudaError> {
    hold(card, &Tensor::zeros(clips, extent, channels), precision).and_then(|held| {
        // Nothing may rest on what lay there before.
        let len = clips * held.activations.clip * bytes_each(precision);
        held.memory.upload(&vec![0xff; len])?;
        Ok(held)
    })
}

fn bytes_each(precision: Precision) -> usize {
    if precision == Precision::F32 { 4 } else { 2 }
}

fn read(memory: &Memory, count: usize, precision: Precision) -> Result<Vec<f64>, CudaError> {
    let mut bytes = vec![0; count * bytes_each(precision)];
    memory.download(&mut bytes)?;
    let (halves, _) = bytes.as_chunks::<2>();
    Ok(match precision {
        Precision::F32 => wide(&floats_of(&bytes)),
        Precision::F16 => halves
            .iter()
            .map(|b| f16::from_ne_bytes(*b).to_f64())
            .collect(),
        Precision::Bf16 => halves
            .iter()
            .map(|b| bf16::from_ne_bytes(*b).to_f64())
            .collect(),
    })
}

/// The output of a kernel against a reference, padding included: it must be zero.
fn compare(held: &Held, expected: &Tensor, precision: Precision) -> Result<f64, CudaError> {
    let channels = held.activations.channels;
    let count = expected.values.len() / expected.channels * channels;
    let found = read(&held.memory, count, precision)?;
    Ok(difference(&found, &wide(&padded(expected, channels))))
}

fn case(name: String, tolerance: f64, check: Check) -> Case {
    Case {
        name,
        tolerance,
        check,
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        case("linear".into(), 2e-6, Box::new(linear)),
        case("log_mean_softmax".into(), 2e-6, Box::new(log_mean_softmax)),
        case("resize".into(), 0.501, Box::new(resize)),
        case("copy_slices".into(), 0.0, Box::new(copy_slices)),
    ];
    for precision in PRECISIONS {
        let mut add = |name: &str, check: Check| {
            cases.push(case(
                format!("{name}, {precision}"),
                tolerance(precision),
                check,
            ));
        };
        let pool = |of| -> Check { Box::new(move |card| window_pool(card, precision, of)) };
        add("max_pool", pool(Of::Largest));
        add("average_pool", pool(Of::Mean));
        add(
            "pointwise",
            Box::new(move |card| pointwise(card, precision)),
        );
        add(
            "mean_pool over all",
            Box::new(move |card| mean_pool(card, precision, false)),
        );
        add(
            "mean_pool by frame",
            Box::new(move |card| mean_pool(card, precision, true)),
        );
        add(
            "normalise",
            Box::new(move |card| lay_out(card, precision, true)),
        );
        add(
            "channels_last",
            Box::new(move |card| lay_out(card, precision, false)),
        );
        add("grad_cam", Box::new(move |card| grad_cam(card, precision)));
        for shape in LSTMS {
            add(
                &format!("lstm {shape:?}"),
                Box::new(move |card| lstm(card, precision, shape)),
            );
        }
        for shape in CONVS {
            add(
                shape.name,
                Box::new(move |card| conv(card, precision, shape)),
            );
        }
    }
    for precision in [Precision::F16, Precision::Bf16] {
        for channels in [1, 3] {
            let check: Check = Box::new(move |card| stem(card, precision, channels));
            // Weights are rounded here, and the mean cancels most of the sum.
            let name = format!("stem of {channels} channels, {precision}");
            cases.push(case(name, tolerance(precision) * 2.0, check));
        }
        let check: Check = Box::new(move |card| split_is_the_same(card, precision));
        cases.push(case(
            format!("bits do not depend on the batch, {precision}"),
            0.0,
            check,
        ));
    }
    let check: Check = Box::new(lstm_of_infinity);
    cases.push(case("lstm of an infinite gate".to_owned(), 0.0, check));
    cases
}

/// A convolution to check.
#[derive(Clone, Copy, Debug)]
struct ConvShape {
    name: &'static str,
    clips: usize,
    extent: [usize; 3],
    channels: [usize; 2],
    window: Window,
    residual: bool,
    relu: bool,
    /// Frames left out at the beginning and at the end of what is there.
    cropped: usize,
    segment: usize,
}

const PLAIN: ConvShape = ConvShape {
    name: "conv 3x3x3",
    clips: 2,
    extent: [3, 6, 7],
    channels: [8, 16],
    window: Window {
        kernel: [3, 3, 3],
        stride: [1, 1, 1],
        padding: [1, 1, 1],
    },
    residual: false,
    relu: false,
    cropped: 0,
    segment: usize::MAX,
};

const CONVS: [ConvShape; 9] = [
    PLAIN,
    ConvShape {
        name: "conv 3x3x3, odd channels, residual and relu",
        clips: 3,
        extent: [4, 5, 9],
        channels: [5, 21],
        residual: true,
        relu: true,
        ..PLAIN
    },
    ConvShape {
        name: "conv 3x3x3 without padding in time, of cropped frames",
        extent: [7, 5, 5],
        channels: [16, 11],
        window: Window {
            padding: [0, 1, 1],
            ..PLAIN.window
        },
        residual: true,
        cropped: 1,
        ..PLAIN
    },
    ConvShape {
        name: "conv 1x7x7 in strides",
        clips: 1,
        extent: [2, 19, 17],
        channels: [3, 9],
        window: Window {
            kernel: [1, 7, 7],
            stride: [1, 2, 2],
            padding: [0, 3, 3],
        },
        relu: true,
        ..PLAIN
    },
    ConvShape {
        name: "conv 3x1x1, all strides differ",
        extent: [9, 5, 8],
        channels: [12, 40],
        window: Window {
            kernel: [3, 1, 1],
            stride: [2, 1, 3],
            padding: [1, 0, 0],
        },
        ..PLAIN
    },
    ConvShape {
        name: "conv 1x1x1 in strides, over 64 channels",
        extent: [3, 7, 5],
        channels: [40, 72],
        window: Window {
            kernel: [1, 1, 1],
            stride: [2, 2, 2],
            padding: [0, 0, 0],
        },
        ..PLAIN
    },
    ConvShape {
        name: "conv of one position in segments",
        clips: 1,
        extent: [2, 2, 2],
        channels: [32, 24],
        residual: true,
        relu: true,
        segment: 320,
        ..PLAIN
    },
    ConvShape {
        name: "conv in segments that one block adds",
        clips: 8,
        extent: [4, 5, 5],
        channels: [24, 16],
        residual: true,
        segment: 192,
        ..PLAIN
    },
    ConvShape {
        name: "conv of 128 channels",
        clips: 8,
        extent: [3, 7, 7],
        channels: [8, 128],
        relu: true,
        ..PLAIN
    },
];

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
                by_warpgroups: false,
                relu: shape.relu,
                output_is_f32: false,
                grey: None,
            },
            _memory: [weights, bias],
        })
    }
}

fn conv(card: &Arc<dyn Card>, precision: Precision, shape: ConvShape) -> Result<f64, CudaError> {
    let mut noise = Noise(7);
    let [channels, outputs] = shape.channels;
    let whole = noise.tensor(shape.clips, shape.extent, channels, precision);
    let taps: usize = shape.window.kernel.iter().product();
    let values = noise.exact(taps * channels * outputs, precision);
    let bias = noise.values(outputs);
    let [frames, rows, columns] = shape.extent;
    let seen = whole.frames(shape.cropped, frames - shape.cropped);
    let extent = reference::slid(seen.extent, shape.window);
    // The residual, too, leaves frames out.
    let longer = [extent[0] + 2 * shape.cropped, extent[1], extent[2]];
    let residual = noise.tensor(shape.clips, longer, outputs, precision);
    let added = residual.frames(shape.cropped, longer[0] - shape.cropped);
    let expected = reference::conv(
        &seen,
        shape.window,
        &wide(&values),
        &wide(&bias),
        shape.residual.then_some(&added),
        shape.relu,
    );

    let mut layer = Weights::new(card, precision, shape, &values, &bias)?;
    let crop = |held: &Held, area: usize, extent: [usize; 3]| {
        let skipped = shape.cropped * area * held.activations.channels * bytes_each(precision);
        Activations {
            address: held.activations.address + skipped as u64,
            extent,
            ..held.activations
        }
    };
    let input = hold(card, &whole, precision)?;
    let held_residual = hold(card, &residual, precision)?;
    let multiprocessors = card.limits().multiprocessors;
    let mut worst = 0.0_f64;
    for by_warpgroups in ways(card, precision) {
        layer.conv.by_warpgroups = by_warpgroups;
        let output = room(card, shape.clips, extent, outputs, precision)?;
        let to = output.activations;
        let partial = layer.conv.partial_bytes(shape.clips, to, multiprocessors);
        let partial = Memory::new(card, partial)?;
        let residual = || crop(&held_residual, extent[1] * extent[2], extent);
        let io = ConvIo {
            input: crop(&input, rows * columns, seen.extent),
            residual: shape.residual.then(residual),
            output: to,
            partial: partial.address(),
        };
        kernels::conv(card.as_ref(), precision, shape.clips, &layer.conv, io)?;
        worst = worst.max(compare(&output, &expected, precision)?);
    }
    Ok(worst)
}

/// Whether by warpgroups: both ways where the card has both.
fn ways(card: &Arc<dyn Card>, precision: Precision) -> Vec<bool> {
    if precision != Precision::F32 && card.limits().warpgroups {
        vec![false, true]
    } else {
        vec![false]
    }
}

/// The same clips, alone and in a batch that does not split its sums.
fn split_is_the_same(card: &Arc<dyn Card>, precision: Precision) -> Result<f64, CudaError> {
    let (clips, extent) = (8 * card.limits().multiprocessors, [1, 8, 8]);
    let shape = ConvShape {
        extent,
        channels: [16, 64],
        segment: 128,
        ..PLAIN
    };
    let mut noise = Noise(11);
    let input = noise.tensor(clips, extent, 16, precision);
    let values = noise.exact(27 * 16 * 64, precision);
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
    let mut one = Tensor::zeros(1, extent, 16);
    one.values = input.values[input.values.len() - one.values.len()..].to_vec();
    let mut worst = 0.0_f64;
    for by_warpgroups in ways(card, precision) {
        layer.conv.by_warpgroups = by_warpgroups;
        let together = run(&layer, &input)?;
        let alone = run(&layer, &one)?;
        let last = &together[together.len() - alone.len()..];
        worst = worst.max(difference(&alone, last));
    }
    Ok(worst)
}

fn stem(card: &Arc<dyn Card>, precision: Precision, channels: usize) -> Result<f64, CudaError> {
    let mut noise = Noise(3);
    let (clips, extent, outputs) = (2, [4, 13, 15], 20);
    let window = Window {
        kernel: [3, 7, 7],
        stride: [1, 2, 2],
        padding: [1, 3, 3],
    };
    let taps = 3 * 7 * 7;
    let (mean, std) = ([0.43_f32, 0.39, 0.37], [0.22_f32, 0.21, 0.25]);
    let (mean, std) = (&mean[..channels], &std[..channels]);
    let grey: Vec<u8> = (0..clips * 4 * 13 * 15)
        .map(|_| (noise.next() * 127.5 + 127.5) as u8)
        .collect();
    let values = noise.values(taps * channels * outputs);
    let mut bias = noise.values(outputs);
    let mut input = Tensor::zeros(clips, extent, channels);
    for (row, grey) in input.values.chunks_exact_mut(channels).zip(&grey) {
        for ((value, mean), std) in row.iter_mut().zip(mean).zip(std) {
            *value = (f64::from(*grey) / 255.0 - f64::from(*mean)) / f64::from(*std);
        }
    }
    let expected = reference::conv(&input, window, &wide(&values), &wide(&bias), None, true);

    let centre = weights::centre_of(mean);
    let packed = Matrix {
        values: &values,
        taps,
        channels,
        outputs,
    }
    .packed_for_grey(mean, std, centre, 24);
    bias.resize(24, 0.0);
    let memory = Memory::of(card, &weights::rounded(&packed.values, precision))?;
    let bias = Memory::of(card, &bytes_of(&bias))?;
    let taps = Memory::of(card, &weights::stem_taps(window.kernel, packed.k))?;
    let frames = Memory::of(card, &grey)?;
    let output = room(card, clips, expected.extent, outputs, precision)?;
    let conv = Conv {
        window,
        weights: memory.address(),
        bias: bias.address(),
        k: packed.k,
        segment: packed.k,
        by_warpgroups: false,
        relu: true,
        output_is_f32: false,
        grey: Some(Grey {
            taps: taps.address(),
            centre,
        }),
    };
    let input = Activations {
        address: frames.address(),
        clip: extent.iter().product(),
        channels: 1,
        extent,
    };
    let io = ConvIo {
        input,
        residual: None,
        output: output.activations,
        partial: 0,
    };
    kernels::conv(card.as_ref(), precision, clips, &conv, io)?;
    compare(&output, &expected, precision)
}

fn window_pool(card: &Arc<dyn Card>, precision: Precision, of: Of) -> Result<f64, CudaError> {
    let window = Window {
        kernel: [3, 3, 2],
        stride: [2, 2, 1],
        padding: [1, 1, 1],
    };
    let input = Noise(5).tensor(3, [5, 7, 6], 11, precision);
    let expected = reference::window_pool(&input, window, of);
    let held = hold(card, &input, precision)?;
    let output = room(card, 3, expected.extent, 11, precision)?;
    let (from, to) = (held.activations, output.activations);
    kernels::window_pool(card.as_ref(), precision, 3, of, window, from, to)?;
    compare(&output, &expected, precision)
}

fn pointwise(card: &Arc<dyn Card>, precision: Precision) -> Result<f64, CudaError> {
    let (clips, extent, channels) = (2, [3, 5, 7], 11);
    let mut noise = Noise(15);
    let input = noise.tensor(clips, extent, channels, precision);
    let other = noise.tensor(clips, extent, channels, precision);
    let (mut scale, mut shift) = (noise.values(channels), noise.values(channels));
    let held = [
        hold(card, &input, precision)?,
        hold(card, &other, precision)?,
    ];
    let mut worst = 0.0_f64;
    for (adds, relu) in [(false, true), (true, false), (true, true)] {
        let mut expected = input.clone();
        for (place, value) in expected.values.iter_mut().enumerate() {
            let channel = place % channels;
            *value = *value * f64::from(scale[channel]) + f64::from(shift[channel]);
            *value += if adds { other.values[place] } else { 0.0 };
            *value = if relu { value.max(0.0) } else { *value };
        }
        scale.resize(16, 0.0);
        shift.resize(16, 0.0);
        let (scale, shift) = (
            Memory::of(card, &bytes_of(&scale))?,
            Memory::of(card, &bytes_of(&shift))?,
        );
        let layer = kernels::Pointwise {
            scale: scale.address(),
            shift: shift.address(),
            relu,
        };
        let output = room(card, clips, extent, channels, precision)?;
        let (from, to) = (held[0].activations, output.activations);
        let other = adds.then_some(held[1].activations);
        kernels::pointwise(card.as_ref(), precision, clips, layer, from, other, to)?;
        worst = worst.max(compare(&output, &expected, precision)?);
    }
    Ok(worst)
}

fn mean_pool(card: &Arc<dyn Card>, precision: Precision, by_frame: bool) -> Result<f64, CudaError> {
    let input = Noise(6).tensor(2, [3, 7, 5], 75, precision);
    let by_frames = reference::mean_by_frame(&input);
    let mut expected = by_frames.clone();
    if !by_frame {
        expected = Tensor::zeros(2, [1, 1, 1], 75);
        for clip in 0..2 {
            for t in 0..3 {
                let frame = by_frames.at(clip, [t, 0, 0]).to_vec();
                let means = expected.at_mut(clip, [0, 0, 0]);
                means
                    .iter_mut()
                    .zip(frame)
                    .for_each(|(mean, value)| *mean += value / 3.0);
            }
        }
    }
    let held = hold(card, &input, precision)?;
    let mut worst = 0.0_f64;
    for output_is_f32 in [false, true] {
        let written = if output_is_f32 {
            Precision::F32
        } else {
            precision
        };
        let output = room(card, 2, expected.extent, 75, written)?;
        let (from, to) = (held.activations, output.activations);
        kernels::mean_pool(
            card.as_ref(),
            precision,
            2,
            by_frame,
            from,
            to,
            output_is_f32,
        )?;
        worst = worst.max(compare(&output, &expected, written)?);
    }
    Ok(worst)
}

fn lay_out(card: &Arc<dyn Card>, precision: Precision, grey: bool) -> Result<f64, CudaError> {
    let (clips, extent, channels) = (3, [2, 5, 11], if grey { 3 } else { 9 });
    let mut noise = Noise(8);
    let positions: usize = extent.iter().product();
    let mut expected = Tensor::zeros(clips, extent, channels);
    let (input, table) = if grey {
        let table = noise.values(channels * 256);
        let bytes: Vec<u8> = (0..clips * positions).map(|i| (i * 37) as u8).collect();
        for (row, grey) in expected.values.chunks_exact_mut(channels).zip(&bytes) {
            for (channel, value) in row.iter_mut().enumerate() {
                *value = f64::from(table[channel * 256 + usize::from(*grey)]);
            }
        }
        (bytes, bytes_of(&table))
    } else {
        let values = noise.values(clips * channels * positions);
        for (number, value) in values.iter().enumerate() {
            let (rest, position) = (number / positions, number % positions);
            let (clip, channel) = (rest / channels, rest % channels);
            expected.values[(clip * positions + position) * channels + channel] = f64::from(*value);
        }
        (bytes_of(&values), Vec::new())
    };
    let input = Memory::of(card, &input)?;
    let table = Memory::of(card, &table)?;
    let output = room(card, clips, extent, channels, precision)?;
    let incoming = if grey {
        Incoming::Grey {
            table: table.address(),
        }
    } else {
        Incoming::Values
    };
    let (from, to) = (input.address(), output.activations);
    kernels::lay_out(
        card.as_ref(),
        precision,
        incoming,
        clips,
        channels,
        from,
        to,
    )?;
    compare(&output, &expected, precision)
}

fn linear(card: &Arc<dyn Card>) -> Result<f64, CudaError> {
    let (rows, features, classes) = (7, 45, 5);
    let mut noise = Noise(9);
    let input = Tensor {
        clips: rows,
        extent: [1, 1, 1],
        channels: features,
        values: wide(&noise.values(rows * features)),
    };
    let (weights, bias) = (noise.values(features * classes), noise.values(classes));
    let expected = Tensor {
        channels: classes,
        values: reference::linear(&input.values, &wide(&weights), &wide(&bias)),
        ..input.clone()
    };
    let held = hold(card, &input, Precision::F32)?;
    let (weights, bias) = (
        Memory::of(card, &bytes_of(&weights))?,
        Memory::of(card, &bytes_of(&bias))?,
    );
    let output = room(card, rows, [1, 1, 1], classes, Precision::F32)?;
    let layer = kernels::Linear {
        weights: weights.address(),
        bias: bias.address(),
        features,
        classes,
    };
    let (from, to) = (held.activations, output.activations);
    kernels::linear(card.as_ref(), layer, rows, from, to)?;
    compare(&output, &expected, Precision::F32)
}

fn log_mean_softmax(card: &Arc<dyn Card>) -> Result<f64, CudaError> {
    let mut worst = 0.0_f64;
    // Logits far apart, and more classes than lanes.
    for (classes, scale) in [(5, 3.0), (40, 50.0)] {
        let (clips, frames) = (3, 4);
        let mut noise = Noise(10);
        let mut input = Tensor::zeros(clips, [frames, 1, 1], classes);
        input
            .values
            .iter_mut()
            .for_each(|value| *value = f64::from(noise.next() * scale));
        let mut expected = Tensor::zeros(clips, [1, 1, 1], classes);
        let of_clips = input.values.chunks_exact(frames * classes);
        expected.values = of_clips
            .flat_map(|rows| reference::log_mean_softmax(rows, classes))
            .collect();
        let held = hold(card, &input, Precision::F32)?;
        let output = room(card, clips, [1, 1, 1], classes, Precision::F32)?;
        let (from, to) = (held.activations, output.activations.address);
        let stride = from.channels;
        kernels::log_mean_softmax(
            card.as_ref(),
            clips,
            frames,
            classes,
            stride,
            from.address,
            to,
        )?;
        worst = worst.max(compare(&output, &expected, Precision::F32)?);
    }
    Ok(worst)
}

/// Clips, frames, hidden units, units of a block.
type LstmShape = (usize, usize, usize, usize);

const LSTMS: [LstmShape; 4] = [
    (1, 4, 13, 16),
    (3, 5, 40, 16),
    (19, 3, 24, 8),
    (2, 1, 10, 4),
];

fn lstm(
    card: &Arc<dyn Card>,
    precision: Precision,
    (clips, frames, hidden, units): LstmShape,
) -> Result<f64, CudaError> {
    let padded_hidden = hidden.next_multiple_of(16);
    let mut noise = Noise(12);
    let gates = noise.values(clips * frames * 4 * hidden);
    let recurrent = noise.exact(hidden * 4 * hidden, precision);
    let mut states = Tensor::zeros(clips, [frames, 1, 1], hidden);
    let of_clips = gates.chunks_exact(frames * 4 * hidden);
    states.values = of_clips
        .flat_map(|gates| reference::lstm(&wide(gates), &wide(&recurrent), hidden))
        .collect();
    let last = states.frames(frames - 1, frames);

    let packed = weights::recurrent(&recurrent, hidden, padded_hidden, units);
    let packed = Memory::of(card, &weights::rounded(&packed, precision))?;
    let wide_gates = weights::padded_gates(&gates, clips * frames, hidden, padded_hidden);
    let gates = Memory::of(card, &bytes_of(&wide_gates))?;
    let state = Memory::new(card, 2 * clips * padded_hidden * 4)?;
    let sequence = Memory::new(card, clips * frames * padded_hidden * bytes_each(precision))?;
    let output = Memory::new(card, clips * padded_hidden * 4)?;
    let counter_bytes = clips.div_ceil(kernels::LSTM_CLIPS) * 8;
    let counters = Memory::of(card, &vec![0; counter_bytes])?;
    let layer = kernels::Recurrence {
        recurrent: packed.address(),
        hidden: padded_hidden,
        units,
    };
    let io = kernels::Sequence {
        gates: gates.address(),
        state: state.address(),
        sequence: sequence.address(),
        output: output.address(),
        counters: counters.address(),
    };
    // Twice: the counters must be as they were.
    for _ in 0..2 {
        kernels::lstm(card.as_ref(), precision, clips, frames, layer, io)?;
    }
    let mut left = vec![1; counter_bytes];
    counters.download(&mut left)?;
    if left.iter().any(|byte| *byte != 0) {
        return Ok(f64::INFINITY);
    }
    let found = read(&sequence, clips * frames * padded_hidden, precision)?;
    let all = difference(&found, &wide(&padded(&states, padded_hidden)));
    let found = read(&output, clips * padded_hidden, Precision::F32)?;
    let end = difference(&found, &wide(&padded(&last, padded_hidden)));
    Ok(all.max(if end < 1e-5 { end } else { f64::INFINITY }))
}

/// A gate that half precision could not hold must not give an ordinary number.
/// The difference is how many answers of its unit are numbers.
fn lstm_of_infinity(card: &Arc<dyn Card>) -> Result<f64, CudaError> {
    let mut numbers = 0.0;
    for gate in 0..4 {
        for value in [f32::INFINITY, f32::NEG_INFINITY] {
            let mut gates = [0.5; 4 * 16];
            gates[gate * 16] = value;
            let gates = Memory::of(card, &bytes_of(&gates))?;
            let recurrent = Memory::of(card, &[0; 4 * 16 * 16 * 4])?;
            let state = Memory::new(card, 2 * 16 * 4)?;
            let output = Memory::new(card, 16 * 4)?;
            let counters = Memory::of(card, &[0; 8])?;
            let layer = kernels::Recurrence {
                recurrent: recurrent.address(),
                hidden: 16,
                units: 16,
            };
            let io = kernels::Sequence {
                gates: gates.address(),
                state: state.address(),
                sequence: 0,
                output: output.address(),
                counters: counters.address(),
            };
            kernels::lstm(card.as_ref(), Precision::F32, 1, 1, layer, io)?;
            let found = read(&output, 16, Precision::F32)?;
            let others = found[1..].iter().all(|value| value.is_finite());
            numbers += f64::from(u8::from(found[0].is_finite() || !others));
        }
    }
    Ok(numbers)
}

fn resize(card: &Arc<dyn Card>) -> Result<f64, CudaError> {
    let mut noise = Noise(13);
    let mut worst = 0.0_f64;
    let pictures = kernels::Pictures {
        frames: 2,
        rows: 37,
        pitch: 64,
        crop: [5, 3, 47, 31],
    };
    let bytes: Vec<u8> = (0..2 * 37 * 64)
        .map(|_| (noise.next() * 127.5 + 127.5) as u8)
        .collect();
    let input = Memory::of(card, &bytes)?;
    // Smaller, larger, and by whole steps, where halves are rounded.
    for to in [[10, 13], [40, 60], [31, 47]] {
        let output = Memory::new(card, 2 * to[0] * to[1])?;
        kernels::resize(
            card.as_ref(),
            pictures,
            input.address(),
            to,
            output.address(),
        )?;
        let mut found = vec![0; 2 * to[0] * to[1]];
        output.download(&mut found)?;
        for (frame, found) in found.chunks_exact(to[0] * to[1]).enumerate() {
            let pixel = |y: usize, x: usize| f64::from(bytes[(frame * 37 + y + 3) * 64 + x + 5]);
            let expected = reference::resize(pixel, [31, 47], to);
            for (found, expected) in found.iter().zip(expected) {
                worst = worst.max((f64::from(*found) - expected).abs());
            }
        }
    }
    Ok(worst)
}

fn grad_cam(card: &Arc<dyn Card>, precision: Precision) -> Result<f64, CudaError> {
    let mut noise = Noise(14);
    let (clips, extent, channels) = (2, [2, 3, 5], 272);
    let input = noise.tensor(clips, extent, channels, precision);
    let weights = noise.values(clips * channels);
    let mut expected = Vec::new();
    for clip in 0..clips {
        for at in reference::places(extent) {
            let row = input.at(clip, at).iter().zip(&weights[clip * channels..]);
            let sum: f64 = row.map(|(value, weight)| value * f64::from(*weight)).sum();
            expected.push(sum.max(0.0));
        }
    }
    let held = hold(card, &input, precision)?;
    let weights = Memory::of(card, &bytes_of(&weights))?;
    let output = Memory::new(card, expected.len() * 4)?;
    let (weights_at, to) = (weights.address(), output.address());
    kernels::grad_cam(
        card.as_ref(),
        precision,
        clips,
        held.activations,
        weights_at,
        to,
    )?;
    Ok(difference(
        &read(&output, expected.len(), Precision::F32)?,
        &expected,
    ))
}

/// Slices of several sizes, some that no block finishes in one turn.
fn copy_slices(card: &Arc<dyn Card>) -> Result<f64, CudaError> {
    let chunks = [1_usize, 300, 5000];
    let values = Noise(16).values(4 * chunks.iter().sum::<usize>());
    let from = Memory::of(card, &bytes_of(&values))?;
    let to = Memory::of(card, &vec![0xff; values.len() * 4])?;
    let (mut list, mut begin) = (Vec::new(), 0_u64);
    let total = (values.len() * 4) as u64;
    for count in chunks {
        let bytes = 16 * count as u64;
        // Back to front.
        let slice = kernels::Slice {
            from: from.address() + begin,
            to: to.address() + total - begin - bytes,
            chunks: count as i64,
        };
        list.extend(slice.to_bytes());
        begin += bytes;
    }
    let list = Memory::of(card, &list)?;
    kernels::copy_slices(card.as_ref(), list.address(), chunks.len(), 5000)?;
    let mut expected = Vec::new();
    let mut end = values.len();
    for count in chunks.into_iter().rev() {
        expected.extend(&values[end - 4 * count..end]);
        end -= 4 * count;
    }
    let found = read(&to, values.len(), Precision::F32)?;
    Ok(difference(&found, &wide(&expected)))
}
