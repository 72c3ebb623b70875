//! The networks that can be built from a `model.toml`.
//!
//! Each is a function from a [`ModelSpec`] to a [`Graph`], with parameters
//! under the names that PyTorch gives them. Two-dimensional networks see each
//! frame by itself: their convolutions have one tap in time.

mod fibro;
mod layers;
mod resnet;
mod video;

use super::{Architecture, Conv, Graph, ModelSpec, NodeId, Op, Shape};

/// Builds the network that a specification describes.
///
/// # Errors
/// If the input is too small for it; the text names the value.
pub(super) fn build(spec: &ModelSpec) -> Result<Graph, String> {
    match spec.architecture {
        Architecture::Fibro2d => fibro::fibro2d(spec),
        Architecture::Fibro2dLstm => fibro::fibro2d_lstm(spec),
        Architecture::Fibro3d => fibro::fibro3d(spec),
        Architecture::Layers => layers::layers(spec),
        Architecture::Resnet18 => resnet::resnet(spec),
        Architecture::Resnet18Lstm => resnet::resnet_lstm(spec),
        Architecture::R3d18 => video::video_resnet(spec, video::Kind::R3d),
        Architecture::Mc318 => video::video_resnet(spec, video::Kind::Mc3),
        Architecture::R2plus1d18 => video::video_resnet(spec, video::Kind::R2plus1d),
    }
}

/// A network being built: a graph and where in it one stands.
struct Builder {
    graph: Graph,
    at: NodeId,
}

impl Builder {
    fn new(spec: &ModelSpec) -> Self {
        let input = &spec.input;
        let extent = [input.frames, input.height, input.width];
        let (graph, at) = Graph::input(Shape {
            channels: input.channels,
            extent,
        });
        Self { graph, at }
    }

    fn channels(&self) -> usize {
        self.graph.node(self.at).shape.channels
    }

    fn then(&mut self, name: impl Into<String>, op: Op) -> Result<&mut Self, String> {
        self.at = self.graph.add(name, op, &[self.at])?;
        Ok(self)
    }

    /// A convolution and the batch norm behind it.
    fn normed(&mut self, conv: &str, norm: &str, op: Conv) -> Result<&mut Self, String> {
        self.then(conv, Op::Conv(op))?.then(norm, Op::BatchNorm)
    }

    /// Nothing is learnt by a ReLU, but errors name it.
    fn relu(&mut self, block: &str) -> Result<&mut Self, String> {
        self.then(format!("{block} relu"), Op::Relu)
    }

    /// Adds `shortcut` and takes the positive part: the end of a block.
    fn join(&mut self, block: &str, shortcut: NodeId) -> Result<(), String> {
        self.at = self
            .graph
            .add(format!("{block} sum"), Op::Add, &[self.at, shortcut])?;
        self.relu(block)?;
        Ok(())
    }

    /// The head of a network that looks at the whole clip at once.
    fn classify_clip(mut self, head: &str, spec: &ModelSpec) -> Result<Graph, String> {
        self.then("pool", Op::GlobalAveragePool)?;
        self.then(
            head,
            Op::Linear {
                features: spec.classes.len(),
            },
        )?;
        Ok(self.graph)
    }

    /// The head of a network that looks at frames: probabilities are averaged
    /// over the frames.
    fn classify_frames(mut self, head: &str, spec: &ModelSpec) -> Result<Graph, String> {
        self.then("pool", Op::FrameAveragePool)?;
        self.then(
            head,
            Op::Linear {
                features: spec.classes.len(),
            },
        )?;
        self.then("mean over frames", Op::LogMeanSoftmax)?;
        Ok(self.graph)
    }

    /// The head of a network with a memory: the state after the last frame.
    fn classify_sequence(mut self, head: &str, spec: &ModelSpec) -> Result<Graph, String> {
        self.then("pool", Op::FrameAveragePool)?;
        if let Some(lstm) = spec.lstm {
            self.then("lstm", Op::Lstm(lstm))?;
        }
        self.then(
            head,
            Op::Linear {
                features: spec.classes.len(),
            },
        )?;
        Ok(self.graph)
    }
}

/// A convolution of single frames: one tap in time, and a parameter of rank 4.
fn planar(channels: usize, kernel: usize, stride: usize) -> Conv {
    let padding = kernel / 2;
    Conv {
        channels,
        kernel: [1, kernel, kernel],
        stride: [1, stride, stride],
        padding: [0, padding, padding],
        groups: 1,
        planar: true,
    }
}

/// A convolution over time and space.
fn spatial(channels: usize, kernel: [usize; 3], stride: [usize; 3], padding: [usize; 3]) -> Conv {
    Conv {
        channels,
        kernel,
        stride,
        padding,
        groups: 1,
        planar: false,
    }
}
