use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde::{Deserialize, Serialize};

use super::super::Control;
use super::super::control::lock;
use super::{Hosts, Peer};

/// How often every process says that it lives.
pub(super) const BEAT: Duration = Duration::from_secs(1);
/// Who has not been heard for so long is lost. With the time between looks and
/// between beats this stays below ten seconds.
const SILENCE: Duration = Duration::from_secs(8);
/// The same for who has not been heard yet or takes up what the store knows, all of
/// it in one turn; for an end in order, where closing a scanner may hold a worker
/// up; and for who has nothing left to do, and waits for others' disks.
const LONG_SILENCE: Duration = Duration::from_mins(1);
/// Between looks.
const LOOK: Duration = Duration::from_millis(250);
/// Who looks so much later than it meant to was stopped itself.
const OWN_STOP: Duration = Duration::from_secs(3);

/// How far a process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Phase {
    /// It takes up what the store knows.
    Loading,
    /// It reads streams, or may.
    Reading,
    /// Its streams have ended.
    Finishing,
    /// It has nothing left to compute or to store.
    Over,
}

/// What a process says of itself.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Sign {
    pub(super) phase: Phase,
    /// Its worker that has stood still longest, and for how long.
    pub(super) slowest: usize,
    pub(super) lag: Duration,
}

/// A process of the group that is no longer with it.
#[derive(Clone, Debug)]
pub struct Lost {
    /// Who.
    pub peer: Peer,
    /// For how long it has done nothing.
    pub silence: Duration,
    /// How that is known.
    pub reason: Reason,
}

/// How a process is known to be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing comes from it.
    Silent,
    /// One of its workers stands still.
    Stuck {
        /// Which of that process's workers, from 0.
        worker: usize,
    },
    /// One of this process's own workers stands still.
    StuckHere {
        /// Which, from 0.
        worker: usize,
    },
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (peer, seconds) = (&self.peer, self.silence.as_secs_f64());
        match self.reason {
            Reason::Silent => write!(
                f,
                "{peer} has not been heard for {seconds:.1} s: \
                 it is stopped, or the network to it is cut"
            ),
            Reason::Stuck { worker } => {
                write!(
                    f,
                    "{peer} is stuck: its worker {worker} has stood still for {seconds:.1} s"
                )
            }
            Reason::StuckHere { worker } => write!(
                f,
                "{peer}, which is this one, is stuck: \
                 its worker {worker} has stood still for {seconds:.1} s"
            ),
        }
    }
}

/// When each worker of this process last moved: every turn of its loop says so.
#[derive(Debug)]
pub(crate) struct Pulse {
    begin: Instant,
    /// Workers that take up what the store knows.
    loading: AtomicUsize,
    /// Milliseconds since then; [`Pulse::ENDED`] for a worker that has ended.
    marks: Vec<AtomicU64>,
}

impl Pulse {
    const ENDED: u64 = u64::MAX;

    pub(crate) fn new(workers: usize) -> Self {
        Self {
            begin: Instant::now(),
            loading: AtomicUsize::new(workers),
            marks: (0..workers).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn now(&self) -> u64 {
        self.begin.elapsed().as_millis() as u64
    }

    /// Local worker `worker` moves.
    pub(crate) fn mark(&self, worker: usize) {
        self.set(worker, self.now());
    }

    /// One more local worker has taken up what the store knew.
    pub(crate) fn loaded(&self) {
        self.loading.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn is_loading(&self) -> bool {
        self.loading.load(Ordering::Acquire) > 0
    }

    /// Local worker `worker` has ended and need not move any more.
    pub(crate) fn end(&self, worker: usize) {
        self.set(worker, Self::ENDED);
    }

    fn set(&self, worker: usize, mark: u64) {
        if let Some(slot) = self.marks.get(worker) {
            slot.store(mark, Ordering::Release);
        }
    }

    /// The local worker that has stood still longest, and for how long.
    pub(super) fn slowest(&self) -> (usize, Duration) {
        let marks = self.marks.iter().map(|mark| mark.load(Ordering::Acquire));
        let (worker, mark) = marks
            .enumerate()
            .min_by_key(|(_, mark)| *mark)
            .unwrap_or((0, Self::ENDED));
        (
            worker,
            Duration::from_millis(self.now().saturating_sub(mark)),
        )
    }
}

/// What is known of one process.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// When its last word came.
    heard: Instant,
    /// Its last word, if there was one.
    sign: Option<Sign>,
}

/// Who is alive, as far as this process knows.
#[derive(Debug)]
pub(crate) struct Watch {
    hosts: Hosts,
    pulse: Arc<Pulse>,
    known: Mutex<Vec<Known>>,
}

impl Watch {
    pub(crate) fn new(hosts: Hosts, pulse: Arc<Pulse>) -> Self {
        let nobody = Known {
            heard: Instant::now(),
            sign: None,
        };
        let known = Mutex::new(vec![nobody; hosts.processes()]);
        Self {
            hosts,
            pulse,
            known,
        }
    }

    pub(super) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    pub(super) fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }

    /// A beat came from `process`; true if it has come further than it was known to
    /// have.
    pub(super) fn heard(&self, process: usize, sign: Sign) -> bool {
        let mut all = lock(&self.known);
        let Some(known) = all.get_mut(process) else {
            return false;
        };
        let is_news = known.sign.is_none_or(|last| last.phase < sign.phase);
        *known = Known {
            heard: Instant::now(),
            sign: Some(sign),
        };
        is_news
    }

    /// Whether every other process has come as far as `phase`.
    pub(super) fn all_have_reached(&self, phase: Phase) -> bool {
        let here = self.hosts.index();
        let known = lock(&self.known);
        let mut others = known.iter().enumerate().filter(|(it, _)| *it != here);
        others.all(|(_, known)| known.sign.is_some_and(|sign| sign.phase >= phase))
    }

    /// This process was stopped itself: nobody else is to blame for what it did
    /// not hear meanwhile.
    fn forgive(&self) {
        let now = Instant::now();
        for known in lock(&self.known).iter_mut() {
            known.heard = now;
            if let Some(sign) = &mut known.sign {
                sign.lag = Duration::ZERO;
            }
        }
    }

    /// Who is lost, if anybody is.
    fn look(&self, is_stopping: bool) -> Option<Lost> {
        let patience = |phase: Phase| match phase {
            Phase::Reading | Phase::Finishing if !is_stopping => SILENCE,
            _ => LONG_SILENCE,
        };
        let here = self.hosts.index();
        let phase = if self.pulse.is_loading() {
            Phase::Loading
        } else {
            Phase::Reading
        };
        let (worker, silence) = self.pulse.slowest();
        if silence > patience(phase) {
            return Some(Lost {
                peer: self.hosts.peer(here),
                silence,
                reason: Reason::StuckHere { worker },
            });
        }
        let known = lock(&self.known);
        known
            .iter()
            .enumerate()
            .filter(|(process, _)| *process != here)
            .find_map(|(process, known)| {
                let unheard = known.heard.elapsed();
                let lag = known.sign.map_or(Duration::ZERO, |sign| sign.lag);
                let phase = known.sign.map_or(Phase::Loading, |sign| sign.phase);
                let silence = unheard + lag;
                (silence > patience(phase)).then(|| Lost {
                    peer: self.hosts.peer(process),
                    silence,
                    reason: match known.sign {
                        Some(sign) if unheard < lag => Reason::Stuck {
                            worker: sign.slowest,
                        },
                        _ => Reason::Silent,
                    },
                })
            })
    }
}

/// A thread that looks who is lost, until it is dropped.
#[derive(Debug)]
pub(crate) struct Lookout {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts looking. `on_lost` is called once, from the lookout's own thread:
    /// timely offers no way to end a worker that waits, so all that it can do
    /// is to end the process.
    pub(crate) fn start(
        self: &Arc<Self>,
        control: Control,
        on_lost: impl FnOnce(&Lost) + Send + 'static,
    ) -> io::Result<Lookout> {
        let (stop, stopped) = bounded(0);
        let watch = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("lookout".to_owned())
            .spawn(move || {
                if let Some(lost) = watch.until_lost(&control, &stopped) {
                    on_lost(&lost);
                }
            })?;
        Ok(Lookout {
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    fn until_lost(&self, control: &Control, stopped: &Receiver<()>) -> Option<Lost> {
        self.forgive();
        let mut last = Instant::now();
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(LOOK) {
            if last.elapsed() > OWN_STOP {
                self.forgive();
            } else if let Some(lost) = self.look(control.is_stopping()) {
                return Some(lost);
            }
            last = Instant::now();
        }
        None
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(unheard: Duration, lag: Duration, phase: Option<Phase>) -> Watch {
        let hosts = Hosts::parse("a:1\nb:2\n", 2, 0).unwrap();
        let watch = Watch::new(hosts, Arc::new(Pulse::new(2)));
        lock(&watch.known)[1] = Known {
            heard: Instant::now().checked_sub(unheard).unwrap(),
            sign: phase.map(|phase| Sign {
                phase,
                lag,
                slowest: 1,
            }),
        };
        watch
    }

    #[test]
    fn who_is_silent_or_stuck_for_too_long_is_lost_and_no_sooner() {
        let seconds = Duration::from_secs;
        let (silent, stuck) = (Some(Reason::Silent), Some(Reason::Stuck { worker: 1 }));
        let reading = Some(Phase::Reading);
        for (unheard, lag, phase, stopping, expected) in [
            (7, 0, reading, false, None),
            (9, 0, reading, false, silent),
            (9, 0, Some(Phase::Finishing), false, silent),
            // Beats come, and a worker stands still.
            (0, 9, reading, false, stuck),
            (0, 9, Some(Phase::Loading), false, None),
            (0, 61, Some(Phase::Loading), false, stuck),
            (9, 0, None, false, None),
            (61, 0, None, false, silent),
            (9, 0, Some(Phase::Over), false, None),
            (61, 0, Some(Phase::Over), false, silent),
            (9, 0, reading, true, None),
            (61, 0, reading, true, silent),
        ] {
            let lost = watch(seconds(unheard), seconds(lag), phase).look(stopping);
            let reason = lost.as_ref().map(|lost| lost.reason);
            assert_eq!(reason, expected, "{unheard} {lag} {phase:?} {stopping}");
            if let Some(lost) = lost {
                assert!(lost.to_string().contains("process 1 (b:2)"), "{lost}");
            }
        }
    }

    #[test]
    fn who_was_stopped_itself_blames_nobody_for_it() {
        let watch = watch(
            Duration::from_secs(30),
            Duration::ZERO,
            Some(Phase::Reading),
        );
        watch.forgive();
        assert!(watch.look(false).is_none());
    }

    #[test]
    fn a_worker_that_has_ended_need_not_move() {
        let pulse = Pulse::new(2);
        std::thread::sleep(Duration::from_millis(20));
        pulse.mark(1);
        assert_eq!(pulse.slowest().0, 0);
        assert!(pulse.slowest().1 >= Duration::from_millis(20));
        pulse.end(0);
        assert_eq!(pulse.slowest().0, 1);
    }
}
