use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

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
    // Who made the file otherwise shall find it as it was.
    if schema(&connection).map_err(|fault| fault.at(&StorePlace::File(file.to_owned())))?
        != Schema::Foreign
    {
        write_ahead(&connection).map_err(fail)?;
    }
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

/// Of several processes that open a new file, all but one are turned away at
/// once, whatever they are willing to wait.
fn write_ahead(connection: &Connection) -> rusqlite::Result<()> {
    let begin = Instant::now();
    loop {
        match connection.pragma_update(None, "journal_mode", "wal") {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && begin.elapsed() < BUSY_TIMEOUT =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
}
