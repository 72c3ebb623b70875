//! Rows of `hepaflow results` that follow from clips and facts: indices, who
//! agrees with whom, and everybody against pathology.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::results::{Rows, model_name};
use crate::clinical::{Agreement, Evaluation, Indices, Milli, Rater};
use crate::domain::{ModelHash, PatientId, Stage};
use crate::store::StoredModel;

type Models = HashMap<ModelHash, StoredModel>;

fn thousandths(value: Milli) -> f64 {
    value as f64 / 1e3
}

fn rater_name(rater: Rater, models: &Models) -> String {
    match rater {
        Rater::Model(model) => model_name(models, model),
        other => other.to_string(),
    }
}

fn yes_or_no(says: bool) -> Value {
    json!(if says { "yes" } else { "no" })
}

pub(super) fn indices(rows: &[(PatientId, Indices)]) -> Rows {
    let rows = rows.iter().map(|(patient, indices)| {
        vec![
            json!(patient.expose()),
            json!(thousandths(indices.fib4)),
            json!(indices.fib4_class.to_string()),
            json!(thousandths(indices.apri)),
            json!(indices.apri_class.to_string()),
        ]
    });
    Rows {
        columns: vec![
            "patient",
            "fib4",
            "fib4_f3_or_more",
            "apri",
            "apri_f2_or_more",
        ],
        rows: rows.collect(),
        empty: "No patient has a blood test yet.",
    }
}

pub(super) fn agreements(rows: &[(PatientId, Agreement)], models: &Models) -> Rows {
    let rows = rows.iter().map(|(patient, agreement)| {
        vec![
            json!(patient.expose()),
            json!(format!("{} or more", agreement.target)),
            json!(model_name(models, agreement.model)),
            yes_or_no(agreement.model_says),
            json!(agreement.index.to_string()),
            yes_or_no(agreement.index_says),
            json!(agreement.model_says == agreement.index_says),
        ]
    });
    Rows {
        columns: vec![
            "patient",
            "question",
            "model",
            "model_says",
            "rater",
            "rater_says",
            "agree",
        ],
        rows: rows.collect(),
        empty: "No model and index have both said yes or no of a patient.",
    }
}

pub(super) fn evaluations(rows: &[(Rater, Stage, Evaluation)], models: &Models) -> Rows {
    let rows = rows.iter().map(|(rater, target, evaluation)| {
        let Evaluation { confusion, auc } = evaluation;
        vec![
            json!(rater_name(*rater, models)),
            json!(format!("{target} or more")),
            json!(auc.positives + auc.negatives),
            json!(confusion.true_positive),
            json!(confusion.false_positive),
            json!(confusion.true_negative),
            json!(confusion.false_negative),
            json!(confusion.undecided),
            json!(confusion.accuracy()),
            json!(confusion.macro_precision()),
            json!(confusion.macro_recall()),
            json!(confusion.macro_f1()),
            json!(auc.area()),
        ]
    });
    Rows {
        columns: vec![
            "rater",
            "question",
            "patients",
            "true_positive",
            "false_positive",
            "true_negative",
            "false_negative",
            "undecided",
            "accuracy",
            "precision",
            "recall",
            "f1",
            "auc",
        ],
        rows: rows.collect(),
        empty: "No patient has both an opinion and pathology yet.",
    }
}
