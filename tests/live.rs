//! Live sources against a real RTSP server whose plug is pulled: killed,
//! stopped with its socket open, ended in order, and started again.
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hepaflow::config::{Pipeline, SourceKind};
use hepaflow::dataflow::{WindowShape, Windower};
use hepaflow::domain::{Frame, FrameSize, PatientId};
use hepaflow::ingest::{Arrival, IngestError, Look, Media, Reconnect, SourceRequest, Stream};
use hepaflow::metrics::{DropReason, Interruption, Metrics, SourceMetrics};

const SIZE: FrameSize = FrameSize {
    height: 120,
    width: 160,
};

/// Longer than anything here takes, so that a hang fails instead of hanging.
const DEADLINE: Duration = Duration::from_secs(30);

/// `tests/support/rtsp_server.py` in a process of its own.
struct Scanner(Child);

impl Scanner {
    fn start(port: u16, session: u8, codec: &str) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/rtsp_server.py");
        // Debian's own Python: python3-gi is made for no other.
        let mut server = Command::new("/usr/bin/python3")
            .arg(script)
            .args([port.to_string(), session.to_string(), codec.to_owned()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(server.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        assert_eq!(
            line, "ready\n",
            "python3-gi and gir1.2-gst-rtsp-server-1.0 are needed"
        );
        Self(server)
    }

    fn signal(&self, name: &str) {
        let id = self.0.id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Scanner {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn live(line: &str) -> SourceRequest {
    SourceRequest {
        name: "bed".into(),
        media: Media::Launch(line.into()),
        patient: Some(PatientId::new("P1")),
        crop: None,
        look: Look::PLAIN,
        size: SIZE,
        queue: 64,
        live: true,
        reconnect: Some(Reconnect {
            stall: Duration::from_secs(1),
            shortest_pause: Duration::from_millis(50),
            longest_pause: Duration::from_millis(400),
        }),
        first_frame_timeout: Duration::from_secs(5),
        frame_interval: None,
        pace: None,
    }
}

/// A live stream and everything it gave.
struct Bed {
    stream: Option<Stream>,
    metrics: SourceMetrics,
    frames: Vec<Frame>,
    end: Option<Result<(), IngestError>>,
}

impl Bed {
    fn open(request: SourceRequest) -> Self {
        let metrics = Metrics::new().unwrap().source(&request.name);
        let reader = thread::current();
        let wake = Arc::new(move || reader.unpark());
        Self {
            stream: Some(Stream::open(request, wake, metrics.clone())),
            metrics,
            frames: Vec::new(),
            end: None,
        }
    }

    /// Takes what comes until `enough`.
    #[track_caller]
    fn watch(&mut self, what: &str, mut enough: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !enough(self) {
            match self.stream.as_ref().unwrap().try_next() {
                Some(Arrival::Opened(_)) => assert!(self.frames.is_empty(), "opened twice"),
                Some(Arrival::Frame(frame)) => self.frames.push(frame),
                Some(Arrival::Ended(end)) => {
                    assert!(self.end.is_none(), "ended twice");
                    self.end = Some(end);
                }
                None => thread::park_timeout(Duration::from_millis(50)),
            }
            assert!(
                Instant::now() < deadline,
                "waited in vain for {what}: {} frames, the last {:?}; interruptions {:?}; {:?}",
                self.frames.len(),
                self.frames.last().map(drawn),
                Interruption::ALL.map(|reason| self.metrics.interrupted(reason).get()),
                self.end,
            );
        }
    }

    fn interruptions(&self) -> u64 {
        let all = Interruption::ALL.iter();
        all.map(|&reason| self.metrics.interrupted(reason).get())
            .sum()
    }

    fn dropped(&self) -> u64 {
        let all = DropReason::ALL.iter();
        all.map(|&reason| self.metrics.dropped(reason).get()).sum()
    }

    fn close(&mut self) {
        self.stream = None;
        assert_eq!(
            self.metrics.received.get(),
            self.frames.len() as u64 + self.dropped(),
            "every frame is counted once"
        );
        assert_eq!(self.metrics.up.get(), 0);
    }
}

/// What the server drew: which of its lives, and which picture of it.
fn drawn(frame: &Frame) -> (u8, u16) {
    let bit = |position: usize| {
        let (row, column) = (position / 8 * 20 + 10, position % 8 * 20 + 10);
        u32::from(frame.pixels[row * SIZE.width + column] > 128) << position
    };
    let bits: u32 = (0..24).map(bit).sum();
    (bits as u8, (bits >> 8) as u16)
}

/// How often the plug is pulled; `HEPAFLOW_PLUG_PULLS=100` for the long run.
fn pulls() -> u8 {
    let given = std::env::var("HEPAFLOW_PLUG_PULLS").ok();
    given.map_or(9, |text| text.parse().unwrap())
}

/// Pulls the plug again and again, then holds every count and every window
/// against what the pictures themselves say.
fn pull_the_plug(transport: &str, codec: &str) {
    let port = free_port();
    let mut bed = Bed::open(live(&format!(
        "rtspsrc location=rtsp://127.0.0.1:{port}/liver protocols={transport} latency=60 ! {codec}"
    )));
    let server = if codec.contains("264") {
        "h264"
    } else {
        "jpeg"
    };
    let lives = pulls();
    for life in 0..lives {
        let scanner = Scanner::start(port, life, server);
        bed.watch("frames of this life", |bed| {
            bed.frames
                .iter()
                .rev()
                .take(12)
                .filter(|f| drawn(f).0 == life)
                .count()
                == 12
        });
        assert_eq!(bed.metrics.up.get(), 1);
        let before = bed.interruptions();
        match life % 3 {
            0 => drop(scanner),
            1 => {
                // Its sockets stay open, and nothing comes out of them.
                let stopped = Instant::now();
                scanner.signal("STOP");
                bed.watch("the stall", |bed| bed.interruptions() > before);
                assert!(stopped.elapsed() < Duration::from_secs(5));
                drop(scanner);
            }
            _ => {
                scanner.signal("TERM");
                drop(scanner);
            }
        }
        bed.watch("the interruption", |bed| bed.interruptions() > before);
        assert_eq!(bed.metrics.up.get(), 0, "an interrupted stream is not up");
    }
    bed.close();
    assert!(bed.end.is_none(), "{:?}", bed.end);
    assert!(bed.interruptions() >= u64::from(lives));

    // Frames that are said to be adjacent are, and every change of life is told.
    let mut changes = 0;
    for pair in bed.frames.windows(2) {
        let ((life, number), (next_life, next_number)) = (drawn(&pair[0]), drawn(&pair[1]));
        assert!(pair[1].time > pair[0].time);
        assert!(pair[1].index > pair[0].index);
        if pair[1].discontinuity || pair[1].index != pair[0].index + 1 {
            changes += u8::from(next_life != life);
        } else {
            assert_eq!(
                (next_life, next_number),
                (life, number + 1),
                "index {}",
                pair[1].index
            );
        }
    }
    assert_eq!(changes, lives - 1);

    let shape = WindowShape {
        length: 8,
        stride: 4,
        max_gap: None,
    };
    let mut windower = Windower::new(shape, None);
    let mut windows = 0;
    for frame in bed.frames {
        if let Some((clip, _)) = windower.push(frame) {
            let (life, first) = drawn(&clip[0]);
            for (frame, number) in clip.iter().zip(first..) {
                assert_eq!(
                    drawn(frame),
                    (life, number),
                    "a window spans an interruption"
                );
            }
            windows += 1;
        }
    }
    assert!(windows >= u32::from(lives));
    assert!(windower.gaps() >= u64::from(lives) - 1);
}

#[test]
fn a_scanner_over_tcp_may_be_unplugged_at_any_time() {
    pull_the_plug("tcp", "rtpjpegdepay");
}

#[test]
fn a_scanner_over_udp_may_be_unplugged_at_any_time() {
    pull_the_plug("udp", "rtph264depay wait-for-keyframe=true ! h264parse");
}

/// Senders that are killed and started again, in front of the ready lines of
/// `pipelines/network.toml`.
#[test]
fn senders_over_srt_and_rtp_come_and_go() {
    const ENCODE: &str = "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=5 threads=1";
    for (send, receive) in [
        (
            "mpegtsmux ! srtsink uri=srt://127.0.0.1:PORT?mode=listener latency=60 wait-for-connection=false",
            "srtsrc uri=srt://127.0.0.1:PORT?mode=caller latency=60 ! tsdemux ! h264parse",
        ),
        (
            "rtph264pay config-interval=-1 pt=96 ! udpsink host=127.0.0.1 port=PORT",
            "udpsrc port=PORT caps=application/x-rtp,media=video,clock-rate=90000,encoding-name=H264,payload=96 \
             ! rtpjitterbuffer latency=60 ! rtph264depay wait-for-keyframe=true ! h264parse",
        ),
    ] {
        let port = free_port().to_string();
        let mut bed = Bed::open(live(&receive.replace("PORT", &port)));
        for life in 1..=3_usize {
            let before = bed.interruptions();
            let line = format!(
                "videotestsrc is-live=true ! video/x-raw,width=160,height=120,framerate=30/1 \
                 ! {ENCODE} ! {send}"
            );
            let sender = Command::new("gst-launch-1.0")
                .arg("-q")
                .args(line.replace("PORT", &port).split_whitespace())
                .spawn();
            let sender = Scanner(sender.unwrap());
            let frames = bed.frames.len();
            bed.watch("frames", |bed| bed.frames.len() > frames + 10);
            drop(sender);
            bed.watch("the interruption", |bed| bed.interruptions() > before);
            let cuts = bed
                .frames
                .iter()
                .filter(|frame| frame.discontinuity)
                .count();
            assert!(cuts + 1 >= life, "{cuts} cuts in life {life}");
        }
        bed.close();
        assert!(bed.end.is_none());
    }
}

#[test]
fn the_launch_lines_of_the_ready_pipeline_files_are_usable() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines");
    let mut lines = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let pipeline = Pipeline::load(&entry.unwrap().path()).unwrap();
        for source in pipeline.sources {
            let SourceKind::Launch(line) = source.kind else {
                continue;
            };
            lines += 1;
            let mut request = live(&line);
            request.reconnect = None;
            request.first_frame_timeout = Duration::from_millis(300);
            let mut bed = Bed::open(request);
            bed.watch("its end", |bed| bed.end.is_some());
            let error = bed.end.take().unwrap().unwrap_err();
            // Nobody sends here; but it is no fault of the line.
            assert!(
                matches!(
                    error,
                    IngestError::Element { .. } | IngestError::NeverStarted { .. }
                ),
                "{error}"
            );
        }
    }
    assert!(lines >= 5);
}

#[test]
fn a_source_that_ends_is_opened_again_and_its_time_goes_on() {
    let mut bed = Bed::open(live(
        "videotestsrc is-live=true num-buffers=5 \
         ! video/x-raw,format=GRAY8,width=160,height=120,framerate=50/1",
    ));
    bed.watch("four lives", |bed| bed.frames.len() >= 20);
    bed.close();
    assert!(bed.metrics.interrupted(Interruption::Ended).get() >= 3);
    for (frame, index) in bed.frames.iter().zip(0..) {
        assert_eq!(frame.index, index);
        assert_eq!(frame.discontinuity, index > 0 && index % 5 == 0, "{index}");
    }
    let between = |pair: &[Frame]| pair[1].time.since(pair[0].time).unwrap();
    // The pause of 50 ms and the time to open it lie between two lives.
    assert!(between(&bed.frames[4..6]) >= Duration::from_millis(50));
    assert!(between(&bed.frames[4..6]) < Duration::from_secs(5));
}

#[test]
fn a_source_that_cannot_be_reached_is_tried_for_ever() {
    let port = free_port();
    let mut bed = Bed::open(live(&format!(
        "rtspsrc location=rtsp://127.0.0.1:{port}/liver protocols=tcp"
    )));
    bed.watch("attempts", |bed| {
        bed.metrics.interrupted(Interruption::Failed).get() >= 4
    });
    assert!(bed.end.is_none() && bed.frames.is_empty());
    bed.close();
}

#[test]
fn what_no_time_can_mend_ends_a_live_stream() {
    let mut bed = Bed::open(live("nosuchelement"));
    bed.watch("its end", |bed| bed.end.is_some());
    assert!(matches!(bed.end, Some(Err(IngestError::BadLaunch { .. }))));
    bed.close();
}

#[test]
fn frames_that_a_slow_reader_never_sees_leave_a_gap_and_are_counted() {
    let mut request = live(
        "videotestsrc is-live=true num-buffers=120 \
         ! video/x-raw,format=GRAY8,width=1920,height=1080,framerate=1000/1",
    );
    request.queue = 4096;
    request.reconnect = None;
    // To make a frame of this size takes longer than a millisecond.
    request.size = FrameSize {
        height: 2160,
        width: 3840,
    };
    let mut bed = Bed::open(request);
    bed.watch("the end", |bed| bed.end.is_some());
    bed.close();
    let missed = bed.metrics.dropped(DropReason::ReaderBusy).get();
    assert!(missed > 0);
    let last = bed.frames.last().unwrap();
    assert_eq!(last.index + 1, bed.metrics.received.get());
    let holes: u64 = bed
        .frames
        .windows(2)
        .map(|pair| pair[1].index - pair[0].index - 1)
        .sum();
    assert_eq!(holes + bed.frames[0].index, missed);
}
