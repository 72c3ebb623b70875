//! `hepaflow study`: the whole protocol, and what it shares with `hepaflow train`.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::BadInput;
use super::results::print;
use super::train::positive;
use crate::config::IngestConfig;
use crate::domain::{ContentHash, Crop, FrameSize};
use crate::ingest::sandbox::Sandbox;
use crate::metrics::Metrics;
use crate::model::{pace, usual_classes};
use crate::study::cohort::Cohort;
use crate::study::evaluation::{Options, evaluate};
use crate::study::folder::StudyFolder;
use crate::study::predictions::Predictions;
use crate::study::protocol::{Event, Method, Point, Study, StudyConfig, StudyError, run as study};
use crate::study::report::{write_cards, write_report};
use crate::study::split::Split;
use crate::study::train::{Keep, TrainConfig};

/// Train, judge and compare the three kinds of network on a cohort, as the paper
/// does, in one go.
///
/// 1. Patients are split 77 : 16 : 17, stratified by stage: to learn from, to stop
///    by, to judge by.
/// 2. Each kind (single pictures, pictures with a memory, moving pictures) is
///    trained with every setting of a small grid on five folds of the training
///    patients; the setting that does best on the patients held out is kept.
/// 3. Its five fold-models score the test patients through the engine.
/// 4. On a cohort of `hepaflow phantom`, the test patients are recorded again
///    without ripple, without order and without motion; and the attention at the
///    liver's capsule is measured.
///
/// Every fold-model is a model directory with a model card; report.html shows it all.
/// Everything that is done is on disk: after an interruption, the same command
/// goes on where it stopped, in the middle of a training too.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  hepaflow phantom --out cohort --frame-size 640x480 --seconds 2.6 --frames-per-second 25
  hepaflow study --cohort cohort --crop 208,60,224,224 --out study
  hepaflow study --cohort cohort --rates 0.003 --epochs 10 --out quick

A cohort directory holds cohort.csv (patient_id, sex, age_years, ast_u_l, alt_u_l,
platelets_10e9_l, swe_kpa, stage), videos.csv (patient_id, path) and the recordings.")]
pub(super) struct StudyArgs {
    /// The cohort directory.
    #[arg(long, value_name = "DIR")]
    cohort: PathBuf,
    /// Where everything goes; an interrupted study goes on.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    pictures: Pictures,
    /// Frames from one scored window to the next.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = positive)]
    stride: usize,
    /// Channels of each block of the networks.
    #[arg(long, value_delimiter = ',', default_values_t = [8, 16, 32])]
    widths: Vec<usize>,
    /// Frames of a window of the network on moving pictures, which may see more at once
    /// [default: as many as the others].
    #[arg(long, value_name = "N", value_parser = positive)]
    frames_3d: Option<usize>,
    /// Frames that its first convolution takes together, and goes on by: what moves
    /// slowly shows over a longer time [default: 1].
    #[arg(long, value_name = "N", value_parser = positive)]
    stem_frames: Option<usize>,
    /// How many classes: 2 for significant fibrosis or not, 5 for METAVIR.
    #[arg(long, default_value_t = 2)]
    classes: usize,
    /// The grid: largest steps that are tried.
    #[arg(long, value_delimiter = ',', default_values_t = [0.001, 0.004])]
    rates: Vec<f32>,
    /// Weight decay.
    #[arg(long, default_value_t = 0.05)]
    decay: f32,
    /// At most so many epochs.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = positive)]
    epochs: usize,
    /// End a training after so many epochs without a better one.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = positive)]
    patience: usize,
    /// Which epoch of a training becomes the fold's model.
    #[arg(long, value_enum, default_value = "best")]
    keep: Keep,
    /// Clips in a step.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = positive)]
    batch: usize,
    /// Clips cut out of each recording in an epoch.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive)]
    clips: usize,
    /// What chance begins with.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Deal out the stages among the patients by chance first: every method must then
    /// score an AUC of about 0.5, or it has seen what it is judged by.
    #[arg(long)]
    random_labels: bool,
    /// Trainings side by side, a thread each [default: the cores of this machine].
    #[arg(long, value_name = "N", value_parser = positive)]
    jobs: Option<usize>,
}

/// What networks see of a recording.
#[derive(Args)]
pub(super) struct Pictures {
    /// Frames of a window.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = positive)]
    pub(super) frames: usize,
    /// Rows and columns that pictures are resized to.
    #[arg(long, value_name = "ROWSxCOLUMNS", default_value = "64x64", value_parser = size)]
    pub(super) size: FrameSize,
    /// The part of the pictures to use, in pixels: left, top, width, height
    /// [default: a DICOM header's region, or all].
    #[arg(long, value_name = "X,Y,W,H", value_parser = crop)]
    pub(super) crop: Option<Crop>,
    /// Thin faster recordings to so many frames a second. The model then has whoever
    /// runs it thin faster sources likewise [default: every frame counts].
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(super) frames_per_second: Option<f32>,
    /// MiB that all recordings together may take in memory.
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory: u64,
}

impl Pictures {
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory << 20
    }

    /// The time from one frame to the next that faster recordings are thinned to.
    pub(super) fn pace(&self) -> Option<Duration> {
        self.frames_per_second.map(pace)
    }
}

fn rate(text: &str) -> Result<f32, String> {
    let rate = text.parse().ok();
    rate.filter(|rate| (1.0..=1000.0).contains(rate))
        .ok_or_else(|| "expected frames a second from 1 to 1000, such as 25 or 29.97".to_owned())
}

fn size(text: &str) -> Result<FrameSize, String> {
    let sides = text.split_once('x');
    let sides = sides.and_then(|(rows, columns)| Some((rows.parse().ok()?, columns.parse().ok()?)));
    match sides {
        Some((height, width)) if (8..=1024).contains(&height) && (8..=1024).contains(&width) => {
            Ok(FrameSize { height, width })
        }
        _ => Err("expected ROWSxCOLUMNS from 8 to 1024, such as 64x64".to_owned()),
    }
}

fn crop(text: &str) -> Result<Crop, String> {
    let numbers: Result<Vec<u32>, _> = text.split(',').map(str::parse).collect();
    match numbers.as_deref() {
        Ok(&[x, y, width, height]) if width > 0 && height > 0 => Ok(Crop {
            x,
            y,
            width,
            height,
        }),
        _ => Err("expected left, top, width and height, such as 208,60,224,224".to_owned()),
    }
}

/// What reads files from outside.
pub(super) fn sandbox() -> anyhow::Result<Sandbox> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    Ok(Sandbox::new(program, IngestConfig::default().worker_memory))
}

pub(super) fn run(args: &StudyArgs) -> anyhow::Result<()> {
    let classes = usual_classes(args.classes)
        .filter(|_| matches!(args.classes, 2 | 5))
        .ok_or_else(|| BadInput(anyhow!("--classes {}: expected 2 or 5", args.classes)))?;
    let moving = args.frames_3d.unwrap_or(args.pictures.frames);
    let frames = args.pictures.frames.max(moving);
    let mut cohort = checked(&args.cohort, frames, args.pictures.pace())?;
    if args.random_labels {
        cohort.shuffle_stages(args.seed);
    }
    let grid = args.rates.iter().map(|&rate| Point {
        rate,
        decay: args.decay,
    });
    let config = StudyConfig {
        cohort: tables(args)?,
        synthetic: cohort.is_synthetic,
        methods: Method::three(&args.widths, args.pictures.frames, moving, args.stem_frames),
        grid: grid.collect(),
        train: TrainConfig {
            batch: args.batch,
            clips: args.clips,
            epochs: args.epochs,
            patience: args.patience,
            keep: args.keep,
            ..TrainConfig::default()
        },
        classes,
        frames,
        stride: args.stride,
        crop: args.pictures.crop,
        size: args.pictures.size,
        frames_per_second: args.pictures.frames_per_second,
        seed: args.seed,
        has_random_labels: args.random_labels,
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let progress = Progress::new();
    study(&Study {
        config: &config,
        cohort: &cohort,
        directory: &args.cohort,
        out: &args.out,
        jobs: args.jobs.unwrap_or(cores),
        memory: args.pictures.memory_bytes(),
        sandbox: &sandbox()?,
        show: &|event| progress.show(event),
    })
    .map_err(sort)?;
    progress.finish();
    conclude(args, &cohort)
}

/// Reads a cohort and opens each of its recordings, with a progress bar; those that
/// cannot be used are left out, and said so.
pub(super) fn checked(
    directory: &Path,
    frames: usize,
    pace: Option<Duration>,
) -> anyhow::Result<Cohort> {
    let mut cohort = Cohort::load(directory).map_err(BadInput::new)?;
    let bar = ProgressBar::new(cohort.flow.videos as u64);
    bar.set_style(ProgressStyle::with_template(
        "checking   {wide_bar} {pos}/{len} recordings  {eta} left",
    )?);
    let metrics = Metrics::new()?.source("cohort");
    let checked = cohort.check_videos(frames, pace, &sandbox()?, &metrics, &|| bar.inc(1));
    bar.finish_and_clear();
    checked.map_err(BadInput::new)?;
    for video in &cohort.flow.unusable_videos {
        eprintln!(
            "videos.csv, line {}: left out: {}",
            video.line, video.reason
        );
    }
    Ok(cohort)
}

/// Tells what the user can mend from what the machine did wrong.
fn sort(error: StudyError) -> anyhow::Error {
    match error {
        StudyError::Write { .. } | StudyError::Threads(_) | StudyError::Heat(_) => error.into(),
        other => BadInput::new(other).into(),
    }
}

/// Identity of the cohort's tables.
fn tables(args: &StudyArgs) -> anyhow::Result<ContentHash> {
    let mut bytes = Vec::new();
    for name in ["cohort.csv", "videos.csv"] {
        let file = args.cohort.join(name);
        let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()));
        bytes.extend(text.map_err(BadInput)?);
        bytes.push(0);
    }
    Ok(ContentHash::of(&bytes))
}

/// How far a study is: a bar on a terminal, a line now and then elsewhere.
struct Progress {
    bar: Mutex<ProgressBar>,
    lines: Mutex<Instant>,
    begin: Instant,
}

const PLAIN_LINE: Duration = Duration::from_secs(10);

impl Progress {
    fn new() -> Self {
        Self {
            bar: Mutex::new(ProgressBar::hidden()),
            lines: Mutex::new(Instant::now()),
            begin: Instant::now(),
        }
    }

    fn show(&self, event: Event) {
        let mut bar = self
            .bar
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let terminal = io::stderr().is_terminal();
        match event {
            Event::Phase { name, units, total } => {
                bar.finish_and_clear();
                *bar = if terminal {
                    ProgressBar::new(total)
                } else {
                    ProgressBar::hidden()
                };
                bar.set_length(total);
                let style = "{prefix:10} {wide_bar} {pos}/{len} {msg}  {eta} left";
                if let Ok(style) = ProgressStyle::with_template(style) {
                    bar.set_style(style);
                }
                bar.set_prefix(name);
                bar.set_message(units);
                if !terminal {
                    eprintln!("{name}: {total} {units}");
                }
            }
            Event::Advance(by) => {
                bar.inc(by);
                let mut last = self
                    .lines
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                if !terminal && last.elapsed() > PLAIN_LINE {
                    *last = Instant::now();
                    eprintln!(
                        "{}: {}/{} {}, {} left, {} s in all",
                        bar.prefix(),
                        bar.position(),
                        bar.length().unwrap_or_default(),
                        bar.message(),
                        humantime::format_duration(Duration::from_secs(bar.eta().as_secs())),
                        self.begin.elapsed().as_secs()
                    );
                }
            }
        }
    }

    fn finish(&self) {
        let bar = self
            .bar
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        bar.finish_and_clear();
    }
}

/// What the predictions amount to.
fn conclude(args: &StudyArgs, cohort: &Cohort) -> anyhow::Result<()> {
    let folder = StudyFolder::new(&args.out);
    let predictions = Predictions::load(&folder.predictions())?;
    let split = Split::load(&folder.split())?;
    let evaluation = evaluate(&predictions, cohort, Some(&split), Options::default())?;
    write_report(&folder, &evaluation)?;
    write_cards(&folder, &evaluation)?;
    print(&format!("written: {}\n", folder.report_html().display()))
}
