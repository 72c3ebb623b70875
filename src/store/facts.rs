//! The log of facts: what people and other systems say about patients, in the
//! order in which it was said, by whom and why. It is where the dataflow takes
//! facts from, and it is the audit log.
//!
//! Rows are only ever added. Each carries the hash of its own content and of the
//! row before it, so that a row that was changed, taken out or put elsewhere is
//! found ([`Store::verify_facts`]).
//!
//! A fact stands in a *slot*: a patient's blood test of a day, whom a record is
//! merged into, which model is active. Entering what stands already changes
//! nothing; entering another value of the same slot withdraws the old one, and
//! both changes are in the log.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::database::Transaction;
use super::row::{Row, Value, wrong};
use super::{DatabaseFault, Store, StoreError};
use crate::clinical::{
    Day, Deletion, Elastography, Fact, InvalidValue, MergeError, Merges, latest_day,
};
use crate::domain::{ModelHash, PatientId};

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

/// How the log was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Rows that were read.
    pub rows: u64,
    /// The last row's number and hash, such as `12:9f86d0..`: kept elsewhere, it
    /// proves later that nothing was cut off.
    pub head: LogHead,
    /// What is wrong, in the order of the rows; empty for a sound log.
    pub faults: Vec<LogFault>,
}

/// Where a log ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogHead {
    /// The last row's number; 0 for an empty log.
    pub number: u64,
    /// Its hash; empty for an empty log.
    pub hash: String,
}

impl std::fmt::Display for LogHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.number, self.hash)
    }
}

impl std::str::FromStr for LogHead {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let head = text.split_once(':').and_then(|(number, hash)| {
            let number = number.parse().ok()?;
            let is_hash = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
            (is_hash || number == 0).then(|| Self {
                number,
                hash: hash.to_owned(),
            })
        });
        head.ok_or_else(|| "expected what `hepaflow audit verify` printed: NUMBER:HASH".to_owned())
    }
}

/// Something in the log that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogFault {
    /// Rows are gone.
    #[error("rows {from} to {to} are missing")]
    Missing {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// A row is not what was written behind the row before it.
    #[error("row {0} was changed or put elsewhere: it does not fit its hash and the row before it")]
    Changed(u64),
    /// The log ends before it should.
    #[error("rows {from} to {to} at the end are missing")]
    CutOff {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// The log goes on behind its end, or ends otherwise.
    #[error("row {0} is not the one that the log ended with: the end was written anew")]
    OtherEnd(u64),
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
        self.read(sql, &[after.into(), (limit as u64).into()], |row| {
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
        })
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
        let end = self.read("SELECT number, hash FROM facts_head", &[], head)?;
        let end = end.into_iter().next();
        let mut chain = Chain::default();
        let mut at_known = None;
        loop {
            let sql = "SELECT number, time_ns, actor, reason, change, kind, slot, fact, hash
                       FROM facts WHERE number > $1 ORDER BY number LIMIT 4096";
            let rows = self.read(sql, &[chain.head.number.into()], StoredRow::read)?;
            if rows.is_empty() {
                break;
            }
            for row in rows {
                chain.follow(&row);
                if known.is_some_and(|known| known.number == row.number) {
                    at_known = Some(row.hash);
                }
            }
        }
        let Chain {
            rows,
            head,
            mut faults,
        } = chain;
        match end {
            Some(end) if end.number > head.number => faults.push(LogFault::CutOff {
                from: head.number + 1,
                to: end.number,
            }),
            Some(end) if end == head => {}
            _ => faults.push(LogFault::OtherEnd(head.number)),
        }
        match known {
            Some(known) if known.number > head.number => faults.push(LogFault::CutOff {
                from: head.number + 1,
                to: known.number,
            }),
            Some(known) if known.number > 0 && at_known.as_ref() != Some(&known.hash) => {
                faults.push(LogFault::OtherEnd(known.number));
            }
            _ => {}
        }
        faults.dedup();
        Ok(Verified { rows, head, faults })
    }
}

fn head(row: &Row<'_>) -> Result<LogHead, DatabaseFault> {
    Ok(LogHead {
        number: row.unsigned(0)?,
        hash: row.text(1)?,
    })
}

/// Writes rows behind the log's end, which it holds until the transaction ends.
struct Writer<'a, 'b> {
    transaction: &'a mut Transaction<'b>,
    actor: &'a str,
    reason: &'a str,
    head: LogHead,
    time_ns: i64,
    latest_day: Day,
}

impl<'a, 'b> Writer<'a, 'b> {
    fn begin(
        transaction: &'a mut Transaction<'b>,
        actor: &'a str,
        reason: &'a str,
    ) -> Result<Self, DatabaseFault> {
        // Written first, so that other writers wait here.
        let sql = "UPDATE facts_head SET number = number RETURNING number, hash";
        let heads = transaction.read(sql, &[], head)?;
        let head = heads.into_iter().next();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Ok(Self {
            transaction,
            actor,
            reason,
            head: head.ok_or_else(|| wrong(0, "the end of the log is missing"))?,
            time_ns: now.as_nanos() as i64,
            latest_day: latest_day(SystemTime::now()),
        })
    }

    fn read_merges(&mut self, merges: &mut Merges) -> Result<(), DatabaseFault> {
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
    fn check(
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
    fn take(&mut self, change: &Change) -> Result<Result<Effect, FactError>, DatabaseFault> {
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
        let number = self.head.number + 1;
        let fact = numbered(fact, change, number);
        let mut row = StoredRow {
            number,
            time_ns: self.time_ns,
            actor: self.actor.to_owned(),
            reason: self.reason.to_owned(),
            change,
            kind: fact.kind().to_owned(),
            slot: slot.to_owned(),
            fact: serde_json::to_string(&fact).map_err(|error| wrong(7, error))?,
            hash: String::new(),
        };
        row.hash = row.hash_behind(&self.head.hash);
        self.transaction
            .insert("facts", &[row.values()], "", |_| Ok(()))?;
        self.head = LogHead {
            number,
            hash: row.hash,
        };
        Ok(number)
    }

    fn finish(self) -> Result<u64, DatabaseFault> {
        let sql = "UPDATE facts_head SET number = $1, hash = $2";
        let values = [self.head.number.into(), self.head.hash.as_str().into()];
        self.transaction.read(sql, &values, |_| Ok(()))?;
        Ok(self.head.number)
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

/// A row as it lies in the table.
struct StoredRow {
    number: u64,
    time_ns: i64,
    actor: String,
    reason: String,
    change: i64,
    kind: String,
    slot: String,
    fact: String,
    hash: String,
}

impl StoredRow {
    fn read(row: &Row<'_>) -> Result<Self, DatabaseFault> {
        Ok(Self {
            number: row.unsigned(0)?,
            time_ns: row.integer(1)?,
            actor: row.text(2)?,
            reason: row.text(3)?,
            change: row.integer(4)?,
            kind: row.text(5)?,
            slot: row.text(6)?,
            fact: row.text(7)?,
            hash: row.text(8)?,
        })
    }

    fn values(&self) -> Vec<Value<'_>> {
        vec![
            self.number.into(),
            self.time_ns.into(),
            self.actor.as_str().into(),
            self.reason.as_str().into(),
            self.change.into(),
            self.kind.as_str().into(),
            self.slot.as_str().into(),
            self.fact.as_str().into(),
            self.hash.as_str().into(),
        ]
    }

    /// SHA-256 of the hash before and of this row: of each field its length in
    /// bytes (64 bits, big-endian) and its bytes, so that nothing can be moved
    /// from one field to the next.
    fn hash_behind(&self, before: &str) -> String {
        let numbers = [self.number as i64, self.time_ns, self.change].map(|n| n.to_string());
        let [number, time_ns, change] = &numbers;
        let mut digest = Sha256::new();
        for field in [
            before,
            number,
            time_ns,
            &self.actor,
            &self.reason,
            change,
            &self.kind,
            &self.slot,
            &self.fact,
        ] {
            digest.update((field.len() as u64).to_be_bytes());
            digest.update(field);
        }
        digest
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// Follows the log from row to row.
#[derive(Default)]
struct Chain {
    rows: u64,
    head: LogHead,
    faults: Vec<LogFault>,
}

impl Chain {
    fn follow(&mut self, row: &StoredRow) {
        self.rows += 1;
        let expected = self.head.number + 1;
        if row.number != expected {
            self.faults.push(LogFault::Missing {
                from: expected,
                to: row.number - 1,
            });
        } else if row.hash != row.hash_behind(&self.head.hash) {
            self.faults.push(LogFault::Changed(row.number));
        }
        self.head = LogHead {
            number: row.number,
            hash: row.hash.clone(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clinical::{Activation, BloodTest, Dated, Exam};
    use crate::domain::{ContentHash, Stage};

    const TEST: BloodTest = BloodTest {
        age: 50_000,
        ast: 40_000,
        alt: 30_000,
        platelets: 200_000,
        ast_upper_limit: BloodTest::DEFAULT_AST_UPPER_LIMIT,
    };

    fn open() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("results.sqlite")).unwrap();
        (folder, store)
    }

    fn patient(name: &str) -> PatientId {
        PatientId::new(name)
    }

    fn blood(day: Day, platelets: i64) -> Fact {
        Fact::Blood(Dated {
            patient: patient("P"),
            day,
            value: BloodTest { platelets, ..TEST },
        })
    }

    fn merge(from: &str, into: &str) -> Fact {
        Fact::Merge(patient(from), patient(into))
    }

    fn enter(store: &mut Store, fact: Fact) -> Result<Effect, FactError> {
        let receipt = store.enter(&[Change::Enter(fact)], "test", "why").unwrap();
        receipt.outcomes.into_iter().next().unwrap()
    }

    fn withdraw(store: &mut Store, fact: Fact) -> Result<Effect, FactError> {
        let receipt = store
            .enter(&[Change::Withdraw(fact)], "test", "why")
            .unwrap();
        receipt.outcomes.into_iter().next().unwrap()
    }

    #[test]
    fn the_same_fact_twice_changes_nothing_and_another_value_corrects_it() {
        let (_folder, mut store) = open();
        assert_eq!(enter(&mut store, blood(1, 200_000)), Ok(Effect::Logged(1)));
        assert_eq!(enter(&mut store, blood(1, 200_000)), Ok(Effect::Unchanged));
        assert_eq!(enter(&mut store, blood(2, 200_000)), Ok(Effect::Logged(2)));
        assert_eq!(
            enter(&mut store, blood(1, 90_000)),
            Ok(Effect::Corrected(4))
        );
        let rows = store.facts_after(0, 100).unwrap();
        let changes: Vec<_> = rows.iter().map(|row| &row.change).collect();
        assert_eq!(
            changes,
            [
                &Change::Enter(blood(1, 200_000)),
                &Change::Enter(blood(2, 200_000)),
                &Change::Withdraw(blood(1, 200_000)),
                &Change::Enter(blood(1, 90_000)),
            ]
        );
        assert_eq!((rows[3].number, rows[3].actor.as_str()), (4, "test"));
        assert_eq!(rows[3].reason, "why");
        assert_eq!(store.facts_after(3, 100).unwrap(), rows[3..]);
        // A withdrawn fact may come again.
        assert_eq!(
            withdraw(&mut store, blood(2, 200_000)),
            Ok(Effect::Logged(5))
        );
        assert_eq!(
            withdraw(&mut store, blood(2, 200_000)),
            Err(FactError::NotStanding)
        );
        assert_eq!(enter(&mut store, blood(2, 200_000)), Ok(Effect::Logged(6)));
        assert_eq!(store.verify_facts(None).unwrap().faults, []);
    }

    #[test]
    fn what_cannot_be_is_refused_and_the_rest_is_taken() {
        let (_folder, mut store) = open();
        let tomorrow = |days: u64| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            (now.as_secs() / 86_400 + days) as Day
        };
        let exam = |from, until| {
            Fact::Exam(Exam {
                content: ContentHash::of(b"film"),
                from,
                until,
                number: 0,
                patient: patient("P"),
            })
        };
        let model = ModelHash::of(b"stranger");
        let pathology = |name: &str| {
            Fact::Pathology(Dated {
                patient: patient(name),
                day: 0,
                value: Stage::F2,
            })
        };
        let changes = [
            blood(1, -200_000),
            blood(tomorrow(3), 200_000),
            merge("A", "B"),
            merge("B", "A"),
            merge("A", "B"),
            merge("A", "C"),
            merge("D", "D"),
            exam(4, 4),
            Fact::Activation(Activation { number: 0, model }),
            pathology(""),
            pathology("a\nb"),
            exam(4, 9),
        ]
        .map(Change::Enter);
        let receipt = store.enter(&changes, "test", "").unwrap();
        let value = blood_error();
        assert_eq!(
            receipt.outcomes,
            [
                Err(FactError::Value(value)),
                Err(FactError::Future),
                Ok(Effect::Logged(1)),
                Err(FactError::Merge(MergeError::Cycle)),
                Ok(Effect::Unchanged),
                Err(FactError::Merge(MergeError::Taken)),
                Err(FactError::Merge(MergeError::Cycle)),
                Err(FactError::EmptyExam),
                Err(FactError::UnknownModel),
                Err(FactError::Identifier),
                Err(FactError::Identifier),
                Ok(Effect::Logged(2)),
            ]
        );
        assert_eq!(receipt.last, 2);
        assert_eq!(
            withdraw(&mut store, merge("A", "C")),
            Err(FactError::Merge(MergeError::Unknown))
        );
        // What was entered before is known to a later transaction.
        assert_eq!(
            enter(&mut store, merge("B", "A")),
            Err(FactError::Merge(MergeError::Cycle))
        );
        assert_eq!(withdraw(&mut store, merge("A", "B")), Ok(Effect::Logged(3)));
        assert_eq!(enter(&mut store, merge("B", "A")), Ok(Effect::Logged(4)));
        // Said again, it is the same exam, whatever its number.
        assert_eq!(enter(&mut store, exam(4, 9)), Ok(Effect::Unchanged));
    }

    fn blood_error() -> InvalidValue {
        BloodTest {
            platelets: -1,
            ..TEST
        }
        .checked()
        .unwrap_err()
    }

    #[test]
    fn one_model_is_active_and_activating_it_again_changes_nothing() {
        let (_folder, mut store) = open();
        let models = [b"1", b"2"].map(|name| ModelHash::of(name));
        for hash in models {
            let classes = vec!["F0-F1".parse().unwrap(), "F2-F4".parse().unwrap()];
            store
                .register(&crate::store::StoredModel {
                    hash,
                    architecture: "none".to_owned(),
                    classes,
                })
                .unwrap();
        }
        let activate = |model| Fact::Activation(Activation { number: 0, model });
        assert_eq!(store.active_model().unwrap(), None);
        assert_eq!(
            enter(&mut store, activate(models[0])),
            Ok(Effect::Logged(1))
        );
        assert_eq!(
            enter(&mut store, activate(models[0])),
            Ok(Effect::Unchanged)
        );
        assert_eq!(
            enter(&mut store, activate(models[1])),
            Ok(Effect::Corrected(3))
        );
        assert_eq!(store.active_model().unwrap(), Some(models[1]));
        let last = store.facts_after(2, 1).unwrap().remove(0);
        assert_eq!(
            last.change,
            Change::Enter(Fact::Activation(Activation {
                number: 3,
                model: models[1]
            }))
        );
    }

    /// A sound log of eight rows, then whatever `tamper` does to it.
    fn tampered(tamper: &str) -> Vec<LogFault> {
        let (_folder, mut store) = open();
        for day in 0..8 {
            enter(&mut store, blood(day, 200_000)).unwrap();
        }
        let sound = store.verify_facts(None).unwrap();
        assert_eq!(
            (sound.rows, sound.head.number, sound.faults.len()),
            (8, 8, 0)
        );
        let text = sound.head.to_string();
        assert_eq!(text.parse(), Ok(sound.head.clone()));
        store
            .change(|transaction| {
                for statement in tamper.split(';').filter(|sql| !sql.trim().is_empty()) {
                    transaction.read(statement, &[], |_| Ok(()))?;
                }
                Ok(())
            })
            .unwrap();
        store.verify_facts(Some(&sound.head)).unwrap().faults
    }

    #[test]
    fn a_row_that_was_changed_taken_out_moved_or_cut_off_is_found_and_named() {
        assert_eq!(tampered(""), []);
        for (column, value) in [
            ("fact", "replace(fact, '200000', '300000')"),
            ("time_ns", "time_ns + 1"),
            ("actor", "'somebody else'"),
            ("reason", "'another'"),
            ("change", "-1"),
            ("slot", "slot || ' '"),
            ("kind", "'pathology'"),
            ("hash", "'00'"),
        ] {
            let sql = format!("UPDATE facts SET {column} = {value} WHERE number = 5");
            let faults = tampered(&sql);
            assert_eq!(faults[0], LogFault::Changed(5), "{column}");
        }
        assert_eq!(
            tampered("DELETE FROM facts WHERE number IN (3, 4)"),
            [LogFault::Missing { from: 3, to: 4 }]
        );
        assert_eq!(
            tampered("DELETE FROM facts WHERE number = 1"),
            [LogFault::Missing { from: 1, to: 1 }]
        );
        // Two rows in each other's place.
        let moved = tampered(
            "UPDATE facts SET number = 99 WHERE number = 3;
             UPDATE facts SET number = 3 WHERE number = 4;
             UPDATE facts SET number = 4 WHERE number = 99",
        );
        assert_eq!(moved[0], LogFault::Changed(3));
        assert_eq!(
            tampered("DELETE FROM facts WHERE number > 6"),
            [LogFault::CutOff { from: 7, to: 8 }]
        );
        // Somebody who knows of the noted end moves it too: only what was noted
        // elsewhere helps.
        assert_eq!(
            tampered(
                "DELETE FROM facts WHERE number > 6;
                 UPDATE facts_head SET number = 6,
                     hash = (SELECT hash FROM facts WHERE number = 6)"
            ),
            [LogFault::CutOff { from: 7, to: 8 }]
        );
        assert_eq!(tampered("DELETE FROM facts_head"), [LogFault::OtherEnd(8)]);
        assert_eq!(
            tampered("DELETE FROM facts"),
            [LogFault::CutOff { from: 1, to: 8 }]
        );
    }
}
