use std::cell::RefCell;
use std::time::{Duration, Instant};

use postgres::config::SslMode;
use postgres::error::SqlState;
use postgres::{Client, Config, NoTls, Transaction};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::with_causes;
use super::migrate::Schema;
use super::{DatabaseFault, StoreError, tls};
use crate::config::{PostgresUrl, StorePlace};

/// A server that is not there within this time is an error.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a lost server is waited for, as while it restarts.
const RECONNECT_FOR: Duration = Duration::from_secs(60);
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];
/// A peer that was cut off is noticed after about this time.
const SILENCE: Duration = Duration::from_secs(30);
/// How often a change that the server ended in favour of another is tried again.
const CONFLICTS: usize = 20;
/// The number under which processes take turns at making tables.
const SCHEMA_LOCK: i64 = 0x6865_7061_666c_6f77;
/// The first half of the numbers under which they take turns at sinks.
const SINK_LOCK: i32 = 0x6865_7061;

/// A connection that is made again when it is lost.
///
/// It waits for the server on the thread that calls, and must not be used on an
/// asynchronous runtime's own threads.
pub(super) struct PostgresLink {
    url: PostgresUrl,
    client: RefCell<Client>,
}

impl PostgresLink {
    pub(super) fn open(url: &PostgresUrl) -> Result<Self, StoreError> {
        let client = connect(url).map_err(|problem| StoreError::Unreachable {
            place: StorePlace::Postgres(url.clone()),
            problem,
        })?;
        Ok(Self {
            url: url.clone(),
            client: RefCell::new(client),
        })
    }

    /// Does `work`, again where the connection was lost on the way or the
    /// server preferred another process.
    pub(super) fn with_client<T>(
        &self,
        mut work: impl FnMut(&mut Client) -> Result<T, DatabaseFault>,
    ) -> Result<T, DatabaseFault> {
        let deadline = Instant::now() + RECONNECT_FOR;
        let [mut pause, longest] = PAUSES;
        let mut conflicts = 0;
        loop {
            let mut client = self.client.borrow_mut();
            let fault = match work(&mut client) {
                Ok(done) => return Ok(done),
                Err(fault) => fault,
            };
            let DatabaseFault::Postgres(error) = &fault else {
                return Err(fault);
            };
            let is_conflict = error.code().is_some_and(|code| {
                [
                    SqlState::T_R_SERIALIZATION_FAILURE,
                    SqlState::T_R_DEADLOCK_DETECTED,
                ]
                .contains(code)
            });
            if is_conflict && conflicts < CONFLICTS {
                conflicts += 1;
                continue;
            }
            if !client.is_closed() {
                return Err(fault);
            }
            tracing::warn!(store = %self.url, "the connection was lost and is made again");
            loop {
                if Instant::now() > deadline {
                    return Err(fault);
                }
                match connect(&self.url) {
                    Ok(new) => break *client = new,
                    Err(_) => std::thread::sleep(pause),
                }
                pause = (2 * pause).min(longest);
            }
        }
    }

    pub(super) fn schema(&self) -> Result<Schema, DatabaseFault> {
        self.with_client(|client| {
            let mut transaction = client.transaction()?;
            schema(&mut transaction)
        })
    }

    /// Holds the session's lock on `sink`, if nobody else does. Taken again, it
    /// is held once more, which the end of the session ends as well.
    pub(super) fn claim(&self, sink: &str) -> Result<bool, DatabaseFault> {
        self.with_client(|client| {
            let sql = "SELECT pg_try_advisory_lock($1, hashtext($2))";
            let row = client.query_one(sql, &[&SINK_LOCK, &sink])?;
            Ok(row.try_get(0)?)
        })
    }

    pub(super) fn lock_schema(transaction: &mut Transaction<'_>) -> Result<Schema, DatabaseFault> {
        transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&SCHEMA_LOCK])?;
        schema(transaction)
    }

    pub(super) fn set_version(
        transaction: &mut Transaction<'_>,
        version: i64,
    ) -> Result<(), DatabaseFault> {
        transaction.batch_execute(
            "CREATE TABLE IF NOT EXISTS hepaflow_schema (version BIGINT NOT NULL);
             DELETE FROM hepaflow_schema",
        )?;
        transaction.execute("INSERT INTO hepaflow_schema VALUES ($1)", &[&version])?;
        Ok(())
    }
}

fn schema(transaction: &mut Transaction<'_>) -> Result<Schema, DatabaseFault> {
    let table = transaction.query_one("SELECT to_regclass('hepaflow_schema') IS NULL", &[])?;
    if table.try_get::<_, bool>(0)? {
        return Ok(Schema::Empty);
    }
    let version = transaction.query_opt("SELECT max(version) FROM hepaflow_schema", &[])?;
    let version = version
        .map(|row| row.try_get::<_, Option<i64>>(0))
        .transpose()?;
    Ok(version.flatten().map_or(Schema::Foreign, Schema::Version))
}

fn connect(url: &PostgresUrl) -> Result<Client, String> {
    let mut config: Config = url.config().clone();
    config
        .application_name("hepaflow")
        .keepalives_idle(SILENCE / 2)
        .tcp_user_timeout(SILENCE);
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    if config.get_password().is_none()
        && let Ok(password) = std::env::var("PGPASSWORD")
    {
        config.password(password);
    }
    let client = if config.get_ssl_mode() == SslMode::Require {
        let tls = tls::client().map_err(|error| error.to_string())?;
        config.connect(MakeRustlsConnect::new(tls))
    } else {
        // "prefer" would fall back silently; who wants TLS says so.
        config.ssl_mode(SslMode::Disable).connect(NoTls)
    };
    let mut client = client.map_err(|error| match error.as_db_error() {
        Some(answer) => answer.message().to_owned(),
        None => with_causes(&error),
    })?;
    // Acknowledged means on disk, whatever the server's own default is.
    client
        .batch_execute("SET synchronous_commit = on")
        .map_err(|error| with_causes(&error))?;
    Ok(client)
}
