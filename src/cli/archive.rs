//! Archives: which files of a folder, glob or manifest are recordings, and what
//! became of every one of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, anyhow};

use crate::dataflow::{Control, Feed, WindowShape, Windower};
use crate::domain::PatientId;
use crate::ingest::{Arrival, Recognised, are_series, holds_series, recognise};
use crate::store::replace_file;

/// A recording of an archive that is to be read.
pub(super) struct Entry {
    pub(super) path: PathBuf,
    pub(super) patient: Option<PatientId>,
}

/// What became of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    status: &'static str,
    /// How many frames passed the gate.
    frames: u64,
    /// A stable word, see [`crate::ingest::IngestError::code`].
    reason: String,
    detail: String,
}

/// What became of every file of one archive; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Report {
    path: PathBuf,
    rows: Arc<Mutex<BTreeMap<PathBuf, Row>>>,
}

impl Report {
    fn rows(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Row>> {
        // No code that could panic runs under the lock.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, path: &Path, status: &'static str, frames: u64, reason: &str, detail: String) {
        let row = Row {
            status,
            frames,
            reason: reason.to_owned(),
            detail,
        };
        self.rows().insert(path.to_owned(), row);
    }

    /// Another file of the run has the bytes of `path`.
    pub(super) fn copy(&self, path: &Path) {
        let detail = "another file has the same bytes".to_owned();
        self.set(path, "skipped", 0, "duplicate", detail);
    }

    /// Leaves it to another process to tell what becomes of `path`.
    pub(super) fn leave(&self, path: &Path) {
        self.rows().remove(path);
    }

    /// Leaves it to the first process to tell what nobody reads.
    pub(super) fn leave_skipped(&self) {
        self.rows().retain(|_, row| row.status != "skipped");
    }

    /// Writes the report: one row for every file, in the order of their paths.
    pub(super) fn write(&self) -> anyhow::Result<()> {
        replace_file(&self.path, |file| {
            let mut writer = csv::Writer::from_writer(file);
            writer.write_record(["path", "status", "frames", "reason", "detail"])?;
            for (path, row) in self.rows().iter() {
                writer.write_record([
                    &*path.to_string_lossy(),
                    row.status,
                    &row.frames.to_string(),
                    &row.reason,
                    &row.detail,
                ])?;
            }
            writer.flush()
        })
        .with_context(|| format!("cannot write the report {}", self.path.display()))
    }

    /// One line for people: how many files met with what.
    pub(super) fn summary(&self) -> String {
        let rows = self.rows();
        let mut counts = BTreeMap::<_, usize>::new();
        rows.values()
            .for_each(|row| *counts.entry(row.status).or_default() += 1);
        let counts: Vec<_> = counts
            .into_iter()
            .map(|(status, count)| format!("{count} {status}"))
            .collect();
        format!(
            "{} files: {}; every one is in {}",
            rows.len(),
            counts.join(", "),
            self.path.display()
        )
    }

    /// Follows the stream that reads `path`, of which windows of this `shape` are used.
    pub(super) fn follow(
        &self,
        path: PathBuf,
        feed: impl Feed + 'static,
        shape: WindowShape,
        control: Control,
    ) -> Box<dyn Feed> {
        Box::new(Followed {
            feed,
            report: self.clone(),
            control,
            path,
            shape,
            progress: Mutex::default(),
        })
    }
}

/// Finds the recordings of the archive at `path`, and begins its report. Numbered
/// pictures of one folder are one recording, and one row: the folder's.
///
/// # Errors
/// If there is nothing at `path`, or it cannot be listed.
pub(super) fn discover(
    path: &Path,
    patient: Option<&PatientId>,
    report: &Path,
) -> anyhow::Result<(Vec<Entry>, Report)> {
    let report = Report {
        path: report.to_owned(),
        rows: Arc::default(),
    };
    let is_manifest = path.is_file()
        && path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    let is_folder = path.is_dir();
    let listed = if is_manifest {
        manifest(path, &report)?
    } else {
        let mut files = Vec::new();
        if is_folder {
            walk(path, &report, &mut files)
                .with_context(|| format!("cannot list {}", path.display()))?;
        } else {
            let pattern = path.to_string_lossy();
            let paths = glob::glob(&pattern)
                .with_context(|| format!("{pattern} is no pattern of files"))?;
            files.extend(paths.filter_map(Result::ok).filter(|path| path.is_file()));
        }
        files.into_iter().map(|path| (path, None)).collect()
    };
    if listed.is_empty() && report.rows().is_empty() {
        return Err(anyhow!(
            "there is no file in {}; correct the path in the pipeline file",
            path.display()
        ));
    }
    let mut entries = Vec::new();
    let mut take = |path: PathBuf, patient: Option<PatientId>, is_dicom: bool| {
        if patient.is_none() && !is_dicom {
            let detail = "it does not say whose it is; list it in a manifest with its patient";
            report.set(&path, "skipped", 0, "no_patient", detail.to_owned());
        } else {
            // Until it is opened.
            report.set(&path, "not read", 0, "stopped", String::new());
            entries.push(Entry { path, patient });
        }
    };
    let mut pictures = BTreeMap::<PathBuf, Vec<PathBuf>>::new();
    for (path, of_row) in listed {
        let patient = of_row.or_else(|| patient.cloned());
        let skip = |reason: &str, detail: &str| {
            report.set(&path, "skipped", 0, reason, detail.to_owned());
        };
        match recognise(&path) {
            Err(_) if is_manifest && holds_series(&path) => take(path, patient, false),
            Err(error) => skip("unreadable", &error.to_string()),
            Ok(Recognised::Empty) => skip("empty", "the file has no bytes"),
            Ok(Recognised::Foreign) => skip("foreign", "it is neither DICOM, video nor picture"),
            // What is listed one by one is meant so.
            Ok(Recognised::Picture) if is_folder => {
                let folder = path.parent().unwrap_or(Path::new("")).to_owned();
                pictures.entry(folder).or_default().push(path);
            }
            Ok(Recognised::Dicom) => take(path, patient, true),
            Ok(Recognised::Video | Recognised::Picture) => take(path, patient, false),
        }
    }
    for (folder, files) in pictures {
        if are_series(&files) {
            take(folder, patient.cloned(), false);
        } else {
            for path in files {
                take(path, patient.cloned(), false);
            }
        }
    }
    Ok((entries, report))
}

/// Every file below `folder`. Links to folders are not followed: they may lead
/// in circles.
fn walk(folder: &Path, report: &Report, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if folders.is_empty() && files.is_empty() => return Err(error),
            Err(error) => {
                report.set(&folder, "skipped", 0, "unreadable", error.to_string());
                continue;
            }
        };
        for entry in entries {
            let path = entry?.path();
            if path.is_symlink() && path.is_dir() {
                report.set(&path, "skipped", 0, "link", "a link to a folder".to_owned());
            } else if path.is_dir() {
                folders.push(path);
            } else if path.is_file() {
                files.push(path);
            } else {
                report.set(
                    &path,
                    "skipped",
                    0,
                    "not_a_file",
                    "a device or pipe".to_owned(),
                );
            }
        }
    }
    files.sort_unstable();
    Ok(())
}

type Listed = Vec<(PathBuf, Option<PatientId>)>;

/// A CSV file with the columns `patient_id` and `path`; paths begin at its
/// folder.
fn manifest(file: &Path, report: &Report) -> anyhow::Result<Listed> {
    #[derive(serde::Deserialize)]
    struct Line {
        patient_id: String,
        path: PathBuf,
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_path(file)
        .with_context(|| format!("cannot read {}", file.display()))?;
    let headers = reader.headers()?;
    for column in ["patient_id", "path"] {
        if !headers.iter().any(|header| header == column) {
            return Err(anyhow!(
                "{} lacks the column {column}; a manifest has patient_id and path",
                file.display()
            ));
        }
    }
    let mut listed = Listed::new();
    for (number, line) in (2..).zip(reader.deserialize()) {
        match line {
            Ok(Line { patient_id, path }) => {
                let patient = (!patient_id.is_empty()).then(|| PatientId::new(patient_id));
                listed.push((folder.join(path), patient));
            }
            Err(_) => {
                let place = file.join(format!("line {number}"));
                let detail = "the row has not the columns of the header".to_owned();
                report.set(&place, "skipped", 0, "manifest_row", detail);
            }
        }
    }
    Ok(listed)
}

/// A stream whose end is written into a report.
struct Followed<F> {
    feed: F,
    report: Report,
    control: Control,
    path: PathBuf,
    shape: WindowShape,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    has_ended: bool,
    frames: u64,
    /// Since it is open; until it has given a window.
    awaited: Option<Windower>,
    has_window: bool,
}

impl<F: Feed> Feed for Followed<F> {
    fn try_next(&self) -> Option<Arrival> {
        let arrival = self.feed.try_next()?;
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        match &arrival {
            Arrival::Opened(header) => {
                let windower = Windower::new(self.shape, header.frame_interval);
                progress.awaited = Some(windower.of_live_stream());
            }
            Arrival::Frame(frame) => {
                progress.frames += 1;
                let awaited = progress.awaited.as_mut();
                if awaited.is_some_and(|windower| windower.push(frame.clone()).is_some()) {
                    (progress.awaited, progress.has_window) = (None, true);
                }
            }
            Arrival::Ended(result) => {
                progress.has_ended = true;
                let frames = progress.frames;
                match result {
                    Ok(()) if frames == 0 => {
                        let detail = "no picture of it passed the quality gate".to_owned();
                        self.report.set(&self.path, "skipped", 0, "gated", detail);
                    }
                    Ok(()) if !progress.has_window => {
                        let detail = format!(
                            "nowhere the {} frames without a gap that a window has",
                            self.shape.length
                        );
                        self.report
                            .set(&self.path, "skipped", frames, "no_window", detail);
                    }
                    Ok(()) => self
                        .report
                        .set(&self.path, "used", frames, "", String::new()),
                    Err(error) => {
                        let detail = error.to_string();
                        self.report
                            .set(&self.path, "failed", frames, error.code(), detail);
                    }
                }
            }
        }
        Some(arrival)
    }
}

impl<F> Drop for Followed<F> {
    fn drop(&mut self) {
        let progress = self
            .progress
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if progress.has_ended {
            return;
        }
        // A stream that is let go at its very beginning has the bytes of
        // another.
        if progress.awaited.is_some() && progress.frames == 0 && !self.control.is_stopping() {
            self.report.copy(&self.path);
        } else {
            let detail = "the run was stopped before its end".to_owned();
            self.report
                .set(&self.path, "not read", progress.frames, "stopped", detail);
        }
    }
}
