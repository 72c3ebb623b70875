//! `hepaflow bench`: what a clip costs on this machine, for people who choose a
//! model and for comparison with other runtimes.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use cpu_time::ProcessTime;

use super::BadInput;
use crate::engine::{Device, Engine, EngineOptions, Precision, Workspace};
use crate::model::Model;

/// Runs whose median is the time of each layer.
const LAYER_RUNS: usize = 15;

/// Times a model: milliseconds a clip, of the clock and of the processor.
///
/// Clips of noise are scored for a while, after a few that do not count. The
/// median is what to expect; the smallest is what this machine can do when
/// nothing else runs.
#[derive(Args)]
pub(super) struct BenchArgs {
    /// The model directory.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Clips given to the engine at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Threads that share each clip's layers.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
    /// For how long to measure.
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// What executes the model.
    #[arg(long, value_enum, default_value_t)]
    device: Device,
    /// What it computes in.
    #[arg(long, value_enum, default_value_t)]
    precision: Precision,
    /// The time of each layer too, on the CPU.
    #[arg(long)]
    layers: bool,
    /// Time steps of training instead: loss, gradients and Adam, in seconds.
    #[cfg(feature = "train")]
    #[arg(long, conflicts_with_all = ["device", "precision", "layers"])]
    training: bool,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let model = Model::load(&args.model).map_err(BadInput::new)?;
    #[cfg(feature = "train")]
    if args.training {
        return training(args, &model);
    }
    let options = EngineOptions {
        device: args.device,
        precision: args.precision,
    };
    let engine = Engine::open(&model, options).map_err(BadInput::new)?;
    let mut workspace = engine.workspace_of(args.threads.into())?;
    let input = &model.spec().input;
    let batch = usize::from(args.batch);
    let shape = [
        batch,
        input.channels,
        input.frames,
        input.height,
        input.width,
    ];
    let clips = noise(shape.iter().product());
    let mut score = || engine.infer_tensor(&mut workspace, &clips, &shape);

    let begin = Instant::now();
    while begin.elapsed() < args.duration / 4 {
        score().context("cannot score a clip")?;
    }
    let (mut wall, mut cpu) = (Vec::new(), Vec::new());
    let begin = Instant::now();
    while begin.elapsed() < args.duration || wall.len() < 3 {
        let (clock, process) = (Instant::now(), ProcessTime::now());
        score().context("cannot score a clip")?;
        let per_clip = |time: Duration| time.as_secs_f64() * 1e3 / batch as f64;
        cpu.push(per_clip(process.elapsed()));
        wall.push(per_clip(clock.elapsed()));
    }
    let layers = if args.layers {
        layer_times(&engine, &mut workspace, &clips[..clips.len() / batch])
    } else {
        Vec::new()
    };
    let memory = engine.memory();
    let layer_report = layers
        .iter()
        .map(|(name, kind, ms)| serde_json::json!({ "name": name, "kind": kind, "cpu_ms": ms }));
    let report = serde_json::json!({
        "engine": engine.description(),
        "batch": batch,
        "threads": args.threads,
        "runs": wall.len(),
        "wall_ms": summary(&mut wall),
        "cpu_ms": summary(&mut cpu),
        "weights_bytes": memory.weights,
        "workspace_bytes": memory.workspace,
        "peak_bytes": peak_memory(),
        "layers": layer_report.collect::<Vec<_>>(),
    });
    if args.json {
        println!("{report}");
        return Ok(());
    }
    println!("{}, {} at once", engine.description(), args.batch);
    for (name, key) in [("wall", "wall_ms"), ("cpu", "cpu_ms")] {
        let of = |part| report[key][part].as_f64().unwrap_or_default();
        println!(
            "{name:5} {:9.3} ms a clip (median of {} runs; smallest {:.3}, largest {:.3})",
            of("median"),
            wall.len(),
            of("min"),
            of("max")
        );
    }
    println!(
        "memory {:7.1} MB of weights, {:.1} MB a workspace",
        memory.weights as f64 / 1e6,
        memory.workspace as f64 / 1e6
    );
    if !layers.is_empty() {
        let sum: f64 = layers.iter().map(|(.., ms)| ms).sum();
        for (name, kind, ms) in &layers {
            println!("{ms:9.3} ms  {:5.1} %  {name} ({kind})", 100.0 * ms / sum);
        }
    }
    Ok(())
}

/// Medians in milliseconds, for what lies in the workspace.
/// Seconds for a step of training.
#[cfg(feature = "train")]
fn training(args: &BenchArgs, model: &Model) -> anyhow::Result<()> {
    use crate::study::train::{Batch, Network, Optimiser, Rule};
    let input = &model.spec().input;
    let count = usize::from(args.batch);
    let values = count * input.channels * input.frames * input.height * input.width;
    let classes = model.spec().classes.len();
    let batch = Batch {
        clips: noise(values),
        labels: (0..count).map(|clip| clip % classes).collect(),
    };
    let mut network = Network::from_model(model).map_err(BadInput::new)?;
    let mut optimiser = Optimiser::new(Rule::Adam, 0.01, &network);
    let threads = rayon::ThreadPoolBuilder::new()
        .num_threads(args.threads.into())
        .build()?;
    let mut seconds = Vec::new();
    let begin = Instant::now();
    threads.install(|| {
        while begin.elapsed() < args.duration || seconds.len() < 4 {
            let clock = Instant::now();
            let (_, gradients) = network.gradients(&batch, &vec![1.0; classes]);
            optimiser.step(&mut network, &gradients, 1e-3);
            seconds.push(clock.elapsed().as_secs_f64());
        }
    });
    // The first warms up.
    seconds.remove(0);
    let steps = seconds.len();
    let summary = summary(&mut seconds);
    if args.json {
        println!(
            "{}",
            serde_json::json!({ "steps": steps, "step_s": summary })
        );
    } else {
        println!(
            "a step of {count}: {summary} s, {steps} steps, {} threads",
            args.threads
        );
    }
    Ok(())
}

fn layer_times(
    engine: &Engine,
    workspace: &mut Workspace,
    clip: &[f32],
) -> Vec<(String, &'static str, f64)> {
    let runs: Vec<_> = (0..LAYER_RUNS)
        .map(|_| engine.layer_times(workspace, clip))
        .collect();
    let steps = runs.first().into_iter().flatten().enumerate();
    steps
        .map(|(number, (name, kind, _))| {
            let mut times: Vec<_> = runs.iter().map(|run| run[number].2).collect();
            times.sort_unstable();
            (
                name.clone(),
                *kind,
                times[times.len() / 2].as_secs_f64() * 1e3,
            )
        })
        .collect()
}

/// The most memory that this process has held, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

fn summary(times: &mut [f64]) -> serde_json::Value {
    times.sort_by(f64::total_cmp);
    serde_json::json!({
        "min": times.first(),
        "median": times.get(times.len() / 2),
        "max": times.last(),
    })
}

/// Numbers without a pattern, the same every time (Marsaglia's xorshift).
pub(super) struct Noise(u64);

impl Noise {
    pub(super) fn new(seed: u32) -> Self {
        // Odd, and so never zero.
        Self(0x2545_f491_4f6c_dd1d ^ u64::from(seed) << 32)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Values in -1..1.
pub(super) fn noise(len: usize) -> Vec<f32> {
    let mut noise = Noise::new(0);
    let values = (0..len).map(|_| (noise.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0);
    values.collect()
}
