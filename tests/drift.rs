//! What drift is measured against: from training, in the model directory, to the
//! metrics of a run. The same windows that the trainer measured, scored by the engine,
//! must lie where it says.
#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "support/served.rs"]
mod served;
#[path = "support/wait.rs"]
mod wait;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use assert_cmd::Command;
use hepaflow::domain::Spread;
use hepaflow::model::{Model, ModelError};
use hepaflow::study::cohort::Cohort;
use hepaflow::study::split::Split;
use serde_json::Value;
use served::Running;
use wait::wait_until;

/// Frames of a window, and from one to the next.
const FRAMES: usize = 9;

const DEADLINE: Duration = Duration::from_mins(2);

/// Trainer and engine are f32 and add in another order; files hold 32 bits.
const TOLERANCE: f64 = 1e-4;

fn hepaflow(arguments: &str, folder: &Path) -> Vec<u8> {
    let mut command = Command::cargo_bin("hepaflow").unwrap();
    command
        .args(arguments.split_whitespace())
        .current_dir(folder);
    command.assert().success().get_output().stdout.clone()
}

/// A model that learnt from a synthetic cohort, and the recordings of those whom it
/// was stopped by.
fn trained(folder: &Path) -> Vec<PathBuf> {
    hepaflow(
        "phantom --patients 30 --seed 5 --seconds 2 --frames-per-second 20 --frame-size 160x120 \
         --episodes 0 --format mp4 --out cohort",
        folder,
    );
    let cohort = Cohort::load(&folder.join("cohort")).unwrap();
    let split = Split::draw(&cohort.stages(), 7).unwrap();
    split.save(&folder.join("split.json")).unwrap();
    hepaflow(
        "train --cohort cohort --split split.json --architecture fibro3d --widths 4,6 \
         --crop 40,10,80,80 --size 24x24 --frames 9 --frames-per-second 10 --epochs 2 --batch 6 --out model",
        folder,
    );
    let table = fs::read_to_string(folder.join("cohort/videos.csv")).unwrap();
    let rows = table.lines().filter_map(|line| line.split_once(','));
    let stopped_by = |patient: &str| split.validation.iter().any(|it| it.expose() == patient);
    rows.filter(|(patient, _)| stopped_by(patient))
        .map(|(_, path)| folder.join("cohort").join(path))
        .collect()
}

/// What the store of a model holds, window by window.
fn clips(folder: &Path, model: &str) -> Vec<Value> {
    let shown = hepaflow(
        &format!("results clips --store {model}.sqlite --json"),
        folder,
    );
    serde_json::from_slice(&shown).unwrap()
}

/// Runs a model over recordings; gives the metrics once `windows` are scored, and
/// stored.
fn metrics(folder: &Path, model: &str, recordings: &[PathBuf], windows: usize) -> String {
    let mut text = format!(
        "[model]\npath = '{model}'\nthreads = 1\n[window]\nstride = {FRAMES}\n\
         [ingest]\ngate = false\n[store]\npath = '{model}.sqlite'\n[serve]\nlisten = '127.0.0.1:0'\n"
    );
    for (number, recording) in recordings.iter().enumerate() {
        text += &format!(
            "[[source]]\nname = 'r{number}'\npatient = 'P{number}'\npath = '{}'\n\
             crop = {{ x = 40, y = 10, width = 80, height = 80 }}\n",
            recording.display()
        );
    }
    fs::write(folder.join("p.toml"), text).unwrap();
    let run = Running::start(folder, &["--stay"]);
    let scored = |text: &str| sum(text, "hepaflow_severity_count") as usize;
    let text = run
        .wait_for("/metrics", |answer| scored(&answer.body) >= windows)
        .body;
    wait_until("clips on disk", DEADLINE, || {
        clips(folder, model).len() == windows
    });
    text
}

/// The values of a metric, over all its labels.
fn sum(text: &str, name: &str) -> f64 {
    values(text, name).iter().sum()
}

fn values(text: &str, name: &str) -> Vec<f64> {
    let rows = text.lines().filter_map(|line| line.strip_prefix(name));
    let rows = rows.filter(|rest| rest.starts_with(['{', ' ']));
    rows.map(|rest| rest.rsplit(' ').next().unwrap().parse().unwrap())
        .collect()
}

fn reference(text: &str, of: &str) -> Option<Spread> {
    let one = |name: &str| values(text, &format!("hepaflow_reference_{name}{{of=\"{of}\"}}"));
    // The label is part of the name here: what follows is a space.
    let (mean, deviation) = (one("mean"), one("deviation"));
    Some(Spread {
        mean: *mean.first()?,
        deviation: *deviation.first()?,
    })
}

#[track_caller]
fn near(found: f64, expected: f64) {
    assert!(
        (found - expected).abs() < TOLERANCE,
        "{found}, expected {expected}"
    );
}

#[test]
fn a_run_measures_drift_against_what_the_trainer_found_in_patients_it_did_not_learn_from() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let recordings = trained(folder);
    let model = Model::load(&folder.join("model")).unwrap();
    let known = model.spec().reference.clone().unwrap();
    let (severity, brightness) = (known.severity.unwrap(), known.brightness.unwrap());
    assert_eq!(model.spec().input.frames_per_second, Some(10.0));
    assert_eq!(known.patients, recordings.len());
    // Two seconds of 20 frames a second, of which the model sees 10: two windows.
    assert_eq!(known.windows, 2 * recordings.len());
    let shown = String::from_utf8(hepaflow("model inspect model", folder)).unwrap();
    let line = format!("{} windows of {} patients", known.windows, recordings.len());
    assert!(shown.contains(&line), "{shown}");

    // What a run says of the very same windows has that mean and deviation.
    let text = metrics(folder, "model", &recordings, known.windows);
    assert_eq!(reference(&text, "severity"), Some(severity));
    assert_eq!(reference(&text, "brightness"), Some(brightness));
    for of in ["severity", "brightness"] {
        let windows = values(&text, &format!("hepaflow_reference_windows{{of=\"{of}\"}}"));
        assert_eq!(windows, [known.windows as f64]);
    }
    for (of, spread) in [("severity", severity), ("input_brightness", brightness)] {
        let all = sum(&text, &format!("hepaflow_{of}_count"));
        assert_eq!(all as usize, known.windows, "{of}");
        near(sum(&text, &format!("hepaflow_{of}_sum")) / all, spread.mean);
    }
    let severe = |clip: &Value| clip["probabilities"]["F2-F4"].as_f64().unwrap();
    let severe: Vec<f64> = clips(folder, "model").iter().map(severe).collect();
    let square = |value: &f64| (value - severity.mean).powi(2);
    let variance = severe.iter().map(square).sum::<f64>() / severe.len() as f64;
    near(variance.sqrt(), severity.deviation);

    // A model from before there was a reference works, as another one: brightness is
    // held against what it learned from, severity against the store, which is empty.
    let bare = folder.join("bare");
    fs::create_dir(&bare).unwrap();
    let weights = "weights.safetensors";
    fs::copy(folder.join("model").join(weights), bare.join(weights)).unwrap();
    let described = fs::read_to_string(folder.join("model/model.toml")).unwrap();
    let (without, _) = described.split_once("[reference]").unwrap();
    fs::write(bare.join("model.toml"), without).unwrap();
    let older = Model::load(&bare).unwrap();
    assert_eq!(older.spec().reference, None);
    assert_ne!(older.hash(), model.hash());
    let text = metrics(folder, "bare", &recordings, known.windows);
    assert_eq!(reference(&text, "severity"), None);
    assert_eq!(values(&text, "hepaflow_reference_windows"), [0.0; 0]);
    let learned = reference(&text, "brightness").unwrap();
    near(learned.mean, f64::from(older.spec().input.mean[0]));
    near(learned.deviation, f64::from(older.spec().input.std[0]));

    // What nothing can be divided by is refused.
    let flat = described.replace(
        &format!("deviation = {}", severity.deviation),
        "deviation = 0.0",
    );
    assert_ne!(flat, described);
    fs::write(bare.join("model.toml"), flat).unwrap();
    let refused = Model::load(&bare).unwrap_err();
    assert!(
        matches!(refused, ModelError::Impossible { .. }),
        "{refused}"
    );
}
