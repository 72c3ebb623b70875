use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::listener::{ListenerSection, read_listener};
use super::section::{FrameRate, Located, Section};
use crate::domain::{Crop, PatientId};

/// `[[source]]`
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// Name in logs and metrics, unique in the file.
    pub name: String,
    /// What to read.
    pub kind: SourceKind,
    /// Whose it is; DICOM files and cohorts may say so themselves.
    pub patient: Option<PatientId>,
    /// Keep the source's own pace and drop the oldest frame when late.
    pub live: bool,
    /// Read it from the start; a source that is not open waits to be opened by
    /// request, or by a change of the pipeline file.
    pub open: bool,
    /// Not before this time; it waits until then.
    pub from: Option<SystemTime>,
    /// No longer than until this time: then it is closed, and waits.
    pub until: Option<SystemTime>,
    /// The part of the picture to look at.
    pub crop: Option<Crop>,
    /// From one frame to the next, of recordings that do not say it themselves:
    /// folders of pictures, cine without times.
    pub frame_interval: Option<Duration>,
    /// In a group of processes, the one that reads it.
    pub process: Option<usize>,
    /// Where in the pipeline file the table stands.
    pub span: std::ops::Range<usize>,
}

impl SourceConfig {
    /// Whether the clock says when it is read.
    pub fn is_timed(&self) -> bool {
        self.from.is_some() || self.until.is_some()
    }

    /// Whether it is to be read at `now`.
    pub fn is_open_at(&self, now: SystemTime) -> bool {
        self.open
            && self.from.is_none_or(|from| from <= now)
            && self.until.is_none_or(|until| now < until)
    }
}

/// What a source reads.
#[derive(Clone, Debug)]
pub enum SourceKind {
    /// One video or DICOM file, a folder of numbered pictures, or a glob of them.
    File(Located<PathBuf>),
    /// A cohort directory: `videos.csv` names patients and files.
    Cohort(Located<PathBuf>),
    /// A GStreamer launch line whose last element gives video.
    Launch(String),
    /// Any number of recordings, good, bad and foreign: a folder and all below
    /// it, a glob, or a CSV file with the columns `patient_id` and `path`.
    Archive {
        /// The folder, glob or CSV file.
        path: Located<PathBuf>,
        /// Where the report of every file is written.
        report: PathBuf,
    },
    /// A DICOM listener to which scanners and archives push.
    Listener(ListenerSection),
}

const SOURCE_KINDS: [&str; 5] = ["file", "cohort", "archive", "launch", "listener"];

pub(super) fn read_source(
    base: &Path,
    section: Section<'_>,
    names: &mut HashSet<String>,
) -> Option<SourceConfig> {
    let name = section.required::<String>("name");
    if let Some(name) = &name
        && !names.insert(name.value.clone())
    {
        section.mistake(
            "name",
            name.span.clone(),
            "another source has this name already",
            "give each source a name of its own: metrics are told apart by it",
        );
    }
    let kind = if section.has("kind") {
        section.one_of("kind", &SOURCE_KINDS)
    } else {
        Some("file")
    };
    let located = |path: Located<String>| Located {
        value: base.join(path.value),
        span: path.span,
    };
    let kind = match kind {
        Some("file") => section
            .required("path")
            .map(|path| SourceKind::File(located(path))),
        Some("cohort") => section
            .required("path")
            .map(|path| SourceKind::Cohort(located(path))),
        Some("archive") => {
            let report = section.or("report", "archive-report.csv".to_owned());
            section.required("path").map(|path| SourceKind::Archive {
                path: located(path),
                report: base.join(report),
            })
        }
        Some("listener") => read_listener(base, &section).map(SourceKind::Listener),
        Some(_) => section
            .required("line")
            .map(|line| SourceKind::Launch(line.value)),
        // The kind is wrong, so which keys belong to it is not known either.
        None => {
            section.allow(&[
                "path", "line", "report", "listen", "ae_title", "allow", "folder",
            ]);
            section.allow(&["associations", "largest_mib", "timeout"]);
            section.allow(&["certificate", "key", "clients"]);
            None
        }
    };
    let patient = section.optional::<String>("patient");
    let live = match &kind {
        // Recordings, read as fast as they can be.
        Some(SourceKind::Listener(_) | SourceKind::Archive { .. }) => false,
        _ => section.or("live", false),
    };
    let (open, from, until) = match &kind {
        Some(SourceKind::Launch(_) | SourceKind::File(_)) | None => (
            section.or("open", true),
            section.optional("from"),
            section.optional::<SystemTime>("until"),
        ),
        Some(_) => (true, None, None),
    };
    if let (Some(from), Some(until)) = (&from, &until)
        && from.value >= until.value
    {
        section.mistake(
            "until",
            until.span.clone(),
            "this is no later than `from`",
            "an exam ends after it begins",
        );
    }
    let crop = section.table("crop").and_then(|crop| {
        let (x, y) = (crop.required("x"), crop.required("y"));
        let (width, height) = (crop.required("width"), crop.required("height"));
        crop.finish();
        let crop = Crop {
            x: x?.value,
            y: y?.value,
            width: width?.value,
            height: height?.value,
        };
        if crop.width == 0 || crop.height == 0 {
            section.mistake(
                "crop",
                section.span(),
                "the crop is empty",
                "width and height are at least 1",
            );
        }
        Some(crop)
    });
    let frame_interval = match &kind {
        // It has times of its own, or sets a rate itself.
        Some(SourceKind::Launch(_)) => None,
        _ => section.optional::<FrameRate>("frames_per_second"),
    };
    let process = section.optional::<u32>("process");
    let span = section.span();
    match (&kind, &patient) {
        (Some(SourceKind::Launch(_)), None) if open => section.mistake(
            "patient",
            section.span(),
            "a launch line does not say whose picture it gives",
            "add `patient = \"...\"`; or `open = false`, until it is known",
        ),
        (Some(SourceKind::Listener(_)), Some(patient)) => section.mistake(
            "patient",
            patient.span.clone(),
            "what is pushed here names its patients itself",
            "leave this key out; DICOM has the Patient ID (0010,0020)",
        ),
        (Some(SourceKind::Cohort(_)), Some(patient)) => section.mistake(
            "patient",
            patient.span.clone(),
            "a cohort names its patients itself",
            "leave this key out; videos.csv has the column patient_id",
        ),
        _ => {}
    }
    section.finish();
    Some(SourceConfig {
        name: name?.value,
        kind: kind?,
        patient: patient.map(|patient| PatientId::new(patient.value)),
        live,
        open,
        from: from.map(|from| from.value),
        until: until.map(|until| until.value),
        crop,
        frame_interval: frame_interval.map(|rate| rate.value.0),
        process: process.map(|process| process.value as usize),
        span,
    })
}
