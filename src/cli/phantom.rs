//! `hepaflow phantom`: writes a synthetic cohort.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use super::BadInput;
use crate::domain::FrameSize;
use crate::study::phantom::cohort::{self, CohortSpec};
use crate::study::phantom::{Ablation, Container, Error, RecordingSpec};

/// Write a cohort of synthetic patients: a clinical table and ultrasound
/// recordings, made by a physical simulation.
///
/// Everything is SYNTHETIC. Only the coarseness of the echotexture, the
/// roughness of the liver's capsule and the clinical table depend on the stage.
/// The same seed and options give the same files, whatever the number of jobs.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  hepaflow phantom --out cohort
  hepaflow phantom --patients 4 --seconds 2 --frame-size 320x240 --format mp4 --out small
  hepaflow phantom --ablation ripple-off --out no-ripple")]
pub(super) struct Phantom {
    /// Directory to write; must be empty or not exist.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// How many patients.
    #[arg(long, default_value_t = 110)]
    patients: u32,

    /// Which cohort: each seed gives another one.
    #[arg(long, default_value_t = 7)]
    seed: u64,

    /// Recordings of each patient.
    #[arg(long, value_name = "N", default_value_t = 1)]
    clips_per_patient: u16,

    /// Length of each recording in seconds, or `auto` for 2 to 10.
    #[arg(long, default_value = "auto")]
    seconds: Auto<f32>,

    /// How long the probe's way across the liver takes, to and fro, in seconds, or `auto`
    /// for once in a recording.
    #[arg(long, value_name = "SECONDS", default_value = "auto")]
    sweep_seconds: Auto<f32>,

    /// Picture size in pixels, or `auto` for 800x600 to 1024x768.
    #[arg(long, value_name = "WIDTHxHEIGHT", default_value = "auto", value_parser = frame_size)]
    frame_size: Auto<FrameSize>,

    /// Frames a second, or `auto` for 20 to 60.
    #[arg(long, value_name = "RATE", default_value = "auto")]
    frames_per_second: Auto<u32>,

    /// File format of the recordings; `mixed` deals out all three in turn.
    #[arg(long, value_enum, default_value_t = Format::Mixed)]
    format: Format,

    /// What to take away, to see what a model lives on.
    #[arg(long, value_enum, default_value_t = Without::None)]
    ablation: Without,

    /// Share of recordings interrupted by a freeze, a Doppler box or a dual
    /// screen.
    #[arg(long, value_name = "SHARE", default_value_t = 0.2)]
    episodes: f32,

    /// Patients worked on at once [default: the cores of this machine].
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,

    /// Replace the cohort that is in the directory already.
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// H.264 in MP4.
    Mp4,
    /// Motion JPEG in AVI.
    Avi,
    /// DICOM cine, JPEG Baseline.
    Dicom,
    /// All three in turn.
    Mixed,
}

#[derive(Clone, Copy, ValueEnum)]
enum Without {
    /// Nothing.
    None,
    /// The probe-fixed ripple of the capsule line.
    RippleOff,
    /// The order of the frames.
    ShuffledFrames,
    /// All motion: one instant, with fresh noise in each frame.
    OneFrameRepeated,
}

/// A value, or the word `auto`: drawn for each recording.
#[derive(Clone, Copy)]
struct Auto<T>(Option<T>);

impl<T: FromStr> FromStr for Auto<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        match text {
            "auto" => Ok(Self(None)),
            value => value.parse().map(|value| Self(Some(value))),
        }
    }
}

fn frame_size(text: &str) -> Result<Auto<FrameSize>, String> {
    if text == "auto" {
        return Ok(Auto(None));
    }
    let sides = text.split_once('x').and_then(|(width, height)| {
        Some(FrameSize {
            width: width.parse().ok()?,
            height: height.parse().ok()?,
        })
    });
    match sides {
        Some(size) => Ok(Auto(Some(size))),
        None => Err("expected WIDTHxHEIGHT such as 800x600, or auto".to_owned()),
    }
}

pub(super) fn run(args: &Phantom) -> anyhow::Result<()> {
    let jobs = match args.jobs {
        Some(jobs) => jobs,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let spec = CohortSpec {
        patients: args.patients,
        clips_per_patient: args.clips_per_patient,
        containers: match args.format {
            Format::Mp4 => vec![Container::Mp4],
            Format::Avi => vec![Container::Avi],
            Format::Dicom => vec![Container::Dicom],
            Format::Mixed => Container::ALL.to_vec(),
        },
        jobs,
        overwrite: args.force,
        recording: RecordingSpec {
            frame_size: args.frame_size.0,
            seconds: args.seconds.0,
            sweep_seconds: args.sweep_seconds.0,
            frames_per_second: args.frames_per_second.0,
            ablation: match args.ablation {
                Without::None => Ablation::None,
                Without::RippleOff => Ablation::RippleOff,
                Without::ShuffledFrames => Ablation::ShuffledFrames,
                Without::OneFrameRepeated => Ablation::OneFrameRepeated,
            },
            episode_rate: args.episodes,
            ..RecordingSpec::new(args.seed, 1)
        },
    };
    let bar = ProgressBar::new(cohort::count_frames(&spec).map_err(sort)?);
    bar.set_style(ProgressStyle::with_template(
        "{wide_bar} {pos}/{len} frames  {per_sec}  {eta} left",
    )?);
    let frames = AtomicU64::new(0);
    cohort::write(&spec, &args.out, &|| {
        frames.fetch_add(1, Ordering::Relaxed);
        bar.inc(1);
    })
    .map_err(sort)?;
    bar.finish_and_clear();
    println!(
        "{} synthetic patients, {} recordings, {} frames: {}",
        spec.patients,
        spec.patients * u32::from(spec.clips_per_patient),
        frames.into_inner(),
        args.out.display()
    );
    Ok(())
}

/// Tells what the user can mend from what the machine did wrong.
fn sort(error: Error) -> anyhow::Error {
    match error {
        Error::NotEmpty(_) | Error::Specification(_) | Error::Extension(_) => {
            BadInput::new(error).into()
        }
        other => other.into(),
    }
}
