//! Results on their way out. A row is written in the transaction that changes an
//! answer, and deleted when its sink has taken it: what happens in between, a
//! crash or a sink that is down, loses nothing and may repeat something.

use std::fs::{File, TryLockError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::database::{Database, Transaction};
use super::row::{Value, wrong};
use super::{DatabaseFault, PatientChange, Store, StoreError};
use crate::config::StorePlace;

/// A sink that changes of answers are kept for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxSink {
    /// Its name in the pipeline file.
    pub name: String,
    /// With more rows waiting than this, a new answer takes the place of those
    /// that wait for the same patient and model.
    pub backlog: u64,
}

/// A change that a sink has not taken yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    /// Its place in the order of delivery.
    pub sequence: i64,
    /// Names the change, the same however often it is delivered.
    pub event: String,
    /// How the answer changed.
    pub change: PatientChange,
    /// When it did.
    pub changed: SystemTime,
}

/// A change about to be committed, under its name.
pub(super) struct Event<'a> {
    pub(super) change: &'a PatientChange,
    name: String,
}

impl<'a> Event<'a> {
    pub(super) fn of(change: &'a PatientChange) -> Self {
        Self {
            change,
            name: format!("{:032x}", rand::random::<u128>()),
        }
    }
}

/// Writes `events` for every sink.
pub(super) fn enqueue(
    transaction: &mut Transaction<'_>,
    sinks: &[OutboxSink],
    events: &[&Event<'_>],
) -> Result<(), DatabaseFault> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let changed = now.unwrap_or_default().as_nanos() as i64;
    let changes: Vec<_> = events
        .iter()
        .map(|event| serde_json::to_string(event.change).map_err(|error| wrong(0, error)))
        .collect::<Result<_, _>>()?;
    for sink in sinks {
        let name = sink.name.as_str();
        if count(transaction.read(COUNT, &[name.into()], |row| row.unsigned(0))?) > sink.backlog {
            for event in events {
                let (patient, model) = event.change.key();
                let key = [
                    name.into(),
                    patient.expose().into(),
                    model.to_string().into(),
                ];
                transaction.read(SUPERSEDE, &key, |_| Ok(()))?;
            }
        }
        let rows: Vec<Vec<Value<'_>>> = events
            .iter()
            .zip(&changes)
            .map(|(event, change)| {
                let (patient, model) = event.change.key();
                vec![
                    name.into(),
                    event.name.as_str().into(),
                    patient.expose().into(),
                    model.to_string().into(),
                    change.as_str().into(),
                    changed.into(),
                ]
            })
            .collect();
        let table = "outbox (sink, event, patient, model, change, changed_ns)";
        transaction.insert(table, &rows, "", |_| Ok(()))?;
    }
    Ok(())
}

const COUNT: &str = "SELECT count(*) FROM outbox WHERE sink = $1";
const SUPERSEDE: &str = "DELETE FROM outbox WHERE sink = $1 AND patient = $2 AND model = $3";

fn count(rows: Vec<u64>) -> u64 {
    rows.into_iter().sum()
}

impl Store {
    /// Keeps changes of answers for `sinks` from now on.
    pub fn deliver_to(&mut self, sinks: Vec<OutboxSink>) {
        self.sinks = sinks;
    }

    /// Makes this connection the only one that delivers to `sink`; false where
    /// another one does. Asking again is free.
    ///
    /// # Errors
    /// If the store cannot be asked.
    pub fn claim_sink(&mut self, sink: &str) -> Result<bool, StoreError> {
        let StorePlace::File(file) = &self.place else {
            let Database::Postgres(link) = &self.database else {
                return Ok(false);
            };
            return link.claim(sink).map_err(|fault| fault.at(&self.place));
        };
        if self.claim.is_some() {
            return Ok(true);
        }
        let mut name = file.clone().into_os_string();
        name.push(format!(".{sink}.lock"));
        let failed = |error| StoreError::Folder {
            file: file.clone(),
            error,
        };
        let lock = File::create(name).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {
                self.claim = Some(lock);
                Ok(true)
            }
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// The oldest `limit` changes that wait for `sink`, in the order in which
    /// they were made.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn outgoing(&self, sink: &str, limit: usize) -> Result<Vec<Outgoing>, StoreError> {
        let sql = "SELECT sequence, event, change, changed_ns FROM outbox
                   WHERE sink = $1 ORDER BY sequence LIMIT $2";
        let values = [sink.into(), (limit as u64).into()];
        self.database
            .read(sql, &values, |row| {
                Ok(Outgoing {
                    sequence: row.integer(0)?,
                    event: row.text(1)?,
                    change: row.json(2)?,
                    changed: UNIX_EPOCH + Duration::from_nanos(row.unsigned(3)?),
                })
            })
            .map_err(|fault| fault.at(&self.place))
    }

    /// Forgets what a sink has taken.
    ///
    /// # Errors
    /// If the database refuses.
    pub fn delivered(&mut self, taken: &[Outgoing]) -> Result<(), StoreError> {
        self.database
            .change(|transaction| {
                for outgoing in taken {
                    let sql = "DELETE FROM outbox WHERE sequence = $1";
                    transaction.read(sql, &[outgoing.sequence.into()], |_| Ok(()))?;
                }
                Ok(())
            })
            .map_err(|fault| fault.at(&self.place))
    }

    /// How many changes wait for `sink`.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn backlog(&self, sink: &str) -> Result<u64, StoreError> {
        self.database
            .read(COUNT, &[sink.into()], |row| row.unsigned(0))
            .map(count)
            .map_err(|fault| fault.at(&self.place))
    }
}
