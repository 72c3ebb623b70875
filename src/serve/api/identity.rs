//! Whose records are one person's, and whose a recording is.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use super::facts::{Entered, changed, write};
use super::request::{Body, Refusal};
use super::{patient_named, whose};
use crate::clinical::{Exam, Fact};
use crate::serve::Site;
use crate::serve::auth::Operator;
use crate::serve::problem::Problem;

/// Two records of one person.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct Merge {
    /// The opaque id of the record that is merged.
    id: String,
    /// The identifier of the record that it counts for from now on; or `into_id`.
    into: Option<String>,
    /// Its opaque id.
    into_id: Option<String>,
    /// True to take such a merge back.
    #[serde(default)]
    withdraw: bool,
    /// Why, for the history.
    #[serde(default)]
    reason: String,
}

/// Says that a record is the same person as another: all that is known of it counts
/// for the other, until the merge is taken back.
#[utoipa::path(post, path = "/api/v1/merges", tag = "labels", request_body = Merge,
    responses((status = OK, body = Entered), Refusal))]
pub(super) async fn merge(
    operator: Operator,
    State(site): State<Arc<Site>>,
    Body(merge): Body<Merge>,
) -> Result<Json<Entered>, Problem> {
    let from = patient_named(&site, &merge.id)?;
    let into = whose(&site, merge.into.as_deref(), merge.into_id.as_deref())?;
    let fact = Fact::Merge(from, into);
    let change = changed(merge.withdraw, fact);
    write(&site, &operator, vec![change], merge.reason).await
}

/// Whose a recording is, or a part of it.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct Binding {
    /// The recording: the first digits of its content's hash, as clips show it.
    content: String,
    /// The patient's identifier; or `id`.
    patient: Option<String>,
    /// The patient's opaque id.
    id: Option<String>,
    /// The first frame that belongs to the exam.
    #[serde(default)]
    from: u64,
    /// The first frame that no longer does; all to the end, if nothing is said.
    until: Option<u64>,
    /// True to take such a binding back.
    #[serde(default)]
    withdraw: bool,
    /// Why, for the history.
    #[serde(default)]
    reason: String,
}

/// Binds a recording, or a part of it, to a patient. Where two bindings overlap, the
/// later one holds.
#[utoipa::path(post, path = "/api/v1/exams", tag = "labels", request_body = Binding,
    responses((status = OK, body = Entered), Refusal))]
pub(super) async fn exam(
    operator: Operator,
    State(site): State<Arc<Site>>,
    Body(binding): Body<Binding>,
) -> Result<Json<Entered>, Problem> {
    let patient = whose(&site, binding.patient.as_deref(), binding.id.as_deref())?;
    let digits = binding.content;
    if digits.len() < 8 || !digits.bytes().all(|it| it.is_ascii_hexdigit()) {
        let problem = "`content` is at least 8 hexadecimal digits of a recording's hash";
        return Err(Problem::bad_request(problem));
    }
    let found = site.read(move |store| store.contents(&digits)).await?;
    let [content] = found[..] else {
        return Err(if found.is_empty() {
            Problem::not_found("no recording here has this content")
        } else {
            Problem::bad_request("several recordings begin with these digits: give more of them")
        });
    };
    let fact = Fact::Exam(Exam {
        content,
        from: binding.from,
        until: binding.until.unwrap_or(i64::MAX as u64),
        // The log numbers it.
        number: 0,
        patient,
    });
    let change = changed(binding.withdraw, fact);
    write(&site, &operator, vec![change], binding.reason).await
}
