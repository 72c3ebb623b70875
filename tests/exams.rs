//! Exams begin and end while a run goes on, as its pipeline file says.
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "support/recordings.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod recordings;
#[path = "support/served.rs"]
mod served;

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use hepaflow::serve::tokens::{Role, Tokens};
use hepaflow::store::Store;
use recordings::{AVI, record};
use served::{Answer, Running, pipeline, scanner, send};

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
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
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
    std::thread::sleep(Duration::from_secs(4));
    assert!(are_open(&["bed-1", "bed-2"])(&run.get(STREAMS)));

    // Both exams end; the run goes on and can be asked for another one.
    write(&closed("bed-1"));
    run.wait_for(STREAMS, are_open(&[]));
    write(&scanner("bed-1", "THIRD"));
    run.wait_for("/api/v1/patients", patients(4));
    run.wait_for(STREAMS, are_open(&["bed-1"]));
}

/// So many seconds from now, as a pipeline file and a request write it.
fn in_seconds(seconds: u64) -> String {
    let time = SystemTime::now() + Duration::from_secs(seconds);
    humantime::format_rfc3339_seconds(time).to_string()
}

#[test]
fn an_exam_begins_and_ends_by_the_clock_as_the_pipeline_file_says() {
    const STREAMS: &str = "/api/v1/streams";
    let folder = tempfile::tempdir().unwrap();
    let write = |times: &str| {
        let source = scanner("bed-1", "FIRST") + times + "\n";
        pipeline(folder.path(), 3, &source, "");
    };
    let opened = |answer: &Answer| answer.json().as_array().unwrap().len();
    write(&format!("from = {}", in_seconds(4)));
    let begin = SystemTime::now();
    let run = Running::start(folder.path(), &[]);
    run.wait_for(STREAMS, |answer| open(answer).0 == ["bed-1"]);
    assert!(begin.elapsed().unwrap() > Duration::from_secs(3));

    // The end is told while it goes on, and the stream is not cut for that.
    write(&format!("until = {}", in_seconds(6)));
    run.wait_for(STREAMS, |answer| open(answer).0.is_empty());
    assert_eq!(opened(&run.get(STREAMS)), 1);
    // The run waits for the next exam.
    write("");
    let answer = run.wait_for(STREAMS, |answer| open(answer).0 == ["bed-1"]);
    assert_eq!(opened(&answer), 2);
    // One that is over is not opened, and one that is to come is waited for.
    write("until = 2024-01-01T08:00:00+01:00");
    run.wait_for(STREAMS, |answer| open(answer).0.is_empty());
    write(&format!("from = {}", in_seconds(2)));
    let answer = run.wait_for(STREAMS, |answer| open(answer).0 == ["bed-1"]);
    assert_eq!(opened(&answer), 3);
}

fn token(folder: &Path) -> String {
    let mut known = Tokens::default();
    let secret = known.add("anna", Role::Operator).unwrap();
    known.save(&folder.join("tokens")).unwrap();
    format!("Authorization: Bearer {secret}")
}

#[test]
fn a_request_binds_a_scanner_from_one_time_until_another() {
    const STREAMS: &str = "/api/v1/streams";
    const BIND: &str = "/api/v1/streams/bed-1/patient";
    let folder = tempfile::tempdir().unwrap();
    let bearer = token(folder.path());
    let write = |patient: &str| {
        let source = scanner("bed-1", patient);
        pipeline(folder.path(), 3, &source, "tokens = 'tokens'");
    };
    write("FIRST");
    let run = Running::start(folder.path(), &[]);
    let call = |method: &str, path: &str, body: &str| {
        let more = [bearer.as_str(), "Content-Type: application/json"];
        send(&run.address, method, path, &more, body)
    };
    // The open streams' patients, once they are these.
    let wait_for = |patients: &[&str]| {
        let begin = SystemTime::now();
        loop {
            let rows = call("GET", STREAMS, "").json();
            let rows = rows.as_array().unwrap().iter();
            let open = rows.filter(|row| row["ended_ms"].is_null());
            let open: Vec<_> = open.map(|row| row["label"].to_string()).collect();
            if open
                == patients
                    .iter()
                    .map(|it| format!("\"{it}\""))
                    .collect::<Vec<_>>()
            {
                return;
            }
            assert!(
                begin.elapsed().unwrap() < Duration::from_mins(1),
                "waited in vain for {patients:?}: {open:?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    wait_for(&["FIRST"]);
    let (from, until) = (in_seconds(4), in_seconds(9));
    let later = format!(r#"{{"patient":"SECOND","from":"{from}","until":"{until}"}}"#);
    assert_eq!(call("PUT", BIND, &later).status, 202);
    // Until then the present exam goes on.
    wait_for(&["FIRST"]);
    wait_for(&["SECOND"]);
    assert!(SystemTime::now() >= humantime::parse_rfc3339(&from).unwrap());
    wait_for(&[]);
    assert!(SystemTime::now() >= humantime::parse_rfc3339(&until).unwrap());

    // What was booked is forgotten with the source.
    let later = format!(r#"{{"patient":"THIRD","from":"{}"}}"#, in_seconds(3));
    assert_eq!(call("PUT", BIND, &later).status, 202);
    assert_eq!(call("PUT", BIND, r#"{"patient":"FOURTH"}"#).status, 202);
    wait_for(&["FOURTH"]);
    std::thread::sleep(Duration::from_secs(4));
    wait_for(&["FOURTH"]);
    // The file has the last word when it says something new.
    write("FIFTH");
    wait_for(&["FIFTH"]);

    for times in [
        r#""from":"2026-11-26T08:30:00""#,
        r#""from":"tomorrow""#,
        r#""until":"2024-01-01T08:00:00Z""#,
        r#""from":"2999-01-02T00:00:00Z","until":"2999-01-01T00:00:00Z""#,
    ] {
        let body = format!(r#"{{"patient":"SIXTH",{times}}}"#);
        assert_eq!(call("PUT", BIND, &body).status, 400, "{times}");
    }
    wait_for(&["FIFTH"]);
}

/// A process of a group of two, once it runs.
fn member(folder: &Path, index: &str) -> Running {
    let group = ["-n", "2", "-p", index, "--hostfile", "hosts.txt"];
    Running::start(folder, &group)
}

#[test]
fn in_a_group_each_exam_by_the_clock_is_kept_by_the_process_that_has_its_source() {
    const STREAMS: &str = "/api/v1/streams";
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let ports: Vec<_> = (0..2)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .map(|listener| listener.local_addr().unwrap().to_string())
        .collect();
    fs::write(folder.join("hosts.txt"), ports.join("\n")).unwrap();
    record(folder, "film.avi", AVI, 30);
    // The film's exam begins between the looks of the two at the clock.
    let (film, bed, end) = (in_seconds(4), in_seconds(8), in_seconds(20));
    let sources = [
        scanner("bed-1", "FIRST") + &format!("from = {bed}\nuntil = {end}\n"),
        scanner("bed-2", "SECOND") + &format!("from = {bed}\nuntil = {end}\n"),
        format!(
            "[[source]]\nname = 'film'\npath = 'film.avi'\npatient = 'THIRD'\nprocess = 1\n\
             crop = {{ x = 60, y = 20, width = 200, height = 200 }}\nfrom = {film}\n"
        ),
    ];
    pipeline(folder, 3, &sources.concat(), "");
    let [mut first, mut second] = std::thread::scope(|scope| {
        let first = scope.spawn(|| member(folder, "0"));
        let film = humantime::parse_rfc3339(&film).unwrap() + Duration::from_secs(1);
        std::thread::sleep(film.duration_since(SystemTime::now()).unwrap_or_default());
        let second = member(folder, "1");
        [first.join().unwrap(), second]
    });
    // All that each has opened until now.
    let sources = |answer: &Answer| {
        let rows = answer.json();
        let rows = rows.as_array().unwrap().iter();
        let names: BTreeSet<_> = rows
            .map(|row| row["source"].as_str().unwrap().to_owned())
            .collect();
        names
    };
    let are = |names: &[&str]| {
        let names: BTreeSet<_> = names.iter().map(|name| (*name).to_owned()).collect();
        move |answer: &Answer| sources(answer) == names
    };
    first.wait_for(STREAMS, are(&["bed-1"]));
    second.wait_for(STREAMS, are(&["bed-2", "film"]));
    assert!(SystemTime::now() >= humantime::parse_rfc3339(&bed).unwrap());
    for run in [&first, &second] {
        run.wait_for(STREAMS, |answer| open(answer).0.is_empty());
    }
    assert!(SystemTime::now() >= humantime::parse_rfc3339(&end).unwrap());
    assert!(are(&["bed-1"])(&first.get(STREAMS)));
    // Both wait for the next exam, until one is told to end.
    assert_eq!(
        [first.child.try_wait(), second.child.try_wait()].map(Result::unwrap),
        [None, None]
    );
    let told = Command::new("kill")
        .args(["-TERM", &first.child.id().to_string()])
        .status();
    assert!(told.unwrap().success());
    for run in [&mut first, &mut second] {
        assert_eq!(run.child.wait().unwrap().code(), Some(0));
    }
    let store = Store::open(folder.join("results.sqlite")).unwrap();
    let patients: BTreeSet<_> = store
        .patient_results()
        .unwrap()
        .iter()
        .map(|result| result.patient.expose().to_owned())
        .collect();
    assert_eq!(patients.len(), 3, "{patients:?}");
}
