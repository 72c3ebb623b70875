//! `hepaflow model`: make a model directory from PyTorch weights, look into one.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;

use super::BadInput;
use super::numerics::{self, NumericsArgs};
use super::results::print;
use crate::domain::{Spread, StageRange};
use crate::engine::{Device, Engine, EngineOptions, SessionOptions};
use crate::model::{
    Architecture, Graph, ImportOptions, Model, Node, OnnxOptions, Op, import, import_onnx, to_onnx,
    usual_classes,
};

/// Makes and inspects model directories.
#[derive(Args)]
pub(super) struct ModelArgs {
    #[command(subcommand)]
    command: ModelCommand,
}

#[derive(Subcommand)]
enum ModelCommand {
    Import(ImportArgs),
    Inspect(InspectArgs),
    Export(ExportArgs),
    Numerics(NumericsArgs),
}

/// Makes a model directory from weights under PyTorch's own names.
///
/// The weights are a safetensors file of a state dict, as torchvision names it
/// (`stem.0.weight`, `layer1.0.conv1.0.weight`, ...). Widths, depths, input
/// channels and LSTM sizes are read off the tensors; `scripts/import_torchvision.py`
/// saves a torchvision model in this form.
///
/// Or from an ONNX file with --onnx: convolutions, batch norm, `ReLU`, additions,
/// pooling, linear layers and LSTMs are known; whatever else it holds is named.
#[derive(Args)]
struct ImportArgs {
    /// The network's kind.
    #[arg(long, value_enum, required_unless_present = "onnx")]
    architecture: Option<Architecture>,
    /// How many classes: 2 to 5, or what they mean, such as F0-F1,F2-F4.
    #[arg(long, value_name = "K|RANGES", value_parser = classes)]
    classes: Classes,
    /// The weights.
    #[arg(
        long,
        value_name = "FILE.safetensors",
        required_unless_present = "onnx"
    )]
    weights: Option<PathBuf>,
    /// A whole network instead, with its weights inside: clips [N, C, T, H, W]
    /// or pictures [N, C, H, W] to logits.
    #[arg(long, value_name = "FILE.onnx", conflicts_with_all = ["architecture", "weights"])]
    onnx: Option<PathBuf>,
    /// The directory to make.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Frames in a window.
    #[arg(long, default_value_t = 16)]
    frames: usize,
    /// How many frames a second it has learned from: sources that give more are
    /// thinned to that [default: every frame counts].
    #[arg(long, value_name = "RATE")]
    frames_per_second: Option<f32>,
    /// Rows of a picture.
    #[arg(long, default_value_t = 112)]
    height: usize,
    /// Columns of a picture.
    #[arg(long, default_value_t = 112)]
    width: usize,
    /// Mean of each channel, as a fraction of white; one value serves all.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "M,..",
        allow_negative_numbers = true
    )]
    mean: Vec<f32>,
    /// Standard deviation of each channel; one value serves all.
    #[arg(long, value_delimiter = ',', value_name = "S,..")]
    std: Vec<f32>,
    /// The weights were made without patients' data.
    #[arg(long)]
    synthetic: bool,
    /// Where the weights come from, for people to read.
    #[arg(long, default_value = "")]
    note: String,
}

/// Lists a model's layers, shapes, parameters and cost.
#[derive(Args)]
struct InspectArgs {
    /// The model directory.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// What windows that lie so many frames apart share, layer by layer, on the
    /// CPU.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..))]
    stride: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Writes a model as ONNX: `clips` [N, C, T, H, W], normalised, to `logits`.
#[derive(Args)]
struct ExportArgs {
    /// The model directory.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The file to write.
    #[arg(long, value_name = "FILE.onnx")]
    onnx: PathBuf,
}

#[derive(Clone)]
struct Classes(Vec<StageRange>);

fn classes(text: &str) -> Result<Classes, String> {
    if let Ok(count) = text.parse() {
        return usual_classes(count)
            .map(Classes)
            .ok_or_else(|| format!("{count} classes have no usual meaning: name the ranges"));
    }
    let ranges = text.split(',').map(str::parse::<StageRange>);
    ranges
        .collect::<Result<_, _>>()
        .map(Classes)
        .map_err(|error| error.to_string())
}

pub(super) fn run(args: ModelArgs) -> anyhow::Result<()> {
    match args.command {
        ModelCommand::Import(args) => {
            let output = args.output.clone();
            let model = make(args)?;
            print(&format!(
                "{}: {} {}\n",
                output.display(),
                model.spec().architecture,
                model.hash().short()
            ))
        }
        ModelCommand::Inspect(args) => inspect(&args),
        ModelCommand::Numerics(args) => numerics::run(&args),
        ModelCommand::Export(args) => {
            let model = Model::load(&args.directory).map_err(BadInput::new)?;
            fs::write(&args.onnx, to_onnx(&model))
                .with_context(|| format!("cannot write {}", args.onnx.display()))
        }
    }
}

fn make(args: ImportArgs) -> anyhow::Result<Model> {
    let classes = args.classes.0;
    if let Some(onnx) = &args.onnx {
        let options = OnnxOptions {
            classes,
            extent: [args.frames, args.height, args.width],
            frames_per_second: args.frames_per_second,
            mean: args.mean,
            std: args.std,
            synthetic: args.synthetic,
            note: args.note,
        };
        return Ok(import_onnx(onnx, &args.output, &options).map_err(BadInput::new)?);
    }
    let (Some(architecture), Some(weights)) = (args.architecture, args.weights) else {
        return Err(anyhow!("name --architecture and --weights, or --onnx"));
    };
    let options = ImportOptions {
        architecture,
        classes,
        frames: args.frames,
        frames_per_second: args.frames_per_second,
        height: args.height,
        width: args.width,
        mean: args.mean,
        std: args.std,
        synthetic: args.synthetic,
        note: args.note,
    };
    Ok(import(&weights, &args.output, &options).map_err(BadInput::new)?)
}

fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let model = Model::load(&args.directory).map_err(BadInput::new)?;
    if let Some(stride) = args.stride {
        return inspect_sharing(&model, stride as usize, args.json);
    }
    let graph = model.graph();
    let parameters: usize = graph
        .parameters()
        .iter()
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum();
    let cost: u64 = graph
        .nodes()
        .iter()
        .map(|node| graph.multiply_adds(node))
        .sum();
    let largest = graph
        .nodes()
        .iter()
        .map(|node| node.shape.len())
        .max()
        .unwrap_or_default();
    let spec = model.spec();
    if args.json {
        let layers: Vec<_> = graph
            .nodes()
            .iter()
            .map(|node| {
                let [t, h, w] = node.shape.extent;
                json!({
                    "name": node.name,
                    "operation": operation(node),
                    "shape": [node.shape.channels, t, h, w],
                    "parameters": own_parameters(graph, node),
                    "multiply_adds": graph.multiply_adds(node),
                })
            })
            .collect();
        let report = json!({
            "hash": model.hash().to_string(),
            "spec": spec,
            "layers": layers,
            "parameters": parameters,
            "multiply_adds": cost,
            "largest_activation_bytes": largest * size_of::<f32>(),
        });
        return print(&(serde_json::to_string_pretty(&report)? + "\n"));
    }
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "layer",
        "operation",
        "shape [C, T, H, W]",
        "parameters",
        "MMAC",
    ]);
    for node in graph.nodes() {
        // What is fused away is not worth a line.
        if matches!(
            node.op,
            Op::Relu | Op::BatchNorm | Op::Add | Op::CropTime { .. }
        ) {
            continue;
        }
        table.add_row([
            node.name.clone(),
            operation(node),
            node.shape.to_string(),
            own_parameters(graph, node).to_string(),
            format!("{:.2}", graph.multiply_adds(node) as f64 / 1e6),
        ]);
    }
    for column in [3, 4] {
        let column = table
            .column_mut(column)
            .ok_or_else(|| anyhow!("the table has five columns"))?;
        column.set_cell_alignment(CellAlignment::Right);
    }
    let classes: Vec<_> = spec.classes.iter().map(StageRange::to_string).collect();
    let mut text = format!("{} {}\n{table}\n", spec.architecture, model.hash());
    text += &format!("classes     {}\n", classes.join(", "));
    text += &format!("parameters  {parameters}\n");
    text += &format!("cost        {:.3} GMAC a clip\n", cost as f64 / 1e9);
    text += &format!(
        "activations {:.1} MB at most in one layer\n",
        largest as f64 * 4.0 / 1e6
    );
    if let Some(known) = &spec.reference {
        let shown = |spread: Option<Spread>| {
            spread.map_or_else(
                || "not known".to_owned(),
                |spread| format!("{:.3} (SD {:.3})", spread.mean, spread.deviation),
            )
        };
        text += &format!(
            "reference   severity {}, brightness {}; {} windows of {} patients\n",
            shown(known.severity),
            shown(known.brightness),
            known.windows,
            known.patients
        );
    }
    if spec.synthetic {
        text += "weights     made from synthetic data: answers mean nothing for a person\n";
    }
    if !spec.note.is_empty() {
        text += &format!("note        {}\n", spec.note);
    }
    print(&text)
}

/// What a window costs that follows others.
fn inspect_sharing(model: &Model, stride: usize, json: bool) -> anyhow::Result<()> {
    let options = EngineOptions {
        device: Device::Cpu,
        ..EngineOptions::default()
    };
    let engine = Engine::open(model, options)?;
    let plan = engine.session_plan(SessionOptions {
        stride,
        early: true,
        attention: false,
    });
    let cost = plan.cost();
    let reason = plan.clip_by_clip().map(|reason| reason.to_string());
    if json {
        let layers = plan.layers().iter().map(|(name, cost)| {
            json!({
                "name": name,
                "dense": cost.dense,
                "window": cost.window,
                "last_frame": cost.last_frame,
            })
        });
        let report = json!({
            "stride": stride,
            "clip_by_clip": reason,
            "layers": layers.collect::<Vec<_>>(),
            "dense": cost.dense,
            "window": cost.window,
            "last_frame": cost.last_frame,
            "session_bytes": plan.session_bytes(),
        });
        return print(&(serde_json::to_string_pretty(&report)? + "\n"));
    }
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["layer", "whole clip", "next window", "after its last frame"]);
    let mega = |count: u64| format!("{:.2}", count as f64 / 1e6);
    let all = ("all, in MMAC".to_owned(), cost);
    for (name, cost) in plan.layers().iter().chain([&all]) {
        table.add_row([
            name.clone(),
            mega(cost.dense),
            mega(cost.window),
            mega(cost.last_frame),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let length = model.spec().input.frames;
    let mut text = format!("windows of {length} frames, {stride} frames apart\n{table}\n");
    text += &match reason {
        Some(reason) => format!("sharing     none: {reason}\n"),
        None => format!("sharing     {:.2} times less work\n", 1.0 / cost.ratio()),
    };
    text += &format!(
        "session     {:.1} kB at most\n",
        plan.session_bytes() as f64 / 1e3
    );
    print(&text)
}

fn own_parameters(graph: &Graph, node: &Node) -> usize {
    let prefix = format!("{}.", node.name);
    let own = |name: &str| {
        name.strip_prefix(&prefix)
            .is_some_and(|rest| !rest.contains('.'))
    };
    let parameters = graph.parameters();
    parameters
        .iter()
        .filter(|(name, _)| own(name))
        .map(|(_, s)| s.iter().product::<usize>())
        .sum()
}

fn operation(node: &Node) -> String {
    let by = |extent: [usize; 3]| format!("{}x{}x{}", extent[0], extent[1], extent[2]);
    match node.op {
        Op::Input => "input".to_owned(),
        Op::Conv(conv) => format!("conv {} / {}", by(conv.kernel), by(conv.stride)),
        Op::BatchNorm => "batch norm".to_owned(),
        Op::Relu => "relu".to_owned(),
        Op::Add => "add".to_owned(),
        Op::CropTime { frames } => format!("leave out {frames} frames at each end"),
        Op::GlobalAveragePool => "mean over time and space".to_owned(),
        Op::FrameAveragePool => "mean over each frame".to_owned(),
        Op::MaxPool(pool) => format!("max {} / {}", by(pool.kernel), by(pool.stride)),
        Op::AveragePool(pool) => format!("mean {} / {}", by(pool.kernel), by(pool.stride)),
        Op::Lstm(lstm) => format!("lstm {} x {}", lstm.hidden, lstm.layers),
        Op::Linear { .. } => "linear".to_owned(),
        Op::LogMeanSoftmax => "log mean probability".to_owned(),
    }
}
