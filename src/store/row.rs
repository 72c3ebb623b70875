//! Values on their way into a database and out of it, the same for both.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Display;
use std::str::FromStr;

use bytes::BytesMut;
use postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use rusqlite::types::ToSqlOutput;

use super::DatabaseFault;

/// A value for a statement.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Null,
    Integer(i64),
    Text(Cow<'a, str>),
}

impl Value<'_> {
    /// As a database casts it; nothing where there is none.
    pub(super) fn to_text(&self) -> Cow<'_, str> {
        match self {
            Self::Null => Cow::Borrowed(""),
            Self::Integer(number) => Cow::Owned(number.to_string()),
            Self::Text(text) => Cow::Borrowed(text),
        }
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<u64> for Value<'_> {
    /// Counts and times here stay far below 2^63.
    fn from(number: u64) -> Self {
        Self::Integer(number as i64)
    }
}

impl<'a> From<Option<&'a str>> for Value<'a> {
    fn from(text: Option<&'a str>) -> Self {
        text.map_or(Self::Null, Self::from)
    }
}

impl From<Option<String>> for Value<'_> {
    fn from(text: Option<String>) -> Self {
        text.map_or(Self::Null, Self::from)
    }
}

impl rusqlite::ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => ToSqlOutput::Owned(rusqlite::types::Value::Null),
            Self::Integer(number) => ToSqlOutput::Owned((*number).into()),
            Self::Text(text) => ToSqlOutput::Borrowed(text.as_ref().into()),
        })
    }
}

impl ToSql for Value<'_> {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Integer(number) => number.to_sql_checked(kind, out),
            Self::Text(text) => text.as_ref().to_sql_checked(kind, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// A row that a database answered with.
pub(super) enum Row<'a> {
    Sqlite(&'a rusqlite::Row<'a>),
    Postgres(&'a postgres::Row),
}

impl Row<'_> {
    pub(super) fn optional_text(&self, column: usize) -> Result<Option<String>, DatabaseFault> {
        match self {
            Self::Sqlite(row) => row.get(column).map_err(|error| wrong(column, error)),
            Self::Postgres(row) => row.try_get(column).map_err(|error| wrong(column, error)),
        }
    }

    pub(super) fn text(&self, column: usize) -> Result<String, DatabaseFault> {
        self.optional_text(column)?
            .ok_or_else(|| wrong(column, "a value is missing"))
    }

    pub(super) fn integer(&self, column: usize) -> Result<i64, DatabaseFault> {
        match self {
            Self::Sqlite(row) => row.get(column).map_err(|error| wrong(column, error)),
            Self::Postgres(row) => row.try_get(column).map_err(|error| wrong(column, error)),
        }
    }

    pub(super) fn unsigned(&self, column: usize) -> Result<u64, DatabaseFault> {
        let number = self.integer(column)?;
        number.try_into().map_err(|error| wrong(column, error))
    }

    /// A text that is read by its type's own `FromStr`.
    pub(super) fn parsed<T: FromStr<Err: Display>>(
        &self,
        column: usize,
    ) -> Result<T, DatabaseFault> {
        self.text(column)?
            .parse()
            .map_err(|error| wrong(column, error))
    }

    /// A text that holds JSON.
    pub(super) fn json<T: serde::de::DeserializeOwned>(
        &self,
        column: usize,
    ) -> Result<T, DatabaseFault> {
        serde_json::from_str(&self.text(column)?).map_err(|error| wrong(column, error))
    }
}

pub(super) fn wrong(column: usize, problem: impl Display) -> DatabaseFault {
    DatabaseFault::Column {
        column,
        problem: problem.to_string(),
    }
}
