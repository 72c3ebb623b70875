//! Streams that the API asks for while a run goes on.

use super::intake::{Intake, opening};
use crate::cli::follow::Sources;
use crate::config::{Pipeline, SourceConfig, SourceKind};
use crate::ingest::Media;
use crate::serve::{NewStream, OpenStream};

/// Opens what the API asks for: a launch line or a file that the pipeline file
/// names, for another patient, or an RTSP address. Never a launch line from
/// outside: that could read and write any file.
pub(super) fn on_request(pipeline: &Pipeline, sources: &Sources, intake: &Intake) -> OpenStream {
    let (pipeline, sources, intake) = (pipeline.clone(), sources.clone(), intake.clone());
    Box::new(move |new: NewStream| {
        let known = sources.named(&new.source);
        let patient = Some(new.patient);
        if let Some(location) = &new.location {
            if known.is_some() {
                return Err("a source of the pipeline file has this name; choose another".into());
            }
            let source = SourceConfig {
                kind: SourceKind::Launch(rtsp(location)?),
                name: named(new.source)?,
                patient: patient.clone(),
                live: true,
                open: true,
                crop: None,
                process: None,
                span: 0..0,
            };
            let media = Media::Launch(rtsp(location)?);
            return Ok(opening(&pipeline, &source, media, patient, &intake));
        }
        let source = known.ok_or("no source of the pipeline file has this name")?;
        let media = match &source.kind {
            SourceKind::Launch(line) => Media::Launch(line.clone()),
            SourceKind::File(path) if path.value.is_file() => Media::File(path.value.clone()),
            _ => return Err("this source names its patients itself".into()),
        };
        Ok(opening(&pipeline, &source, media, patient, &intake))
    })
}

/// A name for logs and metrics.
fn named(name: String) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=64).contains(&name.len()) && name.chars().all(good) {
        return Ok(name);
    }
    Err("a source's name has 1 to 64 letters, digits, dots or dashes, and names no patient".into())
}

/// The launch line for an RTSP address, in which nothing can end the address and
/// begin an element.
fn rtsp(location: &str) -> Result<String, String> {
    let rest = ["rtsp://", "rtsps://"]
        .iter()
        .find_map(|scheme| location.strip_prefix(scheme));
    let good = |c: char| c.is_ascii_alphanumeric() || "-._~:/?#[]@$&()*+,;=%".contains(c);
    match rest {
        Some(rest) if !rest.is_empty() && rest.len() <= 512 && rest.chars().all(good) => Ok(
            format!("rtspsrc location=\"{location}\" protocols=tcp latency=100"),
        ),
        _ => Err("`location` is an address such as rtsp://scanner/live".into()),
    }
}
