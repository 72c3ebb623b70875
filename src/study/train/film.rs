//! Recordings in memory, as a network sees them: grey, cropped, resized, a byte a
//! pixel. Read once through ingest, exactly as a running pipeline reads them, and
//! then cut into clips as often as training likes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::TrainError;
use crate::domain::{Clip, ContentHash, Crop, EventTime, Frame, FrameSize, PatientId, StreamId};
use crate::ingest::sandbox::Sandbox;
use crate::ingest::{Arrival, IngestError, Look, Media, SourceRequest, Stream, USUAL_INTERVAL};
use crate::metrics::Metrics;

/// A recording to read.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Whose it is.
    pub patient: PatientId,
    /// Where it is, within the cohort's directory.
    pub path: PathBuf,
    /// The class that it is an example of.
    pub class: usize,
}

/// How recordings are read.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The part of the picture that is used; a DICOM header's region, or all of
    /// it, without.
    pub crop: Option<Crop>,
    /// What it is resized to.
    pub size: FrameSize,
    /// The time from one frame to the next that faster recordings are thinned to;
    /// every frame counts without.
    pub pace: Option<Duration>,
    /// Bytes that all films together may take.
    pub memory: u64,
}

/// Frames that follow each other without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// Its first frame's place in the film.
    begin: usize,
    length: usize,
}

/// One recording.
#[derive(Clone, Debug)]
pub struct Film {
    /// Whose it is.
    pub patient: PatientId,
    /// Where it came from, within the cohort's directory.
    pub path: PathBuf,
    /// The class that it is an example of.
    pub class: usize,
    area: usize,
    /// `[T, H, W]`.
    pixels: Vec<u8>,
    /// Each frame's number in the recording.
    numbers: Vec<u64>,
    runs: Vec<Run>,
}

impl Film {
    /// A film of `pixels`, `[T, H, W]` with `area` a frame, in runs of `lengths`.
    pub fn new(
        patient: PatientId,
        path: PathBuf,
        class: usize,
        area: usize,
        pixels: Vec<u8>,
        lengths: Vec<usize>,
    ) -> Self {
        let mut begin = 0;
        let runs = lengths.into_iter().map(|length| {
            begin += length;
            Run {
                begin: begin - length,
                length,
            }
        });
        let runs = runs.collect();
        Self {
            patient,
            path,
            class,
            area,
            pixels,
            numbers: (0..begin as u64).collect(),
            runs,
        }
    }

    /// Frames in all.
    pub fn len(&self) -> usize {
        self.pixels.len() / self.area.max(1)
    }

    /// Whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.pixels.is_empty()
    }

    /// Grey levels of one frame, `[H, W]`.
    pub fn frame(&self, place: usize) -> &[u8] {
        &self.pixels[place * self.area..][..self.area]
    }

    /// Where clips of `length` frames may begin, rising: none spans a gap.
    pub fn starts(&self, length: usize) -> Vec<usize> {
        let within = |run: &Run| run.begin..(run.begin + run.length + 1).saturating_sub(length);
        self.runs.iter().flat_map(within).collect()
    }

    /// Windows as a pipeline cuts them, `stride` frames apart from the beginning
    /// of each run: places in the film.
    pub fn windows(&self, length: usize, stride: usize) -> Vec<usize> {
        let within = |run: &Run| {
            let end = (run.begin + run.length + 1).saturating_sub(length);
            (run.begin..end).step_by(stride)
        };
        self.runs.iter().flat_map(within).collect()
    }

    /// The window of `length` frames at a place, as the engine takes it.
    pub fn clip(&self, place: usize, length: usize) -> Clip {
        let frame = |place: usize| Frame {
            index: self.numbers[place],
            // Nothing here depends on time.
            time: EventTime::from_nanos(0),
            arrived: Instant::now(),
            discontinuity: false,
            skipped: 0,
            pixels: self.frame(place).into(),
        };
        Clip {
            stream: StreamId(0),
            frames: (place..place + length).map(frame).collect(),
        }
    }

    fn push(&mut self, frame: &Frame) {
        let place = self.len();
        match (self.runs.last_mut(), self.numbers.last()) {
            (Some(run), Some(&last)) if frame.follows(last) => run.length += 1,
            _ => self.runs.push(Run {
                begin: place,
                length: 1,
            }),
        }
        self.numbers.push(frame.index);
        self.pixels.extend_from_slice(&frame.pixels);
    }
}

/// What identifies films, in their order: pixels, gaps and classes.
pub(super) fn digest<'a>(films: impl Iterator<Item = &'a Film>) -> ContentHash {
    let mut digest = Sha256::new();
    for film in films {
        digest.update((film.pixels.len() as u64).to_le_bytes());
        digest.update((film.class as u64).to_le_bytes());
        for run in &film.runs {
            digest.update((run.begin as u64).to_le_bytes());
        }
        digest.update(&film.pixels);
    }
    ContentHash::from_digest(digest)
}

/// Mean and standard deviation of all pixels, as shares of white.
pub fn brightness<'a>(films: impl Iterator<Item = &'a Film>) -> (f32, f32) {
    let mut counts = [0_u64; 256];
    for film in films {
        for pixel in &film.pixels {
            counts[usize::from(*pixel)] += 1;
        }
    }
    let total = counts.iter().sum::<u64>().max(1) as f64;
    let moment = |power: i32| {
        let terms = counts.iter().enumerate();
        terms
            .map(|(grey, count)| (grey as f64 / 255.0).powi(power) * *count as f64)
            .sum::<f64>()
            / total
    };
    let (mean, square) = (moment(1), moment(2));
    let std = (square - mean * mean).max(0.0).sqrt();
    (mean as f32, if std > 0.0 { std as f32 } else { 1.0 })
}

/// Reads recordings of the cohort in `directory`, several at once; `done` is
/// called after each, from any thread. One that cannot be read is an error.
///
/// # Errors
/// If a recording cannot be read, or together they are larger than allowed.
pub fn read(
    directory: &Path,
    recordings: &[Recorded],
    how: &Reading,
    sandbox: &Sandbox,
    done: &(dyn Fn() + Sync),
) -> Result<Vec<Film>, TrainError> {
    let taken = AtomicU64::new(0);
    let one = |recorded: &Recorded| {
        let film = read_one(directory, recorded, how, sandbox, &taken)?;
        done();
        Ok(film)
    };
    recordings.par_iter().map(one).collect()
}

fn read_one(
    directory: &Path,
    recorded: &Recorded,
    how: &Reading,
    sandbox: &Sandbox,
    taken: &AtomicU64,
) -> Result<Film, TrainError> {
    let path = directory.join(&recorded.path);
    let request = SourceRequest {
        name: "training".into(),
        media: Media::File(path.clone()),
        patient: Some(recorded.patient.clone()),
        crop: how.crop,
        look: Look::PLAIN,
        size: how.size,
        queue: 8,
        live: false,
        reconnect: None,
        first_frame_timeout: Duration::from_mins(1),
        // Of pictures that do not say it.
        frame_interval: Some(USUAL_INTERVAL),
        pace: how.pace,
    };
    let unreadable = |error: IngestError| TrainError::Recording {
        path: path.clone(),
        error: Box::new(error),
    };
    let reader = thread::current();
    let wake = Arc::new(move || reader.unpark());
    let metrics = Metrics::new().map_err(|error| TrainError::Metrics(error.to_string()))?;
    let stream = Stream::open_in(sandbox.clone(), request, wake, metrics.source("training"));
    let mut film = Film::new(
        recorded.patient.clone(),
        recorded.path.clone(),
        recorded.class,
        how.size.area(),
        Vec::new(),
        Vec::new(),
    );
    loop {
        match stream.try_next() {
            None => thread::park(),
            Some(Arrival::Opened(_)) => {}
            Some(Arrival::Frame(frame)) => {
                let size = how.size.area() as u64;
                if taken.fetch_add(size, Ordering::Relaxed) + size > how.memory {
                    return Err(TrainError::TooLarge { limit: how.memory });
                }
                film.push(&frame);
            }
            Some(Arrival::Ended(Ok(()))) if film.is_empty() => {
                return Err(TrainError::NoPicture { path });
            }
            Some(Arrival::Ended(Ok(()))) => return Ok(film),
            Some(Arrival::Ended(Err(error))) => return Err(unreadable(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clips_and_windows_begin_where_no_gap_is_spanned() {
        let film = Film::new(
            PatientId::new("P"),
            "a".into(),
            0,
            1,
            vec![0; 9],
            vec![5, 1, 3],
        );
        assert_eq!(film.starts(3), [0, 1, 2, 6]);
        assert_eq!(film.windows(3, 2), [0, 2, 6]);
        assert_eq!(film.starts(6), [0; 0]);
    }

    #[test]
    fn brightness_is_that_of_all_pixels() {
        let dark = Film::new(PatientId::new("P"), "a".into(), 0, 1, vec![0, 0], vec![2]);
        let light = Film::new(
            PatientId::new("Q"),
            "b".into(),
            0,
            1,
            vec![255, 255],
            vec![2],
        );
        let (mean, std) = brightness([&dark, &light].into_iter());
        assert!((mean - 0.5).abs() < 1e-6 && (std - 0.5).abs() < 1e-6);
    }
}
