//! What no convolution takes in: `pointwise.cu`.

use super::super::launch::Card;
use super::super::{CudaError, Precision};
use super::{Activations, int, run, suffix};

/// `struct Pointwise` of `pointwise.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct PointwiseParameters {
    input: u64,
    other: u64,
    output: u64,
    scale: u64,
    shift: u64,
    input_clip: i64,
    other_clip: i64,
    output_clip: i64,
    clips: i32,
    positions: i32,
    channels: i32,
    relu: i32,
}

/// A factor and a summand a channel, f32, zero in the padding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pointwise {
    pub(crate) scale: u64,
    pub(crate) shift: u64,
    pub(crate) relu: bool,
}

/// `output = relu?(input * scale + shift + other?)`.
pub(crate) fn pointwise(
    card: &dyn Card,
    precision: Precision,
    clips: usize,
    layer: Pointwise,
    input: Activations,
    other: Option<Activations>,
    output: Activations,
) -> Result<(), CudaError> {
    let parameters = PointwiseParameters {
        input: input.address,
        other: other.map_or(0, |other| other.address),
        output: output.address,
        scale: layer.scale,
        shift: layer.shift,
        input_clip: input.clip as i64,
        other_clip: other.map_or(0, |other| other.clip as i64),
        output_clip: output.clip as i64,
        clips: int(clips)?,
        positions: int(output.positions())?,
        channels: int(output.channels)?,
        relu: i32::from(layer.relu),
    };
    let kernel = format!("pointwise_{}", suffix(precision));
    let blocks = (clips * output.positions() * output.channels / 8).div_ceil(256);
    run(card, &kernel, [blocks, 1, 1], 256, 0, &parameters)
}
