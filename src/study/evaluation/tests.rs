use std::fmt::Write;
use std::fs;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::model::usual_classes;
use crate::study::predictions::Prediction;

/// `patients` with stages in turn; stiffness follows the stage, blood does not.
fn cohort(patients: usize) -> (tempfile::TempDir, Cohort) {
    let place = tempfile::tempdir().unwrap();
    let mut text =
        "patient_id,sex,age_years,ast_u_l,alt_u_l,platelets_10e9_l,swe_kpa,stage\n".to_owned();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for i in 0..patients {
        let swe = 4.0 + (i % 5) as f64 * 2.0 + rng.random_range(0.0..4.0);
        let sex = if i % 2 == 0 { "F" } else { "M" };
        let (ast, age) = (rng.random_range(20.0..80.0), 30 + i % 40);
        writeln!(
            text,
            "SECRET-{i:03},{sex},{age},{ast:.1},30,200,{swe:.2},F{}",
            i % 5
        )
        .unwrap();
    }
    fs::write(place.path().join("cohort.csv"), text).unwrap();
    let cohort = Cohort::load_facts(place.path()).unwrap();
    (place, cohort)
}

/// Two clips a patient and fold, with P(>= F2) = `score(patient, fold, rng)`.
fn predictions(
    cohort: &Cohort,
    split: &Split,
    methods: &[&str],
    mut score: impl FnMut(&str, Stage, &mut ChaCha8Rng) -> f64,
) -> Predictions {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let stages: BTreeMap<_, _> = cohort.stages().into_iter().collect();
    let mut rows = Vec::new();
    for method in methods {
        for fold in 0..5 {
            for (set, members) in [
                (PatientSet::Validation, &split.validation),
                (PatientSet::Test, &split.test),
            ] {
                for patient in members {
                    for clip in 0..2 {
                        let p = score(method, stages[patient], &mut rng).clamp(0.0, 1.0);
                        rows.push(Prediction {
                            method: (*method).to_owned(),
                            fold,
                            set,
                            patient: patient.clone(),
                            path: patient.expose().to_owned(),
                            first_frame: clip * 16,
                            probabilities: vec![1.0 - p, p],
                        });
                    }
                }
            }
        }
    }
    Predictions {
        classes: usual_classes(2).unwrap(),
        rows,
    }
}

fn quick() -> Options {
    Options {
        bootstrap: Bootstrap {
            draws: 300,
            seed: 1,
        },
        ..Options::default()
    }
}

#[test]
fn models_and_indices_stand_side_by_side() {
    let (_place, cohort) = cohort(110);
    let split = Split::draw(&cohort.stages(), 7).unwrap();
    let predictions = predictions(
        &cohort,
        &split,
        &["fibro3d", "fibro2d"],
        |method, stage, rng| {
            let signal = if method == "fibro3d" { 0.15 } else { 0.05 };
            0.2 + signal * f64::from(stage as u8) + rng.random_range(-0.2..0.2)
        },
    );
    let found = evaluate(&predictions, &cohort, Some(&split), quick()).unwrap();
    assert_eq!(
        (found.training, found.validation, found.test),
        (Some(77), 16, 17)
    );
    let stages: Vec<_> = found
        .questions
        .iter()
        .map(|question| question.stage)
        .collect();
    assert_eq!(stages, QUESTIONS);
    for question in &found.questions {
        let names: Vec<_> = question.methods.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["fibro3d", "fibro2d", "swe", "fib4", "apri"]);
        // Models with each other and with three indices each.
        assert_eq!(question.comparisons.len(), 1 + 2 * 3);
        for method in &question.methods {
            let auc = method.auc.unwrap();
            let again = method.auc_bootstrap.unwrap();
            assert!((auc.value - again.value).abs() < 1e-12);
            assert!(auc.low <= auc.value && auc.value <= auc.high);
            assert_eq!(method.missing, 0);
            let is_model = method.kind == MethodKind::Model;
            assert_eq!(method.folds.len(), if is_model { 5 } else { 0 });
            assert_eq!(
                method.is_probability,
                is_model && question.stage == Stage::F2
            );
            assert_eq!(method.at_threshold.as_ref().unwrap().confusion.total(), 17);
            let learnt_on = method.threshold.unwrap().learnt_on;
            assert_eq!(learnt_on, if is_model { 16 } else { 93 });
        }
    }
    let primary = &found.questions[0];
    let mean = primary.methods[0].fold_mean.unwrap();
    let aucs: Vec<f64> = primary.methods[0]
        .folds
        .iter()
        .map(|f| f.auc.unwrap())
        .collect();
    assert!((mean.auc.unwrap().0 - aucs.iter().sum::<f64>() / 5.0).abs() < 1e-12);
    // APRI has cut-offs for >= F2, FIB-4 for >= F3; SWE has none without a vendor.
    let with_cutoffs = |question: &Question| -> Vec<String> {
        let methods = question.methods.iter().filter(|m| m.cutoffs.is_some());
        methods.map(|m| m.name.clone()).collect()
    };
    assert_eq!(with_cutoffs(primary), ["apri"]);
    assert_eq!(with_cutoffs(&found.questions[1]), ["fib4"]);
    // What is written is what is read, and it names nobody.
    let text = serde_json::to_string(&found).unwrap();
    let back: Evaluation = serde_json::from_str(&text).unwrap();
    assert_eq!(back.questions[0].comparisons.len(), 7);
    assert!(!text.contains("SECRET"));
    assert!(!found.discordant.is_empty() && found.subgroups.len() == 4);
}

#[test]
fn labels_that_mean_nothing_score_one_half() {
    const RUNS: u64 = 20;
    let (_place, cohort) = cohort(700);
    let split = Split::draw(&cohort.stages(), 5).unwrap();
    let mut options = quick();
    options.bootstrap.draws = 20;
    let (mut held, mut area, mut recall) = (0, 0.0, 0.0);
    for seed in 0..RUNS {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let predictions = predictions(&cohort, &split, &["random"], |_, _, _| rng.random());
        let found = evaluate(&predictions, &cohort, Some(&split), options).unwrap();
        let methods = &found.questions[0].methods;
        let auc = methods[0].auc.unwrap();
        held += u64::from(auc.low <= 0.5 && 0.5 <= auc.high);
        area += auc.value / RUNS as f64;
        let confusion = methods[0].at_threshold.as_ref().unwrap().confusion;
        recall += confusion.macro_recall().unwrap() / RUNS as f64;
        // Stiffness was made to follow the stage, so the machinery can tell.
        assert!(methods[1].auc.unwrap().low > 0.6);
    }
    // 95 % of intervals hold the truth; with 105 patients an AUC has a deviation
    // of .056, the mean of 20 one of .013.
    assert!(held >= 17, "{held} of {RUNS}");
    assert!((area - 0.5).abs() < 0.04, "{area}");
    assert!((recall - 0.5).abs() < 0.04, "{recall}");
}

#[test]
fn a_leak_is_refused_however_it_comes() {
    let (_place, cohort) = cohort(60);
    let split = Split::draw(&cohort.stages(), 7).unwrap();
    let clean = predictions(&cohort, &split, &["m"], |_, _, rng| rng.random());
    let judge = |predictions: &Predictions, split: &Split| {
        evaluate(predictions, &cohort, Some(split), quick()).unwrap_err()
    };
    // A training patient is scored as test.
    let mut leaking = clean.clone();
    leaking.rows[20].set = PatientSet::Test;
    leaking.rows[20].patient = split.train[0].clone();
    assert!(matches!(
        judge(&leaking, &split),
        EvaluationError::Misplaced {
            count: 1,
            set: "test"
        }
    ));
    // A validation patient is scored as test as well.
    let mut leaking = clean.clone();
    let mut row = leaking.rows[0].clone();
    assert_eq!(row.set, PatientSet::Validation);
    row.set = PatientSet::Test;
    leaking.rows.push(row);
    let error = judge(&leaking, &split);
    assert!(matches!(
        error,
        EvaluationError::Predictions(PredictionsError::Leak(1))
    ));
    // The split itself has someone on both sides.
    let mut leaking = split.clone();
    leaking.test.push(split.train[0].clone());
    assert!(matches!(judge(&clean, &leaking), EvaluationError::Split(_)));
    // Someone whom the cohort does not know.
    let mut foreign = clean.clone();
    foreign.rows[0].patient = PatientId::new("SECRET-X");
    let error = judge(&foreign, &split);
    assert!(matches!(error, EvaluationError::Strangers(1)));
    assert!(!error.to_string().contains("SECRET"));
    assert!(evaluate(&clean, &cohort, Some(&split), quick()).is_ok());
}

#[test]
fn thresholds_do_not_look_at_the_patients_that_judge() {
    let (_place, cohort) = cohort(110);
    let split = Split::draw(&cohort.stages(), 7).unwrap();
    let mut predictions = predictions(&cohort, &split, &["m"], |_, stage, rng| {
        0.1 * f64::from(stage as u8) + rng.random_range(0.0..0.5)
    });
    let judge = |predictions: &Predictions| {
        let found = evaluate(predictions, &cohort, Some(&split), quick()).unwrap();
        let method = &found.questions[0].methods[0];
        let temperature = method.calibration.as_ref().unwrap().temperature;
        (method.threshold, temperature, method.auc.unwrap().value)
    };
    let before = judge(&predictions);
    for row in predictions
        .rows
        .iter_mut()
        .filter(|row| row.set == PatientSet::Test)
    {
        row.probabilities.reverse();
    }
    let after = judge(&predictions);
    assert_eq!((before.0, before.1), (after.0, after.1));
    assert!((before.2 + after.2 - 1.0).abs() < 1e-9);
}
