//! DICOM from outside, read in a process of its own.
//!
//! Parsers and decoders meet whatever the world sends, and some of them are C.
//! A worker is this program again (`hepaflow decode-worker`) with a limit on its
//! memory: it reads one file after the other and sends finished frames, which
//! are small. If it crashes, runs out of memory or falls silent, the one file
//! is refused with a reason, and the next gets a fresh worker. Other recordings
//! are made by known recorders and stay in this process.
//!
//! ```text
//! this process                          worker
//! queue ◀─ watcher ◀─ pump ◀── frames ──── parse, decode, crop, resize
//!            └─ file name ──────────────▶
//! ```

mod wire;
mod worker;

use std::fs;
use std::io::{self, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, bounded, select};

use super::error::Origin;
use super::queue::Queue;
use super::reader::{Presence, seconds_since_1970};
use super::{IngestError, Media, SourceRequest, Wake};
use crate::domain::FrameSize;
use crate::metrics::{DropReason, SourceMetrics};
use wire::{End, Message, Work};
pub use worker::work;

/// Files that a worker reads before it is replaced, so that what libraries leak
/// stays small.
const FILES_A_WORKER: u32 = 500;

/// What a worker may take to start and to load its libraries.
const STARTING_TIME: Duration = Duration::from_secs(10);

/// What a worker that talks nonsense is given to end by itself.
const ENDING_TIME: Duration = Duration::from_secs(1);

/// A pool of workers; clones share it.
#[derive(Clone, Debug)]
pub struct Sandbox(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    program: PathBuf,
    memory: u64,
    /// Where files that cannot be read are moved, if they are ours to move.
    quarantine: Option<PathBuf>,
    idle: Mutex<Vec<Worker>>,
}

/// A child process between two files.
#[derive(Debug)]
struct Worker {
    process: Process,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    files: u32,
}

/// A child process, ended when dropped.
#[derive(Debug)]
struct Process(Child);

impl Process {
    /// How the process ended: it has a moment to do so by itself, so that its
    /// own end is told.
    fn end(&mut self) -> io::Result<ExitStatus> {
        let deadline = Instant::now() + ENDING_TIME;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.0.kill()?;
        self.0.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed, and need not be.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Sandbox {
    /// Workers are `program decode-worker`, with at most `memory` bytes each.
    /// None is started yet.
    pub fn new(program: PathBuf, memory: u64) -> Self {
        Self(Arc::new(Pool {
            program,
            memory,
            quarantine: None,
            idle: Mutex::default(),
        }))
    }

    /// The same, for files that are ours: those that cannot be read are moved
    /// to `folder`, each beside a text that says why.
    #[must_use]
    pub fn with_quarantine(&self, folder: PathBuf) -> Self {
        Self(Arc::new(Pool {
            program: self.0.program.clone(),
            memory: self.0.memory,
            quarantine: Some(folder),
            idle: Mutex::default(),
        }))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Worker>> {
        // No code that could panic runs under the lock.
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> io::Result<Worker> {
        if let Some(worker) = self.idle().pop() {
            return Ok(worker);
        }
        let mut child = Command::new(&self.0.program)
            .args(["decode-worker", "--memory", &self.0.memory.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Its errors come as messages; a library's chatter may quote a file.
            .stderr(Stdio::null())
            .spawn()?;
        let missing = || io::Error::other("a worker has no pipe");
        let input = child.stdin.take().ok_or_else(missing)?;
        let output = child.stdout.take().ok_or_else(missing)?;
        Ok(Worker {
            process: Process(child),
            input,
            output: BufReader::new(output),
            files: 0,
        })
    }

    /// A worker that has read `line`. One that died while it was idle is no
    /// fault of the file: the next is asked. Why a fresh one takes nothing,
    /// its end will tell.
    fn hand_to_a_worker(&self, line: &[u8]) -> io::Result<Worker> {
        loop {
            let mut worker = self.take()?;
            let written = worker.input.write_all(line);
            if written.is_ok() || worker.files == 0 {
                return Ok(worker);
            }
        }
    }

    fn give_back(&self, mut worker: Worker) {
        worker.files += 1;
        if worker.files < FILES_A_WORKER {
            self.idle().push(worker);
        }
    }

    /// Reads the file of `job` in a worker, and moves it away if that fails and
    /// there is a place for it.
    pub(super) fn read(&self, job: &Job<'_>) -> Option<Result<(), IngestError>> {
        let result = self.read_file(job)?;
        if let Err(error) = &result
            && let (Some(folder), Some(path)) = (&self.0.quarantine, error.path())
        {
            match quarantine(path, folder, error) {
                Ok(()) => tracing::warn!(
                    source = job.request.name,
                    reason = error.code(),
                    "a file is in quarantine"
                ),
                Err(error) => tracing::error!(%error, "a file cannot be moved to quarantine"),
            }
        }
        Some(result)
    }

    /// `None` if nobody wants the frames any more.
    fn read_file(&self, job: &Job<'_>) -> Option<Result<(), IngestError>> {
        let crashed = |how: String| IngestError::Crashed {
            origin: job.origin.clone(),
            how,
        };
        let Media::File(path) = &job.request.media else {
            return Some(Err(crashed("it is no file".to_owned())));
        };
        let started = job.work(path).and_then(|work| {
            let mut line = serde_json::to_vec(&work)?;
            line.push(b'\n');
            self.hand_to_a_worker(&line)
        });
        let worker = match started {
            Ok(worker) => worker,
            Err(error) => return Some(Err(crashed(format!("it cannot be started: {error}")))),
        };
        let Worker {
            mut process,
            input,
            output,
            files,
        } = worker;
        let (messages, pump) = pump(output, job.request.size);
        let told = job.follow(&messages)?;
        drop(messages);
        match told {
            Told::End(end) => {
                if let Ok(Some(output)) = pump.join() {
                    self.give_back(Worker {
                        process,
                        input,
                        output,
                        files,
                    });
                }
                Some(job.conclude(end))
            }
            Told::Silence(waited) => Some(Err(IngestError::Stalled {
                origin: job.origin.clone(),
                frames: 0,
                waited,
            })),
            Told::Nonsense => {
                drop(input);
                let status = process.end();
                let how = status.map_or_else(
                    |error| error.to_string(),
                    |status| match status.signal() {
                        Some(signal) => format!("signal {signal}"),
                        None => format!("{status}"),
                    },
                );
                Some(Err(crashed(how)))
            }
        }
    }
}

/// How a worker's messages ended.
enum Told {
    End(End),
    /// Nothing came for this long.
    Silence(Duration),
    /// The pipe ended, or held something else.
    Nonsense,
}

type Pumped = (
    Receiver<io::Result<Message>>,
    thread::JoinHandle<Option<BufReader<ChildStdout>>>,
);

/// Reads messages on a thread of its own, because a pipe cannot be waited for
/// together with anything else. Gives the pipe back behind an end.
fn pump(mut output: BufReader<ChildStdout>, size: FrameSize) -> Pumped {
    let (sender, messages) = bounded(4);
    let pump = thread::spawn(move || {
        loop {
            let message = wire::read(&mut output, size);
            let failed = message.is_err();
            let ended = matches!(message, Ok(Message::Ended(_)));
            if sender.send(message).is_err() || failed {
                return None;
            }
            if ended {
                return Some(output);
            }
        }
    });
    (messages, pump)
}

/// One file to be read, and where its frames go.
pub(super) struct Job<'a> {
    pub(super) request: &'a SourceRequest,
    pub(super) origin: &'a Origin,
    pub(super) queue: &'a Queue,
    pub(super) rung: &'a Receiver<()>,
    pub(super) wake: &'a Wake,
    pub(super) metrics: &'a SourceMetrics,
}

impl Job<'_> {
    fn work(&self, path: &Path) -> io::Result<Work> {
        Ok(Work {
            name: self.request.name.clone(),
            path: std::path::absolute(path)?,
            patient: self.request.patient.clone(),
            crop: self.request.crop,
            look: self.request.look,
            size: self.request.size,
            queue: self.request.queue,
            first_frame_timeout: self.request.first_frame_timeout,
            frame_interval: self.request.frame_interval,
            pace: self.request.pace,
        })
    }

    /// Queues what comes; `None` when nobody wants it any more.
    fn follow(&self, messages: &Receiver<io::Result<Message>>) -> Option<Told> {
        // The worker gives up by itself after once this time; this is for one
        // that cannot.
        let patience = self.request.first_frame_timeout * 2 + STARTING_TIME;
        let mut presence = None;
        loop {
            let message = select! {
                recv(messages) -> message => message,
                recv(self.rung) -> _ => {
                    if self.queue.is_closed() {
                        return None;
                    }
                    continue;
                }
                default(patience) => return Some(Told::Silence(patience)),
            };
            match message {
                Ok(Ok(Message::Opened(header))) if presence.is_none() => {
                    self.queue.open(header).ok()?;
                    presence = Some(Presence::new(&self.metrics.up));
                }
                Ok(Ok(Message::Frame(frame))) if presence.is_some() => {
                    self.metrics.received.inc();
                    self.metrics.last_frame.set(seconds_since_1970());
                    if self.queue.push_waiting(frame).is_err() {
                        self.metrics.dropped(DropReason::Shutdown).inc();
                        return None;
                    }
                }
                Ok(Ok(Message::Ended(end))) => return Some(Told::End(end)),
                _ => return Some(Told::Nonsense),
            }
            (self.wake)();
        }
    }

    fn conclude(&self, end: End) -> Result<(), IngestError> {
        for (reason, count) in DropReason::ALL.into_iter().zip(end.dropped) {
            self.metrics.received.inc_by(count);
            self.metrics.dropped(reason).inc_by(count);
        }
        match end.failure {
            None => Ok(()),
            Some(failure) => Err(IngestError::Refused {
                origin: self.origin.clone(),
                code: failure.code,
                text: failure.text,
            }),
        }
    }
}

/// Moves `path` into `folder`, beside a text with the reason.
fn quarantine(path: &Path, folder: &Path, error: &IngestError) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default();
    fs::create_dir_all(folder)?;
    fs::rename(path, folder.join(name))?;
    let reason = folder.join(name).with_extension("reason.txt");
    fs::write(reason, format!("{}\n{error}\n", error.code()))
}
