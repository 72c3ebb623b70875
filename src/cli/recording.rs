//! A recording that is read by itself, outside of a run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};

use super::BadInput;
use crate::config::IngestConfig;
use crate::domain::{Crop, Frame, FrameSize, PatientId};
use crate::ingest::sandbox::Sandbox;
use crate::ingest::{Arrival, Look, Media, SourceRequest, Stream, StreamHeader, USUAL_INTERVAL};
use crate::metrics::Metrics;
use crate::model::InputSpec;

/// A recording that is waited for.
pub(super) struct Source {
    stream: Stream,
    path: PathBuf,
}

/// Where recordings are decoded.
pub(super) fn sandbox() -> anyhow::Result<Sandbox> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    Ok(Sandbox::new(program, IngestConfig::default().worker_memory))
}

impl Source {
    pub(super) fn open(
        path: &Path,
        (crop, look, size): (Option<Crop>, Look, FrameSize),
        input: &InputSpec,
        sandbox: &Sandbox,
    ) -> anyhow::Result<Self> {
        let request = SourceRequest {
            name: "recording".into(),
            media: Media::File(path.to_owned()),
            patient: Some(PatientId::new("nobody")),
            crop,
            look,
            size,
            queue: 8,
            live: false,
            reconnect: None,
            first_frame_timeout: Duration::from_secs(20),
            frame_interval: Some(USUAL_INTERVAL),
            pace: input.pace(),
        };
        let reader = thread::current();
        let wake = Arc::new(move || reader.unpark());
        let metrics = Metrics::new()?.source("recording");
        Ok(Self {
            stream: Stream::open_in(sandbox.clone(), request, wake, metrics),
            path: path.to_owned(),
        })
    }

    fn wait(&self) -> Arrival {
        loop {
            if let Some(arrival) = self.stream.try_next() {
                return arrival;
            }
            thread::park();
        }
    }

    /// What the recording says of itself.
    pub(super) fn header(&mut self) -> anyhow::Result<StreamHeader> {
        match self.wait() {
            Arrival::Opened(header) => Ok(header),
            Arrival::Ended(Err(error)) => Err(BadInput::new(error).into()),
            Arrival::Frame(_) | Arrival::Ended(Ok(())) => {
                let path = self.path.display();
                Err(BadInput(anyhow!("{path}: there is no picture in it")).into())
            }
        }
    }

    /// The next frame; None at the end.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Frame>> {
        match self.wait() {
            Arrival::Frame(frame) => Ok(Some(frame)),
            Arrival::Ended(Ok(())) => Ok(None),
            Arrival::Ended(Err(error)) => Err(BadInput::new(error).into()),
            Arrival::Opened(_) => self.next(),
        }
    }
}
