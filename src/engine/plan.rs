//! From a graph to steps: what is computed, in what order, and where it lies.
//!
//! A convolution and what follows it (batch norm, an addition, `ReLU`) become one
//! step. Values lie channels-last, `[T, H, W, C]`, so that leaving frames out at
//! the ends is a matter of where one begins to read.

use super::EngineError;
use crate::model::{Conv, Graph, Lstm, NodeId, Op, Pool, Shape, Weights};

/// Steps and the memory that they need.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// Length of each buffer, in values. Buffer 0 is the input.
    pub(super) buffers: Vec<usize>,
    /// Of the clip.
    pub(super) input: Shape,
}

/// A value: part of a buffer, `[T, H, W, C]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value {
    pub(super) buffer: usize,
    /// Where in the buffer it begins.
    pub(super) offset: usize,
    pub(super) shape: Shape,
}

/// One operation on values that lie in buffers.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// Of the node that it begins with.
    pub(super) name: String,
    pub(super) input: Value,
    /// In another buffer than the input and the residual.
    pub(super) output: Value,
    pub(super) kernel: Kernel,
}

/// What a step computes.
#[derive(Clone, Debug)]
pub(super) enum Kernel {
    Conv(ConvStep),
    MaxPool(Pool),
    AveragePool(Pool),
    /// `output = relu?(input * scale + shift + other?)`, channel by channel:
    /// what does not follow a convolution.
    Pointwise {
        scale: Vec<f32>,
        shift: Vec<f32>,
        other: Option<Value>,
        relu: bool,
    },
    /// `output[c] = mean over positions of input[.., c]`.
    GlobalAveragePool,
    /// `output[t, c] = mean over rows and columns of input[t, .., c]`.
    FrameAveragePool,
    /// `output[t] = weights * input[t] + bias`; `weights` is `[K, C]`.
    Linear {
        weights: Vec<f32>,
        bias: Vec<f32>,
    },
    Lstm(Vec<LstmLayer>),
    /// `output = log(mean over t of softmax(input[t]))`.
    LogMeanSoftmax,
}

/// `output = relu?(conv(input) + bias + residual?)`.
#[derive(Clone, Debug)]
pub(super) struct ConvStep {
    pub(super) conv: Conv,
    pub(super) input: Shape,
    pub(super) output: Shape,
    /// `[kt, kh, kw, C, C']`: a matrix of taps by channels out.
    pub(super) weights: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) residual: Option<Value>,
    pub(super) relu: bool,
}

/// One layer of an LSTM; gates in the order input, forget, cell, output.
#[derive(Clone, Debug)]
pub(super) struct LstmLayer {
    pub(super) features: usize,
    pub(super) hidden: usize,
    /// `[features, 4 * hidden]`.
    pub(super) input: Vec<f32>,
    /// `[hidden, 4 * hidden]`.
    pub(super) recurrent: Vec<f32>,
    /// Both of PyTorch's biases in one: `[4 * hidden]`.
    pub(super) bias: Vec<f32>,
}

impl Plan {
    /// Compiles a graph.
    pub(super) fn compile(graph: &Graph, weights: &Weights) -> Result<Self, EngineError> {
        let mut compiler = Compiler {
            graph,
            weights,
            consumers: consumers(graph),
            values: vec![None; graph.nodes().len()],
            plan: Self {
                steps: Vec::new(),
                buffers: Vec::new(),
                input: graph.input_shape(),
            },
            busy_until: Vec::new(),
        };
        for id in (0..graph.nodes().len()).map(NodeId) {
            // Nodes that a step has taken in have their value already, or none.
            if compiler.values[id.0].is_none() && !compiler.is_fused(id) {
                compiler.compile(id)?;
            }
        }
        Ok(compiler.plan)
    }
}

/// Who reads each node.
fn consumers(graph: &Graph) -> Vec<Vec<NodeId>> {
    let mut consumers = vec![Vec::new(); graph.nodes().len()];
    for (number, node) in graph.nodes().iter().enumerate() {
        for input in &node.inputs {
            consumers[input.0].push(NodeId(number));
        }
    }
    consumers
}

struct Compiler<'a> {
    graph: &'a Graph,
    weights: &'a Weights,
    consumers: Vec<Vec<NodeId>>,
    values: Vec<Option<Value>>,
    plan: Plan,
    /// The last node that reads what lies in each buffer.
    busy_until: Vec<NodeId>,
}

impl Compiler<'_> {
    fn value(&self, id: NodeId) -> Result<Value, EngineError> {
        self.values[id.0]
            .ok_or_else(|| self.unsupported(id, "its value is needed before it is computed"))
    }

    fn unsupported(&self, id: NodeId, problem: &'static str) -> EngineError {
        EngineError::Unsupported {
            node: self.graph.node(id).name.clone(),
            problem,
        }
    }

    fn parameter(&self, name: &str, suffix: &str) -> &[f32] {
        // Weights were checked against this very graph when they were read.
        self.weights
            .get(&format!("{name}.{suffix}"))
            .map_or(&[], |tensor| &tensor.values)
    }

    /// Whether a convolution before it has computed the node as an intermediate
    /// that nobody else reads.
    fn is_fused(&self, id: NodeId) -> bool {
        let node = self.graph.node(id);
        matches!(node.op, Op::BatchNorm | Op::Relu | Op::Add)
            && node.inputs.iter().any(|input| {
                self.values[input.0].is_none() && self.only_consumer(*input) == Some(id)
            })
    }

    fn only_consumer(&self, id: NodeId) -> Option<NodeId> {
        match self.consumers[id.0].as_slice() {
            [only] => Some(*only),
            _ => None,
        }
    }

    fn compile(&mut self, id: NodeId) -> Result<(), EngineError> {
        let node = self.graph.node(id);
        let input = |this: &Self| this.value(node.inputs[0]);
        match node.op {
            Op::Input => {
                let value = self.allocate(id, id, node.shape);
                self.values[id.0] = Some(value);
            }
            Op::CropTime { frames } => {
                let source = input(self)?;
                let [_, h, w] = source.shape.extent;
                let offset = source.offset + frames * h * w * source.shape.channels;
                let last = self.last_reader(id);
                self.busy_until[source.buffer] = self.busy_until[source.buffer].max(last);
                self.values[id.0] = Some(Value {
                    offset,
                    shape: node.shape,
                    ..source
                });
            }
            Op::Conv(conv) => self.compile_conv(id, conv)?,
            Op::MaxPool(pool) => self.push(id, Kernel::MaxPool(pool))?,
            Op::AveragePool(pool) => self.push(id, Kernel::AveragePool(pool))?,
            Op::GlobalAveragePool => self.push(id, Kernel::GlobalAveragePool)?,
            Op::FrameAveragePool => self.push(id, Kernel::FrameAveragePool)?,
            Op::LogMeanSoftmax => self.push(id, Kernel::LogMeanSoftmax)?,
            Op::Linear { .. } => {
                let weights = self.parameter(&node.name, "weight").to_vec();
                let bias = self.parameter(&node.name, "bias").to_vec();
                self.push(id, Kernel::Linear { weights, bias })?;
            }
            Op::Lstm(lstm) => {
                let layers = (0..lstm.layers).map(|layer| self.lstm_layer(&node.name, lstm, layer));
                let layers = layers.collect();
                self.push(id, Kernel::Lstm(layers))?;
            }
            Op::BatchNorm | Op::Relu | Op::Add => self.compile_pointwise(id)?,
        }
        Ok(())
    }

    /// An operation by itself, from the node's first input.
    fn push(&mut self, id: NodeId, kernel: Kernel) -> Result<(), EngineError> {
        let node = self.graph.node(id);
        let input = self.value(node.inputs[0])?;
        let output = self.allocate(id, id, node.shape);
        self.values[id.0] = Some(output);
        self.plan.steps.push(Step {
            name: node.name.clone(),
            input,
            output,
            kernel,
        });
        Ok(())
    }

    /// Batch norm, an addition or `ReLU` that no convolution takes in.
    fn compile_pointwise(&mut self, id: NodeId) -> Result<(), EngineError> {
        let node = self.graph.node(id);
        let channels = node.shape.channels;
        let (scale, shift) = match node.op {
            Op::BatchNorm => self.folded(id),
            _ => (vec![1.0; channels], vec![0.0; channels]),
        };
        let other = match node.inputs.get(1) {
            Some(other) => Some(self.value(*other)?),
            None => None,
        };
        let narrow = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect();
        let kernel = Kernel::Pointwise {
            scale: narrow(scale),
            shift: narrow(shift),
            other,
            relu: node.op == Op::Relu,
        };
        self.push(id, kernel)
    }

    fn lstm_layer(&self, name: &str, lstm: Lstm, layer: usize) -> LstmLayer {
        let of = |part: &str| self.parameter(name, &format!("{part}_l{layer}"));
        let gates = 4 * lstm.hidden;
        let input = of("weight_ih");
        let bias = of("bias_ih")
            .iter()
            .zip(of("bias_hh"))
            .map(|(a, b)| a + b)
            .collect();
        let features = input.len() / gates;
        let unscaled = vec![1.0; gates];
        LstmLayer {
            features,
            hidden: lstm.hidden,
            input: transposed(input, features, 1, &unscaled),
            recurrent: transposed(of("weight_hh"), lstm.hidden, 1, &unscaled),
            bias,
        }
    }

    /// A convolution with everything behind it that can be computed in one go.
    fn compile_conv(&mut self, id: NodeId, conv: Conv) -> Result<(), EngineError> {
        let node = self.graph.node(id);
        let input = self.value(node.inputs[0])?;
        let mut last = id;
        let mut scale = vec![1.0; conv.channels];
        let mut shift = vec![0.0; conv.channels];
        if let Some(next) = self.next(last, Op::BatchNorm) {
            (scale, shift) = self.folded(next);
            last = next;
        }
        let mut residual = None;
        if let Some(next) = self.next(last, Op::Add) {
            let inputs = &self.graph.node(next).inputs;
            let other = if inputs[0] == last {
                inputs[1]
            } else {
                inputs[0]
            };
            // The operand that is computed later takes the other one in.
            if let Some(value) = self.values[other.0] {
                residual = Some(value);
                last = next;
            }
        }
        let relu = self.next(last, Op::Relu);
        last = relu.unwrap_or(last);

        let weights = transposed(
            self.parameter(&node.name, "weight"),
            input.shape.channels,
            conv.groups,
            &scale,
        );
        let output = self.allocate(last, id, self.graph.node(last).shape);
        self.values[last.0] = Some(output);
        let bias = shift.iter().map(|&shift| shift as f32).collect();
        let relu = relu.is_some();
        let step = ConvStep {
            conv,
            input: input.shape,
            output: output.shape,
            weights,
            bias,
            residual,
            relu,
        };
        self.plan.steps.push(Step {
            name: node.name.clone(),
            input,
            output,
            kernel: Kernel::Conv(step),
        });
        Ok(())
    }

    /// The node behind `id`, if it is the only one and of this kind.
    fn next(&self, id: NodeId, op: Op) -> Option<NodeId> {
        self.only_consumer(id)
            .filter(|next| self.graph.node(*next).op == op)
    }

    /// Batch norm as a factor and a summand a channel, in f64:
    /// `y = (x - mean) / sqrt(var + eps) * weight + bias`.
    fn folded(&self, id: NodeId) -> (Vec<f64>, Vec<f64>) {
        let name = &self.graph.node(id).name;
        let of = |suffix| {
            self.parameter(name, suffix)
                .iter()
                .map(|&value| f64::from(value))
        };
        let epsilon = self.graph.batch_norm_epsilon();
        let scale: Vec<_> = of("weight")
            .zip(of("running_var"))
            .map(|(weight, variance)| weight / (variance + epsilon).sqrt())
            .collect();
        let shift = of("bias")
            .zip(of("running_mean"))
            .zip(&scale)
            .map(|((bias, mean), scale)| bias - mean * scale)
            .collect();
        (scale, shift)
    }

    /// A buffer for the value of `id`, computed in the step that begins at node
    /// `begin`: the tightest one whose last reader came before, or a new one.
    fn allocate(&mut self, id: NodeId, begin: NodeId, shape: Shape) -> Value {
        let len = shape.len();
        let last = self.last_reader(id);
        let free = (0..self.plan.buffers.len())
            .filter(|&buffer| self.busy_until[buffer] < begin)
            .min_by_key(|&buffer| self.plan.buffers[buffer].abs_diff(len));
        let buffer = free.unwrap_or_else(|| {
            self.plan.buffers.push(0);
            self.busy_until.push(last);
            self.plan.buffers.len() - 1
        });
        self.plan.buffers[buffer] = self.plan.buffers[buffer].max(len);
        self.busy_until[buffer] = last;
        Value {
            buffer,
            offset: 0,
            shape,
        }
    }

    /// A node without readers is the output, which stays; so do the last values
    /// that have rows and columns, for who asks where the network looked.
    fn last_reader(&self, id: NodeId) -> NodeId {
        let is_mean = |id: &NodeId| {
            let op = &self.graph.node(*id).op;
            matches!(op, Op::FrameAveragePool | Op::GlobalAveragePool)
        };
        if self.consumers[id.0].iter().any(is_mean) {
            return NodeId(usize::MAX);
        }
        self.consumers[id.0]
            .iter()
            .max()
            .copied()
            .unwrap_or(NodeId(usize::MAX))
    }
}

/// Weights in PyTorch's order, `[C', C / groups, kt, kh, kw]`, scaled by channel
/// out, as the matrix `[kt, kh, kw, C, C']` that a product over taps wants; zero
/// where a channel out does not see a channel in.
fn transposed(weights: &[f32], channels: usize, groups: usize, scale: &[f64]) -> Vec<f32> {
    let outputs = scale.len();
    let seen = channels / groups;
    let kernel = weights.len() / (outputs * seen);
    let mut matrix = vec![0.0; kernel * channels * outputs];
    for (output, (row, scale)) in weights.chunks_exact(seen * kernel).zip(scale).enumerate() {
        let first = output / (outputs / groups) * seen;
        for (channel, taps) in row.chunks_exact(kernel).enumerate() {
            for (tap, &weight) in taps.iter().enumerate() {
                let place = (tap * channels + first + channel) * outputs + output;
                matrix[place] = (f64::from(weight) * scale) as f32;
            }
        }
    }
    matrix
}
