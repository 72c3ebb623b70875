//! Which recordings and scanners there are, and which process of a group reads
//! which.
//!
//! Recordings with the same bytes are found before anything is read, and the
//! first in the order of the pipeline file stands for all of them: so the same
//! one is read whatever the number of processes. The rest are dealt out in turn.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use sha2::{Digest, Sha256};

use super::BadInput;
use super::archive::Report;
use crate::config::{Pipeline, SourceConfig, SourceKind};
use crate::dataflow::cluster::{Files, Hosts};
use crate::domain::{ContentHash, PatientId};
use crate::ingest::Media;

/// Something to read.
pub(super) struct Found {
    /// Which source of the pipeline file names it.
    pub(super) source: usize,
    pub(super) media: Media,
    pub(super) patient: Option<PatientId>,
    /// Of an archive: where its fate is told.
    pub(super) report: Option<Report>,
}

impl Found {
    fn file(&self) -> Option<&Path> {
        match &self.media {
            Media::File(path) => Some(path),
            Media::Launch(_) => None,
        }
    }
}

/// Bytes read at either end of a file to tell it from others of its length.
const SAMPLE: u64 = 4096;

/// Leaves out files whose bytes an earlier one has; says how many.
///
/// Only files of one length are looked into, and only those whose ends agree are
/// read as a whole. What cannot be read stays in: whoever opens it will say why.
pub(super) fn without_copies(found: Vec<Found>) -> (Vec<Found>, usize) {
    let suspects = |key: &dyn Fn(&Path) -> io::Result<(u64, ContentHash)>, among: Vec<usize>| {
        let mut groups: HashMap<_, Vec<usize>> = HashMap::new();
        for position in among {
            let file = found.get(position).and_then(Found::file);
            if let Some(Ok(key)) = file.map(key) {
                groups.entry(key).or_default().push(position);
            }
        }
        groups.into_values().filter(|group| group.len() > 1)
    };
    let length = |path: &Path| Ok((std::fs::metadata(path)?.len(), ContentHash::of(b"")));
    let copies: Vec<usize> = suspects(&length, (0..found.len()).collect())
        .flat_map(|group| suspects(&ends, group))
        .flat_map(|group| suspects(&whole, group))
        .flat_map(|group| group.into_iter().skip(1))
        .collect();
    let mut is_copy = vec![false; found.len()];
    for position in &copies {
        is_copy[*position] = true;
    }
    let kept = found
        .into_iter()
        .zip(is_copy)
        .filter_map(|(found, is_copy)| {
            if is_copy && let (Some(report), Some(path)) = (&found.report, found.file()) {
                report.copy(path);
            }
            (!is_copy).then_some(found)
        });
    (kept.collect(), copies.len())
}

/// A file's length, and a digest of how it begins and ends.
fn ends(path: &Path) -> io::Result<(u64, ContentHash)> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut digest = Sha256::new();
    for begin in [0, length.saturating_sub(SAMPLE)] {
        file.seek(SeekFrom::Start(begin))?;
        let mut bytes = Vec::new();
        file.by_ref().take(SAMPLE).read_to_end(&mut bytes)?;
        digest.update(&bytes);
    }
    Ok((length, ContentHash::from_digest(digest)))
}

fn whole(path: &Path) -> io::Result<(u64, ContentHash)> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let length = io::copy(&mut file, &mut digest)?;
    Ok((length, ContentHash::from_digest(digest)))
}

/// The list of recordings that all processes of a group must agree on; paths
/// below `base`, the pipeline file's folder, begin there.
pub(super) fn files(found: &[Found], base: Option<&Path>) -> Files {
    let mut digest = Sha256::new();
    let mut count = 0;
    for (source, path) in found.iter().filter_map(|it| Some((it.source, it.file()?))) {
        count += 1;
        let inside = base.and_then(|base| path.strip_prefix(base).ok());
        let path = inside.unwrap_or(path);
        digest.update((source as u64).to_le_bytes());
        digest.update(path.as_os_str().as_encoded_bytes());
        digest.update([0]);
    }
    Files {
        count,
        digest: ContentHash::from_digest(digest),
    }
}

/// Whether a source belongs to one process as a whole: there is one scanner, or
/// one port; or it is opened later, when nothing is dealt out any more.
fn is_whole(source: &SourceConfig) -> bool {
    source.live
        || !source.open
        || source.is_timed()
        || matches!(source.kind, SourceKind::Launch(_) | SourceKind::Listener(_))
}

/// The process that each source of the pipeline belongs to; `None` for one whose
/// recordings are dealt out. Without a word in the file, sources that belong to
/// one process are dealt out too, in the order of the file.
///
/// # Errors
/// If the file names a process that the group has not.
fn owners(pipeline: &Pipeline, hosts: &Hosts) -> Result<Vec<Option<usize>>, BadInput> {
    let processes = hosts.processes();
    let mut next = 0;
    pipeline
        .sources
        .iter()
        .map(|source| {
            let owner = match source.process {
                Some(process) if process >= processes => {
                    return Err(BadInput::new(anyhow!(
                        "source `{}` belongs to process {process}, and the last of {processes} \
                         is {}",
                        source.name,
                        processes - 1
                    )));
                }
                Some(process) => Some(process),
                None if is_whole(source) => {
                    next += 1;
                    Some((next - 1) % processes)
                }
                None => None,
            };
            if let Some(owner) = owner {
                tracing::info!("source `{}` belongs to {}", source.name, hosts.peer(owner));
            }
            Ok(owner)
        })
        .collect()
}

/// What process `hosts.index()` reads of what was `found`. The rest is left to
/// the others' reports.
fn mine(found: Vec<Found>, owners: &[Option<usize>], hosts: &Hosts) -> Vec<Found> {
    let mut next = 0;
    let mut owner_of = |found: &Found| {
        owners
            .get(found.source)
            .copied()
            .flatten()
            .unwrap_or_else(|| {
                next += 1;
                (next - 1) % hosts.processes()
            })
    };
    let mine = found.into_iter().filter(|found| {
        let is_mine = owner_of(found) == hosts.index();
        if !is_mine && let (Some(report), Some(path)) = (&found.report, found.file()) {
            report.leave(path);
        }
        is_mine
    });
    mine.collect()
}

/// What of a pipeline this process runs: all of it, or its part in a group.
pub(super) struct Part {
    /// The group, if there is one.
    pub(super) hosts: Option<Hosts>,
    /// By source.
    owners: Vec<Option<usize>>,
}

impl Part {
    /// # Errors
    /// If the file names a process that the group has not.
    pub(super) fn of(pipeline: &Pipeline, hosts: Option<Hosts>) -> Result<Self, BadInput> {
        let owners = match &hosts {
            Some(hosts) => owners(pipeline, hosts)?,
            None => vec![None; pipeline.sources.len()],
        };
        Ok(Self { hosts, owners })
    }

    /// Which process this is.
    pub(super) fn index(&self) -> usize {
        self.hosts.as_ref().map_or(0, Hosts::index)
    }

    /// Whether this process has a source that belongs to one as a whole.
    pub(super) fn has(&self, source: usize) -> bool {
        let owner = self.owners.get(source).copied().flatten();
        owner.is_none_or(|owner| owner == self.index())
    }

    /// Divides what was `found` into what all processes find alike, and what the clock
    /// has opened: the others may have looked before, or after.
    pub(super) fn by_the_clock(
        &self,
        pipeline: &Pipeline,
        found: Vec<Found>,
    ) -> (Vec<Found>, Vec<Found>) {
        let is_timed = |found: &Found| {
            let source = pipeline.sources.get(found.source);
            self.hosts.is_some() && source.is_some_and(SourceConfig::is_timed)
        };
        let (timed, lasting) = found.into_iter().partition(is_timed);
        (lasting, timed)
    }

    /// What this process reads of what was `found`.
    pub(super) fn mine(&self, found: Vec<Found>) -> Vec<Found> {
        match &self.hosts {
            Some(hosts) => mine(found, &self.owners, hosts),
            None => found,
        }
    }
}

/// Where process `index` writes its part of a report: the first one where the
/// pipeline file says, the others beside it.
pub(super) fn report_path(report: &Path, index: usize) -> PathBuf {
    if index == 0 {
        return report.to_owned();
    }
    let stem = report.file_stem().unwrap_or_default().to_string_lossy();
    let mut name = format!("{stem}-{index}");
    if let Some(extension) = report.extension() {
        name = format!("{name}.{}", extension.to_string_lossy());
    }
    report.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: usize, path: PathBuf) -> Found {
        Found {
            source,
            media: Media::File(path),
            patient: None,
            report: None,
        }
    }

    fn paths(found: &[Found]) -> Vec<String> {
        let names = found.iter().filter_map(Found::file).map(Path::file_name);
        names
            .map(|name| name.unwrap_or_default().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn of_files_with_the_same_bytes_the_first_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let long = vec![7; 3 * SAMPLE as usize];
        // As long, and with the same ends.
        let mut other_middle = long.clone();
        other_middle[long.len() / 2] = 8;
        let mut listed = Vec::new();
        for (name, bytes) in [
            ("a", &long),
            ("b", &other_middle),
            ("c", &long),
            ("d", &b"short".to_vec()),
            ("e", &b"shirt".to_vec()),
            ("f", &long),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            listed.push(found(0, path));
        }
        listed.push(found(0, folder.path().join("missing")));
        listed.push(found(0, folder.path().join("missing")));
        let (kept, copies) = without_copies(listed);
        assert_eq!(paths(&kept), ["a", "b", "d", "e", "missing", "missing"]);
        assert_eq!(copies, 2);
    }

    #[test]
    fn every_recording_belongs_to_exactly_one_process() {
        let text = "a:1\nb:1\nc:1\n";
        let mut seen = Vec::new();
        for index in 0..3 {
            let hosts = Hosts::parse(text, 3, index).unwrap();
            let listed = (0..10)
                .map(|n| found(n / 5, n.to_string().into()))
                .collect();
            // Of two sources, the second belongs to process 1.
            let mine = mine(listed, &[None, Some(1)], &hosts);
            seen.push(paths(&mine));
        }
        assert_eq!(seen[0], ["0", "3"]);
        assert_eq!(seen[1], ["1", "4", "5", "6", "7", "8", "9"]);
        assert_eq!(seen[2], ["2"]);
    }

    #[test]
    fn what_is_opened_later_belongs_to_one_process_and_is_not_dealt_out() {
        let source = |name: &str, more: &str| {
            format!("[[source]]\nname = '{name}'\npath = '{name}'\npatient = 'p'\n{more}\n")
        };
        let text = "[model]\npath = 'm'\n".to_owned()
            + &source("now", "")
            + &source("timed", "from = 2026-11-26T08:30:00Z")
            + &source("ending", "until = 2026-11-26T08:30:00Z")
            + &source("closed", "open = false")
            + &source("mine", "until = 2026-11-26T08:30:00Z\nprocess = 1");
        let pipeline = Pipeline::parse(Path::new("p.toml"), &text).unwrap();
        let all = || (0..5).map(|n| found(n, n.to_string().into())).collect();
        for index in 0..2 {
            let hosts = Hosts::parse("a:1\nb:1\n", 2, index).unwrap();
            let part = Part::of(&pipeline, Some(hosts)).unwrap();
            assert_eq!(part.owners, [None, Some(0), Some(1), Some(0), Some(1)]);
            let (lasting, timed) = part.by_the_clock(&pipeline, all());
            assert_eq!(paths(&lasting), ["0", "3"]);
            assert_eq!(paths(&timed), ["1", "2", "4"]);
        }
        // A process by itself has them all.
        let part = Part::of(&pipeline, None).unwrap();
        assert_eq!(part.by_the_clock(&pipeline, all()).0.len(), 5);
    }

    #[test]
    fn each_process_reports_into_a_file_of_its_own() {
        let path = |report: &str, index| report_path(Path::new(report), index);
        assert_eq!(path("d/report.csv", 0), Path::new("d/report.csv"));
        assert_eq!(path("d/report.csv", 2), Path::new("d/report-2.csv"));
        assert_eq!(path("report", 1), Path::new("report-1"));
    }
}
