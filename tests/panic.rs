//! A panic anywhere ends the process, with its message and a code of its own.
//!
//! The test runs itself again as a child, in which an inference thread, the
//! feed of a worker, or the wake-up of a reader panics while two workers run.
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::error::Error;
use std::process::Command;
use std::time::{Duration, Instant};

use hepaflow::dataflow::{Control, Facts, Feed, Job, Opening, Scorer, WindowShape, run};
use hepaflow::domain::{
    Clip, ContentHash, Crop, EventTime, Frame, FrameSize, ModelHash, PatientId,
};
use hepaflow::ingest::{Arrival, StreamHeader};
use hepaflow::metrics::Metrics;
use hepaflow::store::{Store, StoredModel};

const WHERE: &str = "HEPAFLOW_TEST_PANIC_IN";

struct Endless {
    header: std::cell::Cell<bool>,
    index: std::cell::Cell<u64>,
    wake: hepaflow::ingest::Wake,
    panics: bool,
}

impl Feed for Endless {
    fn try_next(&self) -> Option<Arrival> {
        (self.wake)();
        if !self.header.replace(true) {
            return Some(Arrival::Opened(StreamHeader {
                content: ContentHash::of(b"endless"),
                patient: PatientId::new("p"),
                study: None,
                instance: None,
                frame_interval: None,
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
            }));
        }
        let index = self.index.get();
        self.index.set(index + 1);
        assert!(!self.panics || index < 100, "the feed broke");
        Some(Arrival::Frame(Frame {
            index,
            time: EventTime::from_nanos(index * 1_000_000),
            arrived: Instant::now(),
            discontinuity: false,
            skipped: 0,
            pixels: [0].into(),
        }))
    }
}

struct Broken(bool);

impl Scorer for Broken {
    fn score(&mut self, clips: &[Clip]) -> Result<Vec<Vec<f64>>, Box<dyn Error + Send + Sync>> {
        assert!(
            !self.0 || clips[0].frames[0].index < 100,
            "the scorer broke"
        );
        Ok(vec![vec![1.0]; clips.len()])
    }
}

/// What the child does.
fn panic_in(place: &str) {
    hepaflow::cli::exit_on_panic(|_| None);
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path().join("r.sqlite")).unwrap();
    let model = ModelHash::of(b"m");
    let classes = vec!["F0-F4".parse().unwrap()];
    store
        .register(&StoredModel {
            hash: model,
            architecture: String::new(),
            classes,
        })
        .unwrap();
    let feed_panics = place == "feed";
    let opening = Opening {
        source: "endless".to_owned(),
        live: true,
        open: Box::new(move |wake, _| {
            Box::new(Endless {
                header: false.into(),
                index: 0.into(),
                wake,
                panics: feed_panics,
            })
        }),
    };
    let job = Job {
        openings: vec![opening],
        decoders: 1,
        window: WindowShape {
            length: 2,
            stride: 2,
            max_gap: None,
        },
        model,
        reference: None,
        scorers: vec![Box::new(Broken(place == "scorer"))],
        beside: Vec::new(),
        workers: 2,
        facts: Facts::new(Store::open(folder.path().join("r.sqlite")).unwrap()),
        store,
        metrics: Metrics::new().unwrap(),
    };
    run(job, &Control::default()).unwrap();
}

#[test]
fn a_panic_in_a_worker_or_an_inference_thread_ends_the_process_at_once() {
    if let Ok(place) = std::env::var(WHERE) {
        panic_in(&place);
        return;
    }
    for place in ["feed", "scorer"] {
        let begin = Instant::now();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("a_panic_in_a_worker_or_an_inference_thread_ends_the_process_at_once")
            .env(WHERE, place)
            .stderr(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begin.elapsed() > Duration::from_mins(1) {
                child.kill().unwrap();
                panic!("a panic in the {place} left the process hanging");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(status.code(), Some(101), "{message}");
        assert!(message.contains(&format!("the {place} broke")), "{message}");
    }
}
