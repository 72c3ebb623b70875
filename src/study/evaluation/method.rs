//! One method judged on one question.

use super::rows::{FoldScores, Rater, Verdicts, scored};
use super::{
    AtThreshold, Calibration, CutoffResult, FoldResult, MeanSd, Method, MethodKind, Origin,
    Threshold,
};
use crate::clinical::Verdict;
use crate::domain::Stage;
use crate::study::cohort::CohortPatient;
use crate::study::statistics::{
    Bootstrap, Confusion, Scored, auc, brier, calibration_bins, calibration_in_the_large,
    calibration_slope, clopper_pearson, delong, expected_calibration_error, fit_logistic,
    fit_temperature, net_benefit, roc_curve, wilson, with_temperature,
};

/// Few, of equal mass: 17 patients fill no more.
const BINS: usize = 5;

pub(super) fn judge(
    rater: &Rater,
    stage: Stage,
    test: &[&CohortPatient],
    bootstrap: Bootstrap,
) -> Method {
    let patients = rater.scored(test, stage);
    let is_case: Vec<bool> = patients.iter().map(|(_, case)| *case).collect();
    let again = |sample: &[usize]| -> Vec<Scored> { sample.iter().map(|&i| patients[i]).collect() };
    let threshold = threshold(&rater.learning, rater.is_probability, rater.kind);
    let at_threshold = threshold.map(|threshold| {
        let confusion = Confusion::at(&patients, threshold.value);
        let interval = |value: fn(&Confusion) -> Option<f64>| {
            bootstrap.interval(&is_case, |sample| {
                value(&Confusion::at(&again(sample), threshold.value))
            })
        };
        AtThreshold {
            confusion,
            accuracy: wilson(confusion.right(), confusion.total()),
            accuracy_exact: clopper_pearson(confusion.right(), confusion.total()),
            sensitivity: confusion.sensitivity(),
            specificity: confusion.specificity(),
            precision: interval(Confusion::macro_precision),
            recall: interval(Confusion::macro_recall),
            f1: interval(Confusion::macro_f1),
        }
    });
    let folds: Vec<FoldResult> = rater
        .folds
        .iter()
        .map(|fold| judge_fold(fold, rater.is_probability, test, stage))
        .collect();
    let probabilities = as_probabilities(rater, &patients);
    Method {
        name: rater.name.clone(),
        label: rater.label.clone(),
        kind: rater.kind,
        is_probability: rater.is_probability,
        patients: patients.len(),
        missing: test.len() - patients.len(),
        auc: delong(&patients).map(|delong| delong.estimate()),
        auc_bootstrap: bootstrap.interval(&is_case, |sample| auc(&again(sample))),
        roc: roc_curve(&patients),
        threshold,
        at_threshold,
        fold_mean: MeanSd::of_folds(&folds),
        folds,
        calibration: probabilities
            .as_ref()
            .and_then(|(probabilities, mapped)| calibrate(rater, probabilities, *mapped)),
        decision: probabilities.map_or_else(Vec::new, |(probabilities, _)| curve(&probabilities)),
        cutoffs: rater.verdicts.as_ref().map(count_verdicts),
    }
}

/// Youden's threshold of the patients to learn from. Where they are of one
/// class, a probability is cut in half and another score cannot be cut.
fn threshold(learning: &[Scored], is_probability: bool, kind: MethodKind) -> Option<Threshold> {
    let learnt = crate::study::statistics::youden_threshold(learning).map(|value| Threshold {
        value,
        origin: match kind {
            MethodKind::Model => Origin::YoudenOnValidation,
            MethodKind::Index => Origin::YoudenOnTrainingAndValidation,
        },
        learnt_on: learning.len(),
    });
    let half = Threshold {
        value: 0.5,
        origin: Origin::Fixed,
        learnt_on: 0,
    };
    learnt.or(is_probability.then_some(half))
}

fn judge_fold(
    fold: &FoldScores,
    is_probability: bool,
    test: &[&CohortPatient],
    stage: Stage,
) -> FoldResult {
    let patients = scored(&fold.test, test, stage);
    let threshold = threshold(&fold.learning, is_probability, MethodKind::Model);
    let confusion = threshold.map(|threshold| Confusion::at(&patients, threshold.value));
    let of = |value: fn(&Confusion) -> Option<f64>| confusion.as_ref().and_then(value);
    FoldResult {
        fold: fold.fold,
        patients: patients.len(),
        auc: auc(&patients),
        threshold,
        accuracy: of(Confusion::accuracy),
        precision: of(Confusion::macro_precision),
        recall: of(Confusion::macro_recall),
        f1: of(Confusion::macro_f1),
        sensitivity: of(|confusion| Some(confusion.sensitivity()?.value)),
        specificity: of(|confusion| Some(confusion.specificity()?.value)),
    }
}

/// The scores as probabilities, and whether a line had to be fitted for that.
fn as_probabilities(rater: &Rater, patients: &[Scored]) -> Option<(Vec<Scored>, bool)> {
    if rater.is_probability {
        return Some((patients.to_vec(), false));
    }
    let line = fit_logistic(&rater.learning)?;
    let mapped = patients.iter();
    let mapped = mapped.map(|&(score, case)| (line.probability(score), case));
    Some((mapped.collect(), true))
}

fn calibrate(rater: &Rater, probabilities: &[Scored], is_mapped: bool) -> Option<Calibration> {
    let bins = calibration_bins(probabilities, BINS);
    let temperature = if is_mapped {
        None
    } else {
        fit_temperature(&rater.learning)
    };
    let scaled: Option<Vec<Scored>> = temperature.map(|temperature| {
        let each = probabilities.iter();
        each.map(|&(p, case)| (with_temperature(p, temperature), case))
            .collect()
    });
    let error_of =
        |scaled: &Vec<Scored>| expected_calibration_error(&calibration_bins(scaled, BINS));
    Some(Calibration {
        is_mapped,
        learnt_on: rater.learning.len(),
        brier: brier(probabilities)?,
        ece: expected_calibration_error(&bins)?,
        intercept: calibration_in_the_large(probabilities),
        slope: calibration_slope(probabilities),
        temperature,
        brier_scaled: scaled.as_deref().and_then(brier),
        ece_scaled: scaled.as_ref().and_then(error_of),
        bins,
    })
}

/// Net benefit at 1 to 99 %.
fn curve(probabilities: &[Scored]) -> Vec<(f64, f64)> {
    (1..100)
        .map(|percent| f64::from(percent) / 100.0)
        .map(|threshold| (threshold, net_benefit(probabilities, threshold)))
        .collect()
}

fn count_verdicts(verdicts: &Verdicts) -> CutoffResult {
    let count = |wanted: Option<Verdict>, case: bool| {
        let matching = verdicts.all.iter().filter(|pair| **pair == (wanted, case));
        matching.count() as u64
    };
    let both = |wanted| (count(wanted, true), count(wanted, false));
    CutoffResult {
        published: verdicts.published.to_owned(),
        ruled_out: both(Some(Verdict::Unlikely)),
        grey: both(Some(Verdict::Undecided)),
        ruled_in: both(Some(Verdict::Likely)),
        unknown: both(None),
    }
}
