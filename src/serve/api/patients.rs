use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::{ClassProbability, Listed, Paging, label, patient_named};
use crate::domain::{ClipPrediction, PatientResult, Probability, Stage, StageRange};
use crate::serve::Site;
use crate::serve::auth::Caller;
use crate::serve::problem::Problem;
use crate::store::{Page, Store, StoreError};

/// Fewer clips than this are too thin to conclude from.
const FEWEST_CLIPS: u64 = crate::dataflow::views::PatientAnswer::FEWEST_CLIPS as u64;

/// A patient's standing answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PatientRow {
    /// Opaque, for addresses.
    pub(super) id: String,
    /// The patient's identifier for who is logged in, a short code for others.
    pub(super) label: String,
    /// The likeliest stages, such as `F2-F4`; null if nothing is concluded.
    pub(super) answer: Option<String>,
    /// Its probability.
    pub(super) confidence: Option<f64>,
    /// Why nothing is concluded: `thin_evidence`; null if something is.
    pub(super) abstention: Option<&'static str>,
    /// P(F2 or more), where the classes can tell.
    pub(super) p_f2_or_more: Option<f64>,
    /// P(F3 or more), where the classes can tell.
    pub(super) p_f3_or_more: Option<f64>,
    /// P(F4), where the classes can tell.
    pub(super) p_f4: Option<f64>,
    /// Mean probability of each class over all clips.
    pub(super) probabilities: Vec<ClassProbability>,
    /// Clips behind it.
    pub(super) clips: u64,
    /// The model's hash.
    pub(super) model: String,
}

/// A clip's prediction.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClipRow {
    /// The source's name.
    source: String,
    /// The recording: the first digits of its hash.
    content: String,
    /// Index of its first frame.
    first_frame: u64,
    /// Index of its last frame.
    last_frame: u64,
    /// Event time of its first frame, in seconds from the stream's beginning.
    begin_seconds: f64,
    /// Event time of its last frame.
    end_seconds: f64,
    /// Gaps in the stream before it.
    gaps_before: u64,
    /// Probability of each class.
    probabilities: Vec<ClassProbability>,
}

pub(super) fn named(classes: &[StageRange], p: &[Probability]) -> Vec<ClassProbability> {
    let pairs = classes.iter().zip(p);
    pairs
        .map(|(class, p)| ClassProbability {
            class: class.to_string(),
            p: p.to_f64(),
        })
        .collect()
}

pub(super) fn row(site: &Site, caller: &Caller, result: &PatientResult) -> PatientRow {
    let classes = &site.subject.model.classes;
    let likeliest = result.likeliest();
    let thin = result.clips < FEWEST_CLIPS;
    let answer = likeliest
        .and_then(|class| classes.get(class))
        .filter(|_| !thin);
    let confidence = likeliest.and_then(|class| result.probabilities.get(class));
    PatientRow {
        id: site.ids.patient(&result.patient),
        label: label(site, caller, &result.patient),
        answer: answer.map(StageRange::to_string),
        confidence: confidence.map(|p| p.to_f64()),
        abstention: thin.then_some("thin_evidence"),
        p_f2_or_more: result.at_least(Stage::F2, classes),
        p_f3_or_more: result.at_least(Stage::F3, classes),
        p_f4: result.at_least(Stage::F4, classes),
        probabilities: named(classes, &result.probabilities),
        clips: result.clips,
        model: result.model.to_string(),
    }
}

async fn answers(site: &Site, page: Page) -> Result<(Vec<PatientResult>, u64), Problem> {
    let model = site.subject.model.hash;
    site.read(move |store| store.answers(model, page)).await
}

/// The standing answer of every patient under the model that runs.
#[utoipa::path(get, path = "/api/v1/patients", tag = "patients", params(Paging),
    responses((status = OK, body = Listed<PatientRow>)))]
pub(super) async fn patients(
    State(site): State<Arc<Site>>,
    Extension(caller): Extension<Caller>,
    Query(paging): Query<Paging>,
) -> Result<Json<Listed<PatientRow>>, Problem> {
    let page = paging.page();
    let (results, total) = answers(&site, page).await?;
    Ok(Json(Listed {
        items: results
            .iter()
            .map(|result| row(&site, &caller, result))
            .collect(),
        offset: page.offset,
        total,
    }))
}

/// The same as comma-separated values, all patients.
#[utoipa::path(get, path = "/api/v1/patients.csv", tag = "patients",
    responses((status = OK, content_type = "text/csv", body = String)))]
pub(super) async fn patients_csv(
    State(site): State<Arc<Site>>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    let everybody = Page {
        offset: 0,
        limit: u32::MAX,
    };
    let (results, _) = answers(&site, everybody).await?;
    let rows: Vec<_> = results
        .iter()
        .map(|result| row(&site, &caller, result))
        .collect();
    let text = csv_of(&rows).map_err(|error| Problem::internal(&error))?;
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"patients.csv\"",
        ),
    ];
    Ok((headers, text).into_response())
}

fn csv_of(rows: &[PatientRow]) -> Result<Vec<u8>, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record([
        "id",
        "patient",
        "answer",
        "confidence",
        "abstention",
        "p_f2_or_more",
        "p_f3_or_more",
        "p_f4",
        "clips",
        "model",
    ])?;
    let number = |p: Option<f64>| p.map_or(String::new(), |p| p.to_string());
    for row in rows {
        writer.write_record([
            row.id.clone(),
            inert(&row.label),
            row.answer.clone().unwrap_or_default(),
            number(row.confidence),
            row.abstention.unwrap_or_default().to_owned(),
            number(row.p_f2_or_more),
            number(row.p_f3_or_more),
            number(row.p_f4),
            row.clips.to_string(),
            row.model.clone(),
        ])?;
    }
    writer
        .into_inner()
        .map_err(|error| csv::Error::from(error.into_error()))
}

/// Text that no spreadsheet takes for a formula.
fn inert(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{text}")
    } else {
        text.to_owned()
    }
}

/// One patient's standing answer.
#[utoipa::path(get, path = "/api/v1/patients/{id}", tag = "patients",
    params(("id" = String, Path, description = "The patient's opaque id")),
    responses((status = OK, body = PatientRow),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn patient(
    State(site): State<Arc<Site>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<PatientRow>, Problem> {
    let result = standing(&site, &id).await?;
    Ok(Json(row(&site, &caller, &result)))
}

pub(super) async fn standing(site: &Arc<Site>, id: &str) -> Result<PatientResult, Problem> {
    let patient = patient_named(site, id).await?;
    let model = site.subject.model.hash;
    let found = site
        .read(move |store: &Store| -> Result<_, StoreError> { store.answer(&patient, model) })
        .await?;
    found.ok_or_else(|| Problem::not_found("this patient has no answer under the model that runs"))
}

/// The clips behind a patient's answer.
#[utoipa::path(get, path = "/api/v1/patients/{id}/clips", tag = "patients",
    params(("id" = String, Path, description = "The patient's opaque id"), Paging),
    responses((status = OK, body = Listed<ClipRow>),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn clips(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    Query(paging): Query<Paging>,
) -> Result<Json<Listed<ClipRow>>, Problem> {
    let patient = patient_named(&site, &id).await?;
    let (model, page) = (site.subject.model.hash, paging.page());
    let (clips, total) = site
        .read(move |store| store.clips_of(&patient, model, page))
        .await?;
    let classes = &site.subject.model.classes;
    let row = |clip: &ClipPrediction| ClipRow {
        source: clip.source.clone(),
        content: clip.key.content.short(),
        first_frame: clip.span.first_frame,
        last_frame: clip.span.last_frame,
        begin_seconds: clip.span.begin.as_secs_f64(),
        end_seconds: clip.span.end.as_secs_f64(),
        gaps_before: clip.span.gaps_before,
        probabilities: named(classes, &clip.probabilities),
    };
    Ok(Json(Listed {
        items: clips.iter().map(row).collect(),
        offset: page.offset,
        total,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_spreadsheet_takes_a_name_for_a_formula() {
        assert_eq!(inert("=HYPERLINK(\"x\")"), "'=HYPERLINK(\"x\")");
        assert_eq!(inert("P-001"), "P-001");
    }
}
