//! One face for two databases: statements that both understand, written with
//! `$1`, `$2` in the order in which they are bound.

use postgres::fallible_iterator::FallibleIterator;

use super::migrate::Schema;
use super::postgres_link::PostgresLink;
use super::row::{Row, Value};
use super::{DatabaseFault, StoreError, sqlite};
use crate::config::StorePlace;

/// Rows that one statement inserts at most: a round trip for each of them would
/// cost more than the rest.
const ROWS_A_STATEMENT: usize = 100;

/// A connection.
pub(super) enum Database {
    Sqlite(rusqlite::Connection),
    Postgres(PostgresLink),
}

/// What is changed together: everything or nothing.
pub(super) enum Transaction<'a> {
    Sqlite(rusqlite::Transaction<'a>),
    Postgres(postgres::Transaction<'a>),
}

impl Database {
    pub(super) fn open(place: &StorePlace) -> Result<Self, StoreError> {
        match place {
            StorePlace::File(file) => sqlite::open(file).map(Self::Sqlite),
            StorePlace::Postgres(url) => PostgresLink::open(url).map(Self::Postgres),
        }
    }

    /// How far the tables have come.
    pub(super) fn schema(&self) -> Result<Schema, DatabaseFault> {
        match self {
            Self::Sqlite(connection) => sqlite::schema(connection),
            Self::Postgres(link) => link.schema(),
        }
    }

    /// All rows that `sql` asks for.
    pub(super) fn read<T>(
        &self,
        sql: &str,
        values: &[Value<'_>],
        mut take: impl FnMut(&Row<'_>) -> Result<T, DatabaseFault>,
    ) -> Result<Vec<T>, DatabaseFault> {
        match self {
            Self::Sqlite(connection) => {
                let mut statement = connection.prepare_cached(sql)?;
                sqlite_rows(&mut statement, values, &mut take)
            }
            Self::Postgres(link) => link.with_client(|client| {
                let rows = client.query_raw(sql, values)?;
                postgres_rows(rows, &mut take)
            }),
        }
    }

    /// Changes what `work` changes, whole or not at all; it is on disk
    /// afterwards. A lost connection is made again and `work` repeated, so it
    /// must change nothing when what it writes is there already.
    pub(super) fn change<T>(
        &mut self,
        mut work: impl FnMut(&mut Transaction<'_>) -> Result<T, DatabaseFault>,
    ) -> Result<T, DatabaseFault> {
        match self {
            Self::Sqlite(connection) => {
                let behavior = rusqlite::TransactionBehavior::Immediate;
                let mut transaction =
                    Transaction::Sqlite(connection.transaction_with_behavior(behavior)?);
                let result = work(&mut transaction)?;
                transaction.commit()?;
                Ok(result)
            }
            Self::Postgres(link) => link.with_client(|client| {
                let mut transaction = Transaction::Postgres(client.transaction()?);
                let result = work(&mut transaction)?;
                transaction.commit()?;
                Ok(result)
            }),
        }
    }
}

impl Transaction<'_> {
    fn commit(self) -> Result<(), DatabaseFault> {
        match self {
            Self::Sqlite(transaction) => Ok(transaction.commit()?),
            Self::Postgres(transaction) => Ok(transaction.commit()?),
        }
    }

    /// Runs statements that need no values.
    pub(super) fn batch(&mut self, sql: &str) -> Result<(), DatabaseFault> {
        match self {
            Self::Sqlite(transaction) => Ok(transaction.execute_batch(sql)?),
            Self::Postgres(transaction) => Ok(transaction.batch_execute(sql)?),
        }
    }

    /// Keeps other processes from changing the tables, and says how far these
    /// have come.
    pub(super) fn lock_schema(&mut self) -> Result<Schema, DatabaseFault> {
        match self {
            // The transaction is the only one that writes.
            Self::Sqlite(transaction) => sqlite::schema(transaction),
            Self::Postgres(transaction) => PostgresLink::lock_schema(transaction),
        }
    }

    pub(super) fn set_version(&mut self, version: i64) -> Result<(), DatabaseFault> {
        match self {
            Self::Sqlite(transaction) => {
                Ok(transaction.pragma_update(None, "user_version", version)?)
            }
            Self::Postgres(transaction) => PostgresLink::set_version(transaction, version),
        }
    }

    /// Runs a statement; the rows are those that it returns.
    pub(super) fn read<T>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        mut take: impl FnMut(&Row<'_>) -> Result<T, DatabaseFault>,
    ) -> Result<Vec<T>, DatabaseFault> {
        match self {
            Self::Sqlite(transaction) => {
                let mut statement = transaction.prepare_cached(sql)?;
                sqlite_rows(&mut statement, values, &mut take)
            }
            Self::Postgres(transaction) => {
                postgres_rows(transaction.query_raw(sql, values)?, &mut take)
            }
        }
    }

    /// `INSERT INTO table VALUES (row), (row), .. end` for rows of one length,
    /// in as few statements as may be; gives what `end` returns.
    pub(super) fn insert<T>(
        &mut self,
        table: &str,
        rows: &[Vec<Value<'_>>],
        end: &str,
        mut take: impl FnMut(&Row<'_>) -> Result<T, DatabaseFault>,
    ) -> Result<Vec<T>, DatabaseFault> {
        let mut taken = Vec::new();
        for rows in rows.chunks(ROWS_A_STATEMENT) {
            let mut sql = format!("INSERT INTO {table} VALUES ");
            let mut bound = 0;
            for (position, row) in rows.iter().enumerate() {
                sql += if position == 0 { "(" } else { ", (" };
                for column in 0..row.len() {
                    bound += 1;
                    let comma = if column == 0 { "" } else { ", " };
                    sql += &format!("{comma}${bound}");
                }
                sql += ")";
            }
            sql += " ";
            sql += end;
            let values = rows.concat();
            taken.extend(self.read(&sql, &values, &mut take)?);
        }
        Ok(taken)
    }
}

fn sqlite_rows<T>(
    statement: &mut rusqlite::Statement<'_>,
    values: &[Value<'_>],
    take: &mut impl FnMut(&Row<'_>) -> Result<T, DatabaseFault>,
) -> Result<Vec<T>, DatabaseFault> {
    let mut rows = statement.query(rusqlite::params_from_iter(values))?;
    let mut taken = Vec::new();
    while let Some(row) = rows.next()? {
        taken.push(take(&Row::Sqlite(row))?);
    }
    Ok(taken)
}

fn postgres_rows<T>(
    mut rows: postgres::RowIter<'_>,
    take: &mut impl FnMut(&Row<'_>) -> Result<T, DatabaseFault>,
) -> Result<Vec<T>, DatabaseFault> {
    let mut taken = Vec::new();
    while let Some(row) = rows.next()? {
        taken.push(take(&Row::Postgres(&row))?);
    }
    Ok(taken)
}
