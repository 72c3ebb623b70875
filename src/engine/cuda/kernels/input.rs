//! What comes in: `input.cu`.

use super::super::launch::Card;
use super::super::{CudaError, Precision};
use super::{Activations, int, run, suffix};

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
