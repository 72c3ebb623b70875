//! Pooling.

use std::sync::Arc;

use super::super::reference::{self, Tensor};
use super::{Noise, compare, hold, room};
use crate::engine::cuda::kernels::{self, Of, Window};
use crate::engine::cuda::launch::Card;
use crate::engine::cuda::{CudaError, Precision};

pub(super) fn window_pool(
    card: &Arc<dyn Card>,
    precision: Precision,
    of: Of,
) -> Result<f64, CudaError> {
    let window = Window {
        kernel: [3, 3, 2],
        stride: [2, 2, 1],
        padding: [1, 1, 1],
    };
    let input = Noise(5).tensor(3, [5, 7, 6], 11, precision);
    let expected = reference::window_pool(&input, window, of);
    let held = hold(card, &input, precision)?;
    let output = room(card, 3, expected.extent, 11, precision)?;
    let (from, to) = (held.activations, output.activations);
    kernels::window_pool(card.as_ref(), precision, 3, of, window, from, to)?;
    compare(&output, &expected, precision)
}

pub(super) fn mean_pool(
    card: &Arc<dyn Card>,
    precision: Precision,
    by_frame: bool,
) -> Result<f64, CudaError> {
    let input = Noise(6).tensor(2, [3, 7, 5], 75, precision);
    let by_frames = reference::mean_by_frame(&input);
    let mut expected = by_frames.clone();
    if !by_frame {
        expected = Tensor::zeros(2, [1, 1, 1], 75);
        for clip in 0..2 {
            for t in 0..3 {
                let frame = by_frames.at(clip, [t, 0, 0]).to_vec();
                let means = expected.at_mut(clip, [0, 0, 0]);
                means
                    .iter_mut()
                    .zip(frame)
                    .for_each(|(mean, value)| *mean += value / 3.0);
            }
        }
    }
    let held = hold(card, &input, precision)?;
    let mut worst = 0.0_f64;
    for output_is_f32 in [false, true] {
        let written = if output_is_f32 {
            Precision::F32
        } else {
            precision
        };
        let output = room(card, 2, expected.extent, 75, written)?;
        let (from, to) = (held.activations, output.activations);
        kernels::mean_pool(
            card.as_ref(),
            precision,
            2,
            by_frame,
            from,
            to,
            output_is_f32,
        )?;
        worst = worst.max(compare(&output, &expected, written)?);
    }
    Ok(worst)
}
