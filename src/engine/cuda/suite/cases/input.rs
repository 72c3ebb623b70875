//! What comes in.

use std::sync::Arc;

use super::super::reference::Tensor;
use super::{Noise, compare, room};
use crate::engine::cuda::kernels::{self, Incoming};
use crate::engine::cuda::launch::{Card, Memory, bytes_of};
use crate::engine::cuda::{CudaError, Precision};

pub(super) fn lay_out(
    card: &Arc<dyn Card>,
    precision: Precision,
    grey: bool,
) -> Result<f64, CudaError> {
    let (clips, extent, channels) = (3, [2, 5, 11], if grey { 3 } else { 9 });
    let mut noise = Noise(8);
    let positions: usize = extent.iter().product();
    let mut expected = Tensor::zeros(clips, extent, channels);
    let (input, table) = if grey {
        let table = noise.values(channels * 256);
        let bytes: Vec<u8> = (0..clips * positions).map(|i| (i * 37) as u8).collect();
        for (row, grey) in expected.values.chunks_exact_mut(channels).zip(&bytes) {
            for (channel, value) in row.iter_mut().enumerate() {
                *value = f64::from(table[channel * 256 + usize::from(*grey)]);
            }
        }
        (bytes, bytes_of(&table))
    } else {
        let values = noise.values(clips * channels * positions);
        for (number, value) in values.iter().enumerate() {
            let (rest, position) = (number / positions, number % positions);
            let (clip, channel) = (rest / channels, rest % channels);
            expected.values[(clip * positions + position) * channels + channel] = f64::from(*value);
        }
        (bytes_of(&values), Vec::new())
    };
    let input = Memory::of(card, &input)?;
    let table = Memory::of(card, &table)?;
    let output = room(card, clips, extent, channels, precision)?;
    let incoming = if grey {
        Incoming::Grey {
            table: table.address(),
        }
    } else {
        Incoming::Values
    };
    let (from, to) = (input.address(), output.activations);
    kernels::lay_out(
        card.as_ref(),
        precision,
        incoming,
        clips,
        channels,
        from,
        to,
    )?;
    compare(&output, &expected, precision)
}
