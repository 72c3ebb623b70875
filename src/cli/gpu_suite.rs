//! `hepaflow gpu-suite`: everything that can only be known on a card.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use super::BadInput;
use super::bench::noise;
use crate::engine::cuda::suite;
use crate::engine::{Device, Engine, EngineOptions, Precision};
use crate::model::{
    Architecture, Graph, InputSpec, Lstm, Model, ModelSpec, Op, random_weights, usual_classes,
};

/// Checks and times the kernels on this machine's NVIDIA card.
///
/// First every kernel against its definition, then whole networks against the
/// CPU, then timings in batches of 1, 8 and 32, and of every layer: results.json,
/// and table.md, which leaves the layers out. The networks have random weights and
/// are left in the output folder with two clips and their logits, where
/// `scripts/gpu_peer.py` finds them to time PyTorch. `scripts/gpu_suite.sh` runs
/// both.
#[derive(Args)]
pub(super) struct GpuSuiteArgs {
    /// Where networks, results.json and table.md go.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// One part only.
    #[arg(long, value_enum)]
    only: Option<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Every kernel against its definition: for compute-sanitizer, too.
    Kernels,
    /// Whole networks against the CPU.
    Networks,
    /// Timings.
    Timings,
    /// The networks' files, without a card.
    Files,
}

const BATCHES: [usize; 3] = [1, 8, 32];

const RESULTS: &str = "results.json";

pub(super) fn run(args: &GpuSuiteArgs) -> anyhow::Result<()> {
    let wants = |part| args.only.is_none_or(|only| only == part);
    fs::create_dir_all(&args.output)
        .with_context(|| format!("cannot create {}", args.output.display()))?;
    if args.only == Some(Part::Files) {
        return models()
            .iter()
            .try_for_each(|(name, spec)| write_model(&args.output.join(name), spec).map(drop));
    }
    let mut report = suite::identify().map_err(BadInput::new)?;
    println!("{}, {}", report.date, report.card);
    println!("{}, CUDA {}", report.driver, report.driver_cuda_version);
    println!("kernel sources {}", report.kernel_sources);
    if !report.done_without.is_empty() {
        println!("FAIL done without: {}", report.done_without.join(", "));
    }
    if wants(Part::Kernels) {
        report.kernels = suite::kernels(|result| {
            let verdict = if result.passed { "ok  " } else { "FAIL" };
            let difference = match (&result.difference, &result.error) {
                (Some(difference), _) => format!("{difference:.1e} of {:.1e}", result.tolerance),
                (None, error) => error.clone().unwrap_or_default(),
            };
            println!("{verdict} {}: {difference}", result.name);
        })?;
        write(&args.output, &report)?;
    }
    for (name, spec) in models() {
        if !wants(Part::Networks) && !wants(Part::Timings) {
            break;
        }
        let model = write_model(&args.output.join(name), &spec)?;
        if wants(Part::Networks) {
            for result in suite::network(name, &model)? {
                let verdict = if result.passed { "ok  " } else { "FAIL" };
                println!(
                    "{verdict} {name}, {}: {:.1e} of {:.1e} from the CPU, {} of another class",
                    result.precision,
                    result.agreement.largest_error,
                    result.tolerance,
                    result.agreement.changed
                );
                report.networks.push(result);
            }
        }
        if wants(Part::Timings) {
            for timing in suite::timings(name, &model, &BATCHES)? {
                println!(
                    "     {name}, {}, batch {}, {}: {:.3} ms, {:.0} clips/s; {:.3} ms with copies",
                    timing.precision,
                    timing.batch,
                    timing.by,
                    timing.milliseconds,
                    timing.clips_per_second,
                    timing.answer_milliseconds
                );
                report.timings.push(timing);
            }
            let ends = [BATCHES[0], BATCHES[BATCHES.len() - 1]];
            report
                .layers
                .extend(suite::layer_timings(name, &model, &ends)?);
        }
        write(&args.output, &report)?;
    }
    if !report.passed() {
        bail!(
            "the kernels are not right on this card, see {}",
            args.output.join(RESULTS).display()
        );
    }
    Ok(())
}

/// Writes results.json and table.md: after each part anew, so that what is known stays when
/// the time on a card is over.
fn write(folder: &Path, report: &suite::Report) -> anyhow::Result<()> {
    let results = serde_json::to_string_pretty(report)? + "\n";
    for (name, text) in [("table.md", table(report)), (RESULTS, results)] {
        let file = folder.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// The timings, for people; `scripts/gpu_peer.py` adds PyTorch's.
fn table(report: &suite::Report) -> String {
    let mut text = "| network | precision | batch | by | ms | clips/s | ms with copies |\n\
                    |---|---|---|---|---|---|---|\n"
        .to_owned();
    for timing in &report.timings {
        text += &format!(
            "| {} | {} | {} | {} | {:.3} | {:.0} | {:.3} |\n",
            timing.network,
            timing.precision,
            timing.batch,
            timing.by,
            timing.milliseconds,
            timing.clips_per_second,
            timing.answer_milliseconds
        );
    }
    text
}

/// The networks, in the sizes that people use.
fn models() -> Vec<(&'static str, ModelSpec)> {
    let video = InputSpec {
        channels: 3,
        frames: 16,
        frames_per_second: None,
        height: 112,
        width: 112,
        mean: vec![0.432_16, 0.394_666, 0.376_45],
        std: vec![0.228_03, 0.221_45, 0.216_989],
    };
    let grey = InputSpec {
        channels: 1,
        mean: vec![0.2893],
        std: vec![0.171],
        ..video.clone()
    };
    let spec =
        |architecture, widths: &[usize], hidden: Option<usize>, input: &InputSpec| ModelSpec {
            architecture,
            widths: widths.to_vec(),
            depths: None,
            stem_frames: None,
            layers: Vec::new(),
            reference: None,
            lstm: hidden.map(|hidden| Lstm { hidden, layers: 1 }),
            classes: usual_classes(5).unwrap_or_default(),
            synthetic: true,
            note: "random weights, for timing".to_owned(),
            input: input.clone(),
        };
    let resnet = [64, 128, 256, 512];
    vec![
        ("r3d_18", spec(Architecture::R3d18, &resnet, None, &video)),
        ("mc3_18", spec(Architecture::Mc318, &resnet, None, &video)),
        (
            "r2plus1d_18",
            spec(Architecture::R2plus1d18, &resnet, None, &video),
        ),
        (
            "resnet18_lstm",
            spec(Architecture::Resnet18Lstm, &resnet, Some(256), &video),
        ),
        (
            "fibro3d",
            spec(Architecture::Fibro3d, &[16, 32, 64], None, &grey),
        ),
        (
            "fibro2d",
            spec(Architecture::Fibro2d, &[16, 32, 64, 128], None, &grey),
        ),
        (
            "fibro2d_lstm",
            spec(
                Architecture::Fibro2dLstm,
                &[16, 32, 64, 128],
                Some(128),
                &grey,
            ),
        ),
    ]
}

/// Writes a model directory with random weights of usual sizes, its graph for
/// programs that do not know the architectures, and two clips with the logits that
/// the CPU has for them: whoever builds the network anew must come to the same.
fn write_model(folder: &Path, spec: &ModelSpec) -> anyhow::Result<Model> {
    let graph = spec.graph().map_err(|problem| anyhow!(problem))?;
    fs::create_dir_all(folder)?;
    fs::write(folder.join("model.toml"), toml::to_string(spec)?)?;
    let weights = random_weights(&graph, 1)?;
    fs::write(folder.join("weights.safetensors"), weights)?;
    let described = json!({ "input": spec.input, "nodes": describe(&graph) });
    fs::write(folder.join("graph.json"), described.to_string())?;
    let model = Model::load(folder)?;
    let input = &spec.input;
    let shape = [2, input.channels, input.frames, input.height, input.width];
    let clips = noise(shape.iter().product());
    let options = EngineOptions {
        device: Device::Cpu,
        precision: Precision::F32,
    };
    let engine = Engine::open(&model, options)?;
    let logits = engine.infer_tensor(&mut engine.workspace(), &clips, &shape)?;
    let bytes = |values: &[f32]| -> Vec<u8> {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        bytes.collect()
    };
    let of_logits = vec![2, spec.classes.len()];
    let (clips, logits) = (bytes(&clips), bytes(&logits));
    let views = [
        (
            "clips",
            TensorView::new(Dtype::F32, shape.to_vec(), &clips)?,
        ),
        ("logits", TensorView::new(Dtype::F32, of_logits, &logits)?),
    ];
    safetensors::serialize_to_file(views, None, &folder.join("answers.safetensors"))?;
    Ok(model)
}

/// The graph as `scripts/gpu_peer.py` reads it.
fn describe(graph: &Graph) -> Vec<serde_json::Value> {
    let nodes = graph.nodes().iter();
    nodes
        .map(|node| {
            let inputs: Vec<_> = node.inputs.iter().map(|input| input.0).collect();
            let mut described = json!({ "name": node.name, "inputs": inputs });
            let mut set = |key: &str, value: serde_json::Value| described[key] = value;
            match node.op {
                Op::Input => set("op", json!("input")),
                Op::Conv(conv) => {
                    set("op", json!("conv"));
                    set("stride", json!(conv.stride));
                    set("padding", json!(conv.padding));
                    set("planar", json!(conv.planar));
                }
                Op::BatchNorm => {
                    set("op", json!("batch_norm"));
                    set("epsilon", json!(graph.batch_norm_epsilon()));
                }
                Op::Relu => set("op", json!("relu")),
                Op::Add => set("op", json!("add")),
                Op::CropTime { frames } => {
                    set("op", json!("crop_time"));
                    set("frames", json!(frames));
                }
                Op::GlobalAveragePool => set("op", json!("global_average_pool")),
                Op::FrameAveragePool => set("op", json!("frame_average_pool")),
                Op::MaxPool(pool) | Op::AveragePool(pool) => {
                    let is_max = matches!(node.op, Op::MaxPool(_));
                    set(
                        "op",
                        json!(if is_max { "max_pool" } else { "average_pool" }),
                    );
                    set("kernel", json!(pool.kernel));
                    set("stride", json!(pool.stride));
                    set("padding", json!(pool.padding));
                }
                Op::Lstm(lstm) => {
                    set("op", json!("lstm"));
                    set("hidden", json!(lstm.hidden));
                    set("layers", json!(lstm.layers));
                }
                Op::Linear { .. } => set("op", json!("linear")),
                Op::LogMeanSoftmax => set("op", json!("log_mean_softmax")),
            }
            described
        })
        .collect()
}
