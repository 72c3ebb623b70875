//! Whose a clip is, by the facts that say so: kept in memory, and brought up to date
//! from the log behind the last row that was read. For whoever asks again and again,
//! as the sink that files reports does.

use std::collections::{HashMap, HashSet};

use super::{Store, StoreError};
use crate::clinical::{Deletion, Exam, Fact, Merges};
use crate::domain::{ClipPrediction, ContentHash, PatientId};

/// Exams, merges and deletions in force, up to a row of the log.
#[derive(Default)]
pub struct Assignments {
    /// The last row that was read.
    number: u64,
    exams: HashMap<ContentHash, Vec<Exam>>,
    merges: Merges,
    deleted_streams: HashSet<ContentHash>,
    deleted_patients: HashSet<PatientId>,
}

impl Assignments {
    /// Reads what was entered and withdrawn since it last did. Rows are numbered in
    /// the order in which they become visible: none comes in before one that was read.
    ///
    /// # Errors
    /// If the store cannot be read: then nothing is taken in.
    pub fn follow(&mut self, store: &Store) -> Result<(), StoreError> {
        let sql = "SELECT number, change, fact FROM facts
                   WHERE number > $1 AND kind IN ('exam', 'merge', 'deletion') ORDER BY number";
        let rows = store.read(sql, &[self.number.into()], |row| {
            Ok((row.unsigned(0)?, row.integer(1)?, row.json::<Fact>(2)?))
        })?;
        for (number, change, fact) in rows {
            self.number = number;
            if change == 1 {
                self.enter(fact);
            } else {
                self.withdraw(&fact);
            }
        }
        Ok(())
    }

    fn enter(&mut self, fact: Fact) {
        match fact {
            Fact::Exam(exam) => self.exams.entry(exam.content).or_default().push(exam),
            Fact::Merge(from, into) => {
                // What the log let in closes no cycle.
                let _ = self.merges.enter(&from, &into);
            }
            Fact::Deletion(Deletion::Stream(content)) => {
                self.deleted_streams.insert(content);
            }
            Fact::Deletion(Deletion::Patient(patient)) => {
                self.deleted_patients.insert(patient);
            }
            Fact::Blood(_) | Fact::Elastography(_) | Fact::Pathology(_) | Fact::Activation(_) => {}
        }
    }

    fn withdraw(&mut self, fact: &Fact) {
        match fact {
            Fact::Exam(exam) => {
                if let Some(exams) = self.exams.get_mut(&exam.content) {
                    exams.retain(|other| other != exam);
                }
            }
            Fact::Merge(from, into) => {
                // What the log took out was in it.
                let _ = self.merges.withdraw(from, into);
            }
            Fact::Deletion(Deletion::Stream(content)) => {
                self.deleted_streams.remove(content);
            }
            Fact::Deletion(Deletion::Patient(patient)) => {
                self.deleted_patients.remove(patient);
            }
            Fact::Blood(_) | Fact::Elastography(_) | Fact::Pathology(_) | Fact::Activation(_) => {}
        }
    }

    /// The patient's record, and those that count for it.
    pub(super) fn records<'a>(&'a self, patient: &'a PatientId) -> HashSet<&'a PatientId> {
        let merged = self.merges.records();
        merged
            .filter(|record| self.merges.standing(record) == patient)
            .chain([patient])
            .collect()
    }

    /// Streams of which a part was said to be of one of `records`.
    pub(super) fn bound_to(&self, records: &HashSet<&PatientId>) -> HashSet<ContentHash> {
        let exams = self.exams.values().flatten();
        exams
            .filter(|exam| records.contains(&exam.patient))
            .map(|exam| exam.content)
            .collect()
    }

    /// Whose answer the clip counts for, if for anyone's: as the dataflow's views
    /// have it.
    pub(super) fn patient_of<'a>(&'a self, clip: &'a ClipPrediction) -> Option<&'a PatientId> {
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
