//! The DICOM listeners of a run.

use std::sync::Arc;

use super::intake::{Intake, opening};
use crate::cli::BadInput;
use crate::cli::share::Part;
use crate::config::{Pipeline, SourceKind};
use crate::dataflow::{Control, KeepOpen, Opening};
use crate::ingest::Media;
use crate::ingest::listener::{Listener, ListenerConfig, ListenerTls};
use crate::metrics::Metrics;

/// Starts those of the pipeline's listeners that belong to `part`: what they receive
/// becomes a stream of the run, and what an earlier run received becomes one of
/// `openings`.
pub(super) fn listeners(
    pipeline: &Pipeline,
    part: &Part,
    intake: &Intake,
    control: &Control,
    metrics: &Metrics,
    openings: &mut Vec<Opening>,
) -> anyhow::Result<Vec<(Listener, KeepOpen)>> {
    let mut listeners = Vec::new();
    for (position, source) in pipeline.sources.iter().enumerate() {
        let SourceKind::Listener(section) = &source.kind else {
            continue;
        };
        if !part.has(position) {
            continue;
        }
        let config = ListenerConfig {
            name: source.name.clone(),
            address: section.listen,
            ae_title: section.ae_title.clone(),
            allow: section.allow.clone(),
            folder: section.folder.clone(),
            associations: section.associations,
            largest: section.largest,
            timeout: section.timeout,
            tls: section.tls.clone().map(|(certificate, key)| ListenerTls {
                certificate,
                key,
                clients: section.clients.clone(),
            }),
        };
        // What was pushed here is ours to move.
        let quarantine = section.folder.join("quarantine");
        let intake = Intake {
            sandbox: intake.sandbox.with_quarantine(quarantine),
            ..intake.clone()
        };
        let on_stored = {
            let (pipeline, source) = (pipeline.clone(), source.clone());
            let (control, intake) = (control.clone(), intake.clone());
            Arc::new(move |path| {
                let media = Media::File(path);
                control.add(opening(&pipeline, &source, media, None, &intake));
            })
        };
        let started = Listener::start(&config, on_stored, metrics.listener(&source.name));
        let (listener, left) = started.map_err(BadInput::new)?;
        openings.extend(
            left.into_iter()
                .map(|path| opening(pipeline, source, Media::File(path), None, &intake)),
        );
        listeners.push((listener, control.keep_open()));
    }
    Ok(listeners)
}
