//! Execution of a network: a plan compiled once, run by a backend.
//!
//! [`Engine::open`] folds batch norm into the convolutions, fuses what follows
//! them, and lays out memory (`plan.rs`); `cpu` or [`cuda`] runs the plan. An engine is
//! shared by threads, each with a [`Workspace`] of its own that holds every
//! intermediate value, so that a clip costs no allocation but its answer's.
//!
//! The same clip gives the same bits on one machine, whatever the number of
//! threads and whatever clips are beside it.

mod agreement;
mod attention;
mod course;
mod cpu;
pub mod cuda;
pub mod devices;
mod plan;
mod reuse;
mod session;
pub mod usage;
mod window;

use std::str::FromStr;
use std::time::Duration;

use crate::domain::Clip;
use crate::model::{InputSpec, Model};

pub use agreement::Agreement;
pub use attention::Attention;
use attention::Head;
use cpu::{Storage, Team};
pub use cuda::CudaError;
use plan::Plan;
pub use reuse::Cost;
pub use session::{ClipByClip, Session, SessionOptions, SessionPlan};

/// An engine could not be opened, or a clip not scored.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// CUDA was asked for where it cannot be had.
    #[error("device \"cuda\" was asked for, but {0}; use \"auto\" or \"cpu\"")]
    NoCuda(CudaError),
    /// The card cannot execute this network.
    #[error("device \"cuda\": {0}")]
    Cuda(CudaError),
    /// A precision that the device does not compute in.
    #[error("the CPU computes in f32 or bf16; precision \"{0}\" needs another device")]
    Precision(Precision),
    /// The network has an operation where the backend does not expect one.
    #[error("the engine cannot execute `{node}` of this network: {problem}")]
    Unsupported {
        /// The node's name.
        node: String,
        /// What was found.
        problem: &'static str,
    },
    /// The operating system gave no threads.
    #[error("cannot start the engine's threads: {0}")]
    Threads(String),
    /// A class that the model does not have.
    #[error("class {class} was asked for, but the model has {classes}, counted from 0")]
    Class {
        /// What was asked for.
        class: usize,
        /// How many there are.
        classes: usize,
    },
    /// A network whose answer cannot be traced to places in the picture.
    #[error(
        "no map can be made of where this network looks: it does not end in a mean over \
         rows and columns with linear layers, an LSTM or a softmax behind it"
    )]
    NoAttention,
    /// Clips of another shape than the network takes.
    #[error("clips of shape {found:?} do not fit: the model takes [N, {}, {}, {}, {}]", expected[0], expected[1], expected[2], expected[3])]
    Shape {
        /// What was given.
        found: Vec<usize>,
        /// Channels, frames, rows, columns.
        expected: [usize; 4],
    },
}

/// Where a network is executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Device {
    /// The best that is there.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA card; an error where there is none.
    Cuda,
}

/// What a network computes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// IEEE single precision.
    #[default]
    F32,
    /// Products of bfloat16 and sums in f32, on a card and on a CPU with AMX, or with
    /// AVX-512 for bfloat16 where that is fast. On other CPUs weights are kept in
    /// bfloat16 and multiplied in f32.
    Bf16,
    /// Half precision products, single precision sums.
    F16,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        })
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        <Self as clap::ValueEnum>::from_str(text, false)
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        <Self as clap::ValueEnum>::from_str(text, false)
    }
}

/// How to execute a network.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineOptions {
    /// Where.
    pub device: Device,
    /// In what precision.
    pub precision: Precision,
}

/// Memory of an engine, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Weights as the engine lays them out, once.
    pub weights: usize,
    /// Intermediate values and scratch of one clip, once a workspace: on the CPU, for each
    /// of the [`Engine::streams`] that are computed together.
    pub workspace: usize,
}

/// A network, ready to score clips.
#[derive(Debug)]
pub struct Engine {
    backend: Backend,
    precision: Precision,
    input: InputSpec,
    /// What each grey level becomes, channel by channel.
    grey: Vec<[f32; 256]>,
    /// None if there is no telling where the network looks.
    head: Option<Head>,
    classes: usize,
}

#[derive(Debug)]
enum Backend {
    Cpu(cpu::Program),
    Cuda(Box<cuda::Backend>),
}

/// What an engine on a card has been through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// How often a batch was halved, since the card had no room.
    pub batches_halved: usize,
    /// How often the engine was rebuilt after an error of the card.
    pub engines_rebuilt: usize,
    /// Whether the card was given up, and the CPU computes.
    pub fell_back: bool,
}

/// What one thread needs to score clips; made by [`Engine::workspace`].
#[derive(Debug)]
pub struct Workspace(Scratch);

#[derive(Debug)]
enum Scratch {
    Cpu(Box<cpu::Buffers>),
    Cuda(Box<cuda::Workspace>),
}

impl Engine {
    /// Compiles a model for a device.
    ///
    /// # Errors
    /// If the device or precision cannot be had, or the network holds an
    /// operation that the backend does not know.
    pub fn open(model: &Model, options: EngineOptions) -> Result<Self, EngineError> {
        let input = model.spec().input.clone();
        let plan = Plan::compile(model.graph(), model.weights())?;
        let head = Head::of(&plan);
        let on_card = || {
            let backend = cuda::Backend::new(&plan, options.precision, &input);
            backend.map(|backend| Backend::Cuda(Box::new(backend)))
        };
        let backend = match options.device {
            Device::Cpu => None,
            Device::Cuda => Some(on_card().map_err(|error| match error {
                CudaError::Unavailable { .. } => EngineError::NoCuda(error),
                error => EngineError::Cuda(error),
            })?),
            Device::Auto => match on_card() {
                Ok(backend) => Some(backend),
                Err(error) => {
                    tracing::info!("computing on the CPU: {error}");
                    None
                }
            },
        };
        let backend = match (backend, options.precision) {
            (Some(backend), _) => backend,
            (None, Precision::F32) => Backend::Cpu(cpu::Program::new(plan, Storage::F32)),
            (None, Precision::Bf16) => Backend::Cpu(cpu::Program::new(plan, Storage::Bf16)),
            (None, Precision::F16) => return Err(EngineError::Precision(Precision::F16)),
        };
        Ok(Self {
            backend,
            precision: options.precision,
            grey: grey_table(&input),
            head,
            input,
            classes: model.spec().classes.len(),
        })
    }

    /// For people: what executes the network.
    pub fn description(&self) -> String {
        match &self.backend {
            Backend::Cpu(program) => format!("cpu ({}), {}", program.isa(), self.precision),
            Backend::Cuda(backend) => backend.description(),
        }
    }

    /// Clips that are better given to [`Engine::infer`] together than one after
    /// the other: 1 on the CPU.
    pub fn batch(&self) -> usize {
        match &self.backend {
            Backend::Cpu(_) => 1,
            Backend::Cuda(backend) => backend.batch(),
        }
    }

    /// Whether a card computes, or did before it was given up.
    pub fn is_on_card(&self) -> bool {
        matches!(self.backend, Backend::Cuda(_))
    }

    /// What an engine on a card has been through; on the CPU, nothing.
    pub fn health(&self) -> Health {
        match &self.backend {
            Backend::Cpu(_) => Health::default(),
            Backend::Cuda(backend) => backend.health(),
        }
    }

    /// Memory to score one clip at a time on the calling thread.
    pub fn workspace(&self) -> Workspace {
        Workspace(match &self.backend {
            Backend::Cpu(program) => {
                Scratch::Cpu(Box::new(cpu::Buffers::new(program, Team::alone())))
            }
            Backend::Cuda(_) => Scratch::Cuda(Box::default()),
        })
    }

    /// Memory to score one clip at a time on several threads, which share each
    /// layer: for an early answer. For many clips, a workspace of
    /// its own for each thread costs less.
    ///
    /// # Errors
    /// If the threads cannot be started.
    pub fn workspace_of(&self, threads: usize) -> Result<Workspace, EngineError> {
        let Backend::Cpu(program) = &self.backend else {
            return Ok(self.workspace());
        };
        let helpers = cpu::Helpers::start(threads).map_err(no_threads)?;
        let buffers = cpu::Buffers::new(program, Team::with(helpers));
        Ok(Workspace(Scratch::Cpu(Box::new(buffers))))
    }

    /// A workspace for each of so many threads. While only one of them has work,
    /// the work of each layer is shared, for the same bits: who is alone need not
    /// wait for one thread.
    ///
    /// # Errors
    /// If the helping threads cannot be started.
    pub fn workspaces(&self, threads: usize) -> Result<Vec<Workspace>, EngineError> {
        let Backend::Cpu(program) = &self.backend else {
            return Ok((0..threads).map(|_| self.workspace()).collect());
        };
        let helpers = cpu::Helpers::start(threads).map_err(no_threads)?;
        let workspaces = (0..threads).map(|_| {
            let team = Team::with(helpers.clone());
            Workspace(Scratch::Cpu(Box::new(cpu::Buffers::new(program, team))))
        });
        Ok(workspaces.collect())
    }

    /// What the engine takes of the machine's memory, or the card's.
    pub fn memory(&self) -> Memory {
        match &self.backend {
            Backend::Cpu(program) => Memory {
                weights: program.weight_bytes(),
                workspace: program.workspace_bytes(),
            },
            Backend::Cuda(backend) => Memory {
                weights: backend.weight_bytes(),
                workspace: backend.workspace_bytes(),
            },
        }
    }

    /// How each convolution is computed on the CPU, in the network's order.
    pub fn methods(&self) -> Vec<&'static str> {
        match &self.backend {
            Backend::Cpu(program) => program.methods().collect(),
            Backend::Cuda(_) => Vec::new(),
        }
    }

    /// The CPU time of each step for a clip, `[C, T, H, W]`: the layer's name, how it is
    /// computed, and how long; nothing on a card.
    ///
    /// # Panics
    /// If the clip is not as long as the network's input.
    pub fn layer_times(
        &self,
        workspace: &mut Workspace,
        clip: &[f32],
    ) -> Vec<(String, &'static str, Duration)> {
        match &self.backend {
            Backend::Cpu(_) => {
                let (program, buffers) = self.on_cpu(workspace);
                assert_eq!(
                    clip.len(),
                    buffers.input_mut(program).len(),
                    "values of a clip"
                );
                spread(clip, self.input.channels, buffers.input_mut(program));
                program.layer_times(buffers)
            }
            Backend::Cuda(_) => Vec::new(),
        }
    }

    /// Logits, `[N][K]`, of clips as the dataflow has them: `[T]` grey pictures
    /// of `[H, W]`, eight bits deep, which are normalised here.
    ///
    /// # Errors
    /// If a clip has another shape than the network takes.
    pub fn infer(
        &self,
        workspace: &mut Workspace,
        clips: &[Clip],
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        clips.iter().try_for_each(|clip| self.check(clip))?;
        let logits = match (&self.backend, &mut workspace.0) {
            (Backend::Cuda(backend), Scratch::Cuda(scratch)) => {
                let frames = clips.iter().flat_map(|clip| &clip.frames);
                let bytes: Vec<u8> = frames
                    .flat_map(|frame| frame.pixels.iter())
                    .copied()
                    .collect();
                backend
                    .infer(scratch, clips.len(), cuda::Clips::Grey(&bytes))
                    .map_err(EngineError::Cuda)?
            }
            _ => None,
        };
        let logits = logits.unwrap_or_else(|| {
            let (program, buffers) = self.on_cpu(workspace);
            let mut logits = Vec::with_capacity(clips.len() * self.classes);
            for clip in clips {
                self.fill(buffers.input_mut(program), clip);
                logits.extend_from_slice(program.run(buffers));
            }
            logits
        });
        let rows = logits.chunks_exact(self.classes);
        Ok(rows.map(<[f32]>::to_vec).collect())
    }

    /// Logits, `[N, K]`, of clips that are normalised already: `clips` is
    /// row-major with the shape `[N, C, T, H, W]`.
    ///
    /// # Errors
    /// If the shape is not the network's, or not that of the values.
    pub fn infer_tensor(
        &self,
        workspace: &mut Workspace,
        clips: &[f32],
        shape: &[usize],
    ) -> Result<Vec<f32>, EngineError> {
        let input = &self.input;
        let channels = input.channels;
        let clip_len = channels * input.frames * input.height * input.width;
        let [batch, ..] = *shape else {
            return Err(self.misshapen(shape.to_vec()));
        };
        let expected = [channels, input.frames, input.height, input.width];
        if shape[1..] != expected || clips.len() != batch * clip_len {
            return Err(self.misshapen(shape.to_vec()));
        }
        if let (Backend::Cuda(backend), Scratch::Cuda(scratch)) = (&self.backend, &mut workspace.0)
        {
            let logits = backend
                .infer(scratch, batch, cuda::Clips::Values(clips))
                .map_err(EngineError::Cuda)?;
            if let Some(logits) = logits {
                return Ok(logits);
            }
        }
        let (program, buffers) = self.on_cpu(workspace);
        let mut logits = Vec::with_capacity(batch * self.classes);
        for clip in clips.chunks_exact(clip_len) {
            spread(clip, channels, buffers.input_mut(program));
            logits.extend_from_slice(program.run(buffers));
        }
        Ok(logits)
    }

    /// Logits, `[K]`, of a clip as the dataflow has it, and where the network looked
    /// for a class: the likeliest one if none is named. Computed on the CPU,
    /// whatever the device.
    ///
    /// # Errors
    /// If the clip has another shape than the network takes, there is no such
    /// class, or the network is one of which no map can be made.
    pub fn explain(
        &self,
        workspace: &mut Workspace,
        clip: &Clip,
        class: Option<usize>,
    ) -> Result<(Vec<f32>, Attention), EngineError> {
        self.check(clip)?;
        self.explained(workspace, class, |values| self.fill(values, clip))
    }

    /// [`Engine::explain`] for a clip that is normalised already: row-major,
    /// `[C, T, H, W]`.
    ///
    /// # Errors
    /// As for [`Engine::explain`].
    pub fn explain_tensor(
        &self,
        workspace: &mut Workspace,
        clip: &[f32],
        class: Option<usize>,
    ) -> Result<(Vec<f32>, Attention), EngineError> {
        let input = &self.input;
        if clip.len() != input.channels * input.frames * input.height * input.width {
            return Err(self.misshapen(vec![clip.len()]));
        }
        self.explained(workspace, class, |values| {
            spread(clip, input.channels, values);
        })
    }

    fn explained(
        &self,
        workspace: &mut Workspace,
        class: Option<usize>,
        fill: impl FnOnce(&mut [f32]),
    ) -> Result<(Vec<f32>, Attention), EngineError> {
        let head = self.head.as_ref().ok_or(EngineError::NoAttention)?;
        let (program, buffers) = self.on_cpu(workspace);
        fill(buffers.input_mut(program));
        let logits = program.run(buffers).to_vec();
        let class = self.class(class, &logits)?;
        let attention = head.attention(program.value(buffers, 0, head.features), class);
        Ok((logits, attention))
    }

    /// The class that is asked for, or the likeliest.
    fn class(&self, class: Option<usize>, logits: &[f32]) -> Result<usize, EngineError> {
        let classes = self.classes;
        let likeliest = || (0..classes).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        match class.or_else(likeliest) {
            Some(class) if class < classes => Ok(class),
            class => Err(EngineError::Class {
                class: class.unwrap_or(0),
                classes,
            }),
        }
    }

    fn check(&self, clip: &Clip) -> Result<(), EngineError> {
        let input = &self.input;
        let (area, frames) = (input.height * input.width, &clip.frames);
        if frames.len() == input.frames && frames.iter().all(|f| f.pixels.len() == area) {
            return Ok(());
        }
        let pixels = frames.first().map_or(0, |frame| frame.pixels.len());
        Err(self.misshapen(vec![1, frames.len(), pixels]))
    }

    /// A clip's pictures, normalised, as `[T, H, W, C]`.
    fn fill(&self, values: &mut [f32], clip: &Clip) {
        let frame_len = values.len() / clip.frames.len();
        for (values, frame) in values.chunks_exact_mut(frame_len).zip(&clip.frames) {
            cpu::normalise(&frame.pixels, &self.grey, values);
        }
    }

    /// The network on the CPU, with memory for it: where that is the backend, or
    /// the card was given up.
    ///
    /// # Panics
    /// If the workspace is that of an engine of the other kind.
    fn on_cpu<'a>(
        &'a self,
        workspace: &'a mut Workspace,
    ) -> (&'a cpu::Program, &'a mut cpu::Buffers) {
        match (&self.backend, &mut workspace.0) {
            (Backend::Cpu(program), Scratch::Cpu(buffers)) => (program, &mut **buffers),
            (Backend::Cuda(backend), Scratch::Cuda(scratch)) => {
                let program = backend.fallback();
                (program, scratch.cpu(program))
            }
            _ => panic!("a workspace of another engine"),
        }
    }

    fn misshapen(&self, found: Vec<usize>) -> EngineError {
        let input = &self.input;
        let expected = [input.channels, input.frames, input.height, input.width];
        EngineError::Shape { found, expected }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn no_threads(error: impl std::error::Error) -> EngineError {
    EngineError::Threads(error.to_string())
}

/// `[C, T, H, W]` to `[T, H, W, C]`.
fn spread(clip: &[f32], channels: usize, values: &mut [f32]) {
    for (channel, plane) in clip.chunks_exact(clip.len() / channels).enumerate() {
        let places = values.iter_mut().skip(channel).step_by(channels);
        places.zip(plane).for_each(|(place, value)| *place = *value);
    }
}

/// What each grey level becomes, channel by channel.
fn grey_table(input: &InputSpec) -> Vec<[f32; 256]> {
    let normalise =
        |mean: f32, std: f32| std::array::from_fn(|grey| (grey as f32 / 255.0 - mean) / std);
    input
        .mean
        .iter()
        .zip(&input.std)
        .map(|(&mean, &std)| normalise(mean, std))
        .collect()
}

/// Probabilities of one row of logits.
///
/// ```
/// let p = hepaflow::engine::softmax(&[0.0, 1000.0]);
/// assert_eq!(p, [0.0, 1.0]);
/// ```
pub fn softmax(logits: &[f32]) -> Vec<f64> {
    let highest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let powers: Vec<_> = logits
        .iter()
        .map(|&logit| (f64::from(logit) - highest).exp())
        .collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}
