//! Resizing and Grad-CAM.

use std::sync::Arc;

use super::super::reference;
use super::{Noise, difference, hold, read};
use crate::engine::cuda::kernels;
use crate::engine::cuda::launch::{Card, Memory, bytes_of};
use crate::engine::cuda::{CudaError, Precision};

pub(super) fn resize(card: &Arc<dyn Card>) -> Result<f64, CudaError> {
    let mut noise = Noise(13);
    let mut worst = 0.0_f64;
    let pictures = kernels::Pictures {
        frames: 2,
        rows: 37,
        pitch: 64,
        crop: [5, 3, 47, 31],
    };
    let bytes: Vec<u8> = (0..2 * 37 * 64)
        .map(|_| (noise.next() * 127.5 + 127.5) as u8)
        .collect();
    let input = Memory::of(card, &bytes)?;
    // Smaller, larger, and by whole steps, where halves are rounded.
    for to in [[10, 13], [40, 60], [31, 47]] {
        let output = Memory::new(card, 2 * to[0] * to[1])?;
        kernels::resize(
            card.as_ref(),
            pictures,
            input.address(),
            to,
            output.address(),
        )?;
        let mut found = vec![0; 2 * to[0] * to[1]];
        output.download(&mut found)?;
        for (frame, found) in found.chunks_exact(to[0] * to[1]).enumerate() {
            let pixel = |y: usize, x: usize| f64::from(bytes[(frame * 37 + y + 3) * 64 + x + 5]);
            let expected = reference::resize(pixel, [31, 47], to);
            for (found, expected) in found.iter().zip(expected) {
                worst = worst.max((f64::from(*found) - expected).abs());
            }
        }
    }
    Ok(worst)
}

pub(super) fn grad_cam(card: &Arc<dyn Card>, precision: Precision) -> Result<f64, CudaError> {
    let mut noise = Noise(14);
    let (clips, extent, channels) = (2, [2, 3, 5], 272);
    let input = noise.tensor(clips, extent, channels, precision);
    let weights = noise.values(clips * channels);
    let mut expected = Vec::new();
    for clip in 0..clips {
        for at in reference::places(extent) {
            let row = input.at(clip, at).iter().zip(&weights[clip * channels..]);
            let sum: f64 = row.map(|(value, weight)| value * f64::from(*weight)).sum();
            expected.push(sum.max(0.0));
        }
    }
    let held = hold(card, &input, precision)?;
    let weights = Memory::of(card, &bytes_of(&weights))?;
    let output = Memory::new(card, expected.len() * 4)?;
    let (weights_at, to) = (weights.address(), output.address());
    kernels::grad_cam(
        card.as_ref(),
        precision,
        clips,
        held.activations,
        weights_at,
        to,
    )?;
    Ok(difference(
        &read(&output, expected.len(), Precision::F32)?,
        &expected,
    ))
}
