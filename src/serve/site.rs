//! What a server knows of the run that it shows.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::Semaphore;

use super::auth::Access;
use super::ids::Ids;
use super::picture::Pictures;
use super::problem::Problem;
use crate::config::StorePlace;
use crate::dataflow::{Control, Facts};
use crate::domain::{FrameSize, ModelHash, PatientId, PseudonymKey, StageRange};
use crate::metrics::Metrics;
use crate::store::{Assignments, Store, StoreError};

/// Live views at once.
const VIEWERS: usize = 64;

/// The run that is to be shown.
pub struct Subject {
    /// What is counted.
    pub metrics: Metrics,
    /// Adds, removes and shows streams.
    pub control: Control,
    /// Takes in what people say about patients.
    pub facts: Facts,
    /// Where results are kept.
    pub store: StorePlace,
    /// The file of the key behind opaque names; made if it is not there.
    pub ids: PathBuf,
    /// The model that scores.
    pub model: ServedModel,
    /// Further models that score the same windows.
    pub beside: Vec<ServedModel>,
    /// The key of the pseudonyms under which patients are kept, if they are.
    pub pseudonyms: Option<PseudonymKey>,
    /// The pipeline file's sources.
    pub sources: Vec<ServedSource>,
    /// Opens what the API is asked for, now or when it is time.
    pub open: OpenStream,
    /// Closes a source as the API is asked to.
    pub close: CloseSource,
}

/// Sees to a stream that the API is asked for, or says why it cannot.
pub type OpenStream = Box<dyn Fn(NewStream) -> Result<(), String> + Send + Sync>;

/// Closes the source of this name, and forgets what was booked for it; false if
/// there is none that could be opened again.
pub type CloseSource = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// A stream that the API is asked to add.
pub struct NewStream {
    /// The source's name: one of the pipeline file, or a new one.
    pub source: String,
    /// Where its pictures come from, for a new source: an RTSP address.
    pub location: Option<String>,
    /// Whose liver it is.
    pub patient: PatientId,
    /// Not before this time.
    pub from: Option<SystemTime>,
    /// No longer than until this time.
    pub until: Option<SystemTime>,
}

/// A source of the pipeline file.
#[derive(Clone, Debug)]
pub struct ServedSource {
    /// Its name.
    pub name: String,
    /// What it reads: `file`, `launch` and so on.
    pub kind: &'static str,
    /// Whether it keeps its own pace.
    pub live: bool,
}

/// The model that scores, for people to see.
#[derive(Clone, Debug)]
pub struct ServedModel {
    /// Identity of its directory's content.
    pub hash: ModelHash,
    /// Architecture name.
    pub architecture: String,
    /// Meaning of each class, in order.
    pub classes: Vec<StageRange>,
    /// Trained on synthetic pictures.
    pub synthetic: bool,
    /// The pictures that it sees.
    pub size: FrameSize,
    /// Frames in a window, and from one window to the next.
    pub window: (usize, usize),
    /// What executes it.
    pub engine: String,
}

/// The run, and what serving it takes.
pub(super) struct Site {
    pub(super) subject: Subject,
    pub(super) access: Access,
    pub(super) ids: Ids,
    pub(super) pictures: Pictures,
    pub(super) viewers: Arc<Semaphore>,
    /// Whose each clip is, as far as anybody asked.
    pub(super) assignments: Arc<Mutex<Assignments>>,
    /// Open from the first look on.
    reader: Arc<Mutex<Option<Store>>>,
    pub(super) started: SystemTime,
}

impl Site {
    pub(super) fn new(subject: Subject, access: Access, ids: Ids) -> Self {
        Self {
            subject,
            access,
            ids,
            pictures: Pictures::default(),
            viewers: Arc::new(Semaphore::new(VIEWERS)),
            assignments: Arc::default(),
            reader: Arc::default(),
            started: SystemTime::now(),
        }
    }

    /// The model of this hash, if it scores in this run; else the first that does.
    pub(super) fn running(&self, hash: &str) -> &ServedModel {
        let mut beside = self.subject.beside.iter();
        beside
            .find(|model| model.hash.to_string() == hash)
            .unwrap_or(&self.subject.model)
    }

    /// The patient that people call so, as the store knows them.
    pub(super) fn patient(&self, identifier: &str) -> PatientId {
        let patient = PatientId::new(identifier);
        match &self.subject.pseudonyms {
            Some(key) => key.known(&patient),
            None => patient,
        }
    }

    /// Reads the store where waiting for the disk holds up nobody.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Problem> {
        let (place, reader) = (self.subject.store.clone(), Arc::clone(&self.reader));
        let reading = tokio::task::spawn_blocking(move || {
            let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            let store = match reader.take() {
                Some(store) => store,
                None => Store::open_existing(&place)?,
            };
            let value = read(&store)?;
            // After an error it is opened anew.
            *reader = Some(store);
            Ok::<_, StoreError>(value)
        });
        match reading.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Problem::internal(&error)),
            Err(error) => Err(Problem::internal(&error)),
        }
    }
}

/// Milliseconds since 1970.
pub(super) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
