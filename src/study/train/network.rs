//! A network being trained: the zoo's own graph, gone through with burn's
//! tensors.
//!
//! Parameters lie here as plain values under the names that the graph gives
//! them, which are PyTorch's; burn's tensors exist for one step only. So there is
//! nothing to convert for the model directory, for a checkpoint or for the
//! optimiser. Running statistics follow `torch.nn.BatchNorm3d`: momentum 0.1, and
//! the variance *unbiased*.
//!
//! Values between layers are `[N, C, T, H, W]`. A network on single frames sees
//! them as `[N T, C, 1, H, W]` until rows and columns are averaged.

use std::collections::BTreeMap;

use burn_tensor::activation::{log_softmax, relu, sigmoid, softmax, tanh};
use burn_tensor::module::{batch_norm, batch_norm_train, conv2d, conv3d, max_pool2d};
use burn_tensor::ops::{ConvOptions, MaxPoolOptions};
use burn_tensor::{Device, Tensor, TensorData};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::TrainError;
use crate::model::{Conv, Graph, Lstm, Model, ModelSpec, Node, Op, Pool};

/// What a new batch's statistics count in the running ones, as in PyTorch.
const MOMENTUM: f32 = 0.1;

/// One parameter or running statistic.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// PyTorch's name.
    pub name: String,
    /// Extent of each axis.
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
}

impl Parameter {
    /// Whether gradients change it; running statistics follow the batches.
    pub fn is_learnt(&self) -> bool {
        !self.name.ends_with(".running_mean") && !self.name.ends_with(".running_var")
    }
}

/// Clips as a network takes them.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `[N, T, C, H, W]`, normalised.
    pub clips: Vec<f32>,
    /// The class of each of the `N`.
    pub labels: Vec<usize>,
}

/// A network and its parameters.
#[derive(Clone, Debug)]
pub struct Network {
    spec: ModelSpec,
    graph: Graph,
    parameters: Vec<Parameter>,
    /// Whether each frame goes through the convolutions by itself.
    by_frame: bool,
}

/// Between two layers.
#[derive(Clone)]
enum Value {
    /// `[N, C, T, H, W]`, or `[N T, C, 1, H, W]`.
    Volume(Tensor<5>),
    /// `[N, T, C]`: rows and columns are gone.
    Rows(Tensor<3>),
}

/// What a pass through the network leaves behind besides its answer.
type Statistics = Vec<(String, Tensor<1>, Tensor<1>, usize)>;

impl Network {
    /// A network with random parameters, drawn as PyTorch's layers draw theirs.
    ///
    /// # Errors
    /// If no network can be built from `spec`, or one that cannot be trained here.
    pub fn new(spec: &ModelSpec, seed: u64) -> Result<Self, TrainError> {
        let graph = spec.graph().map_err(TrainError::Impossible)?;
        for node in graph.nodes() {
            check(node).map_err(TrainError::Impossible)?;
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut parameters = Vec::new();
        let mut shapes = graph.parameters().into_iter();
        for node in graph.nodes() {
            for _ in 0..parameters_of(node.op) {
                let Some((name, shape)) = shapes.next() else {
                    break;
                };
                let values = initial(node.op, &name, &shape, &graph, node, &mut rng);
                parameters.push(Parameter {
                    name,
                    shape,
                    values,
                });
            }
        }
        Ok(Self::assembled(spec.clone(), graph, parameters))
    }

    /// A network with the parameters of a model directory.
    ///
    /// # Errors
    /// If it is one that cannot be trained here.
    pub fn from_model(model: &Model) -> Result<Self, TrainError> {
        let mut network = Self::new(model.spec(), 0)?;
        for parameter in &mut network.parameters {
            if let Some(tensor) = model.weights().get(&parameter.name) {
                parameter.values.clone_from(&tensor.values);
            }
        }
        Ok(network)
    }

    fn assembled(spec: ModelSpec, graph: Graph, parameters: Vec<Parameter>) -> Self {
        let planar = |node: &Node| matches!(node.op, Op::Conv(conv) if conv.planar);
        let by_frame = graph.nodes().iter().any(planar);
        Self {
            spec,
            graph,
            parameters,
            by_frame,
        }
    }

    /// What it is.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// All of them, in the graph's order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The same, to be changed; names and shapes must stay.
    pub(super) fn parameters_mut(&mut self) -> &mut [Parameter] {
        &mut self.parameters
    }

    /// Weighted cross-entropy of a batch in training, as
    /// `torch.nn.functional.cross_entropy` has it with `weight`, and its gradient
    /// for each parameter that is learnt, in order. Moves the running statistics.
    pub fn gradients(&mut self, batch: &Batch, weights: &[f32]) -> (f32, Vec<Vec<f32>>) {
        let device = Device::flex().autodiff();
        let leaves = self.leaves(&device, true);
        let (output, statistics) = self.forward(&leaves, batch, &device, true);
        let loss = cross_entropy(output, &batch.labels, weights, &device);
        let value = values(loss.clone())[0];
        let mut gradients = loss.backward();
        let learnt = self.parameters.iter().filter(|p| p.is_learnt());
        let gradients = learnt
            .map(|parameter| {
                let leaf = &leaves[&parameter.name];
                let gradient = leaf.grad_remove(&mut gradients);
                gradient.map_or_else(|| vec![0.0; parameter.values.len()], values)
            })
            .collect();
        self.follow(statistics);
        (value, gradients)
    }

    /// Logits, `[N, K]`, in evaluation; log-probabilities where the network
    /// averages those of its frames.
    pub fn logits(&self, batch: &Batch) -> Vec<f32> {
        let device = Device::flex();
        let leaves = self.leaves(&device, false);
        values(self.forward(&leaves, batch, &device, false).0)
    }

    /// Parameters as flat tensors, made for one pass.
    fn leaves(&self, device: &Device, tracked: bool) -> BTreeMap<String, Tensor<1>> {
        let leaf = |parameter: &Parameter| {
            let data = TensorData::new(parameter.values.clone(), [parameter.values.len()]);
            let tensor = Tensor::<1>::from_data(data, device);
            let tensor = if tracked && parameter.is_learnt() {
                tensor.require_grad()
            } else {
                tensor
            };
            (parameter.name.clone(), tensor)
        };
        self.parameters.iter().map(leaf).collect()
    }

    /// Moves the running statistics towards a batch's.
    fn follow(&mut self, statistics: Statistics) {
        for (name, mean, variance, count) in statistics {
            let count = count as f32;
            let unbiased = count / (count - 1.0).max(1.0);
            for (suffix, batch, scale) in [
                ("running_mean", values(mean), 1.0),
                ("running_var", values(variance), unbiased),
            ] {
                let name = format!("{name}.{suffix}");
                let found = self.parameters.iter_mut().find(|p| p.name == name);
                let Some(running) = found else { continue };
                for (running, batch) in running.values.iter_mut().zip(batch) {
                    *running += MOMENTUM * (batch * scale - *running);
                }
            }
        }
    }

    fn forward(
        &self,
        leaves: &BTreeMap<String, Tensor<1>>,
        batch: &Batch,
        device: &Device,
        training: bool,
    ) -> (Tensor<2>, Statistics) {
        let input = &self.spec.input;
        let (n, t) = (batch.labels.len(), input.frames);
        let [c, h, w] = [input.channels, input.height, input.width];
        let clips = TensorData::new(batch.clips.clone(), [n, t, c, h, w]);
        let clips = Tensor::<5>::from_data(clips, device);
        let clips = if self.by_frame {
            clips.reshape([n * t, c, 1, h, w])
        } else {
            clips.permute([0, 2, 1, 3, 4])
        };
        let mut statistics = Statistics::new();
        let mut computed: Vec<Option<Value>> = vec![Some(Value::Volume(clips))];
        let nodes = self.graph.nodes();
        for (index, node) in nodes.iter().enumerate().skip(1) {
            let inputs: Vec<Value> = node
                .inputs
                .iter()
                .filter_map(|id| {
                    // What nobody reads any more need not be kept.
                    let later = nodes[index + 1..].iter().any(|n| n.inputs.contains(id));
                    let slot = &mut computed[id.0];
                    if later { slot.clone() } else { slot.take() }
                })
                .collect();
            let layer = Layer {
                node,
                leaves,
                clips: n,
                epsilon: self.graph.batch_norm_epsilon(),
                training,
            };
            computed.push(layer.apply(inputs, &mut statistics));
        }
        let rows = match computed.pop().flatten() {
            Some(Value::Rows(rows)) => rows,
            // Never so: `check` lets only heads through that end in rows.
            Some(Value::Volume(volume)) => volume.flatten(2, 4),
            None => Tensor::zeros([n, 1, self.spec.classes.len()], device),
        };
        (rows.reshape([n, self.spec.classes.len()]), statistics)
    }

    /// The weights file of a model directory.
    ///
    /// # Errors
    /// If the values cannot be serialised; never, for a network's own.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, safetensors::SafeTensorError> {
        let tensors = super::checkpoint::as_bytes(&self.parameters);
        let views = super::checkpoint::views(&tensors)?;
        safetensors::serialize(views, None)
    }
}

/// Loss over the batch: the weighted mean, so that rare classes count as much.
fn cross_entropy(
    output: Tensor<2>,
    labels: &[usize],
    weights: &[f32],
    device: &Device,
) -> Tensor<1> {
    let classes = weights.len();
    let mut chosen = vec![0.0; labels.len() * classes];
    for (row, label) in chosen.chunks_exact_mut(classes).zip(labels) {
        row[*label] = weights[*label];
    }
    let total: f32 = labels.iter().map(|label| weights[*label]).sum();
    let chosen = TensorData::new(chosen, [labels.len(), classes]);
    let chosen = Tensor::<2>::from_data(chosen, device);
    (log_softmax(output, 1) * chosen)
        .sum()
        .neg()
        .div_scalar(total)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    // The backend computes in f32 and is in this process.
    tensor.try_into_vec_as::<f32>().unwrap_or_default()
}

/// One layer at work.
struct Layer<'a> {
    node: &'a Node,
    leaves: &'a BTreeMap<String, Tensor<1>>,
    /// Clips in the batch.
    clips: usize,
    epsilon: f64,
    training: bool,
}

impl Layer<'_> {
    fn parameter(&self, suffix: &str) -> Tensor<1> {
        self.leaves[&format!("{}.{suffix}", self.node.name)].clone()
    }

    /// None if an input is missing or of the wrong kind; never, after `check`.
    fn apply(&self, inputs: Vec<Value>, statistics: &mut Statistics) -> Option<Value> {
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
        if conv.planar {
            let weight = weight.reshape([conv.channels, seen, kh, kw]);
            let [_, sh, sw] = conv.stride;
            let [_, ph, pw] = conv.padding;
            let options = ConvOptions::new([sh, sw], [ph, pw], [1, 1], conv.groups);
            let y = conv2d(x.reshape([n * t, inputs, h, w]), weight, None, options);
            let [_, c, h, w] = y.dims();
            return y.reshape([n, c, t, h, w]);
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
fn check(node: &Node) -> Result<(), String> {
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

/// How many tensors an operation has.
fn parameters_of(op: Op) -> usize {
    match op {
        Op::Conv(_) => 1,
        Op::BatchNorm => 4,
        Op::Linear { .. } => 2,
        Op::Lstm(lstm) => 4 * lstm.layers,
        _ => 0,
    }
}

/// What PyTorch's layers begin with: uniform within `1 / sqrt(fan in)`, for an
/// LSTM within `1 / sqrt(hidden)`; batch norm begins as the identity.
fn initial(
    op: Op,
    name: &str,
    shape: &[usize],
    graph: &Graph,
    node: &Node,
    rng: &mut ChaCha8Rng,
) -> Vec<f32> {
    let count = shape.iter().product();
    let fan_in = match op {
        Op::Conv(_) => shape[1..].iter().product(),
        Op::Linear { .. } => graph.node(node.inputs[0]).shape.channels,
        Op::Lstm(lstm) => lstm.hidden,
        _ => {
            let ones = name.ends_with(".weight") || name.ends_with(".running_var");
            return vec![if ones { 1.0 } else { 0.0 }; count];
        }
    };
    let bound = 1.0 / (fan_in as f32).sqrt();
    (0..count)
        .map(|_| rng.random_range(-bound..=bound))
        .collect()
}
