//! What carrying frames costs, apart from decoding and inference.
//!
//! 1. Frames as fast as they come, from memory, with an engine that answers at
//!    once: CPU time a frame in the graph (source, window, infer, views,
//!    store), beside a plain loop that assembles and sums the same windows on
//!    one thread without a graph and without a store.
//! 2. Live streams at 30 frames a second: which share of a core one costs.
//! 3. Live streams that say nothing: what waiting costs.
//! 4. A small fibro3d (`benches/network`) on live streams: from a window's last frame to
//!    its prediction, when frames are worked on as they arrive, and when whole windows are.
//!
//! `cargo bench --bench dataflow`; with `-- --quick` for shorter runs.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cpu_time::{ProcessTime, ThreadTime};
use crossbeam::channel::{Receiver, unbounded};
use hepaflow::dataflow::{Control, Facts, Feed, Job, Opening, Scorer, WindowShape, Windower, run};
use hepaflow::domain::{
    Clip, ContentHash, Crop, EventTime, Frame, FrameSize, ModelHash, PatientId, Probability,
    StreamId,
};
use hepaflow::engine::{
    Device, Engine, EngineOptions, Session, SessionOptions, SessionPlan, Workspace, softmax,
};
use hepaflow::ingest::{Arrival, StreamHeader};
use hepaflow::metrics::Metrics;
use hepaflow::model::Model;
use hepaflow::store::{Store, StoredModel};

const SIZE: FrameSize = FrameSize {
    height: 112,
    width: 112,
};
const SHAPE: WindowShape = WindowShape {
    length: 16,
    stride: 4,
    max_gap: None,
};

fn main() -> Result<(), Box<dyn Error>> {
    // `cargo test --benches` runs this too: then only that it works matters.
    let args: Vec<_> = std::env::args().collect();
    let quick = args.iter().any(|arg| arg == "--quick" || arg == "--test")
        || !args.contains(&"--bench".to_owned());
    let (frames, seconds) = if quick { (2_000, 1) } else { (200_000, 10) };

    let plain = plain_loop(frames);
    let graph = through_the_graph(frames)?;
    println!("frames from memory, W = 16, S = 4, 112x112, CPU time a frame:");
    println!(
        "  plain loop   {:8.2} us",
        plain.as_secs_f64() * 1e6 / frames as f64
    );
    println!(
        "  the graph    {:8.2} us   ({:.1} times the plain loop; {:.3} % of a core at 30 frames/s)",
        graph.as_secs_f64() * 1e6 / frames as f64,
        graph.as_secs_f64() / plain.as_secs_f64(),
        graph.as_secs_f64() / frames as f64 * 30.0 * 100.0,
    );

    for streams in [1, 4, 16] {
        let share = live(at_once(), streams, seconds, Duration::from_micros(33_333))?.share;
        println!(
            "{streams:3} live streams at 30 frames/s: {:.3} % of a core each (aim: under 1 %)",
            share * 100.0 / f64::from(streams)
        );
    }
    let share = live(at_once(), 4, seconds, Duration::from_hours(1))?.share;
    println!(
        "  4 live streams that are silent: {:.4} % of a core together",
        share * 100.0
    );
    for streams in [1, 4] {
        let [whole, early] = [false, true].map(|early| {
            let follower = Follower::new(early)?;
            live(
                Box::new(follower),
                streams,
                seconds,
                Duration::from_micros(33_333),
            )
        });
        let (whole, early) = (whole?, early?);
        println!(
            "{streams:3} live streams through a small fibro3d, last frame to prediction: {:.2} ms \
             when frames are worked on as they arrive ({:.1} % of a core), {:.2} ms when \
             windows are ({:.1} %)",
            early.latency * 1e3,
            early.share * 100.0,
            whole.latency * 1e3,
            whole.share * 100.0
        );
    }
    Ok(())
}

fn frame(index: u64, pixels: &Arc<[u8]>) -> Frame {
    Frame {
        index,
        time: EventTime::from_nanos(index * 33_333_333),
        arrived: Instant::now(),
        discontinuity: false,
        skipped: 0,
        pixels: Arc::clone(pixels),
    }
}

/// The same windows and sums, by hand on one thread.
fn plain_loop(frames: u64) -> Duration {
    let pixels: Arc<[u8]> = vec![0; SIZE.area()].into();
    let begin = ThreadTime::now();
    let mut windower = Windower::new(SHAPE, Some(Duration::from_millis(33)));
    let mut sums = [0_i64; 2];
    for index in 0..frames {
        if let Some((clip, span)) = windower.push(frame(index, &pixels)) {
            std::hint::black_box((&clip, span));
            let row: Vec<_> = [0.5, 0.5]
                .into_iter()
                .filter_map(Probability::from_f64)
                .collect();
            for (sum, p) in sums.iter_mut().zip(&row) {
                *sum += p.to_raw();
            }
        }
    }
    std::hint::black_box(sums);
    begin.elapsed()
}

struct AtOnce;

impl Scorer for AtOnce {
    fn score(&mut self, clips: &[Clip]) -> Result<Vec<Vec<f64>>, Box<dyn Error + Send + Sync>> {
        Ok(vec![vec![0.5, 0.5]; clips.len()])
    }
}

fn at_once() -> Box<dyn Scorer> {
    Box::new(AtOnce)
}

/// A small fibro3d, by sessions.
struct Follower {
    engine: Engine,
    plan: SessionPlan,
    workspace: Workspace,
    sessions: HashMap<StreamId, Session>,
    /// Of each stream, the last window that was completed ahead of its clip, by
    /// its last frame.
    ready: HashMap<StreamId, (u64, Vec<f32>)>,
}

impl Follower {
    fn new(early: bool) -> Result<Self, Box<dyn Error>> {
        let network = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/network");
        let cpu = EngineOptions {
            device: Device::Cpu,
            ..EngineOptions::default()
        };
        let engine = Engine::open(&Model::load(&network)?, cpu)?;
        let plan = engine.session_plan(SessionOptions {
            stride: SHAPE.stride,
            early,
            attention: false,
        });
        Ok(Self {
            workspace: engine.workspace(),
            plan,
            engine,
            sessions: HashMap::new(),
            ready: HashMap::new(),
        })
    }
}

impl Scorer for Follower {
    fn score(&mut self, clips: &[Clip]) -> Result<Vec<Vec<f64>>, Box<dyn Error + Send + Sync>> {
        let mut rows = Vec::new();
        for clip in clips {
            let last = clip.frames.last().map(|frame| frame.index);
            let ready = self.ready.remove(&clip.stream);
            let logits = match ready.filter(|(index, _)| Some(*index) == last) {
                Some((_, logits)) => logits,
                None => {
                    let session = self.sessions.entry(clip.stream);
                    let session = session.or_insert_with(|| self.engine.session(&self.plan));
                    session.score(&self.engine, &mut self.workspace, clip)?
                }
            };
            rows.push(softmax(&logits));
        }
        Ok(rows)
    }

    fn follows_streams(&self) -> bool {
        true
    }

    fn look_ahead(&mut self, frames: &[(StreamId, Frame)]) {
        if !self.plan.options().early {
            return;
        }
        for (stream, frame) in frames {
            let session = self.sessions.entry(*stream);
            let session = session.or_insert_with(|| self.engine.session(&self.plan));
            if let Ok(Some(logits)) = session.push(&self.engine, &mut self.workspace, frame) {
                self.ready.insert(*stream, (frame.index, logits));
            }
        }
    }
}

struct Channel(Receiver<Arrival>);

impl Feed for Channel {
    fn try_next(&self) -> Option<Arrival> {
        self.0.try_recv().ok()
    }
}

fn header(name: &str) -> Arrival {
    Arrival::Opened(StreamHeader {
        content: ContentHash::of(name.as_bytes()),
        patient: PatientId::new(name),
        study: None,
        instance: None,
        frame_interval: Some(Duration::from_millis(33)),
        picture: SIZE,
        crop: Crop {
            x: 0,
            y: 0,
            width: 112,
            height: 112,
        },
    })
}

fn job(
    scorer: Box<dyn Scorer>,
    openings: Vec<Opening>,
    folder: &tempfile::TempDir,
) -> Result<Job, Box<dyn Error>> {
    let model = ModelHash::of(b"at once");
    let file = folder.path().join("results.sqlite");
    let mut store = Store::open(&file)?;
    let classes = vec!["F0-F1".parse()?, "F2-F4".parse()?];
    store.register(&StoredModel {
        hash: model,
        architecture: "none".to_owned(),
        classes,
    })?;
    Ok(Job {
        openings,
        decoders: 2,
        window: SHAPE,
        model,
        reference: None,
        scorers: vec![scorer],
        beside: Vec::new(),
        workers: 1,
        facts: Facts::new(Store::open(&file)?),
        store,
        metrics: Metrics::new()?,
    })
}

/// All frames are in memory before the clock starts.
fn through_the_graph(frames: u64) -> Result<Duration, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let pixels: Arc<[u8]> = vec![0; SIZE.area()].into();
    let (sender, arrivals) = unbounded();
    sender.send(header("memory"))?;
    for index in 0..frames {
        sender.send(Arrival::Frame(frame(index, &pixels)))?;
    }
    sender.send(Arrival::Ended(Ok(())))?;
    let opening = Opening {
        source: "memory".to_owned(),
        live: false,
        open: Box::new(move |_, _| Box::new(Channel(arrivals))),
    };
    let job = job(at_once(), vec![opening], &folder)?;
    let begin = ProcessTime::now();
    run(job, &Control::default())?;
    Ok(begin.elapsed())
}

/// What live streams cost together, their own threads left out.
struct Live {
    /// Of a core.
    share: f64,
    /// Seconds from a window's last frame to its prediction, on average.
    latency: f64,
}

fn live(
    scorer: Box<dyn Scorer>,
    streams: u32,
    seconds: u64,
    step: Duration,
) -> Result<Live, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let feeders = Arc::new(AtomicU64::new(0));
    let control = Control::default();
    let openings = (0..streams)
        .map(|number| {
            let (feeders, control) = (Arc::clone(&feeders), control.clone());
            Opening {
                source: format!("bed-{number}"),
                live: true,
                open: Box::new(move |wake, _| {
                    let (sender, arrivals) = unbounded();
                    std::thread::spawn(move || {
                        let begin = ThreadTime::now();
                        let pixels: Arc<[u8]> = vec![0; SIZE.area()].into();
                        sender.send(header(&format!("bed-{number}"))).ok();
                        let start = Instant::now();
                        for index in 0.. {
                            sender.send(Arrival::Frame(frame(index, &pixels))).ok();
                            wake();
                            let next = start + step * (index as u32 + 1);
                            let wait = next.saturating_duration_since(Instant::now());
                            std::thread::park_timeout(wait.min(Duration::from_secs(seconds)));
                            if control.is_stopping() {
                                break;
                            }
                        }
                        feeders.fetch_add(begin.elapsed().as_nanos() as u64, Ordering::SeqCst);
                    });
                    Box::new(Channel(arrivals))
                }),
            }
        })
        .collect();
    let job = job(scorer, openings, &folder)?;
    let metrics = job.metrics.clone();
    let stopper = control.clone();
    let begin = ProcessTime::now();
    let wall = Instant::now();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(seconds));
        stopper.stop();
    });
    run(job, &control)?;
    let (cpu, wall) = (begin.elapsed(), wall.elapsed());
    // The feeders notice the end within one step.
    std::thread::sleep(step.min(Duration::from_millis(100)));
    let feeding = Duration::from_nanos(feeders.load(Ordering::SeqCst));
    let waited = &metrics.frame_to_prediction;
    Ok(Live {
        share: cpu.saturating_sub(feeding).as_secs_f64() / wall.as_secs_f64(),
        latency: waited.get_sample_sum() / waited.get_sample_count() as f64,
    })
}
