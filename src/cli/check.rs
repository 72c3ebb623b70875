//! `hepaflow check`: everything that is wrong with a pipeline file, at once.

use std::path::PathBuf;

use clap::Args;

use super::results::print;
use super::{BadInput, side_by_side};
use crate::config::{DEFAULTS, Pipeline, SinkKind, SourceKind};

/// Checks a pipeline file without running it.
///
/// Reports every mistake with file, line, key and what would be accepted, then
/// looks whether what the file names is there, and opens the model.
#[derive(Args)]
pub(super) struct CheckArgs {
    /// The pipeline file.
    #[arg(value_name = "PIPELINE.toml", required_unless_present = "defaults")]
    pipeline: Option<PathBuf>,
    /// Print a pipeline file with every key and its default, and stop.
    #[arg(long)]
    defaults: bool,
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let Some(file) = args.pipeline.as_ref().filter(|_| !args.defaults) else {
        return print(DEFAULTS);
    };
    let pipeline = Pipeline::load(file).map_err(BadInput::new)?;
    pipeline.missing_files().map_err(BadInput::new)?;
    let (model, beside) = side_by_side::open(&pipeline)?;
    let mut text = format!("{}: no mistakes\n", file.display());
    text += &format!("  model    {}\n", model.description());
    for model in &beside {
        text += &format!("  beside   {}\n", model.description());
    }
    for source in &pipeline.sources {
        let what = match &source.kind {
            SourceKind::File(path) => format!("files {}", path.value.display()),
            SourceKind::Cohort(path) => format!("cohort {}", path.value.display()),
            SourceKind::Archive { path, report } => format!(
                "archive {}, reported in {}",
                path.value.display(),
                report.display()
            ),
            SourceKind::Launch(_) => "launch line".to_owned(),
            SourceKind::Listener(listener) => format!(
                "DICOM pushed to {} at {}, kept in {}",
                listener.ae_title,
                listener.listen,
                listener.folder.display()
            ),
        };
        text += &format!("  source   {}: {what}\n", source.name);
    }
    text += &format!("  results  {}\n", pipeline.store);
    for sink in &pipeline.sinks {
        let what = match &sink.kind {
            SinkKind::Webhook { .. } => "changes posted to its URL".to_owned(),
            SinkKind::JsonLines { path } => format!("changes appended to {}", path.display()),
            SinkKind::Dicom { address, title, .. } => {
                format!("DICOM reports filed with {title} at {address}")
            }
        };
        text += &format!("  sink     {}: {what}\n", sink.name);
    }
    text += &format!("  metrics  http://{}/metrics\n", pipeline.serve.listen);
    print(&text)
}
