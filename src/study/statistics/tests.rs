use serde::Deserialize;

use super::*;

/// What `scripts/make_statistics_goldens.py` writes.
#[derive(Deserialize)]
struct Goldens {
    cases: Vec<Case>,
    proportions: Vec<(u64, u64, f64, f64, f64, f64)>,
}

#[derive(Deserialize)]
struct Case {
    truth: Vec<bool>,
    first: Vec<f64>,
    second: Vec<f64>,
    auc: f64,
    roc: Vec<(f64, f64)>,
    youden: f64,
    delong: Reference,
    bootstrap: (f64, f64),
    confusion: Confusion,
    accuracy: f64,
    r#macro: [f64; 3],
    sensitivity: f64,
    specificity: f64,
    wilson: (f64, f64),
    clopper_pearson: (f64, f64),
    mcnemar: (u64, u64, f64),
    brier: f64,
    bins: Vec<(usize, f64, f64)>,
    ece: f64,
    slope: f64,
    intercept: f64,
    in_the_large: f64,
    temperature: f64,
    net_benefit: Vec<(f64, f64)>,
}

#[derive(Deserialize)]
struct Reference {
    aucs: [f64; 2],
    variances: [f64; 2],
    standard_error: f64,
    p: f64,
}

impl Case {
    fn scored(&self) -> Vec<Scored> {
        let pairs = self.first.iter().zip(&self.truth);
        pairs.map(|(&score, &case)| (score, case)).collect()
    }
}

fn goldens() -> Goldens {
    let text = include_str!("../../../tests/statistics/goldens.json");
    serde_json::from_str(text).unwrap()
}

#[track_caller]
fn near(value: f64, golden: f64, tolerance: f64) {
    assert!(
        (value - golden).abs() <= tolerance * golden.abs().max(1.0),
        "{value}, golden {golden}"
    );
}

const FINE: f64 = 1e-9;

#[test]
fn ranking_agrees_with_scikit_learn() {
    for case in goldens().cases {
        let scored = case.scored();
        near(auc(&scored).unwrap(), case.auc, FINE);
        let curve = roc_curve(&scored);
        assert_eq!(curve.len(), case.roc.len());
        for (point, golden) in curve.iter().zip(&case.roc) {
            near(point.0, golden.0, FINE);
            near(point.1, golden.1, FINE);
        }
        let threshold = youden_threshold(&scored).unwrap();
        let at = Confusion::at(&scored, threshold);
        let youden = 2.0 * at.macro_recall().unwrap() - 1.0;
        near(youden, case.youden, FINE);
    }
}

#[test]
fn variances_and_tests_of_aucs_agree_with_the_definition() {
    for case in goldens().cases {
        let first = delong(&case.scored()).unwrap();
        near(first.auc, case.delong.aucs[0], FINE);
        near(first.variance, case.delong.variances[0], FINE);
        let both: Vec<_> = case
            .first
            .iter()
            .zip(&case.second)
            .zip(&case.truth)
            .map(|((&a, &b), &case)| (a, b, case))
            .collect();
        let second: Vec<Scored> = both.iter().map(|&(_, b, case)| (b, case)).collect();
        near(
            delong(&second).unwrap().variance,
            case.delong.variances[1],
            FINE,
        );
        let paired = delong_paired(&both).unwrap();
        near(
            paired.difference,
            case.delong.aucs[0] - case.delong.aucs[1],
            FINE,
        );
        near(paired.standard_error, case.delong.standard_error, FINE);
        near(paired.p.unwrap(), case.delong.p, FINE);
        let same: Vec<_> = both.iter().map(|&(a, _, case)| (a, a, case)).collect();
        assert_eq!(delong_paired(&same).unwrap().p, None);
    }
}

#[test]
fn the_bootstrap_agrees_with_numpy_to_within_its_noise() {
    for case in goldens().cases {
        let scored = case.scored();
        let bootstrap = Bootstrap {
            draws: 4000,
            seed: 1,
        };
        let interval = bootstrap.interval(&case.truth, |sample| {
            auc(&sample.iter().map(|&i| scored[i]).collect::<Vec<_>>())
        });
        let interval = interval.unwrap();
        near(interval.value, case.auc, FINE);
        // A quantile of 4000 draws of .06 deviation has one of about .003.
        near(interval.low, case.bootstrap.0, 0.012);
        near(interval.high, case.bootstrap.1, 0.012);
    }
}

#[test]
fn confusion_and_intervals_agree_with_scikit_learn_and_statsmodels() {
    for case in goldens().cases {
        let confusion = Confusion::at(&case.scored(), 0.5);
        assert_eq!(confusion, case.confusion);
        near(confusion.accuracy().unwrap(), case.accuracy, FINE);
        near(confusion.macro_precision().unwrap(), case.r#macro[0], FINE);
        near(confusion.macro_recall().unwrap(), case.r#macro[1], FINE);
        near(confusion.macro_f1().unwrap(), case.r#macro[2], FINE);
        near(
            confusion.sensitivity().unwrap().value,
            case.sensitivity,
            FINE,
        );
        near(
            confusion.specificity().unwrap().value,
            case.specificity,
            FINE,
        );
        let (right, total) = (confusion.right(), confusion.total());
        let pair = |estimate: Estimate| (estimate.low, estimate.high);
        for (found, golden) in [
            (pair(wilson(right, total).unwrap()), case.wilson),
            (
                pair(clopper_pearson(right, total).unwrap()),
                case.clopper_pearson,
            ),
        ] {
            near(found.0, golden.0, 1e-7);
            near(found.1, golden.1, 1e-7);
        }
        let (only_first, only_second, p) = case.mcnemar;
        near(mcnemar_exact(only_first, only_second), p, FINE);
    }
    for (hits, trials, low, high, exact_low, exact_high) in goldens().proportions {
        let (wilson, exact) = (
            wilson(hits, trials).unwrap(),
            clopper_pearson(hits, trials).unwrap(),
        );
        near(wilson.low, low, 1e-7);
        near(wilson.high, high, 1e-7);
        near(exact.low, exact_low, 1e-7);
        near(exact.high, exact_high, 1e-7);
    }
    assert_eq!(wilson(0, 0), None);
    assert_eq!(clopper_pearson(3, 2), None);
}

#[test]
fn calibration_agrees_with_statsmodels_and_scipy() {
    for case in goldens().cases {
        let scored = case.scored();
        near(brier(&scored).unwrap(), case.brier, FINE);
        let bins = calibration_bins(&scored, 5);
        for (bin, golden) in bins.iter().zip(&case.bins) {
            assert_eq!(bin.patients, golden.0);
            near(bin.predicted, golden.1, FINE);
            near(bin.observed.value, golden.2, FINE);
        }
        assert_eq!(bins.len(), case.bins.len());
        near(expected_calibration_error(&bins).unwrap(), case.ece, FINE);
        let logits: Vec<Scored> = scored.iter().map(|&(p, case)| (logit(p), case)).collect();
        let fit = fit_logistic(&logits).unwrap();
        near(fit.slope, case.slope, 1e-7);
        near(fit.intercept, case.intercept, 1e-7);
        near(calibration_slope(&scored).unwrap(), case.slope, 1e-7);
        near(
            calibration_in_the_large(&scored).unwrap(),
            case.in_the_large,
            1e-7,
        );
        // A minimum found by comparing values is known to half the digits.
        near(fit_temperature(&scored).unwrap(), case.temperature, 1e-5);
        for (threshold, benefit) in case.net_benefit {
            near(net_benefit(&scored, threshold), benefit, FINE);
        }
    }
    near(net_benefit_of_all(30, 100, 0.5), -0.4, FINE);
}

#[test]
fn the_published_confusion_matrix_gives_the_published_figures() {
    // 17 patients in classes of 9 and 8, with 8 and 5 right.
    let matrix = Confusion {
        true_negative: 8,
        false_positive: 1,
        true_positive: 5,
        false_negative: 3,
    };
    let percent = |value: Option<f64>| format!("{:.2}", value.unwrap() * 100.0);
    assert_eq!(percent(matrix.accuracy()), "76.47");
    assert_eq!(percent(matrix.macro_precision()), "78.03");
    assert_eq!(percent(matrix.macro_recall()), "75.69");
    assert_eq!(percent(matrix.macro_f1()), "75.71");
    // With 17 patients that accuracy is known to within 50 and 93 %.
    let exact = clopper_pearson(13, 17).unwrap();
    assert_eq!(percent(Some(exact.low)), "50.10");
    assert_eq!(percent(Some(exact.high)), "93.19");
}

#[test]
fn what_one_class_cannot_say_is_not_said() {
    let healthy = [(0.1, false), (0.2, false), (0.9, false)];
    assert_eq!(auc(&healthy), None);
    assert!(roc_curve(&healthy).is_empty());
    assert_eq!(delong(&healthy), None);
    assert_eq!(youden_threshold(&healthy), None);
    assert_eq!(fit_temperature(&healthy), None);
    assert_eq!(fit_logistic(&healthy), None);
    let confusion = Confusion::at(&healthy, 0.5);
    assert_eq!(confusion.sensitivity(), None);
    assert_eq!(confusion.macro_recall(), None);
    assert_eq!(Confusion::default().accuracy(), None);
    assert_eq!(brier(&[]), None);
    assert!(calibration_bins(&[], 5).is_empty());
}

#[test]
fn classes_that_do_not_overlap_have_no_logistic_fit() {
    let apart = [(0.1, false), (0.2, false), (0.8, true), (0.9, true)];
    assert_eq!(fit_logistic(&apart), None);
    assert_eq!(fit_temperature(&apart), None);
    assert_eq!(delong(&apart).unwrap().variance.to_bits(), 0);
    let constant = [(0.5, false), (0.5, true)];
    assert_eq!(fit_logistic(&constant), None);
    assert_eq!(calibration_slope(&constant), None);
}
