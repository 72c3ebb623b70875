//! `hepaflow model numerics`: what a precision costs a model's answers.

use std::path::PathBuf;

use clap::Args;
use indicatif::ProgressIterator;
use serde_json::json;

use super::BadInput;
use super::infer::read_clips;
use super::results::print;
use crate::engine::{Agreement, Device, Engine, EngineOptions, Precision};
use crate::model::Model;

/// Compares a model's answers in a precision with those in f32, clip by clip.
///
/// Says how far the logits are off, as a part of the largest one, and how many
/// clips are decided otherwise: get another class. Give clips of your own, which
/// the model is made for; without any, clips of noise are scored, which say how
/// rounding adds up but nothing about decisions that matter.
#[derive(Args)]
pub(super) struct NumericsArgs {
    /// The model directory.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The precision that is judged.
    #[arg(long, value_enum, default_value = "bf16")]
    precision: Precision,
    /// Clips: a safetensors file as for `hepaflow infer`, with a tensor `clips`
    /// [N, C, T, H, W] of normalised f32.
    #[arg(long, value_name = "clips.safetensors")]
    input: Option<PathBuf>,
    /// How many clips of noise, where none are given.
    #[arg(long, default_value_t = 32, conflicts_with = "input",
          value_parser = clap::value_parser!(u16).range(1..))]
    noise: u16,
    /// What executes the model in that precision; f32 is always the CPU's.
    #[arg(long, value_enum, default_value = "cpu")]
    device: Device,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &NumericsArgs) -> anyhow::Result<()> {
    let model = Model::load(&args.directory).map_err(BadInput::new)?;
    let open = |device, precision| {
        let options = EngineOptions { device, precision };
        Engine::open(&model, options).map_err(BadInput::new)
    };
    let (reference, judged) = (
        open(Device::Cpu, Precision::F32)?,
        open(args.device, args.precision)?,
    );
    let input = &model.spec().input;
    let clip = [input.channels, input.frames, input.height, input.width];
    let values: usize = clip.iter().product();
    let (shape, clips) = match &args.input {
        Some(file) => read_clips(file).map_err(BadInput)?,
        None => {
            let count = usize::from(args.noise);
            let shape = [&[count], &clip[..]].concat();
            (shape, super::bench::noise(count * values))
        }
    };
    let mut spaces = [reference.workspace(), judged.workspace()];
    let (mut right, mut found) = (Vec::new(), Vec::new());
    // Whatever does not fit is told of by the first.
    let count = shape.first().copied().unwrap_or(0);
    if shape.get(1..) != Some(&clip[..]) || clips.len() != count * values || count == 0 {
        let error = anyhow::anyhow!(
            "clips of shape {shape:?} do not fit: the model takes [N, {}, {}, {}, {}], N at least 1",
            clip[0],
            clip[1],
            clip[2],
            clip[3]
        );
        return Err(BadInput(error).into());
    }
    let shape = [&[1], &clip[..]].concat();
    for clip in clips.chunks_exact(values).progress() {
        right.extend(reference.infer_tensor(&mut spaces[0], clip, &shape)?);
        found.extend(judged.infer_tensor(&mut spaces[1], clip, &shape)?);
    }
    let agreement = Agreement::of(&found, &right, model.spec().classes.len());
    if args.json {
        let report = json!({
            "model": model.hash().to_string(),
            "clips_are_noise": args.input.is_none(),
            "reference": reference.description(),
            "judged": judged.description(),
            "agreement": agreement,
        });
        return print(&(serde_json::to_string_pretty(&report)? + "\n"));
    }
    let of = if args.input.is_some() {
        "clips"
    } else {
        "clips of noise"
    };
    print(&format!(
        "{} beside {}, {} {of}\n\
         logits off by {:.1e} at most and {:.1e} in the mean, of the largest, which is {:.3}\n\
         {} decided otherwise{}\n",
        judged.description(),
        reference.description(),
        agreement.clips,
        agreement.largest_error,
        agreement.mean_error,
        agreement.largest_logit,
        agreement.changed,
        if agreement.changed > 0 {
            format!(
                ": the right class led by {:.1e} of the largest logit at most",
                agreement.clearest_change
            )
        } else {
            String::new()
        },
    ))
}
