//! What outlives a run: clip predictions, which are also the ledger of finished
//! windows, and each patient's standing answer, in one SQLite file.
//!
//! A [`Batch`] is committed whole or not at all, and is on disk (write-ahead
//! log, synchronised) when [`Store::commit`] returns. Committing the same fact
//! again changes nothing. The dataflow writes through its own thread; the
//! command line reads.

mod database;
mod facts;
mod read;
mod row;
mod views;

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Row, params};

use database::Transaction;
pub use facts::{Change, Effect, FactError, LogFault, LogHead, LoggedChange, Receipt, Verified};
use row::{Row as AnyRow, Value};
pub use views::{RowChange, ViewRow};

use crate::domain::{
    ClipKey, ClipPrediction, ClipSpan, EventTime, ModelHash, PatientId, PatientResult, Probability,
    StageRange, StudyUid,
};

pub use read::{Page, Summary};

const MIGRATIONS: [&str; 3] = [
    include_str!("schema.sql"),
    include_str!("facts.sql"),
    include_str!("views.sql"),
];
const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;
/// How long a reader or a second writer waits for the first to commit.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading results from a place where no run has written any.
    #[error("no results at {}: run a pipeline first, or name the file that its [store] names", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
    },
    /// The folder of the store could not be made.
    #[error("cannot make the folder of {}: {error}", file.display())]
    Folder {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// SQLite refused.
    #[error("the store {}: {error}", file.display())]
    Sqlite {
        /// The file.
        file: PathBuf,
        /// Why.
        error: rusqlite::Error,
    },
    /// A newer hepaflow wrote the file.
    #[error("the store {} has schema version {found}, and this hepaflow knows {SCHEMA_VERSION}: use a newer one", file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// The file's version.
        found: i64,
    },
    /// A value in the file is not what this program writes.
    #[error("the store {} holds a row that cannot be read: {problem}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Which column, and why.
        problem: String,
    },
}

/// What a database answered. No value of a row is shown: it may name a patient.
#[derive(Debug)]
enum DatabaseFault {
    Sqlite(rusqlite::Error),
    Column { column: usize, problem: String },
}

impl Display for DatabaseFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(error) => error.fmt(f),
            Self::Column { column, problem } => write!(f, "column {column}: {problem}"),
        }
    }
}

impl From<rusqlite::Error> for DatabaseFault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl DatabaseFault {
    fn at(self, file: &Path) -> StoreError {
        let file = file.to_owned();
        match self {
            Self::Sqlite(error) => StoreError::Sqlite { file, error },
            Self::Column { .. } => StoreError::Damaged {
                file,
                problem: self.to_string(),
            },
        }
    }
}

/// What the store remembers of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredModel {
    /// Identity of its directory's content.
    pub hash: ModelHash,
    /// Architecture name, such as `fibro3d`.
    pub architecture: String,
    /// Meaning of each class, in order.
    pub classes: Vec<StageRange>,
}

/// Facts to be committed together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// New clip predictions.
    pub clips: Vec<ClipPrediction>,
    /// Changed answers, later ones winning.
    pub patients: Vec<PatientChange>,
    /// Changed rows of the other views, later ones winning.
    pub rows: Vec<RowChange>,
}

impl Batch {
    /// True if there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.clips.is_empty() && self.patients.is_empty() && self.rows.is_empty()
    }

    /// Adds what `later` holds behind this.
    pub fn extend(&mut self, later: Self) {
        self.clips.extend(later.clips);
        self.patients.extend(later.patients);
        self.rows.extend(later.rows);
    }
}

/// How a patient's answer changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatientChange {
    /// This is the answer now.
    Stands(PatientResult),
    /// All its evidence was retracted: there is no answer now.
    Withdrawn(PatientId, ModelHash),
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    file: PathBuf,
    connection: Connection,
}

impl Store {
    /// Opens the store at `file`, making it and its folder if need be.
    ///
    /// # Errors
    /// If it cannot be opened, is no database, or was written by a newer version.
    pub fn open(file: &Path) -> Result<Self, StoreError> {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder).map_err(|error| StoreError::Folder {
                file: file.to_owned(),
                error,
            })?;
        }
        let fail = |error| StoreError::Sqlite {
            file: file.to_owned(),
            error,
        };
        let mut connection = Connection::open(file).map_err(fail)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(fail)?;
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
        migrate(file, &mut connection)?;
        Ok(Self {
            file: file.to_owned(),
            connection,
        })
    }

    /// Opens an existing store to read results from, also while a run writes.
    ///
    /// # Errors
    /// If there is none, or as for [`Store::open`].
    pub fn open_existing(file: &Path) -> Result<Self, StoreError> {
        if !file.is_file() {
            return Err(StoreError::Missing {
                file: file.to_owned(),
            });
        }
        let fail = |error| StoreError::Sqlite {
            file: file.to_owned(),
            error,
        };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(file, flags).map_err(fail)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(fail)?;
        migrate(file, &mut connection)?;
        Ok(Self {
            file: file.to_owned(),
            connection,
        })
    }

    /// Remembers a model, so that its results can be named later.
    ///
    /// # Errors
    /// If SQLite refuses.
    pub fn register(&mut self, model: &StoredModel) -> Result<(), StoreError> {
        let classes: Vec<_> = model.classes.iter().map(StageRange::to_string).collect();
        self.connection
            .execute(
                "INSERT OR IGNORE INTO models VALUES (?1, ?2, ?3)",
                params![
                    model.hash.to_string(),
                    model.architecture,
                    serde_json::Value::from(classes).to_string()
                ],
            )
            .map_err(|error| self.sqlite(error))?;
        Ok(())
    }

    /// Writes a batch, whole or not at all; it is on disk afterwards.
    ///
    /// # Errors
    /// If SQLite refuses, a full disk included: then nothing of it was written.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let file = self.file.clone();
        write(&mut self.connection, batch).map_err(|fault| fault.at(&file))
    }

    /// All models that ever wrote here.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn models(&self) -> Result<HashMap<ModelHash, StoredModel>, StoreError> {
        let models = self.rows("SELECT model, architecture, classes FROM models", |row| {
            let classes: Vec<String> = json(row, 2)?;
            Ok(StoredModel {
                hash: parsed(row, 0)?,
                architecture: row.get(1)?,
                classes: classes
                    .iter()
                    .map(|class| class.parse().map_err(|error| damaged(2, error)))
                    .collect::<Result<_, _>>()?,
            })
        })?;
        Ok(models
            .into_iter()
            .map(|model| (model.hash, model))
            .collect())
    }

    /// All clip predictions, by patient, model, content and frame.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn clip_predictions(&self) -> Result<Vec<ClipPrediction>, StoreError> {
        let sql = "SELECT content, first_frame, model, last_frame, begin_ns, end_ns, gaps_before,
                          patient, study, source, probabilities
                   FROM clip_predictions ORDER BY patient, model, content, first_frame";
        self.rows(sql, |row| {
            let first_frame = unsigned(row, 1)?;
            Ok(ClipPrediction {
                key: ClipKey {
                    content: parsed(row, 0)?,
                    first_frame,
                    model: parsed(row, 2)?,
                },
                span: ClipSpan {
                    first_frame,
                    last_frame: unsigned(row, 3)?,
                    begin: EventTime::from_nanos(unsigned(row, 4)?),
                    end: EventTime::from_nanos(unsigned(row, 5)?),
                    gaps_before: unsigned(row, 6)?,
                },
                patient: PatientId::new(row.get::<_, String>(7)?),
                study: row.get::<_, Option<String>>(8)?.map(StudyUid::new),
                source: row.get(9)?,
                probabilities: probabilities(row, 10)?,
            })
        })
    }

    /// The windows that are done already, under any model.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn finished(&self) -> Result<HashSet<ClipKey>, StoreError> {
        let keys = self.rows(
            "SELECT content, first_frame, model FROM clip_predictions",
            |row| {
                Ok(ClipKey {
                    content: parsed(row, 0)?,
                    first_frame: unsigned(row, 1)?,
                    model: parsed(row, 2)?,
                })
            },
        )?;
        Ok(keys.into_iter().collect())
    }

    /// All standing answers, by patient and model.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn patient_results(&self) -> Result<Vec<PatientResult>, StoreError> {
        let sql = "SELECT patient, model, clips, probabilities, left_out, weight, abstention,
                          is_current
                   FROM patient_results ORDER BY patient, model";
        self.rows(sql, |row| {
            Ok(PatientResult {
                patient: PatientId::new(row.get::<_, String>(0)?),
                model: parsed(row, 1)?,
                current: row.get::<_, i64>(7)? == 1,
                clips: unsigned(row, 2)?,
                left_out: unsigned(row, 4)?,
                weight: unsigned(row, 5)?,
                probabilities: probabilities(row, 3)?,
                abstention: match row.get::<_, Option<String>>(6)? {
                    Some(text) => Some(text.parse().map_err(|error| damaged(6, error))?),
                    None => None,
                },
            })
        })
    }

    fn rows<T>(
        &self,
        sql: &str,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let mut statement = self
            .connection
            .prepare(sql)
            .map_err(|error| self.sqlite(error))?;
        let rows = statement
            .query_map([], read)
            .map_err(|error| self.sqlite(error))?;
        rows.collect::<Result<_, _>>()
            .map_err(|error| self.sqlite(error))
    }

    fn change<T>(
        &mut self,
        mut work: impl FnMut(&mut Transaction<'_>) -> Result<T, DatabaseFault>,
    ) -> Result<T, StoreError> {
        let behavior = rusqlite::TransactionBehavior::Immediate;
        let file = self.file.clone();
        let run = || {
            let mut transaction = Transaction(self.connection.transaction_with_behavior(behavior)?);
            let result = work(&mut transaction)?;
            transaction.0.commit()?;
            Ok(result)
        };
        let mut run = run;
        run().map_err(|fault: DatabaseFault| fault.at(&file))
    }

    fn read<T>(
        &self,
        sql: &str,
        values: &[Value<'_>],
        take: impl FnMut(&AnyRow<'_>) -> Result<T, DatabaseFault>,
    ) -> Result<Vec<T>, StoreError> {
        database::read(&self.connection, sql, values, take).map_err(|fault| fault.at(&self.file))
    }

    fn sqlite(&self, error: rusqlite::Error) -> StoreError {
        let file = self.file.clone();
        match error {
            rusqlite::Error::FromSqlConversionFailure(column, _, problem) => StoreError::Damaged {
                file,
                problem: format!("column {column}: {problem}"),
            },
            error => StoreError::Sqlite { file, error },
        }
    }
}

fn migrate(file: &Path, connection: &mut Connection) -> Result<(), StoreError> {
    let fail = |error| StoreError::Sqlite {
        file: file.to_owned(),
        error,
    };
    // Immediate: of two processes that open a new file, one makes the tables.
    let transaction = connection
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .map_err(fail)?;
    let found: i64 = transaction
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(fail)?;
    match found {
        0..=SCHEMA_VERSION => {
            for migration in MIGRATIONS.iter().skip(found as usize) {
                transaction.execute_batch(migration).map_err(fail)?;
            }
        }
        _ => {
            return Err(StoreError::Newer {
                file: file.to_owned(),
                found,
            });
        }
    }
    transaction
        .pragma_update(None, "user_version", SCHEMA_VERSION)
        .map_err(fail)?;
    transaction.commit().map_err(fail)
}

fn write(connection: &mut Connection, batch: &Batch) -> Result<(), DatabaseFault> {
    let behavior = rusqlite::TransactionBehavior::Immediate;
    let transaction = connection.transaction_with_behavior(behavior)?;
    {
        let mut insert = transaction.prepare_cached(
            "INSERT OR IGNORE INTO clip_predictions
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?;
        for clip in &batch.clips {
            insert.execute(params![
                clip.key.content.to_string(),
                clip.key.first_frame as i64,
                clip.key.model.to_string(),
                clip.span.last_frame as i64,
                clip.span.begin.as_nanos() as i64,
                clip.span.end.as_nanos() as i64,
                clip.span.gaps_before as i64,
                clip.patient.expose(),
                clip.study.as_ref().map(StudyUid::expose),
                clip.source,
                raw_json(&clip.probabilities),
            ])?;
        }
        let mut upsert = transaction.prepare_cached(
            "INSERT OR REPLACE INTO patient_results VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        let mut delete = transaction
            .prepare_cached("DELETE FROM patient_results WHERE patient = ?1 AND model = ?2")?;
        for change in &batch.patients {
            match change {
                PatientChange::Stands(result) => upsert.execute(params![
                    result.patient.expose(),
                    result.model.to_string(),
                    result.clips as i64,
                    raw_json(&result.probabilities),
                    result.left_out as i64,
                    result.weight as i64,
                    result.abstention.map(|why| why.to_string()),
                    i64::from(result.current),
                ])?,
                PatientChange::Withdrawn(patient, model) => {
                    delete.execute(params![patient.expose(), model.to_string()])?
                }
            };
        }
    }
    let mut transaction = Transaction(transaction);
    views::write_rows(&mut transaction, &batch.rows)?;
    Ok(transaction.0.commit()?)
}

fn raw_json(probabilities: &[Probability]) -> String {
    let raw: Vec<_> = probabilities.iter().map(|p| p.to_raw()).collect();
    serde_json::Value::from(raw).to_string()
}

fn damaged(column: usize, error: impl Display) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(
        column,
        rusqlite::types::Type::Text,
        error.to_string().into(),
    )
}

fn parsed<T: std::str::FromStr<Err: Display>>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    row.get::<_, String>(column)?
        .parse()
        .map_err(|error| damaged(column, error))
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column)?
        .try_into()
        .map_err(|error| damaged(column, error))
}

fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    serde_json::from_str(&row.get::<_, String>(column)?).map_err(|error| damaged(column, error))
}

fn probabilities(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<Probability>> {
    Ok(json::<Vec<i64>>(row, column)?
        .into_iter()
        .map(Probability::from_raw)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Abstention, ContentHash};

    fn model() -> StoredModel {
        StoredModel {
            hash: ModelHash::of(b"model"),
            architecture: "fibro3d".to_owned(),
            classes: vec!["F0-F1".parse().unwrap(), "F2-F4".parse().unwrap()],
        }
    }

    fn clip(first_frame: u64) -> ClipPrediction {
        ClipPrediction {
            key: ClipKey {
                content: ContentHash::of(b"film"),
                first_frame,
                model: model().hash,
            },
            span: ClipSpan {
                first_frame,
                last_frame: first_frame + 15,
                begin: EventTime::from_nanos(first_frame * 33),
                end: EventTime::from_nanos((first_frame + 15) * 33),
                gaps_before: 0,
            },
            patient: PatientId::new("p'1"),
            study: None,
            source: "bed".to_owned(),
            probabilities: [0.25, 0.75]
                .map(|p| Probability::from_f64(p).unwrap())
                .to_vec(),
        }
    }

    fn answer(clips: u64) -> PatientResult {
        PatientResult {
            patient: PatientId::new("p'1"),
            model: model().hash,
            current: true,
            clips,
            left_out: 1,
            weight: 256 * clips,
            probabilities: clip(0).probabilities,
            abstention: Some(Abstention::ThinEvidence),
        }
    }

    fn open(folder: &tempfile::TempDir) -> Store {
        let mut store = Store::open(&folder.path().join("deep/results.sqlite")).unwrap();
        store.register(&model()).unwrap();
        store
    }

    #[test]
    fn what_was_committed_is_read_back_and_the_same_fact_twice_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let batch = Batch {
            clips: vec![clip(8), clip(0), clip(8)],
            patients: vec![
                PatientChange::Stands(answer(1)),
                PatientChange::Stands(answer(2)),
            ],
            rows: vec![],
        };
        let mut store = open(&folder);
        store.commit(&batch).unwrap();
        store.commit(&batch).unwrap();
        drop(store);
        let store = Store::open_existing(&folder.path().join("deep/results.sqlite")).unwrap();
        assert_eq!(store.clip_predictions().unwrap(), [clip(0), clip(8)]);
        assert_eq!(store.patient_results().unwrap(), [answer(2)]);
        assert_eq!(store.finished().unwrap(), [clip(0).key, clip(8).key].into());
        assert_eq!(store.models().unwrap()[&model().hash], model());
    }

    #[test]
    fn a_withdrawn_answer_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(&folder);
        let withdrawn = PatientChange::Withdrawn(answer(1).patient, model().hash);
        let batch = Batch {
            clips: vec![],
            patients: vec![PatientChange::Stands(answer(1)), withdrawn],
            rows: vec![],
        };
        store.commit(&batch).unwrap();
        assert_eq!(store.patient_results().unwrap(), []);
    }

    #[test]
    fn a_batch_with_one_bad_row_is_not_written_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(&folder);
        let mut foreign = clip(8);
        foreign.key.model = ModelHash::of(b"never registered");
        let batch = Batch {
            clips: vec![clip(0), foreign],
            patients: vec![],
            rows: vec![],
        };
        assert!(matches!(
            store.commit(&batch),
            Err(StoreError::Sqlite { .. })
        ));
        assert_eq!(store.clip_predictions().unwrap(), []);
    }

    #[test]
    fn a_missing_foreign_newer_or_damaged_file_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let error = |name: &str| Store::open_existing(&path(name)).unwrap_err();
        assert!(matches!(error("none"), StoreError::Missing { .. }));

        std::fs::write(
            path("text"),
            "not a database, but long enough to be read as one".repeat(99),
        )
        .unwrap();
        assert!(matches!(error("text"), StoreError::Sqlite { .. }));

        let store = Store::open(&path("newer")).unwrap();
        store
            .connection
            .pragma_update(None, "user_version", 99)
            .unwrap();
        drop(store);
        assert!(matches!(
            error("newer"),
            StoreError::Newer { found: 99, .. }
        ));
        assert!(error("newer").to_string().contains("newer"));

        let mut store = open(&folder);
        store
            .commit(&Batch {
                clips: vec![clip(0)],
                patients: vec![],
                rows: vec![],
            })
            .unwrap();
        store
            .connection
            .execute("UPDATE clip_predictions SET probabilities = '[1,'", [])
            .unwrap();
        assert!(matches!(
            store.clip_predictions(),
            Err(StoreError::Damaged { .. })
        ));
    }
}
