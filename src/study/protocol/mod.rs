//! The paper's protocol in one go: `hepaflow study`.
//!
//! ```text
//! split ─▶ tuning: grid x folds, fits side by side ─▶ the best setting of each kind
//!      ─▶ five fold-models each score the fixed test patients through the engine
//!      ─▶ ablations, attention ─▶ evaluation ─▶ report
//! ```
//!
//! Each step leaves files in the study's directory and is not done again when they
//! are there, so the same command goes on where it stopped:
//!
//! ```text
//! OUT/settings.json   what everything there belongs to: StudyConfig
//! OUT/tuning/...      every fit of the grid, with its checkpoint while it runs
//! ```
//!
//! and the files that [`super::folder`] lists. Folds count from 0.

mod ablation;
mod explaining;
mod fitting;
mod scoring;
mod steps;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use steps::{Study, recordings, run};

use super::folder::RecordError;
use super::heat::HeatError;
use super::phantom;
use super::predictions::PredictionsError;
use super::split::SplitError;
use super::train::{TrainConfig, TrainError};
use crate::domain::{ContentHash, Crop, FrameSize, Stage, StageRange};
use crate::engine::EngineError;
use crate::model::{Architecture, Lstm, ModelError};

/// The threshold that methods are compared at first: significant fibrosis.
pub const PRIMARY: Stage = Stage::F2;

/// A kind of network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Method {
    /// What tables and directories call it.
    pub name: String,
    /// What people call it.
    pub label: String,
    /// The network.
    pub architecture: Architecture,
    /// Channels of its blocks.
    pub widths: Vec<usize>,
    /// Frames of its windows.
    pub frames: usize,
    /// Frames that its first convolution takes together, if several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stem_frames: Option<usize>,
    /// Its memory, if it has one.
    pub lstm: Option<Lstm>,
}

impl Method {
    /// The paper's three kinds, compact: single pictures, pictures with a memory,
    /// moving pictures, whose windows and first convolution may span more frames.
    pub fn three(
        widths: &[usize],
        frames: usize,
        moving: usize,
        stem_frames: Option<usize>,
    ) -> Vec<Self> {
        let kinds = [
            (Architecture::Fibro2d, "2D-CNN"),
            (Architecture::Fibro2dLstm, "2D-CNN + LSTM"),
            (Architecture::Fibro3d, "3D-CNN"),
        ];
        let method = |(architecture, label): (Architecture, &str)| Self {
            name: architecture.to_string(),
            label: label.to_owned(),
            architecture,
            widths: widths.to_vec(),
            frames: if architecture == Architecture::Fibro3d {
                moving
            } else {
                frames
            },
            stem_frames: stem_frames.filter(|_| architecture == Architecture::Fibro3d),
            lstm: architecture.has_lstm().then_some(Lstm {
                hidden: 32,
                layers: 1,
            }),
        };
        kinds.map(method).into()
    }
}

/// A setting of the grid.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The largest step.
    pub rate: f32,
    /// Weight decay.
    pub decay: f32,
}

impl Point {
    fn name(self) -> String {
        format!("rate-{}-decay-{}", self.rate, self.decay)
    }
}

/// `settings.json`: all that the results depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StudyConfig {
    /// The tables of the cohort.
    pub cohort: ContentHash,
    /// Whether the cohort is a phantom.
    pub synthetic: bool,
    /// The networks.
    pub methods: Vec<Method>,
    /// The settings that are tried.
    pub grid: Vec<Point>,
    /// What all fits share; rate, decay and seed are filled in.
    pub train: TrainConfig,
    /// What the classes mean.
    pub classes: Vec<StageRange>,
    /// Frames of the longest window: a recording must have as many.
    pub frames: usize,
    /// Frames between the windows that are scored.
    pub stride: usize,
    /// The part of the picture that is used.
    pub crop: Option<Crop>,
    /// What it is resized to.
    pub size: FrameSize,
    /// Frames a second that faster recordings are thinned to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames_per_second: Option<f32>,
    /// What chance begins with.
    pub seed: u64,
    /// Whether the stages were dealt out by chance, to see that nothing leaks.
    #[serde(default)]
    pub has_random_labels: bool,
}

/// What has just begun or been done.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A step of so many units.
    Phase {
        /// What is done.
        name: &'static str,
        /// What is counted.
        units: &'static str,
        /// How many.
        total: u64,
    },
    /// So many units more are done.
    Advance(u64),
}

/// Told of progress, from any thread.
pub type Show<'a> = &'a (dyn Fn(Event) + Sync);

/// The study could not be done.
#[derive(Debug, thiserror::Error)]
pub enum StudyError {
    /// The directory is another study's.
    #[error("{} belongs to a study with other {what}: it is left as it is; name another --out", path.display())]
    Foreign {
        /// `settings.json`.
        path: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// A file could not be written.
    #[error("cannot write {}: {problem}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// A record of the study could not be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The patients could not be split.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// The predictions could not be written.
    #[error(transparent)]
    Predictions(#[from] PredictionsError),
    /// The truth about a phantom could not be read.
    #[error("cannot read phantom.csv: {0}")]
    Truth(#[from] csv::Error),
    /// Training failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// A model could not be loaded.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The engine refused a model or a window.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A recording for an ablation could not be made.
    #[error(transparent)]
    Phantom(#[from] phantom::Error),
    /// A map or picture of attention could not be made.
    #[error("{0}")]
    Heat(String),
    /// Threads could not be started.
    #[error("cannot start the worker threads")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

impl From<HeatError> for StudyError {
    fn from(error: HeatError) -> Self {
        Self::Heat(error.to_string())
    }
}
