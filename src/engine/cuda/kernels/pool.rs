//! Pooling: `pool.cu`.

use super::super::launch::Card;
use super::super::{CudaError, Precision};
use super::{Activations, Window, int, ints, run, suffix};

/// `struct WindowPool` of `pool.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct WindowPool {
    input: u64,
    output: u64,
    input_clip: i64,
    output_clip: i64,
    clips: i32,
    channels: i32,
    extent_in: [i32; 3],
    extent_out: [i32; 3],
    kernel: [i32; 3],
    stride: [i32; 3],
    padding: [i32; 3],
    _end: i32,
}

/// What is taken of the values under a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Largest,
    Mean,
}

/// The largest value under a window, or the mean.
pub(crate) fn window_pool(
    card: &dyn Card,
    precision: Precision,
    clips: usize,
    of: Of,
    window: Window,
    input: Activations,
    output: Activations,
) -> Result<(), CudaError> {
    let items = clips * output.positions() * (output.channels / 8);
    int(items)?;
    let parameters = WindowPool {
        input: input.address,
        output: output.address,
        input_clip: input.clip as i64,
        output_clip: output.clip as i64,
        clips: int(clips)?,
        channels: int(input.channels)?,
        extent_in: ints(input.extent)?,
        extent_out: ints(output.extent)?,
        kernel: ints(window.kernel)?,
        stride: ints(window.stride)?,
        padding: ints(window.padding)?,
        _end: 0,
    };
    let name = match of {
        Of::Largest => "max_pool",
        Of::Mean => "average_pool",
    };
    let kernel = format!("{name}_{}", suffix(precision));
    run(
        card,
        &kernel,
        [items.div_ceil(256), 1, 1],
        256,
        0,
        &parameters,
    )
}

/// `struct MeanPool` of `pool.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct MeanPool {
    input: u64,
    output: u64,
    input_clip: i64,
    output_clip: i64,
    clips: i32,
    groups: i32,
    positions: i32,
    channels: i32,
    output_is_f32: i32,
    _end: i32,
}

/// Means over rows and columns, frame by frame or over all frames: `[clips *
/// groups, channels]`.
pub(crate) fn mean_pool(
    card: &dyn Card,
    precision: Precision,
    clips: usize,
    by_frame: bool,
    input: Activations,
    output: Activations,
    output_is_f32: bool,
) -> Result<(), CudaError> {
    let groups = if by_frame { input.extent[0] } else { 1 };
    let parameters = MeanPool {
        input: input.address,
        output: output.address,
        input_clip: input.clip as i64,
        output_clip: output.clip as i64,
        clips: int(clips)?,
        groups: int(groups)?,
        positions: int(input.positions() / groups)?,
        channels: int(input.channels)?,
        output_is_f32: i32::from(output_is_f32),
        _end: 0,
    };
    let kernel = format!("mean_pool_{}", suffix(precision));
    let grid = [clips * groups, input.channels.div_ceil(64), 1];
    run(card, &kernel, grid, 256, 32 * 64 * 4, &parameters)
}
