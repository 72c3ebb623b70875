//! `hepaflow supervise`: keeps the processes of a group running.

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::BadInput;
use super::group::GroupArgs;

/// Runs a pipeline and starts it again whenever it ends abnormally.
///
/// With -n and --hostfile, starts the processes of a group that belong on this
/// machine (-p, each; without it, all of them). When one of them dies, is stopped
/// or loses another one, all are ended and started again, after pauses that grow
/// from half a second to half a minute; what is in the store is not done twice.
/// Code 2, bad input, is final. SIGTERM and Ctrl-C end the group in order; a
/// second one ends it at once.
#[derive(Args)]
pub(super) struct SuperviseArgs {
    /// The pipeline file.
    #[arg(value_name = "PIPELINE.toml")]
    pipeline: PathBuf,
    #[command(flatten)]
    group: GroupArgs,
    /// The processes that run here, such as 0,1; without it, all.
    #[arg(
        short = 'p',
        long = "process",
        value_delimiter = ',',
        requires = "processes"
    )]
    process: Vec<u16>,
    /// Timely workers of each process.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
}

/// Between looks at the processes.
const LOOK: Duration = Duration::from_millis(100);
/// The pause before the first start anew; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A group that ran for so long has recovered from what ended the last one.
const RECOVERED: Duration = Duration::from_mins(1);
/// A process that is stopped (SIGSTOP) for so long is ended: the others of its
/// group, here or elsewhere, have given it up by then.
const STOPPED: Duration = Duration::from_secs(8);
/// How long the others may take to end by themselves when one has bad input.
const LAST_WORDS: Duration = Duration::from_secs(5);

pub(super) fn run(args: &SuperviseArgs, log_json: bool) -> anyhow::Result<()> {
    let local = args.local()?;
    let signals = Arc::new(AtomicUsize::new(0));
    {
        let signals = Arc::clone(&signals);
        ctrlc::set_handler(move || {
            signals.fetch_add(1, Ordering::SeqCst);
        })
        .context("cannot listen for signals")?;
    }
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        let mut group = Group::start(args, &local, log_json)?;
        match group.run(&signals) {
            End::Done => return Ok(()),
            End::Final(error) => return Err(error),
            End::Abnormal(why) => {
                // What is not in the store is computed again: nothing is gained
                // by waiting for the others.
                group.kill();
                if begun.elapsed() > RECOVERED {
                    pause = FIRST_PAUSE;
                }
                let rest = humantime::format_duration(pause);
                tracing::error!("{why}; starting again in {rest}");
            }
        }
        let resume = Instant::now() + pause;
        while Instant::now() < resume {
            if signals.load(Ordering::SeqCst) > 0 {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

impl SuperviseArgs {
    /// The processes to start here; `None` stands for one by itself.
    fn local(&self) -> Result<Vec<Option<u16>>, BadInput> {
        let Some(processes) = self.group.processes else {
            return Ok(vec![None]);
        };
        let mut local = self.process.clone();
        if local.is_empty() {
            local.extend(0..processes);
        }
        local.sort_unstable();
        local.dedup();
        // Mistakes of the host file are told before anything is started.
        local
            .into_iter()
            .map(|index| {
                self.group.hosts(Some(index))?;
                Ok(Some(index))
            })
            .collect()
    }

    fn command(&self, index: Option<u16>, log_json: bool) -> anyhow::Result<Command> {
        use std::os::unix::process::CommandExt;
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(program);
        command.arg("run").arg(&self.pipeline);
        command.args(["--workers", &self.workers.to_string()]);
        if log_json {
            command.arg("--log-json");
        }
        if let (Some(index), Some(processes), Some(file)) =
            (index, self.group.processes, &self.group.hostfile)
        {
            command.args(["-n", &processes.to_string(), "-p", &index.to_string()]);
            command.arg("--hostfile").arg(file);
            let wait = humantime::format_duration(self.group.wait).to_string();
            command.args(["--wait", &wait]);
        }
        // Ctrl-C in a terminal is for this process, which passes it on, once.
        command.process_group(0);
        Ok(command)
    }
}

/// How a group ended.
enum End {
    /// All was done, or it was told to.
    Done,
    /// Another start would end the same way.
    Final(anyhow::Error),
    /// Anything else, in words.
    Abnormal(String),
}

struct Process {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    stopped_since: Option<Instant>,
}

/// The processes of this machine; they do not outlive this.
struct Group(Vec<Process>);

impl Group {
    fn start(args: &SuperviseArgs, local: &[Option<u16>], log_json: bool) -> anyhow::Result<Self> {
        // One by one: what was started is ended if the next cannot be.
        let mut group = Self(Vec::new());
        for &index in local {
            let name = index.map_or_else(
                || "the pipeline's process".to_owned(),
                |index| format!("process {index}"),
            );
            let child = args.command(index, log_json)?.spawn();
            let child = child.with_context(|| format!("cannot start {name}"))?;
            tracing::info!(pid = child.id(), "{name} is started");
            group.0.push(Process {
                name,
                child,
                status: None,
                stopped_since: None,
            });
        }
        Ok(group)
    }

    /// Until all have ended in order, or one has not.
    fn run(&mut self, signals: &AtomicUsize) -> End {
        let mut told = false;
        loop {
            for process in &mut self.0 {
                process.look();
            }
            let asked = signals.load(Ordering::SeqCst);
            if asked > 1 {
                self.kill();
                return End::Final(anyhow!("ended at once, as asked for"));
            }
            if asked == 1 && !told {
                told = true;
                self.0
                    .iter()
                    .for_each(|process| process.send(Signal::SIGTERM));
            }
            let all_ended = self.0.iter().all(|process| process.status.is_some());
            let failed = |code: Option<i32>| code != Some(0) && code != Some(2);
            let ended = || self.0.iter().filter_map(|it| Some((it, it.status?)));
            let mut abnormal = ended().filter(|(_, status)| failed(status.code()));
            if let Some((process, status)) = abnormal.next() {
                let why = format!("{} ended with {status}", process.name);
                if !told {
                    return End::Abnormal(why);
                }
                if all_ended {
                    return End::Final(anyhow!(why));
                }
            }
            if let Some((process, _)) = ended().find(|(_, status)| status.code() == Some(2)) {
                let error = anyhow!(
                    "{} ended with code 2: its input is bad, and starting again would not help",
                    process.name
                );
                return self.give_up(error);
            }
            if all_ended {
                return End::Done;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Ends a group of which one has bad input. If that one had run to its end,
    /// the others are about to reach theirs.
    fn give_up(&mut self, error: anyhow::Error) -> End {
        let deadline = Instant::now() + LAST_WORDS;
        while Instant::now() < deadline && self.0.iter().any(|it| it.status.is_none()) {
            std::thread::sleep(LOOK);
            self.0.iter_mut().for_each(Process::look);
        }
        self.kill();
        End::Final(BadInput::new(error).into())
    }

    /// Ends whoever is left, stopped ones too.
    fn kill(&mut self) {
        for process in &mut self.0 {
            if process.status.is_none() {
                process.send(Signal::SIGKILL);
                process.status = process.child.wait().ok();
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Process {
    /// Takes note of an end, and brings one about where the process is stopped.
    fn look(&mut self) {
        if self.status.is_some() {
            return;
        }
        match self.child.try_wait() {
            Ok(status) => self.status = status,
            Err(error) => tracing::error!("{} cannot be watched: {error}", self.name),
        }
        if !is_stopped(self.child.id()) {
            self.stopped_since = None;
        } else if self
            .stopped_since
            .get_or_insert_with(Instant::now)
            .elapsed()
            > STOPPED
        {
            tracing::error!("{} has been stopped for too long and is ended", self.name);
            self.send(Signal::SIGKILL);
        }
    }

    /// A process that has ended meanwhile needs no signal.
    fn send(&self, signal: Signal) {
        if self.status.is_none()
            && let Ok(pid) = i32::try_from(self.child.id())
        {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

/// Whether a signal has stopped the process: state T in proc(5). One that a
/// debugger holds has a small t and is left alone.
fn is_stopped(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" T"))
    })
}
