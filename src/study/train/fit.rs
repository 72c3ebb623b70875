//! The training loop.
//!
//! An epoch cuts a clip or more out of each film, takes the steps, and scores the
//! validation films in evaluation. The best epoch's parameters are kept, or the last
//! one's; training ends when none has been better for a while. Everything that chance
//! decides in an epoch comes from a stream of the seed that is that epoch's own,
//! so that a run that was killed goes on as if it had not been.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use super::augment::Change;
use super::checkpoint::{Checkpoint, State};
use super::film::{Film, digest};
use super::network::{Batch, Network};
use super::optimiser::{Optimiser, scheduled};
use super::{Keep, TrainConfig, TrainError};
use crate::domain::Stage;
use crate::model::{InputSpec, ModelSpec};
use crate::study::statistics::auc;

/// Windows of a validation film that are scored after each epoch, spread over it; fewer
/// where they would share more than three quarters of their frames.
const WINDOWS: usize = 2;

/// One epoch, as curves show it. In f32, which JSON gives back as it was.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// From 1.
    pub epoch: usize,
    /// Mean of the steps' losses.
    pub loss: f32,
    /// Weighted loss of the validation films, in evaluation.
    pub validation_loss: f32,
    /// AUC of the validation films for significant fibrosis; None without both
    /// sides of it.
    pub validation_auc: Option<f32>,
    /// The step's size at the end.
    pub rate: f32,
}

/// All epochs of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// In order.
    pub epochs: Vec<Epoch>,
    /// The one whose network is kept, from 1; 0 before the first.
    pub kept: usize,
}

impl History {
    fn kept_loss(&self) -> f32 {
        let kept = self.epochs.iter().find(|epoch| epoch.epoch == self.kept);
        kept.map_or(f32::INFINITY, |epoch| epoch.validation_loss)
    }
}

/// What is to be learnt, and from what.
pub struct Task<'a> {
    /// The network; mean and std of its input included.
    pub spec: &'a ModelSpec,
    /// How.
    pub config: &'a TrainConfig,
    /// What it learns from.
    pub training: &'a [&'a Film],
    /// What says when to stop.
    pub validation: &'a [&'a Film],
    /// Where checkpoints go.
    pub folder: &'a Path,
}

/// What has just been done.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// A step of an epoch.
    Step {
        /// The epoch, from 1.
        epoch: usize,
        /// The step in it, from 1.
        step: usize,
        /// Steps in an epoch.
        steps: usize,
        /// Its loss.
        loss: f32,
    },
    /// An epoch, which is on disk.
    Epoch(&'a History),
}

/// Told after each step and epoch; may end the run, which then goes on another
/// time.
pub type Observer<'a> = &'a mut (dyn FnMut(Progress<'_>) -> ControlFlow<()> + Send);

/// Trains; goes on from the checkpoint in the task's folder, if there is one.
/// Gives the network of the epoch that is kept.
///
/// # Errors
/// If the data are not enough, the loss is not finite, the checkpoint belongs to
/// something else, a file cannot be written, or the observer ended the run.
pub fn fit(task: &Task<'_>, observer: Observer<'_>) -> Result<(Network, History), TrainError> {
    let classes = task.spec.classes.len();
    let weights = class_weights(task.training, classes)?;
    let input = &task.spec.input;
    for film in task.training.iter().chain(task.validation) {
        if film.starts(input.frames).is_empty() {
            return Err(TrainError::TooShort {
                path: film.path.clone(),
                frames: film.len(),
                needed: input.frames,
            });
        }
    }
    if task.validation.is_empty() {
        return Err(TrainError::NoValidation);
    }
    fs::create_dir_all(task.folder).map_err(|error| TrainError::Write {
        path: task.folder.to_owned(),
        error,
    })?;
    let network = Network::new(task.spec, task.config.seed)?;
    let optimiser = Optimiser::new(task.config.rule, task.config.decay, &network);
    let mut run = Checkpoint {
        state: State {
            model: toml::to_string(task.spec)?,
            config: task.config.clone(),
            films: digest(task.training.iter().chain(task.validation).copied()),
            steps: 0,
            history: History::default(),
        },
        kept: network.parameters().to_vec(),
        network,
        optimiser,
    };
    Checkpoint::resume(&mut run, task.folder)?;
    let steps = steps_an_epoch(task);
    while !is_over(&run.state.history, task.config) {
        let epoch = run.state.history.epochs.len() + 1;
        let loss = one_epoch(task, &weights, &mut run, epoch, observer)?;
        let (validation_loss, validation_auc) = validate(&run.network, task.validation, &weights);
        if !validation_loss.is_finite() {
            return Err(TrainError::NotFinite { epoch, step: steps });
        }
        let history = &mut run.state.history;
        if task.config.keep == Keep::Last || validation_loss < history.kept_loss() {
            history.kept = epoch;
            run.kept = run.network.parameters().to_vec();
        }
        let total = (task.config.epochs * steps) as u64;
        history.epochs.push(Epoch {
            epoch,
            loss,
            validation_loss,
            validation_auc,
            rate: scheduled(task.config.rate, run.optimiser.steps, total),
        });
        run.state.steps = run.optimiser.steps;
        run.save(task.folder)?;
        if observer(Progress::Epoch(&run.state.history)).is_break() {
            return Err(TrainError::Stopped);
        }
    }
    let mut network = run.network;
    network.parameters_mut().clone_from_slice(&run.kept);
    Ok((network, run.state.history))
}

/// Whether nothing is left to do.
fn is_over(history: &History, config: &TrainConfig) -> bool {
    let done = history.epochs.len();
    done >= config.epochs || (done > 0 && done - history.kept >= config.patience)
}

fn steps_an_epoch(task: &Task<'_>) -> usize {
    let clips = task.training.len() * task.config.clips;
    (clips / task.config.batch).max(1)
}

/// Takes the steps of an epoch; the mean of their losses.
fn one_epoch(
    task: &Task<'_>,
    weights: &[f32],
    run: &mut Checkpoint,
    epoch: usize,
    observer: &mut (dyn FnMut(Progress<'_>) -> ControlFlow<()> + Send),
) -> Result<f32, TrainError> {
    let config = task.config;
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    rng.set_stream(epoch as u64);
    let mut order: Vec<&Film> = Vec::with_capacity(task.training.len() * config.clips);
    for _ in 0..config.clips {
        order.extend(task.training);
    }
    order.shuffle(&mut rng);
    let steps = steps_an_epoch(task);
    let total = (config.epochs * steps) as u64;
    let mut sum = 0.0;
    // What does not fill a batch waits for another epoch: another order.
    let batches = order.chunks(config.batch.min(order.len())).take(steps);
    for (index, films) in batches.enumerate() {
        let batch = batch_of(films, &task.spec.input, |film| {
            let frames = task.spec.input.frames;
            Change::draw(film, frames, &config.augmentation, &mut rng)
        });
        let (loss, gradients) = run.network.gradients(&batch, weights);
        let sound = gradients.iter().flatten().all(|value| value.is_finite());
        if !loss.is_finite() || !sound {
            let step = index + 1;
            return Err(TrainError::NotFinite { epoch, step });
        }
        let rate = scheduled(config.rate, run.optimiser.steps, total);
        run.optimiser.step(&mut run.network, &gradients, rate);
        sum += f64::from(loss);
        let progress = Progress::Step {
            epoch,
            step: index + 1,
            steps,
            loss,
        };
        if observer(progress).is_break() {
            return Err(TrainError::Stopped);
        }
    }
    Ok((sum / steps as f64) as f32)
}

fn batch_of(
    films: &[&Film],
    input: &InputSpec,
    mut change: impl FnMut(&Film) -> Option<Change>,
) -> Batch {
    let mut batch = Batch {
        clips: Vec::new(),
        labels: Vec::new(),
    };
    for film in films {
        if let Some(change) = change(film) {
            change.append(film, input, &mut batch.clips);
            batch.labels.push(film.class);
        }
    }
    batch
}

/// The weighted loss of films in evaluation, each the mean of some windows, and
/// their AUC.
fn validate(network: &Network, films: &[&Film], weights: &[f32]) -> (f32, Option<f32>) {
    let input = &network.spec().input;
    let is_case = |class: usize| network.spec().classes[class].lowest >= Stage::F2;
    let (mut sum, mut total) = (0.0, 0.0);
    let mut scored = Vec::new();
    for film in films {
        let starts = film.starts(input.frames);
        let apart = (input.frames / 4).max(1);
        let count = WINDOWS.min(starts.len().div_ceil(apart));
        let spread = |number: usize| starts[number * (starts.len() - 1) / (count.max(2) - 1)];
        let places: Vec<_> = (0..count).map(spread).collect();
        let weight = f64::from(weights[film.class]);
        let mut score = 0.0;
        for p in network.probabilities(film, &places) {
            sum -= weight * p[film.class].max(f64::MIN_POSITIVE).ln() / count as f64;
            let severe = p.iter().enumerate().filter(|(class, _)| is_case(*class));
            score += severe.map(|(_, p)| p).sum::<f64>() / count as f64;
        }
        total += weight;
        scored.push((score, is_case(film.class)));
    }
    let auc = auc(&scored).map(|auc| auc as f32);
    ((sum / total) as f32, auc)
}

/// So that every class counts as much in all as any other: `n / (K n_k)`.
fn class_weights(films: &[&Film], classes: usize) -> Result<Vec<f32>, TrainError> {
    let mut counts = vec![0_usize; classes];
    for film in films {
        counts[film.class] += 1;
    }
    let missing = counts.iter().position(|count| *count == 0);
    if let Some(class) = missing {
        return Err(TrainError::NoExample { class });
    }
    let weight = |count: &usize| films.len() as f32 / (classes * count) as f32;
    Ok(counts.iter().map(weight).collect())
}
