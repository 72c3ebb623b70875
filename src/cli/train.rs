//! `hepaflow train`: one network, from a cohort's recordings to a model directory.

use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::BadInput;
use super::results::print;
use super::study::{Pictures, checked, sandbox};
use crate::domain::{PatientId, StageRange};
use crate::model::{Architecture, InputSpec, Lstm, ModelSpec, usual_classes};
use crate::study::cohort::Cohort;
use crate::study::protocol::recordings;
use crate::study::split::Split;
use crate::study::train::{
    Augmentation, Film, Keep, Progress, Reading, Rule, Task, TrainConfig, brightness, curves, fit,
    publish, read, replace,
};

/// Train a network on a cohort's recordings, and write a model directory.
///
/// The patients are split as the study splits them: 77 of 110 to learn from, 16 to
/// say when to stop, 17 that this command never looks at. With --fold, one of the
/// five parts of those to learn from is held out as well. Recordings are read as a
/// pipeline reads them (grey, cropped, resized) and kept in memory, a byte a pixel.
///
/// After each epoch a checkpoint is written to --out. The same command goes on from
/// there after an interruption, and ends with the same weights. The best epoch on
/// the validation patients becomes the model, or with `--keep last` the last one;
/// `curves.svg` shows all of them. What the model makes of the validation patients
/// goes into its model.toml as well: a run measures drift against that.
///
/// The compact networks (fibro2d, `fibro2d_lstm`, fibro3d) learn well on a few
/// cores; the ResNets can be trained here too, but belong on a GPU: see
/// `scripts/train_torch.py`, whose weights `hepaflow model import` takes in.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  hepaflow phantom --out cohort --frame-size 640x480 --seconds 3 --frames-per-second 25
  hepaflow train --cohort cohort --architecture fibro3d --crop 208,60,224,224 --out model
  hepaflow train --cohort cohort --architecture fibro2d_lstm --fold 0 --out fold0")]
pub(super) struct TrainArgs {
    /// The cohort directory: cohort.csv, videos.csv and the recordings.
    #[arg(long, value_name = "DIR")]
    cohort: PathBuf,
    /// The network's kind.
    #[arg(long, value_enum)]
    architecture: Architecture,
    /// Model directory to write; an interrupted run's goes on.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A study's split.json [default: a new split, drawn with --seed].
    #[arg(long, value_name = "FILE")]
    split: Option<PathBuf>,
    /// Hold this fold out, from 0 [default: learn from all training patients].
    #[arg(long, value_name = "K")]
    fold: Option<usize>,
    /// How many classes: 2 for significant fibrosis or not, up to 5 for METAVIR.
    #[arg(long, default_value_t = 2)]
    classes: usize,
    /// Channels of each block.
    #[arg(long, value_delimiter = ',', default_values_t = [8, 16, 32])]
    widths: Vec<usize>,
    /// Frames that the first convolution of `fibro3d` takes together, and goes on by
    /// [default: 1].
    #[arg(long, value_name = "N", value_parser = positive)]
    stem_frames: Option<usize>,
    /// Features of the LSTM's state, for the kinds that have one.
    #[arg(long, value_name = "N", default_value_t = 32)]
    hidden: usize,
    #[command(flatten)]
    pictures: Pictures,
    /// Clips in a step.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = positive)]
    batch: usize,
    /// Clips cut out of each recording in an epoch.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive)]
    clips: usize,
    /// At most so many epochs.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = positive)]
    epochs: usize,
    /// End after so many epochs without a better one.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = positive)]
    patience: usize,
    /// Which epoch becomes the model.
    #[arg(long, value_enum, default_value = "best")]
    keep: Keep,
    /// How gradients change parameters.
    #[arg(long, value_enum, default_value = "adam")]
    optimiser: Rule,
    /// The largest step: it rises to this and falls along a cosine.
    #[arg(long, default_value_t = 3e-3)]
    rate: f32,
    /// Weight decay.
    #[arg(long, default_value_t = 0.05)]
    decay: f32,
    /// What chance begins with: the same gives the same weights.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Do not flip, turn, amplify or jitter the clips.
    #[arg(long)]
    plain: bool,
}

pub(super) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("expected a whole number of at least 1".to_owned()),
    }
}

pub(super) fn run(args: &TrainArgs) -> anyhow::Result<()> {
    if args.out.join("model.toml").exists() {
        let out = args.out.display();
        return Err(BadInput(anyhow!("{out} holds a model already: name a new directory")).into());
    }
    let classes = usual_classes(args.classes)
        .ok_or_else(|| BadInput(anyhow!("--classes {}: expected 2 to 5", args.classes)))?;
    let cohort = checked(&args.cohort, args.pictures.frames, args.pictures.pace())?;
    let stages = cohort.stages();
    let split = match &args.split {
        Some(file) => Split::load(file).and_then(|split| {
            split.check_against(&stages)?;
            Ok(split)
        }),
        None => Split::draw(&stages, args.seed),
    };
    let split = split.map_err(BadInput::new)?;
    let films = |patients: &[PatientId], what: &str| films(args, &cohort, &classes, patients, what);
    let training = films(&learnt_from(args, &split)?, "to learn from")?;
    let validation = films(&split.validation, "to stop by")?;

    let (mean, std) = brightness(training.iter());
    let size = args.pictures.size;
    let spec = ModelSpec {
        architecture: args.architecture,
        widths: args.widths.clone(),
        depths: None,
        stem_frames: args.stem_frames,
        lstm: args.architecture.has_lstm().then_some(Lstm {
            hidden: args.hidden,
            layers: 1,
        }),
        layers: Vec::new(),
        reference: None,
        classes,
        synthetic: cohort.is_synthetic,
        note: format!(
            "Made by `hepaflow train` from {} recordings. Not for clinical use.",
            training.len()
        ),
        input: InputSpec {
            channels: 1,
            frames: args.pictures.frames,
            frames_per_second: args.pictures.frames_per_second,
            height: size.height,
            width: size.width,
            mean: vec![mean],
            std: vec![std],
        },
    };
    let config = TrainConfig {
        rule: args.optimiser,
        rate: args.rate,
        decay: args.decay,
        batch: args.batch,
        clips: args.clips,
        epochs: args.epochs,
        patience: args.patience,
        keep: args.keep,
        seed: args.seed,
        augmentation: if args.plain {
            Augmentation::NONE
        } else {
            Augmentation::default()
        },
    };
    let task = Task {
        spec: &spec,
        config: &config,
        training: &training.iter().collect::<Vec<_>>(),
        validation: &validation.iter().collect::<Vec<_>>(),
        folder: &args.out,
    };
    let bar = ProgressBar::new(config.epochs as u64);
    bar.set_style(ProgressStyle::with_template(
        "{wide_bar} epoch {pos}/{len}  {msg}  {eta} left",
    )?);
    let mut seen = 0;
    let mut observer = |progress: Progress<'_>| {
        match progress {
            Progress::Step {
                step, steps, loss, ..
            } => bar.set_message(format!("step {step}/{steps}, loss {loss:.3}")),
            Progress::Epoch(history) => {
                if seen == 0 && history.epochs.len() > 1 {
                    bar.println(format!(
                        "going on behind epoch {}",
                        history.epochs.len() - 1
                    ));
                    bar.reset_eta();
                }
                seen = history.epochs.len();
                bar.set_position(seen as u64);
                if let Some(epoch) = history.epochs.last() {
                    let kept = if history.kept == epoch.epoch {
                        "  kept"
                    } else {
                        ""
                    };
                    let line = format!(
                        "epoch {:3}  loss {:.4}  validation {:.4}{kept}",
                        epoch.epoch, epoch.loss, epoch.validation_loss
                    );
                    if bar.is_hidden() {
                        eprintln!("{line}");
                    } else {
                        bar.println(line);
                    }
                }
            }
        }
        ControlFlow::Continue(())
    };
    let (network, history) = fit(&task, &mut observer).map_err(BadInput::new)?;
    bar.finish_and_clear();
    replace(&args.out.join("curves.svg"), curves(&history).as_bytes())?;
    let model = publish(&network, task.validation, &args.out)?;
    let kept = history.epochs.get(history.kept.saturating_sub(1));
    print(&format!(
        "{}: epoch {} of {}, validation loss {:.4}; {} written, model {}\n",
        args.architecture,
        history.kept,
        history.epochs.len(),
        kept.map_or(f32::NAN, |epoch| epoch.validation_loss),
        args.out.display(),
        model.hash().short()
    ))
}

/// Whom to learn from.
fn learnt_from(args: &TrainArgs, split: &Split) -> anyhow::Result<Vec<PatientId>> {
    let Some(fold) = args.fold else {
        return Ok(split.train.clone());
    };
    let count = split.folds.len();
    if fold >= count {
        let last = count - 1;
        return Err(BadInput(anyhow!("--fold {fold}: this split has folds 0 to {last}")).into());
    }
    Ok(split.training_of(fold).into_iter().cloned().collect())
}

/// Reads the recordings of some patients, with a progress bar.
fn films(
    args: &TrainArgs,
    cohort: &Cohort,
    classes: &[StageRange],
    patients: &[PatientId],
    what: &str,
) -> anyhow::Result<Vec<Film>> {
    let recordings = recordings(cohort, classes, &patients.iter().collect());
    let bar = ProgressBar::new(recordings.len() as u64);
    bar.set_style(ProgressStyle::with_template(
        "{wide_bar} {pos}/{len} recordings {msg}  {eta} left",
    )?);
    bar.set_message(what.to_owned());
    let how = Reading {
        crop: args.pictures.crop,
        size: args.pictures.size,
        pace: args.pictures.pace(),
        memory: args.pictures.memory_bytes(),
    };
    let films = read(&args.cohort, &recordings, &how, &sandbox()?, &|| bar.inc(1));
    bar.finish_and_clear();
    Ok(films.map_err(BadInput::new)?)
}
