//! Convolutions: `conv_f32.cu`, `conv_mma.cu` and `conv_wgmma.cu`.

use super::super::launch::Card;
use super::super::{CudaError, Precision};
use super::{Activations, Window, int, ints, run, suffix};

/// `struct Conv` of `conv.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ConvParameters {
    input: u64,
    weights: u64,
    bias: u64,
    residual: u64,
    output: u64,
    partial: u64,
    taps: u64,
    input_clip: i64,
    residual_clip: i64,
    output_clip: i64,
    clips: i32,
    channels: i32,
    channels_out: i32,
    extent_in: [i32; 3],
    extent_out: [i32; 3],
    kernel: [i32; 3],
    stride: [i32; 3],
    padding: [i32; 3],
    k: i32,
    segment: i32,
    segments: i32,
    is_split: i32,
    relu: i32,
    output_is_f32: i32,
    centre: i32,
    _end: i32,
}

/// A convolution whose weights are on a card; packed by `weights.rs`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conv {
    pub(crate) window: Window,
    pub(crate) weights: u64,
    /// `[channels_out]`, f32.
    pub(crate) bias: u64,
    /// Taps times channels in, padded as the kernel wants.
    pub(crate) k: usize,
    /// Of `k`, summed on its own; a multiple of 64.
    pub(crate) segment: usize,
    /// Whether Hopper's products of whole warpgroups compute it.
    pub(crate) by_warpgroups: bool,
    pub(crate) relu: bool,
    pub(crate) output_is_f32: bool,
    /// For a stem that reads grey pictures.
    pub(crate) grey: Option<Grey>,
}

/// What the stem needs to read grey pictures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grey {
    /// Packed offsets of the taps.
    pub(crate) taps: u64,
    /// The level that becomes zero.
    pub(crate) centre: u8,
}

impl Conv {
    pub(crate) fn segments(&self) -> usize {
        self.k.div_ceil(self.segment)
    }

    /// Whether, for so many clips, each segment gets blocks of its own: where
    /// there would be fewer blocks than multiprocessors otherwise.
    fn is_split(&self, clips: usize, output: Activations, multiprocessors: usize) -> bool {
        let tiles = (clips * output.positions()).div_ceil(128) * output.channels.div_ceil(64);
        self.segments() > 1 && tiles < multiprocessors
    }

    /// Bytes of partial sums that a launch for so many clips needs.
    pub(crate) fn partial_bytes(&self, clips: usize, output: Activations, limits: usize) -> usize {
        if self.is_split(clips, output, limits) {
            self.segments() * clips * output.positions() * output.channels * 4
        } else {
            0
        }
    }
}

/// What a convolution reads and writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConvIo {
    pub(crate) input: Activations,
    pub(crate) residual: Option<Activations>,
    pub(crate) output: Activations,
    /// Memory of [`Conv::partial_bytes`].
    pub(crate) partial: u64,
}

/// `output = relu?(conv(input) + bias + residual?)`.
pub(crate) fn conv(
    card: &dyn Card,
    precision: Precision,
    clips: usize,
    conv: &Conv,
    io: ConvIo,
) -> Result<(), CudaError> {
    const STAGES: usize = 4;
    let ConvIo {
        input,
        residual,
        output,
        partial,
    } = io;
    let rows = clips * output.positions();
    let multiprocessors = card.limits().multiprocessors;
    let is_split = conv.is_split(clips, output, multiprocessors);
    let parameters = ConvParameters {
        input: input.address,
        weights: conv.weights,
        bias: conv.bias,
        residual: residual.map_or(0, |residual| residual.address),
        output: output.address,
        partial,
        taps: conv.grey.map_or(0, |grey| grey.taps),
        input_clip: input.clip as i64,
        residual_clip: residual.map_or(0, |residual| residual.clip as i64),
        output_clip: output.clip as i64,
        clips: int(clips)?,
        channels: int(input.channels)?,
        channels_out: int(output.channels)?,
        extent_in: ints(input.extent)?,
        extent_out: ints(output.extent)?,
        kernel: ints(conv.window.kernel)?,
        stride: ints(conv.window.stride)?,
        padding: ints(conv.window.padding)?,
        k: int(conv.k)?,
        segment: int(conv.segment)?,
        segments: int(conv.segments())?,
        is_split: i32::from(is_split),
        relu: i32::from(conv.relu),
        output_is_f32: i32::from(conv.output_is_f32),
        centre: conv.grey.map_or(0, |grey| i32::from(grey.centre)),
        _end: 0,
    };
    // Tiles run over by less than one.
    int(rows + 128)?;
    if precision == Precision::F32 {
        let grid = [rows.div_ceil(64), output.channels.div_ceil(64), 1];
        return run(card, "conv_f32", grid, 256, 16 * (68 + 64) * 4, &parameters);
    }
    let wide_blocks = rows.div_ceil(128) * output.channels.div_ceil(128);
    let is_wide = conv.segments() == 1
        && output.channels.is_multiple_of(128)
        && wide_blocks >= 2 * multiprocessors;
    // Kernel, channels and bytes of k of a stage's rows.
    let (kernel, width, row_bytes) = match (conv.grey, conv.by_warpgroups, is_wide) {
        (Some(_), ..) => ("stem64", 64, 64),
        (None, false, true) => ("conv128", 128, 64),
        (None, false, false) => ("conv64", 64, 64),
        (None, true, true) => ("hopper128", 128, 128),
        (None, true, false) => ("hopper64", 64, 128),
    };
    let suffix = suffix(precision);
    let splits = if is_split { conv.segments() } else { 1 };
    let grid = [rows.div_ceil(128), output.channels.div_ceil(width), splits];
    let shared = STAGES * (128 + width) * row_bytes;
    run(
        card,
        &format!("{kernel}_{suffix}"),
        grid,
        256,
        shared,
        &parameters,
    )?;
    if is_split {
        let blocks = (rows * output.channels / 2).div_ceil(256);
        run(
            card,
            &format!("conv_reduce_{suffix}"),
            [blocks, 1, 1],
            256,
            0,
            &parameters,
        )?;
    }
    Ok(())
}
