//! What outlives a run: clip predictions, which are also the ledger of finished
//! windows, and each patient's standing answer. They lie in one SQLite file, or
//! in a PostgreSQL database that several processes and machines share.
//!
//! A [`Batch`] is committed whole or not at all, and is on disk when
//! [`Store::commit`] returns. Committing the same fact again changes nothing,
//! whichever process does. The dataflow writes through its own thread; the
//! command line reads.
//!
//! Both databases have the same tables (`migrations/`) and get the same
//! statements (`database.rs`).

mod answer_log;
mod assignments;
mod chain;
mod database;
mod error;
mod facts;
mod migrate;
mod outbox;
mod postgres_link;
mod read;
mod records;
mod replace;
mod reports;
mod row;
mod sqlite;
pub mod tls;
mod views;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;

pub use answer_log::{Cause, LoggedAnswer};
pub use assignments::Assignments;
pub use chain::{LogFault, LogHead, Verified};
use database::{Database, Transaction};
pub use error::{DatabaseFault, StoreError};
pub use facts::{Change, Effect, FactError, Imported, LoggedChange, Receipt, import_labels};
use outbox::Event;
pub use outbox::{OutboxSink, Outgoing, Parked};
pub use read::{Page, Summary};
pub use replace::replace_file;
pub use reports::FiledReport;
use row::{Row, Value, wrong};
use serde::{Deserialize, Serialize};
pub use views::{RowChange, ViewRow};

use crate::config::StorePlace;
use crate::domain::{
    ClipKey, ClipPrediction, ContentHash, Instance, ModelHash, PatientId, PatientResult, StageRange,
};

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
    /// Why answers changed.
    pub cause: Cause,
    /// The DICOM instances that streams are, for reports; later ones winning.
    pub instances: Vec<(ContentHash, Arc<Instance>)>,
}

impl Batch {
    /// True if there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.clips.is_empty()
            && self.patients.is_empty()
            && self.rows.is_empty()
            && self.instances.is_empty()
    }

    /// Adds what `later` holds behind this.
    pub fn extend(&mut self, later: Self) {
        self.clips.extend(later.clips);
        self.patients.extend(later.patients);
        self.rows.extend(later.rows);
        self.cause.extend(&later.cause);
        self.instances.extend(later.instances);
    }
}

/// How a patient's answer changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PatientChange {
    /// This is the answer now.
    Stands(PatientResult),
    /// All its evidence was retracted: there is no answer now.
    Withdrawn(PatientId, ModelHash),
}

impl PatientChange {
    /// Whose answer.
    pub fn patient(&self) -> &PatientId {
        self.key().0
    }

    /// Whose answer, under which model.
    fn key(&self) -> (&PatientId, ModelHash) {
        match self {
            Self::Stands(result) => (&result.patient, result.model),
            Self::Withdrawn(patient, model) => (patient, *model),
        }
    }
}

/// An open store.
pub struct Store {
    place: StorePlace,
    database: Database,
    /// Whom changes of answers are kept for.
    sinks: Vec<OutboxSink>,
    /// The lock file of the one sink that this connection delivers to.
    claim: Option<File>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.place)
    }
}

impl Store {
    /// Opens the store at `place`. An SQLite file and its folder are made if need
    /// be; a PostgreSQL database exists, and gets its tables.
    ///
    /// # Errors
    /// If it cannot be opened, is no store, or was written by a newer version.
    pub fn open(place: impl Into<StorePlace>) -> Result<Self, StoreError> {
        let place = place.into();
        let mut database = Database::open(&place)?;
        migrate::migrate(&place, &mut database)?;
        Ok(Self {
            place,
            database,
            sinks: Vec::new(),
            claim: None,
        })
    }

    /// Opens a store that a run has made, also while one writes.
    ///
    /// # Errors
    /// If there is none, or as for [`Store::open`].
    pub fn open_existing(place: impl Into<StorePlace>) -> Result<Self, StoreError> {
        let place = place.into();
        let is_missing = match &place {
            StorePlace::File(file) => !file.is_file(),
            StorePlace::Postgres(_) => {
                let schema = Database::open(&place)?.schema();
                schema.map_err(|fault| fault.at(&place))? == migrate::Schema::Empty
            }
        };
        if is_missing {
            return Err(StoreError::Missing { place });
        }
        Self::open(place)
    }

    /// Remembers a model, so that its results can be named later.
    ///
    /// # Errors
    /// If the database refuses.
    pub fn register(&mut self, model: &StoredModel) -> Result<(), StoreError> {
        let classes: Vec<_> = model.classes.iter().map(StageRange::to_string).collect();
        let row = vec![
            model.hash.to_string().into(),
            model.architecture.as_str().into(),
            serde_json::Value::from(classes).to_string().into(),
        ];
        self.database
            .change(|transaction| {
                let rows = std::slice::from_ref(&row);
                transaction.insert("models", rows, "ON CONFLICT DO NOTHING", |_| Ok(()))
            })
            .map(drop)
            .map_err(|fault| fault.at(&self.place))
    }

    /// Writes a batch, whole or not at all; it is on disk afterwards.
    ///
    /// # Errors
    /// If the database refuses, a full disk included: then nothing of it was
    /// written.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        // Sorted, so that processes that write the same rows wait for one
        // another instead of for ever; and one change a patient, the last.
        let clips: BTreeMap<_, _> = batch.clips.iter().map(|clip| (clip.key, clip)).collect();
        let clips: Vec<_> = clips.into_values().map(records::of_clip).collect();
        let events: BTreeMap<_, _> = batch
            .patients
            .iter()
            .map(|change| (change.key(), Event::of(change)))
            .collect();
        let instances: BTreeMap<_, _> = batch.instances.iter().cloned().collect();
        let sinks = &self.sinks;
        self.database
            .change(|transaction| {
                reports::write_instances(transaction, &instances)?;
                let end = "ON CONFLICT (content, first_frame, model) DO NOTHING";
                transaction.insert("clip_predictions", &clips, end, |_| Ok(()))?;
                let changed = write_answers(transaction, &events)?;
                views::write_rows(transaction, &batch.rows)?;
                outbox::enqueue(transaction, sinks, &changed)?;
                // Last, so that who holds the log's end waits for nobody.
                answer_log::append(transaction, &batch.cause, &changed)
            })
            .map_err(|fault| fault.at(&self.place))
    }

    /// All models that ever wrote here.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn models(&self) -> Result<HashMap<ModelHash, StoredModel>, StoreError> {
        let models = self.rows("SELECT model, architecture, classes FROM models", |row| {
            let classes: Vec<String> = row.json(2)?;
            Ok(StoredModel {
                hash: row.parsed(0)?,
                architecture: row.text(1)?,
                classes: classes
                    .iter()
                    .map(|class| class.parse().map_err(|error| wrong(2, error)))
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
    /// If the store cannot be read.
    pub fn clip_predictions(&self) -> Result<Vec<ClipPrediction>, StoreError> {
        let sql = format!(
            "SELECT {} FROM clip_predictions ORDER BY patient, model, content, first_frame",
            records::CLIP
        );
        self.rows(&sql, records::clip)
    }

    /// The windows that are done already, under any model.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn finished(&self) -> Result<HashSet<ClipKey>, StoreError> {
        let keys = self.rows(
            "SELECT content, first_frame, model FROM clip_predictions",
            |row| {
                Ok(ClipKey {
                    content: row.parsed(0)?,
                    first_frame: row.unsigned(1)?,
                    model: row.parsed(2)?,
                })
            },
        )?;
        Ok(keys.into_iter().collect())
    }

    /// All standing answers, by patient and model.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn patient_results(&self) -> Result<Vec<PatientResult>, StoreError> {
        let sql = format!(
            "SELECT {} FROM patient_results ORDER BY patient, model",
            records::ANSWER
        );
        self.rows(&sql, records::answer)
    }

    /// The recordings that were scored whose content begins with these digits.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn contents(&self, prefix: &str) -> Result<Vec<ContentHash>, StoreError> {
        if !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Vec::new());
        }
        let sql = "SELECT DISTINCT content FROM clip_predictions
                   WHERE content LIKE $1 ORDER BY content";
        let pattern = format!("{}%", prefix.to_ascii_lowercase());
        self.read(sql, &[pattern.into()], |row| row.parsed(0))
    }

    fn change<T>(
        &mut self,
        work: impl FnMut(&mut Transaction<'_>) -> Result<T, DatabaseFault>,
    ) -> Result<T, StoreError> {
        self.database
            .change(work)
            .map_err(|fault| fault.at(&self.place))
    }

    fn read<T>(
        &self,
        sql: &str,
        values: &[Value<'_>],
        take: impl FnMut(&Row<'_>) -> Result<T, DatabaseFault>,
    ) -> Result<Vec<T>, StoreError> {
        self.database
            .read(sql, values, take)
            .map_err(|fault| fault.at(&self.place))
    }

    fn rows<T>(
        &self,
        sql: &str,
        take: impl FnMut(&Row<'_>) -> Result<T, DatabaseFault>,
    ) -> Result<Vec<T>, StoreError> {
        self.read(sql, &[], take)
    }
}

type Events<'a> = BTreeMap<(&'a PatientId, ModelHash), Event<'a>>;

/// Writes answers, and tells which of them were not so before.
fn write_answers<'a>(
    transaction: &mut Transaction<'_>,
    events: &'a Events<'a>,
) -> Result<Vec<&'a Event<'a>>, DatabaseFault> {
    let standing: Vec<_> = events
        .values()
        .filter_map(|event| match event.change {
            PatientChange::Stands(result) => Some(records::of_answer(result)),
            PatientChange::Withdrawn(..) => None,
        })
        .collect();
    let key = |row: &Row<'_>| Ok((PatientId::new(row.text(0)?), row.parsed::<ModelHash>(1)?));
    let mut changed = transaction.insert("patient_results", &standing, STANDS, key)?;
    for event in events.values() {
        if let PatientChange::Withdrawn(patient, model) = event.change {
            let values = [patient.expose().into(), model.to_string().into()];
            changed.extend(transaction.read(WITHDRAW, &values, key)?);
        }
    }
    let changed: HashSet<_> = changed.into_iter().collect();
    let has_changed = |event: &&Event<'_>| {
        let (patient, model) = event.change.key();
        changed.contains(&(patient.clone(), model))
    };
    Ok(events.values().filter(has_changed).collect())
}

/// An answer that says the same as before is no change.
const STANDS: &str = "ON CONFLICT (patient, model) DO UPDATE
    SET clips = excluded.clips, probabilities = excluded.probabilities,
        left_out = excluded.left_out, weight = excluded.weight,
        abstention = excluded.abstention, is_current = excluded.is_current
    WHERE patient_results.clips <> excluded.clips
       OR patient_results.probabilities <> excluded.probabilities
       OR patient_results.left_out <> excluded.left_out
       OR patient_results.weight <> excluded.weight
       OR coalesce(patient_results.abstention, '') <> coalesce(excluded.abstention, '')
       OR patient_results.is_current <> excluded.is_current
    RETURNING patient, model";

const WITHDRAW: &str =
    "DELETE FROM patient_results WHERE patient = $1 AND model = $2 RETURNING patient, model";
