use std::collections::BTreeMap;

use differential_dataflow::input::InputSession;
use serde::{Deserialize, Serialize};

use crate::clinical::{BloodTest, Elastography};
use crate::dataflow::Epoch;
use crate::domain::{ClipKey, ContentHash, ModelHash, PatientId, Probability, Stage, StageRange};

/// Days since 1970-01-01.
pub type Day = i32;

/// A clip's prediction with how much its picture is to be trusted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClipFact {
    /// Which window under which model.
    pub key: ClipKey,
    /// Whose it is, according to the recording itself.
    pub patient: PatientId,
    /// Weight in 1/256, 0 to 256; a clip of weight 0 is left out.
    pub weight: u16,
    /// One probability a class, `[K]`.
    pub probabilities: Vec<Probability>,
}

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

/// One thing known. Entering it once more or withdrawing it is a change of its
/// multiplicity; a correction withdraws the old and enters the new.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Fact {
    /// A clip was scored.
    Clip(ClipFact),
    /// What a model's classes mean.
    Model(ModelHash, Vec<StageRange>),
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

/// Where facts enter the graph. All inputs move together: one that stood still
/// would hold every view back and keep its arrangements from compacting.
pub struct FactInputs {
    pub(super) clips: InputSession<Epoch, ClipFact, isize>,
    pub(super) models: InputSession<Epoch, (ModelHash, Vec<StageRange>), isize>,
    pub(super) exams: InputSession<Epoch, Exam, isize>,
    pub(super) merges: InputSession<Epoch, (PatientId, PatientId), isize>,
    pub(super) blood: InputSession<Epoch, Dated<BloodTest>, isize>,
    pub(super) elastography: InputSession<Epoch, Dated<Elastography>, isize>,
    pub(super) pathology: InputSession<Epoch, Dated<Stage>, isize>,
    pub(super) activations: InputSession<Epoch, Activation, isize>,
    pub(super) deletions: InputSession<Epoch, Deletion, isize>,
}

impl FactInputs {
    /// Enters `fact` (`change` = 1) or withdraws it (-1) at the present epoch.
    pub fn update(&mut self, fact: Fact, change: isize) {
        match fact {
            Fact::Clip(clip) => self.clips.update(clip, change),
            Fact::Model(model, classes) => self.models.update((model, classes), change),
            Fact::Exam(exam) => self.exams.update(exam, change),
            Fact::Merge(from, into) => self.merges.update((from, into), change),
            Fact::Blood(test) => self.blood.update(test, change),
            Fact::Elastography(measured) => self.elastography.update(measured, change),
            Fact::Pathology(found) => self.pathology.update(found, change),
            Fact::Activation(activation) => self.activations.update(activation, change),
            Fact::Deletion(deletion) => self.deletions.update(deletion, change),
        }
    }

    /// Ends the present epoch for every input and hands on what was entered.
    pub fn advance_to(&mut self, epoch: Epoch) {
        macro_rules! advance {
            ($($input:ident)*) => {$(
                self.$input.advance_to(epoch);
                self.$input.flush();
            )*};
        }
        advance!(clips models exams merges blood elastography pathology activations deletions);
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
