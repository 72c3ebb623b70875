//! What an evaluation found, as `evaluation.json` holds it.

use serde::{Deserialize, Serialize};

use crate::domain::Stage;
use crate::study::cohort::Flow;
use crate::study::predictions::Aggregation;
use crate::study::statistics::{CalibrationBin, Confusion, Estimate, PairedAuc};

/// Everything found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Whether the cohort was simulated.
    pub is_synthetic: bool,
    /// Who was in the cohort, and who was not.
    pub flow: Flow,
    /// What was divided into parts: patients.
    pub partition: String,
    /// What the split was drawn from, where it is known.
    pub split_seed: Option<u64>,
    /// Training patients, where they are known.
    pub training: Option<usize>,
    /// Validation patients.
    pub validation: usize,
    /// Test patients.
    pub test: usize,
    /// How clips became patients.
    pub aggregation: Aggregation,
    /// Samples of every bootstrap.
    pub bootstrap_draws: usize,
    /// What they were drawn from.
    pub bootstrap_seed: u64,
    /// >= F2, >= F3, F4.
    pub questions: Vec<Question>,
    /// Test patients whom at least one method has wrong at >= F2.
    pub discordant: Vec<Discordant>,
    /// At >= F2.
    pub subgroups: Vec<Subgroup>,
}

/// All methods on one question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// Has the patient this stage or a severer one?
    pub stage: Stage,
    /// Test patients.
    pub patients: usize,
    /// Those who have.
    pub cases: usize,
    /// Models, then indices.
    pub methods: Vec<Method>,
    /// Models with each other and with every index.
    pub comparisons: Vec<Comparison>,
}

/// What is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MethodKind {
    /// Fold-models and their ensemble.
    Model,
    /// SWE, FIB-4 or APRI.
    Index,
}

/// One method on one question; of a model the ensemble of its folds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Method {
    /// As in `predictions.csv`.
    pub name: String,
    /// For people.
    pub label: String,
    /// Model or index.
    pub kind: MethodKind,
    /// Whether its score is a probability of this very stage. A model of two
    /// classes only ranks for severer ones.
    pub is_probability: bool,
    /// Test patients with a score.
    pub patients: usize,
    /// Test patients without.
    pub missing: usize,
    /// DeLong's interval.
    pub auc: Option<Estimate>,
    /// Stratified bootstrap over patients.
    pub auc_bootstrap: Option<Estimate>,
    /// (1 - specificity, sensitivity).
    pub roc: Vec<(f64, f64)>,
    /// Where it says yes.
    pub threshold: Option<Threshold>,
    /// How that goes.
    pub at_threshold: Option<AtThreshold>,
    /// Mean and deviation over the fold-models, as the paper reports.
    pub fold_mean: Option<MeanSd>,
    /// Each fold-model by itself.
    pub folds: Vec<FoldResult>,
    /// Whether its probabilities mean what they say.
    pub calibration: Option<Calibration>,
    /// (threshold probability, net benefit).
    pub decision: Vec<(f64, f64)>,
    /// What published cut-offs say.
    pub cutoffs: Option<CutoffResult>,
}

/// Where a threshold comes from. Never from the patients that judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Youden's, on the validation patients.
    YoudenOnValidation,
    /// Youden's, on training and validation patients.
    YoudenOnTrainingAndValidation,
    /// One half, since those to learn from are all of one class.
    Fixed,
}

/// Where a method says yes: above this.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// In the unit of the score.
    pub value: f64,
    /// Where it comes from.
    pub origin: Origin,
    /// How many patients it was learnt on.
    pub learnt_on: usize,
}

/// Yes and no at the threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AtThreshold {
    /// The counts.
    pub confusion: Confusion,
    /// With Wilson's interval.
    pub accuracy: Option<Estimate>,
    /// With Clopper and Pearson's.
    pub accuracy_exact: Option<Estimate>,
    /// With Wilson's.
    pub sensitivity: Option<Estimate>,
    /// With Wilson's.
    pub specificity: Option<Estimate>,
    /// Mean over both classes; bootstrap.
    pub precision: Option<Estimate>,
    /// Mean over both classes; bootstrap.
    pub recall: Option<Estimate>,
    /// Mean over both classes; bootstrap.
    pub f1: Option<Estimate>,
}

/// One fold-model on the test patients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FoldResult {
    /// Which.
    pub fold: usize,
    /// Test patients with a score.
    pub patients: usize,
    /// Area under the curve.
    pub auc: Option<f64>,
    /// Its own.
    pub threshold: Option<Threshold>,
    /// Share of patients right.
    pub accuracy: Option<f64>,
    /// Mean over both classes.
    pub precision: Option<f64>,
    /// Mean over both classes.
    pub recall: Option<f64>,
    /// Mean over both classes.
    pub f1: Option<f64>,
    /// Share of cases found.
    pub sensitivity: Option<f64>,
    /// Share of controls left alone.
    pub specificity: Option<f64>,
}

/// Mean and standard deviation (n - 1) of each measure over the folds; `None`
/// where a fold has none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeanSd {
    /// How many folds.
    pub folds: usize,
    /// (mean, standard deviation), here and below.
    pub auc: Option<(f64, f64)>,
    /// Share of patients right.
    pub accuracy: Option<(f64, f64)>,
    /// Mean over both classes.
    pub precision: Option<(f64, f64)>,
    /// Mean over both classes.
    pub recall: Option<(f64, f64)>,
    /// Mean over both classes.
    pub f1: Option<(f64, f64)>,
    /// Share of cases found.
    pub sensitivity: Option<(f64, f64)>,
    /// Share of controls left alone.
    pub specificity: Option<(f64, f64)>,
}

impl MeanSd {
    /// `None` without folds.
    pub(super) fn of_folds(folds: &[FoldResult]) -> Option<Self> {
        let of = |value: fn(&FoldResult) -> Option<f64>| {
            let values: Vec<f64> = folds.iter().map(value).collect::<Option<_>>()?;
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            Some((mean, (squares / (n - 1.0).max(1.0)).sqrt()))
        };
        (!folds.is_empty()).then(|| Self {
            folds: folds.len(),
            auc: of(|fold| fold.auc),
            accuracy: of(|fold| fold.accuracy),
            precision: of(|fold| fold.precision),
            recall: of(|fold| fold.recall),
            f1: of(|fold| fold.f1),
            sensitivity: of(|fold| fold.sensitivity),
            specificity: of(|fold| fold.specificity),
        })
    }
}

/// Whether probabilities mean what they say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Whether the score was no probability and a logistic line, fitted on the
    /// patients to learn from, made it one.
    pub is_mapped: bool,
    /// How many those were.
    pub learnt_on: usize,
    /// Mean squared error.
    pub brier: f64,
    /// Expected calibration error over `bins`.
    pub ece: f64,
    /// With a slope of 1; 0 is right.
    pub intercept: Option<f64>,
    /// 1 is right.
    pub slope: Option<f64>,
    /// Learnt on validation patients.
    pub temperature: Option<f64>,
    /// At that temperature.
    pub brier_scaled: Option<f64>,
    /// At that temperature.
    pub ece_scaled: Option<f64>,
    /// Of equal mass, before scaling.
    pub bins: Vec<CalibrationBin>,
}

/// What published cut-offs say of test patients, each (cases, controls).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutoffResult {
    /// Which.
    pub published: String,
    /// Below the lower one.
    pub ruled_out: (u64, u64),
    /// Between the two: nothing is said.
    pub grey: (u64, u64),
    /// Above the upper one.
    pub ruled_in: (u64, u64),
    /// Without a value.
    pub unknown: (u64, u64),
}

/// Two methods on the patients whom both scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Always a model.
    pub first: String,
    /// A model or an index.
    pub second: String,
    /// How many both scored.
    pub patients: usize,
    /// AUC of the first less that of the second; paired bootstrap.
    pub difference: Option<Estimate>,
    /// The same by DeLong's test.
    pub delong: Option<PairedAuc>,
    /// Of being right at the thresholds.
    pub mcnemar: Option<McNemar>,
}

/// McNemar's exact test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct McNemar {
    /// Patients whom only the first has right.
    pub only_first: u64,
    /// Patients whom only the second has right.
    pub only_second: u64,
    /// Two-sided.
    pub p: f64,
}

/// A patient whom at least one method has wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Discordant {
    /// The line in `cohort.csv`.
    pub line: u64,
    /// What pathology found.
    pub stage: Stage,
    /// What each method says.
    pub opinions: Vec<Opinion>,
}

/// What a method says of a patient.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opinion {
    /// Which.
    pub method: String,
    /// In its own unit.
    pub score: f64,
    /// Whether that lies above its threshold.
    pub says_yes: bool,
}

/// Some of the test patients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subgroup {
    /// Which.
    pub name: String,
    /// How many.
    pub patients: usize,
    /// How many of them are cases.
    pub cases: usize,
    /// Every method.
    pub results: Vec<SubgroupResult>,
}

/// A method in a subgroup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubgroupResult {
    /// Which.
    pub method: String,
    /// DeLong's interval.
    pub auc: Option<Estimate>,
}
