//! Linear layers and softmax.

use std::sync::Arc;

use super::super::reference::{self, Tensor};
use super::{Noise, compare, hold, room, wide};
use crate::engine::cuda::kernels;
use crate::engine::cuda::launch::{Card, Memory, bytes_of};
use crate::engine::cuda::{CudaError, Precision};

pub(super) fn linear(card: &Arc<dyn Card>) -> Result<f64, CudaError> {
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

pub(super) fn log_mean_softmax(card: &Arc<dyn Card>) -> Result<f64, CudaError> {
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
