//! The scores of each method, patient by patient, before they are judged.

use std::collections::BTreeMap;

use super::MethodKind;
use crate::clinical::{PatientRecord, Verdict};
use crate::domain::{PatientId, Stage};
use crate::study::cohort::CohortPatient;
use crate::study::predictions::{Aggregation, PatientSet, Predictions};
use crate::study::statistics::Scored;

pub(super) type Scores = BTreeMap<PatientId, f64>;

/// What published cut-offs say of each patient, and whether it is a case.
pub(super) struct Verdicts {
    pub(super) published: &'static str,
    pub(super) all: Vec<(Option<Verdict>, bool)>,
}

/// One method and what it says of whom.
pub(super) struct Rater {
    pub(super) name: String,
    pub(super) label: String,
    pub(super) kind: MethodKind,
    /// Whether scores are probabilities of the very stage asked for.
    pub(super) is_probability: bool,
    /// Of patients that judge.
    pub(super) test: Scores,
    /// Of patients to learn from, each with whether it is a case: validation
    /// for models, which have seen the others; all of them for indices.
    pub(super) learning: Vec<Scored>,
    /// Of a model: each fold-model by itself.
    pub(super) folds: Vec<FoldScores>,
    /// Of an index with published cut-offs: what they say of those who judge.
    pub(super) verdicts: Option<Verdicts>,
}

pub(super) struct FoldScores {
    pub(super) fold: usize,
    pub(super) test: Scores,
    pub(super) learning: Vec<Scored>,
}

impl Rater {
    /// Those of `patients` who have a score.
    pub(super) fn scored(&self, patients: &[&CohortPatient], stage: Stage) -> Vec<Scored> {
        scored(&self.test, patients, stage)
    }
}

pub(super) fn scored(scores: &Scores, patients: &[&CohortPatient], stage: Stage) -> Vec<Scored> {
    let each = patients.iter();
    each.filter_map(|patient| Some((*scores.get(patient.id())?, patient.stage >= stage)))
        .collect()
}

/// Models in the order of the file, then SWE, FIB-4 and APRI.
pub(super) fn raters(
    predictions: &Predictions,
    stage: Stage,
    aggregation: Aggregation,
    test: &[&CohortPatient],
    learning: &[&CohortPatient],
) -> Vec<Rater> {
    let mut raters: Vec<Rater> = predictions
        .methods()
        .into_iter()
        .map(|method| model(predictions, method, stage, aggregation, learning))
        .collect();
    let milli = |value: Option<i64>| value.map(|value| value as f64 / 1e3);
    let verdicts = |published: &'static str,
                    verdict: &dyn Fn(&PatientRecord) -> Option<Verdict>| {
        let all: Vec<_> = test
            .iter()
            .map(|patient| (verdict(&patient.record), patient.stage >= stage))
            .collect();
        let says_something = all.iter().any(|(verdict, _)| verdict.is_some());
        says_something.then_some(Verdicts { published, all })
    };
    let index =
        |name: &str, label: &str, value: &dyn Fn(&PatientRecord) -> Option<f64>, verdicts| {
            let of = |patients: &[&CohortPatient]| -> Scores {
                let each = patients.iter();
                each.filter_map(|p| Some((p.id().clone(), value(&p.record)?)))
                    .collect()
            };
            Rater {
                name: name.to_owned(),
                label: label.to_owned(),
                kind: MethodKind::Index,
                is_probability: false,
                test: of(test),
                learning: scored(&of(learning), learning, stage),
                folds: Vec::new(),
                verdicts,
            }
        };
    raters.push(index(
        "swe",
        "SWE [kPa]",
        &|record| milli(record.stiffness),
        verdicts("the cut-off of each row's vendor", &|record| {
            record.swe_verdict(stage)
        }),
    ));
    raters.push(index(
        "fib4",
        "FIB-4",
        &|record| milli(record.fib4()),
        verdicts(
            "1.45 and 3.25 (viral), 1.3 (from 65 years 2.0) and 2.67 (steatotic)",
            &|record| {
                (stage == Stage::F3)
                    .then(|| record.fib4_verdict())
                    .flatten()
            },
        ),
    ));
    let cutoffs = if stage == Stage::F4 {
        "1.0 and 2.0"
    } else {
        "0.5 and 1.5"
    };
    raters.push(index(
        "apri",
        "APRI",
        &|record| milli(record.apri()),
        verdicts(cutoffs, &|record| record.apri_verdict(stage)),
    ));
    raters
}

fn model(
    predictions: &Predictions,
    method: &str,
    stage: Stage,
    aggregation: Aggregation,
    learning: &[&CohortPatient],
) -> Rater {
    let ensemble = |set, stage| predictions.ensemble_scores(method, set, stage, aggregation);
    // Classes that cannot tell the stage still rank patients.
    let is_probability = ensemble(PatientSet::Test, stage).is_some();
    let asked = if is_probability { stage } else { Stage::F2 };
    let of_set = |set| ensemble(set, asked).unwrap_or_default();
    let folds = predictions.folds(method).into_iter().map(|fold| {
        let of_set = |set| predictions.patient_scores(method, fold, set, asked, aggregation);
        FoldScores {
            fold,
            test: of_set(PatientSet::Test).unwrap_or_default(),
            learning: scored(
                &of_set(PatientSet::Validation).unwrap_or_default(),
                learning,
                stage,
            ),
        }
    });
    Rater {
        name: method.to_owned(),
        label: label_of(method),
        kind: MethodKind::Model,
        is_probability,
        test: of_set(PatientSet::Test),
        learning: scored(&of_set(PatientSet::Validation), learning, stage),
        folds: folds.collect(),
        verdicts: None,
    }
}

/// As people call it.
fn label_of(method: &str) -> String {
    match method {
        "fibro3d" => "3D-CNN".to_owned(),
        "fibro2d" => "2D-CNN".to_owned(),
        "fibro2d_lstm" => "2D-CNN + LSTM".to_owned(),
        other => other.to_owned(),
    }
}
