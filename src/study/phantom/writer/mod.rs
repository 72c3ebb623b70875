//! Recordings as files: MP4 (H.264), AVI (MJPEG) and DICOM cine (JPEG).
//!
//! The same recording gives the same bytes: the encoder runs on one thread, and
//! what a container stores of the clock is taken out again. A file appears
//! under its name only when it is complete.

mod clockless;
mod dicom;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{Pixels, Recording, RecordingSpec};
use crate::study::video::{EncodeError, Encoder, Format};

/// What went wrong while a recording or a cohort was written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory holds something that would be overwritten.
    #[error("`{}` is not empty: choose another directory, or overwrite the cohort in it with --force", .0.display())]
    NotEmpty(PathBuf),
    /// The specification makes no sense.
    #[error("{0}")]
    Specification(String),
    /// A file or directory could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A table could not be written.
    #[error("cannot write `{}`", path.display())]
    Table {
        /// Which.
        path: PathBuf,
        /// Why.
        source: csv::Error,
    },
    /// GStreamer refused or failed.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The DICOM object could not be put together or written.
    #[error("cannot write the DICOM object `{}`: {message}", path.display())]
    Dicom {
        /// The file in the making.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// The worker threads could not be started.
    #[error("cannot start the worker threads")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// The path's extension names no format.
    #[error("`{}` ends in none of .mp4, .avi and .dcm", .0.display())]
    Extension(PathBuf),
}

/// The format of a recording's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Container {
    /// H.264 in MP4.
    Mp4,
    /// Motion JPEG in AVI.
    Avi,
    /// US Multi-frame Image, JPEG Baseline.
    Dicom,
}

impl Container {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mp4, Self::Avi, Self::Dicom];

    /// The extension of its files.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4",
            Self::Avi => "avi",
            Self::Dicom => "dcm",
        }
    }
}

/// A word that names no container.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no format: expected mp4, avi or dicom")]
pub struct ParseContainerError(String);

impl FromStr for Container {
    type Err = ParseContainerError;

    fn from_str(text: &str) -> Result<Self, ParseContainerError> {
        match text {
            "mp4" => Ok(Self::Mp4),
            "avi" => Ok(Self::Avi),
            "dicom" | "dcm" => Ok(Self::Dicom),
            other => Err(ParseContainerError(other.to_owned())),
        }
    }
}

/// Makes the recording of `spec` and writes it to `path`, whose extension
/// (`.mp4`, `.avi`, `.dcm`) names the format. An existing file is replaced.
///
/// # Errors
///
/// When the specification is impossible, an encoder is missing or fails, or
/// the file cannot be written; then there is no file under that name.
///
/// ```no_run
/// use hepaflow::study::phantom::{RecordingSpec, record};
/// let spec = RecordingSpec { seconds: Some(2.0), ..RecordingSpec::new(7, 1) };
/// record(&spec, "phantom.mp4".as_ref())?;
/// # Ok::<(), hepaflow::study::phantom::Error>(())
/// ```
pub fn record(spec: &RecordingSpec, path: &Path) -> Result<(), Error> {
    let container = Container::ALL
        .into_iter()
        .find(|container| path.extension().is_some_and(|e| e == container.extension()))
        .ok_or_else(|| Error::Extension(path.to_owned()))?;
    check(spec)?;
    write_recording(&Recording::new(spec), container, path, &|| {})
}

/// Refuses what cannot be encoded or would take the memory of the machine.
pub(super) fn check(spec: &RecordingSpec) -> Result<(), Error> {
    let refuse = |message: String| Err(Error::Specification(message));
    if let Some(size) = spec.frame_size {
        let side = 64..=4096;
        if !side.contains(&size.width) || !side.contains(&size.height) {
            return refuse(format!(
                "a frame of {}x{}: each side must have 64 to 4096 pixels",
                size.width, size.height
            ));
        }
        if size.width % 2 == 1 || size.height % 2 == 1 {
            return refuse(format!(
                "a frame of {}x{}: both sides must be even, as video encoders ask",
                size.width, size.height
            ));
        }
    }
    if let Some(seconds) = spec.seconds
        && !(0.1..=600.0).contains(&seconds)
    {
        return refuse(format!("recordings of {seconds} s: expected 0.1 to 600"));
    }
    if let Some(seconds) = spec.sweep_seconds
        && !(0.1..=600.0).contains(&seconds)
    {
        return refuse(format!("sweeps of {seconds} s: expected 0.1 to 600"));
    }
    if let Some(rate) = spec.frames_per_second
        && !(1..=240).contains(&rate)
    {
        return refuse(format!("{rate} frames a second: expected 1 to 240"));
    }
    if !(0.0..=1.0).contains(&spec.episode_rate) {
        return refuse(format!(
            "an episode rate of {}: expected a probability",
            spec.episode_rate
        ));
    }
    if !(1..=10_000_000).contains(&spec.scatterers) {
        return refuse(format!(
            "{} scatterers: expected 1 to 10,000,000",
            spec.scatterers
        ));
    }
    if spec.patient == 0 || spec.clip >= 1 << 15 {
        return refuse("patients count from 1, clips from 0 to 32767".to_owned());
    }
    Ok(())
}

/// Writes `recording` to `path`, calling `painted` after each frame.
///
/// # Errors
///
/// As [`record`].
pub fn write_recording(
    recording: &Recording,
    container: Container,
    path: &Path,
    painted: &dyn Fn(),
) -> Result<(), Error> {
    let partial = path.with_extension(format!("{}.partial", container.extension()));
    let written = match container {
        Container::Mp4 | Container::Avi => write_video(recording, container, &partial, painted),
        Container::Dicom => dicom::write(recording, &partial, painted),
    };
    let written = written.and_then(|()| {
        fs::rename(&partial, path).map_err(|source| Error::Write {
            path: path.to_owned(),
            source,
        })
    });
    if written.is_err() {
        // Nothing to be done if this fails too: the first error is the one to tell.
        let _ = fs::remove_file(&partial);
    }
    written
}

fn format(recording: &Recording) -> Format {
    Format {
        size: recording.scan().size,
        pixels: if recording.is_colour() {
            Pixels::Rgb
        } else {
            Pixels::Grey
        },
        frames_per_second: recording.scan().frames_per_second,
    }
}

fn write_video(
    recording: &Recording,
    container: Container,
    path: &Path,
    painted: &dyn Fn(),
) -> Result<(), Error> {
    let mut encoder = match container {
        Container::Mp4 => Encoder::to_mp4(format(recording), path)?,
        Container::Avi | Container::Dicom => Encoder::to_avi(format(recording), path)?,
    };
    let mut painter = recording.painter();
    for frame in 0..recording.scan().frames {
        encoder.push(painter.paint(frame))?;
        painted();
    }
    encoder.finish()?;
    if container == Container::Mp4 {
        clockless::forget(path).map_err(|source| Error::Write {
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(())
}
