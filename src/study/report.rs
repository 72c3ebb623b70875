//! The report of a study: one HTML page that needs nothing else, and the same as
//! JSON.
//!
//! It shows what TRIPOD+AI, STARD-AI and CLAIM ask for as far as a program can
//! know it. A part that was not done is shown as not done. Patients are named by
//! their line in `cohort.csv`, so that a report can be shown around. Called by
//! `hepaflow evaluate` and `hepaflow study`.

mod card;
mod figures;
mod page;
mod style;
mod tables;

use std::io;
use std::path::PathBuf;

pub use card::write_cards;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::evaluation::Evaluation;
use super::folder::{
    AblationRecord, AttentionRecord, RecordError, StudyFolder, StudyRecord, TrainingRecord,
    TuningRecord, read_json, write, write_json,
};

/// A report could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Something that the study wrote cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A file could not be written.
    #[error("cannot write {}: {error}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Everything that a report shows. What is `None` or empty was not done.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The version of hepaflow that wrote it.
    pub version: String,
    /// What was done.
    pub study: Option<StudyRecord>,
    /// How good it is.
    pub evaluation: Evaluation,
    /// The grid.
    pub tuning: Option<TuningRecord>,
    /// Each fold-model.
    pub training: Vec<TrainingRecord>,
    /// What the models live on.
    pub ablations: Option<Vec<AblationRecord>>,
    /// Where they look.
    pub attention: Vec<AttentionRecord>,
    /// The pictures to `attention`, PNG in base64; empty where one is gone.
    #[serde(skip)]
    pictures: Vec<String>,
}

impl Report {
    /// Gathers what lies in the folder of a study.
    ///
    /// # Errors
    /// When a record is there and cannot be read.
    pub fn gather(folder: &StudyFolder, evaluation: Evaluation) -> Result<Self, ReportError> {
        let mut training = Vec::new();
        for method in evaluation.questions.iter().take(1).flat_map(|q| &q.methods) {
            for fold in &method.folds {
                // The method's name comes from a file and must not lead elsewhere.
                let is_plain = method
                    .name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
                if is_plain {
                    training.extend(read_json(&folder.training(&method.name, fold.fold))?);
                }
            }
        }
        let attention: Vec<AttentionRecord> =
            read_json(&folder.attention_list())?.unwrap_or_default();
        let pictures = attention.iter().map(|record| {
            let name = std::path::Path::new(&record.file).file_name();
            let bytes = name.and_then(|name| std::fs::read(folder.attention().join(name)).ok());
            bytes.map_or_else(String::new, |bytes| STANDARD.encode(bytes))
        });
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            study: read_json(&folder.study())?,
            tuning: read_json(&folder.tuning())?,
            ablations: read_json(&folder.ablations())?,
            pictures: pictures.collect(),
            training,
            attention,
            evaluation,
        })
    }

    /// The page.
    pub fn to_html(&self) -> String {
        page::page(self).into_string()
    }
}

/// Writes `evaluation.json`, `report.html` and `report.json` to the folder of a
/// study, whatever else is in it.
///
/// # Errors
/// When a record in it is none, or a file cannot be written.
pub fn write_report(folder: &StudyFolder, evaluation: &Evaluation) -> Result<(), ReportError> {
    let report = Report::gather(folder, evaluation.clone())?;
    let fail = |path: PathBuf| move |error| ReportError::Write { path, error };
    let path = folder.evaluation();
    write_json(&path, evaluation).map_err(fail(path.clone()))?;
    let path = folder.report_json();
    write_json(&path, &report).map_err(fail(path.clone()))?;
    let path = folder.report_html();
    write(&path, report.to_html().as_bytes()).map_err(fail(path.clone()))
}
