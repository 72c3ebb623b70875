use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{BloodTest, Elastography};
use crate::domain::{ContentHash, ModelHash, PatientId, Stage};

/// Days since 1970-01-01. A value whose day nobody wrote down has day 0, so that
/// any with a day goes before it.
pub type Day = i32;

/// Whose a part of a stream is, where that is known better than the recording
/// says. Where two exams overlap the one entered with the higher number holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Exam {
    /// The stream.
    pub content: ContentHash,
    /// The first frame that belongs to it.
    pub from: u64,
    /// The first frame that no longer does.
    pub until: u64,
    /// Decides between exams that overlap.
    pub number: u64,
    /// Whose it is.
    pub patient: PatientId,
}

/// What must not be used any more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Deletion {
    /// Every clip of a stream.
    Stream(ContentHash),
    /// Every clip and every value of a patient, as first entered.
    Patient(PatientId),
}

/// A value of a patient on a day. Of several the latest day holds, and of
/// those on one day the greatest value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dated<V> {
    /// Whose.
    pub patient: PatientId,
    /// When it was taken.
    pub day: Day,
    /// What was found.
    pub value: V,
}

/// From now on this model's answers are the current ones. Of several the one
/// with the highest number holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Activation {
    /// Rises with every activation.
    pub number: u64,
    /// The model.
    pub model: ModelHash,
}

/// One thing that people or other systems say, or that was decided. It can be
/// withdrawn, and corrected by another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// Whose a recording is.
    Exam(Exam),
    /// The first record is the same person as the second. See [`Merges`].
    Merge(PatientId, PatientId),
    /// A blood test, [checked](BloodTest::checked).
    Blood(Dated<BloodTest>),
    /// An elastography.
    Elastography(Dated<Elastography>),
    /// The stage that pathology found.
    Pathology(Dated<Stage>),
    /// A model became the current one.
    Activation(Activation),
    /// Something was deleted.
    Deletion(Deletion),
}

impl Fact {
    /// What kind of fact it is, in one word.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Exam(_) => "exam",
            Self::Merge(..) => "merge",
            Self::Blood(_) => "blood",
            Self::Elastography(_) => "elastography",
            Self::Pathology(_) => "pathology",
            Self::Activation(_) => "activation",
            Self::Deletion(_) => "deletion",
        }
    }

    /// Whose value it is, if it is a value.
    pub const fn patient(&self) -> Option<&PatientId> {
        match self {
            Self::Blood(test) => Some(&test.patient),
            Self::Elastography(measured) => Some(&measured.patient),
            Self::Pathology(found) => Some(&found.patient),
            Self::Exam(_) | Self::Merge(..) | Self::Activation(_) | Self::Deletion(_) => None,
        }
    }

    /// The same fact under other names of its patients.
    #[must_use]
    pub fn renamed(mut self, name: impl Fn(&PatientId) -> PatientId) -> Self {
        let rename = |patient: &mut PatientId| *patient = name(patient);
        match &mut self {
            Self::Exam(exam) => rename(&mut exam.patient),
            Self::Merge(from, into) => {
                rename(from);
                rename(into);
            }
            Self::Blood(test) => rename(&mut test.patient),
            Self::Elastography(measured) => rename(&mut measured.patient),
            Self::Pathology(found) => rename(&mut found.patient),
            Self::Deletion(Deletion::Patient(patient)) => rename(patient),
            Self::Deletion(Deletion::Stream(_)) | Self::Activation(_) => {}
        }
        self
    }

    /// What it is about. Of the facts about the same thing one stands: a patient
    /// has one blood test a day, and one model is active.
    pub fn slot(&self) -> String {
        let about = match self {
            Self::Exam(exam) => json!([exam.content, exam.from, exam.until]),
            Self::Merge(from, _) => json!([from]),
            Self::Blood(test) => json!([test.patient, test.day]),
            Self::Elastography(measured) => {
                json!([measured.patient, measured.day, measured.value.method])
            }
            Self::Pathology(found) => json!([found.patient, found.day]),
            Self::Activation(_) => json!([]),
            Self::Deletion(deletion) => json!([deletion]),
        };
        format!("{}{about}", self.kind())
    }
}

/// A merge that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// Following the merges would never end.
    #[error("these two records are merged the other way round already: withdraw that merge first")]
    Cycle,
    /// The record was merged into another one.
    #[error("this record is merged into another one already: withdraw that merge first")]
    Taken,
    /// There is no such merge to withdraw.
    #[error("these two records are not merged: there is nothing to withdraw")]
    Unknown,
}

/// The merges in force, kept where facts enter so that the graph only ever
/// sees chains that end: each record merged into at most one other, no cycle.
#[derive(Clone, Debug, Default)]
pub struct Merges(BTreeMap<PatientId, PatientId>);

impl Merges {
    /// Enters a merge of record `from` into record `into`.
    ///
    /// # Errors
    /// If it closes a cycle or `from` is merged already: nothing is changed.
    pub fn enter(&mut self, from: &PatientId, into: &PatientId) -> Result<(), MergeError> {
        if self.0.contains_key(from) {
            return Err(MergeError::Taken);
        }
        if self.standing(into) == from {
            return Err(MergeError::Cycle);
        }
        self.0.insert(from.clone(), into.clone());
        Ok(())
    }

    /// Withdraws a merge.
    ///
    /// # Errors
    /// If it is not in force.
    pub fn withdraw(&mut self, from: &PatientId, into: &PatientId) -> Result<(), MergeError> {
        if self.0.get(from) != Some(into) {
            return Err(MergeError::Unknown);
        }
        self.0.remove(from);
        Ok(())
    }

    /// What `record` is merged into, if it is.
    pub fn into_of(&self, record: &PatientId) -> Option<&PatientId> {
        self.0.get(record)
    }

    /// The records that are merged into others.
    pub fn records(&self) -> impl Iterator<Item = &PatientId> {
        self.0.keys()
    }

    /// The record that stands for `patient` after all merges.
    pub fn standing<'a>(&'a self, mut patient: &'a PatientId) -> &'a PatientId {
        while let Some(into) = self.0.get(patient) {
            patient = into;
        }
        patient
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_cycle_is_refused_and_a_withdrawn_merge_frees_the_record() {
        let [a, b, c] = ["a", "b", "c"].map(PatientId::new);
        let mut merges = Merges::default();
        assert_eq!(merges.enter(&a, &a), Err(MergeError::Cycle));
        merges.enter(&a, &b).unwrap();
        merges.enter(&b, &c).unwrap();
        assert_eq!(merges.standing(&a), &c);
        assert_eq!(merges.enter(&c, &a), Err(MergeError::Cycle));
        assert_eq!(merges.enter(&a, &c), Err(MergeError::Taken));
        assert_eq!(merges.withdraw(&a, &c), Err(MergeError::Unknown));
        merges.withdraw(&a, &b).unwrap();
        merges.enter(&c, &a).unwrap();
        assert_eq!(merges.standing(&b), &a);
    }
}
