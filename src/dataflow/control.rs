use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{RunError, Waker};

/// A handle to a run: stops it from any thread.
#[derive(Clone, Debug, Default)]
pub struct Control(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    stopping: AtomicBool,
    fatal: Mutex<Option<RunError>>,
    sources: Mutex<Vec<Waker>>,
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

    /// Ends the run because of `error`; the first one given is reported.
    pub(super) fn fail(&self, error: RunError) {
        tracing::error!(%error, "the run cannot go on");
        lock(&self.0.fatal).get_or_insert(error);
        self.stop();
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
