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

mod database;
mod error;
mod facts;
mod migrate;
mod outbox;
mod postgres_link;
mod read;
mod replace;
mod reports;
mod row;
mod sqlite;
pub mod tls;
mod views;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;

use database::{Database, Transaction};
pub use error::{DatabaseFault, StoreError};
pub use facts::{Change, Effect, FactError, LogFault, LogHead, LoggedChange, Receipt, Verified};
use outbox::Event;
pub use outbox::{OutboxSink, Outgoing};
pub use read::{Page, Summary};
pub use replace::replace_file;
pub use reports::FiledReport;
use row::{Row, Value, wrong};
use serde::{Deserialize, Serialize};
pub use views::{RowChange, ViewRow};

use crate::config::StorePlace;
use crate::domain::{
    ClipKey, ClipPrediction, ClipSpan, ContentHash, EventTime, Instance, ModelHash, PatientId,
    PatientResult, Probability, StageRange, StudyUid,
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
        let clips: Vec<_> = clips.into_values().map(clip_row).collect();
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
                outbox::enqueue(transaction, sinks, &changed)
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
        let sql = "SELECT content, first_frame, model, last_frame, begin_ns, end_ns, gaps_before,
                          patient, study, source, probabilities
                   FROM clip_predictions ORDER BY patient, model, content, first_frame";
        self.rows(sql, |row| {
            let first_frame = row.unsigned(1)?;
            Ok(ClipPrediction {
                key: ClipKey {
                    content: row.parsed(0)?,
                    first_frame,
                    model: row.parsed(2)?,
                },
                span: ClipSpan {
                    first_frame,
                    last_frame: row.unsigned(3)?,
                    begin: EventTime::from_nanos(row.unsigned(4)?),
                    end: EventTime::from_nanos(row.unsigned(5)?),
                    gaps_before: row.unsigned(6)?,
                },
                patient: PatientId::new(row.text(7)?),
                study: row.optional_text(8)?.map(StudyUid::new),
                source: row.text(9)?,
                probabilities: probabilities(row, 10)?,
            })
        })
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
        let sql = "SELECT patient, model, clips, probabilities, left_out, weight, abstention,
                          is_current
                   FROM patient_results ORDER BY patient, model";
        self.rows(sql, |row| {
            let abstention = row.optional_text(6)?;
            Ok(PatientResult {
                patient: PatientId::new(row.text(0)?),
                model: row.parsed(1)?,
                current: row.integer(7)? == 1,
                clips: row.unsigned(2)?,
                left_out: row.unsigned(4)?,
                weight: row.unsigned(5)?,
                probabilities: probabilities(row, 3)?,
                abstention: match abstention {
                    Some(why) => Some(why.parse().map_err(|error| wrong(6, error))?),
                    None => None,
                },
            })
        })
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
        self.database
            .read(sql, &[], take)
            .map_err(|fault| fault.at(&self.place))
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
        .filter_map(|e| answer_row(e.change))
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

fn clip_row(clip: &ClipPrediction) -> Vec<Value<'_>> {
    vec![
        clip.key.content.to_string().into(),
        clip.key.first_frame.into(),
        clip.key.model.to_string().into(),
        clip.span.last_frame.into(),
        clip.span.begin.as_nanos().into(),
        clip.span.end.as_nanos().into(),
        clip.span.gaps_before.into(),
        clip.patient.expose().into(),
        clip.study.as_ref().map(StudyUid::expose).into(),
        clip.source.as_str().into(),
        raw_json(&clip.probabilities).into(),
    ]
}

fn answer_row(change: &PatientChange) -> Option<Vec<Value<'_>>> {
    let PatientChange::Stands(result) = change else {
        return None;
    };
    Some(vec![
        result.patient.expose().into(),
        result.model.to_string().into(),
        result.clips.into(),
        raw_json(&result.probabilities).into(),
        result.left_out.into(),
        result.weight.into(),
        result.abstention.map(|why| why.to_string()).into(),
        i64::from(result.current).into(),
    ])
}

fn raw_json(probabilities: &[Probability]) -> String {
    let raw: Vec<_> = probabilities.iter().map(|p| p.to_raw()).collect();
    serde_json::Value::from(raw).to_string()
}

fn probabilities(row: &Row<'_>, column: usize) -> Result<Vec<Probability>, DatabaseFault> {
    Ok(row
        .json::<Vec<i64>>(column)?
        .into_iter()
        .map(Probability::from_raw)
        .collect())
}
