//! `hepaflow model numerics`: what a precision costs a model's answers.

#[cfg(feature = "gstreamer")]
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use indicatif::ProgressIterator;
use serde_json::json;

use super::BadInput;
use super::infer::read_clips;
use super::results::print;
use crate::engine::{Agreement, Device, Engine, EngineError, EngineOptions, Precision, Workspace};
use crate::model::{InputSpec, Model};
#[cfg(feature = "gstreamer")]
use {
    super::recording::{self, Source},
    crate::domain::{Clip, Frame, FrameSize, StreamId},
    crate::ingest::{Look, sandbox::Sandbox},
};

/// Compares a model's answers in a precision with those in f32, clip by clip.
///
/// Says how far the logits are off, as a part of the largest one, and how many
/// clips are decided otherwise: get another class. Give recordings or clips of your
/// own, which the model is made for; without any, clips of noise are scored, which
/// say how rounding adds up but nothing about decisions that matter.
#[derive(Args)]
pub(super) struct NumericsArgs {
    /// The model directory.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The precision that is judged.
    #[arg(long, value_enum, default_value = "bf16")]
    precision: Precision,
    /// Recordings: videos, DICOM files or folders of numbered pictures, seen as a run
    /// sees them, in windows that follow each other.
    #[cfg(feature = "gstreamer")]
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["input", "noise"])]
    recording: Vec<PathBuf>,
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

/// Both engines, and what they have said.
struct Pair {
    engines: [Engine; 2],
    spaces: [Workspace; 2],
    /// Of each, one row behind the other.
    logits: [Vec<f32>; 2],
}

impl Pair {
    fn score(
        &mut self,
        answer: impl Fn(&Engine, &mut Workspace) -> Result<Vec<f32>, EngineError>,
    ) -> anyhow::Result<()> {
        let spaces = self.engines.iter().zip(&mut self.spaces);
        for ((engine, space), logits) in spaces.zip(&mut self.logits) {
            logits.extend(answer(engine, space)?);
        }
        Ok(())
    }

    /// Clips `[N, C, T, H, W]`, or so many of noise.
    fn score_tensor(&mut self, input: &InputSpec, args: &NumericsArgs) -> anyhow::Result<()> {
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
        // Whatever does not fit is told of by the first.
        let count = shape.first().copied().unwrap_or(0);
        if shape.get(1..) != Some(&clip[..]) || clips.len() != count * values || count == 0 {
            let error = anyhow::anyhow!(
                "clips of shape {shape:?} do not fit: the model takes [N, {}, {}, {}, {}], N at \
                 least 1",
                clip[0],
                clip[1],
                clip[2],
                clip[3]
            );
            return Err(BadInput(error).into());
        }
        let shape = [&[1], &clip[..]].concat();
        for clip in clips.chunks_exact(values).progress() {
            self.score(|engine, space| engine.infer_tensor(space, clip, &shape))?;
        }
        Ok(())
    }

    /// The windows of a recording that follow each other without overlapping.
    #[cfg(feature = "gstreamer")]
    fn score_recording(
        &mut self,
        file: &Path,
        input: &InputSpec,
        sandbox: &Sandbox,
    ) -> anyhow::Result<()> {
        let size = FrameSize {
            height: input.height,
            width: input.width,
        };
        let mut source = Source::open(file, (None, Look::default(), size), input, sandbox)?;
        source.header()?;
        let mut frames: Vec<Frame> = Vec::with_capacity(input.frames);
        while let Some(frame) = source.next()? {
            if frames.last().is_some_and(|last| !frame.follows(last.index)) {
                frames.clear();
            }
            frames.push(frame);
            if frames.len() == input.frames {
                let clip = Clip {
                    stream: StreamId(0),
                    frames: std::mem::take(&mut frames),
                };
                self.score(|engine, space| {
                    let rows = engine.infer(space, std::slice::from_ref(&clip))?;
                    Ok(rows.concat())
                })?;
            }
        }
        Ok(())
    }
}

pub(super) fn run(args: &NumericsArgs) -> anyhow::Result<()> {
    let model = Model::load(&args.directory).map_err(BadInput::new)?;
    let open = |device, precision| {
        let options = EngineOptions { device, precision };
        Engine::open(&model, options).map_err(BadInput::new)
    };
    let engines = [
        open(Device::Cpu, Precision::F32)?,
        open(args.device, args.precision)?,
    ];
    let spaces = [engines[0].workspace(), engines[1].workspace()];
    let mut pair = Pair {
        engines,
        spaces,
        logits: Default::default(),
    };
    let input = &model.spec().input;
    #[cfg(feature = "gstreamer")]
    let recordings = args.recording.as_slice();
    #[cfg(not(feature = "gstreamer"))]
    let recordings: &[PathBuf] = &[];
    if recordings.is_empty() {
        pair.score_tensor(input, args)?;
    }
    #[cfg(feature = "gstreamer")]
    if !recordings.is_empty() {
        let sandbox = recording::sandbox()?;
        for file in recordings.iter().progress() {
            pair.score_recording(file, input, &sandbox)?;
        }
        if pair.logits[0].is_empty() {
            let error = anyhow::anyhow!(
                "no recording has a window: this model looks at {} frames in a row",
                input.frames
            );
            return Err(BadInput(error).into());
        }
    }
    let [right, found] = &pair.logits;
    let [reference, judged] = &pair.engines;
    let agreement = Agreement::of(found, right, model.spec().classes.len());
    let is_noise = args.input.is_none() && recordings.is_empty();
    if args.json {
        let report = json!({
            "model": model.hash().to_string(),
            "clips_are_noise": is_noise,
            "reference": reference.description(),
            "judged": judged.description(),
            "agreement": agreement,
        });
        return print(&(serde_json::to_string_pretty(&report)? + "\n"));
    }
    let of = if is_noise { "clips of noise" } else { "clips" };
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
