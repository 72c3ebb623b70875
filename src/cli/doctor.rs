//! `hepaflow doctor`: what a run needs of this machine, and what to do where it is
//! not there.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use clap::Args;
use gstreamer as gst;
use serde::Serialize;

use super::results::print;
use super::{BadInput, side_by_side};
use crate::config::{Pipeline, SourceKind, StorePlace};
use crate::engine::devices::{self, Cuda};
use crate::serve::tokens::Tokens;
use crate::store::Store;

/// Checks this machine, and says what to do about what is missing.
///
/// GStreamer with the elements that recordings and scanners need, devices, and
/// with a pipeline file its model, its sources, its ports, the disk and the
/// results file. Changes nothing. Ends with 2 if a run would not work.
#[derive(Args)]
pub(super) struct DoctorArgs {
    /// The pipeline file that shall run here.
    #[arg(value_name = "PIPELINE.toml")]
    pipeline: Option<PathBuf>,
    /// Print JSON: an array with one object a finding.
    #[arg(long)]
    json: bool,
}

/// Elements, what they are for, and the Debian package that has them.
const ELEMENTS: [(&str, &str, &str); 10] = [
    (
        "appsink",
        "pictures into this program",
        "gstreamer1.0-plugins-base",
    ),
    (
        "videoconvert",
        "pictures of every kind",
        "gstreamer1.0-plugins-base",
    ),
    ("qtdemux", "MP4", "gstreamer1.0-plugins-good"),
    ("avidemux", "AVI", "gstreamer1.0-plugins-good"),
    ("matroskademux", "MKV", "gstreamer1.0-plugins-good"),
    ("rtspsrc", "RTSP scanners", "gstreamer1.0-plugins-good"),
    ("v4l2src", "capture cards", "gstreamer1.0-plugins-good"),
    ("h264parse", "H.264", "gstreamer1.0-plugins-bad"),
    ("avdec_h264", "H.264", "gstreamer1.0-libav"),
    ("avdec_h265", "HEVC", "gstreamer1.0-libav"),
];

/// Less room than this is too little for a day of results.
const LITTLE_ROOM: u64 = 1 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Health {
    Good,
    Note,
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    health: Health,
    subject: String,
    finding: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, health: Health, subject: &str, finding: impl Into<String>) {
        self.0.push(Finding {
            health,
            subject: subject.to_owned(),
            finding: finding.into(),
        });
    }
}

pub(super) fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let mut findings = Findings::default();
    gstreamer(&mut findings);
    cards(&mut findings);
    if let Some(file) = &args.pipeline {
        pipeline(&mut findings, file);
    }
    let findings = findings.0;
    let bad = findings
        .iter()
        .filter(|it| it.health == Health::Bad)
        .count();
    if args.json {
        print(&(serde_json::to_string_pretty(&findings)? + "\n"))?;
    } else {
        let lines = findings.iter().map(|it| {
            let mark = match it.health {
                Health::Good => "good",
                Health::Note => "note",
                Health::Bad => "BAD ",
            };
            format!("{mark}  {:<10} {}\n", it.subject, it.finding)
        });
        print(&lines.collect::<String>())?;
    }
    if bad == 0 {
        return Ok(());
    }
    let what = if bad == 1 {
        "thing keeps"
    } else {
        "things keep"
    };
    Err(BadInput::new(anyhow::anyhow!("{bad} {what} a run from working here")).into())
}

fn gstreamer(findings: &mut Findings) {
    if let Err(error) = gst::init() {
        let advice = format!("{error}; scripts/install-dependencies.sh installs GStreamer");
        findings.add(Health::Bad, "gstreamer", advice);
        return;
    }
    findings.add(Health::Good, "gstreamer", gst::version_string());
    for (element, purpose, package) in ELEMENTS {
        if gst::ElementFactory::find(element).is_none() {
            // Only the first two are needed for everything.
            let needed = matches!(element, "appsink" | "videoconvert");
            let health = if needed { Health::Bad } else { Health::Note };
            let text = format!("{element} is missing, for {purpose}: install {package}");
            findings.add(health, "gstreamer", text);
        }
    }
}

fn cards(findings: &mut Findings) {
    let devices = devices::list();
    let cpu = format!(
        "{} threads, {}",
        devices.cpu.threads,
        devices.cpu.features.join(" ")
    );
    findings.add(Health::Good, "cpu", cpu);
    match devices.cuda {
        Cuda::Unavailable { reason } => {
            findings.add(Health::Note, "card", format!("none: {reason}"));
        }
        Cuda::Available { cards } => {
            for card in cards {
                let gibibytes = card.memory_bytes as f64 / f64::from(1 << 30);
                findings.add(
                    Health::Good,
                    "card",
                    format!("{}, {gibibytes:.0} GiB", card.name),
                );
            }
        }
    }
}

fn pipeline(findings: &mut Findings, file: &Path) {
    let pipeline = match Pipeline::load(file) {
        Ok(pipeline) => pipeline,
        Err(error) => return findings.add(Health::Bad, "pipeline", error.to_string()),
    };
    match pipeline.missing_files() {
        Ok(()) => findings.add(
            Health::Good,
            "pipeline",
            format!("{}: no mistakes", file.display()),
        ),
        Err(error) => findings.add(Health::Bad, "pipeline", error.to_string()),
    }
    match side_by_side::open(&pipeline) {
        Ok((model, beside)) => {
            for model in std::iter::once(&model).chain(&beside) {
                findings.add(Health::Good, "model", model.description());
            }
        }
        Err(error) => findings.add(Health::Bad, "model", format!("{error:#}")),
    }
    store(findings, &pipeline.store);
    port(findings, "dashboard", pipeline.serve.listen);
    if let Some(tokens) = &pipeline.serve.tokens
        && let Err(error) = Tokens::load(tokens)
    {
        findings.add(Health::Bad, "dashboard", error.to_string());
    }
    for source in &pipeline.sources {
        if let SourceKind::Listener(listener) = &source.kind {
            port(findings, &source.name, listener.listen);
        }
    }
}

fn store(findings: &mut Findings, place: &StorePlace) {
    let file = match place {
        StorePlace::File(file) => file,
        StorePlace::Postgres(url) => {
            match Store::open_existing(place).and_then(|store| store.models()) {
                Ok(_) => findings.add(Health::Good, "results", format!("{url} answers")),
                Err(error) => findings.add(Health::Bad, "results", error.to_string()),
            }
            return;
        }
    };
    if file.exists() {
        match Store::open_existing(place).and_then(|store| store.models()) {
            Ok(_) => findings.add(
                Health::Good,
                "results",
                format!("{} can be read", file.display()),
            ),
            Err(error) => findings.add(Health::Bad, "results", error.to_string()),
        }
    } else {
        findings.add(
            Health::Note,
            "results",
            format!("{} will be made", file.display()),
        );
    }
    let folder = file.ancestors().skip(1).find(|folder| folder.is_dir());
    let folder = folder.unwrap_or(Path::new("."));
    if let Err(error) = tempfile::tempfile_in(folder) {
        let text = format!("cannot write to {}: {error}", folder.display());
        findings.add(Health::Bad, "disk", text);
        return;
    }
    let Ok(room) = rustix::fs::statvfs(folder) else {
        return;
    };
    let bytes = room.f_bavail.saturating_mul(room.f_frsize);
    let text = format!(
        "{:.1} GiB left at {}",
        bytes as f64 / f64::from(1 << 30),
        folder.display()
    );
    let health = if bytes < LITTLE_ROOM {
        Health::Bad
    } else {
        Health::Good
    };
    findings.add(health, "disk", text);
}

fn port(findings: &mut Findings, subject: &str, address: SocketAddr) {
    match TcpListener::bind(address) {
        Ok(_) => findings.add(Health::Good, subject, format!("{address} is free")),
        Err(error) => {
            let text = format!("{address}: {error}; is a run going on, or choose another address");
            findings.add(Health::Bad, subject, text);
        }
    }
}
