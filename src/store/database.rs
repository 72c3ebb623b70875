//! Statements with `$1`, `$2` in the order in which their values are bound.

use super::DatabaseFault;
use super::row::{Row, Value};

/// What is changed together: everything or nothing.
pub(super) struct Transaction<'a>(pub(super) rusqlite::Transaction<'a>);

impl Transaction<'_> {
    /// Runs a statement; the rows are those that it returns.
    pub(super) fn read<T>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        take: impl FnMut(&Row<'_>) -> Result<T, DatabaseFault>,
    ) -> Result<Vec<T>, DatabaseFault> {
        read(&self.0, sql, values, take)
    }

    /// `INSERT INTO table VALUES (row), (row), .. end` for rows of one length;
    /// gives what `end` returns.
    pub(super) fn insert<T>(
        &mut self,
        table: &str,
        rows: &[Vec<Value<'_>>],
        end: &str,
        mut take: impl FnMut(&Row<'_>) -> Result<T, DatabaseFault>,
    ) -> Result<Vec<T>, DatabaseFault> {
        let mut taken = Vec::new();
        for row in rows {
            let places: Vec<_> = (1..=row.len()).map(|place| format!("${place}")).collect();
            let sql = format!("INSERT INTO {table} VALUES ({}) {end}", places.join(", "));
            taken.extend(self.read(&sql, row, &mut take)?);
        }
        Ok(taken)
    }
}

pub(super) fn read<T>(
    connection: &rusqlite::Connection,
    sql: &str,
    values: &[Value<'_>],
    mut take: impl FnMut(&Row<'_>) -> Result<T, DatabaseFault>,
) -> Result<Vec<T>, DatabaseFault> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(rusqlite::params_from_iter(values))?;
    let mut taken = Vec::new();
    while let Some(row) = rows.next()? {
        taken.push(take(&Row::Sqlite(row))?);
    }
    Ok(taken)
}
