//! Resizing and Grad-CAM: `picture.cu`.

use super::super::launch::Card;
use super::super::{CudaError, Precision};
use super::{Activations, int, run, suffix};

/// `struct Resize` of `picture.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ResizeParameters {
    input: u64,
    output: u64,
    frames: i32,
    rows: i32,
    pitch: i32,
    left: i32,
    top: i32,
    width: i32,
    height: i32,
    out_rows: i32,
    out_columns: i32,
    _end: i32,
}

/// Pictures of one size, and the part of them that is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pictures {
    pub(crate) frames: usize,
    pub(crate) rows: usize,
    /// Bytes from one row to the next.
    pub(crate) pitch: usize,
    /// Left, top, width and height of the crop.
    pub(crate) crop: [usize; 4],
}

/// Crops and resizes grey pictures, antialiased.
pub(crate) fn resize(
    card: &dyn Card,
    pictures: Pictures,
    input: u64,
    out: [usize; 2],
    output: u64,
) -> Result<(), CudaError> {
    let [left, top, width, height] = pictures.crop;
    let items = pictures.frames * out[0] * out[1];
    int(items)?;
    let parameters = ResizeParameters {
        input,
        output,
        frames: int(pictures.frames)?,
        rows: int(pictures.rows)?,
        pitch: int(pictures.pitch)?,
        left: int(left)?,
        top: int(top)?,
        width: int(width)?,
        height: int(height)?,
        out_rows: int(out[0])?,
        out_columns: int(out[1])?,
        _end: 0,
    };
    run(
        card,
        "resize",
        [items.div_ceil(256), 1, 1],
        256,
        0,
        &parameters,
    )
}

/// `struct GradCam` of `picture.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct GradCam {
    activations: u64,
    weights: u64,
    output: u64,
    input_clip: i64,
    clips: i32,
    positions: i32,
    channels: i32,
    _end: i32,
}

/// Activations weighted by channel, `weights` being `[clips, channels]` in f32.
pub(crate) fn grad_cam(
    card: &dyn Card,
    precision: Precision,
    clips: usize,
    activations: Activations,
    weights: u64,
    output: u64,
) -> Result<(), CudaError> {
    let positions = activations.positions();
    int(clips * positions)?;
    let parameters = GradCam {
        activations: activations.address,
        weights,
        output,
        input_clip: activations.clip as i64,
        clips: int(clips)?,
        positions: int(positions)?,
        channels: int(activations.channels)?,
        _end: 0,
    };
    let kernel = format!("grad_cam_{}", suffix(precision));
    run(
        card,
        &kernel,
        [(clips * positions).div_ceil(8), 1, 1],
        256,
        0,
        &parameters,
    )
}
