//! `hepaflow evaluate` from outside: what it writes, and what it refuses.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use hepaflow::domain::{PatientId, Stage};
use hepaflow::model::usual_classes;
use hepaflow::study::folder::{
    AblationRecord, AttentionRecord, ClipRecord, EpochRecord, MethodRecord, StudyFolder,
    StudyRecord, TrainingRecord, TrialRecord, TuningRecord, write_json,
};
use hepaflow::study::predictions::{Aggregation, PatientSet, Prediction, Predictions};
use hepaflow::study::split::Split;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const METHODS: [&str; 3] = ["fibro3d", "fibro2d_lstm", "fibro2d"];

/// A synthetic cohort of 110 without videos, its split, and predictions of
/// three models of which the first is the best.
struct Place {
    cohort: PathBuf,
    study: StudyFolder,
    split: Split,
}

impl Place {
    /// A fresh directory; kept, so that its report can be looked at.
    fn new(name: &str) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&root);
        let cohort = root.join("cohort");
        fs::create_dir_all(&cohort).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut table =
            "patient_id,sex,age_years,ast_u_l,alt_u_l,platelets_10e9_l,swe_kpa,stage,swe_method\n"
                .to_owned();
        let mut stages = Vec::new();
        for i in 0..110_u32 {
            let stage = Stage::ALL[[0, 1, 1, 2, 2, 3, 4, 1, 2, 4][i as usize % 10]];
            let severe = f64::from(stage as u8);
            let swe = 4.5 + 1.9 * severe + rng.random_range(0.0..5.0);
            let platelets = 230.0 - 18.0 * severe + rng.random_range(-60.0..60.0);
            let ast = if i % 40 == 7 {
                String::new()
            } else {
                format!("{:.1}", 25.0 + 5.0 * severe + rng.random_range(0.0..30.0))
            };
            let age = 30 + i % 45;
            let sex = ["F", "M"][i as usize % 2];
            writeln!(
                table,
                "SECRET-{i:03},{sex},{age},{ast},32.0,{platelets:.0},{swe:.1},{stage},super_sonic"
            )
            .unwrap();
            stages.push((PatientId::new(format!("SECRET-{i:03}")), stage));
        }
        table += "SECRET-X,F,50,30,30,200,6.0,,super_sonic\n";
        fs::write(cohort.join("cohort.csv"), table).unwrap();
        fs::write(cohort.join("README.txt"), "SYNTHETIC cohort, for a test\n").unwrap();
        let split = Split::draw(&stages, 7).unwrap();
        let study = StudyFolder::new(root.join("study"));
        split.save(&study.split()).unwrap();
        let place = Self {
            cohort,
            study,
            split,
        };
        place.predict(&stages.into_iter().collect());
        place
    }

    fn predict(&self, stages: &BTreeMap<PatientId, Stage>) {
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        let mut rows = Vec::new();
        for (method, signal) in METHODS.into_iter().zip([0.14, 0.09, 0.08]) {
            for fold in 0..5 {
                for (set, members) in [
                    (PatientSet::Validation, &self.split.validation),
                    (PatientSet::Test, &self.split.test),
                ] {
                    for patient in members {
                        let body = 0.2 + signal * f64::from(stages[patient] as u8);
                        for clip in 0..3 {
                            let p = (body + rng.random_range(-0.25..0.25)).clamp(0.01, 0.99);
                            rows.push(Prediction {
                                method: method.to_owned(),
                                fold,
                                set,
                                patient: patient.clone(),
                                path: format!("videos/{}.mp4", patient.expose()),
                                first_frame: clip * 16,
                                probabilities: vec![1.0 - p, p],
                            });
                        }
                    }
                }
            }
        }
        let classes = usual_classes(2).unwrap();
        Predictions { classes, rows }
            .save(&self.study.predictions())
            .unwrap();
    }

    fn evaluate(&self, more: &[&str]) -> Command {
        let mut command = Command::cargo_bin("hepaflow").unwrap();
        command.args(["evaluate", "--draws", "200", "--predictions"]);
        command.arg(self.study.predictions());
        command.arg("--cohort").arg(&self.cohort);
        command.arg("--split").arg(self.study.split());
        command.arg("--out").arg(self.study.path()).args(more);
        command
    }

    fn html(&self) -> String {
        fs::read_to_string(self.study.report_html()).unwrap()
    }
}

#[test]
fn predictions_alone_give_a_report_with_what_was_not_done() {
    let place = Place::new("evaluate-alone");
    let run = place.evaluate(&[]).assert().success();
    run.stdout(
        contains("SYNTHETIC")
            .and(contains("3D-CNN"))
            .and(contains("FIB-4"))
            .and(contains(">= F4")),
    );
    let html = place.html();
    assert!(html.starts_with("<!DOCTYPE html>"));
    for text in [
        "SYNTHETIC: this cohort was simulated",
        "111 patients in cohort.csv",
        "1 excluded: no stage",
        "77 training, 16 validation, 17 test patients",
        "Significant fibrosis (≥ F2)",
        "Cirrhosis (F4)",
        "2D-CNN + LSTM",
        "APRI",
        "Ablations: not done",
        "Attention maps: not done",
        "Tuning: not done",
        "ast_u_l",
    ] {
        assert!(html.contains(text), "{text} is not in the report");
    }
    // Nothing from outside, nobody's name.
    for foreign in [
        "<script",
        "<link",
        "src=\"http",
        "@import",
        "url(",
        "SECRET",
        "NaN",
    ] {
        assert!(!html.contains(foreign), "{foreign} is in the report");
    }
    let json = fs::read_to_string(place.study.report_json()).unwrap();
    assert!(!json.contains("SECRET"));
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        report["evaluation"]["questions"][0]["methods"]
            .as_array()
            .unwrap()
            .len(),
        6
    );
}

#[test]
fn a_whole_study_is_shown_whole() {
    let place = Place::new("evaluate-whole");
    let settings: BTreeMap<_, _> = [("learning_rate".to_owned(), serde_json::json!(0.001))].into();
    let record = StudyRecord {
        version: "0.1.0".into(),
        seed: 7,
        is_synthetic: true,
        flow: hepaflow::study::cohort::Flow::default(),
        methods: METHODS
            .map(|name| MethodRecord {
                name: name.into(),
                label: name.into(),
                parameters: 12_345,
                settings: settings.clone(),
            })
            .to_vec(),
        clips: ClipRecord {
            frames: 16,
            height: 64,
            width: 64,
            frames_per_second: Some(20.0),
            stride: 8,
            mean: 0.2,
            std: 0.19,
            augmentation: "flip 0.5".to_owned(),
        },
        aggregation: Aggregation::Mean,
        device: "cpu".into(),
        seconds: 812.0,
        notes: vec!["one fold was trained twice".into()],
    };
    write_json(&place.study.study(), &record).unwrap();
    let trials = METHODS.map(|method| TrialRecord {
        method: method.into(),
        settings: settings.clone(),
        fold_aucs: vec![Some(0.7), Some(0.8), None, Some(0.75), Some(0.71)],
        mean_auc: None,
        chosen: true,
    });
    write_json(
        &place.study.tuning(),
        &TuningRecord {
            trials: trials.to_vec(),
        },
    )
    .unwrap();
    for method in METHODS {
        for fold in 0..5 {
            let epochs = (1..=12).map(|epoch| EpochRecord {
                epoch,
                train_loss: 0.7 / epoch as f64 + 0.1,
                validation_loss: 0.5 / epoch as f64 + 0.25 + 0.01 * fold as f64,
                validation_auc: Some(0.8),
                learning_rate: 1e-3,
            });
            let training = TrainingRecord {
                method: method.into(),
                fold,
                seed: 7,
                epochs: epochs.collect(),
                chosen_epoch: 9,
                model_hash: format!("{fold}").repeat(64),
                seconds: 31.0,
            };
            write_json(&place.study.training(method, fold), &training).unwrap();
        }
    }
    let ablations: Vec<_> = ["none", "shuffled_frames"]
        .into_iter()
        .flat_map(|ablation| {
            METHODS.map(|method| AblationRecord {
                ablation: ablation.into(),
                method: method.into(),
                fold_aucs: vec![Some(0.8); 5],
            })
        })
        .collect();
    write_json(&place.study.ablations(), &ablations).unwrap();
    let attention = METHODS.map(|method| AttentionRecord {
        patient: "test-03".into(),
        stage: Stage::F3,
        method: method.into(),
        file: format!("{method}.png"),
        capsule_share: Some(0.41),
        capsule_area: Some(0.12),
    });
    write_json(&place.study.attention_list(), &attention.to_vec()).unwrap();
    // The smallest picture there is; that of the last method is gone.
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, 1, 1);
    encoder.set_color(png::ColorType::Grayscale);
    encoder
        .write_header()
        .unwrap()
        .write_image_data(&[99])
        .unwrap();
    for method in &METHODS[..2] {
        fs::write(place.study.attention().join(format!("{method}.png")), &png).unwrap();
    }

    place.evaluate(&[]).assert().success();
    let html = place.html();
    assert!(!html.contains("not done in this study"));
    for text in [
        "one fold was trained twice",
        "41 % of the attention within 5 mm of the capsule, which is 12 % of the area",
        "data:image/png;base64,",
        "The picture is missing.",
        "shuffled frames",
        "learning_rate = 0.001",
        "3D-CNN: loss of each fold; epochs kept: 9, 9, 9, 9, 9",
        "12345 parameters",
    ] {
        assert!(html.contains(text), "{text} is not in the report");
    }
}

#[test]
fn json_goes_to_stdout_and_is_the_same_every_time() {
    let place = Place::new("evaluate-json");
    let print = || {
        place
            .evaluate(&["--json"])
            .assert()
            .success()
            .get_output()
            .stdout
            .clone()
    };
    let first = print();
    assert!(first == print());
    let found: serde_json::Value = serde_json::from_slice(&first).unwrap();
    assert_eq!(found["questions"][0]["stage"], "F2");
    assert_eq!(found["is_synthetic"], true);
    let on_disk: serde_json::Value =
        serde_json::from_slice(&fs::read(place.study.evaluation()).unwrap()).unwrap();
    assert_eq!(on_disk, found);
}

#[test]
fn a_leak_and_a_foreign_cohort_are_refused_and_nothing_is_overwritten() {
    let place = Place::new("evaluate-leak");
    place.evaluate(&[]).assert().success();
    let before = place.html();
    let clean = fs::read_to_string(place.study.predictions()).unwrap();

    let mut leaking = clean.clone();
    let trained = place.split.train[0].expose();
    writeln!(leaking, "fibro3d,0,test,{trained},v.mp4,0,0.5,0.5").unwrap();
    fs::write(place.study.predictions(), leaking).unwrap();
    place
        .evaluate(&[])
        .assert()
        .code(2)
        .stderr(contains("1 patients are scored as test").and(contains("SECRET").not()));

    fs::write(place.study.predictions(), clean.replace("SECRET", "OTHER")).unwrap();
    let refused = place.evaluate(&[]).assert().code(2);
    refused.stderr(contains("belong to another cohort").and(contains("OTHER").not()));

    fs::write(place.study.predictions(), &clean).unwrap();
    let mut split = place.split.clone();
    split.test.push(split.train[0].clone());
    split.save(&place.study.split()).unwrap();
    let refused = place.evaluate(&[]).assert().code(2);
    refused.stderr(contains("in training and in test"));

    let table = place.cohort.join("cohort.csv");
    let text = fs::read_to_string(&table).unwrap();
    fs::write(&table, text.replacen(",F1,", ",F7,", 2)).unwrap();
    let refused = place.evaluate(&[]).assert().code(2);
    refused.stderr(contains("2 to correct").and(contains("cohort.csv, line 3, stage")));
    assert!(before == place.html());
}
