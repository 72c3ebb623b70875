use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use hepaflow::config::{SinkConfig, SinkKind, StorePlace};
use hepaflow::domain::{
    ClipKey, ClipPrediction, ClipSpan, ContentHash, EventTime, Instance, PatientId, StudyUid,
};
use hepaflow::metrics::Metrics;
use hepaflow::serve::outbox::Outbox;
use hepaflow::store::{Batch, Store};

use super::sinks::{PATIENCE, change, model, open};
use super::wait::wait_until;

fn pacs(port: u16) -> Vec<SinkConfig> {
    let kind = SinkKind::Dicom {
        address: format!("127.0.0.1:{port}"),
        title: "ARCHIVE".to_owned(),
        calling: "HEPAFLOW".to_owned(),
        key_frames: 0,
        settle: Duration::ZERO,
        timeout: Duration::from_secs(5),
        authorities: None,
        own: None,
    };
    vec![SinkConfig {
        name: "pacs".to_owned(),
        kind,
        backlog: 0,
        retry_pause: Duration::from_millis(20),
        park_after: 3,
    }]
}

/// A clip of a DICOM recording for each of these patients.
fn recorded(store: &mut Store, patients: &[u64]) {
    let mut batch = Batch::default();
    for &number in patients {
        let patient = format!("P{number}");
        let content = ContentHash::of(patient.as_bytes());
        let instance = Instance {
            class: "1.2.840.10008.5.1.4.1.1.3.1".to_owned(),
            uid: format!("2.25.{number}1"),
            series: format!("2.25.{number}2"),
            study: StudyUid::new(format!("2.25.{number}3")),
            frames: 16,
            file: "nowhere.dcm".into(),
            repeated: vec![(0x0010, 0x0020, patient.clone())],
        };
        batch.instances.push((content, Arc::new(instance)));
        batch.clips.push(ClipPrediction {
            key: ClipKey {
                content,
                first_frame: 0,
                model: model(),
            },
            span: ClipSpan {
                first_frame: 0,
                last_frame: 8,
                begin: EventTime::from_nanos(0),
                end: EventTime::from_nanos(8),
                gaps_before: 0,
                weight: ClipSpan::FULL_WEIGHT,
            },
            patient: PatientId::new(patient),
            study: None,
            source: "bed".to_owned(),
            probabilities: Vec::new(),
        });
    }
    store.commit(&batch).unwrap();
}

/// How many reports were filed of each patient.
fn reports(store: &Store) -> [Option<u32>; 3] {
    ["P0", "P1", "P2"].map(|patient| {
        let filed = store.filed("pacs", &PatientId::new(patient)).unwrap();
        filed.map(|filed| filed.number)
    })
}

/// An archive that chooses; ended when dropped.
struct Archive(Child);

impl Archive {
    fn start(folder: &Path, port: u16) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join("tests/data/cache/python");
        let archive = Command::new("python3")
            .arg(root.join("tests/support/choosy_archive.py"))
            .arg(port.to_string())
            .arg(folder.join("refused"))
            .env("PYTHONPATH", python)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .spawn();
        Self(archive.expect("python3 is needed"))
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn refuse(folder: &Path, patients: &str) {
    fs::write(folder.join("refused"), patients).unwrap();
}

#[test]
fn an_archive_that_refuses_one_patients_report_for_ever_gets_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let place: StorePlace = folder.join("r.sqlite").into();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let configs = pacs(port);
    let metrics = Metrics::new().unwrap();
    let pacs = metrics.sink("pacs");
    let mut store = open(&place, &configs);
    // Of P1 there is no DICOM recording: nothing is filed, and that says nothing of
    // the archive.
    recorded(&mut store, &[0, 2]);
    change(&mut store, 1);
    let outbox = Outbox::start(&place, &configs, &metrics, None).unwrap();
    wait_until("many failures", PATIENCE, || pacs.failures.get() > 8);
    assert_eq!(store.parked().unwrap(), [], "the archive is down");

    refuse(folder, "P0");
    let archive = Archive::start(folder, port);
    wait_until("P0's to be parked", PATIENCE, || pacs.parked.get() == 1);
    wait_until("the others", PATIENCE, || {
        store.backlog("pacs").unwrap() == 0
    });
    let parked = store.parked().unwrap();
    assert_eq!(parked[0].outgoing.change.patient().expose(), "P0");
    assert!(parked[0].refusal.contains("C000H"), "{}", parked[0].refusal);
    assert_eq!(reports(&store), [None, None, Some(1)]);

    // A newer answer takes the place of the parked one, and is taken.
    refuse(folder, "");
    change(&mut store, 2);
    wait_until("nothing to wait", PATIENCE, || {
        store.backlog("pacs").unwrap() == 0
    });
    assert_eq!(reports(&store), [Some(1), None, Some(2)]);
    assert_eq!(store.parked().unwrap(), []);
    assert_eq!(outbox.finish(), []);
    drop(archive);
}
