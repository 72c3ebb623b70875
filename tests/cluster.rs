//! Several processes that run one pipeline together: the program itself, on
//! loopback, with peers that are killed, stopped, cut off and never come.
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "support/recordings.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod recordings;
#[path = "support/wait.rs"]
mod wait;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use hepaflow::domain::{ClipPrediction, PatientResult};
use hepaflow::store::Store;
use recordings::{MP4, pydicom, record_pattern};
use tempfile::TempDir;
use wait::{wait_for, wait_until};

/// W of the small model.
const LENGTH: usize = 9;
/// A peer that is stopped or cut off is noticed by then.
const NOTICED: Duration = Duration::from_secs(10);
/// A supervised group that lost a process has recovered by then.
const RECOVERED: Duration = Duration::from_secs(30);

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Writes `p.toml` with the small model and a store of its own.
fn pipeline(folder: &Path, stride: usize, sources: &str) {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/fibro3d");
    let text = format!(
        "[model]\npath = '{}'\nthreads = 1\n[window]\nstride = {stride}\n\
         [ingest]\ndecoders = 1\ncrop = 'header'\ngate = false\n{sources}\n[serve]\nlisten = '127.0.0.1:0'\n",
        model.display()
    );
    fs::write(folder.join("p.toml"), text).unwrap();
}

fn source(name: &str, path: &Path, patient: &str) -> String {
    format!(
        "[[source]]\nname = '{name}'\npath = '{}'\npatient = '{patient}'\n",
        path.display()
    )
}

/// Writes `hosts.txt` with free ports of this machine.
fn hosts(folder: &Path, processes: usize) -> Vec<String> {
    let listeners: Vec<_> = (0..processes)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let hosts: Vec<_> = listeners
        .iter()
        .map(|listener| listener.local_addr().unwrap().to_string())
        .collect();
    fs::write(folder.join("hosts.txt"), hosts.join("\n")).unwrap();
    hosts
}

/// `hepaflow` in `folder`, to be added to.
fn hepaflow(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(cargo_bin!("hepaflow"));
    command.args(args).current_dir(folder);
    command
}

/// `hepaflow run` as process `index` of so many.
fn member(folder: &Path, processes: usize, index: usize) -> Command {
    let (n, p) = (processes.to_string(), index.to_string());
    let group = ["-n", &n, "-p", &p, "--hostfile", "hosts.txt"];
    hepaflow(folder, &[&["run", "p.toml"][..], &group].concat())
}

/// A program in the background, whose stderr is kept.
struct Running {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        Self {
            child,
            lines,
            reader: Some(reader),
        }
    }

    fn said(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// Its code and its stderr, which it must reach within `limit`.
    fn end(&mut self, limit: Duration) -> (Option<i32>, String) {
        let status = wait_for("a program's end", limit, || self.child.try_wait().unwrap());
        self.reader.take().unwrap().join().unwrap();
        (status.code(), self.said())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} said:\n{}", self.child.id(), self.said());
        }
        // A stopped process, or one that a failed test leaves behind; of a
        // supervisor, its processes too.
        for child in children(self.child.id()) {
            signal(child, "-KILL");
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn signal(pid: u32, signal: &str) {
    let status = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
    // It may be gone already.
    status.unwrap();
}

fn children(pid: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let listed = listed.unwrap_or_default();
    listed
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

/// The pid of the supervised process with number `index`.
fn supervised(supervisor: u32, index: usize) -> Option<u32> {
    let (flag, index) = ("-p", index.to_string());
    children(supervisor).into_iter().find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let args: Vec<_> = line.split(|byte| *byte == 0).collect();
        args.windows(2)
            .any(|pair| pair == [flag.as_bytes(), index.as_bytes()])
    })
}

type Rows = (Vec<PatientResult>, Vec<ClipPrediction>);

fn rows(folder: &Path) -> Rows {
    let store = Store::open_existing(folder.join("results.sqlite")).unwrap();
    (
        store.patient_results().unwrap(),
        store.clip_predictions().unwrap(),
    )
}

/// Clips that are stored so far.
fn stored(folder: &Path) -> usize {
    let store = Store::open_existing(folder.join("results.sqlite"));
    store.map_or(0, |store| store.finished().map_or(0, |keys| keys.len()))
}

fn remove_store(folder: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        fs::remove_file(folder.join(format!("results.sqlite{suffix}"))).ok();
    }
}

fn run_alone(folder: &Path) -> Output {
    let output = hepaflow(folder, &["run", "p.toml"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    output
}

/// Runs the pipeline with so many processes to its end; what each printed.
fn run_group(folder: &Path, processes: usize) -> Vec<Output> {
    hosts(folder, processes);
    let running: Vec<_> = (0..processes)
        .map(|index| {
            let mut command = member(folder, processes, index);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    let outputs = running.into_iter().map(|it| it.wait_with_output().unwrap());
    outputs
        .inspect(|output| assert!(output.status.success(), "{}", text(&output.stderr)))
        .collect()
}

/// Recordings of every kind that is divided, with two pairs of the same bytes:
/// within a source, and in two sources.
fn mixed(folder: &Path) -> String {
    // Of other lengths: no more bytes are the same than are meant to be.
    for (directory, files, shortest) in [("films", 5, 25), ("cohort", 3, 41)] {
        let directory = folder.join(directory);
        fs::create_dir(&directory).unwrap();
        for number in 0..files {
            let patterns = ["ball", "smpte", "snow", "circular", "bar"];
            let (name, frames) = (format!("{number}.mp4"), shortest + 3 * number);
            record_pattern(&directory, &name, patterns[number as usize], MP4, frames);
        }
    }
    let (films, cohort) = (folder.join("films"), folder.join("cohort"));
    fs::copy(films.join("1.mp4"), films.join("copy.mp4")).unwrap();
    fs::copy(films.join("2.mp4"), cohort.join("copy.mp4")).unwrap();
    let table = "patient_id,path\nC1,0.mp4\nC2,copy.mp4\nC1,1.mp4\nC3,2.mp4\n";
    fs::write(cohort.join("videos.csv"), table).unwrap();
    let archive = folder.join("archive");
    fs::create_dir(&archive).unwrap();
    for name in ["a.dcm", "b.dcm"] {
        fs::copy(pydicom("examples_ybr_color.dcm"), archive.join(name)).unwrap();
    }
    fs::write(archive.join("notes.txt"), "nothing").unwrap();
    source("films", &films.join("*.mp4"), "P1")
        + "[[source]]\nname = 'cohort'\nkind = 'cohort'\npath = 'cohort'\n\
           [[source]]\nname = 'archive'\nkind = 'archive'\npath = 'archive'\n"
}

#[test]
fn one_two_and_four_processes_give_the_same_rows() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let sources = mixed(folder);
    pipeline(folder, 4, &sources);
    let alone = run_alone(folder);
    let expected = rows(folder);
    // What the same bytes are counted once means: every clip of a patient once.
    assert!(expected.0.len() >= 3 && !expected.1.is_empty());
    let clips: u64 = expected.0.iter().map(|patient| patient.clips).sum();
    assert_eq!(clips, expected.1.len() as u64);
    let said = text(&alone.stderr);
    let copies = "3 streams had the bytes of another";
    assert!(said.contains(copies), "{said}");
    for processes in [2, 4] {
        remove_store(folder);
        let outputs = run_group(folder, processes);
        assert_eq!(rows(folder), expected, "{processes} processes");
        // The answers once, whole, and nothing else on stdout.
        assert_eq!(text(&outputs[0].stdout), text(&alone.stdout));
        assert!(outputs[1..].iter().all(|output| output.stdout.is_empty()));
    }
    // Every file of the archive is in exactly one part of the report.
    let parts = ["archive-report.csv", "archive-report-1.csv"].map(|part| {
        let part = fs::read_to_string(folder.join(part)).unwrap();
        part.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    });
    let named = |name: &str| {
        parts
            .iter()
            .flatten()
            .filter(|line| line.contains(name))
            .count()
    };
    assert_eq!([named("b.dcm"), named("notes.txt")], [1, 1], "{parts:?}");
}

/// Two streams of two patients, one for each process, that give a frame each 8 ms on
/// any machine, and the same frames each time. How many windows they have.
fn long_streams(folder: &Path, frames: u32) -> usize {
    let stream = |(name, patient, motion): (&str, &str, &str)| {
        format!(
            "[[source]]\nname = '{name}'\npatient = '{patient}'\nkind = 'launch'\n\
             line = 'videotestsrc pattern=ball motion={motion} num-buffers={frames} \
             ! video/x-raw,width=160,height=120,framerate=25/1 \
             ! identity sleep-time=8000'\n"
        )
    };
    let streams = [("a", "P1", "wavy"), ("b", "P2", "hsweep")];
    pipeline(folder, 1, &streams.map(stream).concat());
    2 * (frames as usize - LENGTH + 1)
}

fn start_two(folder: &Path) -> [Running; 2] {
    [0, 1].map(|index| Running::start(member(folder, 2, index)))
}

/// The store as an uninterrupted run leaves it; the interrupted one is kept.
fn assert_whole(folder: &Path, windows: usize) {
    let found = rows(folder);
    assert_eq!(found.1.len(), windows);
    remove_store(folder);
    run_alone(folder);
    assert_eq!(found, rows(folder));
}

#[test]
fn a_process_that_is_killed_ends_the_others_who_name_it_and_the_next_run_goes_on() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let windows = long_streams(folder, 400);
    let hosts = hosts(folder, 2);
    let [mut first, second] = start_two(folder);
    wait_until("clips are stored", NOTICED * 3, || stored(folder) > 0);
    signal(second.child.id(), "-KILL");
    let (code, said) = first.end(NOTICED);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains(&format!("process 1 ({}) is gone", hosts[1])),
        "{said}"
    );
    drop((first, second));
    run_group(folder, 2);
    assert_whole(folder, windows);
}

#[test]
fn a_process_that_is_stopped_is_noticed_and_named_in_time() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    long_streams(folder, 1500);
    let hosts = hosts(folder, 2);
    let [mut first, second] = start_two(folder);
    wait_until("clips are stored", NOTICED * 3, || stored(folder) > 0);
    signal(second.child.id(), "-STOP");
    let (code, said) = first.end(NOTICED);
    assert_eq!(code, Some(1), "{said}");
    let expected = format!("process 1 ({}) has not been heard", hosts[1]);
    assert!(said.contains(&expected), "{said}");
}

#[test]
fn a_supervised_group_recovers_from_a_kill_and_from_a_stop() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let windows = long_streams(folder, 600);
    hosts(folder, 2);
    let args = ["supervise", "p.toml", "-n", "2", "--hostfile", "hosts.txt"];
    let mut supervisor = Running::start(hepaflow(folder, &args));
    for deed in ["-KILL", "-STOP"] {
        let before = stored(folder);
        wait_until("clips are stored", NOTICED * 3, || stored(folder) > before);
        let victim = supervised(supervisor.child.id(), 1).unwrap();
        signal(victim, deed);
        let before = stored(folder);
        // Another process has its place, and clips come again.
        wait_until("the group has recovered", RECOVERED, || {
            supervised(supervisor.child.id(), 1).is_some_and(|pid| pid != victim)
                && stored(folder) > before
        });
    }
    let (code, said) = supervisor.end(RECOVERED * 2);
    assert_eq!(code, Some(0), "{said}");
    assert_whole(folder, windows);
}

const ENDLESS: &str = "live = true\nkind = 'launch'\n\
    line = 'videotestsrc is-live=true ! video/x-raw,width=320,height=240,framerate=30/1'\n";

#[test]
fn sigterm_to_a_supervisor_ends_its_group_in_order() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let scanner =
        |name, patient| format!("[[source]]\nname = '{name}'\npatient = '{patient}'\n{ENDLESS}");
    pipeline(
        folder,
        3,
        &(scanner("bed-1", "P1") + &scanner("bed-2", "P2")),
    );
    hosts(folder, 2);
    let args = ["supervise", "p.toml", "-n", "2", "--hostfile", "hosts.txt"];
    let mut supervisor = Running::start(hepaflow(folder, &args));
    // Each process has its scanner, and both patients have an answer.
    wait_until("both patients have an answer", NOTICED * 3, || {
        folder.join("results.sqlite").is_file() && stored(folder) > 0 && rows(folder).0.len() == 2
    });
    signal(supervisor.child.id(), "-TERM");
    let (code, said) = supervisor.end(NOTICED);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("source `bed-2` belongs to process 1"),
        "{said}"
    );
    let (patients, clips) = rows(folder);
    let counted: u64 = patients.iter().map(|patient| patient.clips).sum();
    assert_eq!(counted, clips.len() as u64);
}

#[test]
fn what_cannot_become_a_group_says_why() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    long_streams(folder, 30);
    let bad = |args: &[&str], expected: &[&str]| {
        let output = hepaflow(folder, args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let said = text(&output.stderr);
        for expected in expected {
            assert!(said.contains(expected), "{expected} in {said}");
        }
    };
    fs::write(folder.join("bad.txt"), "node1\nnode2:0\n").unwrap();
    let mistakes = ["line 1: `node1` has no port", "line 2", "-p 3 is not there"];
    let group = ["-n", "2", "-p", "3", "--hostfile", "bad.txt"];
    bad(&[&["run", "p.toml"][..], &group].concat(), &mistakes);
    // A supervisor does not go on and on with it.
    let group = ["-n", "2", "--hostfile", "bad.txt"];
    bad(
        &[&["supervise", "p.toml"][..], &group].concat(),
        &mistakes[..2],
    );
    bad(&["run", "p.toml", "-n", "2", "-p", "0"], &["--hostfile"]);

    // A peer that never comes.
    let hosts = hosts(folder, 2);
    let mut command = member(folder, 2, 0);
    let output = command.args(["--wait", "1s"]).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty());
    let expected = format!("waited 1s in vain for process 1 ({})", hosts[1]);
    assert!(said.contains(&expected), "{said}");

    // A peer that runs another pipeline file.
    let other = folder.join("other.toml");
    let same = fs::read_to_string(folder.join("p.toml")).unwrap();
    fs::write(&other, same.replace("stride = 1", "stride = 2")).unwrap();
    let mut first = Running::start(member(folder, 2, 0));
    let args = [
        "run",
        "other.toml",
        "-n",
        "2",
        "-p",
        "1",
        "--hostfile",
        "hosts.txt",
    ];
    let mut second = Running::start(hepaflow(folder, &args));
    for (process, peer) in [(&mut first, 1), (&mut second, 0)] {
        let (code, said) = process.end(NOTICED);
        assert_eq!(code, Some(2), "{said}");
        let expected = format!("process {peer} ({}) is refused", hosts[peer]);
        assert!(
            said.contains(&expected) && said.contains("another pipeline file"),
            "{said}"
        );
    }
}

/// Two network namespaces with a cable between them; gone when dropped.
struct Cable([String; 2]);

impl Cable {
    /// `None` where this machine does not allow it.
    fn lay() -> Option<Self> {
        let id = std::process::id();
        let cable = Self([format!("hf{id}a"), format!("hf{id}b")]);
        for name in &cable.0 {
            ip(&["netns", "add", name])?;
        }
        let [a, b] = &cable.0;
        ip(&[
            "link", "add", a, "netns", a, "type", "veth", "peer", b, "netns", b,
        ])?;
        for (name, address) in cable.0.iter().zip(["10.211.7.1/24", "10.211.7.2/24"]) {
            ip(&["-n", name, "address", "add", address, "dev", name])?;
            ip(&["-n", name, "link", "set", name, "up"])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        Some(cable)
    }

    /// A command in one of the two namespaces.
    fn inside(&self, index: usize, command: &Command) -> Running {
        let mut outer = Command::new("ip");
        outer.args(["netns", "exec", &self.0[index]]);
        outer.arg(command.get_program()).args(command.get_args());
        if let Some(folder) = command.get_current_dir() {
            outer.current_dir(folder);
        }
        Running::start(outer)
    }

    /// Unplugs the second one, or plugs it in again.
    fn plug(&self, state: &str) {
        ip(&["-n", &self.0[1], "link", "set", &self.0[1], state]).unwrap();
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.0 {
            ip(&["netns", "del", name]);
        }
    }
}

fn ip(args: &[&str]) -> Option<()> {
    let output = Command::new("ip").args(args).output().ok()?;
    output.status.success().then_some(())
}

/// Says so where no cable can be laid.
fn cable() -> Option<Cable> {
    let cable = Cable::lay();
    if cable.is_none() {
        eprintln!(
            "SKIPPED: a cut network was not tried: this needs root, iproute2 and a kernel \
             with network namespaces"
        );
    }
    cable
}

const CABLED: [&str; 2] = ["10.211.7.1:2101", "10.211.7.2:2101"];

#[test]
fn a_cut_network_is_noticed_on_both_sides_and_a_mended_one_lets_the_group_go_on() {
    let Some(cable) = cable() else { return };
    cut_is_noticed(&cable);
    a_supervised_group_recovers(&cable);
}

/// Each machine has a supervisor of its own.
fn a_supervised_group_recovers(cable: &Cable) {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    // Longer than a cut network goes unnoticed: each goes on reading meanwhile.
    let windows = long_streams(folder, 1600);
    fs::write(folder.join("hosts.txt"), CABLED.join("\n")).unwrap();
    let mut supervisors = ["0", "1"].map(|index| {
        let group = ["-n", "2", "-p", index, "--hostfile", "hosts.txt"];
        let command = hepaflow(folder, &[&["supervise", "p.toml"][..], &group].concat());
        cable.inside(index.parse().unwrap(), &command)
    });
    wait_until("clips are stored", NOTICED * 3, || stored(folder) > 0);
    cable.plug("down");
    wait_until("both to give up", NOTICED * 2, || {
        supervisors
            .iter()
            .all(|it| it.said().contains("has not been heard"))
    });
    cable.plug("up");
    let before = stored(folder);
    wait_until("the group has recovered", RECOVERED, || {
        stored(folder) > before
    });
    for supervisor in &mut supervisors {
        let (code, said) = supervisor.end(RECOVERED * 2);
        assert_eq!(code, Some(0), "{said}");
    }
    assert_whole(folder, windows);
}

fn cut_is_noticed(cable: &Cable) {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    long_streams(folder, 1500);
    fs::write(folder.join("hosts.txt"), CABLED.join("\n")).unwrap();
    let mut members = [0, 1].map(|index| cable.inside(index, &member(folder, 2, index)));
    wait_until("clips are stored", NOTICED * 3, || stored(folder) > 0);
    cable.plug("down");
    let cut = Instant::now();
    for (member, peer) in members.iter_mut().zip([1, 0]) {
        let (code, said) = member.end(NOTICED.saturating_sub(cut.elapsed()));
        assert_eq!(code, Some(1), "{said}");
        let expected = format!("process {peer} ({}) has not been heard", CABLED[peer]);
        assert!(said.contains(&expected), "{said}");
    }
    cable.plug("up");
}
