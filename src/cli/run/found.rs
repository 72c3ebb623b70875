//! What the pipeline file names to be read: recordings, and what could not be found.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, anyhow};

use super::intake::{Intake, opening};
use crate::cli::archive::{self, Report};
use crate::cli::share::{self, Found};
use crate::config::{Pipeline, SourceConfig, SourceKind};
use crate::dataflow::{Control, Opening, WindowShape};
use crate::domain::PatientId;
use crate::ingest::{Media, holds_series};

/// All recordings and scanners that the pipeline names, and what could not be
/// found.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) recordings: Vec<Found>,
    pub(super) failures: Vec<String>,
    /// Of each archive, by the name of its source.
    pub(super) reports: Vec<(String, Report)>,
}

impl Findings {
    /// Looks for those that are open at `now`; the archives' reports are those of
    /// process `index`.
    pub(super) fn of(pipeline: &Pipeline, index: usize, now: SystemTime) -> Self {
        let mut findings = Self::default();
        let sources = pipeline.sources.iter().enumerate();
        for (position, source) in sources.filter(|(_, source)| source.is_open_at(now)) {
            if let Err(error) = findings.look(position, source, index) {
                let error = format!("source `{}`: {error:#}", source.name);
                tracing::error!("{error}");
                findings.failures.push(error);
            }
        }
        findings
    }

    fn look(&mut self, position: usize, source: &SourceConfig, index: usize) -> anyhow::Result<()> {
        let found = |(media, patient), report| Found {
            source: position,
            media,
            patient,
            report,
        };
        if let SourceKind::Archive { path, report } = &source.kind {
            let report = share::report_path(report, index);
            let (entries, report) =
                archive::discover(&path.value, source.patient.as_ref(), &report)?;
            self.recordings.extend(entries.into_iter().map(|entry| {
                let media = Media::File(entry.path);
                found((media, entry.patient), Some(report.clone()))
            }));
            self.reports.push((source.name.clone(), report));
        } else {
            let recordings = recordings(source)?.into_iter();
            self.recordings.extend(recordings.map(|it| found(it, None)));
        }
        Ok(())
    }
}

/// The stream of what was found; an archive's report follows it.
pub(super) fn opening_of(
    pipeline: &Pipeline,
    found: Found,
    intake: &Intake,
    shape: WindowShape,
    control: &Control,
) -> Opening {
    let source = &pipeline.sources[found.source];
    let file = match &found.media {
        Media::File(path) => Some(path.clone()),
        Media::Launch(_) => None,
    };
    let plain = opening(pipeline, source, found.media, found.patient, intake);
    let (Some(report), Some(path)) = (found.report, file) else {
        return plain;
    };
    let control = control.clone();
    Opening {
        source: plain.source,
        live: plain.live,
        open: Box::new(move |wake, counters| {
            let feed = (plain.open)(wake, counters);
            report.follow(path, feed, shape, control)
        }),
    }
}

pub(in crate::cli) type Recording = (Media, Option<PatientId>);

/// The recordings and scanners of a source.
pub(in crate::cli) fn recordings(source: &SourceConfig) -> anyhow::Result<Vec<Recording>> {
    let patient = || source.patient.clone();
    match &source.kind {
        SourceKind::Launch(line) => Ok(vec![(Media::Launch(line.clone()), patient())]),
        SourceKind::File(path) if path.value.exists() => {
            Ok(vec![(Media::File(path.value.clone()), patient())])
        }
        SourceKind::File(path) => {
            let pattern = path.value.to_string_lossy();
            let files: Vec<_> = glob::glob(&pattern)
                .with_context(|| format!("{pattern} is no pattern of files"))?
                .filter_map(Result::ok)
                .filter(|path| path.is_file() || holds_series(path))
                .map(|path| (Media::File(path), patient()))
                .collect();
            if files.is_empty() {
                return Err(anyhow!(
                    "there is no file {pattern}; correct the path in the pipeline file"
                ));
            }
            Ok(files)
        }
        SourceKind::Cohort(directory) => cohort(&directory.value),
        // Found elsewhere: one with a report, the other by and by.
        SourceKind::Archive { .. } | SourceKind::Listener(_) => Ok(Vec::new()),
    }
}

/// `videos.csv` of a cohort directory: columns `patient_id` and `path`.
fn cohort(directory: &Path) -> anyhow::Result<Vec<Recording>> {
    #[derive(serde::Deserialize)]
    struct Video {
        patient_id: String,
        path: PathBuf,
    }
    let file = directory.join("videos.csv");
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_path(&file)
        .with_context(|| format!("cannot read {}", file.display()))?;
    reader
        .deserialize()
        .map(|row| {
            // The error names line and column, not the values.
            let video: Video = row.with_context(|| format!("{}", file.display()))?;
            let media = Media::File(directory.join(video.path));
            Ok((media, Some(PatientId::new(video.patient_id))))
        })
        .collect()
}
