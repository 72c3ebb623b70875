use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::patients::{PatientRow, standing};
use crate::serve::Site;
use crate::serve::auth::Caller;
use crate::serve::problem::Problem;

/// A patient's answer as FHIR R4: a `DiagnosticReport` with its `Observation`s.
///
/// The report is `preliminary`: nobody has verified it. The codes of stages are
/// our own; of the numbers there is one observation a class.
#[utoipa::path(get, path = "/api/v1/patients/{id}/fhir", tag = "patients",
    params(("id" = String, Path, description = "The patient's opaque id")),
    responses((status = OK, content_type = "application/fhir+json", body = Object),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn report(
    State(site): State<Arc<Site>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let row = standing(&site, &caller, &id).await?;
    let report = diagnostic_report(&row, site.running(&row.model).synthetic);
    let headers = [(header::CONTENT_TYPE, "application/fhir+json")];
    Ok((headers, report.to_string()).into_response())
}

/// Whose report, by whatever name the caller may see.
fn subject(row: &PatientRow) -> Value {
    json!({ "display": row.label, "identifier": { "system": "urn:hepaflow:patient", "value": row.id } })
}

fn coded(code: &str, text: &str) -> Value {
    json!({ "coding": [{ "system": "urn:hepaflow:code", "code": code }], "text": text })
}

/// <https://hl7.org/fhir/R4/diagnosticreport.html>
fn diagnostic_report(row: &PatientRow, synthetic: bool) -> Value {
    let absent = json!({ "coding": [{
        "system": "http://terminology.hl7.org/CodeSystem/data-absent-reason",
        "code": "unknown" }],
        "text": row.abstention });
    let mut stage = json!({
        "resourceType": "Observation",
        "id": "stage",
        "status": "preliminary",
        "code": coded("metavir-stage", "METAVIR fibrosis stage, by ultrasound video"),
        "subject": subject(row),
        "device": { "display": format!("hepaflow {}, model {}", env!("CARGO_PKG_VERSION"), row.model) },
    });
    let component = |class: &super::ClassProbability| {
        json!({
            "code": coded(&format!("probability-{}", class.class), &format!("P({})", class.class)),
            "valueQuantity": { "value": class.p, "system": "http://unitsofmeasure.org", "code": "1" },
        })
    };
    stage["component"] = row.probabilities.iter().map(component).collect();
    match &row.answer {
        Some(answer) => stage["valueCodeableConcept"] = coded(answer, &format!("METAVIR {answer}")),
        None => stage["dataAbsentReason"] = absent,
    }
    let clips = json!({
        "resourceType": "Observation",
        "id": "clips",
        "status": "preliminary",
        "code": coded("clips", "Video clips behind the answer"),
        "subject": subject(row),
        "valueInteger": row.clips,
    });
    let mut report = json!({
        "resourceType": "DiagnosticReport",
        "status": "preliminary",
        "category": [{ "coding": [{
            "system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "RUS",
            "display": "Radiology Ultrasound" }] }],
        "code": coded("liver-fibrosis", "Liver fibrosis, by ultrasound video"),
        "subject": subject(row),
        "contained": [stage, clips],
        "result": [{ "reference": "#stage" }, { "reference": "#clips" }],
        "conclusion": match &row.answer {
            Some(answer) => format!("{answer}, unverified. Research software, no medical device."),
            None => "No conclusion. Research software, no medical device.".to_owned(),
        },
    });
    if synthetic {
        report["meta"] = json!({ "tag": [{
            "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST" }] });
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::api::ClassProbability;

    fn patient(answer: Option<&str>) -> PatientRow {
        let class = |class: &str, p| ClassProbability {
            class: class.to_owned(),
            p,
        };
        PatientRow {
            id: "0".repeat(32),
            label: "#ABC123".to_owned(),
            answer: answer.map(str::to_owned),
            confidence: Some(0.75),
            abstention: answer.is_none().then(|| "thin_evidence".to_owned()),
            p_f2_or_more: Some(0.75),
            p_f3_or_more: None,
            p_f4: None,
            probabilities: vec![class("F0-F1", 0.25), class("F2-F4", 0.75)],
            clips: 12,
            left_out: 0,
            fib4: None,
            fib4_says: None,
            apri: None,
            apri_says: None,
            swe_kpa: None,
            discordances: Vec::new(),
            model: "m".to_owned(),
        }
    }

    #[test]
    fn a_report_points_at_its_observations_and_says_that_nobody_verified_it() {
        let report = diagnostic_report(&patient(Some("F2-F4")), true);
        assert_eq!(report["status"], "preliminary");
        for result in report["result"].as_array().unwrap() {
            let reference = result["reference"].as_str().unwrap();
            let contained = report["contained"].as_array().unwrap();
            let found = contained
                .iter()
                .filter(|it| it["id"] == reference[1..])
                .count();
            assert_eq!(found, 1, "{reference}");
        }
        let stage = &report["contained"][0];
        assert_eq!(stage["valueCodeableConcept"]["coding"][0]["code"], "F2-F4");
        assert_eq!(stage["component"][1]["valueQuantity"]["value"], 0.75);
        assert_eq!(report["meta"]["tag"][0]["code"], "HTEST");
    }

    #[test]
    fn an_abstention_has_a_reason_and_no_value() {
        let report = diagnostic_report(&patient(None), false);
        let stage = &report["contained"][0];
        assert!(stage.get("valueCodeableConcept").is_none());
        assert_eq!(stage["dataAbsentReason"]["text"], "thin_evidence");
        assert!(report.get("meta").is_none());
    }
}
