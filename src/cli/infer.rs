//! `hepaflow infer`: tensors in, logits out, for scripts and for comparison
//! with other runtimes.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::BadInput;
use crate::engine::{Device, Engine, EngineOptions, Precision};
use crate::model::Model;

/// Scores clips from a file: normalised tensors in, logits out.
///
/// The input is a safetensors file with a tensor `clips` of shape
/// [N, C, T, H, W], f32, normalised as the model's mean and std say. The output
/// is a safetensors file with a tensor `logits` of shape [N, classes].
#[derive(Args)]
pub(super) struct InferArgs {
    /// The model directory.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Where the clips are.
    #[arg(long, value_name = "clips.safetensors")]
    input: PathBuf,
    /// Where the logits go.
    #[arg(long, value_name = "logits.safetensors")]
    output: PathBuf,
    /// What executes the model.
    #[arg(long, value_enum, default_value_t)]
    device: Device,
    /// What it computes in.
    #[arg(long, value_enum, default_value_t)]
    precision: Precision,
    /// Threads that share each clip's layers; the answer is the same.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
}

pub(super) fn run(args: &InferArgs) -> anyhow::Result<()> {
    let model = Model::load(&args.model).map_err(BadInput::new)?;
    let options = EngineOptions {
        device: args.device,
        precision: args.precision,
    };
    let engine = Engine::open(&model, options).map_err(BadInput::new)?;
    let (shape, clips) = read_clips(&args.input).map_err(BadInput)?;
    let mut workspace = engine.workspace_of(args.threads.into())?;
    let logits = engine
        .infer_tensor(&mut workspace, &clips, &shape)
        .with_context(|| args.input.display().to_string())
        .map_err(BadInput)?;

    let bytes: Vec<u8> = logits
        .iter()
        .flat_map(|logit| logit.to_le_bytes())
        .collect();
    let shape = vec![shape[0], model.spec().classes.len()];
    let view = TensorView::new(Dtype::F32, shape, &bytes).context("cannot lay out the logits")?;
    safetensors::serialize_to_file([("logits", view)], None, &args.output)
        .with_context(|| format!("cannot write {}", args.output.display()))
}

/// Clips `[N, C, T, H, W]`, and their shape.
pub(super) fn read_clips(file: &PathBuf) -> anyhow::Result<(Vec<usize>, Vec<f32>)> {
    let name = file.display();
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {name}"))?;
    let stored = SafeTensors::deserialize(&bytes)
        .with_context(|| format!("{name} is no whole safetensors file"))?;
    let view = stored.tensor("clips").map_err(|_| {
        anyhow!(
            "{name} has no tensor `clips`; it has: {}",
            stored.names().join(", ")
        )
    })?;
    if view.dtype() != Dtype::F32 {
        return Err(anyhow!(
            "{name}: `clips` is {:?}: expected F32",
            view.dtype()
        ));
    }
    let values = view
        .data()
        .as_chunks::<4>()
        .0
        .iter()
        .map(|value| f32::from_le_bytes(*value));
    Ok((view.shape().to_vec(), values.collect()))
}
