//! What no convolution takes in.

use std::sync::Arc;

use super::{Noise, compare, hold, room};
use crate::engine::cuda::kernels;
use crate::engine::cuda::launch::{Card, Memory, bytes_of};
use crate::engine::cuda::{CudaError, Precision};

pub(super) fn pointwise(card: &Arc<dyn Card>, precision: Precision) -> Result<f64, CudaError> {
    let (clips, extent, channels) = (2, [3, 5, 7], 11);
    let mut noise = Noise(15);
    let input = noise.tensor(clips, extent, channels, precision);
    let other = noise.tensor(clips, extent, channels, precision);
    let (mut scale, mut shift) = (noise.values(channels), noise.values(channels));
    let held = [
        hold(card, &input, precision)?,
        hold(card, &other, precision)?,
    ];
    let mut worst = 0.0_f64;
    for (adds, relu) in [(false, true), (true, false), (true, true)] {
        let mut expected = input.clone();
        for (place, value) in expected.values.iter_mut().enumerate() {
            let channel = place % channels;
            *value = *value * f64::from(scale[channel]) + f64::from(shift[channel]);
            *value += if adds { other.values[place] } else { 0.0 };
            *value = if relu { value.max(0.0) } else { *value };
        }
        scale.resize(16, 0.0);
        shift.resize(16, 0.0);
        let (scale, shift) = (
            Memory::of(card, &bytes_of(&scale))?,
            Memory::of(card, &bytes_of(&shift))?,
        );
        let layer = kernels::Pointwise {
            scale: scale.address(),
            shift: shift.address(),
            relu,
        };
        let output = room(card, clips, extent, channels, precision)?;
        let (from, to) = (held[0].activations, output.activations);
        let other = adds.then_some(held[1].activations);
        kernels::pointwise(card.as_ref(), precision, clips, layer, from, other, to)?;
        worst = worst.max(compare(&output, &expected, precision)?);
    }
    Ok(worst)
}
