//! Labels as a table, as laboratories send them.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::facts::reasonable;
use super::request::Refusal;
use crate::clinical::{BadRow, read_labels};
use crate::serve::Site;
use crate::serve::auth::Operator;
use crate::serve::problem::Problem;
use crate::store::{Imported, import_labels};

/// The largest table, in bytes: some fifty thousand rows.
const TABLE: usize = 4 << 20;

pub(super) fn router() -> OpenApiRouter<Arc<Site>> {
    OpenApiRouter::new()
        .routes(routes!(import))
        .layer(DefaultBodyLimit::max(TABLE))
}

/// What goes with a table.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Said {
    /// Why, for the history.
    #[serde(default)]
    reason: String,
}

/// What became of a table.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Taken {
    /// Rows that say something.
    rows_taken: usize,
    /// Values that nobody had entered.
    values_entered: usize,
    /// Values that took the place of others.
    values_corrected: usize,
    /// Values that were known already.
    values_unchanged: usize,
    /// Rows that were left out, in whole or in part.
    bad_rows: Vec<BadLine>,
    /// Columns that nobody reads.
    columns_not_read: Vec<String>,
}

/// A row that was left out.
#[derive(Debug, Serialize, ToSchema)]
struct BadLine {
    /// Its line in the table; the header is in line 1.
    line: u64,
    /// What is wrong, and what would be right.
    problem: String,
    /// The same in a word that stays, such as `future`.
    code: &'static str,
    /// The column, or the quantity, that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<&'static str>,
}

impl Taken {
    fn of(imported: Imported, columns_not_read: Vec<String>) -> Self {
        let bad = imported.bad.into_iter();
        let bad = bad.map(|BadRow { line, problem }| BadLine {
            line,
            problem: problem.to_string(),
            code: problem.code(),
            place: problem.place(),
        });
        Self {
            rows_taken: imported.rows,
            values_entered: imported.entered,
            values_corrected: imported.corrected,
            values_unchanged: imported.unchanged,
            bad_rows: bad.collect(),
            columns_not_read,
        }
    }
}

/// Takes a CSV table of what was found about patients, as `hepaflow labels import`
/// does: bad rows are named by line and left out, the others are on disk when this
/// answers. Sending a table again changes nothing.
#[utoipa::path(post, path = "/api/v1/labels/table", tag = "labels", params(Said),
    request_body(content = String, content_type = "text/csv",
        description = "`patient_id`, and columns of a cohort's cohort.csv; 4 MiB at most"),
    responses((status = OK, body = Taken), Refusal,
        (status = PAYLOAD_TOO_LARGE, description = "Send it in parts"),
        (status = UNSUPPORTED_MEDIA_TYPE, body = Problem,
            content_type = "application/problem+json")))]
async fn import(
    operator: Operator,
    State(site): State<Arc<Site>>,
    Query(said): Query<Said>,
    headers: HeaderMap,
    table: Bytes,
) -> Result<Json<Taken>, Problem> {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().map(str::trim) != Some("text/csv") {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send the table as text/csv",
        ));
    }
    reasonable(&said.reason)?;
    let labels = read_labels(&*table, SystemTime::now())
        .map_err(|error| Problem::bad_request(error.to_string()))?;
    let (actor, facts) = (operator.name(), site.subject.facts.clone());
    let columns_not_read = labels.unread.clone();
    let importing = move || {
        let labels = labels.renamed(|patient| site.patient(patient.expose()));
        import_labels(labels, |changes| facts.enter(changes, &actor, &said.reason))
    };
    let imported = match tokio::task::spawn_blocking(importing).await {
        Ok(Ok(imported)) => imported,
        Ok(Err(error)) => return Err(Problem::internal(&error)),
        Err(error) => return Err(Problem::internal(&error)),
    };
    Ok(Json(Taken::of(imported, columns_not_read)))
}
