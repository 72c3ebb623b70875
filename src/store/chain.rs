//! Logs to which rows are only ever added: the facts, and the changes of answers.
//!
//! Each row carries the hash of its own fields and of the row before it, so that a
//! row that was changed, taken out or put elsewhere is found. Where a log ends is
//! noted beside it, which is also what writers lock.

use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::database::Transaction;
use super::row::{Row, Value, wrong};
use super::{DatabaseFault, Store, StoreError};

/// How a log was found.
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

/// Something in a log that is not as it was written.
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

/// A log's tables.
pub(super) struct Log {
    /// Its rows.
    table: &'static str,
    /// Where it ends.
    end: &'static str,
    /// Columns, the number first; the hash, which follows, is made of these.
    fields: &'static [&'static str],
}

/// What people and other systems say.
pub(super) const FACTS: Log = Log {
    table: "facts",
    end: "facts_head",
    fields: &[
        "number", "time_ns", "actor", "reason", "change", "kind", "slot", "fact",
    ],
};

/// What became of answers.
pub(super) const ANSWERS: Log = Log {
    table: "answer_log",
    end: "answer_log_head",
    fields: &[
        "number", "time_ns", "actor", "reason", "patient", "model", "answer",
    ],
};

/// The end of a log, held by one writer until its transaction ends.
pub(super) struct End {
    log: &'static Log,
    head: LogHead,
    /// When it was taken hold of, in nanoseconds since 1970: the time of every row.
    pub(super) time_ns: i64,
}

impl End {
    pub(super) fn hold(
        log: &'static Log,
        transaction: &mut Transaction<'_>,
    ) -> Result<Self, DatabaseFault> {
        // Written first, so that other writers wait here.
        let sql = format!(
            "UPDATE {} SET number = number RETURNING number, hash",
            log.end
        );
        let heads = transaction.read(&sql, &[], head)?;
        let head = heads.into_iter().next();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Ok(Self {
            log,
            head: head.ok_or_else(|| wrong(0, "the end of the log is missing"))?,
            time_ns: now.as_nanos() as i64,
        })
    }

    /// The number of the next row.
    pub(super) fn next(&self) -> u64 {
        self.head.number + 1
    }

    /// Adds rows, each without its number and hash.
    pub(super) fn append(
        &mut self,
        transaction: &mut Transaction<'_>,
        rows: Vec<Vec<Value<'_>>>,
    ) -> Result<(), DatabaseFault> {
        let mut whole = Vec::with_capacity(rows.len());
        for mut row in rows {
            let number = self.next();
            row.insert(0, number.into());
            let texts: Vec<_> = row.iter().map(Value::to_text).collect();
            let hash = hash_behind(&self.head.hash, texts.iter().map(AsRef::as_ref));
            drop(texts);
            row.push(hash.clone().into());
            whole.push(row);
            self.head = LogHead { number, hash };
        }
        transaction.insert(self.log.table, &whole, "", |_| Ok(()))?;
        Ok(())
    }

    /// Notes where the log ends now; says the last number.
    pub(super) fn note(self, transaction: &mut Transaction<'_>) -> Result<u64, DatabaseFault> {
        let sql = format!("UPDATE {} SET number = $1, hash = $2", self.log.end);
        let values = [self.head.number.into(), self.head.hash.as_str().into()];
        transaction.read(&sql, &values, |_| Ok(()))?;
        Ok(self.head.number)
    }
}

fn head(row: &Row<'_>) -> Result<LogHead, DatabaseFault> {
    Ok(LogHead {
        number: row.unsigned(0)?,
        hash: row.text(1)?,
    })
}

/// SHA-256 of the hash before and of a row: of each field its length in bytes (64
/// bits, big-endian) and its bytes, so that nothing can be moved from one field to
/// the next. Numbers are written in decimal.
fn hash_behind<'a>(before: &'a str, fields: impl Iterator<Item = &'a str>) -> String {
    let mut digest = Sha256::new();
    for field in std::iter::once(before).chain(fields) {
        digest.update((field.len() as u64).to_be_bytes());
        digest.update(field);
    }
    let mut hex = String::new();
    for byte in digest.finalize() {
        hex += &format!("{byte:02x}");
    }
    hex
}

/// Follows a log from row to row.
#[derive(Default)]
struct Chain {
    rows: u64,
    head: LogHead,
    faults: Vec<LogFault>,
}

impl Chain {
    /// `fields` are a row's, the number first, and its hash behind them.
    fn follow(&mut self, number: u64, fields: &[String]) {
        let Some((hash, fields)) = fields.split_last() else {
            return;
        };
        self.rows += 1;
        let expected = self.head.number + 1;
        if number != expected {
            self.faults.push(LogFault::Missing {
                from: expected,
                to: number.saturating_sub(1),
            });
        } else if *hash != hash_behind(&self.head.hash, fields.iter().map(String::as_str)) {
            self.faults.push(LogFault::Changed(number));
        }
        self.head = LogHead {
            number,
            hash: hash.clone(),
        };
    }
}

impl Store {
    /// Reads the whole log and finds every row that was changed, taken out, put
    /// elsewhere or cut off. `known` is an end that was noted down before.
    pub(super) fn verify(
        &self,
        log: &Log,
        known: Option<&LogHead>,
    ) -> Result<Verified, StoreError> {
        let sql = format!("SELECT number, hash FROM {}", log.end);
        let end = self.read(&sql, &[], head)?.into_iter().next();
        let texts: Vec<_> = log
            .fields
            .iter()
            .chain(&["hash"])
            .map(|column| format!("CAST({column} AS TEXT)"))
            .collect();
        // By the table's own column: those that are cast have the same names.
        let sql = format!(
            "SELECT number, {texts} FROM {table} WHERE number > $1
             ORDER BY {table}.number LIMIT 4096",
            texts = texts.join(", "),
            table = log.table
        );
        let mut chain = Chain::default();
        let mut at_known = None;
        loop {
            let rows = self.read(&sql, &[chain.head.number.into()], |row| {
                let fields: Vec<_> = (1..=texts.len())
                    .map(|column| row.text(column))
                    .collect::<Result<_, _>>()?;
                Ok((row.unsigned(0)?, fields))
            })?;
            if rows.is_empty() {
                break;
            }
            for (number, fields) in rows {
                chain.follow(number, &fields);
                if known.is_some_and(|known| known.number == number) {
                    at_known = Some(chain.head.hash.clone());
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
