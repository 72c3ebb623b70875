use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::super::Control;
use super::super::control::lock;
use super::{Hosts, Peer};

/// How often every process says that it lives.
pub(super) const BEAT: Duration = Duration::from_secs(1);
/// Who has not been heard for so long is lost. With the time between looks and
/// between beats this stays below ten seconds.
const SILENCE: Duration = Duration::from_secs(8);
/// The same for who has not been heard yet, and reads the store, and for an end
/// in order, where closing a scanner may hold a worker up.
const LONG_SILENCE: Duration = Duration::from_mins(1);
/// Between looks.
const LOOK: Duration = Duration::from_millis(250);
/// Who looks so much later than it meant to was stopped itself.
const OWN_STOP: Duration = Duration::from_secs(3);

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
    /// Milliseconds since then; [`Pulse::ENDED`] for a worker that has ended.
    marks: Vec<AtomicU64>,
}

impl Pulse {
    const ENDED: u64 = u64::MAX;

    pub(crate) fn new(workers: usize) -> Self {
        Self {
            begin: Instant::now(),
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
    has_spoken: bool,
    /// For how long its slowest worker had stood still by then, and which.
    lag: Duration,
    slowest: usize,
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
            has_spoken: false,
            lag: Duration::ZERO,
            slowest: 0,
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

    /// A beat came from `process`, whose slowest worker is `lag` behind; true if
    /// it was the first one.
    pub(super) fn heard(&self, process: usize, lag: Duration, slowest: usize) -> bool {
        let mut all = lock(&self.known);
        let Some(known) = all.get_mut(process) else {
            return false;
        };
        let is_first = !known.has_spoken;
        *known = Known {
            heard: Instant::now(),
            has_spoken: true,
            lag,
            slowest,
        };
        is_first
    }

    pub(super) fn has_heard_all(&self) -> bool {
        let here = self.hosts.index();
        let known = lock(&self.known);
        let mut others = known.iter().enumerate().filter(|(it, _)| *it != here);
        others.all(|(_, known)| known.has_spoken)
    }

    /// This process was stopped itself: nobody else is to blame for what it did
    /// not hear meanwhile.
    fn forgive(&self) {
        let now = Instant::now();
        for known in lock(&self.known).iter_mut() {
            known.heard = now;
            known.lag = Duration::ZERO;
        }
    }

    /// Who is lost, if anybody is.
    fn look(&self, is_stopping: bool) -> Option<Lost> {
        let patience = if is_stopping { LONG_SILENCE } else { SILENCE };
        let here = self.hosts.index();
        let (worker, silence) = self.pulse.slowest();
        if silence > patience {
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
                let silence = unheard + known.lag;
                let patience = if known.has_spoken {
                    patience
                } else {
                    LONG_SILENCE
                };
                (silence > patience).then(|| Lost {
                    peer: self.hosts.peer(process),
                    silence,
                    reason: if unheard < known.lag {
                        let worker = known.slowest;
                        Reason::Stuck { worker }
                    } else {
                        Reason::Silent
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

    fn watch(unheard: Duration, lag: Duration, has_spoken: bool) -> Watch {
        let hosts = Hosts::parse("a:1\nb:2\n", 2, 0).unwrap();
        let watch = Watch::new(hosts, Arc::new(Pulse::new(2)));
        lock(&watch.known)[1] = Known {
            heard: Instant::now().checked_sub(unheard).unwrap(),
            has_spoken,
            lag,
            slowest: 1,
        };
        watch
    }

    #[test]
    fn who_is_silent_or_stuck_for_too_long_is_lost_and_no_sooner() {
        let seconds = Duration::from_secs;
        for (unheard, lag, spoken, stopping, expected) in [
            (7, 0, true, false, None),
            (9, 0, true, false, Some(Reason::Silent)),
            // Beats come, and a worker stands still.
            (0, 9, true, false, Some(Reason::Stuck { worker: 1 })),
            (9, 0, false, false, None),
            (61, 0, false, false, Some(Reason::Silent)),
            (9, 0, true, true, None),
            (61, 0, true, true, Some(Reason::Silent)),
        ] {
            let lost = watch(seconds(unheard), seconds(lag), spoken).look(stopping);
            let reason = lost.as_ref().map(|lost| lost.reason);
            assert_eq!(reason, expected, "{unheard} {lag} {spoken} {stopping}");
            if let Some(lost) = lost {
                assert!(lost.to_string().contains("process 1 (b:2)"), "{lost}");
            }
        }
    }

    #[test]
    fn who_was_stopped_itself_blames_nobody_for_it() {
        let watch = watch(Duration::from_secs(30), Duration::ZERO, true);
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
