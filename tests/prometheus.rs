//! A real Prometheus, with the configuration and the rules of `deploy/`, beside a
//! run whose scanner stalls. Only its times are shortened.
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "support/served.rs"]
mod served;
#[path = "support/wait.rs"]
mod wait;

use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use wait::wait_for;

use serde_json::Value;
use served::Running;

const DEADLINE: Duration = Duration::from_mins(1);

/// A process that is killed when dropped.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Self {
        let spawned = command.stdout(Stdio::null()).spawn();
        Self(spawned.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A scanner that sends JPEG in RTP.
fn scanner(port: u16) -> Process {
    let line = format!(
        "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=64,height=48,framerate=25/1 \
         ! jpegenc ! rtpjpegpay ! udpsink host=127.0.0.1 port={port}"
    );
    let mut command = Command::new("gst-launch-1.0");
    command.arg("-q").args(line.split_whitespace());
    Process::start(&mut command)
}

fn hepaflow(folder: &Path, scanner: u16) -> Running {
    let sources = format!(
        "[ingest]\ncrop = 'header'\ngate = false\nstall_timeout = '1s'\nreconnect_pause = '1s'\n\
         [[source]]\nname = 'bed-1'\nkind = 'launch'\npatient = 'P'\nlive = true\n\
         line = 'udpsrc port={scanner} address=127.0.0.1 caps=application/x-rtp,media=video,\
         clock-rate=90000,encoding-name=JPEG,payload=26 ! rtpjpegdepay'\n"
    );
    served::pipeline(folder, 8, &sources, "");
    Running::start(folder, &[])
}

fn prometheus(folder: &Path, target: &str) -> (Process, String) {
    let replaced = |file: &str, from: &str, to: &str| {
        let text = fs::read_to_string(root("deploy/prometheus").join(file)).unwrap();
        assert!(text.contains(from), "{file}: {from}");
        text.replace(from, to)
    };
    let config = replaced("prometheus.yml", "127.0.0.1:9464", target);
    let config = config.replace("interval: 5s", "interval: 1s");
    fs::write(folder.join("prometheus.yml"), config).unwrap();
    let rules = replaced("rules.yml", "for: 1m", "for: 2s");
    fs::write(folder.join("rules.yml"), rules).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap().to_string();
    drop(port);
    let process = Process::start(
        Command::new("prometheus")
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={address}"))
            .current_dir(folder)
            .stderr(File::create(folder.join("prometheus.log")).unwrap()),
    );
    (process, address)
}

fn ask(address: &str, path: &str) -> Option<Value> {
    let url = format!("http://{address}/api/v1/{path}");
    let output = Command::new("curl")
        .args(["--silent", "--fail", "--globoff", &url])
        .output()
        .unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
    Some(answer["data"].clone())
}

/// The state of an alert on bed-1, if there is one.
fn alert(address: &str, name: &str) -> Option<String> {
    let alerts = ask(address, "alerts")?;
    let mut alerts = alerts["alerts"].as_array()?.iter();
    let found = alerts.find(|alert| {
        let labels = &alert["labels"];
        labels["alertname"] == name && labels["source"] == "bed-1"
    })?;
    Some(found["state"].as_str()?.to_owned())
}

#[test]
fn a_real_prometheus_alerts_on_a_stream_that_stalls_and_is_content_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    drop(socket);
    let sends = scanner(port);
    let run = hepaflow(folder.path(), port);
    let (_prometheus, address) = prometheus(folder.path(), &run.address);

    // It scrapes, and sees pictures come in.
    let value = |query: &str| -> Option<f64> {
        let data = ask(&address, &format!("query?query={query}"))?;
        data["result"][0]["value"][1].as_str()?.parse().ok()
    };
    wait_for("a stream that is up", DEADLINE, || {
        (value("hepaflow_stream_up{source=\"bed-1\"}")? > 0.5).then_some(())
    });
    wait_for("frames", DEADLINE, || {
        (value("hepaflow_frames_received_total{source=\"bed-1\"}")? > 25.0).then_some(())
    });
    assert_eq!(alert(&address, "HepaflowStreamDown"), None);
    assert_eq!(value("count(up{job=\"hepaflow\"}==1)"), Some(1.0));

    drop(sends);
    wait_for("the alert", DEADLINE, || {
        let state = alert(&address, "HepaflowStreamDown")?;
        (state == "firing").then_some(())
    });
    let _sends = scanner(port);
    wait_for("the end of the alert", DEADLINE, || {
        alert(&address, "HepaflowStreamDown")
            .is_none()
            .then_some(())
    });
}
