use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::super::BadInput;
use super::super::explain::unwritable;
use super::super::results::print;
use super::sheet;
use crate::config::Pipeline;
use crate::domain::{Crop, FrameSize, PatientId};
use crate::ingest::{Arrival, Look, Media, Seen, SourceRequest, Stream, USUAL_INTERVAL};
use crate::metrics::Metrics;
use crate::study::heat::write_png;

/// Show which part of a recording the model would see, and which pictures are
/// left out, and why.
///
/// The directory gets `sheet.png`: pictures of the recording, evenly spaced and
/// wherever the decision changes. The part in use is framed, what is blackened
/// is tinted, and each says whether it is used or why not. `frames.csv` has a row
/// for each picture: the decision and what it rests on.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  hepaflow ingest preview liver.dcm --out seen
  hepaflow ingest preview frames/ --out seen
  hepaflow ingest preview liver.mp4 --pipeline p.toml --source archive --out seen")]
pub(super) struct PreviewArgs {
    /// The recording: a video, a DICOM file, a picture, or a folder of numbered
    /// pictures.
    #[arg(value_name = "FILE")]
    input: PathBuf,
    /// Directory to write; made if it does not exist.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Take `[ingest] crop` and `gate` from this pipeline file [default: both on].
    #[arg(long, value_name = "PIPELINE.toml")]
    pipeline: Option<PathBuf>,
    /// Take the crop of this source of the pipeline file.
    #[arg(long, value_name = "NAME", requires = "pipeline")]
    source: Option<String>,
}

/// Evenly spaced pictures, at most this many, and at least half of it of long
/// recordings; and those where the decision changes.
const EVENLY: usize = 16;
const CHANGES: usize = 24;

/// What is kept of the pictures seen.
#[derive(Default)]
struct Kept {
    evenly: Vec<Seen>,
    step: u64,
    changes: Vec<Seen>,
    last: Option<String>,
    rows: Vec<[String; 10]>,
    counts: BTreeMap<&'static str, usize>,
}

impl Kept {
    fn note(&mut self, seen: Seen) {
        let decision = seen.reason.map_or("used", |reason| reason.as_str());
        *self.counts.entry(decision).or_default() += 1;
        let number = |value: f32| format!("{value:.4}");
        let measures = seen.measures;
        let (difference, others) = measures.difference.unzip();
        self.rows.push([
            seen.index.to_string(),
            decision.to_owned(),
            format!(
                "{}x{}+{}+{}",
                seen.crop.width, seen.crop.height, seen.crop.x, seen.crop.y
            ),
            measures.colour.map(number).unwrap_or_default(),
            difference.map(number).unwrap_or_default(),
            others.map(number).unwrap_or_default(),
            measures.shared_histogram.map(number).unwrap_or_default(),
            measures.span.to_string(),
            number(measures.dark_below),
            number(measures.beside),
        ]);
        // The crop belongs to the decision.
        let decision = format!("{decision} {:?}", seen.crop);
        if self.last.as_ref() != Some(&decision) {
            self.last = Some(decision);
            if self.changes.len() < CHANGES {
                self.changes.push(seen);
                return;
            }
        }
        self.step = self.step.max(1);
        if !seen.index.is_multiple_of(self.step) {
            return;
        }
        self.evenly.push(seen);
        if self.evenly.len() > EVENLY {
            self.step *= 2;
            let step = self.step;
            self.evenly.retain(|seen| seen.index.is_multiple_of(step));
        }
    }
}

pub(super) fn run(args: &PreviewArgs) -> anyhow::Result<()> {
    let (look, crop) = look(args)?;
    let request = SourceRequest {
        name: "preview".into(),
        media: Media::File(args.input.clone()),
        patient: Some(PatientId::new("preview")),
        crop,
        look,
        // Not looked at here: what is shown is what was measured.
        size: FrameSize {
            height: 32,
            width: 32,
        },
        queue: 8,
        live: false,
        reconnect: None,
        first_frame_timeout: Duration::from_secs(20),
        // Of pictures that do not say it; what is shown does not depend on it.
        frame_interval: Some(USUAL_INTERVAL),
        pace: None,
    };
    let kept = Arc::new(Mutex::new(Kept::default()));
    let watch = {
        let kept = Arc::clone(&kept);
        Arc::new(move |seen| {
            kept.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .note(seen);
        })
    };
    let reader = thread::current();
    let wake = Arc::new(move || reader.unpark());
    let metrics = Metrics::new()?.source("preview");
    let stream = Stream::open_watched(request, wake, metrics, watch);
    let end = loop {
        match stream.try_next() {
            Some(Arrival::Ended(end)) => break end,
            Some(_) => {}
            None => thread::park_timeout(Duration::from_millis(100)),
        }
    };
    drop(stream);
    let kept = std::mem::take(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner));

    // Of what breaks off, the beginning is worth seeing.
    if !kept.rows.is_empty() {
        write(args, &kept)?;
    }
    end.map_err(BadInput::new)?;
    let mut text = String::new();
    for (decision, count) in &kept.counts {
        text += &format!("{count:6} {decision}\n");
    }
    print(&text)?;
    eprintln!("See {}", args.out.join("sheet.png").display());
    Ok(())
}

/// What the pipeline file says, or else everything on.
fn look(args: &PreviewArgs) -> anyhow::Result<(Look, Option<Crop>)> {
    let Some(file) = &args.pipeline else {
        return Ok((Look::default(), None));
    };
    let pipeline = Pipeline::load(file).map_err(BadInput::new)?;
    let look = Look {
        find: pipeline.ingest.find_crop,
        gate: pipeline.ingest.gate,
    };
    let Some(name) = &args.source else {
        return Ok((look, None));
    };
    let source = pipeline.sources.iter().find(|source| source.name == *name);
    let source = source
        .with_context(|| format!("{} has no source `{name}`", file.display()))
        .map_err(BadInput)?;
    Ok((look, source.crop))
}

fn write(args: &PreviewArgs, kept: &Kept) -> anyhow::Result<()> {
    fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make {}", args.out.display()))
        .map_err(BadInput)?;
    let path = args.out.join("frames.csv");
    let mut table = csv::Writer::from_path(&path).with_context(|| unwritable(&path))?;
    table.write_record([
        "frame",
        "decision",
        "crop",
        "colour_share",
        "mean_difference",
        "differing_share",
        "shared_histogram",
        "span",
        "dark_below",
        "beside",
    ])?;
    for row in &kept.rows {
        table.write_record(row)?;
    }
    table.flush().with_context(|| unwritable(&path))?;
    let mut shown: Vec<_> = kept.evenly.iter().chain(&kept.changes).collect();
    shown.sort_by_key(|seen| seen.index);
    write_png(&args.out.join("sheet.png"), &sheet::draw(&shown))?;
    Ok(())
}
