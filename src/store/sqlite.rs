use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::migrate::Schema;
use super::{DatabaseFault, StoreError};
use crate::config::StorePlace;

/// How long a reader or a second writer waits for others to commit.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Opens `file`, made with its folder if need be.
pub(super) fn open(file: &Path) -> Result<Connection, StoreError> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(|error| StoreError::Folder {
            file: file.to_owned(),
            error,
        })?;
    }
    let fail = |error| DatabaseFault::Sqlite(error).at(&StorePlace::File(file.to_owned()));
    let connection = Connection::open(file).map_err(fail)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(fail)?;
    // Many rows in one statement: a cache for those of every length.
    connection.set_prepared_statement_cache_capacity(64);
    connection
        .pragma_update(None, "journal_mode", "wal")
        .map_err(fail)?;
    // FULL syncs the log at every commit: acknowledged means on disk.
    connection
        .pragma_update(None, "synchronous", "full")
        .map_err(fail)?;
    connection
        .pragma_update(None, "foreign_keys", true)
        .map_err(fail)?;
    Ok(connection)
}

pub(super) fn schema(connection: &Connection) -> Result<Schema, DatabaseFault> {
    let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
    Ok(match (version, tables) {
        (0, 0) => Schema::Empty,
        (0, _) => Schema::Foreign,
        (version, _) => Schema::Version(version),
    })
}
