use std::fmt;

use serde::{Deserialize, Serialize};

/// What flows between two nodes, for one clip: `[C, T, H, W]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Channels.
    pub channels: usize,
    /// Frames, rows and columns.
    pub extent: [usize; 3],
}

impl Shape {
    /// Values in all.
    pub fn len(&self) -> usize {
        self.channels * self.positions()
    }

    /// Whether there is no value at all; never so in a graph.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Places in time and space: `T * H * W`.
    pub fn positions(&self) -> usize {
        self.extent.iter().product()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [t, h, w] = self.extent;
        write!(f, "[{}, {t}, {h}, {w}]", self.channels)
    }
}

/// Which node of a graph, in the order in which they were added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

/// A convolution over time and space, without bias: cross-correlation as
/// `torch.nn.Conv3d` defines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conv {
    /// Channels out.
    pub channels: usize,
    /// Taps in time, rows, columns.
    pub kernel: [usize; 3],
    /// Steps in time, rows, columns.
    pub stride: [usize; 3],
    /// Zeros before and after, in time, rows, columns.
    pub padding: [usize; 3],
    /// Channels fall into so many groups, each of which sees its own inputs only.
    #[serde(default = "one")]
    pub groups: usize,
    /// One tap in time, and a parameter of rank 4: `torch.nn.Conv2d`, applied
    /// to each frame.
    #[serde(default)]
    pub planar: bool,
}

fn one() -> usize {
    1
}

/// A window that slides over time and space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Extent in time, rows, columns.
    pub kernel: [usize; 3],
    /// Steps in time, rows, columns.
    pub stride: [usize; 3],
    /// Places before and after that do not count, in time, rows, columns.
    pub padding: [usize; 3],
}

/// `torch.nn.LSTM`, one direction, with biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lstm {
    /// Features of the hidden state.
    pub hidden: usize,
    /// Layers, one above the other.
    pub layers: usize,
}

/// What a node computes from its inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// The clip itself.
    #[serde(skip)]
    Input,
    /// Parameters `NAME.weight`, `[C', C / groups, kt, kh, kw]`.
    Conv(Conv),
    /// With the running statistics, as in evaluation; parameters `NAME.weight`,
    /// `NAME.bias`, `NAME.running_mean`, `NAME.running_var`, each `[C]`.
    BatchNorm,
    /// `max(x, 0)`.
    Relu,
    /// The sum of two inputs of one shape.
    Add,
    /// Leaves some frames out.
    CropTime {
        /// How many at the beginning, and as many at the end.
        frames: usize,
    },
    /// The mean over time and space of each channel: `[C, 1, 1, 1]`.
    GlobalAveragePool,
    /// The mean over rows and columns, frame by frame: `[C, T, 1, 1]`.
    FrameAveragePool,
    /// The largest value under a window; padding does not count.
    MaxPool(Pool),
    /// The mean of the values under a window; padding counts as zeros, as
    /// `torch.nn.AvgPool3d` has it.
    AveragePool(Pool),
    /// Over the frames, giving the top layer's state after the last one:
    /// `[C, T, 1, 1]` to `[hidden, 1, 1, 1]`. For each layer `l` parameters
    /// `NAME.weight_ih_l`, `NAME.weight_hh_l`, `NAME.bias_ih_l` and
    /// `NAME.bias_hh_l`, gates in the order input, forget, cell, output.
    Lstm(Lstm),
    /// Frame by frame; parameters `NAME.weight`, `[K, C]`, and `NAME.bias`,
    /// `[K]`.
    Linear {
        /// Features out, `K`.
        features: usize,
    },
    /// The logarithm of the mean over frames of the softmax over channels:
    /// `[K, T, 1, 1]` to `[K, 1, 1, 1]`.
    LogMeanSoftmax,
}

/// One operation in a network.
#[derive(Clone, Debug)]
pub struct Node {
    /// Prefix of its parameters' names.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// From which nodes, all of them before it.
    pub inputs: Vec<NodeId>,
    /// What comes out.
    pub shape: Shape,
}

/// A network: nodes in an order in which they can be computed; the last one is
/// the output.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
}

/// The epsilon of `torch.nn.BatchNorm3d`.
pub(super) const BATCH_NORM_EPSILON: f64 = 1e-5;

impl Graph {
    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// One node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// What goes in.
    pub fn input_shape(&self) -> Shape {
        self.nodes[0].shape
    }

    /// Epsilon that batch norm adds to the variance.
    pub fn batch_norm_epsilon(&self) -> f64 {
        BATCH_NORM_EPSILON
    }

    /// Begins a network.
    pub(super) fn input(shape: Shape) -> (Self, NodeId) {
        let node = Node {
            name: "input".to_owned(),
            op: Op::Input,
            inputs: Vec::new(),
            shape,
        };
        (Self { nodes: vec![node] }, NodeId(0))
    }

    /// Adds an operation; says why if its inputs do not fit.
    pub(super) fn add(
        &mut self,
        name: impl Into<String>,
        op: Op,
        inputs: &[NodeId],
    ) -> Result<NodeId, String> {
        let name = name.into();
        let input = self.node(inputs[0]).shape;
        let shape = match op {
            Op::Input | Op::BatchNorm | Op::Relu => input,
            Op::Add => {
                let other = self.node(inputs[1]).shape;
                if other != input {
                    return Err(format!("{name}: cannot add {input} and {other}"));
                }
                input
            }
            Op::Conv(Conv {
                channels, groups, ..
            }) if groups == 0
                || channels % groups != 0
                || !input.channels.is_multiple_of(groups) =>
            {
                return Err(format!(
                    "{name}: {} channels in and {channels} out do not fall into {groups} groups",
                    input.channels
                ));
            }
            Op::Conv(Conv {
                channels,
                kernel,
                stride,
                padding,
                ..
            }) => Shape {
                channels,
                extent: slide(
                    &name,
                    input,
                    Pool {
                        kernel,
                        stride,
                        padding,
                    },
                )?,
            },
            Op::CropTime { frames: crop } => {
                let [t, h, w] = input.extent;
                let Some(t) = t.checked_sub(2 * crop).filter(|&t| t > 0) else {
                    return Err(format!("{name}: the input {input} has too few frames"));
                };
                Shape {
                    channels: input.channels,
                    extent: [t, h, w],
                }
            }
            Op::GlobalAveragePool | Op::LogMeanSoftmax => Shape {
                channels: input.channels,
                extent: [1, 1, 1],
            },
            Op::FrameAveragePool => Shape {
                channels: input.channels,
                extent: [input.extent[0], 1, 1],
            },
            Op::MaxPool(pool) | Op::AveragePool(pool) => Shape {
                channels: input.channels,
                extent: slide(&name, input, pool)?,
            },
            Op::Lstm(lstm) => Shape {
                channels: lstm.hidden,
                extent: [1, 1, 1],
            },
            Op::Linear { features } => Shape {
                channels: features,
                extent: input.extent,
            },
        };
        self.nodes.push(Node {
            name,
            op,
            inputs: inputs.to_vec(),
            shape,
        });
        Ok(NodeId(self.nodes.len() - 1))
    }

    /// Name and shape of every parameter.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let mut parameters = Vec::new();
        for node in &self.nodes {
            let mut want = |suffix: &str, shape: Vec<usize>| {
                parameters.push((format!("{}.{suffix}", node.name), shape));
            };
            let channels = node.shape.channels;
            let inputs = || self.node(node.inputs[0]).shape.channels;
            match node.op {
                Op::Conv(conv) => {
                    let taps = &conv.kernel[usize::from(conv.planar)..];
                    let seen = inputs() / conv.groups;
                    want("weight", [&[channels, seen], taps].concat());
                }
                Op::BatchNorm => {
                    for suffix in ["weight", "bias", "running_mean", "running_var"] {
                        want(suffix, vec![channels]);
                    }
                }
                Op::Linear { features } => {
                    want("weight", vec![features, inputs()]);
                    want("bias", vec![features]);
                }
                Op::Lstm(Lstm { hidden, layers }) => {
                    for layer in 0..layers {
                        let features = if layer == 0 { inputs() } else { hidden };
                        want(&format!("weight_ih_l{layer}"), vec![4 * hidden, features]);
                        want(&format!("weight_hh_l{layer}"), vec![4 * hidden, hidden]);
                        want(&format!("bias_ih_l{layer}"), vec![4 * hidden]);
                        want(&format!("bias_hh_l{layer}"), vec![4 * hidden]);
                    }
                }
                Op::Input
                | Op::Relu
                | Op::Add
                | Op::CropTime { .. }
                | Op::GlobalAveragePool
                | Op::FrameAveragePool
                | Op::MaxPool(_)
                | Op::AveragePool(_)
                | Op::LogMeanSoftmax => {}
            }
        }
        parameters
    }

    /// Multiplications and additions, counted as pairs, that `node` costs for
    /// one clip; only those of convolutions, linear layers and LSTMs count.
    pub fn multiply_adds(&self, node: &Node) -> u64 {
        let inputs = || self.node(node.inputs[0]).shape;
        let pairs = match node.op {
            Op::Conv(conv) => {
                let taps: usize = conv.kernel.iter().product();
                node.shape.len() * inputs().channels / conv.groups * taps
            }
            Op::Linear { .. } => node.shape.len() * inputs().channels,
            Op::Lstm(Lstm { hidden, layers }) => {
                let below = inputs().channels + (layers - 1) * hidden;
                inputs().extent[0] * 4 * hidden * (below + layers * hidden)
            }
            _ => 0,
        };
        pairs as u64
    }
}

/// Extent of what a sliding window gives.
fn slide(name: &str, input: Shape, window: Pool) -> Result<[usize; 3], String> {
    let mut extent = [0; 3];
    for axis in 0..3 {
        let padded = input.extent[axis] + 2 * window.padding[axis];
        let Some(room) = padded.checked_sub(window.kernel[axis]) else {
            let axis = ["time", "rows", "columns"][axis];
            return Err(format!("{name}: its input {input} is too small in {axis}"));
        };
        extent[axis] = room / window.stride[axis] + 1;
    }
    Ok(extent)
}
