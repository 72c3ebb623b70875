//! The main job as its users meet it: the program, a pipeline file, real input.
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "support/recordings.rs"]
mod recordings;
#[path = "support/wait.rs"]
mod wait;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use recordings::{AVI, MP4, pydicom, record};
use serde_json::Value;
use tempfile::TempDir;

/// W of the small model; S is set in each pipeline file.
const LENGTH: usize = 9;

fn small_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/fibro3d")
}

fn hepaflow(args: &[&str], folder: &Path) -> Output {
    Command::new(cargo_bin!("hepaflow"))
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Writes `p.toml` with the small model and a free port.
fn pipeline(folder: &TempDir, stride: usize, sources: &str) {
    let model = small_model();
    let text = format!(
        "[model]\npath = '{}'\n[window]\nstride = {stride}\n{sources}\n\
         [ingest]\nfirst_frame_timeout = '3s'\n[serve]\nlisten = '127.0.0.1:0'\n",
        model.display()
    );
    fs::write(folder.path().join("p.toml"), text).unwrap();
}

fn source(name: &str, path: &Path, patient: Option<&str>) -> String {
    let patient = patient.map_or(String::new(), |id| format!("patient = '{id}'\n"));
    format!(
        "[[source]]\nname = '{name}'\npath = '{}'\n{patient}",
        path.display()
    )
}

fn results(folder: &TempDir, what: &str) -> Vec<Value> {
    let output = hepaflow(
        &["results", what, "--store", "results.sqlite", "--json"],
        folder.path(),
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice::<Vec<Value>>(&output.stdout).unwrap()
}

fn windows(frames: usize, stride: usize) -> usize {
    (0..frames)
        .step_by(stride)
        .filter(|start| start + LENGTH <= frames)
        .count()
}

#[test]
fn a_real_cine_an_mp4_and_an_avi_become_one_answer_per_patient() {
    let folder = tempfile::tempdir().unwrap();
    let mp4 = record(folder.path(), "a.mp4", MP4, 40);
    let avi = record(folder.path(), "b.avi", AVI, 25);
    let sources = [
        source("cine", &pydicom("examples_ybr_color.dcm"), None),
        source("mp4", &mp4, Some("P1")),
        source("avi", &avi, Some("P1")),
    ];
    pipeline(&folder, 3, &sources.concat());
    let file = folder.path().join("p.toml");
    let keyed = fs::read_to_string(&file).unwrap() + "names = 'kept/names.key'\n";
    fs::write(&file, keyed).unwrap();
    fs::create_dir(folder.path().join("kept")).unwrap();
    let output = hepaflow(&["run", "p.toml"], folder.path());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    assert!(table.contains("P1") && table.contains("fibro3d"), "{table}");
    // The key of opaque names lies where the file says, and nowhere else.
    assert!(folder.path().join("kept/names.key").is_file());
    assert!(!folder.path().join("results.ids").exists());

    let patients = results(&folder, "patients");
    assert_eq!(patients.len(), 2, "{patients:?}");
    let of = |id: &str| patients.iter().find(|row| row["patient"] == id).unwrap();
    assert_eq!(of("P1")["clips"], windows(40, 3) + windows(25, 3));
    let cine = patients.iter().find(|row| row["patient"] != "P1").unwrap();
    assert_eq!(cine["clips"], windows(30, 3));
    for row in &patients {
        let classes = row["probabilities"].as_object().unwrap();
        let sum: f64 = classes.values().map(|p| p.as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{row}");
    }

    // Provenance: the cine's own 33.333 ms from frame to frame, no gaps.
    let clips = results(&folder, "clips");
    let first = clips.iter().find(|clip| clip["source"] == "cine").unwrap();
    assert_eq!(
        (&first["first_frame"], &first["gaps_before"]),
        (&0.into(), &0.into())
    );
    let end = first["end_seconds"].as_f64().unwrap();
    assert!(
        (end - 0.033_333 * (LENGTH - 1) as f64).abs() < 1e-3,
        "{end}"
    );
    assert!(first["study"].is_string());
}

#[test]
fn a_model_that_learned_from_fewer_frames_a_second_sees_as_many() {
    let folder = tempfile::tempdir().unwrap();
    let avi = record(folder.path(), "a.avi", AVI, 41);
    pipeline(&folder, 3, &source("avi", &avi, Some("P1")));
    // The small model, of half the recording's rate.
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    for name in ["model.toml", "weights.safetensors"] {
        fs::copy(small_model().join(name), model.join(name)).unwrap();
    }
    let spec = fs::read_to_string(model.join("model.toml")).unwrap();
    let spec = spec.replace("frames = 9", "frames = 9\nframes_per_second = 12.5");
    fs::write(model.join("model.toml"), spec).unwrap();
    let file = folder.path().join("p.toml");
    let text = fs::read_to_string(&file).unwrap();
    let text = text.replace(&*small_model().to_string_lossy(), "model");
    fs::write(&file, text).unwrap();
    let output = hepaflow(&["run", "p.toml"], folder.path());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let clips = results(&folder, "clips");
    assert_eq!(clips.len(), windows(21, 3));
    for clip in &clips {
        let [first, last] = ["first_frame", "last_frame"].map(|key| clip[key].as_u64().unwrap());
        assert_eq!((first % 2, last - first), (0, 16), "{clip}");
    }
}

#[test]
fn the_same_bytes_give_the_same_results_however_they_are_run() {
    let folder = tempfile::tempdir().unwrap();
    let recordings = [
        record(folder.path(), "a.mp4", MP4, 60),
        record(folder.path(), "b.avi", AVI, 45),
    ];
    let mut seen = Vec::new();
    for (order, workers) in [([0, 1], "1"), ([1, 0], "2"), ([0, 1], "3")] {
        let sources = order.map(|i| source(&format!("s{i}"), &recordings[i], Some("P")));
        pipeline(&folder, 2, &sources.concat());
        let output = hepaflow(&["run", "p.toml", "--workers", workers], folder.path());
        assert!(output.status.success(), "{}", text(&output.stderr));
        seen.push((results(&folder, "patients"), results(&folder, "clips")));
        for suffix in ["", "-wal", "-shm"] {
            fs::remove_file(folder.path().join(format!("results.sqlite{suffix}"))).ok();
        }
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn each_bad_source_ends_with_one_error_that_names_it_and_the_good_ones_count() {
    let folder = tempfile::tempdir().unwrap();
    let good = record(folder.path(), "good.mp4", MP4, 30);
    let path = |name: &str| folder.path().join(name);
    fs::write(path("empty.mp4"), []).unwrap();
    let whole = fs::read(&good).unwrap();
    fs::write(path("cut.mp4"), &whole[..whole.len() / 2]).unwrap();
    fs::write(
        path("notes.mp4"),
        "frame 1: nothing remarkable\n".repeat(50),
    )
    .unwrap();
    // A DICOM file that ends where its pixels should begin.
    let cine = fs::read(pydicom("examples_ybr_color.dcm")).unwrap();
    let pixels = cine
        .windows(4)
        .rposition(|tag| tag == [0xe0, 0x7f, 0x10, 0x00])
        .unwrap();
    fs::write(path("no-pixels.dcm"), &cine[..pixels]).unwrap();

    let bad = [
        "missing.mp4",
        "empty.mp4",
        "cut.mp4",
        "notes.mp4",
        "no-pixels.dcm",
    ];
    let mut sources = source("good", &good, Some("P-GOOD"));
    for name in bad {
        sources += &source(name, &path(name), Some("P-BAD"));
    }
    sources += "[[source]]\nname = 'never'\nkind = 'launch'\npatient = 'P-BAD'\n\
                line = 'videotestsrc ! valve drop=true'\n";
    pipeline(&folder, 3, &sources);

    let begin = Instant::now();
    let output = hepaflow(&["run", "p.toml"], folder.path());
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(
        begin.elapsed() < Duration::from_mins(1),
        "a bad source held the run up"
    );
    let summary = &errors[errors.rfind("error: ").unwrap()..];
    assert!(
        summary.starts_with("error: 6 of the streams failed"),
        "{summary}"
    );
    for name in bad.iter().chain(&["never"]) {
        assert_eq!(
            summary.matches(&format!("source `{name}`")).count(),
            1,
            "{name}: {summary}"
        );
    }
    assert!(
        !errors.contains("P-GOOD") && !errors.contains("P-BAD"),
        "a patient in {errors}"
    );

    let patients = results(&folder, "patients");
    let good = patients
        .iter()
        .find(|row| row["patient"] == "P-GOOD")
        .unwrap();
    assert_eq!(good["clips"], windows(30, 3));
}

#[test]
fn a_model_whose_weights_do_not_fit_is_refused_before_anything_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    for name in ["model.toml", "weights.safetensors"] {
        fs::copy(small_model().join(name), model.join(name)).unwrap();
    }
    let weights = fs::read(model.join("weights.safetensors")).unwrap();
    fs::write(
        model.join("weights.safetensors"),
        &weights[..weights.len() - 100],
    )
    .unwrap();
    pipeline(&folder, 3, &source("a", Path::new("a.mp4"), Some("P")));
    let toml = fs::read_to_string(folder.path().join("p.toml")).unwrap();
    let toml = toml.replace(&small_model().display().to_string(), "model");
    fs::write(folder.path().join("p.toml"), toml).unwrap();
    let output = hepaflow(&["run", "p.toml"], folder.path());
    assert_eq!(output.status.code(), Some(2));
    let errors = text(&output.stderr);
    assert!(errors.contains("weights.safetensors"), "{errors}");
    assert!(!folder.path().join("results.sqlite").exists());
}

/// A run in the background whose metrics can be asked for.
struct Running {
    child: std::process::Child,
    address: String,
}

impl Running {
    fn start(folder: &TempDir, more: &[&str]) -> Self {
        let mut child = Command::new(cargo_bin!("hepaflow"))
            .args(["run", "p.toml", "--log-json"])
            .args(more)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = lines
            .find(|line| line.as_ref().is_ok_and(|l| l.contains("/metrics")))
            .unwrap();
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let url = line["fields"]["metrics"].as_str().unwrap();
        let address = url
            .trim_start_matches("http://")
            .trim_end_matches("/metrics")
            .to_owned();
        // Keep reading, so that the program never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    fn metric(&self, name: &str) -> Option<f64> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        write!(
            stream,
            "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let row = answer.lines().find(|line| line.starts_with(name))?;
        row.rsplit(' ').next()?.parse().ok()
    }

    fn wait_for(&self, name: &str, enough: impl Fn(f64) -> bool) -> f64 {
        wait::wait_for(name, Duration::from_mins(1), || {
            self.metric(name).filter(|value| enough(*value))
        })
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }
}

const ENDLESS: &str = "[[source]]\nname = 'bed'\nkind = 'launch'\npatient = 'P'\nlive = true\n\
    line = 'videotestsrc is-live=true ! video/x-raw,width=320,height=240,framerate=30/1'\n";

#[test]
fn metrics_move_while_a_live_source_runs_and_an_interrupt_ends_it_in_order() {
    let folder = tempfile::tempdir().unwrap();
    pipeline(&folder, 3, ENDLESS);
    let mut run = Running::start(&folder, &[]);
    let first = run.wait_for("hepaflow_frames_received_total{source=\"bed\"}", |n| {
        n > 0.0
    });
    run.wait_for("hepaflow_frames_received_total{source=\"bed\"}", |n| {
        n > first
    });
    run.wait_for("hepaflow_patients", |n| n > 0.0);
    run.wait_for("hepaflow_frame_to_prediction_seconds_count", |n| n > 2.0);
    assert_eq!(run.metric("hepaflow_stream_up{source=\"bed\"}"), Some(1.0));
    run.signal("-INT");
    assert_eq!(run.child.wait().unwrap().code(), Some(0));
    // What the answer rests on is all there.
    let patients = results(&folder, "patients");
    assert_eq!(patients[0]["clips"], results(&folder, "clips").len());
}

#[test]
fn a_duration_ends_a_live_run() {
    let folder = tempfile::tempdir().unwrap();
    pipeline(&folder, 3, ENDLESS);
    let output = hepaflow(&["run", "p.toml", "--duration", "2s"], folder.path());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(results(&folder, "patients").len(), 1);
}

#[test]
fn a_run_killed_outright_is_finished_by_the_next_with_nothing_lost_or_doubled() {
    let folder = tempfile::tempdir().unwrap();
    let film = record(folder.path(), "a.mp4", MP4, 400);
    pipeline(&folder, 1, &source("film", &film, Some("P")));
    let whole = windows(400, 1);
    let mut run = Running::start(&folder, &[]);
    run.wait_for("hepaflow_store_commit_seconds_count", |n| n > 2.0);
    run.signal("-KILL");
    run.child.wait().unwrap();
    let kept = results(&folder, "clips").len();
    assert!(kept > 0 && kept <= whole, "{kept}");

    let output = hepaflow(&["run", "p.toml"], folder.path());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains(&format!("{kept} scored before")));
    assert_eq!(results(&folder, "clips").len(), whole);
    assert_eq!(results(&folder, "patients")[0]["clips"], whole);
}

/// Rows of a CSV file behind its header.
fn rows(path: &Path) -> Vec<csv::StringRecord> {
    let mut reader = csv::Reader::from_path(path).unwrap();
    reader.records().map(Result::unwrap).collect()
}

#[test]
fn numerics_are_those_of_recordings() {
    let folder = TempDir::new().unwrap();
    // Two windows and a bit; one and a bit.
    record(folder.path(), "long.mp4", MP4, 2 * LENGTH as u32 + 4);
    record(folder.path(), "short.avi", AVI, LENGTH as u32 + 1);
    record(folder.path(), "none.avi", AVI, LENGTH as u32 - 1);
    let model = small_model();
    let numerics = |files: &[&str]| {
        let command = ["model", "numerics", model.to_str().unwrap(), "--json"];
        let command = [&command[..], &["--recording"], files].concat();
        hepaflow(&command, folder.path())
    };
    let output = numerics(&["long.mp4", "none.avi", "short.avi"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["agreement"]["clips"], 3);
    assert_eq!(report["clips_are_noise"], false);
    let error = report["agreement"]["largest_error"].as_f64().unwrap();
    assert!(0.0 < error && error < 0.1, "{error}");

    let output = numerics(&["none.avi"]);
    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    assert!(error.contains("looks at 9 frames in a row"), "{error}");
    assert_eq!(numerics(&["nothing.mp4"]).status.code(), Some(2));
}

#[test]
fn explain_draws_every_frame_and_says_where_the_model_looked() {
    let folder = TempDir::new().unwrap();
    // Two windows and a bit, which the third one overlaps.
    let frames = 2 * LENGTH + 4;
    record(folder.path(), "clip.mp4", MP4, frames as u32);
    let model = small_model();
    let model = model.to_str().unwrap();
    let explain = |args: &[&str]| {
        let command = [&["explain", "--model", model], args].concat();
        hepaflow(&command, folder.path())
    };
    let output = explain(&["--out", "seen", "--key-frames", "2", "clip.mp4"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    assert_eq!(printed.matches("frames ").count(), 3, "{printed}");

    let seen = folder.path().join("seen");
    let heat = rows(&seen.join("heat.csv"));
    let indices: Vec<usize> = heat.iter().map(|row| row[0].parse().unwrap()).collect();
    assert_eq!(indices, (0..frames).collect::<Vec<_>>());
    let windows: Vec<_> = heat.iter().map(|row| row[2].to_owned()).collect();
    assert_eq!(windows[2 * LENGTH..], ["3"; 4]);
    for row in &heat {
        let [p, mean, peak] = [4, 5, 6].map(|column| row[column].parse::<f64>().unwrap());
        assert!(
            (0.0..=1.0).contains(&p) && 0.0 <= mean && mean <= peak,
            "{row:?}"
        );
    }
    for name in ["key-1.png", "key-2.png"] {
        assert!(fs::read(seen.join(name)).unwrap().starts_with(b"\x89PNG"));
    }
    assert!(!seen.join("key-3.png").exists());
    // The video has as many frames as were drawn.
    let output = explain(&["--out", "again", "seen/overlay.mp4"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(rows(&folder.path().join("again/heat.csv")).len(), frames);

    // Another class has another map, by name or number.
    let heat_of = |class: &str| {
        let output = explain(&["--out", class, "--class", class, "clip.mp4"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        fs::read(folder.path().join(class).join("heat.csv")).unwrap()
    };
    assert_ne!(heat_of("F0-F1"), heat_of("F2-F4"));
    assert_eq!(heat_of("1"), heat_of("F2-F4"));

    // What cannot be explained.
    record(folder.path(), "short.mp4", MP4, LENGTH as u32 - 1);
    for (args, expected) in [
        (["--class", "F9", "clip.mp4"], "F0-F1, F2-F4"),
        (["--class", "0", "short.mp4"], "at a time"),
        (["--class", "0", "nowhere.mp4"], "nowhere.mp4"),
    ] {
        let output = explain(&[&["--out", "none"], &args[..]].concat());
        assert_eq!(output.status.code(), Some(2));
        assert!(
            text(&output.stderr).contains(expected),
            "{args:?}: {}",
            text(&output.stderr)
        );
    }
}
