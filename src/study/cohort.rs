//! A cohort directory: who is in the study, and who is not and why.
//!
//! ```text
//! DIR/cohort.csv    patient_id, sex, age_years, ast_u_l, alt_u_l, platelets_10e9_l, swe_kpa, stage
//!                   optional: ast_upper_limit_u_l, swe_m_s (instead of swe_kpa), swe_method, etiology
//! DIR/videos.csv    patient_id, path
//! DIR/README.txt    begins with SYNTHETIC where the cohort is a phantom
//! ```
//!
//! A value that is wrong ends the reading with all of them listed; a value that
//! is missing is counted, and costs the patient no more than what depends on it:
//! without a stage or a recording the patient is excluded, without platelets
//! there is no FIB-4. Called by `hepaflow study`, `train` and `evaluate`.

#[cfg(feature = "gstreamer")]
mod check;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::clinical::{
    COHORT_FILE, CohortTables, Finding, PatientRecord, Problem, VIDEOS_FILE, VideoRecord,
};
use crate::domain::{PatientId, Stage};

/// A cohort could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CohortError {
    /// A table could not be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The table.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Recordings sorted by class, and nobody knows whose they are.
    #[error(
        "{} holds folders of recordings and no cohort.csv: without patient identifiers a split \
         would put one patient on both sides; write cohort.csv and videos.csv, which say whose \
         each recording is", .0.display()
    )]
    ClassFolders(PathBuf),
    /// Values that cannot be right.
    #[error("{}", list(.directory, .findings))]
    Findings {
        /// The cohort directory.
        directory: PathBuf,
        /// Everything wrong or missing, in the order of the files.
        findings: Vec<Finding>,
    },
    /// Nobody is left.
    #[error("{}: no patient can be used: {flow}", directory.display())]
    Nobody {
        /// The cohort directory.
        directory: PathBuf,
        /// Where they went.
        flow: Box<Flow>,
    },
}

fn list(directory: &Path, findings: &[Finding]) -> String {
    let (wrong, missing): (Vec<_>, Vec<_>) = findings
        .iter()
        .partition(|finding| finding.problem != Problem::Missing);
    let mut text = format!("{}: {} to correct", directory.display(), wrong.len());
    for finding in wrong {
        text += &format!("\n  {finding}");
    }
    if !missing.is_empty() {
        text += &format!("\nand {} missing, which is no error:", missing.len());
    }
    for finding in missing {
        text += &format!("\n  {finding}");
    }
    text
}

/// Why a patient is not in the study.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exclusion {
    /// No stage was found: there is no reference to judge by.
    NoStage,
    /// No recording is listed.
    NoVideo,
    /// No recording can be used.
    NoUsableVideo,
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoStage => "no stage (reference standard missing)",
            Self::NoVideo => "no recording",
            Self::NoUsableVideo => "no usable recording",
        })
    }
}

/// A recording that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnusableVideo {
    /// Its line in `videos.csv`.
    pub line: u64,
    /// Why, for people; names no patient.
    pub reason: String,
}

/// How many patients there were, and where they went: the flow diagram.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Patients in `cohort.csv`.
    pub listed: usize,
    /// Lines of `cohort.csv` excluded, by reason.
    pub excluded: BTreeMap<Exclusion, Vec<u64>>,
    /// Patients left.
    pub included: usize,
    /// How many of those left have each stage.
    pub stages: BTreeMap<Stage, usize>,
    /// Recordings of those left.
    pub videos: usize,
    /// Recordings left out.
    pub unusable_videos: Vec<UnusableVideo>,
    /// Values missing among those left, by column.
    pub missing: BTreeMap<String, usize>,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} listed", self.listed)?;
        for (reason, lines) in &self.excluded {
            write!(f, ", {} excluded: {reason}", lines.len())?;
        }
        write!(f, ", {} included", self.included)
    }
}

/// A patient in the study.
#[derive(Clone, Debug)]
pub struct CohortPatient {
    /// The clinical facts.
    pub record: PatientRecord,
    /// The stage that pathology found.
    pub stage: Stage,
    /// The recordings; at least one, unless only the tables were read.
    pub videos: Vec<VideoRecord>,
}

impl CohortPatient {
    /// Whose.
    pub fn id(&self) -> &PatientId {
        &self.record.patient
    }
}

/// Who is in the study.
#[derive(Clone, Debug)]
pub struct Cohort {
    directory: PathBuf,
    /// Whether it was simulated, so that every result on it must say so.
    pub is_synthetic: bool,
    /// In the order of `cohort.csv`.
    pub patients: Vec<CohortPatient>,
    /// Who is not in it, and why.
    pub flow: Flow,
    /// Every missing value, of those excluded too.
    pub missing: Vec<Finding>,
}

impl Cohort {
    /// Reads both tables and looks whether every recording is there. Whether it
    /// can be decoded is asked by `check_videos`.
    ///
    /// # Errors
    /// When a table cannot be read, anything in it is wrong (all of it is
    /// listed), or nobody is left.
    pub fn load(directory: &Path) -> Result<Self, CohortError> {
        Self::read(directory, true)
    }

    /// Reads the clinical facts alone, for whoever needs no recording.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_facts(directory: &Path) -> Result<Self, CohortError> {
        Self::read(directory, false)
    }

    /// The same patients and recordings, with the stages dealt out among them by
    /// chance: whatever is learnt of those, nothing can be known of a patient who
    /// was held out, and every method must come out at an AUC of a half. One that
    /// does not has seen what it is judged by.
    pub fn shuffle_stages(&mut self, seed: u64) {
        let mut stages: Vec<Stage> = self.patients.iter().map(|one| one.stage).collect();
        stages.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        for (patient, stage) in self.patients.iter_mut().zip(stages) {
            patient.stage = stage;
        }
    }

    fn read(directory: &Path, with_videos: bool) -> Result<Self, CohortError> {
        let cohort = directory.join(COHORT_FILE);
        let cohort = match read(cohort) {
            Err(CohortError::Read { error, .. })
                if error.kind() == io::ErrorKind::NotFound && has_folders(directory) =>
            {
                return Err(CohortError::ClassFolders(directory.to_owned()));
            }
            other => other?,
        };
        let videos = with_videos
            .then(|| read(directory.join(VIDEOS_FILE)))
            .transpose()?;
        let mut tables = CohortTables::parse(&cohort, videos.as_deref());
        for video in &tables.videos {
            if !directory.join(&video.path).is_file() {
                tables.findings.push(Finding {
                    file: VIDEOS_FILE.to_owned(),
                    line: video.line,
                    column: "path".to_owned(),
                    problem: Problem::Wrong("there is no such file".to_owned()),
                });
            }
        }
        if tables
            .findings
            .iter()
            .any(|finding| finding.problem != Problem::Missing)
        {
            return Err(CohortError::Findings {
                directory: directory.to_owned(),
                findings: tables.findings,
            });
        }
        let mut of_patient = BTreeMap::<PatientId, Vec<VideoRecord>>::new();
        for video in tables.videos {
            of_patient
                .entry(video.patient.clone())
                .or_default()
                .push(video);
        }
        let mut flow = Flow {
            listed: tables.patients.len(),
            ..Flow::default()
        };
        let mut patients = Vec::new();
        for record in tables.patients {
            let videos = of_patient.remove(&record.patient).unwrap_or_default();
            let exclusion = match record.stage {
                None => Err(Exclusion::NoStage),
                Some(_) if with_videos && videos.is_empty() => Err(Exclusion::NoVideo),
                Some(stage) => Ok(stage),
            };
            match exclusion {
                Ok(stage) => patients.push(CohortPatient {
                    record,
                    stage,
                    videos,
                }),
                Err(reason) => flow.excluded.entry(reason).or_default().push(record.line),
            }
        }
        let mut cohort = Self {
            directory: directory.to_owned(),
            is_synthetic: is_synthetic(directory),
            patients,
            flow,
            missing: tables.findings,
        };
        cohort.recount()?;
        Ok(cohort)
    }

    /// Where a recording lies.
    pub fn path_of(&self, video: &VideoRecord) -> PathBuf {
        self.directory.join(&video.path)
    }

    /// Each patient with the stage found, as [`super::split::Split`] wants them.
    pub fn stages(&self) -> Vec<(PatientId, Stage)> {
        let pairs = self.patients.iter();
        pairs
            .map(|patient| (patient.id().clone(), patient.stage))
            .collect()
    }

    /// Leaves recordings out, by their lines in `videos.csv`, and with its last
    /// recording the patient.
    ///
    /// # Errors
    /// If nobody is left.
    pub fn leave_out(&mut self, unusable: Vec<UnusableVideo>) -> Result<(), CohortError> {
        let lines: BTreeSet<u64> = unusable.iter().map(|video| video.line).collect();
        self.flow.unusable_videos.extend(unusable);
        self.flow.unusable_videos.sort_by_key(|video| video.line);
        let excluded = self.flow.excluded.entry(Exclusion::NoUsableVideo);
        let excluded = excluded.or_default();
        self.patients.retain_mut(|patient| {
            patient.videos.retain(|video| !lines.contains(&video.line));
            if patient.videos.is_empty() {
                excluded.push(patient.record.line);
            }
            !patient.videos.is_empty()
        });
        if excluded.is_empty() {
            self.flow.excluded.remove(&Exclusion::NoUsableVideo);
        }
        self.recount()
    }

    fn recount(&mut self) -> Result<(), CohortError> {
        let flow = &mut self.flow;
        flow.included = self.patients.len();
        flow.videos = self.patients.iter().map(|p| p.videos.len()).sum();
        flow.stages = BTreeMap::new();
        for patient in &self.patients {
            *flow.stages.entry(patient.stage).or_default() += 1;
        }
        let lines: BTreeSet<u64> = self.patients.iter().map(|p| p.record.line).collect();
        flow.missing = BTreeMap::new();
        for finding in &self.missing {
            if finding.file == COHORT_FILE && lines.contains(&finding.line) {
                *flow.missing.entry(finding.column.clone()).or_default() += 1;
            }
        }
        if self.patients.is_empty() {
            return Err(CohortError::Nobody {
                directory: self.directory.clone(),
                flow: Box::new(flow.clone()),
            });
        }
        Ok(())
    }
}

fn read(path: PathBuf) -> Result<Vec<u8>, CohortError> {
    std::fs::read(&path).map_err(|error| CohortError::Read { path, error })
}

fn has_folders(directory: &Path) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.flatten().any(|entry| entry.path().is_dir())
}

/// `hepaflow phantom` leaves a word of warning in every cohort it writes.
fn is_synthetic(directory: &Path) -> bool {
    std::fs::read_to_string(directory.join("README.txt"))
        .is_ok_and(|text| text.starts_with("SYNTHETIC"))
}

#[cfg(test)]
mod tests;
