//! How a run opens its streams, and how much of a patient they tell.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::cli::BadInput;
use crate::config::{IngestConfig, Pipeline, SinkKind, SourceConfig, pseudonym_key};
use crate::dataflow::{Feed, Opening};
use crate::domain::{Crop, FrameSize, PatientId, PseudonymKey};
use crate::engine::Engine;
use crate::ingest::sandbox::Sandbox;
use crate::ingest::{Arrival, Look, Media, Reconnect, SourceRequest, Stream};
use crate::model::Model;
use crate::serve::outbox::Explainer;

/// A stream that a source of the pipeline gives.
pub(in crate::cli) fn opening(
    pipeline: &Pipeline,
    source: &SourceConfig,
    media: Media,
    patient: Option<PatientId>,
    intake: &Intake,
) -> Opening {
    let ingest = &pipeline.ingest;
    // A recording that is replayed ends; a scanner only pauses.
    let is_scanner = source.live && matches!(media, Media::Launch(_));
    let reconnect = is_scanner.then(|| Reconnect {
        stall: ingest.stall_timeout,
        longest_pause: ingest.reconnect_pause,
        ..Reconnect::default()
    });
    let request = SourceRequest {
        name: source.name.clone(),
        media,
        patient,
        crop: source.crop,
        look: look(ingest),
        size: intake.size,
        queue: ingest.queue,
        live: source.live,
        reconnect,
        first_frame_timeout: ingest.first_frame_timeout,
        frame_interval: source.frame_interval,
        pace: intake.pace,
    };
    let Intake {
        sandbox,
        key,
        reports,
        ..
    } = intake.clone();
    Opening {
        source: source.name.clone(),
        live: source.live,
        open: Box::new(move |wake, counters| {
            // A recording that plays live was chosen by hand.
            let stream = if request.live {
                Stream::open(request, wake, counters)
            } else {
                Stream::open_in(sandbox, request, wake, counters)
            };
            Box::new(Discreet {
                stream,
                key,
                reports,
            })
        }),
    }
}

/// What every stream of a run is opened with.
#[derive(Clone)]
pub(in crate::cli) struct Intake {
    /// The model's input.
    pub(super) size: FrameSize,
    /// From one frame to the next as the model has learned, if it says so.
    pub(super) pace: Option<Duration>,
    pub(super) sandbox: Sandbox,
    /// Of the pseudonyms, if patients are to have some.
    pub(super) key: Option<PseudonymKey>,
    /// Whether reports are filed, which have to say whom they are about.
    pub(super) reports: bool,
}

impl Intake {
    pub(super) fn of(pipeline: &Pipeline, model: &Model) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let key = pipeline.privacy_key.as_deref().map(pseudonym_key);
        let mut sinks = pipeline.sinks.iter();
        Ok(Self {
            size: size_of(model),
            pace: model.spec().input.pace(),
            sandbox: Sandbox::new(program, pipeline.ingest.worker_memory),
            key: key.transpose().map_err(BadInput::new)?,
            reports: sinks.any(|sink| matches!(sink.kind, SinkKind::Dicom { .. })),
        })
    }

    /// What paints pictures for reports, if any are filed.
    pub(super) fn explainer(
        &self,
        pipeline: &Pipeline,
        model: &Model,
        engine: &Arc<Engine>,
    ) -> Option<Arc<Explainer>> {
        self.reports.then(|| {
            Arc::new(Explainer {
                engine: Arc::clone(engine),
                model: model.hash(),
                synthetic: model.spec().synthetic,
                size: self.size,
                pace: self.pace,
                look: look(&pipeline.ingest),
                crops: pipeline.sources.iter().filter_map(cropped).collect(),
                sandbox: self.sandbox.clone(),
            })
        })
    }
}

/// The pictures that a model sees.
pub(super) fn size_of(model: &Model) -> FrameSize {
    let input = &model.spec().input;
    FrameSize {
        height: input.height,
        width: input.width,
    }
}

/// A stream that says no more of a patient than the run needs: behind it there are
/// pseudonyms, if there are any, and names only for reports.
struct Discreet {
    stream: Stream,
    key: Option<PseudonymKey>,
    reports: bool,
}

impl Feed for Discreet {
    fn try_next(&self) -> Option<Arrival> {
        let mut arrival = self.stream.try_next()?;
        if let Arrival::Opened(header) = &mut arrival {
            header.instance.take_if(|_| !self.reports);
            if let Some(key) = &self.key {
                header.patient = key.patient(&header.patient);
                header.study = header.study.as_ref().map(|study| key.study(study));
                header.instance = None;
            }
        }
        Some(arrival)
    }
}

fn look(ingest: &IngestConfig) -> Look {
    Look {
        find: ingest.find_crop,
        gate: ingest.gate,
    }
}

/// The crop that the operator set for a source, with its name.
fn cropped(source: &SourceConfig) -> Option<(String, Crop)> {
    Some((source.name.clone(), source.crop?))
}
