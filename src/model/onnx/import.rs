//! ONNX to a model directory, for networks of the layers that we have.
//!
//! A value of the file is one of our nodes with a name for each of its axes, so
//! that changes of shape (squeeze, transpose, flatten) only rename axes. A
//! network on pictures, `[N, C, H, W]`, scores each frame of a clip, and its
//! probabilities are averaged, as with every 2D network here.

mod attributes;
mod layers;
mod lstm;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;
use safetensors::tensor::{Dtype, TensorView};

use super::{GraphProto, ModelProto, NodeProto};
use crate::domain::StageRange;
use crate::model::graph::Graph;
use crate::model::import::{ImportError, write};
use crate::model::{
    Architecture, InputSpec, LayerSpec, Model, ModelError, ModelSpec, NodeId, Op, Shape,
};
use attributes::{attribute, constant, integer, position};

/// What an ONNX file does not say.
#[derive(Clone, Debug)]
pub struct OnnxOptions {
    /// What each class means, in order.
    pub classes: Vec<StageRange>,
    /// Frames, rows and columns of a clip, where the file leaves them open.
    pub extent: [usize; 3],
    /// How many frames a second the network has learned from, if that matters.
    pub frames_per_second: Option<f32>,
    /// One mean a channel, or one for all; 0 without any.
    pub mean: Vec<f32>,
    /// One standard deviation a channel, or one for all; 1 without any.
    pub std: Vec<f32>,
    /// Whether the weights were made without patients' data.
    pub synthetic: bool,
    /// Where the weights come from.
    pub note: String,
}

/// An ONNX file could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// It is no ONNX file, or one that is cut short.
    #[error("{} is no whole ONNX file: {problem}", file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The network holds something that cannot be executed here.
    #[error("{}: {operation} `{node}`: {problem}", file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// ONNX's name of the operation.
        operation: String,
        /// ONNX's name of the node.
        node: String,
        /// What is wrong, and what would be accepted.
        problem: String,
    },
    /// The model directory could not be made.
    #[error(transparent)]
    Import(#[from] ImportError),
}

/// Makes a model directory from an ONNX file, and loads it as a check.
///
/// # Errors
/// If the file cannot be read or holds a layer that we do not have (the error
/// names it), or the directory cannot be written.
pub fn import_onnx(
    file: &Path,
    directory: &Path,
    options: &OnnxOptions,
) -> Result<Model, OnnxError> {
    let bytes = fs::read(file).map_err(|error| {
        ImportError::Model(ModelError::Read {
            file: file.to_owned(),
            error,
        })
    })?;
    let format = |problem: String| OnnxError::Format {
        file: file.to_owned(),
        problem,
    };
    let proto = ModelProto::decode(bytes.as_slice()).map_err(|error| format(error.to_string()))?;
    let graph = proto
        .graph
        .ok_or_else(|| format("it holds no graph".to_owned()))?;
    let mut reader = Reader::new(&graph, options).map_err(format)?;
    // What cannot be computed matters only if the answer needs it: exporters
    // leave arithmetic on shapes behind.
    let mut unknown: HashMap<&str, Unknown> = HashMap::new();
    for node in &graph.node {
        let Err(problem) = reader.node(node) else {
            continue;
        };
        let cause = node
            .input
            .iter()
            .find_map(|input| unknown.get(input.as_str()));
        let cause = cause.cloned().unwrap_or_else(|| Unknown {
            operation: node.op_type.clone(),
            node: if node.name.is_empty() {
                node.output.join(", ")
            } else {
                node.name.clone()
            },
            problem,
        });
        let outputs = node
            .output
            .iter()
            .map(|output| (output.as_str(), cause.clone()));
        unknown.extend(outputs);
    }
    let answer = graph
        .output
        .first()
        .and_then(|output| unknown.remove(output.name.as_str()));
    if let Some(Unknown {
        operation,
        node,
        problem,
    }) = answer
    {
        return Err(OnnxError::Unsupported {
            file: file.to_owned(),
            operation,
            node,
            problem,
        });
    }
    let (spec, weights) = reader.finish(&graph, options).map_err(format)?;
    Ok(write(&spec, &weights, directory)?)
}

/// Why a value cannot be computed.
#[derive(Clone)]
struct Unknown {
    operation: String,
    node: String,
    problem: String,
}

/// Axes of an ONNX value, by what they are here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Axis {
    Clips,
    Channels,
    Frames,
    Rows,
    Columns,
    /// Of an LSTM; there is one.
    Direction,
}

const AXES: [Axis; 5] = [
    Axis::Clips,
    Axis::Channels,
    Axis::Frames,
    Axis::Rows,
    Axis::Columns,
];

/// What a name stands for.
#[derive(Clone, Debug)]
enum Value {
    Constant(Constant),
    Node(NodeId, Vec<Axis>, Share),
    /// What LSTM layers give, all frames of it or the last.
    States(States, Vec<Axis>),
}

/// How far a mean of probabilities has come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Share {
    Plain,
    Softmax,
    MeanSoftmax,
}

#[derive(Clone, Debug, Default)]
struct Constant {
    dims: Vec<usize>,
    floats: Vec<f32>,
    integers: Vec<i64>,
}

/// Layers of an LSTM, one above the other, whose node is not made yet.
#[derive(Clone, Debug)]
struct States {
    input: NodeId,
    hidden: usize,
    /// `weight_ih`, `weight_hh`, `bias_ih`, `bias_hh` of each layer.
    layers: Vec<[Constant; 4]>,
    name: String,
}

struct Reader {
    graph: Graph,
    values: HashMap<String, Value>,
    weights: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    /// The file's network sees single pictures.
    planar: bool,
    input: InputSpec,
}

impl Reader {
    fn new(proto: &GraphProto, options: &OnnxOptions) -> Result<Self, String> {
        let mut values = HashMap::new();
        for tensor in &proto.initializer {
            values.insert(tensor.name.clone(), Value::Constant(constant(tensor)?));
        }
        // Old files list parameters among the inputs, too.
        let mut inputs = proto
            .input
            .iter()
            .filter(|input| !values.contains_key(&input.name));
        let (Some(input), None) = (inputs.next(), inputs.next()) else {
            return Err("expected one input, the clips".to_owned());
        };
        let tensor = input.kind.as_ref().and_then(|kind| kind.tensor.as_ref());
        let dims: Vec<i64> = tensor
            .and_then(|tensor| tensor.shape.as_ref())
            .map(|shape| shape.dim.iter().map(|dim| dim.value).collect())
            .unwrap_or_default();
        let [frames, height, width] = options.extent;
        let known = |dim: i64, otherwise: usize| {
            usize::try_from(dim)
                .ok()
                .filter(|&dim| dim > 0)
                .unwrap_or(otherwise)
        };
        let (planar, channels, extent) = match *dims.as_slice() {
            [_, c, t, h, w] => (
                false,
                c,
                [known(t, frames), known(h, height), known(w, width)],
            ),
            [_, c, h, w] => (true, c, [frames, known(h, height), known(w, width)]),
            _ => {
                return Err(format!(
                    "its input `{}` has {} axes: expected [N, C, T, H, W] or [N, C, H, W]",
                    input.name,
                    dims.len()
                ));
            }
        };
        let channels = known(channels, 0);
        if !(1..=16).contains(&channels) || extent.iter().any(|&extent| extent > 4096) {
            return Err(format!("its input {dims:?} has impossible extents"));
        }
        let (graph, id) = Graph::input(Shape { channels, extent });
        let axes = AXES
            .into_iter()
            .filter(|axis| !planar || *axis != Axis::Frames)
            .collect();
        values.insert(input.name.clone(), Value::Node(id, axes, Share::Plain));
        let each = |values: &[f32], default: f32| match values {
            [] => vec![default; channels],
            [one] => vec![*one; channels],
            several => several.to_vec(),
        };
        let [frames, height, width] = extent;
        let input = InputSpec {
            channels,
            frames,
            frames_per_second: options.frames_per_second,
            height,
            width,
            mean: each(&options.mean, 0.0),
            std: each(&options.std, 1.0),
        };
        Ok(Self {
            graph,
            values,
            weights: BTreeMap::new(),
            planar,
            input,
        })
    }

    fn finish(
        mut self,
        proto: &GraphProto,
        options: &OnnxOptions,
    ) -> Result<(ModelSpec, Vec<u8>), String> {
        let [output] = proto.output.as_slice() else {
            return Err("expected one output, the logits".to_owned());
        };
        let (id, _, share) = self.node_called(&output.name)?;
        let frames = self.graph.node(id).shape.extent[0];
        match share {
            Share::Plain if self.planar => self.mean_of_probabilities(id)?,
            Share::Plain => id,
            Share::Softmax if self.planar || frames == 1 => self.mean_of_probabilities(id)?,
            Share::MeanSoftmax => self.mean_of_probabilities(id)?,
            Share::Softmax => return Err("its output is a softmax over several frames".to_owned()),
        };
        let name = |id: NodeId| self.graph.node(id).name.clone();
        let layers = self.graph.nodes()[1..]
            .iter()
            .map(|node| LayerSpec {
                name: node.name.clone(),
                inputs: node.inputs.iter().map(|input| name(*input)).collect(),
                op: node.op,
            })
            .collect();
        let spec = ModelSpec {
            architecture: Architecture::Layers,
            widths: Vec::new(),
            depths: None,
            stem_frames: None,
            lstm: None,
            classes: options.classes.clone(),
            synthetic: options.synthetic,
            note: options.note.clone(),
            input: self.input,
            reference: None,
            layers,
        };
        let bytes: Vec<_> = self
            .weights
            .iter()
            .map(|(name, (dims, values))| {
                let bytes: Vec<u8> = values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect();
                (name, dims, bytes)
            })
            .collect();
        let views = bytes
            .iter()
            .map(|(name, dims, bytes)| {
                Ok((
                    name.as_str(),
                    TensorView::new(Dtype::F32, (*dims).clone(), bytes)?,
                ))
            })
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|error| error.to_string())?;
        let weights = safetensors::serialize(views, None).map_err(|error| error.to_string())?;
        Ok((spec, weights))
    }

    fn mean_of_probabilities(&mut self, id: NodeId) -> Result<NodeId, String> {
        self.graph
            .add("log of the mean probability", Op::LogMeanSoftmax, &[id])
    }

    /// Adds what one node of the file computes.
    fn node(&mut self, node: &NodeProto) -> Result<(), String> {
        if !matches!(node.domain.as_str(), "" | "ai.onnx") {
            return Err(format!(
                "operations of `{}` are not known here",
                node.domain
            ));
        }
        let output = node.output.first().ok_or("it has no output")?.clone();
        let input = |number: usize| {
            let name = node.input.get(number).filter(|name| !name.is_empty());
            name.ok_or_else(|| format!("its input {number} is missing"))
        };
        let value = match node.op_type.as_str() {
            "Constant" => {
                let tensor = attribute(node, "value").and_then(|value| value.t.as_ref());
                Value::Constant(constant(tensor.ok_or("only tensors are known here")?)?)
            }
            "Expand" | "ConstantOfShape" => {
                // States that an LSTM begins with: zeros, however many.
                let zeros = match node.op_type.as_str() {
                    "Expand" => Some(self.constant(input(0)?)?),
                    _ => match attribute(node, "value") {
                        Some(value) => value.t.as_ref().map(constant).transpose()?,
                        None => Some(Constant::default()),
                    },
                };
                let zeros = zeros.filter(|zeros| zeros.floats.iter().all(|value| *value == 0.0));
                Value::Constant(zeros.ok_or("only zeros can be repeated")?)
            }
            "Identity" | "Dropout" => self.value(input(0)?)?.clone(),
            "Conv" => self.convolution(node, &output)?,
            "BatchNormalization" => self.batch_norm(node, &output)?,
            "Relu" => {
                let (id, axes) = self.plain(input(0)?)?;
                Value::Node(
                    self.graph.add(output.as_str(), Op::Relu, &[id])?,
                    axes,
                    Share::Plain,
                )
            }
            "Add" => self.addition(node, &output)?,
            "MaxPool" | "AveragePool" => self.pool(node, &output)?,
            "GlobalAveragePool" => {
                let (id, axes) = self.plain(input(0)?)?;
                let op = if self.planar {
                    Op::FrameAveragePool
                } else {
                    Op::GlobalAveragePool
                };
                Value::Node(
                    self.graph.add(output.as_str(), op, &[id])?,
                    axes,
                    Share::Plain,
                )
            }
            "ReduceMean" => self.mean(node, &output)?,
            "Gemm" | "MatMul" => self.linear(node, &output)?,
            "LSTM" => return self.lstm(node),
            "Softmax" | "LogSoftmax" => {
                let (id, axes) = self.plain(input(0)?)?;
                let axis = position(integer(node, "axis").unwrap_or(-1), axes.len())?;
                if axes[axis] != Axis::Channels {
                    return Err("only over the channels".to_owned());
                }
                // The logarithm is taken at the end, if at all.
                Value::Node(id, axes, Share::Softmax)
            }
            "Log" => match self.value(input(0)?)? {
                Value::Node(id, axes, Share::MeanSoftmax) => {
                    let (id, axes) = (*id, axes.clone());
                    Value::Node(
                        self.graph.add(output.as_str(), Op::LogMeanSoftmax, &[id])?,
                        axes,
                        Share::Plain,
                    )
                }
                _ => return Err("only after a softmax and its mean over frames".to_owned()),
            },
            "Slice" => self.slice(node, &output)?,
            "Gather" => self.gather(node)?,
            "Transpose" => {
                let (value, axes) = self.with_axes(input(0)?)?;
                let reversed = || (0..axes.len() as i64).rev().collect();
                let order = attribute(node, "perm").map_or_else(reversed, |perm| perm.ints.clone());
                let axes = order
                    .iter()
                    .map(|&axis| Ok(axes[position(axis, axes.len())?]))
                    .collect::<Result<_, String>>()?;
                renamed(value, axes)
            }
            "Squeeze" => {
                let (value, axes) = self.with_axes(input(0)?)?;
                let gone = self.axes_of(node, 1, axes.len())?;
                let gone = gone.ok_or("it does not say which axes")?;
                self.squeezed(value, &axes, &gone)?
            }
            "Unsqueeze" => {
                let (id, axes, share) = self.node_called(input(0)?)?;
                let value = Value::Node(id, axes.clone(), share);
                let places = self.axes_of(node, 1, axes.len() + 1);
                // Positions count in the result, whose length follows from them.
                let count = self.axes_count(node, 1)?;
                let places = match places {
                    Ok(Some(places)) if places.len() == 1 => places,
                    _ => self
                        .axes_of(node, 1, axes.len() + count)?
                        .ok_or("it does not say which axes")?,
                };
                renamed(value, unsqueezed(&axes, &places)?)
            }
            "Flatten" | "Reshape" => {
                let (value, axes) = self.with_axes(input(0)?)?;
                let rank = if node.op_type == "Flatten" {
                    2
                } else {
                    self.constant(input(1)?)?.integers.len()
                };
                if rank != 2 || axes.first() != Some(&Axis::Clips) {
                    return Err("only to [N, C]".to_owned());
                }
                let gone: Vec<_> = (0..axes.len())
                    .filter(|&axis| !matches!(axes[axis], Axis::Clips | Axis::Channels))
                    .collect();
                self.squeezed(value, &axes, &gone)?
            }
            _ => {
                return Err("this operation is not known here; known are Conv, BatchNormalization, Relu, Add, MaxPool, AveragePool, GlobalAveragePool, ReduceMean, Gemm, MatMul, LSTM, Softmax and changes of shape".to_owned());
            }
        };
        self.values.insert(output, value);
        Ok(())
    }

    fn value(&self, name: &str) -> Result<&Value, String> {
        self.values
            .get(name)
            .ok_or_else(|| format!("`{name}` is not computed before it"))
    }

    fn constant(&self, name: &str) -> Result<Constant, String> {
        match self.value(name)? {
            Value::Constant(constant) => Ok(constant.clone()),
            _ => Err(format!(
                "`{name}` is computed; only constants are known here"
            )),
        }
    }

    /// A constant of floating-point values, as many as its shape says.
    fn weights(&self, name: &str) -> Result<Constant, String> {
        let constant = self.constant(name)?;
        let count = (constant.dims.iter()).try_fold(1_usize, |count, &n| count.checked_mul(n));
        if constant.floats.is_empty() || count != Some(constant.floats.len()) {
            return Err(format!("`{name}` holds no floating-point values"));
        }
        Ok(constant)
    }

    fn with_axes(&self, name: &str) -> Result<(Value, Vec<Axis>), String> {
        let value = self.value(name)?;
        match value {
            Value::Constant(_) => Err(format!("`{name}` is a constant")),
            Value::Node(_, axes, _) | Value::States(_, axes) => Ok((value.clone(), axes.clone())),
        }
    }

    /// A value as a node, made now if it is an LSTM's state.
    fn node_called(&mut self, name: &str) -> Result<(NodeId, Vec<Axis>, Share), String> {
        match self.value(name)?.clone() {
            Value::Constant(_) => Err(format!("`{name}` is a constant")),
            Value::Node(id, axes, share) => Ok((id, axes, share)),
            Value::States(_, axes) if axes.contains(&Axis::Frames) => {
                Err("only the last state of an LSTM can be used".to_owned())
            }
            Value::States(states, axes) => {
                let id = self.memory(&states)?;
                self.values
                    .insert(name.to_owned(), Value::Node(id, axes.clone(), Share::Plain));
                Ok((id, axes, Share::Plain))
            }
        }
    }

    fn plain(&mut self, name: &str) -> Result<(NodeId, Vec<Axis>), String> {
        match self.node_called(name)? {
            (id, axes, Share::Plain) => Ok((id, axes)),
            _ => Err("nothing but the mean over frames may follow a softmax".to_owned()),
        }
    }

    fn shape(&self, id: NodeId) -> Shape {
        self.graph.node(id).shape
    }

    /// Numbers of the axes that a node names, by attribute or as an input.
    fn axes_of(
        &self,
        node: &NodeProto,
        number: usize,
        rank: usize,
    ) -> Result<Option<Vec<usize>>, String> {
        let listed = match node.input.get(number).filter(|name| !name.is_empty()) {
            Some(name) => self.constant(name)?.integers,
            None => match attribute(node, "axes") {
                Some(axes) => axes.ints.clone(),
                None => return Ok(None),
            },
        };
        listed
            .iter()
            .map(|&axis| position(axis, rank))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    fn axes_count(&self, node: &NodeProto, number: usize) -> Result<usize, String> {
        Ok(
            match node.input.get(number).filter(|name| !name.is_empty()) {
                Some(name) => self.constant(name)?.integers.len(),
                None => attribute(node, "axes").map_or(0, |axes| axes.ints.len()),
            },
        )
    }

    /// Without some axes, whose extent must be 1.
    fn squeezed(&self, value: Value, axes: &[Axis], gone: &[usize]) -> Result<Value, String> {
        if let Value::Node(id, ..) = &value {
            let shape = self.shape(*id);
            for &axis in gone {
                let extent = match axes[axis] {
                    Axis::Frames => shape.extent[0],
                    Axis::Rows => shape.extent[1],
                    Axis::Columns => shape.extent[2],
                    Axis::Direction => 1,
                    Axis::Clips | Axis::Channels => {
                        return Err("clips and channels must stay".to_owned());
                    }
                };
                if extent != 1 {
                    return Err(format!(
                        "an axis of extent {extent} would be lost; only 1 can go"
                    ));
                }
            }
        } else if gone.iter().any(|&axis| axes[axis] != Axis::Direction) {
            return Err("only the direction of an LSTM can go".to_owned());
        }
        let left = axes
            .iter()
            .enumerate()
            .filter(|(axis, _)| !gone.contains(axis));
        Ok(renamed(value, left.map(|(_, axis)| *axis).collect()))
    }

    fn parameter(
        &mut self,
        name: String,
        dims: Vec<usize>,
        values: Vec<f32>,
    ) -> Result<(), String> {
        if dims.iter().product::<usize>() != values.len() {
            return Err(format!(
                "`{name}` holds {} values: expected {dims:?}",
                values.len()
            ));
        }
        self.weights.insert(name, (dims, values));
        Ok(())
    }
}

fn renamed(value: Value, axes: Vec<Axis>) -> Value {
    match value {
        Value::Constant(constant) => Value::Constant(constant),
        Value::Node(id, _, share) => Value::Node(id, axes, share),
        Value::States(states, _) => Value::States(states, axes),
    }
}

/// With new axes of extent 1: those that are missing, in their usual order.
fn unsqueezed(axes: &[Axis], places: &[usize]) -> Result<Vec<Axis>, String> {
    let mut missing = AXES.into_iter().filter(|axis| !axes.contains(axis));
    let mut old = axes.iter().copied();
    (0..axes.len() + places.len())
        .map(|place| {
            if places.contains(&place) {
                missing.next()
            } else {
                old.next()
            }
        })
        .collect::<Option<_>>()
        .ok_or_else(|| "it makes more axes than a clip has".to_owned())
}
