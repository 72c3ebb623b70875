//! Epochs: how the computation knows that it has heard everything so far.
//!
//! Every source operator holds a capability at the present epoch. An answer is
//! given when *all* of them have moved past the epoch of its evidence, so even
//! a silent source has to move: the ticker advances the epoch and wakes all
//! sources. It does so only when something was sent since the last tick; while
//! nothing happens it sleeps, and so does every worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};

use super::{Control, Epoch};

/// How long evidence is gathered before answers are brought up to date.
const TICK: Duration = Duration::from_millis(100);

/// Reads and drives the epoch. When the last clone is dropped the ticker ends.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    now: Arc<AtomicU64>,
    sent: Sender<()>,
}

impl Clock {
    /// A clock at epoch 1, and the thread that drives it.
    pub(super) fn start(control: Control) -> std::io::Result<(Self, JoinHandle<()>)> {
        let now = Arc::new(AtomicU64::new(1));
        let (sent, was_sent) = bounded(1);
        let ticker = {
            let now = Arc::clone(&now);
            std::thread::Builder::new()
                .name("clock".to_owned())
                .spawn(move || tick(&now, &was_sent, &control))?
        };
        Ok((Self { now, sent }, ticker))
    }

    /// The present epoch.
    pub(super) fn now(&self) -> Epoch {
        self.now.load(Ordering::Acquire)
    }

    /// Moves on to `epoch`, which another process has reached; true if that was
    /// news.
    pub(super) fn advance_to(&self, epoch: Epoch) -> bool {
        self.now.fetch_max(epoch, Ordering::AcqRel) < epoch
    }

    /// Something was sent at the present epoch: there shall be a next one.
    pub(super) fn touch(&self) {
        // Full means that a tick is due already.
        let _ = self.sent.try_send(());
    }
}

fn tick(now: &AtomicU64, was_sent: &Receiver<()>, control: &Control) {
    while was_sent.recv().is_ok() {
        std::thread::sleep(TICK);
        now.fetch_add(1, Ordering::AcqRel);
        control.wake_sources();
    }
}
