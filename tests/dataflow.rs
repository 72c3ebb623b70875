//! The graph as a whole, with feeds and scorers that stand in for decoders and
//! engines, so that what should come out is known exactly.
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "dataflow/group.rs"]
mod group;
#[path = "support/wait.rs"]
mod wait;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, unbounded};
use hepaflow::dataflow::{
    Control, Facts, Feed, Job, Opening, Outcome, RunError, Scorer, WindowShape, run,
};
use hepaflow::domain::{
    Abstention, Clip, ClipPrediction, ContentHash, Crop, EventTime, Frame, FrameSize, ModelHash,
    PatientId, PatientResult, Probability,
};
use hepaflow::ingest::{Arrival, IngestError, Media, Origin, StreamHeader};
use hepaflow::metrics::Metrics;
use hepaflow::store::{Store, StoredModel};
use tempfile::TempDir;
use wait::wait_until;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_mins(1);

const SHAPE: WindowShape = WindowShape {
    length: 4,
    stride: 2,
    max_gap: None,
};

/// Whatever is put into the channel arrives, in order.
struct Channel(Receiver<Arrival>);

impl Feed for Channel {
    fn try_next(&self) -> Option<Arrival> {
        self.0.try_recv().ok()
    }
}

fn header(content: &str, patient: &str) -> Arrival {
    let picture = FrameSize {
        height: 1,
        width: 1,
    };
    Arrival::Opened(StreamHeader {
        content: ContentHash::of(content.as_bytes()),
        patient: PatientId::new(patient),
        study: None,
        instance: None,
        frame_interval: Some(Duration::from_millis(33)),
        picture,
        crop: Crop {
            x: 0,
            y: 0,
            width: 1,
            height: 1,
        },
    })
}

fn frame(index: u64, grey: u8) -> Arrival {
    Arrival::Frame(Frame {
        index,
        time: EventTime::from_nanos(index * 33_000_000),
        arrived: Instant::now(),
        discontinuity: false,
        skipped: 0,
        pixels: [grey].into(),
    })
}

/// A recorded stream: `content` decides the pixels.
#[derive(Clone, Debug)]
struct Film {
    content: &'static str,
    patient: &'static str,
    frames: u64,
}

fn grey(content: &str, index: u64) -> u8 {
    content.bytes().fold(index as u8, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte)
    })
}

impl Film {
    fn opening(&self, end: Result<(), IngestError>) -> Opening {
        let film = self.clone();
        Opening {
            source: "film".to_owned(),
            live: false,
            open: Box::new(move |wake, _| {
                let (sender, arrivals) = unbounded();
                // A thread, as a decoder would be: arrivals race with the graph.
                std::thread::spawn(move || {
                    let send = |arrival| {
                        sender.send(arrival).ok();
                        wake();
                    };
                    send(header(film.content, film.patient));
                    for index in 0..film.frames {
                        send(frame(index, grey(film.content, index)));
                    }
                    send(Arrival::Ended(end));
                });
                Box::new(Channel(arrivals))
            }),
        }
    }
}

/// P(second class) is the first pixel of the last frame, over 255.
struct LastPixel;

impl Scorer for LastPixel {
    fn score(&mut self, clips: &[Clip]) -> Result<Vec<Vec<f64>>, Box<dyn Error + Send + Sync>> {
        let row = |clip: &Clip| {
            let last =
                f64::from(clip.frames.last().expect("clips are not empty").pixels[0]) / 255.0;
            vec![1.0 - last, last]
        };
        Ok(clips.iter().map(row).collect())
    }
}

fn model() -> ModelHash {
    ModelHash::of(b"last pixel")
}

fn open_store(folder: &TempDir) -> Store {
    let mut store = Store::open(folder.path().join("results.sqlite")).unwrap();
    let classes = vec!["F0-F1".parse().unwrap(), "F2-F4".parse().unwrap()];
    let architecture = "last pixel".to_owned();
    store
        .register(&StoredModel {
            hash: model(),
            architecture,
            classes,
        })
        .unwrap();
    store
}

fn job(folder: &TempDir, openings: Vec<Opening>, workers: usize) -> Job {
    Job {
        openings,
        decoders: 3,
        window: SHAPE,
        model: model(),
        reference: None,
        scorers: vec![Box::new(LastPixel), Box::new(LastPixel)],
        beside: Vec::new(),
        workers,
        facts: Facts::new(open_store(folder)),
        store: open_store(folder),
        metrics: Metrics::new().unwrap(),
    }
}

fn run_films(folder: &TempDir, films: &[Film], workers: usize) -> Outcome {
    let openings = films.iter().map(|film| film.opening(Ok(()))).collect();
    run(job(folder, openings, workers), &Control::default()).unwrap()
}

fn films() -> Vec<Film> {
    let film = |content, patient, frames| Film {
        content,
        patient,
        frames,
    };
    vec![
        film("a", "P1", 21),
        film("b", "P1", 4),
        film("c", "P2", 57),
        film("too short", "P3", 3),
        film("d", "P4", 400),
        film("e", "P4", 9),
    ]
}

/// What the films' answers are, computed without a graph.
fn expected(films: &[Film]) -> Vec<PatientResult> {
    let mut rows: BTreeMap<&str, Vec<[i64; 2]>> = BTreeMap::new();
    for film in films {
        let (length, stride) = (SHAPE.length as u64, SHAPE.stride as u64);
        let starts = (0..film.frames).step_by(stride as usize);
        for start in starts.filter(|start| start + length <= film.frames) {
            let last = f64::from(grey(film.content, start + length - 1)) / 255.0;
            let row = [1.0 - last, last].map(|p| Probability::from_f64(p).unwrap().to_raw());
            rows.entry(film.patient).or_default().push(row);
        }
    }
    rows.into_iter()
        .map(|(patient, rows)| {
            let clips = rows.len() as i128;
            let means = [0, 1].map(|class| {
                let sum: i128 = rows.iter().map(|row| i128::from(row[class])).sum();
                (2 * sum + clips).div_euclid(2 * clips) as i64
            });
            // The milder class on a tie.
            let class = |row: &[i64; 2]| usize::from(row[1] > row[0]);
            let against = rows.iter().filter(|row| class(row) != class(&means));
            let dissent = against.count() as f64 / rows.len() as f64;
            let abstention = if rows.len() < 3 {
                Some(Abstention::ThinEvidence)
            } else {
                (dissent > 0.4).then_some(Abstention::ClipsDisagree)
            };
            PatientResult {
                patient: PatientId::new(patient),
                model: model(),
                current: true,
                clips: rows.len() as u64,
                left_out: 0,
                weight: 256 * rows.len() as u64,
                probabilities: means.map(Probability::from_raw).to_vec(),
                abstention,
            }
        })
        .collect()
}

fn stored(folder: &TempDir) -> (Vec<PatientResult>, Vec<ClipPrediction>) {
    let store = Store::open_existing(folder.path().join("results.sqlite")).unwrap();
    (
        store.patient_results().unwrap(),
        store.clip_predictions().unwrap(),
    )
}

#[test]
fn answers_are_the_same_in_any_order_and_for_any_number_of_workers() {
    let mut films = films();
    let expected = expected(&films);
    for workers in [1, 2, 3] {
        let folder = tempfile::tempdir().unwrap();
        let outcome = run_films(&folder, &films, workers);
        assert_eq!((outcome.streams, outcome.failures.len()), (6, 0));
        let (patients, clips) = stored(&folder);
        assert_eq!(patients, expected, "{workers} workers");
        assert_eq!(
            clips.len() as u64,
            expected.iter().map(|result| result.clips).sum::<u64>()
        );
        films.rotate_left(2);
    }
}

#[test]
fn a_second_run_adds_nothing_twice_and_counts_new_films_in() {
    let folder = tempfile::tempdir().unwrap();
    let films = films();
    run_films(&folder, &films[..3], 2);
    run_films(&folder, &films[2..], 2);
    assert_eq!(stored(&folder).0, expected(&films));
}

#[test]
fn the_same_bytes_twice_count_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut films = films();
    films.push(films[0].clone());
    let outcome = run_films(&folder, &films, 1);
    assert_eq!((outcome.streams, outcome.duplicates), (6, 1));
    assert_eq!(stored(&folder).0, expected(&films[..6]));
}

#[test]
fn a_run_stopped_anywhere_is_finished_by_the_next() {
    let films = films();
    for pause in [0, 1, 3, 9] {
        let folder = tempfile::tempdir().unwrap();
        let control = Control::default();
        let openings = films.iter().map(|film| film.opening(Ok(()))).collect();
        let job = job(&folder, openings, 2);
        let stopper = {
            let control = control.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(pause));
                control.stop();
            })
        };
        run(job, &control).unwrap();
        stopper.join().unwrap();
        run_films(&folder, &films, 2);
        assert_eq!(
            stored(&folder).0,
            expected(&films),
            "stopped after {pause} ms"
        );
    }
}

#[test]
fn a_stream_that_fails_is_reported_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let films = films();
    let origin = Origin {
        name: "film".to_owned(),
        media: Media::File("film".into()),
    };
    let broken = IngestError::NoFrames { origin };
    let mut openings: Vec<_> = films
        .iter()
        .skip(1)
        .map(|film| film.opening(Ok(())))
        .collect();
    openings.insert(0, films[0].opening(Err(broken)));
    let streams = openings.len() as u64;
    let job = job(&folder, openings, 2);
    let metrics = job.metrics.clone();
    let outcome = run(job, &Control::default()).unwrap();
    assert_eq!(outcome.failures.len(), 1);
    // It had opened before, and is over once.
    assert_eq!(metrics.streams_opened.get(), streams);
    assert_eq!(metrics.streams_ended.get(), streams);
    // What the broken stream gave before it broke still counts.
    assert_eq!(stored(&folder).0, expected(&films));
}

/// A live stream under the test's hand.
fn live(source: &str) -> (Opening, Receiver<(Sender<Arrival>, hepaflow::ingest::Wake)>) {
    let (handed, hand) = unbounded();
    let opening = Opening {
        source: source.to_owned(),
        live: true,
        open: Box::new(move |wake, _| {
            let (sender, arrivals) = unbounded();
            handed.send((sender, wake)).ok();
            Box::new(Channel(arrivals))
        }),
    };
    (opening, hand)
}

#[test]
fn an_answer_does_not_wait_for_a_stream_that_is_silent() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::default();
    let (speaking, speaker) = live("speaking");
    let (silent, _quiet) = live("silent");
    let job = job(&folder, vec![speaking, silent], 2);
    let running = {
        let control = control.clone();
        std::thread::spawn(move || run(job, &control))
    };
    let (sender, wake) = speaker.recv().unwrap();
    sender.send(header("live", "P9")).unwrap();
    (0..4).for_each(|index| sender.send(frame(index, 51)).unwrap());
    wake();
    wait_until("the answer", PATIENCE, || stored(&folder).0.len() == 1);
    assert_eq!(
        stored(&folder).0[0].probabilities[1].to_raw(),
        (1_i64 << 32).div_euclid(5)
    );
    control.stop();
    running.join().unwrap().unwrap();
}

#[test]
fn streams_are_added_removed_and_bound_to_the_next_patient_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::default();
    let open = control.keep_open();
    let job = job(&folder, Vec::new(), 2);
    let metrics = job.metrics.clone();
    let running = {
        let control = control.clone();
        std::thread::spawn(move || run(job, &control))
    };
    // One bed, one patient after the other.
    let patients: Vec<_> = (0..3).map(|exam| format!("P{exam}")).collect();
    for (exam, patient) in patients.iter().enumerate() {
        let (bed, speaker) = live("bed");
        control.add(bed);
        let (sender, wake) = speaker.recv().unwrap();
        sender.send(header(patient, patient)).unwrap();
        (0..6).for_each(|index| sender.send(frame(index, 51)).unwrap());
        wake();
        wait_until("the answer", PATIENCE, || {
            stored(&folder).0.len() == exam + 1
        });
        control.remove("bed");
        // The feed is dropped: nobody listens any more.
        wait_until("the end", PATIENCE, || sender.send(frame(9, 51)).is_err());
    }
    assert_eq!(metrics.source("bed").gaps.get(), 0);
    // A recording, too; and the run ends when nothing is left and nobody
    // keeps it open.
    control.add(films()[0].opening(Ok(())));
    wait_until("the film", PATIENCE, || metrics.streams_opened.get() == 4);
    drop(open);
    let outcome = running.join().unwrap().unwrap();
    assert_eq!((outcome.streams, outcome.failures.len()), (4, 0));
    assert_eq!(metrics.streams_ended.get(), 4);
}

/// Answers a few times, then fails.
struct Failing(usize, Result<f64, &'static str>);

impl Scorer for Failing {
    fn score(&mut self, _: &[Clip]) -> Result<Vec<Vec<f64>>, Box<dyn Error + Send + Sync>> {
        self.0 = self.0.saturating_sub(1);
        let value = if self.0 == 0 { self.1? } else { 0.5 };
        Ok(vec![vec![value, 1.0 - value]])
    }
}

#[test]
fn an_engine_that_fails_or_answers_nonsense_ends_the_run_and_keeps_what_was_stored() {
    for (fault, name) in [
        (Err("out of memory"), "Engine"),
        (Ok(f64::NAN), "NotANumber"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let openings = films().iter().map(|film| film.opening(Ok(()))).collect();
        let mut job = job(&folder, openings, 2);
        job.scorers = vec![Box::new(Failing(5, fault))];
        let error = run(job, &Control::default()).unwrap_err();
        assert!(format!("{error:?}").starts_with(name), "{error:?}");
        assert!(stored(&folder).1.len() >= 4);
    }
}

#[test]
fn a_store_that_refuses_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let openings = films().iter().map(|film| film.opening(Ok(()))).collect();
    let mut job = job(&folder, openings, 2);
    // The store does not know this model, and refuses its predictions.
    job.model = ModelHash::of(b"a stranger");
    assert!(matches!(
        run(job, &Control::default()),
        Err(RunError::Store(_))
    ));
    assert_eq!(stored(&folder).1, []);
}

#[test]
fn nothing_to_read_is_a_run_that_ends() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = run(job(&folder, Vec::new(), 3), &Control::default()).unwrap();
    assert_eq!(outcome.streams, 0);
    assert!(Path::new(&folder.path().join("results.sqlite")).exists());
}

#[test]
fn every_frame_is_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let films = films();
    let openings = films.iter().map(|film| film.opening(Ok(()))).collect();
    let job = job(&folder, openings, 2);
    let metrics = Arc::new(job.metrics.clone());
    run(job, &Control::default()).unwrap();
    let frames: u64 = films.iter().map(|film| film.frames).sum();
    assert_eq!(metrics.source("film").used.get(), frames);
    assert_eq!(
        metrics.source("film").windows.get(),
        metrics.predictions.get()
    );
    assert_eq!(metrics.clips_in_flight.get(), 0);
    assert_eq!(metrics.source("film").up.get(), 0);
    assert_eq!(metrics.patients.get(), 3);
}
