//! The log of facts: what people and other systems say about patients, in the
//! order in which it was said, by whom and why. It is where the dataflow takes
//! facts from, and it is the audit log.
//!
//! Rows are only ever added, and each is bound to the one before it (`chain.rs`).
//!
//! A fact stands in a *slot*: a patient's blood test of a day, whom a record is
//! merged into, which model is active. Entering what stands already changes
//! nothing; entering another value of the same slot withdraws the old one, and
//! both changes are in the log.

mod table;
mod writer;

#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::chain::{FACTS, LogHead, Verified};
use super::row::{Row, wrong};
use super::{DatabaseFault, Store, StoreError};
use crate::clinical::{Fact, InvalidValue, MergeError, Merges};
use crate::domain::{ModelHash, PatientId};
pub use table::{Imported, import_labels};
use writer::Writer;

/// A fact comes or goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It holds from now on.
    Enter(Fact),
    /// It holds no more.
    Withdraw(Fact),
}

impl Change {
    /// Which fact.
    pub fn fact(&self) -> &Fact {
        match self {
            Self::Enter(fact) | Self::Withdraw(fact) => fact,
        }
    }

    /// The fact itself.
    pub fn into_fact(self) -> Fact {
        match self {
            Self::Enter(fact) | Self::Withdraw(fact) => fact,
        }
    }

    /// The same under other names of its patients.
    #[must_use]
    pub fn renamed(self, name: impl Fn(&PatientId) -> PatientId) -> Self {
        match self {
            Self::Enter(fact) => Self::Enter(fact.renamed(name)),
            Self::Withdraw(fact) => Self::Withdraw(fact.renamed(name)),
        }
    }

    /// 1 for a fact that comes, -1 for one that goes.
    pub fn difference(&self) -> isize {
        match self {
            Self::Enter(_) => 1,
            Self::Withdraw(_) => -1,
        }
    }
}

/// A row of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedChange {
    /// Its place: 1, 2, 3 and so on.
    pub number: u64,
    /// When it was written.
    pub time: SystemTime,
    /// Who or what wrote it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// What it says.
    pub change: Change,
}

/// What became of changes that were handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// One for each change, in order.
    pub outcomes: Vec<Result<Effect, FactError>>,
    /// The last number of the log: whoever has read so far knows them all.
    pub last: u64,
}

/// What a change that was taken did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is in the log under this number.
    Logged(u64),
    /// It took the place of another value, under this number.
    Corrected(u64),
    /// That was known already: nothing was written.
    Unchanged,
}

/// A change that cannot be; the others are not touched by it. No patient is
/// named: this may end in a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FactError {
    /// A value that nobody can have.
    #[error(transparent)]
    Value(#[from] InvalidValue),
    /// A day that has not come yet.
    #[error("this date lies in the future: check the date and its format (YYYY-MM-DD)")]
    Future,
    /// Merges that cannot be.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// An identifier that no patient can have.
    #[error("a patient's identifier has 1 to 256 bytes and no control characters")]
    Identifier,
    /// An exam without a frame.
    #[error("an exam's first frame must lie before its end")]
    EmptyExam,
    /// A model that never ran here.
    #[error("no run has used this model: `hepaflow models list` shows those that can be activated")]
    UnknownModel,
    /// There is nothing to withdraw.
    #[error("there is no such fact to withdraw: `hepaflow audit show` lists what was entered")]
    NotStanding,
}

impl Store {
    /// Takes changes into the log, all that can be in one transaction: on disk
    /// when this returns. A change that cannot be is left out, and its place in
    /// the [`Receipt`] says why.
    ///
    /// # Errors
    /// If the database refuses: then nothing was written.
    pub fn enter(
        &mut self,
        changes: &[Change],
        actor: &str,
        reason: &str,
    ) -> Result<Receipt, StoreError> {
        let has_merges = changes.iter().any(|c| matches!(c.fact(), Fact::Merge(..)));
        self.change(|transaction| {
            let mut log = Writer::begin(transaction, actor, reason)?;
            let mut merges = Merges::default();
            if has_merges {
                log.read_merges(&mut merges)?;
            }
            let mut outcomes = Vec::with_capacity(changes.len());
            for change in changes {
                outcomes.push(match log.check(change, &mut merges)? {
                    Ok(()) => log.take(change)?,
                    Err(error) => Err(error),
                });
            }
            let last = log.finish()?;
            Ok(Receipt { outcomes, last })
        })
    }

    /// Rows of the log behind the first `after`, at most `limit`.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn facts_after(&self, after: u64, limit: usize) -> Result<Vec<LoggedChange>, StoreError> {
        let sql = "SELECT number, time_ns, actor, reason, change, fact FROM facts
                   WHERE number > $1 ORDER BY number LIMIT $2";
        self.read(sql, &[after.into(), (limit as u64).into()], logged)
    }

    /// What was entered and withdrawn about a patient, oldest first: values, exams that
    /// were bound to them, and merges of their record or into it.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn history_of(&self, patient: &PatientId) -> Result<Vec<LoggedChange>, StoreError> {
        let name = serde_json::Value::from(patient.expose()).to_string();
        let about = ["blood", "elastography", "pathology"].map(|kind| format!("{kind}[{name},"));
        let [blood, elastography, pathology] = &about;
        let sql = "SELECT number, time_ns, actor, reason, change, fact FROM facts
                   WHERE substr(slot, 1, $1) = $2 OR substr(slot, 1, $3) = $4
                      OR substr(slot, 1, $5) = $6 OR kind IN ('merge', 'exam')
                   ORDER BY number";
        let length = |text: &str| text.chars().count() as u64;
        let values = [
            length(blood).into(),
            blood.as_str().into(),
            length(elastography).into(),
            elastography.as_str().into(),
            length(pathology).into(),
            pathology.as_str().into(),
        ];
        let mut rows = self.read(sql, &values, logged)?;
        rows.retain(|row| match row.change.fact() {
            Fact::Merge(from, into) => from == patient || into == patient,
            Fact::Exam(exam) => exam.patient == *patient,
            _ => true,
        });
        Ok(rows)
    }

    /// The model whose answers are the current ones, if one was activated.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn active_model(&self) -> Result<Option<ModelHash>, StoreError> {
        let sql = "SELECT change, fact FROM facts WHERE kind = 'activation'
                   ORDER BY number DESC LIMIT 1";
        let last = self.read(sql, &[], |row| Ok((row.integer(0)?, row.json(1)?)))?;
        Ok(match last.first() {
            Some((1, Fact::Activation(activation))) => Some(activation.model),
            _ => None,
        })
    }

    /// Reads the whole log and finds every row that was changed, taken out, put
    /// elsewhere or cut off. `known` is an end that was noted down before.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn verify_facts(&self, known: Option<&LogHead>) -> Result<Verified, StoreError> {
        self.verify(&FACTS, known)
    }
}

/// Columns `number`, `time_ns`, `actor`, `reason`, `change` and `fact`.
fn logged(row: &Row<'_>) -> Result<LoggedChange, DatabaseFault> {
    let fact = row.json(5)?;
    Ok(LoggedChange {
        number: row.unsigned(0)?,
        time: UNIX_EPOCH + Duration::from_nanos(row.unsigned(1)?),
        actor: row.text(2)?,
        reason: row.text(3)?,
        change: match row.integer(4)? {
            1 => Change::Enter(fact),
            -1 => Change::Withdraw(fact),
            _ => return Err(wrong(4, "neither 1 nor -1")),
        },
    })
}
