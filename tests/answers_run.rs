//! Answers of whole runs: models side by side, pseudonyms, and the log of answers.
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "support/recordings.rs"]
#[allow(dead_code, reason = "other tests need the rest")]
mod recordings;
#[path = "support/served.rs"]
mod served;
#[path = "support/wait.rs"]
mod wait;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use assert_cmd::cargo::cargo_bin;
use recordings::{AVI, record};
use serde_json::Value;
use served::Running;
use wait::wait_until;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/fibro3d")
}

fn hepaflow(folder: &Path, args: &[&str]) -> Output {
    Command::new(cargo_bin!("hepaflow"))
        .current_dir(folder)
        .args(args)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a command prints as JSON, about the store of `p.toml`.
fn json(folder: &Path, args: &[&str]) -> Vec<Value> {
    let output = hepaflow(
        folder,
        &[args, &["--pipeline", "p.toml", "--json"]].concat(),
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The small model once more, under `name`: it sees pictures otherwise.
fn other_model(folder: &Path, name: &str, from: &str, to: &str) {
    let model = folder.join(name);
    fs::create_dir(&model).unwrap();
    for file in ["model.toml", "weights.safetensors"] {
        fs::copy(golden().join(file), model.join(file)).unwrap();
    }
    let spec = fs::read_to_string(model.join("model.toml")).unwrap();
    assert!(spec.contains(from), "{spec}");
    fs::write(model.join("model.toml"), spec.replace(from, to)).unwrap();
}

fn pipeline(folder: &Path, models: &str, sources: &str) {
    let text = format!(
        "{models}[window]\nstride = 3\n[ingest]\ncrop = 'header'\ngate = false\n\
         [serve]\nlisten = '127.0.0.1:0'\n{sources}"
    );
    fs::write(folder.join("p.toml"), text).unwrap();
}

fn source(name: &str, path: &Path, patient: &str) -> String {
    format!(
        "[[source]]\nname = '{name}'\npath = '{}'\npatient = '{patient}'\n",
        path.display()
    )
}

fn two_models(folder: &Path) -> String {
    other_model(folder, "other", "mean = [0.3]", "mean = [0.9]");
    format!(
        "[[model]]\npath = '{}'\nthreads = 1\n[[model]]\npath = 'other'\nthreads = 1\n",
        golden().display()
    )
}

fn films(folder: &Path) -> String {
    let films = [("a", 40, "P1"), ("b", 31, "P2"), ("c", 50, "P1")];
    films
        .map(|(name, frames, patient)| {
            let path = record(folder, &format!("{name}.avi"), AVI, frames);
            source(name, &path, patient)
        })
        .concat()
}

#[test]
fn two_models_score_the_same_windows_and_activation_replaces_answers_patient_by_patient() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    pipeline(folder, &two_models(folder), &films(folder));
    let checked = hepaflow(folder, &["check", "p.toml"]);
    let said = text(&checked.stdout);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    assert!(
        said.contains("  model  ") && said.contains("  beside "),
        "{said}"
    );

    let run = Running::start(folder, &["--stay"]);
    // Every window under both.
    let windows = [40, 31, 50].map(|frames: u64| (frames - 9) / 3 + 1);
    let metric = |name: &str| {
        let text = run.get("/metrics").body;
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    };
    let wait = |what: &str, happened: &dyn Fn() -> bool| {
        wait_until(what, Duration::from_mins(3), happened);
    };
    let place = folder.join("results.sqlite");
    let open = || {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
        let connection = rusqlite::Connection::open_with_flags(&place, flags).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        connection
    };
    let connection = open();
    let number = |sql: &str| {
        connection
            .query_row(sql, [], |row| row.get::<_, i64>(0))
            .unwrap()
    };
    let all = 2 * windows.iter().sum::<u64>();
    let clips = "SELECT coalesce(sum(clips), 0) FROM patient_results";
    wait("all windows", &|| number(clips) == all as i64);
    assert_eq!(metric("hepaflow_patients"), Some(2.0));
    assert!(metric("hepaflow_arrangement_records{view=\"clips\"}") > Some(0.0));
    assert!(metric("hepaflow_arrangement_batches{view=\"answers\"}") > Some(0.0));

    let models = json(folder, &["models", "list"]);
    assert_eq!(models.len(), 2);
    let hash = |active: bool| {
        let mut found = models.iter().filter(|row| row["active"] == active);
        found.next().unwrap()["hash"].as_str().unwrap().to_owned()
    };
    let (first, second) = (hash(true), hash(false));
    let served = run.get("/api/v1/models").json();
    let served = served.as_array().unwrap();
    assert_eq!(served[0]["hash"], first.as_str());
    assert!(
        served.iter().all(|row| row["running"] == true),
        "{served:?}"
    );
    // Side by side: the same windows, other numbers.
    let compared = json(folder, &["models", "compare", &first, &second]);
    assert_eq!(compared.len(), 2);
    for (row, clips) in compared.iter().zip([windows[0] + windows[2], windows[1]]) {
        assert_eq!(
            (&row["clips_first"], &row["clips_second"]),
            (&clips.into(), &clips.into())
        );
        assert_ne!(row["difference"], 0.0, "{row}");
    }

    // While the other is made active each patient has one current answer.
    let activate = ["models", "activate", &second, "--pipeline", "p.toml"];
    let output = hepaflow(folder, &activate);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let broken = "SELECT count(*) FROM (SELECT patient FROM patient_results
                  GROUP BY patient HAVING sum(is_current) <> 1)";
    let replaced =
        format!("SELECT count(*) FROM patient_results WHERE is_current = 1 AND model = '{second}'");
    wait("the other model's answers", &|| {
        assert_eq!(number(broken), 0);
        number(&replaced) == 2
    });
    assert_eq!(number(broken), 0);
    drop(run);

    // The log tells it: by clips first, by a fact then.
    let log = json(folder, &["audit", "answers", "--patient", "P2"]);
    let last: Vec<_> = log.iter().rev().take(2).collect();
    let models: BTreeSet<_> = last
        .iter()
        .map(|row| row["model_hash"].as_str().unwrap())
        .collect();
    assert_eq!(models, BTreeSet::from([first.as_str(), second.as_str()]));
    for row in last {
        let reason = row["reason"].as_str().unwrap();
        assert!(reason.starts_with("facts 2 to 3, or"), "{row}");
        assert_eq!(row["current"], row["model_hash"] == second.as_str());
    }
    assert!(log.iter().any(|row| row["reason"] == "clips"), "{log:?}");
    let verify = ["audit", "verify", "--pipeline", "p.toml"];
    assert!(hepaflow(folder, &verify).status.success());
    let connection = open();
    connection
        .execute_batch(
            "UPDATE answer_log SET answer = replace(answer, 'clips', 'clipz') WHERE number = 1",
        )
        .unwrap();
    let tampered = hepaflow(folder, &verify);
    assert_eq!(tampered.status.code(), Some(1));
    let said = text(&tampered.stderr);
    assert!(said.contains("answers: row 1 was changed"), "{said}");

    // The next run finds every window done, and the second model still active.
    let output = hepaflow(folder, &["run", "p.toml"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stderr);
    assert!(
        said.contains(&format!("0 clips scored, {all} scored before")),
        "{said}"
    );
    assert_eq!(number(&replaced), 2);
}

#[test]
fn models_that_are_the_same_or_see_other_windows_cannot_run_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let golden = golden().display().to_string();
    other_model(folder, "copy", "mean", "mean");
    let wide = golden.replace("fibro3d", "r3d_18");
    for (beside, expected) in [
        ("copy", "has the same content"),
        (
            wide.as_str(),
            "9 frames of 27x34, the first model 9 of 28x28",
        ),
        ("nowhere", "nowhere"),
    ] {
        let models = format!("[[model]]\npath = '{golden}'\n[[model]]\npath = '{beside}'\n");
        pipeline(folder, &models, &source("a", Path::new("a.avi"), "P"));
        let output = hepaflow(folder, &["run", "p.toml"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
        assert!(!folder.join("results.sqlite").exists(), "nothing was begun");
    }
}

#[test]
fn labels_meet_their_patients_under_pseudonyms_and_nobody_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let film = record(folder, "a.avi", AVI, 40);
    let model = format!("[model]\npath = '{}'\nthreads = 1\n", golden().display());
    let privacy = "[privacy]\nkey = 'p.key'\n";
    let sources = source("a", &film, "Meier^Anna") + privacy;
    pipeline(folder, &model, &sources);
    // Before the run, which finds the key that this makes.
    let table = "patient_id,age_years,ast_u_l,alt_u_l,platelets_10e9_l,stage,date\n\
                 Meier^Anna,50,40,30,200,F2,2024-05-17\n";
    fs::write(folder.join("labs.csv"), table).unwrap();
    let import = ["labels", "import", "labs.csv", "--pipeline", "p.toml"];
    let output = hepaflow(folder, &import);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let output = hepaflow(folder, &["run", "p.toml"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let patients = json(folder, &["results", "patients"]);
    assert_eq!(patients.len(), 1);
    let indices = json(folder, &["results", "indices"]);
    assert_eq!(indices[0]["patient"], patients[0]["patient"]);
    let evaluation = json(folder, &["results", "evaluation"]);
    assert!(!evaluation.is_empty());
    // A second import, now by the pseudonym, changes nothing.
    let pseudonym = patients[0]["patient"].as_str().unwrap();
    assert!(pseudonym.starts_with("P-"), "{pseudonym}");
    fs::write(
        folder.join("labs.csv"),
        table.replace("Meier^Anna", pseudonym),
    )
    .unwrap();
    let output = hepaflow(folder, &import);
    assert!(
        text(&output.stdout).contains("2 known already"),
        "{}",
        text(&output.stdout)
    );
    // By request, too, into a run that is going.
    let run = Running::start(folder, &["--stay"]);
    let body = r#"{"patient":"Meier^Anna","day":"2024-05-18","stage":"F4"}"#;
    let json_body = ["Content-Type: application/json"];
    let answer = served::send(&run.address, "POST", "/api/v1/labels", &json_body, body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    drop(run);
    let log = json(folder, &["audit", "show"]);
    let entered: Vec<_> = log
        .iter()
        .filter(|row| row["kind"] == "pathology")
        .map(|row| &row["fact"]["patient"])
        .collect();
    assert_eq!(entered, [pseudonym; 2]);
    let bytes = fs::read(folder.join("results.sqlite")).unwrap();
    let wal = fs::read(folder.join("results.sqlite-wal")).unwrap_or_default();
    for bytes in [bytes, wal] {
        assert!(
            !bytes.windows(5).any(|part| part == b"Meier"),
            "a name is in the store"
        );
    }
}
