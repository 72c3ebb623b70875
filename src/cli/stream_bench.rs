//! `hepaflow stream-bench`: what overlapping windows cost when they share what
//! they have in common, beside each of them by itself, in the same run.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use cpu_time::ThreadTime;
use serde_json::json;

use super::BadInput;
use super::bench::Noise;
use super::results::print;
use crate::domain::{Clip, EventTime, Frame, StreamId};
use crate::engine::{
    Device, Engine, EngineOptions, Precision, Session, SessionOptions, SessionPlan, Workspace,
};
use crate::model::{InputSpec, Model};

/// Times the windows of a video: by themselves, and with what they share.
///
/// For each stride, windows of noise are scored both ways in turns of a few, so that
/// what disturbs the machine disturbs both, and each finds in the caches what its own
/// last window left there; the logits must be equal to the last bit. Times are medians
/// for a window, in milliseconds of CPU time of one thread.
///
/// `early` is what is left to do when a window's last frame comes, if each frame
/// before it was worked on at once: the latency that a live stream sees.
///
/// With `--streams N`, the windows of so many streams are due together and computed
/// together; times are still those of one window. On a card they are times of the
/// clock.
#[derive(Args)]
pub(super) struct StreamBenchArgs {
    /// Model directories.
    #[arg(long, value_name = "DIR", required = true, num_args = 1..)]
    model: Vec<PathBuf>,
    /// Frames from one window to the next.
    #[arg(long, value_name = "S,..", value_delimiter = ',', default_values_t = [1, 2, 4, 8],
          value_parser = clap::value_parser!(u16).range(1..))]
    stride: Vec<u16>,
    /// Streams whose windows come at the same time.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..))]
    streams: u16,
    /// For how long to measure each stride.
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    device: Device,
    /// What it computes in.
    #[arg(long, value_enum, default_value_t)]
    precision: Precision,
    /// One JSON array instead of a table.
    #[arg(long)]
    json: bool,
}

/// Windows that are scored one way before they are scored another way: the most, and how
/// long they take about.
const TURN: u128 = 8;
const TURN_TIME: Duration = Duration::from_millis(50);

/// One model at one stride; CPU milliseconds a window.
struct Row {
    whole: f64,
    shared: f64,
    early: f64,
    windows: usize,
    difference: f32,
    plan: SessionPlan,
}

pub(super) fn run(args: &StreamBenchArgs) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "model",
        "W",
        "S",
        "streams",
        "whole ms",
        "shared ms",
        "ratio",
        "early ms",
        "MACs",
        "kB",
        "differs",
    ]);
    let mut reports = Vec::new();
    for directory in &args.model {
        let model = Model::load(directory).map_err(BadInput::new)?;
        let options = EngineOptions {
            device: args.device,
            precision: args.precision,
        };
        let engine = Engine::open(&model, options).map_err(BadInput::new)?;
        let length = model.spec().input.frames;
        for &stride in &args.stride {
            eprintln!("{}, stride {stride} ...", directory.display());
            let input = &model.spec().input;
            let row = measure(
                &engine,
                input,
                stride.into(),
                args.streams.into(),
                args.duration,
            )?;
            let macs = row.plan.cost().ratio();
            table.add_row([
                model.spec().architecture.to_string(),
                length.to_string(),
                stride.to_string(),
                args.streams.to_string(),
                format!("{:.2}", row.whole),
                format!("{:.2}", row.shared),
                format!("{:.2}", row.shared / row.whole),
                format!("{:.2}", row.early),
                format!("{macs:.2}"),
                format!("{:.0}", row.plan.session_bytes() as f64 / 1e3),
                format!("{}", row.difference),
            ]);
            reports.push(json!({
                "model": directory,
                "architecture": model.spec().architecture.to_string(),
                "engine": engine.description(),
                "frames": length,
                "stride": stride,
                "streams": args.streams,
                "windows": row.windows,
                "whole_ms": row.whole,
                "shared_ms": row.shared,
                "early_ms": row.early,
                "mac_ratio": macs,
                "session_bytes": row.plan.session_bytes(),
                "largest_difference": row.difference,
                "clip_by_clip": row.plan.clip_by_clip().map(|reason| reason.to_string()),
            }));
        }
    }
    if args.json {
        return print(&(serde_json::to_string_pretty(&reports)? + "\n"));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    print(&format!("{table}\n"))
}

fn measure(
    engine: &Engine,
    input: &InputSpec,
    stride: usize,
    streams: usize,
    duration: Duration,
) -> anyhow::Result<Row> {
    // Windows that are further apart share nothing either.
    let stride = stride.min(input.frames);
    let plan = |early| {
        engine.session_plan(SessionOptions {
            stride,
            early,
            attention: false,
        })
    };
    let mut videos: Vec<_> = (0..streams as u32)
        .map(|stream| Video::new(input, stride, stream))
        .collect();
    let shared_plan = plan(false);
    let mut shared = Followers::new(engine, &shared_plan, streams);
    let mut early = Followers::new(engine, &plan(true), streams);
    let mut workspace = engine.workspace();
    let (mut whole_times, mut shared_times, mut early_times) = (vec![], vec![], vec![]);
    let mut difference = 0.0_f32;
    let mut begin = Instant::now();
    let mut warm = false;
    let mut turn = 1;
    while !warm || begin.elapsed() < duration || whole_times.len() < 3 {
        let next = |_| videos.iter_mut().map(Video::next_window).collect();
        let windows: Vec<Vec<Clip>> = (0..turn).map(next).collect();
        let mut expected = Vec::new();
        for clips in &windows {
            let clock = Clock::start(engine);
            let mut logits = Vec::with_capacity(streams);
            for clips in clips.chunks(engine.batch()) {
                logits.extend(engine.infer(&mut workspace, clips)?);
            }
            let time = clock.elapsed();
            turn = (TURN_TIME.as_nanos() / time.as_nanos().max(1)).clamp(1, TURN);
            whole_times.push(time / streams as u32);
            expected.push(logits);
        }
        for (followers, times) in [
            (&mut shared, &mut shared_times),
            (&mut early, &mut early_times),
        ] {
            for (clips, expected) in windows.iter().zip(&expected) {
                let (logits, last) = followers.follow(engine, &mut workspace, clips, stride)?;
                times.push(last / streams as u32);
                let pairs = logits.iter().flatten().zip(expected.iter().flatten());
                let differences = pairs.map(|(a, b)| (a - b).abs());
                difference = differences.fold(difference, f32::max);
            }
        }
        if !warm && (begin.elapsed() > duration / 4 && whole_times.len() > 2) {
            // What came before was to fill caches.
            warm = true;
            begin = Instant::now();
            for times in [&mut whole_times, &mut shared_times, &mut early_times] {
                times.clear();
            }
        }
    }
    Ok(Row {
        windows: whole_times.len() * streams,
        whole: median(&mut whole_times),
        shared: median(&mut shared_times),
        early: median(&mut early_times),
        difference,
        plan: shared_plan,
    })
}

/// Time of this thread where it computes, else of the wall's clock.
enum Clock {
    Thread(ThreadTime),
    Wall(Instant),
}

impl Clock {
    fn start(engine: &Engine) -> Self {
        if engine.is_on_card() {
            Self::Wall(Instant::now())
        } else {
            Self::Thread(ThreadTime::now())
        }
    }

    fn elapsed(&self) -> Duration {
        match self {
            Self::Thread(clock) => clock.elapsed(),
            Self::Wall(clock) => clock.elapsed(),
        }
    }
}

/// Sessions that are given windows frame by frame, a frame of each at a time.
struct Followers {
    sessions: Vec<Session>,
    begun: bool,
    early: bool,
}

impl Followers {
    fn new(engine: &Engine, plan: &SessionPlan, streams: usize) -> Self {
        Self {
            sessions: (0..streams).map(|_| engine.session(plan)).collect(),
            begun: false,
            early: plan.options().early,
        }
    }

    /// The windows' logits, and how long they took: from their last frames on if the
    /// sessions work early, else from the first of their new ones.
    fn follow(
        &mut self,
        engine: &Engine,
        workspace: &mut Workspace,
        clips: &[Clip],
        new: usize,
    ) -> anyhow::Result<(Vec<Vec<f32>>, Duration)> {
        let frames = clips.first().map_or(0, |clip| clip.frames.len());
        let known = if self.begun { frames - new } else { 0 };
        self.begun = true;
        let mut clock = Clock::start(engine);
        let mut logits = Vec::new();
        for frame in known..frames {
            if self.early {
                clock = Clock::start(engine);
            }
            let sessions = self.sessions.iter_mut();
            let mut arrivals: Vec<_> = sessions
                .zip(clips.iter().map(|clip| &clip.frames[frame]))
                .collect();
            logits = engine.push_all(workspace, &mut arrivals);
        }
        let time = clock.elapsed();
        let logits = logits
            .into_iter()
            .map(|logits| logits?.context("a window without logits"));
        Ok((logits.collect::<anyhow::Result<_>>()?, time))
    }
}

/// Frames of noise, window by window.
struct Video {
    clip: Clip,
    frames: usize,
    stride: usize,
    area: usize,
    index: u64,
    noise: Noise,
}

impl Video {
    fn new(input: &InputSpec, stride: usize, stream: u32) -> Self {
        Self {
            clip: Clip {
                stream: StreamId(stream),
                frames: Vec::new(),
            },
            frames: input.frames,
            stride,
            area: input.height * input.width,
            index: 0,
            noise: Noise::new(stream),
        }
    }

    fn next_window(&mut self) -> Clip {
        if !self.clip.frames.is_empty() {
            self.clip.frames.drain(..self.stride);
        }
        while self.clip.frames.len() < self.frames {
            let frame = self.frame();
            self.clip.frames.push(frame);
        }
        self.clip.clone()
    }

    fn frame(&mut self) -> Frame {
        let pixels = (0..self.area).map(|_| (self.noise.next() >> 56) as u8);
        let pixels = pixels.collect();
        let index = self.index;
        self.index += 1;
        Frame {
            index,
            time: EventTime::from_nanos(index * 33_000_000),
            arrived: Instant::now(),
            discontinuity: false,
            skipped: 0,
            pixels,
        }
    }
}

/// In milliseconds.
fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    let middle = times.get(times.len() / 2);
    middle.map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}
