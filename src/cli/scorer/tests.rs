use std::collections::BTreeMap;
use std::path::Path;

use crossbeam::channel::{Receiver, unbounded};

use super::*;
use crate::dataflow::{self, Control, Facts, Feed, Job, Opening, WindowShape, Windower};
use crate::domain::{ContentHash, Crop, EventTime, FrameSize, PatientId, Probability};
use crate::engine::{Device, EngineOptions};
use crate::ingest::{Arrival, StreamHeader};
use crate::metrics::Metrics;
use crate::model::Model;
use crate::store::{Store, StoredModel};

const STEP: u64 = 33_000_000;

fn model(name: &str) -> Model {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    Model::load(&goldens.join(name)).unwrap()
}

fn engine(model: &Model) -> Arc<Engine> {
    let options = EngineOptions {
        device: Device::Cpu,
        ..EngineOptions::default()
    };
    Arc::new(Engine::open(model, options).unwrap())
}

/// Frames of which no two are alike, one after the other.
fn video(model: &Model, frames: u64, seed: u64) -> Vec<Frame> {
    let input = &model.spec().input;
    let area = (input.height * input.width) as u64;
    let grey = |index: u64, place: u64| {
        let mixed = (seed << 32 | (index * area + place)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed ^ mixed >> 29) >> 24) as u8
    };
    (0..frames)
        .map(|index| Frame {
            index,
            time: EventTime::from_nanos(index * STEP),
            arrived: Instant::now(),
            discontinuity: false,
            skipped: 0,
            pixels: (0..area).map(|place| grey(index, place)).collect(),
        })
        .collect()
}

/// What can befall a stream: frames that were dropped, a pause, a seek to an
/// earlier time, another picture size (both are told by the source).
fn with_accidents(mut frames: Vec<Frame>, length: usize) -> Vec<Frame> {
    // In the middle of a window, and right behind one.
    frames.remove(length + 2);
    for frame in &mut frames[2 * length + 1..] {
        frame.time = EventTime::from_nanos(frame.time.as_nanos() + 50 * STEP);
    }
    let seek = 3 * length + 3;
    for frame in &mut frames[seek..] {
        frame.time = EventTime::from_nanos(frame.time.as_nanos() - 30 * STEP);
    }
    frames[seek].discontinuity = true;
    frames[4 * length].discontinuity = true;
    frames
}

struct Channel(Receiver<Arrival>);

impl Feed for Channel {
    fn try_next(&self) -> Option<Arrival> {
        self.0.try_recv().ok()
    }
}

fn content(name: &str) -> ContentHash {
    ContentHash::of(name.as_bytes())
}

/// A stream whose frames arrive in chunks of so many.
fn opening(name: &str, live: bool, frames: Vec<Frame>, chunk: usize) -> Opening {
    let content = content(name);
    Opening {
        source: name.to_owned(),
        live,
        open: Box::new(move |wake, _| {
            let (sender, arrivals) = unbounded();
            std::thread::spawn(move || {
                let picture = FrameSize {
                    height: 1,
                    width: 1,
                };
                let header = StreamHeader {
                    content,
                    patient: PatientId::new("P"),
                    study: None,
                    instance: None,
                    frame_interval: Some(Duration::from_nanos(STEP)),
                    picture,
                    crop: Crop {
                        x: 0,
                        y: 0,
                        width: 1,
                        height: 1,
                    },
                };
                sender.send(Arrival::Opened(header)).ok();
                for frames in frames.chunks(chunk) {
                    for frame in frames {
                        sender.send(Arrival::Frame(frame.clone())).ok();
                    }
                    wake();
                    std::thread::yield_now();
                }
                sender.send(Arrival::Ended(Ok(()))).ok();
                wake();
            });
            Box::new(Channel(arrivals))
        }),
    }
}

type Predictions = BTreeMap<(ContentHash, u64), Vec<Probability>>;

fn fixed(row: &[f32]) -> Vec<Probability> {
    let row = softmax(row).into_iter().map(Probability::from_f64);
    row.collect::<Option<_>>().unwrap()
}

/// The batch path: every window as a clip by itself, without a graph.
fn by_clips(engine: &Engine, shape: WindowShape, streams: &[(&str, Vec<Frame>)]) -> Predictions {
    let mut workspace = engine.workspace();
    let mut predictions = Predictions::new();
    for (name, frames) in streams {
        let mut windower = Windower::new(shape, Some(Duration::from_nanos(STEP)));
        for frame in frames {
            if let Some((frames, span)) = windower.push(frame.clone()) {
                let clip = Clip {
                    stream: StreamId(0),
                    frames,
                };
                let rows = engine.infer(&mut workspace, &[clip]).unwrap();
                predictions.insert((content(name), span.first_frame), fixed(&rows[0]));
            }
        }
    }
    predictions
}

#[test]
fn the_graph_predicts_what_the_batch_path_does_for_any_stride_and_any_arrival() {
    for name in ["fibro3d", "fibro2d_lstm", "r3d_18"] {
        let model = model(name);
        let length = model.spec().input.frames;
        let plain = video(&model, 5 * length as u64, 1);
        let marred = with_accidents(video(&model, 6 * length as u64, 2), length);
        let streams = [
            ("archive", plain.clone()),
            ("archive with accidents", marred.clone()),
            ("live", video(&model, 5 * length as u64, 3)),
            (
                "live with accidents",
                with_accidents(video(&model, 6 * length as u64, 4), length),
            ),
        ];
        for stride in 1..=length {
            let shape = WindowShape {
                length,
                stride,
                max_gap: None,
            };
            let metrics = Metrics::new().unwrap();
            let counted = metrics.engine("model");
            let live = Live::default();
            let scoring = Scoring::new(engine(&model), stride, counted.clone(), &live);
            let is_early = scoring.early.is_some();
            assert!(
                is_early || stride == 1 || name == "r3d_18",
                "{name}, {stride}"
            );
            let openings = streams.iter().enumerate().map(|(number, (name, frames))| {
                let chunk = [1, length + 3, stride, 7][(number + stride) % 4];
                opening(name, name.starts_with("live"), frames.clone(), chunk)
            });
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("results.sqlite");
            let mut store = Store::open(&file).unwrap();
            store
                .register(&StoredModel {
                    hash: model.hash(),
                    architecture: name.to_owned(),
                    classes: model.spec().classes.clone(),
                })
                .unwrap();
            let job = Job {
                openings: openings.collect(),
                decoders: 2,
                window: shape,
                model: model.hash(),
                reference: None,
                scorers: scoring.scorers(2).unwrap(),
                beside: Vec::new(),
                workers: 1 + stride % 2,
                facts: Facts::new(Store::open(&file).unwrap()),
                store,
                metrics: metrics.clone(),
            };
            dataflow::run(job, &Control::default()).unwrap();
            let stored = Store::open(&file).unwrap().clip_predictions().unwrap();
            let expected = by_clips(scoring.engine(), shape, &streams);
            assert_eq!(stored.len(), expected.len(), "{name}, stride {stride}");
            assert_eq!(metrics.predictions.get(), stored.len() as u64);
            let found: Predictions = stored
                .into_iter()
                .map(|it| ((it.key.content, it.key.first_frame), it.probabilities))
                .collect();
            assert_eq!(found, expected, "{name}, stride {stride}");
            assert_eq!(counted.sessions.get(), 0, "{name}, stride {stride}");
            assert_eq!(counted.session_bytes.get(), 0, "{name}, stride {stride}");
        }
    }
}

fn clip(stream: u32, frames: &[Frame]) -> Clip {
    Clip {
        stream: StreamId(stream),
        frames: frames.to_vec(),
    }
}

#[test]
fn a_live_window_is_ready_before_its_clip_is_asked_for() {
    let model = model("fibro2d_lstm");
    let length = model.spec().input.frames;
    let scoring = Scoring::new(
        engine(&model),
        2,
        Metrics::new().unwrap().engine("model"),
        &Live::default(),
    );
    let mut scorer = scoring.scorer(scoring.engine.workspace());
    let video = video(&model, 3 * length as u64, 1);
    let ahead: Vec<_> = video
        .iter()
        .map(|frame| (StreamId(5), frame.clone()))
        .collect();
    // All but the second window's last frame.
    scorer.look_ahead(&ahead[..=length]);
    assert_eq!(scorer.sessions[&StreamId(5)].ready.len(), 1);
    let windows = [clip(5, &video[..length]), clip(5, &video[2..length + 2])];
    let found = scorer.score(&windows).unwrap();
    // Told late, what a clip has brought already is nothing new.
    scorer.look_ahead(&ahead[length + 1..length + 2]);
    assert_eq!(scorer.sessions[&StreamId(5)].ready.len(), 0);
    let mut workspace = scoring.engine.workspace();
    let rows = scoring.engine.infer(&mut workspace, &windows).unwrap();
    let expected: Vec<_> = rows.iter().map(|row| softmax(row)).collect();
    assert_eq!(found, expected);

    // Windows that nobody asks for, and then one whose frames came in a clip.
    scorer.look_ahead(&ahead[length + 2..]);
    let last = clip(5, &video[2 * length - length % 2..][..length]);
    let rows = scoring
        .engine
        .infer(&mut workspace, std::slice::from_ref(&last))
        .unwrap();
    assert_eq!(
        scorer.score(std::slice::from_ref(&last)).unwrap(),
        [softmax(&rows[0])]
    );
}

#[test]
fn streams_that_come_and_go_leave_nothing_behind() {
    let model = model("fibro2d_lstm");
    let length = model.spec().input.frames;
    let metrics = Metrics::new().unwrap().engine("model");
    let scoring = Scoring::new(engine(&model), 2, metrics.clone(), &Live::default());
    let mut scorer = scoring.scorer(scoring.engine.workspace());
    let video = video(&model, length as u64 + 2, 1);
    let most_bytes = scoring
        .plan
        .session_bytes()
        .max(scoring.early.as_ref().unwrap().session_bytes());
    let mut peaks = Vec::new();
    for round in 0..3 {
        let mut peak = 0;
        for stream in 0..MOST_SESSIONS as u32 + 200 {
            let stream = round * 10_000 + stream;
            let windows = [clip(stream, &video[..length]), clip(stream, &video[2..])];
            if stream % 2 == 0 {
                scorer.look_ahead(&[(StreamId(stream), video[0].clone())]);
            }
            scorer.score(&windows).unwrap();
            if stream % 3 == 0 {
                scorer.end(StreamId(stream));
            }
            let (sessions, bytes) = (metrics.sessions.get(), metrics.session_bytes.get());
            assert!(sessions <= MOST_SESSIONS as i64);
            assert!(bytes <= sessions * most_bytes as i64);
            peak = peak.max(bytes);
        }
        assert_eq!(metrics.sessions.get(), MOST_SESSIONS as i64);
        // Those that have ended, and then the silent.
        let there = scorer.sessions.len();
        scorer.forget_silent(Duration::MAX, Duration::ZERO);
        assert!(scorer.sessions.len() < there);
        scorer.forget_silent(Duration::ZERO, Duration::MAX);
        assert_eq!(
            (metrics.sessions.get(), metrics.session_bytes.get()),
            (0, 0)
        );
        peaks.push(peak);
    }
    assert!(
        peaks[0] > 0 && peaks.iter().all(|peak| *peak == peaks[0]),
        "{peaks:?}"
    );
}

#[test]
fn a_thread_that_is_alone_is_helped_for_the_same_bits() {
    let model = model("r3d_18_wide");
    let length = model.spec().input.frames;
    let scoring = Scoring::new(
        engine(&model),
        2,
        Metrics::new().unwrap().engine("model"),
        &Live::default(),
    );
    let video = video(&model, length as u64 + 4, 1);
    let clips: Vec<_> = (0..3).map(|n| clip(0, &video[2 * n..][..length])).collect();
    let expected = scoring.scorers(1).unwrap()[0].score(&clips).unwrap();
    let mut many = scoring.scorers(3).unwrap();
    assert_eq!(many[1].score(&clips).unwrap(), expected);
    // And while others work.
    std::thread::scope(|scope| {
        for scorer in &mut many {
            scope.spawn(|| assert_eq!(scorer.score(&clips).unwrap(), expected));
        }
    });
}
