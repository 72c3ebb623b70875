//! The kernels of `kernels/`: their parameters, and how each is launched.
//!
//! The structs mirror those of the sources, member by member. The host shim
//! refuses a launch whose parameters have another size, and the tests give
//! every member a value that matters.

mod conv;
mod dense;
mod halo;
mod input;
mod lstm;
mod picture;
mod pointwise;
mod pool;
mod probe;
mod slices;
mod stem;

use super::launch::{Card, Launch, Parameters, Together};
use super::{CudaError, Precision};

pub(crate) use conv::{BLOCK_ROWS, Conv, ConvIo, Way, conv};
pub(crate) use dense::{Linear, linear, log_mean_softmax};
pub(crate) use halo::halo_suits;
pub(crate) use input::{Incoming, lay_out};
pub(crate) use lstm::{Recurrence, Sequence, lstm, lstm_counter_bytes, lstm_depth, lstm_units};
pub(crate) use picture::{Pictures, grad_cam, resize};
pub(crate) use pointwise::{Pointwise, pointwise};
pub(crate) use pool::{Of, mean_pool, window_pool};
pub(crate) use probe::probe;
pub(crate) use slices::{Slice, copy_slices};
pub(crate) use stem::stem_fits;

/// A source file and its text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
}

macro_rules! sources {
    ($($name:literal),*) => {
        [$(Source { name: $name, text: include_str!(concat!("../../../../kernels/", $name)) }),*]
    };
}

/// What is compiled, one module a file.
pub(crate) const SOURCES: [Source; 15] = sources![
    "conv_f32.cu",
    "conv_halo.cu",
    "conv_mma.cu",
    "conv_tma.cu",
    "conv_wgmma.cu",
    "dense.cu",
    "input.cu",
    "lstm.cu",
    "lstm_cluster.cu",
    "picture.cu",
    "pointwise.cu",
    "pool.cu",
    "probe.cu",
    "slices.cu",
    "stem.cu"
];

/// What the sources include.
pub(crate) const HEADERS: [Source; 8] = sources![
    "cluster.cuh",
    "common.cuh",
    "conv.cuh",
    "conv_group.cuh",
    "hopper.cuh",
    "lstm.cuh",
    "ptx.cuh",
    "tma.cuh"
];

/// Sources of instructions that are Hopper's alone.
pub(super) const HOPPER: [&str; 4] = [
    "conv_halo.cu",
    "conv_tma.cu",
    "conv_wgmma.cu",
    "lstm_cluster.cu",
];

/// Sources for an architecture.
pub(crate) fn sources_for(architecture: &str) -> impl Iterator<Item = Source> {
    let is_hopper = architecture == "sm_90a";
    let all = SOURCES.into_iter();
    all.filter(move |source| is_hopper || !HOPPER.contains(&source.name))
}

/// The source that a kernel is in.
pub(crate) fn source_of(kernel: &str) -> Option<&'static str> {
    let declared = format!("KERNEL({kernel},");
    let source = SOURCES
        .iter()
        .find(|source| source.text.contains(&declared));
    source.map(|source| source.name)
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
        together: Together::None,
        parameters: Parameters::of(parameters),
    })
}
