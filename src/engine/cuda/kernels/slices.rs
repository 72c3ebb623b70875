//! What sessions hold, copied: `slices.cu`.

use super::super::CudaError;
use super::super::launch::Card;
use super::{int, run};

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
