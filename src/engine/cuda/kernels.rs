//! The kernels of `kernels/`: their parameters, and how each is launched.
//!
//! The structs mirror those of the sources, member by member. The host shim
//! refuses a launch whose parameters have another size, and the tests give
//! every member a value that matters.

use super::launch::{Card, Launch, Parameters};
use super::{CudaError, Precision};

/// A source file and its text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
}

macro_rules! sources {
    ($($name:literal),*) => {
        [$(Source { name: $name, text: include_str!(concat!("../../../kernels/", $name)) }),*]
    };
}

/// What is compiled, one module a file.
pub(crate) const SOURCES: [Source; 11] = sources![
    "conv_f32.cu",
    "conv_mma.cu",
    "conv_wgmma.cu",
    "dense.cu",
    "input.cu",
    "lstm.cu",
    "picture.cu",
    "pointwise.cu",
    "pool.cu",
    "probe.cu",
    "slices.cu"
];

/// What the sources include.
pub(crate) const HEADERS: [Source; 4] = sources!["common.cuh", "conv.cuh", "hopper.cuh", "ptx.cuh"];

/// Sources for an architecture: some instructions are Hopper's alone.
pub(crate) fn sources_for(architecture: &str) -> impl Iterator<Item = Source> {
    let is_hopper = architecture == "sm_90a";
    let all = SOURCES.into_iter();
    all.filter(move |source| is_hopper || source.name != "conv_wgmma.cu")
}

/// An `int` of the sources; what does not fit is refused.
fn int(value: usize) -> Result<i32, CudaError> {
    i32::try_from(value).map_err(|_| CudaError::TooLarge { value })
}

fn ints(values: [usize; 3]) -> Result<[i32; 3], CudaError> {
    let [t, h, w] = values;
    Ok([int(t)?, int(h)?, int(w)?])
}

/// Activations of all clips on a card, `[N, T, H, W, channels]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Activations {
    pub(crate) address: u64,
    /// Values from one clip's to the next one's.
    pub(crate) clip: usize,
    /// Padded to a multiple of eight.
    pub(crate) channels: usize,
    pub(crate) extent: [usize; 3],
}

impl Activations {
    fn positions(&self) -> usize {
        self.extent.iter().product()
    }
}

/// How a window slides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) kernel: [usize; 3],
    pub(crate) stride: [usize; 3],
    pub(crate) padding: [usize; 3],
}

fn suffix(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "f32",
        Precision::F16 => "f16",
        Precision::Bf16 => "bf16",
    }
}

fn run<P: Copy>(
    card: &dyn Card,
    kernel: &str,
    grid: [usize; 3],
    block: usize,
    shared_bytes: usize,
    parameters: &P,
) -> Result<(), CudaError> {
    card.launch(&Launch {
        kernel,
        grid,
        block,
        shared_bytes,
        together: false,
        parameters: Parameters::of(parameters),
    })
}

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

/// `struct InputParameters` of `input.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Input {
    input: u64,
    output: u64,
    table: u64,
    output_clip: i64,
    clips: i32,
    positions: i32,
    channels: i32,
    stride: i32,
}

/// How clips come in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Incoming {
    /// Grey pictures, and the table of what each level becomes, `[C, 256]`.
    Grey {
        /// The table's address.
        table: u64,
    },
    /// Values that are normalised already, `[N, C, T, H, W]` in f32.
    Values,
}

/// Lays clips out for the convolutions.
pub(crate) fn lay_out(
    card: &dyn Card,
    precision: Precision,
    incoming: Incoming,
    clips: usize,
    channels: usize,
    input: u64,
    output: Activations,
) -> Result<(), CudaError> {
    let (kernel, table) = match incoming {
        Incoming::Grey { table } => ("normalise", table),
        Incoming::Values => ("channels_last", 0),
    };
    let positions = output.positions();
    let parameters = Input {
        input,
        output: output.address,
        table,
        output_clip: output.clip as i64,
        clips: int(clips)?,
        positions: int(positions)?,
        channels: int(channels)?,
        stride: int(output.channels)?,
    };
    let kernel = format!("{kernel}_{}", suffix(precision));
    let blocks = (clips * positions).div_ceil(256);
    run(card, &kernel, [blocks, 1, 1], 256, 0, &parameters)
}

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

/// A convolution whose weights are on a card; packed by `super::weights`.
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

/// `struct Lstm` of `lstm.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LstmParameters {
    gates: u64,
    recurrent: u64,
    state: u64,
    sequence: u64,
    output: u64,
    counters: u64,
    clips: i32,
    frames: i32,
    hidden: i32,
    units: i32,
    first_group: i32,
    _end: i32,
}

/// The recurrence of one LSTM layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recurrence {
    /// `[hidden / units][4 units][hidden]`.
    pub(crate) recurrent: u64,
    /// Padded to a multiple of sixteen.
    pub(crate) hidden: usize,
    /// Hidden units of one block: 4, 8 or 16.
    pub(crate) units: usize,
}

/// Clips that a block of the recurrence takes.
pub(crate) const LSTM_CLIPS: usize = 16;

/// Shared memory of a block of the recurrence.
pub(crate) fn lstm_shared_bytes(precision: Precision, hidden: usize, units: usize) -> usize {
    let weights = match precision {
        Precision::F32 => 4 * units * (hidden + 1) * 4,
        Precision::F16 | Precision::Bf16 => 4 * units * (hidden + 2) * 2,
    };
    weights.next_multiple_of(16) + LSTM_CLIPS * (hidden + 4 * units) * 4
}

/// What a recurrence reads and writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sequence {
    /// `[clips, frames, 4 hidden]`, f32.
    pub(crate) gates: u64,
    /// `[2][clips][hidden]`, f32.
    pub(crate) state: u64,
    /// `[clips, frames, hidden]`, or 0.
    pub(crate) sequence: u64,
    /// `[clips, hidden]`, f32, or 0.
    pub(crate) output: u64,
    /// Two for every sixteen clips, zero.
    pub(crate) counters: u64,
}

/// Runs the recurrence over all frames.
pub(crate) fn lstm(
    card: &dyn Card,
    precision: Precision,
    clips: usize,
    frames: usize,
    layer: Recurrence,
    sequence: Sequence,
) -> Result<(), CudaError> {
    let blocks = layer.hidden / layer.units;
    let groups = clips.div_ceil(LSTM_CLIPS);
    // All blocks of a launch run at once: no more groups than there is room for.
    let at_once = (card.limits().multiprocessors / blocks).max(1);
    let kernel = format!("lstm_{}", suffix(precision));
    for first_group in (0..groups).step_by(at_once) {
        let parameters = LstmParameters {
            gates: sequence.gates,
            recurrent: layer.recurrent,
            state: sequence.state,
            sequence: sequence.sequence,
            output: sequence.output,
            counters: sequence.counters,
            clips: int(clips)?,
            frames: int(frames)?,
            hidden: int(layer.hidden)?,
            units: int(layer.units)?,
            first_group: int(first_group)?,
            _end: 0,
        };
        card.launch(&Launch {
            kernel: &kernel,
            grid: [blocks, at_once.min(groups - first_group), 1],
            block: 256,
            shared_bytes: lstm_shared_bytes(precision, layer.hidden, layer.units),
            together: true,
            parameters: Parameters::of(&parameters),
        })?;
    }
    Ok(())
}

/// `struct Slice` of `slices.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Of sixteen bytes.
    pub(crate) chunks: i64,
}

impl Slice {
    /// As the card's memory holds it.
    pub(crate) fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.from.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.to.to_ne_bytes());
        bytes[16..].copy_from_slice(&self.chunks.to_ne_bytes());
        bytes
    }
}

/// `struct Slices` of `slices.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Slices {
    slices: u64,
    count: i32,
    _end: i32,
}

/// Copies so many slices, of at most so many chunks of sixteen bytes, that are
/// listed at an address.
pub(crate) fn copy_slices(
    card: &dyn Card,
    slices: u64,
    count: usize,
    most_chunks: usize,
) -> Result<(), CudaError> {
    /// Blocks of one slice, at the most: each then copies some chunks in turn.
    const BLOCKS: usize = 16;
    let parameters = Slices {
        slices,
        count: int(count)?,
        _end: 0,
    };
    let blocks = most_chunks.div_ceil(256).clamp(1, BLOCKS);
    run(card, "copy_slices", [blocks, count, 1], 256, 0, &parameters)
}

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

/// `struct Probe` of `probe.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Probe {
    input: u64,
    output: u64,
}

/// Runs one of the conformance probes, a single block.
pub(crate) fn probe(
    card: &dyn Card,
    kernel: &str,
    threads: usize,
    shared_bytes: usize,
    input: u64,
    output: u64,
) -> Result<(), CudaError> {
    let parameters = Probe { input, output };
    run(card, kernel, [1, 1, 1], threads, shared_bytes, &parameters)
}
