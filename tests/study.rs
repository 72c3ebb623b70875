//! The study from end to end, on a synthetic cohort that is far too small to say
//! anything: only whether everything comes about, and goes on after being killed.
#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use hepaflow::model::Model;
use hepaflow::study::predictions::Predictions;
use hepaflow::study::split::Split;
use predicates::str::contains;
use serde_json::Value;

const METHODS: [&str; 3] = ["fibro2d", "fibro2d_lstm", "fibro3d"];

fn cohort(place: &Path) -> PathBuf {
    let folder = place.join("cohort");
    let options = "phantom --patients 30 --seed 5 --seconds 0.8 --frames-per-second 20 \
                   --frame-size 160x120 --episodes 0 --format mixed --out";
    Command::cargo_bin("hepaflow")
        .unwrap()
        .args(options.split_whitespace())
        .arg(&folder)
        .assert()
        .success();
    folder
}

fn arguments(cohort: &Path, out: &Path) -> Vec<String> {
    let options = "--crop 40,10,80,80 --size 24x24 --frames 8 --frames-3d 9 --widths 4,6 \
                   --rates 0.004,0.01 --epochs 2 --batch 6 --stride 4";
    let mut arguments = vec!["study".to_owned(), "--cohort".to_owned()];
    arguments.push(cohort.display().to_string());
    arguments.extend(options.split_whitespace().map(str::to_owned));
    arguments.extend(["--out".to_owned(), out.display().to_string()]);
    arguments
}

fn study(cohort: &Path, out: &Path) -> Command {
    let mut command = Command::cargo_bin("hepaflow").unwrap();
    command.args(arguments(cohort, out));
    command
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_study_goes_through_and_goes_on_where_it_was_killed() {
    let place = tempfile::tempdir().unwrap();
    let cohort = cohort(place.path());
    let [whole, killed] = ["whole", "killed"].map(|name| place.path().join(name));
    study(&cohort, &whole).assert().success();

    // Three kinds, five fold-models each, that say the same of the test patients
    // as predictions.csv, and only of those.
    let split = Split::load(&whole.join("split.json")).unwrap();
    let predictions = Predictions::load(&whole.join("predictions.csv")).unwrap();
    assert_eq!(predictions.methods(), METHODS);
    for method in METHODS {
        assert_eq!(predictions.folds(method), [0, 1, 2, 3, 4]);
        for fold in 0..5 {
            let model = whole.join(format!("models/{method}/fold{fold}"));
            assert!(Model::load(&model).unwrap().spec().synthetic);
            let training = json(&model.join("training.json"));
            assert_eq!(training["epochs"].as_array().unwrap().len(), 2);
            let curves = fs::read_to_string(model.join("curves.svg")).unwrap();
            assert!(curves.contains("<svg"));
            let card = fs::read_to_string(model.join("README.md")).unwrap();
            assert!(card.contains("synthetic recordings alone"), "{card}");
            assert!(card.contains(training["model_hash"].as_str().unwrap()));
            assert!(card.contains("| APRI |"), "{card}");
            let frames = if method == "fibro3d" { 9 } else { 8 };
            let input = format!("| input | {frames} frames of 24 x 24 grey levels");
            assert!(card.contains(&input), "{card}");
        }
    }
    let judged = |row: &hepaflow::study::predictions::Prediction| {
        split.validation.contains(&row.patient) || split.test.contains(&row.patient)
    };
    assert!(predictions.rows.iter().all(judged));
    let tuning = json(&whole.join("tuning.json"));
    let trials = tuning["trials"].as_array().unwrap();
    assert_eq!(trials.len(), 6);
    let chosen = trials.iter().filter(|trial| trial["chosen"] == true);
    assert_eq!(chosen.count(), 3);
    assert_eq!(
        json(&whole.join("ablations.json"))
            .as_array()
            .unwrap()
            .len(),
        12
    );
    for seen in json(&whole.join("attention/attention.json"))
        .as_array()
        .unwrap()
    {
        let file = whole.join("attention").join(seen["file"].as_str().unwrap());
        assert!(fs::read(file).unwrap().starts_with(b"\x89PNG"));
        assert!(seen["capsule_area"].as_f64().is_none_or(|area| area < 1.0));
    }

    // Killed while it trains, the same command ends with the same predictions.
    let mut process = Process::new(assert_cmd::cargo::cargo_bin("hepaflow"))
        .args(arguments(&cohort, &killed))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let patience = Instant::now();
    while fs::read_dir(killed.join("tuning/fibro2d_lstm")).is_err() {
        assert!(patience.elapsed() < Duration::from_secs(400));
        assert!(process.try_wait().unwrap().is_none(), "it ended too early");
        sleep(Duration::from_millis(20));
    }
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(!killed.join("predictions.csv").exists());
    study(&cohort, &killed).assert().success();
    let bytes = |out: &Path| fs::read(out.join("predictions.csv")).unwrap();
    assert!(bytes(&whole) == bytes(&killed));

    // Nothing is overwritten by a study with other settings.
    let before = bytes(&whole);
    study(&cohort, &whole)
        .args(["--seed", "8"])
        .assert()
        .code(2)
        .stderr(contains("belongs to a study with other settings"));
    assert!(bytes(&whole) == before);
}
