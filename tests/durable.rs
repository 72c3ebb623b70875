//! What a run promises about power cuts, full disks and sinks that are down: the
//! real program and real stores, killed and starved on purpose.
//!
//! The kill test at its full size, at least 10,000 windows and 200 kills:
//!
//! ```text
//! HEPAFLOW_KILLS=200 cargo test --test durable -- --nocapture killed
//! ```
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "durable/archive.rs"]
mod archive;
#[path = "durable/disk.rs"]
mod disk;
#[path = "durable/faults.rs"]
mod faults;
#[path = "durable/kill.rs"]
mod kill;
#[path = "support/postgres.rs"]
#[allow(dead_code, reason = "other tests need the rest")]
mod postgres_server;
#[path = "durable/receiver.rs"]
mod receiver;
#[path = "support/recordings.rs"]
#[allow(dead_code, reason = "other tests need the rest")]
mod recordings;
#[path = "durable/sinks.rs"]
mod sinks;
#[path = "support/wait.rs"]
mod wait;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;

/// Frames of a window of the small model.
const LENGTH: u32 = 9;

fn small_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/fibro3d")
}

/// A small recording of `frames` pictures. Its length is what makes its bytes
/// its own.
fn recording(folder: &Path, frames: u32) -> PathBuf {
    let path = folder.join(format!("{frames}.avi"));
    recordings::gst_run(&format!(
        "videotestsrc pattern=ball num-buffers={frames} \
         ! video/x-raw,format=I420,width=64,height=48,framerate=25/1 \
         ! jpegenc ! avimux ! filesink location={}",
        path.display()
    ));
    path
}

/// Writes `p.toml`: every window of each recording, patients `P0`, `P1`, `P2`.
fn pipeline(folder: &Path, recordings: &[PathBuf], more: &str) {
    let mut text = format!(
        "[model]\npath = '{}'\nthreads = 1\n[window]\nstride = 1\n[ingest]\ncrop = 'header'\ngate = false\n[serve]\nlisten = '127.0.0.1:0'\n{more}\n",
        small_model().display()
    );
    for (number, path) in recordings.iter().enumerate() {
        text += &format!(
            "[[source]]\nname = 's{number}'\npath = '{}'\npatient = 'P{}'\n",
            path.display(),
            number % 3
        );
    }
    fs::write(folder.join("p.toml"), text).unwrap();
}

fn hepaflow(args: &[&str], folder: &Path) -> Output {
    Command::new(cargo_bin!("hepaflow"))
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap()
}

/// Runs the program where no file may grow beyond `kib`: a disk that is full.
fn starved(kib: u32, args: &str, folder: &Path) -> Output {
    let program = cargo_bin!("hepaflow");
    // The signal would kill the program before it can say anything.
    let script = format!(
        "trap '' XFSZ; ulimit -f {kib}; exec '{}' {args}",
        program.display()
    );
    Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run_to_the_end(folder: &Path) {
    let output = hepaflow(&["run", "p.toml"], folder);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

fn results(folder: &Path, what: &str) -> Vec<Value> {
    let output = hepaflow(&["results", what, "--pipeline", "p.toml", "--json"], folder);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn windows(frames: &[u32]) -> usize {
    frames
        .iter()
        .map(|frames| (frames + 1 - LENGTH) as usize)
        .sum()
}
