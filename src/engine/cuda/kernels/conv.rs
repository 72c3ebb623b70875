//! Convolutions: `conv_f32.cu`, `conv_mma.cu`, `conv_wgmma.cu` and `conv_tma.cu`; and
//! `conv_halo.cu` by `halo.rs`, `stem.cu` by `stem.rs`.

use super::super::launch::{Card, Launch, Limits, Parameters, TensorMap, Tiles, Together};
use super::super::{CudaError, Precision};
use super::halo::Halo;
use super::stem::stem;
use super::{Activations, Window, int, ints, run, suffix};

/// `struct Conv` of `conv.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ConvParameters {
    input: u64,
    weights: u64,
    bias: u64,
    residual: u64,
    output: u64,
    partial: u64,
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

/// `struct ConvTma` of `conv_tma.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct TmaParameters {
    conv: ConvParameters,
    tiles_in_segment: i32,
    stages: i32,
    positions: TensorMap,
    rows: TensorMap,
}

/// What multiplies, and what brings the values; those of Hopper give the same bits where
/// the channels in are a multiple of 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Warps, and each thread's own copies: any card.
    Warps,
    /// Hopper's warpgroups, and each thread's own copies.
    Warpgroups,
    /// Hopper's warpgroups, and its tensor memory accelerator where the convolution is
    /// one that it can bring.
    Tma,
    /// The same, where blocks that read the same positions are pairs and share them.
    Pairs,
}

impl Way {
    /// All that a card has.
    pub(crate) fn all(limits: Limits) -> impl Iterator<Item = Self> {
        let has = move |way: &Self| match way {
            Self::Warps => true,
            Self::Warpgroups => limits.warpgroups,
            Self::Tma => limits.warpgroups && limits.tma,
            Self::Pairs => limits.warpgroups && limits.tma && limits.pairs,
        };
        [Self::Warps, Self::Warpgroups, Self::Tma, Self::Pairs]
            .into_iter()
            .filter(has)
    }

    /// Whether the accelerator brings what it can.
    pub(crate) fn has_tma(self) -> bool {
        matches!(self, Self::Tma | Self::Pairs)
    }

    /// The best that a card has.
    pub(crate) fn of(limits: Limits) -> Self {
        Self::all(limits).last().unwrap_or(Self::Warps)
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Warps => "mma",
            Self::Warpgroups => "wgmma",
            Self::Tma => "wgmma, TMA",
            Self::Pairs => "wgmma, TMA, pairs",
        })
    }
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
    /// Of `k`, summed on its own; a multiple of 64. Of the accelerator's tiles as many
    /// as give as many segments, or fewer.
    pub(crate) segment: usize,
    /// What computes it, in f16 and bf16.
    pub(crate) way: Way,
    pub(crate) relu: bool,
    pub(crate) output_is_f32: bool,
    /// For a stem that reads grey pictures: the level that becomes zero.
    pub(crate) centre: Option<u8>,
}

impl Conv {
    pub(crate) fn segments(&self) -> usize {
        self.k.div_ceil(self.segment)
    }

    /// Whether, for so many clips, each segment gets blocks of its own: where
    /// there would be fewer blocks than multiprocessors otherwise.
    fn is_split(&self, clips: usize, output: Activations, multiprocessors: usize) -> bool {
        let tiles =
            (clips * output.positions()).div_ceil(BLOCK_ROWS) * output.channels.div_ceil(64);
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

/// Positions that a block computes.
pub(crate) const BLOCK_ROWS: usize = 128;
/// Blocks along the second axis of a grid.
const MOST_ALONG_Y: usize = 65_535;
/// Values of a row that the accelerator brings.
pub(super) const TMA_ROW: usize = 64;
/// Of a value.
pub(super) const TMA_BYTES: usize = 2;
/// Channels in, at the least: with fewer, most of a row would be zeros.
const TMA_CHANNELS: usize = 32;
/// Taps and strides along an axis, and corners of its box, that fit into the map and the
/// instruction of five dimensions.
const TMA_TAPS: usize = 16;
const TMA_STRIDE: usize = 8;
const TMA_BOX: std::ops::Range<i64> = -16..16;

/// What the accelerator brings of a convolution's input, so many positions at a time; none
/// where it cannot, be it for the channels or for the few bits of its box. The same
/// for whole clips and for some of their frames, so that both have the same bits: what lies
/// behind the last tap of the last position does not matter.
fn positions(
    window: Window,
    clips: usize,
    input: Activations,
    output: Activations,
    count: usize,
) -> Option<Tiles> {
    let Window {
        kernel,
        stride,
        padding,
    } = window;
    let axes = [0, 1, 2];
    let lower = padding.map(|padding| -(padding as i64));
    let last =
        axes.map(|axis| (output.extent[axis] as i64 - 1) * stride[axis] as i64 + lower[axis]);
    let seen = axes.map(|axis| {
        let end = last[axis] + kernel[axis] as i64;
        end.clamp(1, input.extent[axis] as i64)
    });
    let upper = axes.map(|axis| last[axis] - (seen[axis] - 1));
    let is_aligned = input.address.is_multiple_of(16) && input.clip.is_multiple_of(8);
    let fits = input.channels >= TMA_CHANNELS
        && is_aligned
        && axes
            .into_iter()
            .all(|axis| kernel[axis] <= TMA_TAPS && stride[axis] <= TMA_STRIDE)
        && lower
            .iter()
            .chain(&upper)
            .all(|corner| TMA_BOX.contains(corner));
    let along = |[t, h, w]: [i64; 3]| [w, h, t].map(|corner| corner as i32);
    let ([_, h, w], channels) = (input.extent, input.channels);
    let pitch = [channels, w * channels, h * w * channels, input.clip];
    let [t, h, w] = seen.map(|extent| extent as usize);
    fits.then_some(Tiles::Positions {
        address: input.address,
        extent: [channels, w, h, t, clips],
        pitch: pitch.map(|values| TMA_BYTES * values),
        count,
        stride: [stride[2], stride[1], stride[0]],
        lower: along(lower),
        upper: along(upper),
    })
}

/// What the accelerator brings of a convolution's weights, so many channels out at a time.
pub(super) fn rows_of_weights(conv: &Conv, output: Activations, count: usize) -> Tiles {
    Tiles::Matrix {
        address: conv.weights,
        extent: [conv.k, output.channels],
        pitch: TMA_BYTES * conv.k,
        count,
    }
}

/// How blocks share a convolution out.
#[derive(Clone, Copy, Debug)]
struct Tiling {
    /// Channels out of a block.
    width: usize,
    /// Whether blocks of the same positions are pairs; the grid has other axes then.
    are_pairs: bool,
}

impl Tiling {
    fn of(
        conv: &Conv,
        along: usize,
        channels: usize,
        is_split: bool,
        multiprocessors: usize,
    ) -> Self {
        let across = |width: usize| channels.div_ceil(width);
        let splits = if is_split { conv.segments() } else { 1 };
        let tiling = |width| Self {
            width,
            are_pairs: conv.way == Way::Pairs
                && across(width).is_multiple_of(2)
                && along <= MOST_ALONG_Y,
        };
        let [narrow, wide] = [64, 128].map(tiling);
        // What warpgroups wait for is their tiles' rows: those that the busiest
        // multiprocessor brings for each place in k.
        let brings = |of: &Self| {
            let blocks = along * across(of.width) * splits;
            blocks.div_ceil(multiprocessors) * (of.positions() + of.width)
        };
        let is_wide = match conv.way {
            // Warps have no registers for a wide tile's segments.
            Way::Warps => {
                conv.segments() == 1
                    && channels.is_multiple_of(128)
                    && along * across(128) >= 2 * multiprocessors
            }
            _ if is_split && !channels.is_multiple_of(128) => false,
            // A stage of 64 channels out takes as long as one of 128.
            Way::Warpgroups | Way::Tma if is_split => true,
            Way::Warpgroups | Way::Tma => brings(&wide) < brings(&narrow),
            // Narrow tiles read more of what lies in shared memory.
            Way::Pairs => brings(&wide) <= brings(&narrow),
        };
        if is_wide { wide } else { narrow }
    }

    /// That a block brings, of those that it computes.
    fn positions(&self) -> usize {
        if self.are_pairs {
            BLOCK_ROWS / 2
        } else {
            BLOCK_ROWS
        }
    }
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
    let mut parameters = ConvParameters {
        input: input.address,
        weights: conv.weights,
        bias: conv.bias,
        residual: residual.map_or(0, |residual| residual.address),
        output: output.address,
        partial,
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
        centre: conv.centre.map_or(0, i32::from),
        _end: 0,
    };
    // Tiles run over by less than one.
    int(rows + BLOCK_ROWS)?;
    if precision == Precision::F32 {
        let grid = [rows.div_ceil(64), output.channels.div_ceil(64), 1];
        return run(card, "conv_f32", grid, 256, 16 * (68 + 64) * 4, &parameters);
    }
    if conv.centre.is_some() {
        return stem(card, precision, conv, clips, output, parameters);
    }
    if let Some(halo) = Halo::of(conv, clips, &io, card.limits()) {
        return halo.run(card, precision, clips, conv, &io, parameters);
    }
    let along = rows.div_ceil(BLOCK_ROWS);
    let tiling = |way| {
        let conv = Conv { way, ..*conv };
        Tiling::of(&conv, along, output.channels, is_split, multiprocessors)
    };
    let mut chosen = tiling(conv.way);
    let mut brought = None;
    if conv.way.has_tma() {
        brought = positions(conv.window, clips, input, output, chosen.positions());
        if brought.is_none() {
            chosen = tiling(Way::Warpgroups);
        }
    }
    let Tiling { width, are_pairs } = chosen;
    // The accelerator's tiles do not go on from one tap to the next.
    let taps: usize = conv.window.kernel.iter().product();
    let tiles = taps * input.channels.div_ceil(TMA_ROW);
    let tiles_in_segment = tiles.div_ceil(conv.segments());
    let segments = if brought.is_some() {
        tiles.div_ceil(tiles_in_segment)
    } else {
        conv.segments()
    };
    parameters.segments = int(segments)?;
    // Kernel, and bytes of k of a stage's rows.
    let (kernel, row_bytes) = match (&brought, conv.way) {
        (Some(_), _) if are_pairs => ("pair", 128),
        (Some(_), _) => ("tma", 128),
        (None, Way::Warps) => ("conv", 64),
        (None, _) => ("hopper", 128),
    };
    let suffix = suffix(precision);
    let name = format!("{kernel}{width}_{suffix}");
    let splits = if is_split { segments } else { 1 };
    let across = output.channels.div_ceil(width);
    let grid = if are_pairs {
        [across, along, splits]
    } else {
        [along, across, splits]
    };
    let stage_bytes = (BLOCK_ROWS + width) * row_bytes;
    match brought {
        Some(positions) => {
            // Where a multiprocessor holds one block, its memory is for more stages: they
            // are brought while others are under way.
            let is_alone = width == 128 || grid.iter().product::<usize>() <= multiprocessors;
            let most = card.limits().shared_bytes / (stage_bytes + 16);
            let stages = if is_alone { most.min(8) } else { STAGES };
            let of_block = if is_split { tiles_in_segment } else { tiles };
            let stages = stages.min(of_block.max(2));
            let parameters = TmaParameters {
                conv: parameters,
                tiles_in_segment: int(tiles_in_segment)?,
                stages: int(stages)?,
                positions: card.map(&positions)?,
                rows: card.map(&rows_of_weights(conv, output, width))?,
            };
            card.launch(&Launch {
                kernel: &name,
                grid,
                // A warp that asks for the copies.
                block: 256 + 32,
                // Two barriers a stage.
                shared_bytes: stages * (stage_bytes + 16),
                together: if are_pairs {
                    Together::Clusters(2)
                } else {
                    Together::None
                },
                parameters: Parameters::of(&parameters),
            })?;
        }
        None => run(card, &name, grid, 256, STAGES * stage_bytes, &parameters)?,
    }
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
