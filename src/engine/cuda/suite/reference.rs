//! Plain definitions in f64: slow, and easy to see through.

use super::super::kernels::{Of, Window};

/// Values `[N, T, H, W, C]`, without padding.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) clips: usize,
    pub(super) extent: [usize; 3],
    pub(super) channels: usize,
    pub(super) values: Vec<f64>,
}

impl Tensor {
    pub(super) fn zeros(clips: usize, extent: [usize; 3], channels: usize) -> Self {
        let len = clips * extent.iter().product::<usize>() * channels;
        Self {
            clips,
            extent,
            channels,
            values: vec![0.0; len],
        }
    }

    fn place(&self, clip: usize, at: [usize; 3]) -> usize {
        let [_, h, w] = self.extent;
        let position = (clip * self.extent[0] + at[0]) * h * w + at[1] * w + at[2];
        position * self.channels
    }

    /// Channels of a position.
    pub(super) fn at(&self, clip: usize, at: [usize; 3]) -> &[f64] {
        &self.values[self.place(clip, at)..][..self.channels]
    }

    pub(super) fn at_mut(&mut self, clip: usize, at: [usize; 3]) -> &mut [f64] {
        let place = self.place(clip, at);
        &mut self.values[place..][..self.channels]
    }

    /// Frames `from..to` of every clip.
    pub(super) fn frames(&self, from: usize, to: usize) -> Self {
        let [_, h, w] = self.extent;
        let mut cut = Self::zeros(self.clips, [to - from, h, w], self.channels);
        for clip in 0..self.clips {
            for at in places([to - from, h, w]) {
                let values = self.at(clip, [at[0] + from, at[1], at[2]]);
                cut.at_mut(clip, at).copy_from_slice(values);
            }
        }
        cut
    }
}

/// All places of an extent, in order.
pub(super) fn places(extent: [usize; 3]) -> impl Iterator<Item = [usize; 3]> {
    let [frames, rows, columns] = extent;
    (0..frames)
        .flat_map(move |t| (0..rows).map(move |h| (t, h)))
        .flat_map(move |(t, h)| (0..columns).map(move |w| [t, h, w]))
}

/// How far a window reaches.
pub(super) fn slid(extent: [usize; 3], window: Window) -> [usize; 3] {
    std::array::from_fn(|axis| {
        (extent[axis] + 2 * window.padding[axis] - window.kernel[axis]) / window.stride[axis] + 1
    })
}

/// Where a tap lies, if not in the padding.
fn under(
    window: Window,
    extent: [usize; 3],
    at: [usize; 3],
    tap: [usize; 3],
) -> Option<[usize; 3]> {
    let mut place = [0; 3];
    for axis in 0..3 {
        place[axis] = (at[axis] * window.stride[axis] + tap[axis])
            .checked_sub(window.padding[axis])
            .filter(|&place| place < extent[axis])?;
    }
    Some(place)
}

/// `relu?(conv(input) + bias + residual?)`, weights `[kt, kh, kw, C, C']`.
pub(super) fn conv(
    input: &Tensor,
    window: Window,
    weights: &[f64],
    bias: &[f64],
    residual: Option<&Tensor>,
    relu: bool,
) -> Tensor {
    let outputs = bias.len();
    let mut output = Tensor::zeros(input.clips, slid(input.extent, window), outputs);
    for clip in 0..input.clips {
        for at in places(output.extent) {
            let mut sums = bias.to_vec();
            for (number, tap) in places(window.kernel).enumerate() {
                let Some(place) = under(window, input.extent, at, tap) else {
                    continue;
                };
                for (channel, value) in input.at(clip, place).iter().enumerate() {
                    let row = (number * input.channels + channel) * outputs;
                    for (sum, weight) in sums.iter_mut().zip(&weights[row..]) {
                        *sum += value * weight;
                    }
                }
            }
            if let Some(residual) = residual {
                for (sum, value) in sums.iter_mut().zip(residual.at(clip, at)) {
                    *sum += value;
                }
            }
            if relu {
                for sum in &mut sums {
                    *sum = sum.max(0.0);
                }
            }
            output.at_mut(clip, at).copy_from_slice(&sums);
        }
    }
    output
}

/// The largest value under a window, or the mean with zeros in the padding.
pub(super) fn window_pool(input: &Tensor, window: Window, of: Of) -> Tensor {
    let mut output = Tensor::zeros(input.clips, slid(input.extent, window), input.channels);
    let count = window.kernel.iter().product::<usize>() as f64;
    for clip in 0..input.clips {
        for at in places(output.extent) {
            let result = output.at_mut(clip, at);
            if of == Of::Largest {
                result.fill(f64::NEG_INFINITY);
            }
            for tap in places(window.kernel) {
                if let Some(place) = under(window, input.extent, at, tap) {
                    for (result, value) in result.iter_mut().zip(input.at(clip, place)) {
                        match of {
                            Of::Largest => *result = result.max(*value),
                            Of::Mean => *result += value / count,
                        }
                    }
                }
            }
        }
    }
    output
}

/// Means over rows and columns, frame by frame.
pub(super) fn mean_by_frame(input: &Tensor) -> Tensor {
    let [frames, rows, columns] = input.extent;
    let mut output = Tensor::zeros(input.clips, [frames, 1, 1], input.channels);
    for clip in 0..input.clips {
        for at in places(input.extent) {
            let values = input.at(clip, at).to_vec();
            for (mean, value) in output.at_mut(clip, [at[0], 0, 0]).iter_mut().zip(values) {
                *mean += value / (rows * columns) as f64;
            }
        }
    }
    output
}

/// `weights`, `[K, C]`, times every row, and `bias`.
pub(super) fn linear(rows: &[f64], weights: &[f64], bias: &[f64]) -> Vec<f64> {
    let features = weights.len() / bias.len();
    rows.chunks_exact(features)
        .flat_map(|row| {
            weights
                .chunks_exact(features)
                .zip(bias)
                .map(move |(weights, bias)| {
                    weights.iter().zip(row).map(|(w, x)| w * x).sum::<f64>() + bias
                })
        })
        .collect()
}

/// The logarithm of the mean over frames of the softmax; `[frames, classes]`.
pub(super) fn log_mean_softmax(rows: &[f64], classes: usize) -> Vec<f64> {
    let frames = rows.len() / classes;
    let mut means = vec![0.0; classes];
    for row in rows.chunks_exact(classes) {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|value| (value - largest).exp()).sum();
        for (mean, value) in means.iter_mut().zip(row) {
            *mean += (value - largest).exp() / sum / frames as f64;
        }
    }
    means.iter().map(|mean| mean.ln()).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Hidden states of every frame, `[frames, hidden]`, from `W_ih x + b` of every
/// frame, `[frames, 4 hidden]`, and `W_hh`, `[hidden, 4 hidden]`.
pub(super) fn lstm(gates: &[f64], recurrent: &[f64], hidden: usize) -> Vec<f64> {
    let (mut cell, mut state) = (vec![0.0; hidden], vec![0.0; hidden]);
    let mut states = Vec::new();
    for gates in gates.chunks_exact(4 * hidden) {
        let mut sums = gates.to_vec();
        for (value, weights) in state.iter().zip(recurrent.chunks_exact(4 * hidden)) {
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += value * weight;
            }
        }
        for unit in 0..hidden {
            let [i, f, g, o] = [0, 1, 2, 3].map(|gate| sums[gate * hidden + unit]);
            cell[unit] = sigmoid(f) * cell[unit] + sigmoid(i) * g.tanh();
            state[unit] = sigmoid(o) * cell[unit].tanh();
        }
        states.extend_from_slice(&state);
    }
    states
}

/// One axis of an antialiased resize: which places, by what part.
fn support(place: usize, from: usize, to: usize) -> Vec<(usize, f64)> {
    let step = from as f64 / to as f64;
    let (reach, centre) = (step.max(1.0), (place as f64 + 0.5) * step);
    let weight = |x: usize| (1.0 - ((x as f64 + 0.5 - centre) / reach).abs()).max(0.0);
    let total: f64 = (0..from).map(weight).sum();
    (0..from)
        .map(|x| (x, weight(x) / total))
        .filter(|(_, weight)| *weight > 0.0)
        .collect()
}

/// A crop, `[height, width]` read by `pixel(y, x)`, resized to `to`.
pub(super) fn resize(
    pixel: impl Fn(usize, usize) -> f64,
    [height, width]: [usize; 2],
    to: [usize; 2],
) -> Vec<f64> {
    let mut output = Vec::new();
    for row in 0..to[0] {
        for column in 0..to[1] {
            let mut sum = 0.0;
            for (y, down) in support(row, height, to[0]) {
                for (x, across) in support(column, width, to[1]) {
                    sum += down * across * pixel(y, x);
                }
            }
            output.push(sum);
        }
    }
    output
}
