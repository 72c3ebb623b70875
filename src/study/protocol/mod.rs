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

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::capsule::truths;
use super::cohort::Cohort;
use super::folder::{
    AblationRecord, AttentionRecord, ClipRecord, MethodRecord, RecordError, StudyFolder,
    StudyRecord, TrialRecord, TuningRecord, read_json, write_json,
};
use super::heat::HeatError;
use super::phantom;
use super::phantom::cohort::recipe;
use super::predictions::{Aggregation, PatientSet, Prediction, Predictions, PredictionsError};
use super::split::{Split, SplitError};
use super::train::{Film, Reading, Recorded, TrainConfig, TrainError, brightness, read};
use crate::domain::{ContentHash, Crop, FrameSize, PatientId, Stage, StageRange};
use crate::engine::EngineError;
use crate::ingest::sandbox::Sandbox;
use crate::model::{Architecture, Lstm, Model, ModelError};
use fitting::{Fold, fit_all};
use scoring::Judge;

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
    /// Its memory, if it has one.
    pub lstm: Option<Lstm>,
}

impl Method {
    /// The paper's three kinds, compact: single pictures, pictures with a memory,
    /// moving pictures.
    pub fn three(widths: &[usize]) -> Vec<Self> {
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
    fn name(&self) -> String {
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
    /// Frames of a window.
    pub frames: usize,
    /// Frames between the windows that are scored.
    pub stride: usize,
    /// The part of the picture that is used.
    pub crop: Option<Crop>,
    /// What it is resized to.
    pub size: FrameSize,
    /// What chance begins with.
    pub seed: u64,
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

/// Where a study is done, and with what.
pub struct Study<'a> {
    /// What is done.
    pub config: &'a StudyConfig,
    /// On whom.
    pub cohort: &'a Cohort,
    /// The cohort's directory.
    pub directory: &'a Path,
    /// Where everything goes.
    pub out: &'a Path,
    /// Fits side by side.
    pub jobs: usize,
    /// Bytes that all recordings together may take.
    pub memory: u64,
    /// Reads what comes from outside.
    pub sandbox: &'a Sandbox,
    /// Told of progress.
    pub show: Show<'a>,
}

/// Does what is not done yet, up to the predictions, ablations and attention; what
/// these amount to is for the evaluation to say.
///
/// # Errors
/// If the directory is another study's, the patients cannot be split, a recording
/// cannot be read, training fails, or a file cannot be written.
pub fn run(study: &Study<'_>) -> Result<(), StudyError> {
    let begin = Instant::now();
    let folder = StudyFolder::new(study.out);
    claim(study)?;
    let split = split(study, &folder)?;
    let films = study.read(&split)?;
    let of = |patients: &[PatientId]| -> Vec<&Film> {
        let patients: BTreeSet<_> = patients.iter().collect();
        let belongs = |film: &&Film| patients.contains(&film.patient);
        films.iter().filter(belongs).collect()
    };
    let sets = Sets {
        training: of(&split.train),
        validation: of(&split.validation),
        test: of(&split.test),
    };
    let folds: Vec<Fold<'_>> = (0..split.folds.len())
        .map(|fold| Fold {
            training: of(&split.training_of(fold).into_iter().cloned().collect::<Vec<_>>()),
            held_out: of(&split.folds[fold]),
            validation: sets.validation.clone(),
        })
        .collect();
    fit_all(study, &folds)?;
    let chosen = fitting::choose(study, &folder, folds.len())?;
    study.predict(&folder, folds.len(), &sets)?;
    study.ablate(&folder, folds.len(), &sets)?;
    study.explain(&folder, &sets)?;
    study.record(&folder, &sets, &chosen, begin)
}

/// The films of each set.
struct Sets<'a> {
    training: Vec<&'a Film>,
    validation: Vec<&'a Film>,
    test: Vec<&'a Film>,
}

/// Makes the directory this study's, or sees that it is.
fn claim(study: &Study<'_>) -> Result<(), StudyError> {
    let path = study.out.join("settings.json");
    let config = study.config;
    let Some(there) = read_json::<StudyConfig>(&path)? else {
        return save(&path, config);
    };
    let what = if there.cohort != config.cohort {
        "patients"
    } else if there.methods != config.methods {
        "networks"
    } else if there == *config {
        return Ok(());
    } else {
        "settings"
    };
    Err(StudyError::Foreign { path, what })
}

fn save<T: Serialize>(path: &Path, value: &T) -> Result<(), StudyError> {
    write_json(path, value).map_err(|error| StudyError::Write {
        path: path.to_owned(),
        problem: error.to_string(),
    })
}

fn split(study: &Study<'_>, folder: &StudyFolder) -> Result<Split, StudyError> {
    let stages = study.cohort.stages();
    let path = folder.split();
    if path.exists() {
        let split = Split::load(&path)?;
        split.check_against(&stages)?;
        return Ok(split);
    }
    let split = Split::draw(&stages, study.config.seed)?;
    split.save(&path)?;
    Ok(split)
}

/// Every recording of some patients with its class.
pub fn recordings(
    cohort: &Cohort,
    classes: &[StageRange],
    wanted: &BTreeSet<&PatientId>,
) -> Vec<Recorded> {
    let mut all = Vec::new();
    for patient in &cohort.patients {
        let within = |range: &StageRange| (range.lowest..=range.highest).contains(&patient.stage);
        // Classes cover all stages.
        let Some(class) = classes.iter().position(within) else {
            continue;
        };
        if wanted.contains(patient.id()) {
            all.extend(patient.videos.iter().map(|video| Recorded {
                patient: patient.id().clone(),
                path: PathBuf::from(&video.path),
                class,
            }));
        }
    }
    all
}

impl Study<'_> {
    fn reading(&self) -> Reading {
        Reading {
            crop: self.config.crop,
            size: self.config.size,
            memory: self.memory,
        }
    }

    fn read(&self, split: &Split) -> Result<Vec<Film>, StudyError> {
        let everyone = split.train.iter().chain(&split.validation).chain(&split.test);
        let recordings = recordings(self.cohort, &self.config.classes, &everyone.collect());
        (self.show)(Event::Phase {
            name: "reading",
            units: "recordings",
            total: recordings.len() as u64,
        });
        let done = || (self.show)(Event::Advance(1));
        let reading = self.reading();
        Ok(read(self.directory, &recordings, &reading, self.sandbox, &done)?)
    }

    /// Every fold-model of every method.
    fn models(&self, folder: &StudyFolder, folds: usize) -> Result<Vec<(String, usize, Model)>, StudyError> {
        let mut models = Vec::new();
        for method in &self.config.methods {
            for fold in 0..folds {
                let model = Model::load(&folder.model(&method.name, fold))?;
                models.push((method.name.clone(), fold, model));
            }
        }
        Ok(models)
    }

    /// `predictions.csv`.
    fn predict(&self, folder: &StudyFolder, folds: usize, sets: &Sets<'_>) -> Result<(), StudyError> {
        if folder.predictions().exists() {
            return Ok(());
        }
        let models = self.models(folder, folds)?;
        let films = [
            (PatientSet::Validation, &sets.validation),
            (PatientSet::Test, &sets.test),
        ];
        (self.show)(Event::Phase {
            name: "scoring",
            units: "recordings",
            total: (models.len() * (sets.validation.len() + sets.test.len())) as u64,
        });
        let rows = |(method, fold, model): &(String, usize, Model)| {
            let mut judge = Judge::new(model)?;
            let mut rows = Vec::new();
            for (set, films) in films {
                for film in films {
                    for window in judge.score(film, self.config.stride)? {
                        rows.push(Prediction {
                            method: method.clone(),
                            fold: *fold,
                            set,
                            patient: film.patient.clone(),
                            path: film.path.display().to_string(),
                            first_frame: window.first_frame,
                            probabilities: window.probabilities,
                        });
                    }
                    (self.show)(Event::Advance(1));
                }
            }
            Ok(rows)
        };
        let rows: Result<Vec<_>, StudyError> = models.par_iter().map(rows).collect();
        let predictions = Predictions {
            classes: self.config.classes.clone(),
            rows: rows?.into_iter().flatten().collect(),
        };
        predictions.check()?;
        Ok(predictions.save(&folder.predictions())?)
    }

    /// `ablations.json`, if the cohort is one that can be recorded again.
    fn ablate(&self, folder: &StudyFolder, folds: usize, sets: &Sets<'_>) -> Result<(), StudyError> {
        let Some(recipe) = recipe(self.directory)? else {
            return Ok(());
        };
        if folder.ablations().exists() || recipe.ablation != phantom::Ablation::None {
            return Ok(());
        }
        let models = self.models(folder, folds)?;
        (self.show)(Event::Phase {
            name: "ablations",
            units: "recordings",
            total: (ablation::ALL.len() * sets.test.len()) as u64,
        });
        let mut records = Vec::new();
        let mut add = |name: &str, films: &[&Film]| {
            let auc = |(_, _, model): &(String, usize, Model)| {
                scoring::patient_auc(self.config, model, films)
            };
            let aucs: Result<Vec<_>, StudyError> = models.par_iter().map(auc).collect();
            let aucs = aucs?;
            for (method, aucs) in self.config.methods.iter().zip(aucs.chunks(folds)) {
                records.push(AblationRecord {
                    ablation: name.to_owned(),
                    method: method.name.clone(),
                    fold_aucs: aucs.to_vec(),
                });
            }
            Ok::<_, StudyError>(())
        };
        add("none", &sets.test)?;
        for (name, what) in ablation::ALL {
            let place = self.out.join("ablated");
            let outside = (&self.reading(), self.sandbox);
            let films = ablation::films(&recipe, &sets.test, what, &place, outside, self.show)?;
            add(name, &films.iter().collect::<Vec<_>>())?;
        }
        save(&folder.ablations(), &records)
    }

    /// `attention/`: a few test patients of each class, by the first fold-models.
    fn explain(&self, folder: &StudyFolder, sets: &Sets<'_>) -> Result<(), StudyError> {
        if folder.attention_list().exists() {
            return Ok(());
        }
        let truths = truths(self.directory)?;
        let mut shown = Vec::new();
        for class in 0..self.config.classes.len() {
            let of_class = sets.test.iter().filter(|film| film.class == class);
            shown.extend(of_class.take(explaining::PATIENTS));
        }
        (self.show)(Event::Phase {
            name: "attention",
            units: "recordings",
            total: (shown.len() * self.config.methods.len()) as u64,
        });
        fs::create_dir_all(folder.attention()).map_err(|error| StudyError::Write {
            path: folder.attention(),
            problem: error.to_string(),
        })?;
        let mut records = Vec::new();
        for method in &self.config.methods {
            let model = Model::load(&folder.model(&method.name, 0))?;
            let mut judge = Judge::new(&model)?;
            for (number, film) in shown.iter().enumerate() {
                let patient = format!("test-{:02}", number + 1);
                let file = format!("{}-{patient}.png", method.name);
                let path = folder.attention().join(&file);
                explaining::panel(self.config, &mut judge, film, &path)?;
                let truth = truths.get(&film.path);
                let capsule = explaining::measure(self.config, &mut judge, film, truth)?;
                records.push(AttentionRecord {
                    patient,
                    stage: self.stage_of(film),
                    method: method.name.clone(),
                    file,
                    capsule_share: capsule.map(|capsule| capsule.0),
                    capsule_area: capsule.map(|capsule| capsule.1),
                });
                (self.show)(Event::Advance(1));
            }
        }
        save(&folder.attention_list(), &records)
    }

    fn stage_of(&self, film: &Film) -> Stage {
        let patients = self.cohort.patients.iter();
        let found = patients.filter(|patient| *patient.id() == film.patient);
        // Films are of the cohort's patients.
        found.map(|patient| patient.stage).next().unwrap_or(PRIMARY)
    }

    /// `study.json`.
    fn record(
        &self,
        folder: &StudyFolder,
        sets: &Sets<'_>,
        chosen: &[TrialRecord],
        begin: Instant,
    ) -> Result<(), StudyError> {
        let config = self.config;
        let (mean, std) = brightness(sets.training.iter().copied());
        let mut methods = Vec::new();
        for (method, trial) in config.methods.iter().zip(chosen) {
            let model = Model::load(&folder.model(&method.name, 0))?;
            let parameters = model.graph().parameters();
            let learnt = parameters.iter().filter(|(name, _)| !name.contains(".running_"));
            let count: usize = learnt.map(|(_, shape)| shape.iter().product::<usize>()).sum();
            methods.push(MethodRecord {
                name: method.name.clone(),
                label: method.label.clone(),
                parameters: count as u64,
                settings: trial.settings.clone(),
            });
        }
        let before = read_json::<StudyRecord>(&folder.study())?;
        let before = before.map_or(0.0, |record| record.seconds);
        let record = StudyRecord {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            seed: config.seed,
            is_synthetic: config.synthetic,
            flow: self.cohort.flow.clone(),
            methods,
            clips: ClipRecord {
                frames: config.frames,
                height: config.size.height,
                width: config.size.width,
                frames_per_second: None,
                stride: config.stride,
                mean: f64::from(mean),
                std: f64::from(std),
            },
            aggregation: Aggregation::Mean,
            device: "cpu".to_owned(),
            seconds: before + begin.elapsed().as_secs_f64(),
            notes: Vec::new(),
        };
        save(&folder.study(), &record)
    }
}
