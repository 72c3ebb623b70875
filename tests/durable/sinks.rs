use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use hepaflow::config::{HiddenUrl, Located, SinkConfig, SinkKind, StorePlace};
use hepaflow::domain::{ModelHash, PatientId, PatientResult, Probability};
use hepaflow::metrics::Metrics;
use hepaflow::serve::outbox::Outbox;
use hepaflow::store::{Batch, PatientChange, Store, StoredModel};
use serde_json::Value;

use super::postgres_server::Server;
use super::receiver::{Mood, Receiver, SECRET};
use super::wait::wait_until;

fn configs(folder: &Path, url: &str) -> Vec<SinkConfig> {
    let secret_file = folder.join("secret");
    fs::write(&secret_file, format!("{SECRET}\n")).unwrap();
    let sink = |name: &str, kind| SinkConfig {
        name: name.to_owned(),
        kind,
        backlog: 500,
        retry_pause: Duration::from_millis(300),
        park_after: 50,
    };
    vec![
        sink(
            "his",
            SinkKind::Webhook {
                url: HiddenUrl(url.to_owned()),
                secret_file: Located {
                    value: secret_file,
                    span: 0..0,
                },
                timeout: Duration::from_secs(1),
            },
        ),
        sink(
            "file",
            SinkKind::JsonLines {
                path: folder.join("changes.jsonl"),
            },
        ),
    ]
}

pub(crate) fn model() -> ModelHash {
    ModelHash::of(b"model")
}

pub(crate) fn open(place: &StorePlace, configs: &[SinkConfig]) -> Store {
    let mut store = Store::open(place).unwrap();
    store
        .register(&StoredModel {
            hash: model(),
            architecture: "fibro3d".to_owned(),
            classes: vec!["F0-F1".parse().unwrap(), "F2-F4".parse().unwrap()],
        })
        .unwrap();
    store.deliver_to(Outbox::sinks(configs));
    store
}

/// One more clip for each of three patients.
pub(crate) fn change(store: &mut Store, clips: u64) {
    let stands = |patient: u64| {
        PatientChange::Stands(PatientResult {
            patient: PatientId::new(format!("P{patient}")),
            model: model(),
            current: true,
            clips,
            left_out: 0,
            weight: 256,
            probabilities: [0.25, 0.75]
                .map(|p| Probability::from_f64(p).unwrap())
                .to_vec(),
            abstention: None,
        })
    };
    let patients = (0..3).map(stands).collect();
    store
        .commit(&Batch {
            patients,
            ..Batch::default()
        })
        .unwrap();
}

/// A sink that is well has taken everything by then.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Lines of the file sink.
pub(crate) fn lines(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("changes.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// First deliveries, in order: event, patient and clips.
pub(crate) fn first_deliveries(bodies: &[Value]) -> Vec<(String, String, u64)> {
    let mut seen = BTreeSet::new();
    bodies
        .iter()
        .filter(|body| seen.insert(body["event"].to_string()))
        .map(|body| {
            let word = |key: &str| body[key].as_str().unwrap().to_owned();
            (
                word("event"),
                word("patient"),
                body["clips"].as_u64().unwrap(),
            )
        })
        .collect()
}

fn a_sink_that_misbehaves(place: &StorePlace, folder: &Path) {
    let receiver = Receiver::start(|| Mood::Takes);
    let configs = configs(folder, &receiver.url);
    let metrics = Metrics::new().unwrap();
    let mut store = open(place, &configs);
    let outbox = Outbox::start(place, &configs, &metrics, None).unwrap();
    let mut clips = 0;
    for mood in [
        Mood::Takes,
        Mood::Fails,
        Mood::Hangs,
        Mood::Closes,
        Mood::ForgetsToAnswer,
    ] {
        receiver.set(mood);
        let failures = metrics.sink("his").failures.get();
        for _ in 0..5 {
            clips += 1;
            change(&mut store, clips);
        }
        if mood != Mood::Takes {
            wait_until("a failure", PATIENCE, || {
                metrics.sink("his").failures.get() > failures
            });
            // The other sink waits for nobody.
            wait_until("the file", PATIENCE, || store.backlog("file").unwrap() == 0);
            assert!(store.backlog("his").unwrap() > 0, "{mood:?}");
        }
        receiver.set(Mood::Takes);
        wait_until("the webhook", PATIENCE, || {
            store.backlog("his").unwrap() == 0
        });
    }
    // While it is down the run ends; the next one delivers.
    receiver.set(Mood::Fails);
    change(&mut store, clips + 1);
    assert_eq!(outbox.finish(), [("his".to_owned(), 3)]);
    receiver.set(Mood::Takes);
    let outbox = Outbox::start(place, &configs, &metrics, None).unwrap();
    assert_eq!(outbox.finish(), []);

    let taken = receiver.taken();
    let first = first_deliveries(&taken);
    assert_eq!(first.len(), 3 * (clips as usize + 1));
    assert_eq!(first, first_deliveries(&lines(folder)));
    for patient in ["P0", "P1", "P2"] {
        let of = first.iter().filter(|(_, whose, _)| whose == patient);
        assert!(of.map(|(.., clips)| *clips).eq(1..=clips + 1));
    }
    assert_eq!(taken[0]["kind"], "answer");
    assert_eq!(taken[0]["answer"], "F2-F4");
    assert_eq!(taken[0]["p_f2_or_more"], 0.75);
}

#[test]
fn a_sink_that_fails_hangs_or_closes_gets_everything_in_order_later() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("r.sqlite").into();
    a_sink_that_misbehaves(&place, folder.path());
}

#[test]
fn the_outbox_in_postgresql_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start();
    let place = server.database("results").parse().unwrap();
    a_sink_that_misbehaves(&place, folder.path());
}

fn a_change_that_is_refused(place: &StorePlace, folder: &Path) {
    let receiver = Receiver::start(|| Mood::Takes);
    let mut configs = configs(folder, &receiver.url);
    configs[0].retry_pause = Duration::from_millis(20);
    configs[0].park_after = 3;
    let metrics = Metrics::new().unwrap();
    let his = metrics.sink("his");
    let mut store = open(place, &configs);
    receiver.refuse(&["P0", "P1"]);
    change(&mut store, 1);
    let outbox = Outbox::start(place, &configs, &metrics, None).unwrap();
    wait_until("P0's to be parked", PATIENCE, || his.parked.get() == 1);
    let taken: Vec<_> = receiver
        .taken()
        .iter()
        .map(|body| body["patient"].clone())
        .collect();
    assert_eq!(taken, ["P2"]);
    // P1's is refused as well, but nobody waits behind it.
    assert_eq!(store.backlog("his").unwrap(), 1);
    change(&mut store, 2);
    wait_until("P1's to be parked", PATIENCE, || his.parked.get() == 2);
    for parked in store.parked().unwrap() {
        assert_eq!((parked.sink.as_str(), parked.outdated), ("his", false));
        assert!(parked.refusal.contains("422"), "{}", parked.refusal);
    }

    // A later answer of P1 is taken: the one that is parked is outdated.
    receiver.refuse(&["P0"]);
    wait_until("P0's second to be parked", PATIENCE, || {
        his.parked.get() == 3
    });
    wait_until("nothing to wait", PATIENCE, || {
        store.backlog("his").unwrap() == 0
    });
    let parked = store.parked().unwrap();
    let outdated: Vec<_> = parked.iter().filter(|parked| parked.outdated).collect();
    assert_eq!(outdated.len(), 1);
    assert_eq!(outdated[0].outgoing.change.patient().expose(), "P1");
    wait_until("the other sink", PATIENCE, || {
        store.backlog("file").unwrap() == 0
    });
    assert_eq!(store.waiting().unwrap(), [("his".to_owned(), 0, 3)]);

    // Mended, the others go in their old order, and the outdated one never.
    receiver.refuse(&[]);
    assert_eq!(store.unpark("his", Some("no such event")).unwrap(), 0);
    assert_eq!(store.unpark("his", None).unwrap(), 2);
    wait_until("both of P0", PATIENCE, || his.parked.get() == 1);
    wait_until("nothing to wait", PATIENCE, || {
        store.backlog("his").unwrap() == 0
    });
    let clips_of = |patient: &str| -> Vec<_> {
        let taken = receiver.taken().into_iter();
        let of = taken.filter(|body| body["patient"] == patient);
        of.map(|body| body["clips"].as_u64().unwrap()).collect()
    };
    assert_eq!(clips_of("P0"), [1, 2]);
    assert_eq!(clips_of("P1"), [2]);
    assert_eq!(store.discard("his", None).unwrap(), 1);
    assert_eq!(store.parked().unwrap(), []);
    assert_eq!(outbox.finish(), []);
}

#[test]
fn a_change_that_is_refused_for_ever_is_parked_and_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("r.sqlite").into();
    a_change_that_is_refused(&place, folder.path());
}

#[test]
fn so_it_is_in_postgresql() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start();
    let place = server.database("results").parse().unwrap();
    a_change_that_is_refused(&place, folder.path());
}

#[test]
fn a_sink_that_takes_nothing_parks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let place: StorePlace = folder.path().join("r.sqlite").into();
    let receiver = Receiver::start(|| Mood::Fails);
    let mut configs = configs(folder.path(), &receiver.url);
    configs[0].retry_pause = Duration::from_millis(5);
    configs[0].park_after = 2;
    let metrics = Metrics::new().unwrap();
    let mut store = open(&place, &configs);
    change(&mut store, 1);
    let outbox = Outbox::start(&place, &configs, &metrics, None).unwrap();
    wait_until("many failures", PATIENCE, || {
        metrics.sink("his").failures.get() > 20
    });
    assert_eq!(outbox.finish(), [("his".to_owned(), 3)]);
    assert_eq!(store.parked().unwrap(), []);
}

#[test]
fn a_long_backlog_keeps_each_patients_newest_answer() {
    let folder = tempfile::tempdir().unwrap();
    let place: StorePlace = folder.path().join("r.sqlite").into();
    let configs = configs(folder.path(), "http://127.0.0.1:1/");
    let mut store = open(&place, &configs);
    for clips in 1..300 {
        change(&mut store, clips);
    }
    let waiting = store.backlog("his").unwrap();
    assert!((4..=503).contains(&waiting), "{waiting}");
    let last = store.outgoing("his", 1000).unwrap().pop().unwrap();
    assert!(matches!(last.change, PatientChange::Stands(answer) if answer.clips == 299));
}

#[test]
fn an_answer_that_stays_the_same_is_not_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let place: StorePlace = folder.path().join("r.sqlite").into();
    let configs = configs(folder.path(), "http://127.0.0.1:1/");
    let mut store = open(&place, &configs);
    change(&mut store, 1);
    change(&mut store, 1);
    assert_eq!(store.backlog("his").unwrap(), 3);
    let gone = PatientChange::Withdrawn(PatientId::new("P1"), model());
    for _ in 0..2 {
        let patients = vec![gone.clone()];
        store
            .commit(&Batch {
                patients,
                ..Batch::default()
            })
            .unwrap();
    }
    assert_eq!(store.backlog("his").unwrap(), 4);
    assert_eq!(store.outgoing("his", 9).unwrap()[3].change, gone);
}

#[test]
fn a_secret_that_is_missing_or_short_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let place: StorePlace = folder.path().join("r.sqlite").into();
    let configs = configs(folder.path(), "http://127.0.0.1:1/");
    let metrics = Metrics::new().unwrap();
    fs::write(folder.path().join("secret"), "short").unwrap();
    for expected in ["16 bytes", "No such file"] {
        let error = Outbox::start(&place, &configs, &metrics, None)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`his`") && error.contains(expected),
            "{error}"
        );
        fs::remove_file(folder.path().join("secret")).ok();
    }
}
