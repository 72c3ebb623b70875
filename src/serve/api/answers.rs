//! How a patient's answer came to be what it is.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::patient_named;
use crate::domain::{ModelHash, PatientResult, StageRange};
use crate::serve::Site;
use crate::serve::problem::Problem;
use crate::serve::site::millis;
use crate::store::{Cause, LoggedAnswer, Store, StoredModel};

/// Changes of one patient's answer that are looked through: of a live stream there is
/// one a commit.
const READ: usize = 20_000;
/// Of these, the newest that made a difference are told.
const TOLD: usize = 100;

/// A change of a patient's answer that made a difference: another class, another
/// model, a conclusion or none.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub(super) struct AnswerRow {
    /// Its place in the log of answers.
    number: u64,
    /// When it came, in milliseconds since 1970.
    time_ms: u64,
    /// What it came by: `clips`; `facts`, what somebody entered; or `beginning`, when a
    /// run began and worked out what follows from all that is stored.
    cause: &'static str,
    /// The same in words, with the numbers of the facts.
    reason: String,
    /// The likeliest stages since then; null if nothing is concluded, or all evidence
    /// is gone.
    answer: Option<String>,
    /// Its probability.
    confidence: Option<f64>,
    /// Why nothing is concluded, if so.
    abstention: Option<String>,
    /// Whether all evidence is gone.
    withdrawn: bool,
    /// Clips behind it.
    clips: u64,
    /// The model's hash.
    model: String,
}

impl AnswerRow {
    fn of(logged: &LoggedAnswer, models: &HashMap<ModelHash, StoredModel>) -> Self {
        let result = logged.answer.as_ref();
        let classes = models.get(&logged.model);
        let classes = classes.map_or(&[][..], |model| &model.classes);
        let class = result.and_then(PatientResult::likeliest);
        let concluded = class.filter(|_| result.is_some_and(|it| it.abstention.is_none()));
        let answer = concluded.and_then(|class| classes.get(class));
        let confidence = class.and_then(|class| result?.probabilities.get(class));
        Self {
            number: logged.number,
            time_ms: millis(logged.time),
            cause: Cause::kind(&logged.reason),
            reason: logged.reason.clone(),
            answer: answer.map(StageRange::to_string),
            confidence: confidence.map(|p| p.to_f64()),
            abstention: result.and_then(|it| Some(it.abstention?.to_string())),
            withdrawn: result.is_none(),
            clips: result.map_or(0, |it| it.clips),
            model: logged.model.to_string(),
        }
    }

    /// What a person would call another answer.
    fn gist(&self) -> (&str, bool, Option<&str>, Option<&str>) {
        (
            &self.model,
            self.withdrawn,
            self.answer.as_deref(),
            self.abstention.as_deref(),
        )
    }
}

/// Of all that was logged about a patient, oldest first, what made a difference. Only
/// the active model's word is an answer.
fn told(log: &[LoggedAnswer], models: &HashMap<ModelHash, StoredModel>) -> Vec<AnswerRow> {
    let mut rows: Vec<AnswerRow> = Vec::new();
    for logged in log {
        let is_current = match &logged.answer {
            Some(result) => result.current,
            None => rows
                .last()
                .is_some_and(|last| last.model == logged.model.to_string()),
        };
        let row = AnswerRow::of(logged, models);
        if is_current && rows.last().is_none_or(|last| last.gist() != row.gist()) {
            rows.push(row);
        }
    }
    rows
}

/// How the patient's answer came to be what it is: the changes of it that made a
/// difference, newest first, the last hundred.
#[utoipa::path(get, path = "/api/v1/patients/{id}/answers", tag = "patients",
    params(("id" = String, Path, description = "The patient's opaque id")),
    responses((status = OK, body = Vec<AnswerRow>),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn answers(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
) -> Result<Json<Vec<AnswerRow>>, Problem> {
    let patient = patient_named(&site, &id)?;
    let read = move |store: &Store| Ok((store.models()?, store.answers_of(&patient, READ)?));
    let (models, log) = site.read(read).await?;
    let mut rows = told(&log, &models);
    rows.reverse();
    rows.truncate(TOLD);
    Ok(Json(rows))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::domain::{Abstention, PatientId, Probability};

    fn logged(number: u64, model: &str, answer: Option<(f64, bool, u64)>) -> LoggedAnswer {
        let (patient, model) = (PatientId::new("P"), ModelHash::of(model.as_bytes()));
        let answer = answer.map(|(severe, current, clips)| PatientResult {
            patient: patient.clone(),
            model,
            current,
            clips,
            left_out: 0,
            weight: 256 * clips,
            probabilities: [1.0 - severe, severe]
                .map(|p| Probability::from_f64(p).unwrap())
                .to_vec(),
            abstention: (clips < 3).then_some(Abstention::ThinEvidence),
        });
        LoggedAnswer {
            number,
            time: UNIX_EPOCH + Duration::from_secs(number),
            actor: "hepaflow run".to_owned(),
            reason: "clips".to_owned(),
            patient,
            model,
            answer,
        }
    }

    #[test]
    fn only_what_makes_a_difference_is_told_and_only_of_the_active_model() {
        let models = ["old", "new"].map(|name| StoredModel {
            hash: ModelHash::of(name.as_bytes()),
            architecture: name.to_owned(),
            classes: vec!["F0-F1".parse().unwrap(), "F2-F4".parse().unwrap()],
        });
        let models = models.map(|model| (model.hash, model)).into();
        let log = [
            logged(1, "old", Some((0.25, true, 2))),
            logged(2, "old", Some((0.25, true, 3))),
            logged(3, "new", Some((0.75, false, 3))),
            logged(4, "old", Some((0.375, true, 4))),
            logged(5, "old", Some((0.75, true, 9))),
            logged(6, "old", Some((0.75, false, 9))),
            logged(7, "new", Some((0.75, true, 9))),
            logged(8, "old", None),
            logged(9, "new", None),
            logged(10, "new", None),
            logged(11, "new", Some((0.125, true, 5))),
        ];
        let rows = told(&log, &models);
        let gists: Vec<_> = rows
            .iter()
            .map(|row| (row.number, row.answer.as_deref(), row.withdrawn, row.clips))
            .collect();
        assert_eq!(
            gists,
            [
                (1, None, false, 2),
                (2, Some("F0-F1"), false, 3),
                (5, Some("F2-F4"), false, 9),
                (7, Some("F2-F4"), false, 9),
                (9, None, true, 0),
                (11, Some("F0-F1"), false, 5),
            ]
        );
        assert_eq!(rows[0].abstention.as_deref(), Some("thin_evidence"));
        assert_eq!(rows[5].confidence, Some(0.875));
    }
}
