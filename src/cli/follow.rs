//! The pipeline file, followed while its run goes on: scanners and files are
//! opened, closed and bound to other patients as it says now. And the clock, which
//! [`Exams`] is made to look at.
//!
//! A file that has mistakes changes nothing. Only sources of the kinds `launch`
//! and `file` are followed; everything else is read once, when a run begins.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::exams::Exams;
use crate::config::Pipeline;

/// Time from one look at the file to the next. Only what two looks agree on is
/// believed: an editor may be in the middle of writing.
const LOOK: Duration = Duration::from_secs(1);

/// Follows the clock and a pipeline file until it is dropped.
pub(super) struct Follower {
    exams: Exams,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.exams.end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Follower {
    /// Begins; without a `file`, only the clock is followed.
    pub(super) fn start(
        exams: &Exams,
        pipeline: &Pipeline,
        file: Option<&Path>,
    ) -> std::io::Result<Self> {
        let mut watch = file.map(|file| Watch {
            file: file.to_owned(),
            read: pipeline.text().to_owned(),
            seen: None,
        });
        let thread = {
            let exams = exams.clone();
            let follow = move || {
                let mut next_look = Instant::now() + LOOK;
                while exams.wait(next_look.saturating_duration_since(Instant::now())) {
                    exams.look_at_the_clock();
                    if Instant::now() < next_look {
                        continue;
                    }
                    next_look = Instant::now() + LOOK;
                    if let Some(new) = watch.as_mut().and_then(Watch::look) {
                        exams.file_says(&new.sources);
                    }
                }
            };
            std::thread::Builder::new()
                .name("exams".to_owned())
                .spawn(follow)?
        };
        Ok(Self {
            exams: exams.clone(),
            thread: Some(thread),
        })
    }
}

struct Watch {
    file: PathBuf,
    /// The text that is in force, or was found to have mistakes.
    read: String,
    /// What the last look found, if it was something else.
    seen: Option<String>,
}

impl Watch {
    /// What the file says, if that is new and without mistakes.
    fn look(&mut self) -> Option<Pipeline> {
        // A file that is being replaced may be gone for a moment.
        let text = std::fs::read_to_string(&self.file).ok()?;
        if text == self.read {
            self.seen = None;
            return None;
        }
        if self.seen.as_ref() != Some(&text) {
            self.seen = Some(text);
            return None;
        }
        self.seen = None;
        let pipeline = Pipeline::parse(&self.file, &text);
        self.read = text;
        pipeline
            .inspect_err(|_| {
                // Its lines are not for a log: they may name a patient.
                tracing::error!(
                    file = %self.file.display(),
                    "the pipeline file was changed and has mistakes, which `hepaflow check` shows; \
                     the run goes on as before"
                );
            })
            .ok()
    }
}
