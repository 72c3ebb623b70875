//! What reports rest on: the clips behind an answer, the DICOM instances these
//! were cut from, and the report that was filed last.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::database::Transaction;
use super::row::{Row, Value, wrong};
use super::{DatabaseFault, Page, Store, StoreError, records};
use crate::clinical::{Deletion, Exam, Fact, Merges};
use crate::domain::{ClipPrediction, ContentHash, Instance, ModelHash, PatientId, StudyUid};

/// A report that a sink has taken, as its successor names it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FiledReport {
    /// Study Instance UID.
    pub study: StudyUid,
    /// Series Instance UID.
    pub series: String,
    /// SOP Instance UID.
    pub uid: String,
    /// Instance Number, from 1.
    pub number: u32,
    /// The model whose answer it gives.
    pub model: ModelHash,
    /// The stream whose instance it was filed beside.
    pub content: ContentHash,
}

impl std::fmt::Debug for FiledReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FiledReport(redacted)")
    }
}

/// The facts that say whose a clip is.
#[derive(Default)]
struct Assignments {
    exams: HashMap<ContentHash, Vec<Exam>>,
    merges: Merges,
    merged: Vec<PatientId>,
    deleted_streams: HashSet<ContentHash>,
    deleted_patients: HashSet<PatientId>,
}

impl Assignments {
    /// Of facts that stand, in the order of the log.
    fn of(facts: Vec<Fact>) -> Self {
        let mut found = Self::default();
        for fact in facts {
            match fact {
                Fact::Exam(exam) => found.exams.entry(exam.content).or_default().push(exam),
                // What the log let in closes no cycle.
                Fact::Merge(from, into) => {
                    if found.merges.enter(&from, &into).is_ok() {
                        found.merged.push(from);
                    }
                }
                Fact::Deletion(Deletion::Stream(content)) => {
                    found.deleted_streams.insert(content);
                }
                Fact::Deletion(Deletion::Patient(patient)) => {
                    found.deleted_patients.insert(patient);
                }
                Fact::Blood(_)
                | Fact::Elastography(_)
                | Fact::Pathology(_)
                | Fact::Activation(_) => {}
            }
        }
        found
    }

    /// Whose answer the clip counts for, if for anyone's: as the dataflow's views
    /// have it.
    fn patient_of<'a>(&'a self, clip: &'a ClipPrediction) -> Option<&'a PatientId> {
        if self.deleted_streams.contains(&clip.key.content) {
            return None;
        }
        let exams = self.exams.get(&clip.key.content);
        let exam = exams
            .into_iter()
            .flatten()
            .filter(|exam| (exam.from..exam.until).contains(&clip.key.first_frame))
            .max_by_key(|exam| (exam.number, &exam.patient));
        let record = exam.map_or(&clip.patient, |exam| &exam.patient);
        (!self.deleted_patients.contains(record)).then(|| self.merges.standing(record))
    }
}

/// Writes which instances streams are.
pub(super) fn write_instances(
    transaction: &mut Transaction<'_>,
    instances: &BTreeMap<ContentHash, Arc<Instance>>,
) -> Result<(), DatabaseFault> {
    let rows: Vec<Vec<Value<'_>>> = instances
        .iter()
        .map(|(content, instance)| {
            let text = serde_json::to_string(instance).map_err(|error| wrong(1, error))?;
            Ok(vec![content.to_string().into(), text.into()])
        })
        .collect::<Result<_, DatabaseFault>>()?;
    let end = "ON CONFLICT (content) DO UPDATE SET instance = excluded.instance";
    transaction.insert("instances", &rows, end, |_| Ok(()))?;
    Ok(())
}

impl Store {
    /// The clips that `patient`'s answer by `model` rests on, by content and
    /// frame: those of the records that were merged into it, and of the exams that
    /// were bound to it.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn evidence_of(
        &self,
        patient: &PatientId,
        model: ModelHash,
    ) -> Result<Vec<ClipPrediction>, StoreError> {
        let assignments = Assignments::of(self.standing_assignments()?);
        let merges = &assignments.merges;
        let merged = assignments.merged.iter();
        let records: HashSet<_> = merged
            .filter(|record| merges.standing(record) == patient)
            .chain([patient])
            .collect();
        let mut clips = BTreeMap::new();
        let all = Page {
            offset: 0,
            limit: u32::MAX,
        };
        for record in &records {
            let (recorded, _) = self.clips_of(record, model, all)?;
            clips.extend(recorded.into_iter().map(|clip| (clip.key, clip)));
        }
        let exams = assignments.exams.values().flatten();
        let bound: HashSet<_> = exams
            .filter(|exam| records.contains(&exam.patient))
            .map(|exam| exam.content)
            .collect();
        for content in bound {
            let recorded = self.clips_in(content, model)?;
            clips.extend(recorded.into_iter().map(|clip| (clip.key, clip)));
        }
        let mut clips: Vec<_> = clips.into_values().collect();
        clips.retain(|clip| clip.span.weight > 0 && assignments.patient_of(clip) == Some(patient));
        Ok(clips)
    }

    /// The clips of one stream under `model`.
    fn clips_in(
        &self,
        content: ContentHash,
        model: ModelHash,
    ) -> Result<Vec<ClipPrediction>, StoreError> {
        let values = [content.to_string().into(), model.to_string().into()];
        let sql = format!(
            "SELECT {} FROM clip_predictions WHERE content = $1 AND model = $2",
            records::CLIP
        );
        self.read(&sql, &values, records::clip)
    }

    /// Exams, merges and deletions in force, in the order of the log.
    fn standing_assignments(&self) -> Result<Vec<Fact>, StoreError> {
        let sql = "SELECT slot, change, fact FROM facts
                   WHERE kind IN ('exam', 'merge', 'deletion') ORDER BY number";
        let rows = self.read(sql, &[], |row| {
            Ok((row.text(0)?, row.integer(1)?, row.json::<Fact>(2)?))
        })?;
        let mut standing: HashMap<String, (usize, Fact)> = HashMap::new();
        for (order, (slot, change, fact)) in rows.into_iter().enumerate() {
            if change == 1 {
                standing.insert(slot, (order, fact));
            } else {
                standing.remove(&slot);
            }
        }
        let mut standing: Vec<_> = standing.into_values().collect();
        standing.sort_by_key(|(order, _)| *order);
        Ok(standing.into_iter().map(|(_, fact)| fact).collect())
    }

    /// The DICOM instance that the stream is, if a run noted it.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn instance(&self, content: ContentHash) -> Result<Option<Instance>, StoreError> {
        let sql = "SELECT instance FROM instances WHERE content = $1";
        let values = [content.to_string().into()];
        Ok(self.read(sql, &values, |row| row.json(0))?.pop())
    }

    /// The last report on `patient` that `sink` took.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn filed(
        &self,
        sink: &str,
        patient: &PatientId,
    ) -> Result<Option<FiledReport>, StoreError> {
        let sql = "SELECT report FROM reports WHERE sink = $1 AND patient = $2";
        let values = [sink.into(), patient.expose().into()];
        let take = |row: &Row<'_>| row.json(0);
        Ok(self.read(sql, &values, take)?.pop())
    }

    /// Remembers that `sink` took `report` on `patient`.
    ///
    /// # Errors
    /// If the database refuses.
    pub fn note_filed(
        &mut self,
        sink: &str,
        patient: &PatientId,
        report: &FiledReport,
    ) -> Result<(), StoreError> {
        let end = "ON CONFLICT (sink, patient) DO UPDATE SET report = excluded.report";
        self.change(|transaction| {
            let text = serde_json::to_string(report).map_err(|error| wrong(2, error))?;
            let row = vec![sink.into(), patient.expose().into(), text.into()];
            transaction.insert("reports", &[row], end, |_| Ok(()))?;
            Ok(())
        })
    }
}
