//! Whether the recordings of a cohort can be used, asked before the work begins
//! and not hours into it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::bounded;
use rayon::prelude::*;

use super::{Cohort, CohortError, UnusableVideo};
use crate::clinical::{Finding, Problem, VIDEOS_FILE, VideoRecord};
use crate::domain::{ContentHash, FrameSize, PatientId};
use crate::ingest::sandbox::Sandbox;
use crate::ingest::{Arrival, Look, Media, SourceRequest, Stream, USUAL_INTERVAL};
use crate::metrics::SourceMetrics;

/// Small: only whether it decodes is asked.
const SIZE: FrameSize = FrameSize {
    height: 16,
    width: 16,
};

impl Cohort {
    /// Opens every recording and decodes its first `frames` frames, thinned to one
    /// every `pace` where it has more; calls
    /// `checked` after each recording, from any thread. Those that fail, are
    /// shorter, or are the same file once more are left out and said so in the
    /// flow. Called after [`Self::load`].
    ///
    /// # Errors
    /// When one recording lies with two patients (on both sides of a split it
    /// would leak), or when nobody is left.
    pub fn check_videos(
        &mut self,
        frames: usize,
        pace: Option<Duration>,
        sandbox: &Sandbox,
        metrics: &SourceMetrics,
        checked: &(dyn Fn() + Sync),
    ) -> Result<(), CohortError> {
        let videos: Vec<&VideoRecord> = self.patients.iter().flat_map(|p| &p.videos).collect();
        let outcomes: Vec<Result<ContentHash, String>> = videos
            .par_iter()
            .map(|video| {
                let outcome = self.open(video, (frames, pace), sandbox, metrics.clone());
                checked();
                outcome
            })
            .collect();
        let mut seen = HashMap::<ContentHash, (&PatientId, u64)>::new();
        let (mut unusable, mut shared) = (Vec::new(), Vec::new());
        for (video, outcome) in videos.into_iter().zip(outcomes) {
            let reason = match outcome {
                Err(reason) => reason,
                Ok(content) => match seen.insert(content, (&video.patient, video.line)) {
                    None => continue,
                    Some((patient, line)) if *patient == video.patient => {
                        format!("the same recording as in line {line}")
                    }
                    Some((_, line)) => {
                        let why =
                            format!("the same recording as in line {line}, of another patient");
                        shared.push(Finding {
                            file: VIDEOS_FILE.to_owned(),
                            line: video.line,
                            column: "path".to_owned(),
                            problem: Problem::Wrong(why),
                        });
                        continue;
                    }
                },
            };
            unusable.push(UnusableVideo {
                line: video.line,
                reason,
            });
        }
        if !shared.is_empty() {
            return Err(CohortError::Findings {
                directory: self.directory.clone(),
                findings: shared,
            });
        }
        self.leave_out(unusable)
    }

    fn open(
        &self,
        video: &VideoRecord,
        (frames, pace): (usize, Option<Duration>),
        sandbox: &Sandbox,
        metrics: SourceMetrics,
    ) -> Result<ContentHash, String> {
        let request = SourceRequest {
            name: "cohort".to_owned(),
            media: Media::File(self.path_of(video)),
            patient: Some(video.patient.clone()),
            crop: None,
            look: Look::PLAIN,
            size: SIZE,
            queue: 8,
            live: false,
            reconnect: None,
            first_frame_timeout: Duration::from_secs(20),
            // Of pictures that do not say it; how many there are is asked here.
            frame_interval: Some(USUAL_INTERVAL),
            pace,
        };
        let (ring, rung) = bounded(1);
        // A full bell is a bell that will be heard.
        let wake = Arc::new(move || {
            let _ = ring.try_send(());
        });
        let stream = Stream::open_in(sandbox.clone(), request, wake, metrics);
        let (mut content, mut found) = (None, 0);
        while found < frames || content.is_none() {
            match stream.try_next() {
                Some(Arrival::Opened(header)) => content = Some(header.content),
                Some(Arrival::Frame(_)) => found += 1,
                Some(Arrival::Ended(Ok(()))) => {
                    return Err(format!("{found} frames, of which {frames} are needed"));
                }
                // The whole error names the file, which may name a person.
                Some(Arrival::Ended(Err(error))) => return Err(error.code().to_owned()),
                None if rung.recv().is_err() => return Err("interrupted".to_owned()),
                None => {}
            }
        }
        content.ok_or_else(|| "no picture".to_owned())
    }
}
