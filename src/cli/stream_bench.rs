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
/// For each stride, windows of noise are scored in turn both ways, so that what
/// disturbs the machine disturbs both; the logits must be equal to the last bit.
/// Times are medians for a window, in milliseconds of CPU time of one thread.
///
/// `early` is what is left to do when a window's last frame comes, if each frame
/// before it was worked on at once: the latency that a live stream sees.
#[derive(Args)]
pub(super) struct StreamBenchArgs {
    /// Model directories.
    #[arg(long, value_name = "DIR", required = true, num_args = 1..)]
    model: Vec<PathBuf>,
    /// Frames from one window to the next.
    #[arg(long, value_name = "S,..", value_delimiter = ',', default_values_t = [1, 2, 4, 8],
          value_parser = clap::value_parser!(u16).range(1..))]
    stride: Vec<u16>,
    /// For how long to measure each stride.
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// What it computes in.
    #[arg(long, value_enum, default_value_t)]
    precision: Precision,
    /// One JSON array instead of a table.
    #[arg(long)]
    json: bool,
}

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
            device: Device::Cpu,
            precision: args.precision,
        };
        let engine = Engine::open(&model, options).map_err(BadInput::new)?;
        let length = model.spec().input.frames;
        for &stride in &args.stride {
            eprintln!("{}, stride {stride} ...", directory.display());
            let row = measure(&engine, &model.spec().input, stride.into(), args.duration)?;
            let macs = row.plan.cost().ratio();
            table.add_row([
                model.spec().architecture.to_string(),
                length.to_string(),
                stride.to_string(),
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
    let mut video = Video::new(input, stride);
    let shared_plan = plan(false);
    let mut shared = Follower::new(engine, &shared_plan);
    let mut early = Follower::new(engine, &plan(true));
    let mut workspace = engine.workspace();
    let (mut whole_times, mut shared_times, mut early_times) = (vec![], vec![], vec![]);
    let mut difference = 0.0_f32;
    let mut begin = Instant::now();
    let mut warm = false;
    while !warm || begin.elapsed() < duration || whole_times.len() < 3 {
        let clip = video.next_window();
        let clock = ThreadTime::now();
        let rows = engine.infer(&mut workspace, std::slice::from_ref(clip))?;
        whole_times.push(clock.elapsed());
        let expected = rows.into_iter().next().context("no logits")?;
        for (follower, times) in [
            (&mut shared, &mut shared_times),
            (&mut early, &mut early_times),
        ] {
            let (logits, last) = follower.follow(engine, clip, stride)?;
            times.push(last);
            let differences = logits.iter().zip(&expected).map(|(a, b)| (a - b).abs());
            difference = differences.fold(difference, f32::max);
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
        windows: whole_times.len(),
        whole: median(&mut whole_times),
        shared: median(&mut shared_times),
        early: median(&mut early_times),
        difference,
        plan: shared_plan,
    })
}

/// A session that is given windows frame by frame.
struct Follower {
    session: Session,
    workspace: Workspace,
    begun: bool,
    early: bool,
}

impl Follower {
    fn new(engine: &Engine, plan: &SessionPlan) -> Self {
        Self {
            session: engine.session(plan),
            workspace: engine.workspace(),
            begun: false,
            early: plan.options().early,
        }
    }

    /// The window's logits, and how long they took: from its last frame on if the
    /// session works early, else from the first of its new ones.
    fn follow(
        &mut self,
        engine: &Engine,
        clip: &Clip,
        new: usize,
    ) -> anyhow::Result<(Vec<f32>, Duration)> {
        let known = if self.begun {
            clip.frames.len() - new
        } else {
            0
        };
        self.begun = true;
        let mut clock = ThreadTime::now();
        let mut logits = None;
        for frame in &clip.frames[known..] {
            if self.early {
                clock = ThreadTime::now();
            }
            logits = self.session.push(engine, &mut self.workspace, frame)?;
        }
        Ok((logits.context("a window without logits")?, clock.elapsed()))
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
    fn new(input: &InputSpec, stride: usize) -> Self {
        Self {
            clip: Clip {
                stream: StreamId(0),
                frames: Vec::new(),
            },
            frames: input.frames,
            stride,
            area: input.height * input.width,
            index: 0,
            noise: Noise::new(),
        }
    }

    fn next_window(&mut self) -> &Clip {
        if !self.clip.frames.is_empty() {
            self.clip.frames.drain(..self.stride);
        }
        while self.clip.frames.len() < self.frames {
            let frame = self.frame();
            self.clip.frames.push(frame);
        }
        &self.clip
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
