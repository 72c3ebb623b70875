use std::io::Write;

use super::super::Files;
use super::*;
use crate::domain::{ContentHash, ModelHash};

fn passport() -> Passport {
    Passport {
        version: "1.0.0".to_owned(),
        pipeline: ContentHash::of(b"pipeline"),
        models: vec![ModelHash::of(b"model")],
        workers: 1,
        files: Files {
            count: 3,
            digest: ContentHash::of(b"files"),
        },
    }
}

/// Free ports, as far as one can know.
fn text(processes: usize) -> String {
    let listeners: Vec<_> = (0..processes)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let lines = listeners
        .iter()
        .map(|listener| format!("{}\n", listener.local_addr().unwrap()));
    lines.collect::<Vec<_>>().concat()
}

fn meet(passports: Vec<Passport>, patience: Duration) -> Vec<Result<Group, JoinError>> {
    let text = text(passports.len());
    let processes = passports.len();
    let threads: Vec<_> = passports
        .into_iter()
        .enumerate()
        .map(|(index, passport)| {
            let hosts = Hosts::parse(&text, processes, index).unwrap();
            let control = Control::default();
            std::thread::spawn(move || join(&hosts, &passport, patience, &control))
        })
        .collect();
    threads.into_iter().map(|it| it.join().unwrap()).collect()
}

#[test]
fn three_processes_meet_and_each_has_a_connection_to_each() {
    let groups = meet(vec![passport(); 3], Duration::from_secs(20));
    for (index, group) in groups.into_iter().enumerate() {
        let here: Vec<_> = group.unwrap().sockets.iter().map(Option::is_some).collect();
        assert_eq!(here, [0, 1, 2].map(|other| other != index));
    }
}

#[test]
fn either_side_refuses_what_runs_something_else_and_says_in_what() {
    type Change = fn(&mut Passport);
    let changes: [(&str, Change); 4] = [
        ("another version", |it| it.version = "2.0.0".to_owned()),
        ("another pipeline file", |it| {
            it.pipeline = ContentHash::of(b"");
        }),
        ("another model", |it| it.models = vec![ModelHash::of(b"")]),
        ("--workers: ", |it| it.workers = 2),
    ];
    for (expected, change) in changes {
        let mut other = passport();
        change(&mut other);
        let groups = meet(vec![passport(), other], Duration::from_secs(20));
        for (result, peer) in groups.into_iter().zip(["process 1 (", "process 0 ("]) {
            let error = result.unwrap_err();
            assert!(error.is_lasting());
            let said = error.to_string();
            assert!(said.contains(expected) && said.contains(peer), "{said}");
        }
    }
    let mut other = passport();
    other.files.count = 4;
    for result in meet(vec![passport(), other], Duration::from_secs(20)) {
        let error = result.unwrap_err();
        assert!(!error.is_lasting(), "the files may be there later");
        assert!(error.to_string().contains("other recordings"), "{error}");
    }
}

#[test]
fn who_never_comes_is_named_and_a_stranger_does_not_count() {
    let text = text(2);
    let hosts = Hosts::parse(&text, 2, 0).unwrap();
    let here = hosts.peer(0).host;
    let stranger = std::thread::spawn(move || {
        // As soon as somebody listens.
        let mut socket = loop {
            if let Ok(socket) = TcpStream::connect(&here) {
                break socket;
            }
        };
        socket.write_all(b"GET / HTTP/1.1\r\n\r\n").ok();
    });
    let patience = Duration::from_millis(600);
    let error = join(&hosts, &passport(), patience, &Control::default()).unwrap_err();
    stranger.join().unwrap();
    let said = error.to_string();
    assert!(said.contains("600ms") && said.contains("-p 1"), "{said}");
    assert!(said.contains(&hosts.peer(1).to_string()), "{said}");
}

#[test]
fn a_place_that_is_taken_is_waited_for() {
    let text = text(1);
    let hosts = Hosts::parse(&text, 1, 0).unwrap();
    let predecessor = TcpListener::bind(&hosts.peer(0).host).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            drop(predecessor);
        });
        join(
            &hosts,
            &passport(),
            Duration::from_secs(20),
            &Control::default(),
        )
        .unwrap();
    });
}
