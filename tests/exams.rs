//! Exams begin and end while a run goes on, as its pipeline file says.
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "support/served.rs"]
mod served;

use std::collections::BTreeSet;
use std::fs;

use served::{Answer, Running, pipeline, scanner};

/// Sources whose stream is open, and how many patients have an open one.
fn open(answer: &Answer) -> (Vec<String>, usize) {
    let rows = answer.json();
    let rows = rows.as_array().unwrap().iter();
    let rows: Vec<_> = rows.filter(|row| row["ended_ms"].is_null()).collect();
    let mut names: Vec<_> = rows
        .iter()
        .map(|row| row["source"].as_str().unwrap().to_owned())
        .collect();
    names.sort_unstable();
    let patients: BTreeSet<_> = rows.iter().map(|row| row["patient"].to_string()).collect();
    (names, patients.len())
}

fn closed(name: &str) -> String {
    scanner(name, "x").replace("patient = 'x'", "open = false")
}

#[test]
fn the_pipeline_file_opens_closes_and_binds_scanners_while_the_run_goes_on() {
    const STREAMS: &str = "/api/v1/streams";
    let folder = tempfile::tempdir().unwrap();
    let write = |sources: &str| pipeline(folder.path(), 3, sources, "");
    let are_open = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        move |answer: &Answer| open(answer).0 == names
    };
    // Nothing is open, and the run waits for an exam.
    write(&closed("bed-1"));
    let run = Running::start(folder.path(), &[]);
    assert_eq!(open(&run.get(STREAMS)).0, [] as [&str; 0]);

    write(&(scanner("bed-1", "FIRST") + &scanner("bed-2", "OTHER")));
    run.wait_for(STREAMS, are_open(&["bed-1", "bed-2"]));
    let patients = |count: u64| move |answer: &Answer| answer.json()["total"] == count;
    run.wait_for("/api/v1/patients", patients(2));

    // The next patient; the other bed is not touched.
    write(&(scanner("bed-1", "SECOND") + &scanner("bed-2", "OTHER")));
    run.wait_for("/api/v1/patients", patients(3));
    let answer = run.wait_for(STREAMS, are_open(&["bed-1", "bed-2"]));
    assert_eq!(open(&answer).1, 2);
    let rows = answer.json();
    let of = |name: &str| {
        let rows = rows.as_array().unwrap().iter();
        rows.filter(|row| row["source"] == name).count()
    };
    assert_eq!((of("bed-1"), of("bed-2")), (2, 1));

    // What has mistakes changes nothing, and the next good file counts again.
    let good = fs::read_to_string(folder.path().join("p.toml")).unwrap();
    fs::write(
        folder.path().join("p.toml"),
        good.replace("live = true", "live = 7"),
    )
    .unwrap();
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert!(are_open(&["bed-1", "bed-2"])(&run.get(STREAMS)));

    // Both exams end; the run goes on and can be asked for another one.
    write(&closed("bed-1"));
    run.wait_for(STREAMS, are_open(&[]));
    write(&scanner("bed-1", "THIRD"));
    run.wait_for("/api/v1/patients", patients(4));
    run.wait_for(STREAMS, are_open(&["bed-1"]));
}
