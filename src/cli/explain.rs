//! `hepaflow explain`: where a model looks in a recording.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::BadInput;
use super::recording::{self, Source};
use super::results::print;
use crate::domain::{Clip, Crop, Frame, FrameSize, StreamId};
use crate::engine::{Device, Engine, EngineOptions, Workspace, softmax};
use crate::ingest::{Look, USUAL_INTERVAL};
use crate::model::Model;
use crate::study::heat::{enlarged, painted, write_png};
use crate::study::video::{Encoder, Format};
use crate::study::{Picture, Pixels};

/// Show where a model looks in a recording: Grad-CAM over its pictures.
///
/// The recording is cut into windows that do not overlap, the last one so that it
/// ends with the recording. For each, the map says which places spoke for the
/// class, and is laid over the pictures in colour, as bright as its share of the
/// window's strongest place.
///
/// The directory gets `overlay.mp4`, the frames with the most attention as
/// `key-1.png` and so on, and `heat.csv` with a row for each frame: mean and
/// strongest attention, in units of the logit, and where that lies in the picture.
///
/// A map says what a network reacted to, not that the reaction was right.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  hepaflow explain --model models/demo --out seen liver.mp4
  hepaflow explain --model models/demo --out seen --class F2-F4 liver.dcm")]
pub(super) struct ExplainArgs {
    /// The recording: a video, a DICOM file, or a folder of numbered pictures, taken
    /// for 25 a second.
    #[arg(value_name = "FILE")]
    input: PathBuf,
    /// The model directory.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Directory to write; made if it does not exist.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What to look for, by its name or number [default: the likeliest of each
    /// window].
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
    /// How many key frames to write.
    #[arg(long, value_name = "N", default_value_t = 3)]
    key_frames: usize,
}

pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<()> {
    let model = Model::load(&args.model).map_err(BadInput::new)?;
    let classes: Vec<_> = model
        .spec()
        .classes
        .iter()
        .map(ToString::to_string)
        .collect();
    let class = args.class.as_deref();
    let class = class.map(|name| class_of(name, &classes)).transpose()?;
    let options = EngineOptions {
        device: Device::Cpu,
        ..EngineOptions::default()
    };
    let engine = Engine::open(&model, options).map_err(BadInput::new)?;
    let input = &model.spec().input;
    let size = FrameSize {
        height: input.height,
        width: input.width,
    };
    let sandbox = recording::sandbox()?;

    // Once as the model sees it, and once as people do.
    // Nothing is left out, so that both give the same frames.
    let small_look = Look {
        gate: false,
        ..Look::default()
    };
    let mut small = Source::open(&args.input, (None, small_look, size), input, &sandbox)?;
    let header = small.header()?;
    let shown = even(header.crop);
    let size = FrameSize {
        height: shown.height as usize,
        width: shown.width as usize,
    };
    let mut large = Source::open(
        &args.input,
        (Some(shown), Look::PLAIN, size),
        input,
        &sandbox,
    )?;
    large.header()?;

    fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make {}", args.out.display()))
        .map_err(BadInput)?;
    let interval = header.frame_interval.unwrap_or(USUAL_INTERVAL);
    let format = Format {
        size,
        pixels: Pixels::Rgb,
        frames_per_second: (1.0 / interval.as_secs_f64()).round().max(1.0) as u32,
    };
    let heat = args.out.join("heat.csv");
    let mut overlay = Overlay {
        engine: &engine,
        workspace: engine.workspace(),
        class,
        classes: &classes,
        crop: shown,
        size,
        encoder: Encoder::to_mp4(format, &args.out.join("overlay.mp4"))?,
        table: csv::Writer::from_path(&heat).with_context(|| unwritable(&heat))?,
        windows: Vec::new(),
        key_frames: Vec::new(),
    };
    overlay.table.write_record([
        "frame",
        "time_s",
        "window",
        "class",
        "p",
        "heat_mean",
        "heat_peak",
        "peak_x",
        "peak_y",
    ])?;
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template(
        "{spinner} {pos} frames  {per_sec}",
    )?);

    let mut recent: VecDeque<(Frame, Frame)> = VecDeque::new();
    let (mut fresh, mut left_out) = (0, 0);
    while let Some(frame) = small.next()? {
        let beside = large.next()?;
        let beside = beside.context("the recording ended early when it was read again")?;
        if frame.discontinuity {
            left_out += overlay.finish_series(&mut recent, &mut fresh, input.frames)?;
        }
        if recent.len() == input.frames {
            recent.pop_front();
        }
        recent.push_back((frame, beside));
        fresh += 1;
        if recent.len() == input.frames && fresh == input.frames {
            overlay.window(&recent, fresh)?;
            fresh = 0;
        }
        bar.inc(1);
    }
    left_out += overlay.finish_series(&mut recent, &mut fresh, input.frames)?;
    bar.finish_and_clear();
    if overlay.windows.is_empty() {
        return Err(BadInput(anyhow!(
            "{}: {left_out} frames in a row at most; this model looks at {} at a time",
            args.input.display(),
            input.frames
        ))
        .into());
    }
    let windows = overlay.finish(&args.out, args.key_frames)?;
    let mut text = windows.join("\n") + "\n";
    if left_out > 0 {
        text += &format!("{left_out} frames are in no window and were left out\n");
    }
    if model.spec().synthetic {
        text += "The model was made from SYNTHETIC data: this means nothing for a person.\n";
    }
    print(&(text + &format!("written: {}\n", args.out.display())))
}

fn class_of(name: &str, classes: &[String]) -> anyhow::Result<usize> {
    let by_name = classes.iter().position(|class| class == name);
    let by_number = || name.parse().ok().filter(|class| *class < classes.len());
    by_name.or_else(by_number).ok_or_else(|| {
        let names = classes.join(", ");
        BadInput(anyhow!("--class {name}: this model's classes are {names}")).into()
    })
}

/// The largest part with an even number of rows and columns, as video codecs want
/// them.
fn even(crop: Crop) -> Crop {
    Crop {
        width: (crop.width & !1).max(2),
        height: (crop.height & !1).max(2),
        ..crop
    }
}

pub(super) fn unwritable(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

/// What is written, window by window.
struct Overlay<'a> {
    engine: &'a Engine,
    workspace: Workspace,
    class: Option<usize>,
    classes: &'a [String],
    /// The part of the recording's picture that is shown.
    crop: Crop,
    size: FrameSize,
    encoder: Encoder,
    table: csv::Writer<File>,
    /// For people, a line each.
    windows: Vec<String>,
    /// The frame of each window with the most attention.
    key_frames: Vec<(f64, Picture)>,
}

impl Overlay<'_> {
    /// Ends a series of frames that follow each other: its last window, and how
    /// many frames are in none.
    fn finish_series(
        &mut self,
        recent: &mut VecDeque<(Frame, Frame)>,
        fresh: &mut usize,
        length: usize,
    ) -> anyhow::Result<usize> {
        let mut left_out = 0;
        if *fresh > 0 && recent.len() == length {
            self.window(recent, *fresh)?;
        } else {
            left_out = *fresh;
        }
        *fresh = 0;
        recent.clear();
        Ok(left_out)
    }

    /// Scores a window, and draws its last `fresh` frames.
    fn window(&mut self, frames: &VecDeque<(Frame, Frame)>, fresh: usize) -> anyhow::Result<()> {
        let clip = Clip {
            stream: StreamId(0),
            frames: frames.iter().map(|(small, _)| small.clone()).collect(),
        };
        let (logits, attention) = self
            .engine
            .explain(&mut self.workspace, &clip, self.class)
            .map_err(BadInput::new)?;
        let probability = softmax(&logits)[attention.class];
        let class = self.classes[attention.class].as_str();
        let strongest = attention.values.iter().copied().fold(0.0, f32::max);
        let number = self.windows.len() + 1;
        let mut best: Option<(f64, Picture)> = None;
        for (place, (_, frame)) in frames.iter().enumerate().skip(frames.len() - fresh) {
            let heat = enlarged(&attention, place, self.size)?;
            let peak = heat.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            let (at, peak) = peak.map_or((0, 0.0), |(at, peak)| (at, *peak));
            let mean = heat.iter().map(|h| f64::from(*h)).sum::<f64>() / heat.len() as f64;
            let (x, y) = (at % self.size.width, at / self.size.width);
            self.table.write_record([
                frame.index.to_string(),
                format!("{:.3}", frame.time.as_nanos() as f64 / 1e9),
                number.to_string(),
                class.to_owned(),
                format!("{probability:.4}"),
                format!("{mean:.6}"),
                format!("{peak:.6}"),
                (x + self.crop.x as usize).to_string(),
                (y + self.crop.y as usize).to_string(),
            ])?;
            let picture = painted(&frame.pixels, &heat, strongest, self.size);
            if best.as_ref().is_none_or(|(most, _)| mean > *most) {
                best = Some((mean, picture.clone()));
            }
            self.encoder.push(picture)?;
        }
        self.key_frames.extend(best);
        let (first, last) = (clip.frames.first(), clip.frames.last());
        let index = |frame: Option<&Frame>| frame.map_or(0, |frame| frame.index);
        self.windows.push(format!(
            "frames {:4} to {:4}: {class} {probability:.2}",
            index(first),
            index(last)
        ));
        Ok(())
    }

    /// Completes the files; gives the windows' lines.
    fn finish(mut self, out: &Path, key_frames: usize) -> anyhow::Result<Vec<String>> {
        self.encoder.finish()?;
        self.table.flush().context("cannot write heat.csv")?;
        self.key_frames.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (number, (_, picture)) in self.key_frames.iter().take(key_frames).enumerate() {
            write_png(&out.join(format!("key-{}.png", number + 1)), picture)?;
        }
        Ok(self.windows)
    }
}
