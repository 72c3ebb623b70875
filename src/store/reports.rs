//! What reports rest on: the clips behind an answer, the DICOM instances these
//! were cut from, and the report that was filed last.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::database::Transaction;
use super::row::{Row, Value, wrong};
use super::{Assignments, DatabaseFault, Store, StoreError, records};
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
    /// The clips that count for `patient` under `model`, by content and frame: those
    /// of the records that were merged into it, and of the exams that were bound to
    /// it, by what `assignments` has read. Those of weight 0 are among them.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn clips_for(
        &self,
        assignments: &Assignments,
        patient: &PatientId,
        model: ModelHash,
    ) -> Result<Vec<ClipPrediction>, StoreError> {
        let records = assignments.records(patient);
        let of_records = records
            .iter()
            .map(|record| ("patient", record.expose().to_owned()));
        let streams = assignments.bound_to(&records).into_iter();
        let of_streams = streams.map(|content| ("content", content.to_string()));
        let mut clips = BTreeMap::new();
        for (column, value) in of_records.chain(of_streams) {
            let found = self.clips_where(column, &value, model)?;
            clips.extend(found.into_iter().map(|clip| (clip.key, clip)));
        }
        let mut clips: Vec<_> = clips.into_values().collect();
        clips.retain(|clip| assignments.patient_of(clip) == Some(patient));
        Ok(clips)
    }

    /// Of [`Self::clips_for`], those that the answer rests on.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn evidence_of(
        &self,
        assignments: &Assignments,
        patient: &PatientId,
        model: ModelHash,
    ) -> Result<Vec<ClipPrediction>, StoreError> {
        let mut clips = self.clips_for(assignments, patient, model)?;
        clips.retain(|clip| clip.span.weight > 0);
        Ok(clips)
    }

    /// The clips under `model` whose `column` holds `value`.
    fn clips_where(
        &self,
        column: &'static str,
        value: &str,
        model: ModelHash,
    ) -> Result<Vec<ClipPrediction>, StoreError> {
        let values = [value.into(), model.to_string().into()];
        let sql = format!(
            "SELECT {} FROM clip_predictions WHERE {column} = $1 AND model = $2",
            records::CLIP
        );
        self.read(&sql, &values, records::clip)
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
