use std::fmt;
use std::path::PathBuf;

use super::migrate::VERSION;
use crate::config::StorePlace;

/// The store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading results from a place where no run has written any.
    #[error("no results at {place}: run a pipeline first, or name what its [store] names")]
    Missing {
        /// Where they were looked for.
        place: StorePlace,
    },
    /// The folder of an SQLite file could not be made.
    #[error("cannot make the folder of {}: {error}", file.display())]
    Folder {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The database could not be reached.
    #[error("cannot reach the store {place}: {problem}")]
    Unreachable {
        /// Where it should be.
        place: StorePlace,
        /// What went wrong.
        problem: String,
    },
    /// The database refused, or its disk did.
    #[error("the store {place}: {fault}")]
    Refused {
        /// Which store.
        place: StorePlace,
        /// Why.
        fault: DatabaseFault,
    },
    /// A newer hepaflow wrote it.
    #[error(
        "the store {place} has schema version {found}, and this hepaflow knows {VERSION}: use a newer one"
    )]
    Newer {
        /// Which store.
        place: StorePlace,
        /// Its version.
        found: i64,
    },
    /// The database is somebody else's.
    #[error("{place} is a database, but no store of hepaflow: name another in [store]")]
    Foreign {
        /// Which database.
        place: StorePlace,
    },
    /// What is in it is not what this program writes.
    #[error(
        "the store {place} is damaged: {problem}; bring it back from a backup, or name another and run again"
    )]
    Damaged {
        /// Which store.
        place: StorePlace,
        /// Which part, and how.
        problem: String,
    },
}

/// What a database answered. No value of a row is shown: it may name a patient.
#[derive(Debug)]
pub enum DatabaseFault {
    /// SQLite's answer.
    Sqlite(rusqlite::Error),
    /// PostgreSQL's answer.
    Postgres(postgres::Error),
    /// A column holds what this program does not write.
    Column {
        /// Its position in the row.
        column: usize,
        /// What is wrong with it.
        problem: String,
    },
}

impl fmt::Display for DatabaseFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(error) => error.fmt(f),
            Self::Postgres(error) => match error.as_db_error() {
                // Its detail and hint may repeat the row.
                Some(answer) => write!(f, "{} ({})", answer.message(), answer.code().code()),
                None => f.write_str(&with_causes(error)),
            },
            Self::Column { column, problem } => write!(f, "column {column}: {problem}"),
        }
    }
}

/// An error and what caused it, in one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text += ": ";
            text += &more;
        }
        cause = error.source();
    }
    text
}

impl From<rusqlite::Error> for DatabaseFault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<postgres::Error> for DatabaseFault {
    fn from(error: postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

impl DatabaseFault {
    /// Names the store.
    pub(super) fn at(self, place: &StorePlace) -> StoreError {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        let place = place.clone();
        match &self {
            Self::Column { .. } => StoreError::Damaged {
                place,
                problem: format!("it holds a row that cannot be read, {self}"),
            },
            Self::Sqlite(error)
                if matches!(
                    error.sqlite_error_code(),
                    Some(DatabaseCorrupt | NotADatabase)
                ) =>
            {
                StoreError::Damaged {
                    place,
                    problem: self.to_string(),
                }
            }
            _ => StoreError::Refused { place, fault: self },
        }
    }
}
