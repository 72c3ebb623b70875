//! What processes tell each other beside predictions: a small dataflow of its
//! own, which lives as long as anybody has something to finish.
//!
//! The first worker of each process writes and reads for all of its workers.
//! A letter takes the same way as a prediction does: the workers that send and
//! receive it, timely's threads, and the connection. So a beat that comes proves
//! that all of these work, which a connection beside them would not.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Operator;
use timely::dataflow::operators::generic::operator::source;
use timely::dataflow::{ProbeHandle, Scope, StreamVec};
use timely::worker::Worker;

use super::super::control::lock;
use super::super::{Clock, Control, Epoch, RunError, Waker, WriterHandle};
use super::watch::{BEAT, Phase, Sign};
use super::{Hosts, Pulse, Watch};
use crate::domain::{ContentHash, StreamId};

/// How a process is about to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Ending {
    /// Not at all.
    No,
    /// In order: somebody asked for it.
    Orderly,
    /// With an error.
    Failed,
}

/// From the first worker of one process to that of another.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Letter {
    from: usize,
    to: usize,
    message: Message,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Message {
    /// The sender lives, and its clock shows `epoch`.
    Beat {
        sign: Sign,
        epoch: Epoch,
        ending: Ending,
    },
    /// `stream` has these bytes: may the sender read it?
    Claim {
        content: ContentHash,
        stream: StreamId,
    },
    /// The answer.
    Verdict { stream: StreamId, granted: bool },
}

/// Who may read which bytes: the same bytes are the same evidence, and evidence
/// counts once.
#[derive(Clone, Debug)]
pub(crate) enum Claims {
    /// By one process alone.
    Alone(Arc<Mutex<HashSet<ContentHash>>>),
    /// By a group: the process that the content's hash points at decides.
    Group(Arc<Post>),
}

impl Claims {
    /// Whether `stream` may be read; `None` if [`Claims::verdict`] will know.
    pub(crate) fn claim(&self, content: ContentHash, stream: StreamId) -> Option<bool> {
        match self {
            Self::Alone(seen) => Some(lock(seen).insert(content)),
            Self::Group(post) => post.claim(content, stream),
        }
    }

    /// Whether every process has started its workers, and so has read the store.
    pub(crate) fn everybody_is_here(&self) -> bool {
        match self {
            Self::Alone(_) => true,
            Self::Group(post) => post.watch.all_have_reached(Phase::Loading),
        }
    }

    /// Whether no other process reads any stream, now or later.
    pub(crate) fn others_have_read(&self) -> bool {
        match self {
            Self::Alone(_) => true,
            Self::Group(post) => post.watch.all_have_reached(Phase::Finishing),
        }
    }

    /// The answer to a claim of `stream`, once it is there.
    pub(crate) fn verdict(&self, stream: StreamId) -> Option<bool> {
        match self {
            Self::Alone(_) => None,
            Self::Group(post) => lock(&post.verdicts).remove(&stream),
        }
    }
}

/// The letters of one process, and what it knows by them.
pub(crate) struct Post {
    hosts: Hosts,
    workers: usize,
    control: Control,
    clock: Clock,
    writer: WriterHandle,
    pulse: Arc<Pulse>,
    watch: Arc<Watch>,
    outbox: Mutex<Vec<Letter>>,
    /// Content whose reader this process has decided on.
    granted: Mutex<HashSet<ContentHash>>,
    verdicts: Mutex<HashMap<StreamId, bool>>,
    /// The latest epoch that everybody has been told, by this process or another.
    told: AtomicU64,
    /// Local workers that still read or may read.
    reading: Arc<AtomicUsize>,
    /// Local workers that have nothing left to compute.
    finished: AtomicUsize,
    waker: OnceLock<Waker>,
}

impl std::fmt::Debug for Post {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Post").field(&self.hosts).finish()
    }
}

impl Post {
    pub(crate) fn new(
        workers: usize,
        control: Control,
        clock: Clock,
        writer: WriterHandle,
        reading: Arc<AtomicUsize>,
        watch: Arc<Watch>,
    ) -> Self {
        Self {
            hosts: watch.hosts().clone(),
            workers,
            control,
            clock,
            writer,
            pulse: watch.pulse(),
            watch,
            outbox: Mutex::default(),
            granted: Mutex::default(),
            verdicts: Mutex::default(),
            told: AtomicU64::new(0),
            reading,
            finished: AtomicUsize::new(0),
            waker: OnceLock::new(),
        }
    }

    /// What a worker of the group does: the post, and beside it the graph that
    /// `build` makes, until both are at their end everywhere. Every turn of the
    /// loop says that the worker moves. `build` gives what shows how far the graph
    /// has come: behind epoch 0, what the store knew is taken up.
    pub(crate) fn work(
        self: &Arc<Self>,
        worker: &mut Worker,
        build: impl FnOnce(Scope<'_, Epoch>) -> ProbeHandle<Epoch>,
    ) {
        let local = worker.index() % self.workers;
        worker.dataflow(|scope| post(scope, self));
        let graph = worker.next_dataflow_index();
        let progress = worker.dataflow(build);
        let turn = |worker: &mut Worker| {
            worker.step_or_park(Some(BEAT));
            self.pulse.mark(local);
        };
        let mut loading = true;
        while worker.installed_dataflows().contains(&graph) {
            turn(worker);
            if loading && !progress.less_equal(&0) {
                loading = false;
                self.pulse.loaded();
            }
        }
        self.finished.fetch_add(1, Ordering::AcqRel);
        self.wake();
        while worker.has_dataflows() {
            turn(worker);
        }
        self.pulse.end(local);
    }

    /// Whether this process has nothing left to compute or to store.
    fn is_over(&self) -> bool {
        self.finished.load(Ordering::Acquire) == self.workers && self.writer.is_idle()
    }

    fn phase(&self) -> Phase {
        if self.is_over() {
            Phase::Over
        } else if self.pulse.is_loading() {
            Phase::Loading
        } else if self.reading.load(Ordering::Acquire) == 0 {
            Phase::Finishing
        } else {
            Phase::Reading
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }

    fn send(&self, to: usize, message: Message) {
        let from = self.hosts.index();
        lock(&self.outbox).push(Letter { from, to, message });
        self.wake();
    }

    fn claim(&self, content: ContentHash, stream: StreamId) -> Option<bool> {
        let arbiter = content.share(self.hosts.processes());
        if arbiter == self.hosts.index() {
            return Some(lock(&self.granted).insert(content));
        }
        self.send(arbiter, Message::Claim { content, stream });
        None
    }

    fn open(&self, letter: &Letter) {
        match letter.message {
            Message::Beat {
                sign,
                epoch,
                ending,
            } => {
                if self.watch.heard(letter.from, sign) {
                    self.control.wake_sources();
                }
                // Answers wait for the slowest clock. Who sent this has told all.
                self.told.fetch_max(epoch, Ordering::AcqRel);
                if self.clock.advance_to(epoch) {
                    self.control.wake_sources();
                }
                // An end of one is an end of all.
                match ending {
                    Ending::No => {}
                    _ if self.control.is_stopping() => {}
                    Ending::Orderly => self.control.stop(),
                    Ending::Failed => {
                        let peer = self.hosts.peer(letter.from);
                        self.control.fail(RunError::Peer(peer));
                    }
                }
            }
            Message::Claim { content, stream } => {
                let granted = lock(&self.granted).insert(content);
                self.send(letter.from, Message::Verdict { stream, granted });
            }
            Message::Verdict { stream, granted } => {
                lock(&self.verdicts).insert(stream, granted);
                self.control.wake_sources();
            }
        }
    }

    /// A beat to everybody else, if one is due: a second after the last, or
    /// as soon as there is something new to say.
    fn beat(&self, phase: Phase, last: &mut Option<Told>) -> Vec<Letter> {
        let epoch = self.clock.now();
        let ending = match (self.control.has_failed(), self.control.is_stopping()) {
            (true, _) => Ending::Failed,
            (false, true) => Ending::Orderly,
            (false, false) => Ending::No,
        };
        let is_news = self.told.fetch_max(epoch, Ordering::AcqRel) < epoch;
        let is_known =
            |told: Told| told.at.elapsed() < BEAT && (told.phase, told.ending) == (phase, ending);
        if !is_news && last.is_some_and(is_known) {
            return Vec::new();
        }
        *last = Some(Told {
            at: Instant::now(),
            phase,
            ending,
        });
        let (slowest, lag) = self.pulse.slowest();
        let from = self.hosts.index();
        let message = Message::Beat {
            sign: Sign {
                phase,
                slowest,
                lag,
            },
            epoch,
            ending,
        };
        (0..self.hosts.processes())
            .filter(|to| *to != from)
            .map(|to| Letter { from, to, message })
            .collect()
    }
}

/// What the others were told last, and when.
#[derive(Clone, Copy, Debug)]
struct Told {
    at: Instant,
    phase: Phase,
    ending: Ending,
}

/// Builds a worker's part of the post. Letters know no order in time, so all of
/// them have the same one.
fn post(scope: Scope<'_, Epoch>, post: &Arc<Post>) {
    let workers = post.workers as u64;
    let reader = Arc::clone(post);
    letters(scope, post).sink(
        Exchange::new(move |letter: &Letter| letter.to as u64 * workers),
        "Inbox",
        move |(input, _)| {
            input.for_each(|_, letters| {
                letters.drain(..).for_each(|letter| reader.open(&letter));
            });
        },
    );
}

fn letters<'scope>(
    scope: Scope<'scope, Epoch>,
    post: &Arc<Post>,
) -> StreamVec<'scope, Epoch, Letter> {
    source::<_, CapacityContainerBuilder<Vec<_>>, _, _>(scope, "Outbox", |capability, info| {
        let writes = scope.index().is_multiple_of(post.workers);
        let waker = Waker::new(scope.worker().sync_activator_for(info.address.to_vec()));
        let activator = scope.activator_for(info.address);
        if writes {
            post.control.register_source(waker.clone());
            // Set once, by the one worker that writes.
            let _ = post.waker.set(waker.clone());
            waker.wake();
        }
        let mut capability = writes.then_some(capability);
        let mut last = None;
        let post = Arc::clone(post);
        move |output| {
            waker.clear();
            let Some(held) = capability.as_ref() else {
                return;
            };
            // Asked once: that it is over is the last word.
            let phase = post.phase();
            let beats = post.beat(phase, &mut last);
            if !beats.is_empty() {
                activator.activate_after(BEAT);
            }
            let waiting = std::mem::take(&mut *lock(&post.outbox));
            output
                .session(held)
                .give_iterator(beats.into_iter().chain(waiting));
            if phase == Phase::Over {
                capability = None;
            }
        }
    })
}
