use std::time::SystemTime;

use super::super::chain::{End, FACTS};
use super::super::database::Transaction;
use super::super::row::wrong;
use super::{Change, DatabaseFault, Effect, FactError};
use crate::clinical::{Day, Deletion, Elastography, Fact, MergeError, Merges, latest_day};
use crate::domain::PatientId;

/// Writes rows behind the log's end, which it holds until the transaction ends.
pub(super) struct Writer<'a, 'b> {
    transaction: &'a mut Transaction<'b>,
    actor: &'a str,
    reason: &'a str,
    end: End,
    latest_day: Day,
}

impl<'a, 'b> Writer<'a, 'b> {
    pub(super) fn begin(
        transaction: &'a mut Transaction<'b>,
        actor: &'a str,
        reason: &'a str,
    ) -> Result<Self, DatabaseFault> {
        let end = End::hold(&FACTS, transaction)?;
        Ok(Self {
            transaction,
            actor,
            reason,
            end,
            latest_day: latest_day(SystemTime::now()),
        })
    }

    pub(super) fn read_merges(&mut self, merges: &mut Merges) -> Result<(), DatabaseFault> {
        let sql = "SELECT change, fact FROM facts WHERE kind = 'merge' ORDER BY number";
        let rows = self
            .transaction
            .read(sql, &[], |row| Ok((row.integer(0)?, row.json(1)?)))?;
        for (change, fact) in rows {
            if let Fact::Merge(from, into) = fact {
                // What is in the log was checked when it came.
                let _ = match change {
                    1 => merges.enter(&from, &into),
                    _ => merges.withdraw(&from, &into),
                };
            }
        }
        Ok(())
    }

    /// Whether a change can be.
    pub(super) fn check(
        &mut self,
        change: &Change,
        merges: &mut Merges,
    ) -> Result<Result<(), FactError>, DatabaseFault> {
        let fact = change.fact();
        if let Change::Withdraw(_) = change {
            // Whether it stands is seen when it is taken out.
            if let Fact::Merge(from, into) = fact {
                return Ok(merges.withdraw(from, into).map_err(FactError::from));
            }
            return Ok(Ok(()));
        }
        if let Fact::Activation(activation) = fact {
            let sql = "SELECT architecture FROM models WHERE model = $1";
            let known =
                self.transaction
                    .read(sql, &[activation.model.to_string().into()], |_| Ok(()))?;
            if known.is_empty() {
                return Ok(Err(FactError::UnknownModel));
            }
        }
        Ok(self.check_values(fact, merges))
    }

    fn check_values(&self, fact: &Fact, merges: &mut Merges) -> Result<(), FactError> {
        let day = match fact {
            Fact::Exam(exam) => {
                identifier(&exam.patient)?;
                if exam.from >= exam.until {
                    return Err(FactError::EmptyExam);
                }
                return Ok(());
            }
            Fact::Merge(from, into) => {
                identifier(from)?;
                identifier(into)?;
                return match merges.enter(from, into) {
                    // Said once more: nothing to do.
                    Err(MergeError::Taken) if merges.into_of(from) == Some(into) => Ok(()),
                    other => Ok(other?),
                };
            }
            Fact::Blood(test) => {
                identifier(&test.patient)?;
                test.value.checked()?;
                test.day
            }
            Fact::Elastography(measured) => {
                identifier(&measured.patient)?;
                Elastography::from_pascal(measured.value.method, measured.value.stiffness)?;
                measured.day
            }
            Fact::Pathology(found) => {
                identifier(&found.patient)?;
                found.day
            }
            Fact::Deletion(Deletion::Patient(patient)) => return identifier(patient),
            Fact::Deletion(Deletion::Stream(_)) | Fact::Activation(_) => return Ok(()),
        };
        if day > self.latest_day {
            return Err(FactError::Future);
        }
        Ok(())
    }

    /// Writes what a change that can be comes to.
    pub(super) fn take(
        &mut self,
        change: &Change,
    ) -> Result<Result<Effect, FactError>, DatabaseFault> {
        let slot = change.fact().slot();
        let sql = "SELECT change, fact FROM facts WHERE slot = $1 ORDER BY number DESC LIMIT 1";
        let last = self
            .transaction
            .read(sql, &[slot.as_str().into()], |row| {
                Ok((row.integer(0)?, row.json::<Fact>(1)?))
            })?
            .pop();
        let standing = last.and_then(|(change, fact)| (change == 1).then_some(fact));
        Ok(match (change, standing) {
            (Change::Enter(fact), Some(standing)) if same(fact, &standing) => Ok(Effect::Unchanged),
            (Change::Enter(fact), None) => Ok(Effect::Logged(self.append(1, &slot, fact)?)),
            (Change::Enter(fact), Some(standing)) => {
                self.append(-1, &slot, &standing)?;
                Ok(Effect::Corrected(self.append(1, &slot, fact)?))
            }
            (Change::Withdraw(fact), Some(standing)) if same(fact, &standing) => {
                Ok(Effect::Logged(self.append(-1, &slot, &standing)?))
            }
            (Change::Withdraw(_), _) => Err(FactError::NotStanding),
        })
    }

    fn append(&mut self, change: i64, slot: &str, fact: &Fact) -> Result<u64, DatabaseFault> {
        let number = self.end.next();
        let fact = numbered(fact, change, number);
        let text = serde_json::to_string(&fact).map_err(|error| wrong(7, error))?;
        let row = vec![
            self.end.time_ns.into(),
            self.actor.into(),
            self.reason.into(),
            change.into(),
            fact.kind().into(),
            slot.into(),
            text.into(),
        ];
        self.end.append(self.transaction, vec![row])?;
        Ok(number)
    }

    pub(super) fn finish(self) -> Result<u64, DatabaseFault> {
        self.end.note(self.transaction)
    }
}

fn identifier(patient: &PatientId) -> Result<(), FactError> {
    let text = patient.expose();
    let fits = (1..=256).contains(&text.len()) && !text.chars().any(char::is_control);
    fits.then_some(()).ok_or(FactError::Identifier)
}

/// The number of an exam or an activation says which came later, and not what.
fn same(one: &Fact, other: &Fact) -> bool {
    numbered(one, 1, 0) == numbered(other, 1, 0)
}

/// `fact`, where it is entered with the number of its row.
fn numbered(fact: &Fact, change: i64, number: u64) -> Fact {
    let mut fact = fact.clone();
    if change == 1 {
        match &mut fact {
            Fact::Exam(exam) => exam.number = number,
            Fact::Activation(activation) => activation.number = number,
            _ => {}
        }
    }
    fact
}
