//! Every kernel against its definition, over odd shapes.

mod conv;
mod dense;
mod input;
mod lstm;
mod picture;
mod pointwise;
mod pool;
mod slices;
mod stem;

use std::sync::Arc;

use half::{bf16, f16};

use super::super::kernels::{Activations, Of};
use super::super::launch::{Card, Memory, floats_of};
use super::super::weights;
use super::super::{CudaError, Precision};
use super::reference::Tensor;
use super::{Case, Check};
pub(crate) use conv::copies_conform;
use conv::{CONVS, conv, frames_are_the_same, split_is_the_same};
use dense::{linear, log_mean_softmax};
use input::lay_out;
pub(crate) use lstm::clusters_conform;
use lstm::{lstm, lstm_of_infinity, shapes};
use picture::{grad_cam, resize};
use pointwise::pointwise;
use pool::{mean_pool, window_pool};
use slices::copy_slices;
use stem::{STEMS, stem};

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
        let check: Check = Box::new(move |card| lstm_of_infinity(card, precision));
        add("lstm of an infinite gate", check);
        for &shape in shapes(precision) {
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
        for shape in STEMS {
            let check: Check = Box::new(move |card| stem(card, precision, shape));
            // Weights are rounded here, and the mean cancels most of the sum.
            let name = format!("{}, {precision}", shape.name);
            cases.push(case(name, tolerance(precision) * 2.0, check));
        }
        let check: Check = Box::new(move |card| frames_are_the_same(card, precision));
        cases.push(case(
            format!("bits of frames do not depend on those behind, {precision}"),
            0.0,
            check,
        ));
        for (channels, kernel) in [(16, [3, 3, 3]), (144, [1, 3, 1])] {
            let check: Check =
                Box::new(move |card| split_is_the_same(card, precision, channels, kernel));
            cases.push(case(
                format!("bits of {channels} channels do not depend on the batch, {precision}"),
                0.0,
                check,
            ));
        }
    }
    cases
}
