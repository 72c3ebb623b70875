//! What each layer of a graph computes, in burn's tensors.
//!
//! Values between layers are `[N, C, T, H, W]`. A network on single frames sees
//! them as `[N T, C, 1, H, W]` until rows and columns are averaged.

use std::collections::BTreeMap;

use burn_tensor::Tensor;
use burn_tensor::activation::{relu, sigmoid, softmax, tanh};
use burn_tensor::module::{batch_norm, batch_norm_train, conv2d, conv3d, max_pool2d};
use burn_tensor::ops::{ConvOptions, MaxPoolOptions};

use crate::model::{Conv, Lstm, Node, Op, Pool};

/// Between two layers.
#[derive(Clone)]
pub(super) enum Value {
    /// `[N, C, T, H, W]`, or `[N T, C, 1, H, W]`.
    Volume(Tensor<5>),
    /// `[N, T, C]`: rows and columns are gone.
    Rows(Tensor<3>),
}

/// What a pass through the network leaves behind besides its answer.
pub(super) type Statistics = Vec<(String, Tensor<1>, Tensor<1>, usize)>;

/// One layer at work.
pub(super) struct Layer<'a> {
    pub(super) node: &'a Node,
    pub(super) leaves: &'a BTreeMap<String, Tensor<1>>,
    /// Clips in the batch.
    pub(super) clips: usize,
    pub(super) epsilon: f64,
    pub(super) training: bool,
    /// Whether its kernel is the same for each of its frames.
    pub(super) is_alike: bool,
}

impl Layer<'_> {
    fn parameter(&self, suffix: &str) -> Tensor<1> {
        self.leaves[&format!("{}.{suffix}", self.node.name)].clone()
    }

    /// None if an input is missing or of the wrong kind; never, after `check`.
    pub(super) fn apply(&self, inputs: Vec<Value>, statistics: &mut Statistics) -> Option<Value> {
        let mut inputs = inputs.into_iter();
        Some(match (self.node.op, inputs.next()?) {
            (Op::Conv(conv), Value::Volume(x)) => Value::Volume(self.convolve(conv, x)),
            (Op::BatchNorm, Value::Volume(x)) => Value::Volume(self.normalise(x, statistics)),
            (Op::Relu, Value::Volume(x)) => Value::Volume(relu(x)),
            (Op::Relu, Value::Rows(x)) => Value::Rows(relu(x)),
            (Op::Add, Value::Volume(x)) => match inputs.next()? {
                Value::Volume(y) => Value::Volume(x + y),
                Value::Rows(_) => return None,
            },
            (Op::CropTime { frames }, Value::Volume(x)) => {
                let length = x.dims()[2] - 2 * frames;
                Value::Volume(x.narrow(2, frames, length))
            }
            (Op::MaxPool(pool), Value::Volume(x)) => Value::Volume(largest(pool, x)),
            (Op::GlobalAveragePool | Op::FrameAveragePool, Value::Volume(x)) => {
                Value::Rows(self.average(x))
            }
            (Op::Linear { features }, Value::Rows(x)) => Value::Rows(self.linear(features, x)),
            (Op::Lstm(lstm), Value::Rows(x)) => Value::Rows(self.remember(lstm, x)),
            (Op::LogMeanSoftmax, Value::Rows(x)) => Value::Rows(softmax(x, 2).mean_dim(1).log()),
            _ => return None,
        })
    }

    /// Convolves, with as many frames as channels as an output sees: pictures are
    /// convolved faster than clips.
    fn convolve(&self, conv: Conv, x: Tensor<5>) -> Tensor<5> {
        let [n, inputs, t, h, w] = x.dims();
        let seen = inputs / conv.groups;
        let [kt, kh, kw] = conv.kernel;
        let weight = self.parameter("weight");
        let (x, steps, channels, weight) = if conv.planar {
            (x.reshape([n * t, inputs, h, w]), t, seen, weight)
        } else if (self.training || self.is_alike) && kt > 1 && is_apart(conv) {
            // As if the kernel were the same for each of its frames, as it is from the
            // beginning: so it stays that, with `kt` times fewer weights to learn speckle
            // by heart with, and as many fewer products.
            let weight = weight.reshape([conv.channels * seen, kt, kh * kw]);
            (means(kt, &x), t / kt, seen, weight.sum_dim(1).flatten(0, 2))
        } else if let Some((x, steps)) = together(conv, &x) {
            (x, steps, seen * kt, weight)
        } else {
            let weight = weight.reshape([conv.channels, seen, kt, kh, kw]);
            let options = ConvOptions::new(conv.stride, conv.padding, [1; 3], conv.groups);
            return conv3d(x, weight, None, options);
        };
        let [_, sh, sw] = conv.stride;
        let [_, ph, pw] = conv.padding;
        let is_input = self.node.inputs.iter().all(|id| id.0 == 0);
        let y = if is_input && channels == 1 && conv.groups == 1 {
            // The library convolves few channels slowly. Nobody asks for the gradient of
            // the pictures, so that their patches cost one copy.
            let (patches, [h, w]) = patches(x, [kh, kw], [sh, sw], [ph, pw]);
            let weight = weight.reshape([1, conv.channels, kh * kw]);
            let y = weight.matmul(patches);
            y.reshape([n * steps, conv.channels, h, w])
        } else {
            let weight = weight.reshape([conv.channels, channels, kh, kw]);
            let options = ConvOptions::new([sh, sw], [ph, pw], [1, 1], conv.groups);
            conv2d(x, weight, None, options)
        };
        let [_, c, h, w] = y.dims();
        y.reshape([n, steps, c, h, w]).swap_dims(1, 2)
    }

    fn normalise(&self, x: Tensor<5>, statistics: &mut Statistics) -> Tensor<5> {
        let (gamma, beta) = (self.parameter("weight"), self.parameter("bias"));
        if !self.training {
            let mean = self.parameter("running_mean");
            let variance = self.parameter("running_var");
            return batch_norm(x, gamma, beta, mean, variance, self.epsilon);
        }
        let [n, _, t, h, w] = x.dims();
        let normed = batch_norm_train(x, gamma, beta, self.epsilon);
        let name = self.node.name.clone();
        statistics.push((name, normed.mean, normed.variance, n * t * h * w));
        normed.output
    }

    /// The mean over rows and columns, and over time if the pool says so.
    fn average(&self, x: Tensor<5>) -> Tensor<3> {
        let [outer, c, t, h, w] = x.dims();
        if self.node.op == Op::GlobalAveragePool && outer == self.clips {
            return x
                .reshape([outer, c, t * h * w])
                .mean_dim(2)
                .reshape([outer, 1, c]);
        }
        let means = x.reshape([outer, c, t, h * w]).mean_dim(3);
        let frames = outer * t / self.clips;
        let rows = means.reshape([outer, c, t]).swap_dims(1, 2);
        let rows = rows.reshape([self.clips, frames, c]);
        if self.node.op == Op::GlobalAveragePool {
            rows.mean_dim(1)
        } else {
            rows
        }
    }

    fn linear(&self, features: usize, x: Tensor<3>) -> Tensor<3> {
        let [n, t, c] = x.dims();
        let weight = self.parameter("weight").reshape([features, c]);
        let bias = self.parameter("bias").reshape([1, features]);
        let y = x.reshape([n * t, c]).matmul(weight.transpose()) + bias;
        y.reshape([n, t, features])
    }

    /// `torch.nn.LSTM`: the top layer's state after the last frame, `[N, 1, hidden]`.
    fn remember(&self, lstm: Lstm, x: Tensor<3>) -> Tensor<3> {
        let hidden = lstm.hidden;
        let [n, t, _] = x.dims();
        let mut below = x;
        for layer in 0..lstm.layers {
            let c = below.dims()[2];
            let named = |what: &str| self.parameter(&format!("{what}_l{layer}"));
            let from_input = named("weight_ih").reshape([4 * hidden, c]);
            let from_state = named("weight_hh").reshape([4 * hidden, hidden]).transpose();
            let bias = (named("bias_ih") + named("bias_hh")).reshape([1, 4 * hidden]);
            let driven = below.reshape([n * t, c]).matmul(from_input.transpose()) + bias;
            let driven = driven.reshape([n, t, 4 * hidden]);
            let mut state: Option<(Tensor<2>, Tensor<2>)> = None;
            let mut states = Vec::with_capacity(t);
            for frame in 0..t {
                let mut gates = driven.clone().narrow(1, frame, 1).reshape([n, 4 * hidden]);
                if let Some((h, _)) = &state {
                    gates = gates + h.clone().matmul(from_state.clone());
                }
                let gate = |number: usize| gates.clone().narrow(1, number * hidden, hidden);
                let fresh = sigmoid(gate(0)) * tanh(gate(2));
                let cell = match state {
                    Some((_, cell)) => sigmoid(gate(1)) * cell + fresh,
                    None => fresh,
                };
                let h = sigmoid(gate(3)) * tanh(cell.clone());
                states.push(h.clone());
                state = Some((h, cell));
            }
            below = Tensor::stack(states, 1);
        }
        below.narrow(1, t - 1, 1)
    }
}

/// Whether no two outputs see the same frame, and no frame is padding.
fn is_apart(conv: Conv) -> bool {
    conv.stride[0] == conv.kernel[0] && conv.padding[0] == 0 && conv.groups == 1
}

/// The means of `length` frames each: `[N, C, T, H, W]` to `[N T/length, C, H, W]`.
fn means(length: usize, x: &Tensor<5>) -> Tensor<4> {
    let [n, c, t, h, w] = x.dims();
    let steps = t / length;
    let x = x.clone().narrow(2, 0, steps * length);
    let x = x.reshape([n, c, steps, length, h * w]).mean_dim(3);
    let x = x.reshape([n, c, steps, h * w]).swap_dims(1, 2);
    x.reshape([n * steps, c, h, w])
}

/// `[N, C, T, H, W]` as `[N T', C kt, H, W]`, and `T'`: for each frame of the output the
/// `kt` frames that it sees. None if outputs share some of them and lie apart, or if
/// channels are convolved in groups.
fn together(conv: Conv, x: &Tensor<5>) -> Option<(Tensor<4>, usize)> {
    let [n, c, t, h, w] = x.dims();
    let (length, padding) = (conv.kernel[0], conv.padding[0]);
    // [N, C, kt, T', HW]
    let frames = if is_apart(conv) {
        let steps = t / length;
        let x = x.clone().narrow(2, 0, steps * length);
        x.reshape([n, c, steps, length, h * w]).swap_dims(2, 3)
    } else if conv.stride[0] == 1 && conv.groups == 1 {
        let black = Tensor::zeros([n, c, padding, h, w], &x.device());
        let x = match padding {
            0 => x.clone(),
            _ => Tensor::cat(vec![black.clone(), x.clone(), black], 2),
        };
        let steps = t + 2 * padding + 1 - length;
        let x = x.reshape([n, c, t + 2 * padding, h * w]);
        let shifted = (0..length).map(|first| x.clone().narrow(2, first, steps));
        Tensor::stack(shifted.collect(), 2)
    } else {
        return None;
    };
    let steps = frames.dims()[3];
    let frames = frames.permute([0, 3, 1, 2, 4]);
    Some((frames.reshape([n * steps, c * length, h, w]), steps))
}

/// What each output of a convolution sees of pictures of one channel, and the outputs'
/// rows and columns: `[N, 1, H, W]` to `[N, kh kw, H' W']`.
fn patches(
    x: Tensor<4>,
    [kh, kw]: [usize; 2],
    [sh, sw]: [usize; 2],
    [ph, pw]: [usize; 2],
) -> (Tensor<3>, [usize; 2]) {
    let [n, _, _, _] = x.dims();
    let x = x.pad((pw, pw, ph, ph), 0.0_f32);
    // [N, 1, H', W', kh, kw]: a view.
    let windows: Tensor<6> = x.unfold::<5, _>(2, kh, sh).unfold(3, kw, sw);
    let [_, _, h, w, ..] = windows.dims();
    let taps = windows.permute([0, 1, 4, 5, 2, 3]);
    (taps.reshape([n, kh * kw, h * w]), [h, w])
}

/// Frame by frame; `check` refuses windows over time.
fn largest(pool: Pool, x: Tensor<5>) -> Tensor<5> {
    let [n, c, t, h, w] = x.dims();
    let [_, kh, kw] = pool.kernel;
    let [_, sh, sw] = pool.stride;
    let [_, ph, pw] = pool.padding;
    let options = MaxPoolOptions::new([kh, kw])
        .with_stride([sh, sw])
        .with_padding([ph, pw]);
    let y = max_pool2d(x.reshape([n, c * t, h, w]), options);
    let [_, _, h, w] = y.dims();
    y.reshape([n, c, t, h, w])
}

/// Whether a layer can be trained here.
pub(super) fn check(node: &Node) -> Result<(), String> {
    let spatial = node.shape.extent[1] * node.shape.extent[2] > 1;
    match node.op {
        Op::AveragePool(_) => Err(format!(
            "{}: average pools cannot be trained here",
            node.name
        )),
        Op::MaxPool(pool) if pool.kernel[0] != 1 || pool.stride[0] != 1 => Err(format!(
            "{}: pools over time cannot be trained here",
            node.name
        )),
        Op::Linear { .. } | Op::Lstm(_) | Op::LogMeanSoftmax if spatial => Err(format!(
            "{}: expected rows and columns to be averaged first",
            node.name
        )),
        _ => Ok(()),
    }
}
