//! Pulling studies out of a real Orthanc into a running pipeline, by date.
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "support/orthanc.rs"]
mod orthanc;
#[path = "support/recordings.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod recordings;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use assert_cmd::cargo::cargo_bin;
use hepaflow::ingest::listener::{Listener, ListenerConfig, ListenerTls};
use hepaflow::metrics::Metrics;
use orthanc::{Orthanc, Papers, dcmtk, free_port};
use recordings::pydicom;

/// Copies of a cine, as studies of these days.
fn studies(folder: &Path, days: &[&str]) -> Vec<PathBuf> {
    let copy = |(number, day): (usize, &&str)| {
        let path = folder.join(format!("{number}.dcm"));
        fs::copy(pydicom("examples_ybr_color.dcm"), &path).unwrap();
        let output = Command::new("dcmodify")
            .args(["--no-backup", "-nb", "-ie"])
            .args(["-i", &format!("(0008,0020)={day}")])
            .args(["-i", &format!("(0020,000d)=2.25.90{number}")])
            .args(["-i", &format!("(0020,000e)=2.25.91{number}")])
            .args(["-i", &format!("(0008,0018)=2.25.92{number}")])
            .args(["-i", &format!("(0010,0020)=CANARY{number}")])
            .arg(&path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        path
    };
    days.iter().enumerate().map(copy).collect()
}

fn pull(folder: &Path, port: u16, options: &str) -> Output {
    Command::new(cargo_bin!("hepaflow"))
        .args(["pull", "--from", &format!("ARCHIVE@localhost:{port}")])
        .args(options.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap()
}

/// What our listener is called, and where it keeps what comes.
fn ward(folder: &Path) -> ListenerConfig {
    ListenerConfig {
        name: "ward".into(),
        address: "127.0.0.1:0".parse().unwrap(),
        ae_title: "HEPAFLOW".into(),
        allow: vec!["ARCHIVE".into()],
        folder: folder.join("incoming"),
        associations: 8,
        largest: 64 << 20,
        timeout: Duration::from_secs(10),
        tls: None,
    }
}

#[test]
fn studies_of_some_days_come_once_and_a_second_start_asks_for_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let stored = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&stored);
    let config = ward(folder.path());
    let metrics = Metrics::new().unwrap().listener("ward");
    let on_stored = Arc::new(move |path| told.lock().unwrap().push(path));
    let (listener, _) = Listener::start(&config, on_stored, metrics).unwrap();
    let orthanc = Orthanc::start(folder.path(), listener.address());
    let days = ["20240110", "20240111", "20240112", "20240201"];
    let files = studies(folder.path(), &days);
    let sent = dcmtk("storescu", "-aec ARCHIVE -xy", orthanc.port, &files);
    assert!(sent.status.success(), "{sent:?}");

    let count = || stored.lock().unwrap().len();
    let mut all = String::new();
    let mut said = |output: &Output| {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        all += &text;
        text
    };
    // One of the days, then all of the month, then nothing is left.
    for (date, stored, text) in [
        (
            "20240111",
            1,
            "1 studies: 1 pushed (1 instances), 0 pushed before",
        ),
        (
            "20240101-20240131",
            3,
            "3 studies: 2 pushed (2 instances), 1 pushed before",
        ),
        (
            "20240101-20240131",
            3,
            "3 studies: 0 pushed (0 instances), 3 pushed before",
        ),
        ("20230101-20231231", 3, "0 studies"),
    ] {
        let output = pull(
            folder.path(),
            orthanc.port,
            &format!("--to HEPAFLOW --date {date}"),
        );
        let found = said(&output);
        assert!(output.status.success() && found.contains(text), "{found}");
        assert_eq!(count(), stored, "{date}");
    }
    // A limit, a title that the archive does not know, an archive that is not
    // there: each is said, and exits with 2.
    for (options, port, text) in [
        (
            "--to HEPAFLOW --date 20240101-20240228 --most 2",
            orthanc.port,
            "more than 2 studies",
        ),
        (
            "--to NOBODY --date 20240201",
            orthanc.port,
            "refuses with status",
        ),
        (
            "--to HEPAFLOW --date 20240201",
            free_port(),
            "no connection",
        ),
        ("--to HEPAFLOW --date 2024", orthanc.port, "expected"),
    ] {
        let output = pull(folder.path(), port, options);
        let found = said(&output);
        assert_eq!(output.status.code(), Some(2), "{options}: {found}");
        assert!(found.contains(text), "{options}: {found}");
    }
    assert_eq!(count(), 3);
    all += &fs::read_to_string(folder.path().join("pulled.txt")).unwrap();
    assert!(!all.contains("CANARY") && !all.contains("2.25."), "{all}");
    // When the listener is away, the study is not noted, and comes later.
    drop(listener);
    let output = pull(folder.path(), orthanc.port, "--to HEPAFLOW --date 20240201");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let marks = fs::read_to_string(folder.path().join("pulled.txt")).unwrap();
    assert_eq!(marks.lines().count(), 3);
}

#[test]
fn an_encrypted_archive_is_asked_and_pushes_in_no_other_way() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let papers = Papers::of(folder);
    let stored = Arc::new(Mutex::new(0));
    let told = Arc::clone(&stored);
    let of = |name: &str| folder.join(name);
    let tls = ListenerTls {
        certificate: of("ours.pem"),
        key: of("ours-key.pem"),
        clients: Some(of("pacs.pem")),
    };
    let config = ListenerConfig {
        tls: Some(tls),
        ..ward(folder)
    };
    let metrics = Metrics::new().unwrap().listener("ward");
    let on_stored = Arc::new(move |_| *told.lock().unwrap() += 1);
    let (listener, _) = Listener::start(&config, on_stored, metrics).unwrap();
    let orthanc = Orthanc::start_encrypted(folder, free_port(), Some(listener.address()));
    let files = studies(folder, &["20240110", "20240111"]);
    let options = format!("{}-aec ARCHIVE -xy", papers.dcmtk());
    let sent = dcmtk("storescu", &options, orthanc.port, &files);
    assert!(sent.status.success(), "{sent:?}");

    let asked = "--to HEPAFLOW --date 20240101-20240131 --timeout 5s";
    let encrypted = |authority: &str, own: &str| {
        let options = format!(
            "{asked} --authorities {authority}.pem --certificate {own}.pem --key {own}-key.pem"
        );
        pull(folder, orthanc.port, &options)
    };
    // In the clear; an archive that nobody vouches for; one that does not know us; and
    // one that we show nothing.
    let bare = format!("{asked} --authorities pacs.pem");
    for output in [
        pull(folder, orthanc.port, asked),
        encrypted("stranger", "ours"),
        encrypted("pacs", "stranger"),
        pull(folder, orthanc.port, &bare),
    ] {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("connection"), "{said}");
    }
    assert_eq!(*stored.lock().unwrap(), 0);

    let output = encrypted("pacs", "ours");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected = "2 studies: 2 pushed (2 instances), 0 pushed before";
    assert!(output.status.success() && said.contains(expected), "{said}");
    assert_eq!(*stored.lock().unwrap(), 2);
}
