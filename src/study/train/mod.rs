//! Training: from a cohort's recordings to a model directory.
//!
//! ```text
//! recordings ─▶ film ─▶ augment ─▶ network ─▶ optimiser ─▶ model directory
//!               u8      clips      gradients   steps
//!                                  └── fit: epochs, early stopping, checkpoints ──┘
//! ```
//!
//! The networks are those of the zoo, built from the same graph that the engine
//! executes, and the parameters carry PyTorch's names throughout. burn gives the
//! tensors and their gradients, on the CPU. Who shows progress
//! passes an observer; nothing here draws.

mod augment;
mod checkpoint;
mod curves;
mod film;
mod fit;
mod layer;
mod network;
mod optimiser;
mod publish;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use augment::Augmentation;
pub(crate) use checkpoint::replace;
pub use curves::curves;
pub use film::{Film, Reading, Recorded, brightness, read};
pub use fit::{Epoch, History, Observer, Progress, Task, fit};
pub use network::{Batch, Network, Parameter};
pub use optimiser::{Optimiser, Rule, scheduled};
pub use publish::publish;

use crate::ingest::IngestError;
use crate::model::ModelError;

/// How a network is trained. The same settings, films and network give the same
/// weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainConfig {
    /// How gradients change parameters.
    pub rule: Rule,
    /// The largest step; see [`scheduled`].
    pub rate: f32,
    /// Weight decay.
    pub decay: f32,
    /// Clips in a step.
    pub batch: usize,
    /// Clips cut out of each film in an epoch.
    pub clips: usize,
    /// At most so many.
    pub epochs: usize,
    /// Epochs without a better one before training ends.
    pub patience: usize,
    /// Which epoch's network is the answer.
    pub keep: Keep,
    /// What chance begins with.
    pub seed: u64,
    /// How clips are changed.
    pub augmentation: Augmentation,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            rule: Rule::Adam,
            rate: 3e-3,
            decay: 0.05,
            batch: 8,
            clips: 1,
            epochs: 30,
            patience: 10,
            keep: Keep::Best,
            seed: 7,
            augmentation: Augmentation::default(),
        }
    }
}

/// Which epoch's network training gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// The one with the least validation loss.
    Best,
    /// The last: with few patients to validate by, their loss says less about an epoch
    /// than that the step's size has come down. Training then never ends early.
    Last,
}

/// A network could not be trained.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The specification describes no network, or one that cannot be trained here.
    #[error("{0}")]
    Impossible(String),
    /// A class has no example.
    #[error(
        "no recording to learn from is of class {class}: a network cannot learn what it never sees; choose other classes, or another split"
    )]
    NoExample {
        /// The class, from 0.
        class: usize,
    },
    /// Nothing says when to stop.
    #[error("there is no recording to validate by: the split gives the validation set no patient")]
    NoValidation,
    /// A recording is shorter than a window.
    #[error("{}: {frames} frames, none of its runs has the {needed} of a window; leave it out, or choose --frames smaller", path.display())]
    TooShort {
        /// The recording, within the cohort's directory.
        path: PathBuf,
        /// How many it has.
        frames: usize,
        /// How many a window has.
        needed: usize,
    },
    /// The recordings do not fit.
    #[error("the recordings take more than {} MiB of memory: choose a smaller --size, or allow more with --memory", limit >> 20)]
    TooLarge {
        /// Bytes allowed.
        limit: u64,
    },
    /// A recording could not be read.
    #[error("cannot read {}", path.display())]
    Recording {
        /// The recording.
        path: PathBuf,
        /// Why.
        #[source]
        error: Box<IngestError>,
    },
    /// A recording without a picture.
    #[error("{}: there is no picture in it", path.display())]
    NoPicture {
        /// The recording.
        path: PathBuf,
    },
    /// Counters could not be set up.
    #[error("cannot count frames: {0}")]
    Metrics(String),
    /// The loss, or what follows from it, is no number.
    #[error(
        "the loss is not finite in step {step} of epoch {epoch}: training has come apart; choose a smaller --rate. The best epoch so far is in the checkpoint, untouched"
    )]
    NotFinite {
        /// The epoch, from 1.
        epoch: usize,
        /// The step in it, from 1.
        step: usize,
    },
    /// The checkpoint is another run's.
    #[error("{} is the checkpoint of a run with other {what}: it is left as it is; name another --out, or delete it to begin anew", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// The checkpoint cannot be used.
    #[error("{} is no whole file of tensors: {problem}; delete it to begin anew", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file could not be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// `model.toml` could not be put into words.
    #[error("cannot write model.toml: {0}")]
    Toml(#[from] toml::ser::Error),
    /// What was written cannot be loaded.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The observer ended it; the checkpoint holds all whole epochs.
    #[error("stopped: the same command goes on where this ended")]
    Stopped,
}
