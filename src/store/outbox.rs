//! Results on their way out. A row is written in the transaction that changes an
//! answer, and deleted when its sink has taken it: what happens in between, a
//! crash or a sink that is down, loses nothing and may repeat something. A change
//! that its sink refuses while it takes others is parked: it stays, and others pass.

use std::fs::{File, TryLockError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::database::{Database, Transaction};
use super::row::{Row, Value, wrong};
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

/// A change that a sink refuses while it takes others.
#[derive(Clone, Debug, PartialEq)]
pub struct Parked {
    /// Whose it is.
    pub sink: String,
    /// The change.
    pub outgoing: Outgoing,
    /// When it was put aside.
    pub parked: SystemTime,
    /// What the sink said last.
    pub refusal: String,
    /// Whether the sink has taken a later change of the same answer: then this one
    /// is not sent again.
    pub outdated: bool,
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
        // What is parked takes room too, and gives way to newer answers as well.
        let sql = "SELECT count(*) FROM outbox WHERE sink = $1";
        if count(transaction.read(sql, &[name.into()], |row| row.unsigned(0))?) > sink.backlog {
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
        let sql = format!(
            "SELECT {OUTGOING} FROM outbox WHERE sink = $1 AND parked_ns IS NULL
             ORDER BY sequence LIMIT $2"
        );
        self.read(&sql, &[sink.into(), (limit as u64).into()], outgoing)
    }

    /// Forgets what a sink has taken. What was parked of the same answer before is
    /// outdated by it.
    ///
    /// # Errors
    /// If the database refuses.
    pub fn delivered(&mut self, taken: &[Outgoing]) -> Result<(), StoreError> {
        self.change(|transaction| {
            for outgoing in taken {
                let sql = "DELETE FROM outbox WHERE sequence = $1 RETURNING sink";
                let sequence = outgoing.sequence.into();
                let sinks = transaction.read(sql, &[sequence], |row| row.text(0))?;
                let (patient, model) = outgoing.change.key();
                for sink in sinks {
                    let sql = "UPDATE outbox SET outdated = 1
                               WHERE sink = $1 AND patient = $2 AND model = $3
                                 AND sequence < $4 AND parked_ns IS NOT NULL";
                    let values = [
                        sink.into(),
                        patient.expose().into(),
                        model.to_string().into(),
                        outgoing.sequence.into(),
                    ];
                    transaction.read(sql, &values, |_| Ok(()))?;
                }
            }
            Ok(())
        })
    }

    /// Puts a change aside that its sink refuses: it waits no more, and stays.
    ///
    /// # Errors
    /// If the database refuses.
    pub fn park(&mut self, outgoing: &Outgoing, refusal: &str) -> Result<(), StoreError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_nanos() as i64;
        self.change(|transaction| {
            let sql = "UPDATE outbox SET parked_ns = $1, refusal = $2 WHERE sequence = $3";
            let values = [now.into(), refusal.into(), outgoing.sequence.into()];
            transaction.read(sql, &values, |_| Ok(())).map(drop)
        })
    }

    /// What is parked, in the order in which it was made.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn parked(&self) -> Result<Vec<Parked>, StoreError> {
        let sql = format!(
            "SELECT {OUTGOING}, sink, parked_ns, refusal, outdated FROM outbox
             WHERE parked_ns IS NOT NULL ORDER BY sequence"
        );
        self.read(&sql, &[], |row| {
            Ok(Parked {
                outgoing: outgoing(row)?,
                sink: row.text(4)?,
                parked: UNIX_EPOCH + Duration::from_nanos(row.unsigned(5)?),
                refusal: row.text(6)?,
                outdated: row.integer(7)? == 1,
            })
        })
    }

    /// Lets parked changes of `sink` wait again, in their old places: all that are
    /// not outdated, or the one called `event`. Says how many.
    ///
    /// # Errors
    /// If the database refuses.
    pub fn unpark(&mut self, sink: &str, event: Option<&str>) -> Result<u64, StoreError> {
        let sql = "UPDATE outbox SET parked_ns = NULL, refusal = NULL
                   WHERE sink = $1 AND parked_ns IS NOT NULL AND outdated = 0
                     AND ($2 = '' OR event = $3) RETURNING sequence";
        self.of_parked(sql, sink, event)
    }

    /// Forgets parked changes of `sink`: all, or the one called `event`. Says how
    /// many.
    ///
    /// # Errors
    /// If the database refuses.
    pub fn discard(&mut self, sink: &str, event: Option<&str>) -> Result<u64, StoreError> {
        let sql = "DELETE FROM outbox WHERE sink = $1 AND parked_ns IS NOT NULL
                     AND ($2 = '' OR event = $3) RETURNING sequence";
        self.of_parked(sql, sink, event)
    }

    fn of_parked(&mut self, sql: &str, sink: &str, event: Option<&str>) -> Result<u64, StoreError> {
        let event = event.unwrap_or_default();
        let values = [sink.into(), event.into(), event.into()];
        self.change(|transaction| Ok(transaction.read(sql, &values, |_| Ok(()))?.len() as u64))
    }

    /// How many changes wait for `sink`; those that are parked do not.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn backlog(&self, sink: &str) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) FROM outbox WHERE sink = $1 AND parked_ns IS NULL";
        self.read(sql, &[sink.into()], |row| row.unsigned(0))
            .map(count)
    }

    /// How many changes of `sink` are parked.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn parked_for(&self, sink: &str) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) FROM outbox WHERE sink = $1 AND parked_ns IS NOT NULL";
        self.read(sql, &[sink.into()], |row| row.unsigned(0))
            .map(count)
    }

    /// How many changes wait and how many are parked, by sink: of those that have
    /// any.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn waiting(&self) -> Result<Vec<(String, u64, u64)>, StoreError> {
        let sql = "SELECT sink, count(*), count(parked_ns) FROM outbox GROUP BY sink ORDER BY sink";
        self.read(sql, &[], |row| {
            let (all, parked) = (row.unsigned(1)?, row.unsigned(2)?);
            Ok((row.text(0)?, all - parked, parked))
        })
    }
}

/// The columns of [`outgoing`].
const OUTGOING: &str = "sequence, event, change, changed_ns";

fn outgoing(row: &Row<'_>) -> Result<Outgoing, DatabaseFault> {
    Ok(Outgoing {
        sequence: row.integer(0)?,
        event: row.text(1)?,
        change: row.json(2)?,
        changed: UNIX_EPOCH + Duration::from_nanos(row.unsigned(3)?),
    })
}
