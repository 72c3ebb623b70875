//! What bounds a group of processes: bytes that predictions and progress take
//! between processes, and what patients and finished windows take in memory;
//! and what follows from that for 1,000 streams and 10^7 studies.
//!
//! `cargo bench --bench cluster`. Two processes stand in for many: both run
//! within this program, each with its own workers, and talk over loopback.

use std::collections::HashSet;
use std::error::Error;
use std::net::TcpListener;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, unbounded};
use differential_dataflow::input::Input;
use hepaflow::clinical::{Activation, Fact};
use hepaflow::dataflow::cluster::{Files, Group, Hosts, Passport, join};
use hepaflow::dataflow::views::{ClipFact, maintain};
use hepaflow::dataflow::{
    Control, Epoch, Facts, Feed, Job, Opening, Scorer, WindowShape, run_together,
};
use hepaflow::domain::{
    Clip, ClipKey, ContentHash, Crop, EventTime, Frame, FrameSize, ModelHash, PatientId,
    Probability, StageRange,
};
use hepaflow::ingest::{Arrival, StreamHeader};
use hepaflow::metrics::Metrics;
use hepaflow::store::{Store, StoredModel};

const PROCESSES: f64 = 2.0;
/// Of the extrapolation: streams, windows a second of each, studies, windows of
/// each, studies of one patient.
const STREAMS: f64 = 1_000.0;
const WINDOWS_A_SECOND: f64 = 30.0 / 8.0;
const STUDIES: f64 = 1e7;
const WINDOWS_A_STUDY: f64 = 30.0;
const STUDIES_A_PATIENT: f64 = 2.0;
/// Epochs a second while anything is sent.
const EPOCHS: f64 = 10.0;

fn main() {
    // `cargo test --benches` runs this too: then only that it works matters.
    let whole = std::env::args().any(|arg| arg == "--bench");
    let (films, frames, seconds) = if whole { (200, 402, 5) } else { (4, 42, 1) };
    let patients = if whole { 200_000 } else { 2_000 };

    let (bytes, predictions) = bulk(films, frames);
    // Of two processes, one in two predictions stays where it was made.
    let a_prediction = bytes / (predictions * (1.0 - 1.0 / PROCESSES));
    println!("bulk: {predictions} predictions, {a_prediction:.0} bytes for each that is exchanged");

    println!("workers  idle bytes/s  bytes an epoch");
    let mut last = (0, 0.0);
    for workers in [1, 2, 4, 8].into_iter().take(if whole { 4 } else { 2 }) {
        let idle = talk(workers, seconds, None);
        let busy = talk(workers, seconds, Some(Duration::from_millis(20)));
        let epoch = (busy - idle) / EPOCHS;
        println!("{:>4}     {idle:>12.0}  {epoch:>14.0}", 2 * workers);
        last = (2 * workers, epoch);
    }
    let (a_patient, clips) = views(patients);
    println!("views: {a_patient:.0} bytes a patient with {clips} clips");
    let a_window = ledger(patients * 10);
    println!("ledger: {a_window:.0} bytes a finished window");

    let predictions = STREAMS * WINDOWS_A_SECOND;
    println!("\n1,000 live streams: {predictions:.0} predictions a second");
    println!(
        "  {:.2} MB/s of predictions",
        predictions * a_prediction / 1e6
    );
    // Every worker tells every other: the square of their number.
    let (workers, epoch) = last;
    for all in [16.0, 64.0, 256.0] {
        let progress = epoch * EPOCHS * (all / workers as f64).powi(2);
        println!(
            "  {:.2} MB/s of progress among {all} workers",
            progress / 1e6
        );
    }
    let windows = STUDIES * WINDOWS_A_STUDY;
    println!("10^7 studies: {windows:.0e} windows");
    let held = STUDIES / STUDIES_A_PATIENT * a_patient / 1e9;
    println!("  {held:.0} GB of views, over all processes");
    println!(
        "  {:.0} GB of ledger, in each process",
        windows * a_window / 1e9
    );
}

fn model() -> ModelHash {
    ModelHash::of(b"model")
}

/// Two processes that have met.
fn groups(workers: usize) -> Vec<Group> {
    let ports: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    let text: String = ports
        .iter()
        .flatten()
        .filter_map(|port| Some(format!("{}\n", port.local_addr().ok()?)))
        .collect();
    drop(ports);
    let passport = Passport {
        version: String::new(),
        pipeline: ContentHash::of(b""),
        model: model(),
        workers,
        files: Files {
            count: 0,
            digest: ContentHash::of(b""),
        },
    };
    std::thread::scope(|scope| {
        let meet = |index| {
            let hosts = Hosts::parse(&text, 2, index).expect("two hosts");
            let patience = Duration::from_secs(20);
            let passport = &passport;
            scope.spawn(move || join(&hosts, passport, patience, &Control::default()))
        };
        let meeting = [0, 1].map(meet);
        meeting
            .map(|it| it.join().expect("no panic").expect("both are here"))
            .into()
    })
}

struct Same;

impl Scorer for Same {
    fn score(&mut self, clips: &[Clip]) -> Result<Vec<Vec<f64>>, Box<dyn Error + Send + Sync>> {
        Ok(vec![vec![0.25, 0.75]; clips.len()])
    }
}

/// Runs two processes with these streams each; bytes sent and predictions made.
fn run(
    workers: usize,
    openings: [Vec<Opening>; 2],
    meanwhile: impl FnOnce(&[Control]),
) -> (f64, f64) {
    let folder = tempfile::tempdir().expect("a folder");
    let controls = [Control::default(), Control::default()];
    let metrics = [0, 1].map(|_| Metrics::new().expect("metrics"));
    std::thread::scope(|scope| {
        let processes = groups(workers).into_iter().zip(openings);
        for ((group, openings), (control, metrics)) in processes.zip(controls.iter().zip(&metrics))
        {
            let mut store = Store::open(&folder.path().join("r.sqlite")).expect("a store");
            store
                .register(&StoredModel {
                    hash: model(),
                    architecture: String::new(),
                    classes: Vec::new(),
                })
                .expect("a model");
            let log = Store::open(&folder.path().join("r.sqlite")).expect("a store");
            let job = Job {
                beside: Vec::new(),
                facts: Facts::new(log),
                openings,
                decoders: 4,
                window: WindowShape {
                    length: 4,
                    stride: 2,
                    max_gap: None,
                },
                model: model(),
                scorers: vec![Box::new(Same)],
                workers,
                store,
                metrics: metrics.clone(),
            };
            scope.spawn(move || {
                run_together(job, control, group, |lost| panic!("{lost}")).expect("a run");
            });
        }
        meanwhile(&controls);
    });
    let sum = |of: fn(&Metrics) -> u64| metrics.iter().map(of).sum::<u64>() as f64;
    (
        sum(|it| it.group_bytes_sent.get()),
        sum(|it| it.predictions.get()),
    )
}

/// As many arrivals as there are, as fast as they are asked for.
struct Film(Mutex<Vec<Arrival>>);

impl Feed for Film {
    fn try_next(&self) -> Option<Arrival> {
        self.0.lock().ok()?.pop()
    }
}

fn header(number: u64) -> Arrival {
    Arrival::Opened(StreamHeader {
        content: ContentHash::of(&number.to_le_bytes()),
        patient: PatientId::new(format!("PAT-{number:08}")),
        study: None,
        frame_interval: Some(Duration::from_millis(33)),
        picture: FrameSize {
            height: 1,
            width: 1,
        },
        crop: Crop {
            x: 0,
            y: 0,
            width: 1,
            height: 1,
        },
    })
}

fn frame(index: u64) -> Arrival {
    Arrival::Frame(Frame {
        index,
        time: EventTime::from_nanos(index * 33_000_000),
        arrived: Instant::now(),
        discontinuity: false,
        pixels: [0].into(),
    })
}

fn bulk(films: u64, frames: u64) -> (f64, f64) {
    let openings = [0, 1].map(|process| {
        let films = (0..films).map(|film| Opening {
            source: "film".to_owned(),
            live: false,
            open: Box::new(move |wake, _| {
                let mut arrivals = vec![header(process * films + film)];
                arrivals.extend((0..frames).map(frame));
                arrivals.push(Arrival::Ended(Ok(())));
                arrivals.reverse();
                wake();
                Box::new(Film(Mutex::new(arrivals)))
            }),
        });
        films.collect()
    });
    run(1, openings, |_| {})
}

struct Channel(Receiver<Arrival>);

impl Feed for Channel {
    fn try_next(&self) -> Option<Arrival> {
        self.0.try_recv().ok()
    }
}

/// Bytes a second while one stream gives a frame now and then, or none at all.
fn talk(workers: usize, seconds: u64, pace: Option<Duration>) -> f64 {
    let scanner = Opening {
        source: "scanner".to_owned(),
        live: true,
        open: Box::new(move |wake, _| {
            let (sender, arrivals) = unbounded();
            std::thread::spawn(move || {
                let mut sent = sender.send(header(0));
                for index in 0.. {
                    if sent.is_err() {
                        break;
                    }
                    wake();
                    std::thread::sleep(pace.unwrap_or(Duration::from_millis(100)));
                    if pace.is_some() {
                        sent = sender.send(frame(index));
                    }
                }
            });
            Box::new(Channel(arrivals))
        }),
    };
    let (bytes, _) = run(workers, [vec![scanner], Vec::new()], |controls| {
        std::thread::sleep(Duration::from_secs(seconds));
        controls[0].stop();
    });
    bytes / seconds as f64
}

/// Bytes that this program has in memory.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0.0) * 4096.0
}

/// Bytes a patient in all views, and the clips of each.
fn views(patients: u64) -> (f64, u64) {
    const CLIPS: u64 = 60;
    let held = timely::execute_directly(move |worker| {
        let probe = timely::dataflow::ProbeHandle::new();
        let (mut clips, mut models, mut facts) = worker.dataflow::<Epoch, _, _>(|scope| {
            let (clips, clip_facts) = scope.new_collection();
            let (models, classes) = scope.new_collection();
            let (facts, changes) = scope.new_collection();
            let views = maintain(clip_facts, classes, changes);
            views.current.probe_with(&probe);
            views.discordance.probe_with(&probe);
            (clips, models, facts)
        });
        let classes: Vec<StageRange> = ["F0-F1", "F2-F4"]
            .iter()
            .filter_map(|class| class.parse().ok())
            .collect();
        models.insert((model(), classes));
        let active = Activation {
            number: 1,
            model: model(),
        };
        facts.update(Fact::Activation(active), 1_isize);
        let before = resident();
        // As many clips a patient as the extrapolation has, on a sample.
        let sample = patients / 10;
        for number in 0..sample {
            for clip in 0..CLIPS {
                let p = Probability::from_raw(1 << 31);
                let fact = ClipFact {
                    key: ClipKey {
                        content: ContentHash::of(&number.to_le_bytes()),
                        first_frame: clip * 8,
                        model: model(),
                    },
                    patient: PatientId::new(format!("PAT-{number:08}")),
                    weight: 256,
                    probabilities: vec![p, p],
                };
                clips.insert(fact);
            }
            if number % 1_000 == 999 || number + 1 == sample {
                let epoch = number / 1_000 + 1;
                clips.advance_to(epoch);
                clips.flush();
                models.advance_to(epoch);
                models.flush();
                facts.advance_to(epoch);
                facts.flush();
                worker.step_while(|| probe.less_than(&epoch));
            }
        }
        (resident() - before) / sample as f64
    });
    (held, CLIPS)
}

/// Bytes a window that is known to be done.
fn ledger(windows: u64) -> f64 {
    let before = resident();
    let keys: HashSet<_> = (0..windows)
        .map(|number| ClipKey {
            content: ContentHash::of(&(number / 30).to_le_bytes()),
            first_frame: number % 30,
            model: model(),
        })
        .collect();
    (resident() - before) / keys.len() as f64
}
