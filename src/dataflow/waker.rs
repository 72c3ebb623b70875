use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use timely::scheduling::SyncActivator;

/// Wakes one operator, and its worker if that is parked, from any thread.
///
/// Waking is cheap to repeat: until the operator has run, further calls are one
/// atomic operation and leave nothing in the worker's queue.
#[derive(Clone, Debug)]
pub(super) struct Waker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    woken: AtomicBool,
    activator: SyncActivator,
}

impl Waker {
    pub(super) fn new(activator: SyncActivator) -> Self {
        Self(Arc::new(Inner {
            woken: AtomicBool::new(false),
            activator,
        }))
    }

    /// Makes the operator run soon. Call it after what it shall find is there.
    pub(super) fn wake(&self) {
        if !self.0.woken.swap(true, Ordering::AcqRel) {
            // An error means that the worker has ended: nobody is left to wake.
            let _ = self.0.activator.activate();
        }
    }

    /// The operator says this first thing when it runs, before it looks for
    /// work: what arrives later wakes it again.
    pub(super) fn clear(&self) {
        self.0.woken.store(false, Ordering::Release);
        // Pairs with the swap in `wake`: the flag is down before work is read.
        std::sync::atomic::fence(Ordering::SeqCst);
    }
}
