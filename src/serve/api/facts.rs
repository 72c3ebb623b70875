use std::sync::Arc;

use axum::extract::{Path, State};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::request::{Body, Refusal};
use super::{label, patient_named, whose};
use crate::clinical::{
    Activation, BloodTest, Dated, Day, Elastography, ElastographyMethod, Fact, Milli, parse_day,
    show_day,
};
use crate::domain::{ModelHash, PatientId, Stage};
use crate::serve::Site;
use crate::serve::auth::{Caller, Operator};
use crate::serve::problem::Problem;
use crate::serve::site::millis;
use crate::store::{Change, Effect, LoggedChange};

/// What was found about a patient, or that it was not.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct Labels {
    /// The patient's identifier (or pseudonym, where these are used); or `id`.
    patient: Option<String>,
    /// The patient's opaque id.
    id: Option<String>,
    /// The day, as YYYY-MM-DD; a value without one gives way to any with one.
    day: Option<String>,
    /// A blood test.
    blood: Option<Blood>,
    /// A stiffness.
    elastography: Option<Stiffness>,
    /// The METAVIR stage that pathology found, such as `F3`.
    stage: Option<String>,
    /// True to withdraw these values instead.
    #[serde(default)]
    withdraw: bool,
    /// Why, for the history.
    #[serde(default)]
    reason: String,
}

/// A blood test, as FIB-4 and APRI need it.
#[derive(Debug, Deserialize, ToSchema)]
struct Blood {
    /// Age at the draw, in years.
    age_years: f64,
    /// Aspartate aminotransferase, in U/L.
    ast_u_l: f64,
    /// Alanine aminotransferase, in U/L.
    alt_u_l: f64,
    /// Platelets, in 10^9/L.
    platelets_10e9_l: f64,
    /// The laboratory's upper limit of normal of AST, in U/L; 40 if nothing is said.
    ast_upper_limit_u_l: Option<f64>,
}

/// A stiffness of the liver.
#[derive(Debug, Deserialize, ToSchema)]
struct Stiffness {
    /// `super_sonic`, `mindray_ste`, `mindray_stq` or `transient`.
    method: String,
    /// Young's modulus, in kPa.
    kpa: f64,
}

/// What became of what was entered; of values in the order blood, elastography, stage.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Entered {
    /// `logged`, `corrected` or `unchanged`.
    effects: Vec<&'static str>,
}

/// Enters what was found about a patient: it is on disk when this answers, and in
/// the answers soon after. Another value of the same day is a correction.
#[utoipa::path(post, path = "/api/v1/labels", tag = "labels", request_body = Labels,
    responses((status = OK, body = Entered), Refusal))]
pub(super) async fn enter(
    operator: Operator,
    State(site): State<Arc<Site>>,
    Body(labels): Body<Labels>,
) -> Result<Json<Entered>, Problem> {
    let patient = whose(&site, labels.patient.as_deref(), labels.id.as_deref())?;
    let facts = facts_of(&labels, &patient)?;
    if facts.is_empty() {
        return Err(Problem::bad_request(
            "give `blood`, `elastography` or `stage`",
        ));
    }
    let changes = facts.into_iter().map(|fact| changed(labels.withdraw, fact));
    write(&site, &operator, changes.collect(), labels.reason).await
}

/// A fact that is entered, or with `withdraw` taken back.
pub(super) fn changed(withdraw: bool, fact: Fact) -> Change {
    if withdraw {
        Change::Withdraw(fact)
    } else {
        Change::Enter(fact)
    }
}

fn facts_of(labels: &Labels, patient: &PatientId) -> Result<Vec<Fact>, Problem> {
    let day = match &labels.day {
        Some(day) => {
            parse_day(day).ok_or_else(|| Problem::bad_request("`day` is written as YYYY-MM-DD"))?
        }
        None => 0,
    };
    let mut facts = Vec::new();
    if let Some(blood) = &labels.blood {
        let limit = blood.ast_upper_limit_u_l.map(milli);
        let test = BloodTest {
            age: milli(blood.age_years),
            ast: milli(blood.ast_u_l),
            alt: milli(blood.alt_u_l),
            platelets: milli(blood.platelets_10e9_l),
            ast_upper_limit: limit.unwrap_or(BloodTest::DEFAULT_AST_UPPER_LIMIT),
        };
        facts.push(Fact::Blood(dated(patient, day, test)));
    }
    if let Some(stiffness) = &labels.elastography {
        let method = Value::from(stiffness.method.as_str());
        let method: ElastographyMethod = serde_json::from_value(method).map_err(|_| {
            Problem::bad_request("`method` is super_sonic, mindray_ste, mindray_stq or transient")
        })?;
        let value = Elastography::from_pascal(method, milli(stiffness.kpa))
            .map_err(|error| Problem::bad_request(error.to_string()))?;
        facts.push(Fact::Elastography(dated(patient, day, value)));
    }
    if let Some(stage) = &labels.stage {
        let stage: Stage = stage
            .parse()
            .map_err(|_| Problem::bad_request("`stage` is F0, F1, F2, F3 or F4"))?;
        facts.push(Fact::Pathology(dated(patient, day, stage)));
    }
    Ok(facts)
}

fn dated<V>(patient: &PatientId, day: Day, value: V) -> Dated<V> {
    Dated {
        patient: patient.clone(),
        day,
        value,
    }
}

/// In thousandths; what is no number becomes one that no check lets through.
fn milli(value: f64) -> Milli {
    (value * 1e3).round() as Milli
}

/// Takes changes into the log, in the operator's name.
pub(super) async fn write(
    site: &Site,
    operator: &Operator,
    changes: Vec<Change>,
    reason: String,
) -> Result<Json<Entered>, Problem> {
    reasonable(&reason)?;
    let actor = operator.name();
    let facts = site.subject.facts.clone();
    let entering = move || facts.enter(&changes, &actor, &reason);
    let receipt = match tokio::task::spawn_blocking(entering).await {
        Ok(Ok(receipt)) => receipt,
        Ok(Err(error)) => return Err(Problem::internal(&error)),
        Err(error) => return Err(Problem::internal(&error)),
    };
    let outcomes = receipt.outcomes.into_iter().map(|outcome| match outcome {
        Ok(Effect::Logged(_)) => Ok("logged"),
        Ok(Effect::Corrected(_)) => Ok("corrected"),
        Ok(Effect::Unchanged) => Ok("unchanged"),
        Err(error) => Err(Problem::bad_request(error.to_string())),
    });
    let effects = outcomes.collect::<Result<_, _>>()?;
    Ok(Json(Entered { effects }))
}

/// Whether a reason can be kept.
pub(super) fn reasonable(reason: &str) -> Result<(), Problem> {
    if reason.len() > 500 {
        return Err(Problem::bad_request("`reason` has at most 500 characters"));
    }
    Ok(())
}

/// A line of a patient's history.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HistoryRow {
    /// Its place in the log of facts.
    number: u64,
    /// When it was written, in milliseconds since 1970.
    time_ms: u64,
    /// Who wrote it.
    actor: String,
    /// Why.
    reason: String,
    /// Whether a value was withdrawn; else it was entered.
    withdrawn: bool,
    /// `blood`, `elastography`, `pathology`, `merge` or `exam`.
    kind: &'static str,
    /// The day of the value, as YYYY-MM-DD.
    day: Option<String>,
    /// The value.
    #[schema(value_type = Object)]
    value: Value,
}

/// What was entered and withdrawn about a patient, by whom and why, oldest first.
#[utoipa::path(get, path = "/api/v1/patients/{id}/history", tag = "patients",
    params(("id" = String, Path, description = "The patient's opaque id")),
    responses((status = OK, body = Vec<HistoryRow>),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn history(
    State(site): State<Arc<Site>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Vec<HistoryRow>>, Problem> {
    let patient = patient_named(&site, &id)?;
    let history = site.read(move |store| store.history_of(&patient)).await?;
    let rows = history.iter();
    let rows = rows.filter_map(|row| told(&site, &caller, row));
    Ok(Json(rows.collect()))
}

fn told(site: &Site, caller: &Caller, row: &LoggedChange) -> Option<HistoryRow> {
    let unit = |value: Milli| value as f64 / 1e3;
    let fact = row.change.fact();
    let (day, value) = match fact {
        Fact::Blood(Dated { day, value, .. }) => {
            let value = json!({
                "age_years": unit(value.age), "ast_u_l": unit(value.ast),
                "alt_u_l": unit(value.alt), "platelets_10e9_l": unit(value.platelets),
                "fib4": unit(value.fib4()), "apri": unit(value.apri()),
            });
            (*day, value)
        }
        Fact::Elastography(Dated { day, value, .. }) => (
            *day,
            json!({ "method": value.method, "kpa": unit(value.stiffness) }),
        ),
        Fact::Pathology(Dated { day, value, .. }) => (*day, json!({ "stage": value })),
        Fact::Merge(from, into) => {
            let value = json!({
                "from": label(site, caller, from), "from_id": site.ids.patient(from),
                "into": label(site, caller, into), "into_id": site.ids.patient(into),
            });
            (0, value)
        }
        Fact::Exam(exam) => {
            let until = Some(exam.until).filter(|until| *until < i64::MAX as u64);
            let content = exam.content.to_string();
            (
                0,
                json!({ "content": content, "from": exam.from, "until": until }),
            )
        }
        Fact::Activation(_) | Fact::Deletion(_) => return None,
    };
    Some(HistoryRow {
        number: row.number,
        time_ms: millis(row.time),
        actor: row.actor.clone(),
        reason: row.reason.clone(),
        withdrawn: matches!(row.change, Change::Withdraw(_)),
        kind: fact.kind(),
        day: show_day(day),
        value,
    })
}

/// Makes a model's answers the current ones. It must have run here.
#[utoipa::path(post, path = "/api/v1/models/{hash}/activate", tag = "models",
    params(("hash" = String, Path, description = "The model's hash")),
    responses((status = OK, body = Entered), Refusal))]
pub(super) async fn activate(
    operator: Operator,
    State(site): State<Arc<Site>>,
    Path(hash): Path<String>,
) -> Result<Json<Entered>, Problem> {
    let model: ModelHash = hash
        .parse()
        .map_err(|_| Problem::bad_request("a model's hash has 64 hexadecimal digits"))?;
    let known = site.read(crate::store::Store::models).await?;
    if !known.contains_key(&model) {
        return Err(Problem::bad_request("no run has used this model"));
    }
    // The store gives it its number.
    let activation = Fact::Activation(Activation { number: 0, model });
    let reason = "activated by request".to_owned();
    write(&site, &operator, vec![Change::Enter(activation)], reason).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Result<Vec<Fact>, Problem> {
        let labels: Labels = serde_json::from_str(text).unwrap();
        facts_of(&labels, &PatientId::new("P"))
    }

    #[test]
    fn labels_become_facts_of_their_day() {
        let facts = labels(
            r#"{"day":"2024-05-06","stage":"F3","elastography":{"method":"transient","kpa":9.5},
                "blood":{"age_years":50,"ast_u_l":40,"alt_u_l":30,"platelets_10e9_l":200}}"#,
        );
        let facts = facts.unwrap();
        let kinds: Vec<_> = facts.iter().map(Fact::kind).collect();
        assert_eq!(kinds, ["blood", "elastography", "pathology"]);
        let Fact::Blood(test) = &facts[0] else {
            panic!("no blood test");
        };
        assert_eq!((test.value.fib4(), test.value.apri()), (1826, 500));
        assert_eq!(show_day(test.day).unwrap(), "2024-05-06");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for text in [
            r#"{"stage":"F9"}"#,
            r#"{"stage":"F3","day":"6 May"}"#,
            r#"{"elastography":{"method":"palpation","kpa":9}}"#,
            r#"{"elastography":{"method":"transient","kpa":-9}}"#,
        ] {
            assert!(labels(text).is_err(), "{text}");
        }
    }
}
