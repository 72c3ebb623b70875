//! The pipeline file, followed while its run goes on: scanners and files are
//! opened, closed and bound to other patients as it says now.
//!
//! A file that has mistakes changes nothing. Only sources of the kinds `launch`
//! and `file` are followed; everything else is read once, when a run begins.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::run::{Intake, opening, recordings};
use crate::config::{Pipeline, SourceConfig, SourceKind};
use crate::dataflow::{Control, KeepOpen};
use crate::domain::{Crop, PatientId};

/// Time from one look at the file to the next. Only what two looks agree on is
/// believed: an editor may be in the middle of writing.
const LOOK: Duration = Duration::from_secs(1);

/// The sources as the pipeline file says now.
#[derive(Clone)]
pub(super) struct Sources(Arc<Mutex<Vec<SourceConfig>>>);

impl Sources {
    pub(super) fn of(pipeline: &Pipeline) -> Self {
        Self(Arc::new(Mutex::new(pipeline.sources.clone())))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<SourceConfig>> {
        // Plain data, left whole by whoever held it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn named(&self, name: &str) -> Option<SourceConfig> {
        self.lock().iter().find(|it| it.name == name).cloned()
    }
}

/// Follows a pipeline file until it is dropped.
pub(super) struct Follower {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Follower {
    /// Begins before the run does: a run whose scanners are all closed waits for
    /// the file to open one.
    pub(super) fn start(
        file: &Path,
        pipeline: &Pipeline,
        sources: &Sources,
        intake: &Intake,
        control: &Control,
    ) -> std::io::Result<Self> {
        let mut desk = Desk {
            file: file.to_owned(),
            read: pipeline.text().to_owned(),
            pipeline: pipeline.clone(),
            seen: None,
            sources: sources.clone(),
            intake: intake.clone(),
            kept_open: waits(&pipeline.sources).then(|| control.keep_open()),
            control: control.clone(),
        };
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("pipeline-file".to_owned())
            .spawn(move || {
                while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                    desk.look();
                }
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

/// A source that is closed may be opened.
fn waits(sources: &[SourceConfig]) -> bool {
    sources.iter().any(|source| !source.open)
}

struct Desk {
    file: PathBuf,
    /// As the run began with it.
    pipeline: Pipeline,
    /// The text that is in force, or was found to have mistakes.
    read: String,
    /// What the last look found, if it was something else.
    seen: Option<String>,
    sources: Sources,
    intake: Intake,
    control: Control,
    kept_open: Option<KeepOpen>,
}

impl Desk {
    fn look(&mut self) {
        // A file that is being replaced may be gone for a moment.
        let Ok(text) = std::fs::read_to_string(&self.file) else {
            return;
        };
        if text == self.read {
            self.seen = None;
        } else if self.seen.as_ref() == Some(&text) {
            self.seen = None;
            match Pipeline::parse(&self.file, &text) {
                Ok(pipeline) => self.turn_to(&pipeline.sources),
                // Its lines are not for a log: they may name a patient.
                Err(_) => tracing::error!(
                    file = %self.file.display(),
                    "the pipeline file was changed and has mistakes, which `hepaflow check` shows; \
                     the run goes on as before"
                ),
            }
            self.read = text;
        } else {
            self.seen = Some(text);
        }
    }

    fn turn_to(&mut self, new: &[SourceConfig]) {
        // Taken before a stream is closed, so that the run does not end with it.
        let kept_open = waits(new).then(|| self.control.keep_open());
        let old = std::mem::replace(&mut *self.sources.lock(), new.to_vec());
        let is_followed = |source: &&SourceConfig| said(source).is_some();
        let same = |one: &SourceConfig, others: &[SourceConfig]| {
            let other = others.iter().find(|other| other.name == one.name);
            other.is_some_and(|other| said(one) == said(other))
        };
        let gone = old.iter().filter(is_followed).filter(|source| source.open);
        for source in gone.filter(|source| !same(source, new)) {
            tracing::info!(
                source = source.name,
                "closed, as the pipeline file says now"
            );
            self.control.remove(&source.name);
        }
        let come = new.iter().filter(is_followed);
        for source in come.filter(|source| !same(source, &old)) {
            match recordings(source) {
                Ok(recordings) if recordings.is_empty() => {}
                Ok(recordings) => {
                    tracing::info!(
                        source = source.name,
                        "opened, as the pipeline file says now"
                    );
                    for (media, patient) in recordings {
                        let opening = opening(&self.pipeline, source, media, patient, &self.intake);
                        self.control.add(opening);
                    }
                }
                Err(error) => tracing::error!("source `{}`: {error:#}", source.name),
            }
        }
        self.kept_open = kept_open;
    }
}

/// Whether it is followed, and the same stream of the same patient: identifiers are
/// compared themselves, since what is printed of them tells nothing.
fn said(source: &SourceConfig) -> Option<Said<'_>> {
    let what = match &source.kind {
        SourceKind::Launch(line) => Cow::Borrowed(line.as_str()),
        SourceKind::File(path) => path.value.to_string_lossy(),
        SourceKind::Cohort(_) | SourceKind::Archive { .. } | SourceKind::Listener(_) => {
            return None;
        }
    };
    Some(Said {
        what,
        patient: source.patient.as_ref(),
        live: source.live,
        open: source.open,
        crop: source.crop,
    })
}

/// What decides which stream a source is.
#[derive(PartialEq)]
struct Said<'a> {
    /// The launch line, or the file.
    what: Cow<'a, str>,
    patient: Option<&'a PatientId>,
    live: bool,
    open: bool,
    crop: Option<Crop>,
}
