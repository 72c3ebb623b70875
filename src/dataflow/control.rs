use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Live, Opening, RunError, Waker};

/// A handle to a run, for any thread: adds and removes streams, shows them, and
/// stops it.
///
/// To bind a scanner to the next patient's exam, remove its stream and add one
/// with the new patient: no window spans the two.
#[derive(Clone, Debug, Default)]
pub struct Control(Arc<Inner>);

/// Keeps a run from ending when it has nothing to read, until it is dropped.
#[derive(Debug)]
pub struct KeepOpen(Control);

impl Drop for KeepOpen {
    fn drop(&mut self) {
        self.0.0.kept_open.fetch_sub(1, Ordering::SeqCst);
        self.0.wake_sources();
    }
}

#[derive(Debug, Default)]
struct Inner {
    stopping: AtomicBool,
    fatal: Mutex<Option<RunError>>,
    sources: Mutex<Vec<Waker>>,
    changes: Mutex<Changes>,
    kept_open: AtomicUsize,
    live: Live,
}

/// What was asked for since the run began.
#[derive(Debug, Default)]
struct Changes {
    /// Streams that no worker has opened yet.
    added: VecDeque<Opening>,
    /// Names of sources whose streams shall end, in the order of asking. A
    /// worker remembers how many of them it has seen to.
    removed: Vec<String>,
}

impl Control {
    /// Ends the run: sources are closed, clips under way are finished and
    /// stored. Returns at once; [`super::run`] returns when all is done.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::SeqCst);
        self.wake_sources();
    }

    /// Whether the run is ending.
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::SeqCst)
    }

    /// Reads one more stream, on whichever worker has time first.
    ///
    /// A run that has nothing left to read ends and takes no more streams:
    /// hold [`Control::keep_open`] where that may happen.
    pub fn add(&self, opening: Opening) {
        lock(&self.0.changes).added.push_back(opening);
        self.wake_sources();
    }

    /// Ends the streams of the source called `source` that were added so far,
    /// opened or waiting. Windows that are under way are scored and stored;
    /// frames that are queued count as dropped by shutdown.
    pub fn remove(&self, source: &str) {
        let mut changes = lock(&self.0.changes);
        changes.added.retain(|opening| opening.source != source);
        changes.removed.push(source.to_owned());
        drop(changes);
        self.wake_sources();
    }

    /// What its streams look like now.
    pub fn live(&self) -> &Live {
        &self.0.live
    }

    /// Lets the run wait for streams to be added when it has none left. Take
    /// it before the run begins.
    pub fn keep_open(&self) -> KeepOpen {
        self.0.kept_open.fetch_add(1, Ordering::SeqCst);
        KeepOpen(self.clone())
    }

    /// Whether streams may still be added.
    pub(super) fn is_kept_open(&self) -> bool {
        self.0.kept_open.load(Ordering::SeqCst) > 0
    }

    /// The streams added since the last call by any worker, and the sources
    /// removed beyond the first `seen`. In this order of locking nobody opens
    /// a stream and overlooks a removal that came before it.
    pub(super) fn take_changes(&self, seen: usize) -> (Vec<Opening>, Vec<String>) {
        let mut changes = lock(&self.0.changes);
        let removed = changes.removed.get(seen..).unwrap_or_default().to_vec();
        (changes.added.drain(..).collect(), removed)
    }

    /// Whether streams wait to be opened.
    pub(super) fn has_added(&self) -> bool {
        !lock(&self.0.changes).added.is_empty()
    }

    /// Ends the run because of `error`; the first one given is reported.
    pub(super) fn fail(&self, error: RunError) {
        tracing::error!(%error, "the run cannot go on");
        lock(&self.0.fatal).get_or_insert(error);
        self.stop();
    }

    pub(super) fn has_failed(&self) -> bool {
        lock(&self.0.fatal).is_some()
    }

    pub(super) fn take_failure(&self) -> Option<RunError> {
        lock(&self.0.fatal).take()
    }

    pub(super) fn register_source(&self, waker: Waker) {
        lock(&self.0.sources).push(waker);
    }

    /// Lets every source operator look again: at the clock, at its credits, at
    /// whether the run is ending.
    pub(super) fn wake_sources(&self) {
        for waker in lock(&self.0.sources).iter() {
            waker.wake();
        }
    }
}

/// Locks a mutex that guards plain data: a holder that panicked has ended the
/// process or failed the run already, and left nothing half-changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
