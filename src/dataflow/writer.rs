use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, unbounded};

use super::{Control, RunError};
use crate::metrics::Metrics;
use crate::store::{Batch, Store};

/// Rows that one transaction takes at most.
const ROWS_A_COMMIT: usize = 4096;
/// How long a commit waits for more rows to share its sync, which is what
/// commits cost: a handful a second, whatever the number of streams.
const GATHER: Duration = Duration::from_millis(200);

/// How many clips may be on their way from window to disk. Everything between
/// holds clips, so this one number bounds the memory of all its queues.
#[derive(Clone, Debug)]
pub(super) struct Credits {
    in_use: Arc<AtomicUsize>,
    limit: usize,
}

impl Credits {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            in_use: Arc::default(),
            limit,
        }
    }

    /// Whether another frame may be read. A turn of a source may overshoot by
    /// the clips that its own frames complete.
    pub(super) fn has_room(&self) -> bool {
        self.in_use.load(Ordering::Acquire) < self.limit
    }

    pub(super) fn take(&self) {
        self.in_use.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn give(&self, count: usize) {
        self.in_use.fetch_sub(count, Ordering::AcqRel);
    }
}

/// Hands facts to the writer thread; never waits. [`Credits`] bounds what can
/// be queued.
#[derive(Clone, Debug)]
pub(super) struct WriterHandle {
    batches: Sender<Batch>,
    /// Batches that were sent and are not committed.
    waiting: Arc<AtomicUsize>,
}

impl WriterHandle {
    /// Starts the thread that owns the store; it ends when the last handle is
    /// dropped and everything is committed.
    pub(super) fn start(
        store: Store,
        credits: Credits,
        control: Control,
        metrics: Metrics,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (sender, batches) = unbounded();
        let waiting = Arc::<AtomicUsize>::default();
        let handle = Self {
            batches: sender,
            waiting: Arc::clone(&waiting),
        };
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || commit_all(store, &batches, &waiting, &credits, &control, &metrics))?;
        Ok((handle, thread))
    }

    pub(super) fn send(&self, batch: Batch) {
        // The thread outlives every handle unless it panicked, which ends the
        // run by other ways.
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let _ = self.batches.send(batch);
    }

    /// Whether everything that was sent is on disk.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.load(Ordering::Acquire) == 0
    }
}

fn commit_all(
    mut store: Store,
    batches: &Receiver<Batch>,
    waiting: &AtomicUsize,
    credits: &Credits,
    control: &Control,
    metrics: &Metrics,
) {
    let mut broken = false;
    while let Ok(mut batch) = batches.recv() {
        let deadline = Instant::now() + GATHER;
        let mut gathered = 1;
        while batch.clips.len() + batch.patients.len() + batch.rows.len() < ROWS_A_COMMIT {
            // Sources short of credit wait for this thread: then it does not.
            let more = if batch.clips.len() < credits.limit / 4 {
                batches.recv_deadline(deadline).ok()
            } else {
                batches.try_recv().ok()
            };
            let Some(more) = more else { break };
            gathered += 1;
            batch.extend(more);
        }
        if !broken && !batch.is_empty() {
            let timer = metrics.store.start_timer();
            if let Err(error) = store.commit(&batch) {
                // What cannot be stored is not acknowledged: it will be
                // computed again. Credits still flow so that the run can end.
                broken = true;
                control.fail(RunError::Store(error));
            }
            timer.observe_duration();
        }
        credits.give(batch.clips.len());
        waiting.fetch_sub(gathered, Ordering::AcqRel);
        control.wake_sources();
    }
}
