use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::label;
use super::request::{Body, Refusal};
use crate::config::clock_time;
use crate::dataflow::LiveStream;
use crate::domain::PatientId;
use crate::serve::Site;
use crate::serve::auth::{Caller, Operator};
use crate::serve::problem::Problem;
use crate::serve::site::{NewStream, millis};

/// A stream that is open, or ended not long ago.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::serve) struct StreamRow {
    /// Its number in this run.
    id: u32,
    /// The source's name.
    source: String,
    /// Whether it keeps its own pace.
    live: bool,
    /// The patient's opaque id.
    patient: String,
    /// The patient's identifier for who is logged in, a short code for others.
    label: String,
    /// Width and height as decoded.
    picture: (usize, usize),
    /// What the model sees of it: x, y, width, height.
    crop: (u32, u32, u32, u32),
    /// Frames that were used.
    frames: u64,
    /// Milliseconds since the newest picture arrived.
    age_ms: Option<u64>,
    /// When it ended, in milliseconds since 1970; null while it is open.
    ended_ms: Option<u64>,
}

impl StreamRow {
    /// As this caller may see it.
    pub(in crate::serve) fn of(site: &Site, caller: &Caller, stream: &LiveStream) -> Self {
        let (frames, arrived) = stream.frames();
        let crop = stream.crop;
        Self {
            id: stream.id.0,
            source: stream.source.clone(),
            live: stream.live,
            patient: site.ids.patient(&stream.patient),
            label: label(site, caller, &stream.patient),
            picture: (stream.picture.width, stream.picture.height),
            crop: (crop.x, crop.y, crop.width, crop.height),
            frames,
            age_ms: arrived.map(|arrived| arrived.elapsed().as_millis() as u64),
            ended_ms: stream.ended().map(millis),
        }
    }
}

/// The streams of this run: those that are open, and those that ended last.
#[utoipa::path(get, path = "/api/v1/streams", tag = "streams",
    responses((status = OK, body = Vec<StreamRow>)))]
pub(super) async fn streams(
    State(site): State<Arc<Site>>,
    Extension(caller): Extension<Caller>,
) -> Json<Vec<StreamRow>> {
    let streams = site.subject.control.live().streams();
    let row = |stream: &Arc<LiveStream>| StreamRow::of(&site, &caller, stream);
    Json(streams.iter().map(row).collect())
}

/// A stream to be added.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct Addition {
    /// A source of the pipeline file, or with `location` a name for a new one.
    source: String,
    /// An RTSP address, `rtsp://...` or `rtsps://...`.
    location: Option<String>,
    /// The exam.
    #[serde(flatten)]
    exam: Binding,
}

/// Adds a stream: a source of the pipeline file, or an RTSP address. A source that is
/// open is bound to this patient instead.
#[utoipa::path(post, path = "/api/v1/streams", tag = "streams", request_body = Addition,
    responses((status = ACCEPTED, description = "It is being opened, or will be"), Refusal))]
pub(super) async fn add(
    _: Operator,
    State(site): State<Arc<Site>>,
    Body(addition): Body<Addition>,
) -> Result<StatusCode, Problem> {
    let Addition {
        source,
        location,
        exam,
    } = addition;
    open(&site, source.clone(), location, &exam)?;
    tracing::info!(source, "a stream was added by request");
    Ok(StatusCode::ACCEPTED)
}

/// Ends the streams of a source, and forgets what was booked for it. What is under
/// way is scored and stored.
#[utoipa::path(delete, path = "/api/v1/streams/{source}", tag = "streams",
    params(("source" = String, Path, description = "The source's name")),
    responses((status = ACCEPTED, description = "They are being ended"), Refusal))]
pub(super) async fn remove(
    _: Operator,
    State(site): State<Arc<Site>>,
    Path(source): Path<String>,
) -> Result<StatusCode, Problem> {
    if !(site.subject.close)(&source) {
        if !is_known(&site, &source) {
            return Err(Problem::not_found("no source of this run has this name"));
        }
        site.subject.control.remove(&source);
    }
    tracing::info!(source, "streams were removed by request");
    Ok(StatusCode::ACCEPTED)
}

/// Whose liver a source shows, and when.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct Binding {
    /// The patient's identifier.
    patient: String,
    /// When the exam begins, such as `2026-11-26T08:30:00+01:00`; now, without it.
    from: Option<String>,
    /// When it ends, if that is known; then the source is closed.
    until: Option<String>,
}

/// Binds a source of the pipeline file to another patient: its stream ends and is
/// opened again, now or when it is time. No window spans the two. What the pipeline
/// file says of the source counts again when it says something else.
#[utoipa::path(put, path = "/api/v1/streams/{source}/patient", tag = "streams",
    params(("source" = String, Path, description = "The source's name in the pipeline file")),
    request_body = Binding,
    responses((status = ACCEPTED, description = "It is being opened again, or will be"), Refusal))]
pub(super) async fn bind(
    _: Operator,
    State(site): State<Arc<Site>>,
    Path(source): Path<String>,
    Body(binding): Body<Binding>,
) -> Result<StatusCode, Problem> {
    open(&site, source.clone(), None, &binding)?;
    tracing::info!(source, "a source was bound to another patient by request");
    Ok(StatusCode::ACCEPTED)
}

fn open(
    site: &Site,
    source: String,
    location: Option<String>,
    exam: &Binding,
) -> Result<(), Problem> {
    let patient = exam.patient.trim();
    if patient.is_empty() || patient.len() > 128 || patient.chars().any(char::is_control) {
        return Err(Problem::bad_request(
            "`patient` is the identifier of one patient, at most 128 characters",
        ));
    }
    let time = |text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => clock_time(text).map(Some).ok_or_else(|| {
            Problem::bad_request(
                "`from` and `until` are times with their offset, such as \
                 2026-11-26T08:30:00+01:00",
            )
        }),
    };
    let (from, until) = (time(&exam.from)?, time(&exam.until)?);
    let begin = from
        .unwrap_or(SystemTime::UNIX_EPOCH)
        .max(SystemTime::now());
    if until.is_some_and(|until| until <= begin) {
        return Err(Problem::bad_request(
            "`until` has passed, or is no later than `from`",
        ));
    }
    let new = NewStream {
        source,
        location,
        patient: PatientId::new(patient),
        from,
        until,
    };
    (site.subject.open)(new).map_err(Problem::bad_request)
}

fn is_known(site: &Site, source: &str) -> bool {
    let streams = site.subject.control.live().streams();
    streams.iter().any(|stream| stream.source == source)
        || site
            .subject
            .sources
            .iter()
            .any(|known| known.name == source)
}
