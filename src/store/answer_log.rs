//! The log of answers: which answer became what, when and why, under which model.
//!
//! It is written in the transaction that changes the answer, so that there is no
//! change without its row and no row without its change. Whoever entered a fact,
//! and for what reason, is told by the log of facts, under the fact's number.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::chain::{ANSWERS, End, LogHead, Verified};
use super::database::Transaction;
use super::outbox::Event;
use super::row::{Row, wrong};
use super::{DatabaseFault, PatientChange, Store, StoreError};
use crate::domain::{ModelHash, PatientId, PatientResult};

/// What writes answers.
const ACTOR: &str = "hepaflow run";

/// What a logged reason may be, and how it may end: rows that are written keep them.
const CLIPS: &str = "clips";
const BEGINNING: &str = "at the beginning of a run";

/// Why answers changed, as far as one moment of a run tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// The first and the last number of the facts that came; without any, it was
    /// clips.
    pub facts: Option<(u64, u64)>,
    /// A run began, and worked out what follows from all that is stored.
    pub beginning: bool,
}

impl Cause {
    /// Both of them.
    pub fn extend(&mut self, later: &Self) {
        self.beginning |= later.beginning;
        self.facts = match (self.facts, later.facts) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (facts, None) | (None, facts) => facts,
        };
    }
}

impl Cause {
    /// What kind of cause a logged reason names: `clips`, `facts`, or `beginning`.
    pub fn kind(reason: &str) -> &'static str {
        if reason.ends_with(BEGINNING) {
            "beginning"
        } else if reason == CLIPS {
            "clips"
        } else {
            "facts"
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.beginning, self.facts) {
            (true, None) => write!(f, "{CLIPS}, {BEGINNING}"),
            (true, Some((_, last))) => write!(f, "{CLIPS} and facts up to {last}, {BEGINNING}"),
            (false, None) => f.write_str(CLIPS),
            (false, Some((first, last))) if first == last => {
                write!(f, "fact {first}, or clips that came with it")
            }
            (false, Some((first, last))) => {
                write!(f, "facts {first} to {last}, or clips that came with them")
            }
        }
    }
}

/// A row of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedAnswer {
    /// Its place: 1, 2, 3 and so on.
    pub number: u64,
    /// When it was written.
    pub time: SystemTime,
    /// What wrote it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Whose answer.
    pub patient: PatientId,
    /// Under which model.
    pub model: ModelHash,
    /// What stands since then; none where the answer was withdrawn.
    pub answer: Option<PatientResult>,
}

/// Writes what became of answers.
pub(super) fn append(
    transaction: &mut Transaction<'_>,
    cause: &Cause,
    changed: &[&Event<'_>],
) -> Result<(), DatabaseFault> {
    if changed.is_empty() {
        return Ok(());
    }
    let mut end = End::hold(&ANSWERS, transaction)?;
    let reason = cause.to_string();
    let mut rows = Vec::with_capacity(changed.len());
    for event in changed {
        let (patient, model) = event.change.key();
        let answer = match event.change {
            PatientChange::Stands(result) => {
                serde_json::to_string(result).map_err(|error| wrong(6, error))?
            }
            PatientChange::Withdrawn(..) => String::new(),
        };
        rows.push(vec![
            end.time_ns.into(),
            ACTOR.into(),
            reason.as_str().into(),
            patient.expose().into(),
            model.to_string().into(),
            answer.into(),
        ]);
    }
    end.append(transaction, rows)?;
    end.note(transaction).map(drop)
}

impl Store {
    /// Rows of the log of answers behind the first `after`, at most `limit`.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn answers_after(&self, after: u64, limit: usize) -> Result<Vec<LoggedAnswer>, StoreError> {
        let sql = "SELECT number, time_ns, actor, reason, patient, model, answer FROM answer_log
                   WHERE number > $1 ORDER BY number LIMIT $2";
        self.read(sql, &[after.into(), (limit as u64).into()], logged)
    }

    /// The last changes of a patient's answers, at most `limit`, oldest first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn answers_of(
        &self,
        patient: &PatientId,
        limit: usize,
    ) -> Result<Vec<LoggedAnswer>, StoreError> {
        let sql = "SELECT number, time_ns, actor, reason, patient, model, answer FROM answer_log
                   WHERE patient = $1 ORDER BY number DESC LIMIT $2";
        let values = [patient.expose().into(), (limit as u64).into()];
        let mut rows = self.read(sql, &values, logged)?;
        rows.reverse();
        Ok(rows)
    }

    /// Reads the whole log of answers and finds every row that was changed, taken
    /// out, put elsewhere or cut off. `known` is an end that was noted down before.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn verify_answers(&self, known: Option<&LogHead>) -> Result<Verified, StoreError> {
        self.verify(&ANSWERS, known)
    }
}

fn logged(row: &Row<'_>) -> Result<LoggedAnswer, DatabaseFault> {
    let withdrawn = row.text(6)?.is_empty();
    Ok(LoggedAnswer {
        number: row.unsigned(0)?,
        time: UNIX_EPOCH + Duration::from_nanos(row.unsigned(1)?),
        actor: row.text(2)?,
        reason: row.text(3)?,
        patient: PatientId::new(row.text(4)?),
        model: row.parsed(5)?,
        answer: if withdrawn { None } else { Some(row.json(6)?) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reason_names_is_told_again_by_its_words() {
        for (facts, beginning, kind) in [
            (None, false, "clips"),
            (None, true, "beginning"),
            (Some((1, 3)), true, "beginning"),
            (Some((3, 3)), false, "facts"),
            (Some((1, 3)), false, "facts"),
        ] {
            let cause = Cause { facts, beginning };
            assert_eq!(Cause::kind(&cause.to_string()), kind, "{cause}");
        }
    }
}
