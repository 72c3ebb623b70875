//! Linear layers and softmax: `dense.cu`.

use super::super::CudaError;
use super::super::launch::Card;
use super::{Activations, int, run};

/// `struct Linear` of `dense.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LinearParameters {
    input: u64,
    weights: u64,
    bias: u64,
    output: u64,
    input_clip: i64,
    output_clip: i64,
    clips: i32,
    rows: i32,
    features: i32,
    stride: i32,
    classes: i32,
    output_stride: i32,
}

/// A linear layer in f32, with its weights `[classes, features]` on the card.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear {
    pub(crate) weights: u64,
    pub(crate) bias: u64,
    pub(crate) features: usize,
    pub(crate) classes: usize,
}

/// Applies a linear layer to every position of f32.
pub(crate) fn linear(
    card: &dyn Card,
    layer: Linear,
    clips: usize,
    input: Activations,
    output: Activations,
) -> Result<(), CudaError> {
    let rows = output.positions();
    let parameters = LinearParameters {
        input: input.address,
        weights: layer.weights,
        bias: layer.bias,
        output: output.address,
        input_clip: input.clip as i64,
        output_clip: output.clip as i64,
        clips: int(clips)?,
        rows: int(rows)?,
        features: int(layer.features)?,
        stride: int(input.channels)?,
        classes: int(layer.classes)?,
        output_stride: int(output.channels)?,
    };
    let items = clips * rows * output.channels;
    int(items)?;
    run(
        card,
        "linear",
        [items.div_ceil(8), 1, 1],
        256,
        0,
        &parameters,
    )
}

/// `struct LogMeanSoftmax` of `dense.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LogMeanSoftmax {
    input: u64,
    output: u64,
    clips: i32,
    frames: i32,
    classes: i32,
    stride: i32,
}

/// The logarithm of the mean over frames of the softmax, rows `stride` apart.
pub(crate) fn log_mean_softmax(
    card: &dyn Card,
    clips: usize,
    frames: usize,
    classes: usize,
    stride: usize,
    input: u64,
    output: u64,
) -> Result<(), CudaError> {
    let parameters = LogMeanSoftmax {
        input,
        output,
        clips: int(clips)?,
        frames: int(frames)?,
        classes: int(classes)?,
        stride: int(stride)?,
    };
    run(
        card,
        "log_mean_softmax",
        [clips, 1, 1],
        32,
        classes * 4,
        &parameters,
    )
}
