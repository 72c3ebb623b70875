use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::{ClassProbability, Listed, Paging, label, patient_named};
use crate::clinical::Milli;
use crate::domain::{ClipPrediction, ModelHash, Probability, Stage, StageRange};
use crate::serve::Site;
use crate::serve::auth::Caller;
use crate::serve::problem::Problem;
use crate::store::{Page, Store, StoredModel, Summary};

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
    /// Why nothing is concluded: `thin_evidence` or `clips_disagree`; null if
    /// something is.
    pub(super) abstention: Option<String>,
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
    /// Clips that it does not rest on.
    pub(super) left_out: u64,
    /// FIB-4, if there is a blood test.
    pub(super) fib4: Option<f64>,
    /// What FIB-4 says of F3 or more: `unlikely`, `undecided` or `likely`.
    pub(super) fib4_says: Option<String>,
    /// APRI.
    pub(super) apri: Option<f64>,
    /// What APRI says of F2 or more.
    pub(super) apri_says: Option<String>,
    /// The last elastography, in kPa.
    pub(super) swe_kpa: Option<f64>,
    /// Where the model and an index differ.
    pub(super) discordances: Vec<Discordance>,
    /// The model's hash.
    pub(super) model: String,
}

/// A question that the model and an index answer differently.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Discordance {
    /// `fib4`, `apri` or `elastography`.
    index: String,
    /// Is it at least this stage?
    stage: String,
    /// What the model says; the index says the opposite.
    model_says: bool,
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
    /// How far its picture is to be trusted, from 0 (left out) to 1.
    weight: f64,
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

pub(super) fn row(site: &Site, caller: &Caller, all: &Known, summary: &Summary) -> PatientRow {
    let result = &summary.result;
    let model = all.get(&result.model);
    let classes = model
        .map(|model| model.classes.as_slice())
        .unwrap_or_default();
    let unit = |value: Milli| value as f64 / 1e3;
    let likeliest = result.likeliest();
    let answer = likeliest.and_then(|class| classes.get(class));
    let answer = answer.filter(|_| result.abstention.is_none());
    let confidence = likeliest.and_then(|class| result.probabilities.get(class));
    let indices = summary.indices.as_ref();
    let differing = summary.discordances.iter();
    PatientRow {
        id: site.ids.patient(&result.patient),
        label: label(site, caller, &result.patient),
        answer: answer.map(StageRange::to_string),
        confidence: confidence.map(|p| p.to_f64()),
        abstention: result.abstention.map(|why| why.to_string()),
        p_f2_or_more: result.at_least(Stage::F2, classes),
        p_f3_or_more: result.at_least(Stage::F3, classes),
        p_f4: result.at_least(Stage::F4, classes),
        probabilities: named(classes, &result.probabilities),
        clips: result.clips,
        left_out: result.left_out,
        fib4: indices.map(|indices| unit(indices.fib4)),
        fib4_says: indices.map(|indices| indices.fib4_class.to_string()),
        apri: indices.map(|indices| unit(indices.apri)),
        apri_says: indices.map(|indices| indices.apri_class.to_string()),
        swe_kpa: summary
            .elastography
            .map(|measured| unit(measured.stiffness)),
        discordances: differing
            .map(|agreement| Discordance {
                index: agreement.index.to_string(),
                stage: agreement.target.to_string(),
                model_says: agreement.model_says,
            })
            .collect(),
        model: result.model.to_string(),
    }
}

/// The models of the store, whose classes answers speak of.
pub(super) type Known = HashMap<ModelHash, StoredModel>;

async fn summaries(site: &Site, page: Page) -> Result<(Known, Vec<Summary>, u64), Problem> {
    site.read(move |store| {
        let (summaries, total) = store.summaries(page)?;
        Ok((store.models()?, summaries, total))
    })
    .await
}

/// Every patient's current answer: that of the active model.
#[utoipa::path(get, path = "/api/v1/patients", tag = "patients", params(Paging),
    responses((status = OK, body = Listed<PatientRow>)))]
pub(super) async fn patients(
    State(site): State<Arc<Site>>,
    Extension(caller): Extension<Caller>,
    Query(paging): Query<Paging>,
) -> Result<Json<Listed<PatientRow>>, Problem> {
    let page = paging.page();
    let (known, summaries, total) = summaries(&site, page).await?;
    let rows = summaries.iter();
    Ok(Json(Listed {
        items: rows.map(|it| row(&site, &caller, &known, it)).collect(),
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
    let (known, summaries, _) = summaries(&site, everybody).await?;
    let rows = summaries.iter();
    let rows: Vec<_> = rows.map(|it| row(&site, &caller, &known, it)).collect();
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
        "fib4",
        "apri",
        "swe_kpa",
        "model",
    ])?;
    let number = |p: Option<f64>| p.map_or(String::new(), |p| p.to_string());
    for row in rows {
        writer.write_record([
            row.id.clone(),
            inert(&row.label),
            row.answer.clone().unwrap_or_default(),
            number(row.confidence),
            row.abstention.clone().unwrap_or_default(),
            number(row.p_f2_or_more),
            number(row.p_f3_or_more),
            number(row.p_f4),
            row.clips.to_string(),
            number(row.fib4),
            number(row.apri),
            number(row.swe_kpa),
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
    Ok(Json(standing(&site, &caller, &id).await?))
}

pub(super) async fn standing(
    site: &Arc<Site>,
    caller: &Caller,
    id: &str,
) -> Result<PatientRow, Problem> {
    let patient = patient_named(site, id)?;
    let read = move |store: &Store| Ok((store.models()?, store.summary(&patient)?));
    let (known, found) = site.read(read).await?;
    let summary = found.ok_or_else(|| Problem::not_found("this patient has no answer"))?;
    Ok(row(site, caller, &known, &summary))
}

/// The clips behind a patient's answer: those of records that were merged into
/// theirs, and of recordings that were bound to them, too.
#[utoipa::path(get, path = "/api/v1/patients/{id}/clips", tag = "patients",
    params(("id" = String, Path, description = "The patient's opaque id"), Paging),
    responses((status = OK, body = Listed<ClipRow>),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn clips(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    Query(paging): Query<Paging>,
) -> Result<Json<Listed<ClipRow>>, Problem> {
    let patient = patient_named(&site, &id)?;
    let (scoring, page) = (site.subject.model.hash, paging.page());
    let assignments = Arc::clone(&site.assignments);
    // Under the model whose answer is the current one.
    let read = move |store: &Store| {
        let current = store.summary(&patient)?;
        let model = current.map_or(scoring, |summary| summary.result.model);
        let classes = store.models()?.remove(&model).map(|model| model.classes);
        let mut assignments = assignments.lock().unwrap_or_else(PoisonError::into_inner);
        assignments.follow(store)?;
        Ok((classes, store.clips_for(&assignments, &patient, model)?))
    };
    let (classes, clips) = site.read(read).await?;
    let shown = clips.iter().skip(page.offset as usize);
    let shown = shown.take(page.limit as usize);
    let classes = classes.unwrap_or_default();
    let row = |clip: &ClipPrediction| ClipRow {
        source: clip.source.clone(),
        content: clip.key.content.short(),
        first_frame: clip.span.first_frame,
        last_frame: clip.span.last_frame,
        begin_seconds: clip.span.begin.as_secs_f64(),
        end_seconds: clip.span.end.as_secs_f64(),
        gaps_before: clip.span.gaps_before,
        weight: f64::from(clip.span.weight) / 256.0,
        probabilities: named(&classes, &clip.probabilities),
    };
    Ok(Json(Listed {
        items: shown.map(row).collect(),
        offset: page.offset,
        total: clips.len() as u64,
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
