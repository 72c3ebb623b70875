//! Cross-validation: every method, with every setting of the grid, on every fold.
//!
//! Fits run side by side, one thread each: that is faster than several threads in
//! one. A fit that is done is on disk and is not done again; one that was
//! interrupted goes on from its checkpoint.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::scoring::patient_auc;
use super::steps::save;
use super::{Event, Method, Point, Study, StudyConfig, StudyError};
use crate::model::{InputSpec, MANIFEST, Model, ModelSpec};
use crate::study::folder::{
    EpochRecord, StudyFolder, TrainingRecord, TrialRecord, TuningRecord, read_json,
};
use crate::study::train::{
    Film, History, Progress, Task, TrainConfig, TrainError, brightness, curves, fit, publish,
};

/// The films of one fold.
pub(super) struct Fold<'a> {
    /// Learnt from.
    pub(super) training: Vec<&'a Film>,
    /// Held out: the grid is judged by them.
    pub(super) held_out: Vec<&'a Film>,
    /// Stopped by.
    pub(super) validation: Vec<&'a Film>,
}

/// `fit.json`, beside the model: what tuning asks of a fit.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Fitted {
    /// AUC of the held-out patients, at the primary threshold.
    held_out_auc: Option<f64>,
}

/// Which fit.
#[derive(Clone, Copy)]
struct Job {
    method: usize,
    point: usize,
    fold: usize,
}

/// Where the fits of a method with one setting are.
fn folder(out: &Path, method: &Method, point: Point, fold: usize) -> PathBuf {
    out.join("tuning")
        .join(&method.name)
        .join(point.name())
        .join(format!("fold{fold}"))
}

/// Does all fits that are not done yet. What they found is in their folders.
pub(super) fn fit_all(study: &Study<'_>, folds: &[Fold<'_>]) -> Result<(), StudyError> {
    let config = study.config;
    let mut todo = Vec::new();
    for method in 0..config.methods.len() {
        for point in 0..config.grid.len() {
            todo.extend((0..folds.len()).map(|fold| Job {
                method,
                point,
                fold,
            }));
        }
    }
    (study.show)(Event::Phase {
        name: "training",
        units: "epochs",
        total: (todo.len() * config.train.epochs) as u64,
    });
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failure = Mutex::new(None);
    let work = || {
        // One thread for all tensor work of this fit.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
        while let Some(job) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let fold = &folds[job.fold];
            pool.install(|| one(study, *job, fold, &stop))?;
        }
        Ok::<_, StudyError>(())
    };
    thread::scope(|scope| {
        for _ in 0..study.jobs.clamp(1, todo.len().max(1)) {
            scope.spawn(|| {
                if let Err(error) = work() {
                    stop.store(true, Ordering::Relaxed);
                    let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                    // The first one stopped the others.
                    failure.get_or_insert(error);
                }
            });
        }
    });
    let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    failure.map_or(Ok(()), Err)
}

fn one(study: &Study<'_>, job: Job, fold: &Fold<'_>, stop: &AtomicBool) -> Result<(), StudyError> {
    let (config, show) = (study.config, study.show);
    let (method, point) = (&config.methods[job.method], config.grid[job.point]);
    let folder = folder(study.out, method, point, job.fold);
    let all = config.train.epochs as u64;
    let begin = Instant::now();
    let record = folder.join("fit.json");
    if read_json::<Fitted>(&record)?.is_some() {
        show(Event::Advance(all));
        return Ok(());
    }
    let train = TrainConfig {
        rate: point.rate,
        decay: point.decay,
        // Folds begin differently.
        seed: config.seed.wrapping_add(job.fold as u64),
        ..config.train.clone()
    };
    let spec = specification(config, method, &fold.training);
    let task = Task {
        spec: &spec,
        config: &train,
        training: &fold.training,
        validation: &fold.validation,
        folder: &folder,
    };
    let mut shown = 0;
    let mut observer = |progress: Progress<'_>| {
        if let Progress::Epoch(history) = progress {
            let done = history.epochs.len() as u64;
            show(Event::Advance(done - shown));
            shown = done;
        }
        if stop.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    };
    let (network, history) = match fit(&task, &mut observer) {
        Err(TrainError::Stopped) => return Ok(()),
        other => other?,
    };
    let model = publish(&network, task.validation, &folder)?;
    let picture = curves(&history);
    crate::study::train::replace(&folder.join("curves.svg"), picture.as_bytes())?;
    let seconds = begin.elapsed().as_secs_f64();
    let training = training_record(&method.name, job.fold, &train, &history, &model, seconds);
    save(&folder.join("training.json"), &training)?;
    // Last: it says that all else is there.
    let held_out_auc = patient_auc(config, &model, &fold.held_out)?;
    save(&record, &Fitted { held_out_auc })?;
    // What early stopping saved counts as done.
    show(Event::Advance(all.saturating_sub(shown)));
    Ok(())
}

/// The network of a method; its input is normalised by what it learns from.
fn specification(config: &StudyConfig, method: &Method, training: &[&Film]) -> ModelSpec {
    let (mean, std) = brightness(training.iter().copied());
    let note = if config.synthetic {
        "Made by `hepaflow study` from SYNTHETIC recordings. Not for clinical use."
    } else {
        "Made by `hepaflow study`. Not for clinical use."
    };
    ModelSpec {
        architecture: method.architecture,
        widths: method.widths.clone(),
        depths: None,
        stem_frames: method.stem_frames,
        lstm: method.lstm,
        layers: Vec::new(),
        reference: None,
        classes: config.classes.clone(),
        synthetic: config.synthetic,
        note: note.to_owned(),
        input: InputSpec {
            channels: 1,
            frames: method.frames,
            frames_per_second: config.frames_per_second,
            height: config.size.height,
            width: config.size.width,
            mean: vec![mean],
            std: vec![std],
        },
    }
}

fn training_record(
    method: &str,
    fold: usize,
    config: &TrainConfig,
    history: &History,
    model: &Model,
    seconds: f64,
) -> TrainingRecord {
    let epochs = history.epochs.iter().map(|epoch| EpochRecord {
        epoch: epoch.epoch,
        train_loss: epoch.loss.into(),
        validation_loss: epoch.validation_loss.into(),
        validation_auc: epoch.validation_auc.map(f64::from),
        learning_rate: f64::from(epoch.rate),
    });
    TrainingRecord {
        method: method.to_owned(),
        fold,
        seed: config.seed,
        epochs: epochs.collect(),
        chosen_epoch: history.kept,
        model_hash: model.hash().to_string(),
        seconds,
    }
}

/// Compares the settings of each method by the patients that its fits held out,
/// records that in `tuning.json`, and puts the fold-models of the best to their
/// places. Gives the best trial of each method.
pub(super) fn choose(
    study: &Study<'_>,
    folder: &StudyFolder,
    folds: usize,
) -> Result<Vec<TrialRecord>, StudyError> {
    let mut tuning = TuningRecord::default();
    let mut chosen = Vec::new();
    for method in &study.config.methods {
        let mut trials = Vec::new();
        for &point in &study.config.grid {
            trials.push(trial(study, method, point, folds)?);
        }
        // The first of equals; one that could not be judged comes last.
        let score = |trial: &TrialRecord| trial.mean_auc.unwrap_or(f64::NEG_INFINITY);
        let mut best = 0;
        for number in 1..trials.len() {
            if score(&trials[number]) > score(&trials[best]) {
                best = number;
            }
        }
        trials[best].chosen = true;
        for fold in 0..folds {
            let from = self::folder(study.out, method, study.config.grid[best], fold);
            copy(&from, &folder.model(&method.name, fold))?;
        }
        chosen.push(trials[best].clone());
        tuning.trials.append(&mut trials);
    }
    save(&folder.tuning(), &tuning)?;
    Ok(chosen)
}

fn trial(
    study: &Study<'_>,
    method: &Method,
    point: Point,
    folds: usize,
) -> Result<TrialRecord, StudyError> {
    let mut fold_aucs = Vec::with_capacity(folds);
    for fold in 0..folds {
        let place = folder(study.out, method, point, fold).join("fit.json");
        let fitted = read_json::<Fitted>(&place)?;
        fold_aucs.push(fitted.and_then(|fitted| fitted.held_out_auc));
    }
    let known: Vec<f64> = fold_aucs.iter().copied().flatten().collect();
    let mean_auc = (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64);
    let train = &study.config.train;
    let settings = [
        ("optimiser", serde_json::json!(train.rule)),
        // As it was written: f32 would trail digits.
        ("rate", Value::String(point.rate.to_string())),
        ("decay", Value::String(point.decay.to_string())),
        ("batch", train.batch.into()),
        ("clips", train.clips.into()),
        ("epochs", train.epochs.into()),
        ("keep", serde_json::json!(train.keep)),
        ("frames", method.frames.into()),
        ("widths", method.widths.clone().into()),
    ];
    let stem = method
        .stem_frames
        .map(|frames| ("stem_frames", frames.into()));
    let settings = settings.into_iter().chain(stem);
    let settings = settings.map(|(name, value)| (name.to_owned(), value));
    Ok(TrialRecord {
        method: method.name.clone(),
        settings: settings.collect(),
        fold_aucs,
        mean_auc,
        chosen: false,
    })
}

/// What a fit made, to another directory.
fn copy(from: &Path, to: &Path) -> Result<(), StudyError> {
    let failed = |error: std::io::Error| StudyError::Write {
        path: to.to_owned(),
        problem: error.to_string(),
    };
    fs::create_dir_all(to).map_err(failed)?;
    for name in [
        "model.toml",
        "weights.safetensors",
        MANIFEST,
        "training.json",
        "curves.svg",
    ] {
        fs::copy(from.join(name), to.join(name)).map_err(failed)?;
    }
    Ok(())
}
