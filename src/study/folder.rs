//! The directory of a study: where everything lies, and the records in it.
//!
//! ```text
//! OUT/study.json          what was done: StudyRecord
//! OUT/split.json          who is where: super::split::Split
//! OUT/tuning.json         the grid and what won: TuningRecord
//! OUT/predictions.csv     every clip scored: super::predictions
//! OUT/evaluation.json     how good that is
//! OUT/ablations.json      what the models live on: AblationRecord
//! OUT/models/<method>/fold<k>/    model.toml, weights.safetensors,
//!                                 training.json (TrainingRecord), curves.svg,
//!                                 README.md (its model card)
//! OUT/attention/attention.json    where they look: AttentionRecord; with PNGs
//! OUT/report.html, OUT/report.json
//! ```
//!
//! A file that is not there is a part that was not done.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::cohort::Flow;
use super::predictions::Aggregation;
use crate::domain::Stage;

/// What a study was, for its report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StudyRecord {
    /// The version of hepaflow.
    pub version: String,
    /// What everything random was drawn from.
    pub seed: u64,
    /// Whether the cohort was simulated.
    pub is_synthetic: bool,
    /// Who was in it, and who was not.
    pub flow: Flow,
    /// What was compared.
    pub methods: Vec<MethodRecord>,
    /// What the models saw.
    pub clips: ClipRecord,
    /// How clips become patients.
    pub aggregation: Aggregation,
    /// What computed: `cpu`, or the card's name.
    pub device: String,
    /// How long it took, all stages together.
    pub seconds: f64,
    /// Anything else a reader should know, such as what failed.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// One kind of model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MethodRecord {
    /// As in `predictions.csv`.
    pub name: String,
    /// For people, such as `3D-CNN`.
    pub label: String,
    /// Trained values in one fold-model.
    pub parameters: u64,
    /// How it was trained in the end: learning rate, batch, and so on.
    pub settings: BTreeMap<String, serde_json::Value>,
}

/// What the models saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClipRecord {
    /// Frames of a clip.
    pub frames: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// The rate that recordings are resampled to; `None` where they are not.
    pub frames_per_second: Option<f64>,
    /// Frames from one clip to the next, when scoring.
    pub stride: usize,
    /// Mean grey level subtracted, fitted on training patients.
    pub mean: f64,
    /// Standard deviation divided by.
    pub std: f64,
    /// How clips are changed while a model learns, in words.
    #[serde(default)]
    pub augmentation: String,
}

/// The grid that was searched: `tuning.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TuningRecord {
    /// In the order tried.
    pub trials: Vec<TrialRecord>,
}

/// One point of the grid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrialRecord {
    /// As in `predictions.csv`.
    pub method: String,
    /// Learning rate and so on.
    pub settings: BTreeMap<String, serde_json::Value>,
    /// AUC on each fold that was held out; `None` where it has one class.
    pub fold_aucs: Vec<Option<f64>>,
    /// Their mean.
    pub mean_auc: Option<f64>,
    /// Whether it won.
    pub chosen: bool,
}

/// How a fold-model was trained: `training.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingRecord {
    /// As in `predictions.csv`.
    pub method: String,
    /// Which fold it did not see.
    pub fold: usize,
    /// What its weights and batches were drawn from.
    pub seed: u64,
    /// In order.
    pub epochs: Vec<EpochRecord>,
    /// The epoch whose weights were kept.
    pub chosen_epoch: usize,
    /// SHA-256 of the model directory.
    pub model_hash: String,
    /// How long training took.
    pub seconds: f64,
}

/// One pass over the training clips.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// From 1.
    pub epoch: usize,
    /// Mean weighted loss over the training clips.
    pub train_loss: f64,
    /// The same over the validation clips.
    pub validation_loss: f64,
    /// AUC for >= F2 over the validation patients, where both classes are there.
    pub validation_auc: Option<f64>,
    /// Of the optimiser.
    pub learning_rate: f64,
}

/// What is left when something is taken away: a row of `ablations.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AblationRecord {
    /// `none`, `ripple_off`, `shuffled_frames` or `one_frame_repeated`.
    pub ablation: String,
    /// As in `predictions.csv`.
    pub method: String,
    /// Test AUC for >= F2 of each fold-model; `None` with one class.
    pub fold_aucs: Vec<Option<f64>>,
}

/// Where a model looked: a row of `attention/attention.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttentionRecord {
    /// A pseudonym, such as `test-03`: file names carry no identifier.
    pub patient: String,
    /// What pathology found.
    pub stage: Stage,
    /// As in `predictions.csv`.
    pub method: String,
    /// The picture, beside `attention.json`.
    pub file: String,
    /// Share of the heat within 5 mm of the capsule; `None` where nobody knows
    /// where the capsule is.
    pub capsule_share: Option<f64>,
    /// Share of the shown region within 5 mm of the capsule: what a map without
    /// preference would give.
    pub capsule_area: Option<f64>,
}

/// A record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file could not be read.
    #[error("{}: {error}", path.display())]
    File {
        /// The record.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is no such record.
    #[error("{} is not what a study writes there: {error}", path.display())]
    Format {
        /// The record.
        path: PathBuf,
        /// Why.
        error: serde_json::Error,
    },
}

/// A study's directory.
#[derive(Clone, Debug)]
pub struct StudyFolder(PathBuf);

impl StudyFolder {
    /// The study in `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// [`StudyRecord`].
    pub fn study(&self) -> PathBuf {
        self.0.join("study.json")
    }

    /// [`super::split::Split`].
    pub fn split(&self) -> PathBuf {
        self.0.join("split.json")
    }

    /// [`TuningRecord`].
    pub fn tuning(&self) -> PathBuf {
        self.0.join("tuning.json")
    }

    /// [`super::predictions::Predictions`].
    pub fn predictions(&self) -> PathBuf {
        self.0.join("predictions.csv")
    }

    /// How good the predictions are.
    pub fn evaluation(&self) -> PathBuf {
        self.0.join("evaluation.json")
    }

    /// A list of [`AblationRecord`].
    pub fn ablations(&self) -> PathBuf {
        self.0.join("ablations.json")
    }

    /// The directory of a fold-model.
    pub fn model(&self, method: &str, fold: usize) -> PathBuf {
        self.0
            .join("models")
            .join(method)
            .join(format!("fold{fold}"))
    }

    /// [`TrainingRecord`] of a fold-model.
    pub fn training(&self, method: &str, fold: usize) -> PathBuf {
        self.model(method, fold).join("training.json")
    }

    /// The model card of a fold-model.
    pub fn card(&self, method: &str, fold: usize) -> PathBuf {
        self.model(method, fold).join("README.md")
    }

    /// Where pictures of attention lie.
    pub fn attention(&self) -> PathBuf {
        self.0.join("attention")
    }

    /// A list of [`AttentionRecord`].
    pub fn attention_list(&self) -> PathBuf {
        self.attention().join("attention.json")
    }

    /// The report for people.
    pub fn report_html(&self) -> PathBuf {
        self.0.join("report.html")
    }

    /// The report for programs.
    pub fn report_json(&self) -> PathBuf {
        self.0.join("report.json")
    }
}

/// Reads a record; `None` if the file is not there.
///
/// # Errors
/// When the file cannot be read or is another record.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RecordError> {
    let fail = |error| RecordError::File {
        path: path.to_owned(),
        error,
    };
    match fs::read(path) {
        Ok(bytes) => {
            let record = serde_json::from_slice(&bytes);
            record.map(Some).map_err(|error| RecordError::Format {
                path: path.to_owned(),
                error,
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fail(error)),
    }
}

/// Writes a record as indented JSON, whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub fn write_json<T: Serialize>(path: &Path, record: &T) -> io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(record).map_err(io::Error::other)?;
    bytes.push(b'\n');
    write(path, &bytes)
}

/// Writes a file, whole or not at all: beside its place first, then moved there.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;

    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut file = fs::File::create(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&part, path)
}
