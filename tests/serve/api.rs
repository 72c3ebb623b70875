//! The API and the live view of a run.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use hepaflow::serve::tokens::{Role, Tokens};
use serde_json::{Value, json};

use super::SECRET;
use super::served::{Answer, Running, pipeline, scanner, send};

#[test]
fn the_api_is_what_its_document_says() {
    let document = serde_json::to_value(hepaflow::serve::api::document()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    for path in [
        "/api/v1/info",
        "/api/v1/models",
        "/api/v1/models/{hash}/activate",
        "/api/v1/exams",
        "/api/v1/labels",
        "/api/v1/labels/table",
        "/api/v1/merges",
        "/api/v1/patients",
        "/api/v1/patients.csv",
        "/api/v1/patients/{id}",
        "/api/v1/patients/{id}/answers",
        "/api/v1/patients/{id}/clips",
        "/api/v1/patients/{id}/fhir",
        "/api/v1/patients/{id}/history",
        "/api/v1/streams",
        "/api/v1/streams/{source}",
        "/api/v1/streams/{source}/patient",
    ] {
        let operations = paths
            .get(path)
            .unwrap_or_else(|| panic!("{path}"))
            .as_object()
            .unwrap();
        for (method, operation) in operations {
            assert!(operation["responses"].is_object(), "{method} {path}");
            let summary = operation["summary"].as_str().unwrap_or_default();
            assert!(!summary.is_empty(), "{method} {path}");
        }
    }
    // Every schema that is referred to is there.
    let text = document.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(
            document["components"]["schemas"][name].is_object(),
            "{name}"
        );
    }
}

/// Events of a live view until `enough` of them have come.
fn events(
    run: &Running,
    query: &str,
    enough: impl Fn(&[(String, Value)]) -> bool,
) -> Vec<(String, Value)> {
    let mut stream = TcpStream::connect(&run.address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_mins(1)))
        .unwrap();
    write!(
        stream,
        "GET /live?{query} HTTP/1.1\r\nHost: {}\r\n\r\n",
        run.address
    )
    .unwrap();
    let mut seen = Vec::new();
    let mut name = String::new();
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap();
        if let Some(event) = line.strip_prefix("event: ") {
            event.clone_into(&mut name);
        } else if let Some(data) = line.strip_prefix("data: ") {
            seen.push((name.clone(), serde_json::from_str(data).unwrap()));
            if enough(&seen) {
                return seen;
            }
        }
    }
    panic!("the live view ended");
}

/// Whether a program of other people's knows this report, and all that is in it, for
/// resources of FHIR; the package is fetched by the set-up.
fn read_as_fhir(report: &str) -> Result<(), String> {
    let program = "import sys\n\
        from fhir.resources.R4B.diagnosticreport import DiagnosticReport\n\
        DiagnosticReport.model_validate_json(sys.stdin.read())\n";
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cache/fhir");
    let mut child = Command::new("python3")
        .args(["-c", program])
        .env("PYTHONPATH", packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(report.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("ModuleNotFound"), "{said}");
    output.status.success().then_some(()).ok_or(said)
}

fn count(events: &[(String, Value)], name: &str) -> usize {
    events.iter().filter(|(event, _)| event == name).count()
}

#[test]
fn a_run_is_seen_live_and_by_the_api_and_names_nobody() {
    let folder = tempfile::tempdir().unwrap();
    pipeline(folder.path(), 3, &scanner("bed-1", SECRET), "");
    let run = Running::start(folder.path(), &[]);
    let has_answer =
        |answer: &Answer| answer.status == 200 && answer.json()["items"][0]["answer"].is_string();
    let patients = run.wait_for("/api/v1/patients", has_answer).json();
    assert_eq!(patients["total"], 1);
    let patient = &patients["items"][0];
    let id = patient["id"].as_str().unwrap();
    assert!(!id.contains(SECRET) && id.len() > 40, "{id}");
    let sum: f64 = patient["probabilities"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["p"].as_f64().unwrap())
        .sum();
    assert!((sum - 1.0).abs() < 1e-6);

    let mut said = String::new();
    let mut get = |path: &str| {
        let answer = run.get(path);
        said += &answer.body;
        answer
    };
    let one = get(&format!("/api/v1/patients/{id}")).json();
    assert_eq!(one["id"], *id);
    let clips = get(&format!("/api/v1/patients/{id}/clips?limit=2")).json();
    assert_eq!(clips["items"].as_array().unwrap().len(), 2);
    assert!(clips["total"].as_u64().unwrap() >= 3);
    let second = get(&format!("/api/v1/patients/{id}/clips?offset=1&limit=1")).json();
    assert_eq!(second["items"][0], clips["items"][1]);
    let csv = get("/api/v1/patients.csv");
    assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8"));
    assert_eq!(csv.body.lines().count(), 2);
    let report = get(&format!("/api/v1/patients/{id}/fhir"));
    assert_eq!(report.header("content-type"), Some("application/fhir+json"));
    assert_eq!(report.json()["resourceType"], "DiagnosticReport");
    read_as_fhir(&report.body).unwrap();
    for (from, to) in [
        ("\"conclusion\"", "\"conclusions\""),
        ("\"valueInteger\"", "\"valueNumber\""),
    ] {
        let wrong = report.body.replace(from, to);
        read_as_fhir(&wrong).expect_err("the check itself is broken");
    }
    let models = get("/api/v1/models").json();
    assert_eq!(models[0]["running"], true);
    let streams = get("/api/v1/streams").json();
    assert_eq!(
        (&streams[0]["source"], &streams[0]["live"]),
        (&json!("bed-1"), &json!(true))
    );
    assert_eq!(streams[0]["crop"], json!([60, 20, 200, 200]));
    let info = get("/api/v1/info").json();
    assert_eq!(info["model"]["classes"], json!(["F0-F1", "F2-F4"]));
    for path in [
        "/api/v1/patients/DOE-JANE-1970",
        &format!("/api/v1/patients/{}", "0".repeat(32)),
        "/api/v1/nothing",
    ] {
        let missing = get(path);
        assert_eq!(missing.status, 404, "{path}");
        assert_eq!(
            missing.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(missing.json()["status"], 404);
    }

    let plain = events(&run, "", |seen| {
        count(seen, "picture") > 3 && count(seen, "predictions") > 1 && count(seen, "state") > 1
    });
    assert_eq!(count(&plain, "attention"), 0, "nobody asked for it");
    let picture = plain.iter().find(|(name, _)| name == "picture").unwrap();
    let jpeg =
        base64::engine::general_purpose::STANDARD.decode(picture.1["jpeg"].as_str().unwrap());
    assert!(jpeg.unwrap().starts_with(b"\xff\xd8\xff"));
    let frames: Vec<_> = plain
        .iter()
        .filter(|(name, _)| name == "picture")
        .map(|(_, picture)| picture["frame"].as_u64().unwrap())
        .collect();
    assert!(
        frames.is_sorted() && frames.first() != frames.last(),
        "{frames:?}"
    );
    let watched = events(&run, "attention=true", |seen| count(seen, "attention") > 1);
    let map = &watched
        .iter()
        .find(|(name, _)| name == "attention")
        .unwrap()
        .1;
    let levels = base64::engine::general_purpose::STANDARD.decode(map["levels"].as_str().unwrap());
    let area = map["rows"].as_u64().unwrap() * map["columns"].as_u64().unwrap();
    assert_eq!(levels.unwrap().len() as u64, area);

    for (_, data) in plain.iter().chain(&watched) {
        said += &data.to_string();
    }
    assert!(!said.contains(SECRET), "the identifier got out");
    assert!(said.contains(patient["label"].as_str().unwrap()));
}

#[test]
fn viewers_that_read_nothing_hold_up_neither_the_run_nor_who_looks() {
    let folder = tempfile::tempdir().unwrap();
    pipeline(folder.path(), 3, &scanner("bed-1", SECRET), "");
    let run = Running::start(folder.path(), &[]);
    // Each asks for everything, and takes not a byte of it.
    let silent = |_| {
        let mut stream = TcpStream::connect(&run.address).unwrap();
        let request = format!(
            "GET /live?attention=true HTTP/1.1\r\nHost: {}\r\n\r\n",
            run.address
        );
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    let silent: Vec<_> = (0..24).map(silent).collect();
    let predictions = |answer: &Answer| -> u64 {
        let lines = answer.body.lines();
        let mut lines = lines.filter_map(|it| it.strip_prefix("hepaflow_predictions_total "));
        lines.next().map_or(0, |value| value.parse().unwrap())
    };
    let before = predictions(&run.get("/metrics"));
    let seen = events(&run, "", |seen| {
        count(seen, "picture") > 20 && count(seen, "predictions") > 5
    });
    assert!(count(&seen, "state") > 0);
    run.wait_for("/metrics", |answer| predictions(answer) > before + 20);
    drop(silent);
}

#[test]
fn a_source_is_bound_to_the_next_patient_and_ended_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    let mut known = Tokens::default();
    let secret = known.add("anna", Role::Operator).unwrap();
    known.save(&tokens).unwrap();
    pipeline(
        folder.path(),
        3,
        &scanner("bed-1", "FIRST"),
        "tokens = 'tokens'",
    );
    let run = Running::start(folder.path(), &["--stay"]);
    let bearer = format!("Authorization: Bearer {secret}");
    let call = |method: &str, path: &str, body: &str| {
        let more = [bearer.as_str(), "Content-Type: application/json"];
        send(&run.address, method, path, &more, body)
    };
    let streams_until = |enough: &dyn Fn(&Value) -> bool| {
        let begin = Instant::now();
        loop {
            let streams = call("GET", "/api/v1/streams", "").json();
            if enough(&streams) {
                return streams;
            }
            assert!(
                begin.elapsed() < Duration::from_mins(1),
                "waited in vain: {streams}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    // Who is logged in sees the identifier.
    streams_until(&|streams| streams[0]["label"] == "FIRST");
    let path = "/api/v1/streams/bed-1/patient";
    assert_eq!(call("PUT", path, r#"{"patient":"SECOND"}"#).status, 202);
    let streams = streams_until(&|streams| streams[1]["label"] == "SECOND");
    assert!(streams[0]["ended_ms"].is_u64(), "{streams}");
    for (method, path, body) in [
        ("PUT", path, r#"{"patient":" "}"#),
        ("PUT", "/api/v1/streams/bed-9/patient", r#"{"patient":"X"}"#),
        (
            "POST",
            "/api/v1/streams",
            r#"{"source":"x","location":"file:///etc/passwd","patient":"X"}"#,
        ),
        (
            "POST",
            "/api/v1/streams",
            r#"{"source":"x","location":"rtsp://a\" ! filesink location=b","patient":"X"}"#,
        ),
        (
            "POST",
            "/api/v1/streams",
            r#"{"source":"bed-1","location":"rtsp://a/b","patient":"X"}"#,
        ),
    ] {
        let refused = call(method, path, body);
        assert_eq!(refused.status, 400, "{body}");
        assert!(!refused.json()["detail"].as_str().unwrap().is_empty());
    }
    assert_eq!(call("DELETE", "/api/v1/streams/bed-9", "").status, 404);
    assert_eq!(call("DELETE", "/api/v1/streams/bed-1", "").status, 202);
    streams_until(&|streams| streams[1]["ended_ms"].is_u64());
    // It stays, for more.
    let more = r#"{"source":"bed-1","patient":"THIRD"}"#;
    assert_eq!(call("POST", "/api/v1/streams", more).status, 202);
    streams_until(&|streams| streams[2]["label"] == "THIRD");
}

#[test]
fn labels_are_entered_and_corrected_and_stand_beside_the_answer() {
    let folder = tempfile::tempdir().unwrap();
    pipeline(folder.path(), 3, &scanner("bed-1", "P-1"), "");
    let run = Running::start(folder.path(), &[]);
    let json_body = ["Content-Type: application/json"];
    let post = |path: &str, body: &str| send(&run.address, "POST", path, &json_body, body);
    let first = |answer: &Answer| answer.json()["items"][0].clone();
    let patient = first(&run.wait_for("/api/v1/patients", |answer| {
        answer.status == 200 && first(answer)["clips"].as_u64() >= Some(3)
    }));
    let id = patient["id"].as_str().unwrap();
    assert_eq!(patient["fib4"], Value::Null);

    let labels = json!({
        "id": id, "day": "2024-05-06", "reason": "from the ward",
        "blood": { "age_years": 50, "ast_u_l": 40, "alt_u_l": 30, "platelets_10e9_l": 200 },
        "elastography": { "method": "transient", "kpa": 9.5 },
    });
    let entered = post("/api/v1/labels", &labels.to_string());
    assert_eq!(entered.status, 200, "{}", entered.body);
    assert_eq!(entered.json()["effects"], json!(["logged", "logged"]));
    let again = post("/api/v1/labels", &labels.to_string());
    assert_eq!(again.json()["effects"], json!(["unchanged", "unchanged"]));
    let path = format!("/api/v1/patients/{id}");
    let row = run
        .wait_for(&path, |answer| answer.json()["fib4"].is_f64())
        .json();
    // 50 x 40 / (200 x sqrt(30)) and 100 x (40 / 40) / 200
    assert_eq!(
        (&row["fib4"], &row["apri"], &row["swe_kpa"]),
        (&json!(1.826), &json!(0.5), &json!(9.5))
    );

    let right = json!({
        "id": id, "day": "2024-05-06", "reason": "slip of the pen",
        "blood": { "age_years": 50, "ast_u_l": 80, "alt_u_l": 30, "platelets_10e9_l": 200 },
    });
    let corrected = post("/api/v1/labels", &right.to_string());
    assert_eq!(corrected.json()["effects"], json!(["corrected"]));
    run.wait_for(&path, |answer| answer.json()["fib4"] == json!(3.651));
    let history = run.get(&format!("{path}/history")).json();
    let history = history.as_array().unwrap();
    let told: Vec<_> = history
        .iter()
        .map(|line| (line["kind"].as_str().unwrap(), line["withdrawn"] == true))
        .collect();
    assert_eq!(
        told,
        [
            ("blood", false),
            ("elastography", false),
            ("blood", true),
            ("blood", false)
        ]
    );
    assert_eq!(history[3]["reason"], "slip of the pen");

    let wrong = [
        json!({ "id": id, "stage": "F7" }),
        json!({ "id": id }),
        json!({ "stage": "F3" }),
        json!({ "id": id, "stage": "F3", "day": "2999-01-01" }),
        json!({ "id": id, "blood": { "age_years": -1, "ast_u_l": 1, "alt_u_l": 1, "platelets_10e9_l": 1 } }),
    ];
    for body in wrong {
        let refused = post("/api/v1/labels", &body.to_string());
        assert_eq!(refused.status, 400, "{body}: {}", refused.body);
    }
    let models = run.get("/api/v1/models").json();
    let hash = models[0]["hash"].as_str().unwrap();
    let activate = |hash: &str| post(&format!("/api/v1/models/{hash}/activate"), "").status;
    assert_eq!(activate(hash), 200);
    assert_eq!(activate(&"0".repeat(64)), 400);
}

#[test]
fn a_table_of_labels_is_taken_but_for_its_bad_rows_which_are_named_by_line() {
    let folder = tempfile::tempdir().unwrap();
    pipeline(folder.path(), 3, &scanner("bed-1", "P-1"), "");
    let run = Running::start(folder.path(), &[]);
    let post = |kind: &str, table: &str| {
        let kind = format!("Content-Type: {kind}");
        let path = "/api/v1/labels/table?reason=from%20the%20laboratory";
        send(&run.address, "POST", path, &[&kind], table)
    };
    let table = "patient_id,date,age_years,ast_u_l,alt_u_l,platelets_10e9_l,stage,ward\n\
                 P-1,2024-05-06,50,40,30,200,F3,A\n\
                 P-2,2024-05-06,50,40,30,-200,,A\n\
                 P-3,2999-01-01,,,,,F2,B\n\
                 P-4,2024-05-06,,,,,F7,B\n";
    let taken = post("text/csv; charset=utf-8", table);
    assert_eq!(taken.status, 200, "{}", taken.body);
    let report = taken.json();
    let bad = report["bad_rows"].as_array().unwrap();
    let lines: Vec<_> = bad
        .iter()
        .map(|row| row["line"].as_u64().unwrap())
        .collect();
    assert_eq!(lines, [3, 4, 5], "{report}");
    let told = |row: usize| (&bad[row]["code"], &bad[row]["place"]);
    assert_eq!(told(0), (&json!("impossible"), &json!("platelets")));
    assert_eq!(told(1), (&json!("future"), &json!("date")));
    assert_eq!(told(2), (&json!("stage"), &json!("stage")));
    assert_eq!(
        (
            &report["rows_taken"],
            &report["values_entered"],
            &report["columns_not_read"]
        ),
        (&json!(1), &json!(2), &json!(["ward"]))
    );
    let again = post("text/csv", table).json();
    assert_eq!(
        (&again["values_entered"], &again["values_unchanged"]),
        (&json!(0), &json!(2))
    );
    // Through the graph to the patient's row.
    run.wait_for("/api/v1/patients", |answer| {
        answer.status == 200 && answer.json()["items"][0]["fib4"] == json!(1.826)
    });

    assert_eq!(post("text/plain", table).status, 415);
    assert_eq!(post("text/csv", "name,stage\nP,F2\n").status, 400);
    let long = "x".repeat(5 << 20);
    assert_eq!(post("text/csv", &long).status, 413);
}

#[test]
fn records_are_merged_and_recordings_bound_by_the_api_and_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let sources = scanner("bed-1", "P-1") + &scanner("bed-2", "P-2");
    pipeline(folder.path(), 3, &sources, "");
    let run = Running::start(folder.path(), &[]);
    let json_body = ["Content-Type: application/json"];
    let post =
        |path: &str, body: &Value| send(&run.address, "POST", path, &json_body, &body.to_string());
    let total = |expected: u64| {
        let found = run.wait_for("/api/v1/patients", |answer| {
            answer.status == 200 && answer.json()["total"] == expected
        });
        found.json()["items"].clone()
    };
    let patients = total(2);
    let [one, other] = [0, 1].map(|row: usize| patients[row]["id"].as_str().unwrap());
    let merge = json!({ "id": one, "into_id": other, "reason": "two records of one person" });
    let merged = post("/api/v1/merges", &merge);
    assert_eq!(
        merged.json()["effects"],
        json!(["logged"]),
        "{}",
        merged.body
    );
    assert_eq!(total(1)[0]["id"], other);
    let path = format!("/api/v1/patients/{other}/history");
    let told = run.get(&path).json();
    assert_eq!(
        (&told[0]["kind"], &told[0]["value"]["from_id"]),
        (&json!("merge"), &json!(one))
    );
    assert!(
        !told.to_string().contains("P-1"),
        "nobody has logged in: {told}"
    );
    // Behind the answer are the clips of both, and behind the record none.
    let clips = |id: &str| {
        let path = format!("/api/v1/patients/{id}/clips?limit=1000");
        run.get(&path).json()
    };
    let both = clips(other);
    for source in ["bed-1", "bed-2"] {
        let mut items = both["items"].as_array().unwrap().iter();
        assert!(items.any(|clip| clip["source"] == source), "{source}");
    }
    assert_eq!(clips(one)["total"], 0);
    // The record's own answer is gone, and by what, is told.
    let path = format!("/api/v1/patients/{one}/answers");
    let gone = run.get(&path).json();
    assert_eq!(gone[0]["withdrawn"], true, "{gone}");
    assert_eq!(gone[0]["cause"], "facts", "{gone}");
    assert_eq!(gone[gone.as_array().unwrap().len() - 1]["withdrawn"], false);
    // The other way round would never end.
    let cycle = post("/api/v1/merges", &json!({ "id": other, "into_id": one }));
    assert_eq!(cycle.status, 400, "{}", cycle.body);
    let back = json!({ "id": one, "into_id": other, "withdraw": true });
    assert_eq!(post("/api/v1/merges", &back).status, 200);
    total(2);
    let again = run.get(&path).json();
    let mut newer = again.as_array().unwrap().iter();
    let newer = newer.any(|row| {
        row["number"].as_u64() > gone[0]["number"].as_u64()
            && row["withdrawn"] == false
            && row["cause"] == "facts"
    });
    assert!(newer, "{again}");
    assert_eq!(
        post("/api/v1/merges", &back).status,
        400,
        "there is none any more"
    );

    let clips = run
        .get(&format!("/api/v1/patients/{one}/clips?limit=1"))
        .json();
    let content = clips["items"][0]["content"].as_str().unwrap();
    let exam = json!({ "content": content, "patient": "P-3", "reason": "wrong bed" });
    let bound = post("/api/v1/exams", &exam);
    assert_eq!(bound.json()["effects"], json!(["logged"]), "{}", bound.body);
    run.wait_for("/api/v1/patients", |answer| {
        let items = answer.json()["items"].clone();
        let mut ids = items.as_array().unwrap().iter().map(|it| it["id"].clone());
        ids.len() == 2 && ids.all(|id| id != one)
    });
    for (body, status) in [
        (json!({ "content": "00000000", "patient": "P-3" }), 404),
        (json!({ "content": "%", "patient": "P-3" }), 400),
        (
            json!({ "content": content, "patient": "P-3", "from": 9, "until": 9 }),
            400,
        ),
        (json!({ "content": content }), 400),
    ] {
        let refused = post("/api/v1/exams", &body);
        assert_eq!(refused.status, status, "{body}: {}", refused.body);
    }
}
