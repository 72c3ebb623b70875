//! What sessions hold, copied.

use std::sync::Arc;

use super::{Noise, difference, read, wide};
use crate::engine::cuda::kernels;
use crate::engine::cuda::launch::{Card, Memory, bytes_of};
use crate::engine::cuda::{CudaError, Precision};

/// Slices of several sizes, some that no block finishes in one turn.
pub(super) fn copy_slices(card: &Arc<dyn Card>) -> Result<f64, CudaError> {
    let chunks = [1_usize, 300, 5000];
    let values = Noise(16).values(4 * chunks.iter().sum::<usize>());
    let from = Memory::of(card, &bytes_of(&values))?;
    let to = Memory::of(card, &vec![0xff; values.len() * 4])?;
    let (mut list, mut begin) = (Vec::new(), 0_u64);
    let total = (values.len() * 4) as u64;
    for count in chunks {
        let bytes = 16 * count as u64;
        // Back to front.
        let slice = kernels::Slice {
            from: from.address() + begin,
            to: to.address() + total - begin - bytes,
            chunks: count as i64,
        };
        list.extend(slice.to_bytes());
        begin += bytes;
    }
    let list = Memory::of(card, &list)?;
    kernels::copy_slices(card.as_ref(), list.address(), chunks.len(), 5000)?;
    let mut expected = Vec::new();
    let mut end = values.len();
    for count in chunks.into_iter().rev() {
        expected.extend(&values[end - 4 * count..end]);
        end -= 4 * count;
    }
    let found = read(&to, values.len(), Precision::F32)?;
    Ok(difference(&found, &wide(&expected)))
}
