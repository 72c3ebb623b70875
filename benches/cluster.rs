//! What bounds a group of processes: bytes that predictions and progress take
//! between processes, what patients and finished windows take in memory, how long
//! a start takes; what follows from that for 10^7 studies; and 1,000 streams
//! simulated.
//!
//! `cargo bench --bench cluster`. All processes run within this program, each with
//! its own workers, and talk over loopback. Feeds and scorers stand in for decoders
//! and engines: what is measured is the graph, not the network.

use std::collections::HashSet;
use std::error::Error;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cpu_time::ProcessTime;
use crossbeam::channel::{Receiver, Sender, unbounded};
use differential_dataflow::input::Input;
use hepaflow::clinical::{Activation, Fact};
use hepaflow::dataflow::cluster::{Files, Group, Hosts, Passport, join};
use hepaflow::dataflow::views::{ClipFact, maintain};
use hepaflow::dataflow::{
    Control, Epoch, Facts, Feed, Job, Opening, Scorer, WindowShape, run_together,
};
use hepaflow::domain::{
    Clip, ClipKey, ClipPrediction, ClipSpan, ContentHash, Crop, EventTime, Frame, FrameSize,
    ModelHash, PatientId, Probability, StageRange,
};
use hepaflow::ingest::{Arrival, StreamHeader, Wake};
use hepaflow::metrics::{Metrics, Value};
use hepaflow::store::{Batch, Store, StoredModel};
use tempfile::TempDir;

/// Of the extrapolation: studies, windows of each, studies of one patient.
const STUDIES: f64 = 1e7;
const WINDOWS_A_STUDY: u64 = 30;
const STUDIES_A_PATIENT: u64 = 2;
/// Epochs a second while anything is sent.
const EPOCHS: f64 = 10.0;
/// From one frame of a live stream to the next.
const FRAME: Duration = Duration::from_nanos(33_333_333);
/// As in the defaults of a pipeline file.
const SHAPE: WindowShape = WindowShape {
    length: 16,
    stride: 8,
    max_gap: None,
};

fn main() {
    // `cargo test --benches` runs this too: then only that it works matters.
    let whole = std::env::args().any(|arg| arg == "--bench");
    let (films, frames, seconds) = if whole { (200, 1_616, 5) } else { (4, 48, 1) };

    // First of all, while nothing else has used memory; a table that is this large
    // goes back to the system as a whole.
    let patients = if whole { 20_000 } else { 200 };
    let windows = patients * STUDIES_A_PATIENT * WINDOWS_A_STUDY;
    let a_window = ledger(windows);
    let a_patient = views(patients);

    let (bytes, predictions) = bulk(films, frames);
    // Of two processes, one in two predictions stays where it was made.
    println!(
        "bulk, 2 processes: {predictions} predictions, {:.0} bytes for each that is exchanged",
        bytes / (predictions / 2.0)
    );

    println!("\nprocesses  workers  idle bytes/s  bytes an epoch");
    let groups = [(2, 1), (2, 2), (2, 4), (2, 8), (4, 1), (8, 1)];
    for (processes, workers) in groups.into_iter().take(if whole { 6 } else { 1 }) {
        let idle = talk(processes, workers, seconds, None);
        let busy = talk(processes, workers, seconds, Some(Duration::from_millis(20)));
        let epoch = (busy - idle) / EPOCHS;
        println!("{processes:>9}  {workers:>7}  {idle:>12.0}  {epoch:>14.0}");
    }

    println!("\nlive streams of 30 frames/s in 4 processes of one worker");
    println!("streams  predictions/s  expected  kB/s exchanged  cores  99 of 100 within");
    let streams: &[usize] = if whole { &[100, 300, 1_000] } else { &[10] };
    for streams in streams {
        live(*streams, 4 * seconds);
    }

    let begin = restart(windows / 4) / (windows / 4) as f64;
    println!(
        "\n{a_patient:.0} bytes of views a patient, with {} clips",
        STUDIES_A_PATIENT * WINDOWS_A_STUDY
    );
    println!("{a_window:.0} bytes of ledger a finished window");
    println!("{:.1} us for each finished window at a start", begin * 1e6);
    let windows = STUDIES * WINDOWS_A_STUDY as f64;
    println!("\nso 10^7 studies of {WINDOWS_A_STUDY} windows, {windows:.0e}, take");
    println!(
        "  {:.0} GB of views, over all processes",
        STUDIES / STUDIES_A_PATIENT as f64 * a_patient / 1e9
    );
    println!(
        "  {:.0} GB of ledger, in each process",
        windows * a_window / 1e9
    );
    println!("  {:.1} hours at each start", windows * begin / 3600.0);
}

fn model() -> ModelHash {
    ModelHash::of(b"model")
}

/// Processes that have met.
fn groups(processes: usize, workers: usize) -> Vec<Group> {
    let ports: Vec<_> = (0..processes)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect();
    let text: String = ports
        .iter()
        .flatten()
        .filter_map(|port| Some(format!("{}\n", port.local_addr().ok()?)))
        .collect();
    drop(ports);
    let passport = Passport {
        version: String::new(),
        pipeline: ContentHash::of(b""),
        models: vec![model()],
        workers,
        files: Files {
            count: 0,
            digest: ContentHash::of(b""),
        },
    };
    std::thread::scope(|scope| {
        let meet = |index| {
            let hosts = Hosts::parse(&text, processes, index).expect("a host for each");
            let patience = Duration::from_secs(20);
            let passport = &passport;
            scope.spawn(move || join(&hosts, passport, patience, &Control::default()))
        };
        let meeting: Vec<_> = (0..processes).map(meet).collect();
        meeting
            .into_iter()
            .map(|it| it.join().expect("no panic").expect("all are here"))
            .collect()
    })
}

struct Same;

impl Scorer for Same {
    fn score(&mut self, clips: &[Clip]) -> Result<Vec<Vec<f64>>, Box<dyn Error + Send + Sync>> {
        Ok(vec![vec![0.25, 0.75]; clips.len()])
    }
}

fn open(folder: &TempDir) -> Store {
    let mut store = Store::open(folder.path().join("r.sqlite")).expect("a store");
    store
        .register(&StoredModel {
            hash: model(),
            architecture: String::new(),
            classes: Vec::new(),
        })
        .expect("a model");
    store
}

/// Runs as many processes as there are lists of streams, each with its own; what
/// they counted.
fn run(
    folder: &TempDir,
    workers: usize,
    openings: Vec<Vec<Opening>>,
    meanwhile: impl FnOnce(&[Metrics]),
) -> Vec<Metrics> {
    let controls: Vec<_> = openings.iter().map(|_| Control::default()).collect();
    let metrics: Vec<_> = openings
        .iter()
        .map(|_| Metrics::new().expect("metrics"))
        .collect();
    // Tables are made before others look for them.
    drop(open(folder));
    std::thread::scope(|scope| {
        let processes = groups(openings.len(), workers).into_iter().zip(openings);
        for ((group, openings), (control, metrics)) in processes.zip(controls.iter().zip(&metrics))
        {
            let job = Job {
                beside: Vec::new(),
                facts: Facts::new(open(folder)),
                openings,
                decoders: 4,
                window: SHAPE,
                model: model(),
                reference: None,
                scorers: vec![Box::new(Same)],
                workers,
                store: open(folder),
                metrics: metrics.clone(),
            };
            scope.spawn(move || {
                run_together(job, control, group, |lost| panic!("{lost}")).expect("a run");
            });
        }
        meanwhile(&metrics);
        controls[0].stop();
    });
    metrics
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn sum(metrics: &[Metrics], of: fn(&Metrics) -> u64) -> f64 {
    metrics.iter().map(of).sum::<u64>() as f64
}

fn exchanged(metrics: &[Metrics]) -> f64 {
    sum(metrics, |it| it.group_bytes_sent.get())
}

fn predictions(metrics: &[Metrics]) -> f64 {
    sum(metrics, |it| it.predictions.get())
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
        instance: None,
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
        skipped: 0,
        pixels: [0].into(),
    })
}

/// Bytes sent and predictions made while two processes read so many films each.
fn bulk(films: u64, frames: u64) -> (f64, f64) {
    let openings = (0..2).map(|process| {
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
    let all = 2 * films * ((frames - SHAPE.length as u64) / SHAPE.stride as u64 + 1);
    let metrics = run(&folder(), 1, openings.collect(), |metrics| {
        // Its end must not come before theirs.
        while predictions(metrics) < all as f64 {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    (exchanged(&metrics), predictions(&metrics))
}

struct Channel(Receiver<Arrival>);

impl Feed for Channel {
    fn try_next(&self) -> Option<Arrival> {
        self.0.try_recv().ok()
    }
}

/// Streams that are open, as whoever sends their frames sees them.
type Scanners = Arc<Mutex<Vec<(Sender<Arrival>, Wake)>>>;

/// A live stream that joins `scanners` when it is opened.
fn scanner(number: u64, scanners: &Scanners) -> Opening {
    let scanners = Arc::clone(scanners);
    Opening {
        source: "scanner".to_owned(),
        live: true,
        open: Box::new(move |wake, _| {
            let (sender, arrivals) = unbounded();
            sender.send(header(number)).ok();
            wake();
            if let Ok(mut scanners) = scanners.lock() {
                scanners.push((sender, wake));
            }
            Box::new(Channel(arrivals))
        }),
    }
}

/// Waits until so many streams are open.
fn all_open(scanners: &Scanners, streams: usize) -> Vec<(Sender<Arrival>, Wake)> {
    loop {
        if let Ok(open) = scanners.lock()
            && open.len() == streams
        {
            return open.clone();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Bytes a second while one stream gives a frame now and then, or none at all.
fn talk(processes: usize, workers: usize, seconds: u64, pace: Option<Duration>) -> f64 {
    let scanners = Scanners::default();
    let mut openings: Vec<Vec<_>> = (0..processes).map(|_| Vec::new()).collect();
    openings[0].push(scanner(0, &scanners));
    let mut bytes = 0.0;
    run(&folder(), workers, openings, |metrics| {
        let open = all_open(&scanners, 1);
        std::thread::sleep(Duration::from_secs(1));
        let before = exchanged(metrics);
        let begin = Instant::now();
        let pause = pace.unwrap_or(Duration::from_millis(100));
        for index in 0.. {
            std::thread::sleep(pause);
            if begin.elapsed() > Duration::from_secs(seconds) {
                break;
            }
            if pace.is_some() {
                let (sender, wake) = &open[0];
                sender.send(frame(index)).ok();
                wake();
            }
        }
        bytes = (exchanged(metrics) - before) / begin.elapsed().as_secs_f64();
    });
    bytes
}

/// So many live streams in four processes, for so long: what they cost, and
/// whether answers keep up.
fn live(streams: usize, seconds: u64) {
    let scanners = Scanners::default();
    let mut openings: Vec<Vec<_>> = (0..4).map(|_| Vec::new()).collect();
    for number in 0..streams {
        openings[number % 4].push(scanner(number as u64, &scanners));
    }
    let mut found = None;
    let metrics = run(&folder(), 1, openings, |metrics| {
        let open = all_open(&scanners, streams);
        let (before, cpu, begin) = (exchanged(metrics), ProcessTime::now(), Instant::now());
        // Scanners do not wait for each other: their frames are spread in time.
        let mut sent = 0_u64;
        while begin.elapsed() < Duration::from_secs(seconds) {
            let due = begin.elapsed().as_secs_f64() / FRAME.as_secs_f64() * streams as f64;
            while sent < due as u64 {
                let (sender, wake) = &open[sent as usize % streams];
                sender.send(frame(sent / streams as u64)).ok();
                wake();
                sent += 1;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let time = begin.elapsed().as_secs_f64();
        let windows = (sent / streams as u64 - SHAPE.length as u64) / SHAPE.stride as u64 + 1;
        found = Some((
            predictions(metrics) / time,
            windows as f64 * streams as f64 / time,
            (exchanged(metrics) - before) / time / 1e3,
            cpu.elapsed().as_secs_f64() / time,
        ));
    });
    if let Some((made, expected, bytes, cores)) = found {
        let late = late(&metrics[0]);
        println!(
            "{streams:>7}  {made:>13.0}  {expected:>8.0}  {bytes:>14.1}  {cores:>5.2}  {:>13.0} ms",
            late * 1e3
        );
    }
}

/// Within which of the histogram's bounds 99 of 100 predictions came after their
/// last frame, in seconds.
fn late(metrics: &Metrics) -> f64 {
    let all = metrics.snapshot().into_iter();
    let mut bounds = all
        .filter(|sample| sample.name == "hepaflow_frame_to_prediction_seconds")
        .filter_map(|sample| match sample.value {
            Value::Histogram { count, buckets, .. } => buckets
                .into_iter()
                .find(|(_, below)| *below as f64 >= 0.99 * count as f64)
                .map(|(bound, _)| bound),
            Value::Number { .. } => None,
        });
    bounds.next().unwrap_or(f64::INFINITY)
}

/// Seconds in which two processes start with so many finished windows, read
/// nothing more, and end.
fn restart(windows: u64) -> f64 {
    let folder = folder();
    let mut store = open(&folder);
    let numbers: Vec<_> = (0..windows).collect();
    for numbers in numbers.chunks(4_096) {
        let clips = numbers.iter().map(|&number| {
            let study = number / WINDOWS_A_STUDY;
            let first = number % WINDOWS_A_STUDY * 8;
            ClipPrediction {
                key: ClipKey {
                    content: ContentHash::of(&study.to_le_bytes()),
                    first_frame: first,
                    model: model(),
                },
                span: ClipSpan {
                    first_frame: first,
                    last_frame: first + 15,
                    begin: EventTime::from_nanos(first * 33_000_000),
                    end: EventTime::from_nanos((first + 15) * 33_000_000),
                    gaps_before: 0,
                    weight: ClipSpan::FULL_WEIGHT,
                },
                patient: PatientId::new(format!("PAT-{:08}", study / STUDIES_A_PATIENT)),
                study: None,
                source: "film".to_owned(),
                probabilities: [0.25, 0.75]
                    .into_iter()
                    .filter_map(Probability::from_f64)
                    .collect(),
            }
        });
        let batch = Batch {
            clips: clips.collect(),
            ..Batch::default()
        };
        store.commit(&batch).expect("a commit");
    }
    drop(store);
    let start = || {
        let begin = Instant::now();
        run(&folder, 1, vec![Vec::new(), Vec::new()], |_| {});
        begin.elapsed().as_secs_f64()
    };
    // The first one writes the patients' answers.
    start();
    start()
}

/// Bytes that this program has in memory.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0.0) * 4096.0
}

/// Bytes a patient in all views.
fn views(patients: u64) -> f64 {
    timely::execute_directly(move |worker| {
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
        for number in 0..patients {
            for clip in 0..STUDIES_A_PATIENT * WINDOWS_A_STUDY {
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
            if number % 1_000 == 999 || number + 1 == patients {
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
        (resident() - before) / patients as f64
    })
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
