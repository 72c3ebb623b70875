//! The steps of a study, one after the other; each leaves its file.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rayon::prelude::*;
use serde::Serialize;

use super::fitting::{Fold, choose, fit_all};
use super::scoring::{Judge, patient_auc};
use super::{Event, PRIMARY, Show, StudyConfig, StudyError, ablation, explaining};
use crate::domain::{PatientId, Stage, StageRange};
use crate::ingest::sandbox::Sandbox;
use crate::model::{Model, pace};
use crate::study::capsule::truths;
use crate::study::cohort::Cohort;
use crate::study::folder::{
    AblationRecord, AttentionRecord, ClipRecord, MethodRecord, StudyFolder, StudyRecord,
    TrialRecord, read_json, write_json,
};
use crate::study::phantom::Ablation;
use crate::study::phantom::cohort::recipe;
use crate::study::predictions::{Aggregation, PatientSet, Prediction, Predictions};
use crate::study::split::Split;
use crate::study::train::{Film, Reading, Recorded, brightness, read};

/// What the report of a run with random labels says.
const RANDOM_LABELS: &str = "The stages were dealt out among the patients by chance: every \
    method must come out at an AUC of about one half, and these models are worth nothing.";

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
    let is_new = !is_claimed(study)?;
    let split = split(study, &folder)?;
    let films = study.read(&split)?;
    // Only what can be done is begun.
    if is_new {
        save(&study.out.join("settings.json"), study.config)?;
        split.save(&folder.split())?;
    }
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
            training: of(&split
                .training_of(fold)
                .into_iter()
                .cloned()
                .collect::<Vec<_>>()),
            held_out: of(&split.folds[fold]),
            validation: sets.validation.clone(),
        })
        .collect();
    fit_all(study, &folds)?;
    let chosen = choose(study, &folder, folds.len())?;
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

/// Whether the directory is this study's already; an error if it is another's.
fn is_claimed(study: &Study<'_>) -> Result<bool, StudyError> {
    let path = study.out.join("settings.json");
    let config = study.config;
    let Some(there) = read_json::<StudyConfig>(&path)? else {
        return Ok(false);
    };
    let what = if there.cohort != config.cohort {
        "patients"
    } else if there.methods != config.methods {
        "networks"
    } else if there == *config {
        return Ok(true);
    } else {
        "settings"
    };
    Err(StudyError::Foreign { path, what })
}

pub(super) fn save<T: Serialize>(path: &Path, value: &T) -> Result<(), StudyError> {
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
    Ok(Split::draw(&stages, study.config.seed)?)
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
            pace: self.config.frames_per_second.map(pace),
            memory: self.memory,
        }
    }

    fn read(&self, split: &Split) -> Result<Vec<Film>, StudyError> {
        let everyone = split
            .train
            .iter()
            .chain(&split.validation)
            .chain(&split.test);
        let recordings = recordings(self.cohort, &self.config.classes, &everyone.collect());
        (self.show)(Event::Phase {
            name: "reading",
            units: "recordings",
            total: recordings.len() as u64,
        });
        let done = || (self.show)(Event::Advance(1));
        let reading = self.reading();
        Ok(read(
            self.directory,
            &recordings,
            &reading,
            self.sandbox,
            &done,
        )?)
    }

    /// Every fold-model of every method.
    fn models(
        &self,
        folder: &StudyFolder,
        folds: usize,
    ) -> Result<Vec<(String, usize, Model)>, StudyError> {
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
    fn predict(
        &self,
        folder: &StudyFolder,
        folds: usize,
        sets: &Sets<'_>,
    ) -> Result<(), StudyError> {
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
    fn ablate(
        &self,
        folder: &StudyFolder,
        folds: usize,
        sets: &Sets<'_>,
    ) -> Result<(), StudyError> {
        let Some(recipe) = recipe(self.directory)? else {
            return Ok(());
        };
        if folder.ablations().exists() || recipe.ablation != Ablation::None {
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
            let auc =
                |(_, _, model): &(String, usize, Model)| patient_auc(self.config, model, films);
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
        let mut shown: Vec<&Film> = Vec::new();
        for class in 0..self.config.classes.len() {
            let of_class = sets.test.iter().filter(|film| film.class == class);
            shown.extend(of_class.copied().take(explaining::PATIENTS));
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
            let learnt = parameters
                .iter()
                .filter(|(name, _)| !name.contains(".running_"));
            let count: usize = learnt
                .map(|(_, shape)| shape.iter().product::<usize>())
                .sum();
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
                frames_per_second: config.frames_per_second.map(f64::from),
                stride: config.stride,
                mean: f64::from(mean),
                std: f64::from(std),
                augmentation: config.train.augmentation.to_string(),
            },
            aggregation: Aggregation::Mean,
            device: "cpu".to_owned(),
            seconds: before + begin.elapsed().as_secs_f64(),
            notes: config
                .has_random_labels
                .then(|| RANDOM_LABELS.to_owned())
                .into_iter()
                .collect(),
        };
        save(&folder.study(), &record)
    }
}
