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

    fn convolve(&self, conv: Conv, x: Tensor<5>) -> Tensor<5> {
        let [n, inputs, t, h, w] = x.dims();
        let seen = inputs / conv.groups;
        let [kt, kh, kw] = conv.kernel;
        let weight = self.parameter("weight");
        let pictures = |x: Tensor<4>, weight: Tensor<4>| {
            let [_, sh, sw] = conv.stride;
            let [_, ph, pw] = conv.padding;
            let options = ConvOptions::new([sh, sw], [ph, pw], [1, 1], conv.groups);
            conv2d(x, weight, None, options)
        };
        if conv.planar {
            let weight = weight.reshape([conv.channels, seen, kh, kw]);
            let y = pictures(x.reshape([n * t, inputs, h, w]), weight);
            let [_, c, h, w] = y.dims();
            return y.reshape([n, c, t, h, w]);
        }
        // Pictures are convolved faster than clips: the frames that an output sees are as
        // good as channels, [N T', C kt, H, W], with the weight as it lies.
        let seen_together = (conv.groups == 1).then(|| together(conv, &x)).flatten();
        if let Some(x) = seen_together {
            let steps = x.dims()[0] / n;
            let weight = weight.reshape([conv.channels, inputs * kt, kh, kw]);
            let y = pictures(x, weight);
            let [_, c, h, w] = y.dims();
            return y.reshape([n, steps, c, h, w]).swap_dims(1, 2);
        }
        let weight = weight.reshape([conv.channels, seen, kt, kh, kw]);
        let options = ConvOptions::new(conv.stride, conv.padding, [1; 3], conv.groups);
        conv3d(x, weight, None, options)
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

/// `[N, C, T, H, W]` as `[N T', C kt, H, W]`: for each frame of the output the `kt`
/// frames that it sees. None if outputs share some of them, and lie apart.
fn together(conv: Conv, x: &Tensor<5>) -> Option<Tensor<4>> {
    let [n, c, t, h, w] = x.dims();
    let (length, stride, padding) = (conv.kernel[0], conv.stride[0], conv.padding[0]);
    let frames = if stride == length && padding == 0 {
        let steps = t / length;
        let x = x.clone().narrow(2, 0, steps * length);
        x.reshape([n, c, steps, length, h * w]).swap_dims(2, 3)
    } else if stride == 1 {
        let x = if padding > 0 {
            let black = Tensor::zeros([n, c, padding, h, w], &x.device());
            Tensor::cat(vec![black.clone(), x.clone(), black], 2)
        } else {
            x.clone()
        };
        let steps = t + 2 * padding + 1 - length;
        let x = x.reshape([n, c, t + 2 * padding, h * w]);
        let shifted = (0..length).map(|first| x.clone().narrow(2, first, steps));
        Tensor::stack(shifted.collect(), 2)
    } else {
        return None;
    };
    // [N, C, kt, T', HW] to [N, T', C, kt, HW]
    let steps = frames.dims()[3];
    let frames = frames.permute([0, 3, 1, 2, 4]);
    Some(frames.reshape([n * steps, c * length, h, w]))
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
