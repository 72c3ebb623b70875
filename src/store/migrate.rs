//! Tables, by numbered files. Each is written once, in SQLite's words; what
//! PostgreSQL says otherwise is a matter of a few words.

use super::database::Database;
use super::{DatabaseFault, StoreError};
use crate::config::StorePlace;

/// Files are only ever added: a store remembers how many of them it has seen.
const MIGRATIONS: [&str; 8] = [
    include_str!("migrations/001_results.sql"),
    include_str!("migrations/002_outbox.sql"),
    include_str!("migrations/003_facts.sql"),
    include_str!("migrations/004_views.sql"),
    include_str!("migrations/005_reports.sql"),
    include_str!("migrations/006_answers.sql"),
    include_str!("migrations/007_elastography.sql"),
    include_str!("migrations/008_answers_by_patient.sql"),
];

/// The version that this program reads and writes.
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

/// Every table that a store of this version has.
const TABLES: [&str; 14] = [
    "models",
    "clip_predictions",
    "patient_results",
    "outbox",
    "facts",
    "facts_head",
    "indices",
    "elastographies",
    "agreements",
    "evaluations",
    "instances",
    "reports",
    "answer_log",
    "answer_log_head",
];

/// What is said otherwise in PostgreSQL: numbers have 64 bits, and texts are
/// ordered by their bytes, whatever the database's language.
const IN_POSTGRES: [(&str, &str); 5] = [
    (
        "INTEGER PRIMARY KEY AUTOINCREMENT",
        "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    ),
    (" INTEGER", " BIGINT"),
    (" TEXT", " TEXT COLLATE \"C\""),
    (" WITHOUT ROWID, STRICT", ""),
    (" STRICT", ""),
];

/// How far a database has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Schema {
    /// There is nothing in it.
    Empty,
    /// It has tables, and not from us.
    Foreign,
    /// Our tables, after so many migrations.
    Version(i64),
}

/// Brings the tables up to date, in one transaction. Of several processes that
/// open a new store at once, one makes them.
pub(super) fn migrate(place: &StorePlace, database: &mut Database) -> Result<(), StoreError> {
    let named = |fault: DatabaseFault| fault.at(place);
    let mut schema = database.schema().map_err(named)?;
    if schema == Schema::Empty || matches!(schema, Schema::Version(seen) if seen < VERSION) {
        database
            .change(|transaction| {
                // Another process may have been faster.
                schema = transaction.lock_schema()?;
                let seen = match schema {
                    Schema::Empty => 0,
                    Schema::Foreign => return Ok(()),
                    Schema::Version(seen) => seen,
                };
                if seen < VERSION {
                    for migration in MIGRATIONS.iter().skip(seen as usize) {
                        transaction.batch(&in_dialect(place, migration))?;
                    }
                    transaction.set_version(VERSION)?;
                    schema = Schema::Version(VERSION);
                }
                Ok(())
            })
            .map_err(named)?;
    }
    match schema {
        Schema::Version(VERSION) => check_tables(place, database),
        Schema::Version(found) => Err(StoreError::Newer {
            place: place.clone(),
            found,
        }),
        Schema::Empty | Schema::Foreign => Err(StoreError::Foreign {
            place: place.clone(),
        }),
    }
}

/// A store that was cut short, or that somebody tidied, lacks some.
fn check_tables(place: &StorePlace, database: &Database) -> Result<(), StoreError> {
    for table in TABLES {
        let found = database.read(&format!("SELECT 1 FROM {table} LIMIT 1"), &[], |_| Ok(()));
        if let Err(fault) = found {
            return Err(match fault.at(place) {
                StoreError::Refused { place, fault } => StoreError::Damaged {
                    place,
                    problem: fault.to_string(),
                },
                other => other,
            });
        }
    }
    Ok(())
}

fn in_dialect(place: &StorePlace, migration: &str) -> String {
    // Comments first: they use the same words.
    let code: Vec<_> = migration
        .lines()
        .map(|line| line.split("--").next().unwrap_or_default())
        .collect();
    let code = code.join("\n");
    match place {
        StorePlace::File(_) => code,
        StorePlace::Postgres(_) => IN_POSTGRES
            .iter()
            .fold(code, |code, (here, there)| code.replace(here, there)),
    }
}
