//! What a run shows over HTTP: API, live view, logins, limits.
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "serve/access.rs"]
mod access;
#[path = "serve/api.rs"]
mod api;
#[path = "support/served.rs"]
mod served;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use hepaflow::config::{ServeConfig, StorePlace};
use hepaflow::dataflow::{Control, Facts};
use hepaflow::domain::{FrameSize, ModelHash};
use hepaflow::metrics::Metrics;
use hepaflow::serve::tokens::{Role, Tokens};
use hepaflow::serve::{ServeError, ServedModel, Server, Subject};
use hepaflow::store::{Store, StoredModel};
use served::{Answer, pipeline, scanner, send};

const SECRET: &str = "DOE-JANE-1970";

/// A server of a run that does nothing.
fn idle(folder: &Path, config: &ServeConfig) -> Result<(Server, Control), ServeError> {
    let place: StorePlace = folder.join("results.sqlite").into();
    let hash = ModelHash::of(b"model");
    let classes = vec!["F0-F1".parse().unwrap(), "F2-F4".parse().unwrap()];
    let stored = StoredModel {
        hash,
        architecture: "fibro3d".to_owned(),
        classes: classes.clone(),
    };
    Store::open(&place).unwrap().register(&stored).unwrap();
    let control = Control::default();
    let subject = Subject {
        metrics: Metrics::new().unwrap(),
        control: control.clone(),
        facts: Facts::new(Store::open(&place).unwrap()),
        store: place,
        ids: folder.join("ids"),
        model: ServedModel {
            hash,
            architecture: stored.architecture,
            classes,
            synthetic: true,
            size: FrameSize {
                height: 8,
                width: 8,
            },
            window: (9, 3),
            engine: "none".to_owned(),
        },
        beside: Vec::new(),
        pseudonyms: None,
        sources: Vec::new(),
        open: Box::new(|_| Err("nothing can be added here".to_owned())),
        close: Box::new(|_| false),
    };
    Server::start(config, subject).map(|server| (server, control))
}

fn any_port() -> ServeConfig {
    ServeConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        ..ServeConfig::default()
    }
}

fn ask(server: &Server, method: &str, path: &str, more: &[&str], body: &str) -> Answer {
    send(&server.address().to_string(), method, path, more, body)
}

#[test]
fn metrics_and_health_are_served_and_the_port_is_free_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let (server, control) = idle(folder.path(), &any_port()).unwrap();
    let get = |path: &str| ask(&server, "GET", path, &["Host: x"], "");
    assert!(
        get("/metrics")
            .body
            .contains("\nhepaflow_predictions_total 0\n")
    );
    for path in ["/healthz", "/livez"] {
        assert_eq!(get(path).body, "ok\n");
    }
    assert_eq!(get("/readyz").status, 200);
    control.stop();
    let ending = get("/readyz");
    assert_eq!(ending.status, 503);
    assert!(ending.body.contains("ending"), "{}", ending.body);

    let address = server.address();
    let taken = ServeConfig {
        listen: address,
        ..any_port()
    };
    let error = idle(folder.path(), &taken).unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    // A client that says nothing does not keep the server from stopping.
    let _silent = TcpStream::connect(address).unwrap();
    drop(server);
    idle(folder.path(), &taken).unwrap();
}

#[test]
fn every_answer_carries_what_keeps_a_browser_careful_and_pages_hold_no_script() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _) = idle(folder.path(), &any_port()).unwrap();
    let get = |path: &str| ask(&server, "GET", path, &[], "");
    for path in [
        "/",
        "/assets/app.js",
        "/api/v1/info",
        "/nothing",
        "/healthz",
    ] {
        let answer = get(path);
        let policy = answer.header("content-security-policy").unwrap();
        assert!(
            policy.contains("default-src 'none'") && !policy.contains("unsafe"),
            "{path}"
        );
        assert_eq!(
            answer.header("x-content-type-options"),
            Some("nosniff"),
            "{path}"
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
    }
    let page = get("/").body;
    assert!(page.contains("<html"));
    for forbidden in [" style=", " onclick=", "javascript:", "http://", "https://"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    // Every file that the page and its scripts name is there.
    let mut waiting = vec![page];
    let mut seen = BTreeSet::new();
    while let Some(text) = waiting.pop() {
        let quoted = text.split('"').skip(1).step_by(2);
        let names = quoted.filter_map(|it| it.strip_prefix("/assets/").or(it.strip_prefix("./")));
        for name in names
            .filter(|name| seen.insert((*name).to_owned()))
            .collect::<Vec<_>>()
        {
            let answer = get(&format!("/assets/{name}"));
            assert_eq!(answer.status, 200, "{name}");
            waiting.push(answer.body);
        }
    }
    assert!(seen.len() >= 9, "{seen:?}");
}

#[test]
fn both_languages_have_all_words_that_the_pages_use() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/serve/assets");
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let words = read("words.js");
    let (english, chinese) = words.split_once("\n  zh: {").unwrap();
    let chinese = chinese.split("\n};").next().unwrap();
    let keys = |text: &str| -> BTreeSet<String> {
        let lines = text.lines().filter(|line| line.starts_with("    "));
        let keys = lines.filter_map(|line| line.split_once(": "));
        keys.map(|(key, _)| key.trim().trim_matches('"').to_owned())
            .collect()
    };
    let (english, chinese) = (keys(english), keys(chinese));
    assert_eq!(english, chinese);
    assert!(english.len() > 80, "{}", english.len());
    let mut used = 0;
    for name in [
        "index.html",
        "app.js",
        "enter.js",
        "live.js",
        "patients.js",
        "system.js",
    ] {
        let text = read(name);
        for begin in ["data-word=\"", "data-word-label=\"", "word(\""] {
            for rest in text.split(begin).skip(1) {
                let key = rest.split('"').next().unwrap();
                used += 1;
                assert!(english.contains(key), "{name}: {key}");
            }
        }
    }
    assert!(used > 60, "{used}");
}

fn with_tokens(folder: &Path) -> (ServeConfig, String, String) {
    let file = folder.join("tokens");
    let mut tokens = Tokens::default();
    let viewer = tokens.add("screen", Role::Viewer).unwrap();
    let operator = tokens.add("anna", Role::Operator).unwrap();
    tokens.save(&file).unwrap();
    let config = ServeConfig {
        tokens: Some(file),
        ..any_port()
    };
    (config, viewer, operator)
}

#[test]
fn a_thousand_clients_that_trickle_their_requests_do_not_keep_a_good_one_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _) = idle(folder.path(), &any_port()).unwrap();
    let slow = |_| {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
            .unwrap();
        stream
    };
    let mut clients: Vec<_> = (0..1000).map(slow).collect();
    let mut times = Vec::new();
    for round in 0..200 {
        let begin = Instant::now();
        assert_eq!(ask(&server, "GET", "/healthz", &[], "").status, 200);
        times.push(begin.elapsed());
        // They go on trickling; those that were cut off come back.
        let client = &mut clients[5 * round];
        if client.write_all(b"x").is_err() {
            *client = slow(0);
        }
    }
    times.sort();
    // Printed, not asserted: machines differ.
    eprintln!(
        "p50 {:?}, p99 {:?}, worst {:?}",
        times[100], times[197], times[199]
    );
}

#[test]
fn what_was_left_out_of_a_request_is_waited_for_only_so_long() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _) = idle(folder.path(), &any_port()).unwrap();
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_mins(2)))
        .unwrap();
    let head = "POST /api/v1/streams HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
                Content-Length: 50\r\n\r\n{";
    stream.write_all(head.as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 408"), "{line}");
}

fn hepaflow(folder: &Path, args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(cargo_bin!("hepaflow"))
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn tokens_are_made_listed_and_taken_away_on_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| hepaflow(folder.path(), &[&["token"], args].concat());
    let (code, said) = run(&["add", "--file", "tokens", "--role", "viewer", "screen-1"]);
    assert_eq!(code, Some(0), "{said}");
    let secret = said.lines().find(|line| line.starts_with("hf_")).unwrap();
    let tokens = Tokens::load(&folder.path().join("tokens")).unwrap();
    assert_eq!(tokens.holder(secret).unwrap().role, Role::Viewer);
    let (_, listed) = run(&["list", "--file", "tokens"]);
    assert_eq!(listed, "screen-1\tviewer\n");
    assert_eq!(
        run(&["add", "--file", "tokens", "--role", "viewer", "screen-1"]).0,
        Some(2)
    );
    assert_eq!(run(&["remove", "--file", "tokens", "screen-1"]).0, Some(0));
    assert_eq!(run(&["remove", "--file", "tokens", "screen-1"]).0, Some(2));
}

#[test]
fn the_doctor_finds_this_machine_well_and_says_what_to_do_where_it_is_not() {
    let folder = tempfile::tempdir().unwrap();
    pipeline(folder.path(), 3, &scanner("bed-1", SECRET), "");
    let (code, said) = hepaflow(folder.path(), &["doctor", "p.toml"]);
    assert_eq!(code, Some(0), "{said}");
    for subject in [
        "gstreamer",
        "cpu",
        "card",
        "pipeline",
        "model",
        "results",
        "disk",
        "dashboard",
    ] {
        assert!(said.contains(subject), "{subject}: {said}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let text = fs::read_to_string(folder.path().join("p.toml")).unwrap();
    let text = text
        .replace("127.0.0.1:0", &format!("127.0.0.1:{port}"))
        .replace("tests/goldens/fibro3d", "tests/goldens/nowhere");
    fs::write(folder.path().join("p.toml"), text).unwrap();
    let (code, said) = hepaflow(folder.path(), &["doctor", "p.toml", "--json"]);
    assert_eq!(code, Some(2), "{said}");
    for finding in [
        &format!(":{port}: "),
        "choose another address",
        "model.toml",
    ] {
        assert!(said.contains(finding), "{finding}: {said}");
    }
}
