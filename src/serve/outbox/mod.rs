//! Changes of answers on their way out: one thread a sink takes them from the
//! store's outbox, in the order in which they were made, and strikes off what the
//! sink has taken.
//!
//! A sink that fails is tried again for ever, after pauses that grow; nothing
//! else waits for it. A change may arrive more than once, after a crash or a lost
//! acknowledgement, always under the same event name.
//!
//! A webhook or an archive that refuses one change for ever would hold up all that
//! wait behind it. So, after some refusals, another patient's change is offered: where
//! that one is taken and the first is refused once more, it is not the sink that is
//! down, and the first is parked (`hepaflow outbox`). Each patient's changes keep
//! their order.
//!
//! A sink of kind `dicom` is told of an answer only when that has settled, or when
//! the run ends; and not of an answer that calls for no report.

mod dicom;
mod lines;
mod payload;
mod webhook;

use std::collections::HashSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rand::seq::SliceRandom;

use crate::config::{SinkConfig, SinkKind, StorePlace, client_tls};
use crate::ingest::pull::Archive;
use crate::metrics::{Metrics, SinkMetrics};
use crate::store::tls::TlsError;
use crate::store::{OutboxSink, Outgoing, Store, StoreError};
pub use dicom::Explainer;
use dicom::Filing;
use lines::JsonLines;
use payload::Payloads;
use webhook::Webhook;

/// Changes taken from the store at a time.
const BATCH: usize = 64;
/// Waiting changes among which those are that are offered in place of a refused one.
const OTHERS: usize = 1024;
/// How often the store is asked for more.
const POLL: Duration = Duration::from_millis(200);
/// The pause after a first failure.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// How long a run that has ended goes on delivering to sinks that take.
const LAST_ROUND: Duration = Duration::from_secs(10);

/// A sink could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The key of a webhook is not there, or is none.
    #[error("sink `{sink}`: cannot use the secret file {}: {problem}", file.display())]
    Secret {
        /// The sink's name.
        sink: String,
        /// Its file.
        file: std::path::PathBuf,
        /// Why not.
        problem: String,
    },
    /// TLS could not be set up.
    #[error("sink `{sink}`: {error}")]
    Tls {
        /// The sink's name.
        sink: String,
        /// Why.
        error: TlsError,
    },
    /// The certificates of an archive cannot be used.
    #[error("sink `{sink}`: {error}")]
    Certificates {
        /// The sink's name.
        sink: String,
        /// Why.
        error: crate::config::TlsError,
    },
    /// The store could not be opened once more.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// What takes changes.
enum Sink {
    Webhook(Box<Webhook>),
    Lines(JsonLines),
    Filing(Box<Filing>),
}

/// A sink did not take a change. The text names no patient.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

impl Sink {
    fn open(config: &SinkConfig, explainer: Option<&Arc<Explainer>>) -> Result<Self, OutboxError> {
        Ok(match &config.kind {
            SinkKind::Webhook {
                url,
                secret_file,
                timeout,
            } => {
                let secret_file = &secret_file.value;
                let webhook = Webhook::open(&config.name, url, secret_file, *timeout)?;
                Self::Webhook(Box::new(webhook))
            }
            SinkKind::JsonLines { path } => Self::Lines(JsonLines::new(path)),
            SinkKind::Dicom {
                address,
                title,
                calling,
                key_frames,
                settle,
                timeout,
                authorities,
                own,
            } => {
                let tls = authorities.as_ref();
                let tls = tls.map(|trusted| client_tls(trusted, own.as_ref()));
                let tls = tls.transpose().map_err(|error| OutboxError::Certificates {
                    sink: config.name.clone(),
                    error,
                })?;
                let archive = Archive {
                    address: address.clone(),
                    title: title.clone(),
                    calling: calling.clone(),
                    timeout: *timeout,
                    tls,
                };
                let explainer = explainer.cloned();
                let how = (*key_frames, *settle);
                let filing = Filing::new(&config.name, archive, how, explainer);
                Self::Filing(Box::new(filing))
            }
        })
    }

    /// Delivers `batch` in order, as far as the sink takes it: says how many,
    /// and why no more.
    fn take(&mut self, payloads: &mut Payloads, store: &mut Store, batch: &[Outgoing]) -> Taken {
        let mut rendered = |store: &Store| {
            let bodies = payloads.render(store, batch);
            bodies.map_err(|error| Refusal(error.to_string()))
        };
        match self {
            Self::Webhook(webhook) => match rendered(store) {
                Ok(bodies) => in_turn(batch.iter().zip(&bodies), |(outgoing, body)| {
                    webhook.post(&outgoing.event, body)?;
                    Ok(Delivered::Told)
                }),
                Err(refusal) => Taken::nothing(refusal),
            },
            Self::Lines(lines) => {
                let appended = rendered(store).and_then(|bodies| {
                    let appended = lines.append(&bodies);
                    appended.map_err(|error| Refusal(error.to_string()))
                });
                match appended {
                    Ok(()) => Taken {
                        changes: batch.len(),
                        told: batch.len(),
                        refusal: None,
                    },
                    Err(refusal) => Taken::nothing(refusal),
                }
            }
            Self::Filing(filing) => in_turn(batch.iter(), |outgoing| filing.file(store, outgoing)),
        }
    }

    /// Whether the change may be delivered while more of its kind may follow.
    fn is_ready(&self, outgoing: &Outgoing) -> bool {
        match self {
            Self::Webhook(_) | Self::Lines(_) => true,
            Self::Filing(filing) => filing.is_settled(outgoing),
        }
    }
}

/// What became of a change that was not refused.
enum Delivered {
    /// The sink was told, and took it.
    Told,
    /// There was nothing to tell.
    Silent,
}

/// How far a sink took a batch.
struct Taken {
    /// Changes that are done with, the first ones.
    changes: usize,
    /// How many of them the sink was told of.
    told: usize,
    /// Why no more.
    refusal: Option<Refusal>,
}

impl Taken {
    fn nothing(refusal: Refusal) -> Self {
        Self {
            changes: 0,
            told: 0,
            refusal: Some(refusal),
        }
    }
}

/// Delivers one after the other, up to the first that is refused.
fn in_turn<T>(
    all: impl Iterator<Item = T>,
    mut deliver: impl FnMut(T) -> Result<Delivered, Refusal>,
) -> Taken {
    let (mut changes, mut told) = (0, 0);
    let mut refusal = None;
    for one in all {
        match deliver(one) {
            Ok(Delivered::Told) => told += 1,
            Ok(Delivered::Silent) => {}
            Err(why) => {
                refusal = Some(why);
                break;
            }
        }
        changes += 1;
    }
    Taken {
        changes,
        told,
        refusal,
    }
}

/// The threads that deliver; they go on until [`Outbox::finish`].
#[derive(Debug)]
pub struct Outbox {
    stop: Sender<()>,
    threads: Vec<(String, JoinHandle<u64>)>,
}

impl Outbox {
    /// What the store shall keep changes for.
    pub fn sinks(configs: &[SinkConfig]) -> Vec<OutboxSink> {
        let sink = |config: &SinkConfig| OutboxSink {
            name: config.name.clone(),
            backlog: config.backlog,
        };
        configs.iter().map(sink).collect()
    }

    /// Starts a thread with a connection of its own for each of `configs`. Reports
    /// have pictures if there is somebody to explain them.
    ///
    /// # Errors
    /// If a sink's files or the store cannot be used. A sink that is down is no
    /// error.
    pub fn start(
        place: &StorePlace,
        configs: &[SinkConfig],
        metrics: &Metrics,
        explainer: Option<&Arc<Explainer>>,
    ) -> Result<Self, OutboxError> {
        // Nothing is sent: that the sender is gone is the signal.
        let (stop, stopped) = bounded(0);
        let mut threads = Vec::new();
        for config in configs {
            let delivery = Delivery {
                name: config.name.clone(),
                sink: Sink::open(config, explainer)?,
                store: Store::open(place)?,
                payloads: Payloads::default(),
                metrics: metrics.sink(&config.name),
                longest_pause: config.retry_pause,
                park_after: config.park_after,
                refused: None,
                stopped: stopped.clone(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("sink {}", config.name))
                .spawn(move || delivery.run())?;
            threads.push((config.name.clone(), thread));
        }
        Ok(Self { stop, threads })
    }

    /// Delivers what waits, as long as the sinks take it and not for much longer
    /// than ten seconds. Says how many changes still wait for whom: they are
    /// delivered by the next run.
    pub fn finish(self) -> Vec<(String, u64)> {
        drop(self.stop);
        let mut waiting = Vec::new();
        for (name, thread) in self.threads {
            // A panic in it has ended the process by other ways.
            if let Ok(left @ 1..) = thread.join() {
                waiting.push((name, left));
            }
        }
        waiting
    }
}

/// What one thread needs.
struct Delivery {
    name: String,
    sink: Sink,
    store: Store,
    payloads: Payloads,
    metrics: SinkMetrics,
    longest_pause: Duration,
    park_after: u32,
    /// The change that was refused last, and how often in a row.
    refused: Option<(String, u32)>,
    stopped: Receiver<()>,
}

impl Delivery {
    /// Delivers until told to stop; gives how many changes are left.
    fn run(mut self) -> u64 {
        let mut pause = FIRST_PAUSE;
        let mut is_down = false;
        let mut last_round = None;
        loop {
            let result = self.round(last_round.is_some());
            self.count();
            let stopping = match &result {
                // More may wait already.
                Ok(Some(BATCH)) => self.is_stopped(),
                Ok(_) => self.sleep(POLL),
                Err(refusal) => {
                    self.metrics.failures.inc();
                    if !std::mem::replace(&mut is_down, true) {
                        tracing::warn!(sink = self.name, error = %refusal,
                            "a sink takes nothing; changes are kept for it");
                    }
                    let jitter = rand::random_range(0.5..1.0);
                    let stopping = self.sleep(pause.mul_f64(jitter));
                    pause = (2 * pause).min(self.longest_pause);
                    stopping
                }
            };
            if let Ok(taken) = result {
                pause = FIRST_PAUSE;
                if is_down && taken.is_some_and(|taken| taken > 0) {
                    is_down = false;
                    tracing::info!(sink = self.name, "the sink takes changes again");
                }
            }
            if stopping {
                let end = *last_round.get_or_insert_with(|| Instant::now() + LAST_ROUND);
                let left = self.store.backlog(&self.name).unwrap_or_default();
                // A connection that does not deliver leaves it to the one that does.
                if left == 0 || is_down || Instant::now() > end {
                    return left;
                }
            }
        }
    }

    /// Delivers one batch: how many changes, or `None` where another process
    /// delivers to this sink.
    fn round(&mut self, is_last: bool) -> Result<Option<usize>, Refusal> {
        let refused = |error: StoreError| Refusal(error.to_string());
        if !self.store.claim_sink(&self.name).map_err(refused)? {
            return Ok(None);
        }
        let mut batch = self.store.outgoing(&self.name, BATCH).map_err(refused)?;
        if !is_last {
            let ready = batch.iter().take_while(|it| self.sink.is_ready(it)).count();
            batch.truncate(ready);
        }
        if batch.is_empty() {
            return Ok(Some(0));
        }
        let taken = self.deliver(&batch).map_err(refused)?;
        let Some(refusal) = taken.refusal else {
            return Ok(Some(taken.changes));
        };
        if let Some(first) = batch.get(taken.changes) {
            self.look_past(first, &refusal, is_last)?;
        }
        Err(refusal)
    }

    /// Delivers changes as far as the sink takes them, and strikes these off.
    fn deliver(&mut self, batch: &[Outgoing]) -> Result<Taken, StoreError> {
        let taken = self.sink.take(&mut self.payloads, &mut self.store, batch);
        let done = batch.get(..taken.changes).unwrap_or_default();
        if !done.is_empty() {
            self.store.delivered(done)?;
            self.metrics.delivered.inc_by(done.len() as u64);
        }
        Ok(taken)
    }

    /// Parks `first`, which was refused, if it has been so often enough and the sink
    /// takes another change.
    fn look_past(
        &mut self,
        first: &Outgoing,
        refusal: &Refusal,
        is_last: bool,
    ) -> Result<(), Refusal> {
        let failed = |error: StoreError| Refusal(error.to_string());
        let times = match &self.refused {
            Some((event, times)) if *event == first.event => times + 1,
            _ => 1,
        };
        self.refused = Some((first.event.clone(), times));
        // A file takes all lines or none.
        if times < self.park_after || matches!(self.sink, Sink::Lines(_)) {
            return Ok(());
        }
        let waiting = self.store.outgoing(&self.name, OTHERS).map_err(failed)?;
        // The first of each other patient: each patient's changes keep their order.
        let mut seen = HashSet::from([first.change.patient()]);
        let mut others: Vec<_> = waiting
            .iter()
            .filter(|outgoing| seen.insert(outgoing.change.patient()))
            .filter(|outgoing| is_last || self.sink.is_ready(outgoing))
            .collect();
        others.shuffle(&mut rand::rng());
        // What there was nothing to tell of says nothing about the sink.
        let mut is_up = false;
        for other in others {
            let taken = self.deliver(std::slice::from_ref(other)).map_err(failed)?;
            is_up = taken.told > 0;
            if is_up || taken.refusal.is_some() {
                break;
            }
        }
        if !is_up {
            return Ok(());
        }
        let again = self.deliver(std::slice::from_ref(first)).map_err(failed)?;
        if again.refusal.is_none() {
            return Ok(());
        }
        self.store.park(first, &refusal.0).map_err(failed)?;
        tracing::warn!(sink = self.name, event = first.event, error = %refusal,
            "a sink refuses a change and takes others: it is parked, see `hepaflow outbox`");
        Ok(())
    }

    fn count(&self) {
        if let Ok(parked) = self.store.parked_for(&self.name) {
            self.metrics.parked.set(parked as i64);
        }
        if let Ok(backlog) = self.store.backlog(&self.name) {
            self.metrics.backlog.set(backlog as i64);
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.try_recv() == Err(crossbeam::channel::TryRecvError::Disconnected)
    }

    /// Waits; true if the run has ended.
    fn sleep(&self, pause: Duration) -> bool {
        self.stopped.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected)
    }
}
