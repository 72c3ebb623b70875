//! A network being trained: the zoo's own graph, gone through with burn's
//! tensors.
//!
//! Parameters lie here as plain values under the names that the graph gives
//! them, which are PyTorch's; burn's tensors exist for one step only. So there is
//! nothing to convert for the model directory, for a checkpoint or for the
//! optimiser. Running statistics follow `torch.nn.BatchNorm3d`: momentum 0.1, and
//! the variance *unbiased*.

use std::collections::BTreeMap;

use burn_tensor::activation::log_softmax;
use burn_tensor::{Device, Tensor, TensorData};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::TrainError;
use super::augment::Change;
use super::film::Film;
use super::layer::{Layer, Statistics, Value, check};
use crate::engine::softmax;
use crate::model::{Graph, Model, ModelSpec, Node, Op};

/// What a new batch's statistics count in the running ones, as in PyTorch.
const MOMENTUM: f32 = 0.1;

/// Windows that are scored at once.
const TOGETHER: usize = 8;

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

    /// What it makes of windows of a film, as they are: the probabilities of the classes,
    /// window by window.
    pub(super) fn probabilities(&self, film: &Film, places: &[usize]) -> Vec<Vec<f64>> {
        let some = |places: &[usize]| {
            let mut batch = Batch {
                clips: Vec::new(),
                labels: vec![film.class; places.len()],
            };
            for &place in places {
                Change::none(place).append(film, &self.spec.input, &mut batch.clips);
            }
            let logits = self.logits(&batch);
            let windows = logits.chunks_exact(self.spec.classes.len());
            windows.map(softmax).collect::<Vec<_>>()
        };
        places.chunks(TOGETHER).flat_map(some).collect()
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
                is_alike: self.is_alike(node),
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

    /// Whether a convolution's kernel is the same for each of its frames.
    fn is_alike(&self, node: &Node) -> bool {
        let Op::Conv(conv) = node.op else {
            return false;
        };
        let [length, height, width] = conv.kernel;
        let name = format!("{}.weight", node.name);
        let weight = self.parameters.iter().find(|it| it.name == name);
        // [K C, T, R S]
        let mut kernels = weight
            .iter()
            .flat_map(|weight| weight.values.chunks_exact(length * height * width));
        kernels.all(|kernel| {
            let mut pictures = kernel.chunks_exact(height * width);
            let first = pictures.next();
            pictures.all(|picture| Some(picture) == first)
        })
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
///
/// A kernel over time begins as a kernel of pictures spread evenly over its frames
/// (Carreira and Zisserman, "Quo Vadis, Action Recognition?", 2017, section 2.3.1):
/// a mean over time, which has less speckle than any frame, and learns what moves
/// from there.
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
    let together = match op {
        Op::Conv(conv) => conv.kernel[0],
        _ => 1,
    };
    let bound = 1.0 / ((fan_in / together) as f32).sqrt();
    let drawn = |count: usize, rng: &mut ChaCha8Rng| -> Vec<f32> {
        (0..count)
            .map(|_| rng.random_range(-bound..=bound))
            .collect()
    };
    if together == 1 {
        return drawn(count, rng);
    }
    // [K, C, T, R S]: each picture's kernel, T times over.
    let picture: usize = shape[3..].iter().product();
    drawn(count / together, rng)
        .chunks_exact(picture)
        .flat_map(|kernel| {
            let share = kernel.iter().map(move |value| value / together as f32);
            std::iter::repeat_n(share, together).flatten()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::PatientId;
    use crate::engine::{Device, Engine, EngineOptions};
    use crate::model::{Architecture, InputSpec, usual_classes};
    use crate::study::train::publish;

    /// `[C, T, H, W]` of the clips below.
    const SHAPE: [usize; 4] = [1, 27, 12, 16];

    /// A network whose stem takes three frames together.
    fn network() -> Network {
        let [channels, frames, height, width] = SHAPE;
        let spec = ModelSpec {
            architecture: Architecture::Fibro3d,
            widths: vec![4, 6],
            depths: None,
            stem_frames: Some(3),
            lstm: None,
            layers: Vec::new(),
            reference: None,
            classes: usual_classes(2).unwrap(),
            synthetic: true,
            note: String::new(),
            input: InputSpec {
                channels,
                frames,
                frames_per_second: None,
                height,
                width,
                mean: vec![0.5],
                std: vec![0.25],
            },
        };
        Network::new(&spec, 3).unwrap()
    }

    fn stem(network: &Network) -> &Node {
        let mut nodes = network.graph.nodes().iter();
        nodes.find(|it| it.name == "stem.conv").unwrap()
    }

    /// Its logits here, and in the engine.
    fn logits(network: &Network) -> [Vec<f32>; 2] {
        // One channel: frames first or channels first, it is the same.
        let pixels = SHAPE.iter().product::<usize>();
        let clips: Vec<f32> = (0..2 * pixels)
            .map(|pixel| (pixel as f32 * 0.37).sin() * 2.0)
            .collect();
        let ours = network.logits(&Batch {
            clips: clips.clone(),
            labels: vec![0; 2],
        });
        let [channels, frames, height, width] = SHAPE;
        let area = height * width;
        let film = Film::new(
            PatientId::new("P1"),
            "1.mp4".into(),
            0,
            area,
            vec![90; frames * area],
            vec![frames],
        );
        let folder = tempfile::tempdir().unwrap();
        let model = publish(network, &[&film], folder.path()).unwrap();
        let options = EngineOptions {
            device: Device::Cpu,
            ..EngineOptions::default()
        };
        let engine = Engine::open(&model, options).unwrap();
        let shape = [2, channels, frames, height, width];
        let engines = engine.infer_tensor(&mut engine.workspace(), &clips, &shape);
        [ours, engines.unwrap()]
    }

    fn assert_alike([ours, engines]: [Vec<f32>; 2]) {
        assert_eq!(ours.len(), engines.len());
        for (ours, engines) in ours.iter().zip(&engines) {
            let difference = (ours - engines).abs();
            assert!(difference < 1e-4, "trainer {ours}, engine {engines}");
        }
    }

    #[test]
    fn a_kernel_alike_for_each_frame_is_found_and_one_that_is_not_gives_its_own_logits() {
        let mut network = network();
        assert!(network.is_alike(stem(&network)));
        let alike = logits(&network);
        assert_alike(alike.clone());

        // In the last frame of the last channel.
        let mut weights = network.parameters.iter_mut();
        let weight = weights.find(|it| it.name == "stem.conv.weight").unwrap();
        let value = weight.values.last_mut().unwrap();
        *value += 0.5;
        assert!(!network.is_alike(stem(&network)));
        let unlike = logits(&network);
        assert_ne!(unlike[0], alike[0]);
        assert_alike(unlike);
    }
}
