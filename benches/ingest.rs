//! What a recording costs from file to model input: frames a CPU-second for
//! H.264 in MP4 and Motion JPEG in AVI, 800x600 to 112x112, beside GStreamer
//! decoding the same file and throwing the pictures away. Once as peers do it
//! (decode, grey, resize), and once as a run does it: the sector is found and
//! every picture examined, too.
//!
//! `cargo bench --bench ingest`; with `-- --quick` for shorter recordings. Further:
//!
//! - `-- --peers PYTHON`: OpenCV and PyAV on the same files, by an interpreter that
//!   has both (`scripts/bench_ingest.sh` makes one);
//! - `-- --streams`: how many live streams of 640x480 at 30 frames a second are
//!   taken without a loss; under `taskset -c 0`, how many one core takes;
//! - `-- --listener`: pushes a folder of cine by `storescu`, to our listener and to
//!   DCMTK's `storescp`.
//!
//! Tables are Markdown; `--json FILE` keeps the figures as well, beside those that
//! the file holds of the other kinds.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cpu_time::ProcessTime;
use gstreamer as gst;
use gstreamer::prelude::*;
use hepaflow::domain::{FrameSize, PatientId};
use hepaflow::ingest::listener::{Listener, ListenerConfig};
use hepaflow::ingest::{Arrival, Look, Media, SourceRequest, Stream};
use hepaflow::metrics::{DropReason, Metrics};
use hepaflow::study::phantom::{self, RecordingSpec};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args().collect();
    let has = |name: &str| args.iter().any(|arg| arg == name);
    let value = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1)
    };
    let quick = has("--quick") || !has("--bench");
    gst::init()?;
    let folder = tempfile::tempdir()?;
    let (kind, figures) = if has("--streams") {
        let seconds = if quick { 3.0 } else { 10.0 };
        ("streams", live_streams(folder.path(), seconds)?)
    } else if has("--listener") {
        let count = if quick { 20 } else { 200 };
        ("listener", pushed(folder.path(), count)?)
    } else {
        let seconds = if quick { 1.0 } else { 10.0 };
        let peers = value("--peers").map(String::as_str);
        ("decode", decoded(folder.path(), seconds, peers)?)
    };
    if let Some(file) = value("--json") {
        let mut all: Value = match std::fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(_) => json!({}),
        };
        all[kind] = figures;
        std::fs::write(file, serde_json::to_string_pretty(&all)? + "\n")?;
    }
    Ok(())
}

/// Frames a CPU-second of two kinds of recording: decoded and thrown away, and made a
/// model's input, by us and by `python`.
fn decoded(folder: &Path, seconds: f32, python: Option<&str>) -> Result<Value, Box<dyn Error>> {
    println!("Frames a CPU-second, a synthetic recording of 800x600 and {seconds} s to 112x112:\n");
    println!(
        "| | GStreamer, decoding alone | hepaflow | and gated | OpenCV | PyAV | of the fastest peer |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    let mut rows = Vec::new();
    for (name, file) in [("H.264 in MP4", "a.mp4"), ("Motion JPEG in AVI", "a.avi")] {
        let path = folder.join(file);
        record(&path, 800, 600, seconds)?;
        let frames = (seconds * 30.0).round() as u64;
        let (mut bare, mut plain, mut gated) = (0.0_f64, 0.0_f64, 0.0_f64);
        // The best of three, taken in turn: other work only ever slows.
        for _ in 0..3 {
            bare = bare.max(decode_only(&path, frames)?);
            plain = plain.max(to_model_input(&path, Look::PLAIN, frames)?);
            gated = gated.max(to_model_input(&path, Look::default(), frames)?);
        }
        let peers =
            python.map_or_else(|| Ok(Vec::new()), |python| by_peers(python, &path, frames))?;
        let of = |name: &str| {
            let found = peers.iter().find(|(peer, _)| peer == name);
            found.map(|(_, rate)| *rate)
        };
        let told = |rate: Option<f64>| rate.map_or(String::new(), |rate| format!("{rate:.0}"));
        let fastest = peers.iter().map(|(_, rate)| *rate).reduce(f64::max);
        let ratio = fastest.map(|fastest| plain / fastest);
        println!(
            "| {name} | {bare:.0} | {plain:.0} | {gated:.0} | {} | {} | {} |",
            told(of("OpenCV")),
            told(of("PyAV")),
            ratio.map_or(String::new(), |ratio| format!("**{ratio:.2}**")),
        );
        rows.push(json!({
            "recording": name,
            "decoding_alone": bare,
            "hepaflow": plain,
            "hepaflow_gated": gated,
            "opencv": of("OpenCV"),
            "pyav": of("PyAV"),
            "of_fastest_peer": ratio,
        }));
    }
    println!();
    Ok(json!({ "unit": "frames a CPU-second", "seconds": seconds, "rows": rows }))
}

/// What `ingest_peers.py` finds: frames a CPU-second, by the peer's name; each must
/// have read as many `frames` as we did.
fn by_peers(python: &str, path: &Path, frames: u64) -> Result<Vec<(String, f64)>, Box<dyn Error>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/ingest_peers.py");
    let output = Command::new(python).arg(script).arg(path).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let text = String::from_utf8(output.stdout)?;
    let mut rates = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let (Some(peer), Some(rate), Some(read)) = (words.next(), words.next(), words.next())
        else {
            return Err(format!("{script} says `{line}`").into());
        };
        same_count(peer, read.parse()?, frames)?;
        rates.push((peer.to_owned(), rate.parse()?));
    }
    Ok(rates)
}

/// Rates are of the same work only if everybody saw every frame.
fn same_count(who: &str, read: u64, frames: u64) -> Result<(), Box<dyn Error>> {
    if read == frames {
        return Ok(());
    }
    Err(format!("{who} read {read} frames of {frames}").into())
}

fn record(path: &Path, width: usize, height: usize, seconds: f32) -> Result<(), Box<dyn Error>> {
    let mut spec = RecordingSpec::new(7, 1);
    spec.frame_size = Some(FrameSize { height, width });
    spec.frames_per_second = Some(30);
    spec.seconds = Some(seconds);
    spec.episode_rate = 0.0;
    Ok(phantom::record(&spec, path)?)
}

/// Recordings replayed as if they were scanners, twice as many each time until a
/// frame is lost or late; then what lies between is halved, down to one stream.
fn live_streams(folder: &Path, seconds: f32) -> Result<Value, Box<dyn Error>> {
    const MOST: usize = 256;
    let path = folder.join("live.mp4");
    record(&path, 640, 480, seconds)?;
    let cores = thread::available_parallelism()?;
    println!("Live streams of 640x480 at 30 frames/s (H.264), {seconds} s each, cores: {cores}:\n");
    println!("| streams | frames lost | late, s | CPU s/s |");
    println!("|---:|---:|---:|---:|");
    let mut rows = Vec::new();
    let (mut most, mut too_many) = (0, None);
    loop {
        let count = match too_many {
            None if most >= MOST => break,
            None => (2 * most).max(1),
            Some(too_many) if too_many - most > 1 => usize::midpoint(most, too_many),
            Some(_) => break,
        };
        let Replayed { lost, late, load } = replay(&path, count, seconds)?;
        println!("| {count} | {lost} | {late:.2} | {load:.2} |");
        rows.push(json!({ "streams": count, "lost": lost, "late_s": late, "cpu_s_per_s": load }));
        if lost > 0 || late > 1.0 {
            too_many = Some(count);
        } else {
            most = count;
        }
    }
    println!("\n{most} without a loss.\n");
    Ok(json!({ "cores": cores, "seconds": seconds, "without_loss": most, "rows": rows }))
}

struct Replayed {
    /// Frames that never came, or made room for others; what the gate leaves out is
    /// not lost.
    lost: u64,
    /// Seconds from when the last frame was due to when all was read.
    late: f32,
    /// CPU-seconds a second.
    load: f64,
}

/// `count` times the recording at `path`, each at its own pace.
fn replay(path: &Path, count: usize, seconds: f32) -> Result<Replayed, Box<dyn Error>> {
    let begin = Instant::now();
    let cpu = ProcessTime::now();
    let reader = thread::current();
    let streams: Vec<_> = (0..count)
        .map(|_| {
            let mut request = request(path, Look::default());
            request.live = true;
            let counters = Metrics::new()?.source("bench");
            let reader = reader.clone();
            let wake = Arc::new(move || reader.unpark());
            Ok((Stream::open(request, wake, counters.clone()), counters))
        })
        .collect::<Result<_, Box<dyn Error>>>()?;
    let mut left = count;
    while left > 0 {
        let mut any = false;
        for (stream, _) in &streams {
            match stream.try_next() {
                Some(Arrival::Ended(end)) => {
                    end?;
                    left -= 1;
                }
                Some(Arrival::Opened(_) | Arrival::Frame(_)) => {}
                None => continue,
            }
            any = true;
        }
        if !any {
            thread::park_timeout(Duration::from_millis(20));
        }
    }
    let elapsed = begin.elapsed();
    let wanted = (seconds * 30.0).round() as u64;
    let lost = streams.iter().map(|(_, counters)| {
        let dropped = |reason| counters.dropped(reason).get();
        wanted.saturating_sub(counters.received.get())
            + dropped(DropReason::QueueFull)
            + dropped(DropReason::ReaderBusy)
            + dropped(DropReason::Unreadable)
    });
    Ok(Replayed {
        lost: lost.sum(),
        late: elapsed.as_secs_f32() - seconds,
        load: cpu.elapsed().as_secs_f64() / elapsed.as_secs_f64(),
    })
}

/// Asks DCMTK's programs not to hold back small packets, which costs 40 ms an
/// instance where nobody waits for anything.
const PROMPT: (&str, &str) = ("TCP_NODELAY", "1");

/// Instances and megabytes a second from one `storescu`, to our listener, which
/// syncs each to disk before it answers, and to `storescp`, which does not.
fn pushed(folder: &Path, count: usize) -> Result<Value, Box<dyn Error>> {
    let seed = folder.join("seed.dcm");
    record(&seed, 640, 480, 1.0)?;
    let outbox = folder.join("outbox");
    std::fs::create_dir(&outbox)?;
    let mut files = Vec::new();
    for number in 0..count {
        let path = outbox.join(format!("{number}.dcm"));
        std::fs::copy(&seed, &path)?;
        let modified = Command::new("dcmodify")
            .args([
                "-nb",
                "-ie",
                "-i",
                &format!("(0008,0018)=2.25.{}", number + 1),
            ])
            .arg(&path)
            .status()?;
        if !modified.success() {
            return Err("dcmodify failed".into());
        }
        files.push(path);
    }
    let megabytes = count as f64 * std::fs::metadata(&files[0])?.len() as f64 / 1e6;
    let mut rows = Vec::new();
    let mut tell = |name: &str, seconds: f64| {
        let (instances, rate) = (count as f64 / seconds, megabytes / seconds);
        println!("| {name} | {instances:.0} | {rate:.0} |");
        rows.push(json!({
            "listener": name,
            "instances_per_s": instances,
            "megabytes_per_s": rate,
        }));
    };
    println!("{count} instances, {megabytes:.0} MB together, in one association:\n");
    println!("| | instances/s | MB/s |");
    println!("|---|---:|---:|");

    let config = ListenerConfig {
        name: "bench".to_owned(),
        address: "127.0.0.1:0".parse()?,
        ae_title: "HEPAFLOW".to_owned(),
        allow: Vec::new(),
        folder: folder.join("incoming"),
        associations: 4,
        largest: 1 << 30,
        timeout: Duration::from_secs(30),
        tls: None,
    };
    let metrics = Metrics::new()?.listener("bench");
    let (listener, _) = Listener::start(&config, Arc::new(|_| {}), metrics)?;
    tell(
        "hepaflow (synced)",
        store(listener.address().port(), &files)?,
    );
    drop(listener);

    let port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    let kept = folder.join("storescp");
    std::fs::create_dir(&kept)?;
    let mut server = Command::new("storescp")
        .args(["-aet", "HEPAFLOW", "+xa", "-od"])
        .arg(&kept)
        .arg(port.to_string())
        .env(PROMPT.0, PROMPT.1)
        .stderr(Stdio::null())
        .spawn()?;
    thread::sleep(Duration::from_millis(500));
    let seconds = store(port, &files);
    server.kill()?;
    server.wait()?;
    tell("storescp (not synced)", seconds?);
    println!();
    Ok(json!({ "instances": count, "megabytes": megabytes, "rows": rows }))
}

fn store(port: u16, files: &[PathBuf]) -> Result<f64, Box<dyn Error>> {
    let begin = Instant::now();
    let sent = Command::new("storescu")
        .args(["-aec", "HEPAFLOW", "-xy", "127.0.0.1", &port.to_string()])
        .args(files)
        .env(PROMPT.0, PROMPT.1)
        .output()?;
    if !sent.status.success() {
        return Err(String::from_utf8_lossy(&sent.stderr).into());
    }
    Ok(begin.elapsed().as_secs_f64())
}

/// GStreamer alone: decoded pictures are counted and dropped.
fn decode_only(path: &Path, frames: u64) -> Result<f64, Box<dyn Error>> {
    let line = format!(
        "uridecodebin uri=file://{} ! fakesink name=sink sync=false signal-handoffs=false",
        path.display()
    );
    let pipeline = gst::parse::launch(&line)?;
    let bus = pipeline.bus().ok_or("a pipeline has a bus")?;
    let begin = ProcessTime::now();
    pipeline.set_state(gst::State::Playing)?;
    let end = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(120), &end);
    let cpu = begin.elapsed();
    let stats = pipeline
        .downcast_ref::<gst::Bin>()
        .and_then(|bin| bin.by_name("sink"))
        .map(|sink| sink.property::<gst::Structure>("stats"))
        .ok_or("the sink has statistics")?;
    pipeline.set_state(gst::State::Null)?;
    match message {
        Some(message) if message.type_() == gst::MessageType::Eos => {
            same_count("GStreamer", stats.get("rendered")?, frames)?;
            Ok(frames as f64 / cpu.as_secs_f64())
        }
        _ => Err("decoding failed".into()),
    }
}

/// Our ingest: decoded, grey, full range, resized, stamped, queued; and looked at, if
/// `look` says so.
fn to_model_input(path: &Path, look: Look, frames: u64) -> Result<f64, Box<dyn Error>> {
    let request = request(path, look);
    let counters = Metrics::new()?.source("bench");
    let reader = thread::current();
    let begin = ProcessTime::now();
    let stream = Stream::open(request, Arc::new(move || reader.unpark()), counters.clone());
    loop {
        match stream.try_next() {
            Some(Arrival::Ended(end)) => {
                end?;
                break;
            }
            Some(Arrival::Opened(_) | Arrival::Frame(_)) => {}
            None => thread::park_timeout(Duration::from_millis(100)),
        }
    }
    let cpu = begin.elapsed();
    same_count("hepaflow", counters.received.get(), frames)?;
    Ok(frames as f64 / cpu.as_secs_f64())
}

fn request(path: &Path, look: Look) -> SourceRequest {
    SourceRequest {
        name: "bench".to_owned(),
        media: Media::File(path.to_owned()),
        patient: Some(PatientId::new("p")),
        crop: None,
        look,
        size: FrameSize {
            height: 112,
            width: 112,
        },
        queue: 64,
        live: false,
        reconnect: None,
        first_frame_timeout: Duration::from_secs(20),
        frame_interval: None,
        pace: None,
    }
}
