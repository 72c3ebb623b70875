//! The DICOM listener against DCMTK: `echoscu` and `storescu`.
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "listener/pipeline.rs"]
mod pipeline;
#[path = "listener/pushes.rs"]
mod pushes;
#[path = "support/recordings.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod recordings;
#[path = "listener/tls.rs"]
mod tls;
#[path = "support/wait.rs"]
mod wait;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hepaflow::ingest::listener::{Listener, ListenerConfig};
use hepaflow::metrics::{InstanceOutcome, ListenerMetrics, Metrics};
use tempfile::TempDir;
use wait::wait_until;

/// Longer than anything here takes, so that a hang fails instead of hanging.
const DEADLINE: Duration = Duration::from_secs(40);

/// A listener and what it was told.
struct Ward {
    listener: Option<Listener>,
    address: SocketAddr,
    folder: TempDir,
    stored: Arc<Mutex<Vec<PathBuf>>>,
    metrics: ListenerMetrics,
}

fn config(folder: &Path) -> ListenerConfig {
    ListenerConfig {
        name: "ward".into(),
        address: "127.0.0.1:0".parse().unwrap(),
        ae_title: "HEPAFLOW".into(),
        allow: vec!["SCANNER".into()],
        folder: folder.join("incoming"),
        associations: 8,
        largest: 64 << 20,
        timeout: Duration::from_secs(10),
        tls: None,
    }
}

impl Ward {
    fn open(change: impl FnOnce(&mut ListenerConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        change(&mut config);
        let metrics = Metrics::new().unwrap().listener("ward");
        let stored = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&stored);
        let on_stored = Arc::new(move |path| told.lock().unwrap().push(path));
        let (listener, left) = Listener::start(&config, on_stored, metrics.clone()).unwrap();
        assert!(left.is_empty());
        Self {
            address: listener.address(),
            listener: Some(listener),
            folder,
            stored,
            metrics,
        }
    }

    /// What lies in the folder, by name.
    fn kept(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("incoming")).unwrap();
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        let mut names: Vec<_> = entries.map(|entry| name(entry.unwrap())).collect();
        names.sort_unstable();
        names
    }

    fn count(&self, outcome: InstanceOutcome) -> u64 {
        self.metrics.instances(outcome).get()
    }
}

fn peer(tool: &str, options: &str, address: SocketAddr, files: &[PathBuf]) -> Output {
    Command::new(tool)
        .args(options.split_whitespace())
        .args([address.ip().to_string(), address.port().to_string()])
        .args(files)
        .output()
        .expect("Debian's dcmtk is needed")
}

const KNOWN: &str = "-aet SCANNER -aec HEPAFLOW";

fn modify(path: &Path, changes: &[&str]) {
    let mut command = Command::new("dcmodify");
    command.args(["--no-backup", "-nb", "-ie"]);
    for change in changes {
        command.args(["-i", change]);
    }
    let output = command.arg(path).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn an_echo_is_answered_to_those_who_may_and_to_nobody_else() {
    let ward = Ward::open(|_| {});
    assert!(peer("echoscu", KNOWN, ward.address, &[]).status.success());
    for stranger in ["-aet STRANGER -aec HEPAFLOW", "-aet SCANNER -aec OTHER"] {
        assert!(
            !peer("echoscu", stranger, ward.address, &[])
                .status
                .success()
        );
    }
    wait_until("the end of both", DEADLINE, || {
        ward.metrics.broken.get() == 2
    });
    wait_until("all to leave", DEADLINE, || {
        ward.metrics.associations.get() == 0
    });
    let open = Ward::open(|config| config.allow.clear());
    assert!(
        peer("echoscu", "-aet ANYONE -aec HEPAFLOW", open.address, &[])
            .status
            .success()
    );
}

#[test]
fn whoever_is_silent_talks_rubbish_or_comes_in_a_crowd_does_no_harm() {
    let ward = Ward::open(|config| {
        config.timeout = Duration::from_millis(700);
        config.associations = 3;
    });
    let silent: Vec<_> = (0..3)
        .map(|_| TcpStream::connect(ward.address).unwrap())
        .collect();
    wait_until("three", DEADLINE, || ward.metrics.associations.get() == 3);
    let mut fourth = TcpStream::connect(ward.address).unwrap();
    assert_eq!(fourth.read(&mut [0; 1]).unwrap_or(0), 0, "turned away");
    assert_eq!(ward.metrics.turned_away.get(), 1);
    wait_until("the silent to be cut off", DEADLINE, || {
        ward.metrics.associations.get() == 0
    });
    drop(silent);
    let broken = ward.metrics.broken.get();
    for rubbish in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0x01, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 1],
        &[0x04, 0, 0, 0, 0, 6, 0, 0, 0, 2, 1, 3],
        &[0x01, 0, 0, 0, 0, 4, 0, 1, 0, 0],
        &[0xAA; 400],
    ] {
        let mut socket = TcpStream::connect(ward.address).unwrap();
        socket.write_all(rubbish).unwrap();
        socket.read_to_end(&mut Vec::new()).ok();
    }
    wait_until("all to be noted", DEADLINE, || {
        ward.metrics.broken.get() == broken + 5
    });
    assert!(peer("echoscu", KNOWN, ward.address, &[]).status.success());
}

#[test]
fn a_listener_that_is_dropped_frees_its_port_and_cuts_off_who_is_there() {
    let mut ward = Ward::open(|_| {});
    let mut held = TcpStream::connect(ward.address).unwrap();
    wait_until("one", DEADLINE, || ward.metrics.associations.get() == 1);
    let begin = Instant::now();
    ward.listener = None;
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(held.read(&mut [0; 1]).unwrap_or(0), 0);
    drop(TcpListener::bind(ward.address).unwrap());
}
