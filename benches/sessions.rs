//! Soak: thousands of sessions whose streams come and go, and what memory they
//! take over time. It must be flat, and be given back at the end.
//!
//! `cargo bench --bench sessions -- --sessions 5000 --hours 8`; without options,
//! 2000 sessions for 20 seconds once most are full. It prints, twice a minute or
//! ten times in all, what the allocator has given out, what the sessions say that
//! they hold, and what the operating system counts (RSS); it ends with code 1 if
//! memory grew.

use std::alloc::{GlobalAlloc, Layout, System};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hepaflow::domain::{EventTime, Frame};
use hepaflow::engine::{Device, Engine, EngineOptions, Session, SessionOptions};
use hepaflow::model::Model;

/// Counts what is given out.
struct Counting;

static GIVEN_OUT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does it all; counting touches no memory of its.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        GIVEN_OUT.fetch_add(layout.size(), Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        GIVEN_OUT.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A stream lasts so many frames on average.
const FRAMES: u64 = 200;
const STRIDE: usize = 4;
/// Growth that is none: tables that double, fragments.
const SLACK: usize = 1 << 20;

struct Options {
    sessions: usize,
    duration: Duration,
}

/// One stream that is there now.
struct Stream {
    session: Session,
    next: u64,
}

/// `SplitMix64`.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

fn options() -> Result<Options, Box<dyn Error>> {
    let args: Vec<_> = std::env::args().collect();
    let number = |name: &str| -> Result<Option<f64>, Box<dyn Error>> {
        let place = args.iter().position(|arg| arg == name);
        let value = place.and_then(|place| args.get(place + 1));
        Ok(value.map(|value| value.parse()).transpose()?)
    };
    // `cargo test --benches` runs this too: then only that it works matters.
    let quick = !args.contains(&"--bench".to_owned());
    let (sessions, seconds) = if quick { (20.0, 0.5) } else { (2000.0, 20.0) };
    let hours = number("--hours")?.map(|hours| hours * 3600.0);
    Ok(Options {
        sessions: number("--sessions")?.unwrap_or(sessions).max(1.0) as usize,
        duration: Duration::from_secs_f64(hours.unwrap_or(seconds)),
    })
}

/// Pages of this process that lie in memory, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split_whitespace().nth(1);
    pages.and_then(|pages| pages.parse().ok()).unwrap_or(0) * 4096_usize
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    let network = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/network");
    let model = Model::load(&network)?;
    let cpu = EngineOptions {
        device: Device::Cpu,
        ..EngineOptions::default()
    };
    let engine = Engine::open(&model, cpu)?;
    let plan = engine.session_plan(SessionOptions {
        stride: STRIDE,
        early: false,
        attention: false,
    });
    let mut workspace = engine.workspace();
    let mut dice = Dice(1);
    let area = model.spec().input.height * model.spec().input.width;
    let pictures: Vec<Arc<[u8]>> = (0..64)
        .map(|_| (0..area).map(|_| dice.throw(256) as u8).collect())
        .collect();

    println!(
        "{} sessions of at most {} kB, S = {STRIDE}, streams of {FRAMES} frames on average",
        options.sessions,
        plan.session_bytes() / 1000
    );
    println!(" minutes | given out MB | sessions MB |   RSS MB");
    let before = GIVEN_OUT.load(Relaxed);
    let new = || Stream {
        session: engine.session(&plan),
        next: 0,
    };
    let mut streams: Vec<_> = (0..options.sessions).map(|_| new()).collect();
    let (mut windows, mut gone) = (0_u64, 0_u64);
    let mut turn = |streams: &mut Vec<Stream>, ends: bool| -> Result<(), Box<dyn Error>> {
        let stream = dice.throw(options.sessions as u64) as usize;
        if ends && dice.throw(FRAMES) == 0 {
            streams[stream] = new();
            gone += 1;
        }
        let Stream { session, next } = &mut streams[stream];
        // Now and then some frames are lost.
        *next += if dice.throw(500) == 0 { 4 } else { 1 };
        let frame = Frame {
            index: *next,
            time: EventTime::from_nanos(*next * 33_333_333),
            arrived: Instant::now(),
            discontinuity: false,
            skipped: 0,
            pixels: Arc::clone(&pictures[dice.throw(64) as usize]),
        };
        windows += u64::from(session.push(&engine, &mut workspace, &frame)?.is_some());
        Ok(())
    };
    // Until nearly every session holds all that it ever will.
    for _ in 0..options.sessions * 30 {
        turn(&mut streams, false)?;
    }
    let mut peaks = Vec::new();
    let begin = Instant::now();
    let interval = (options.duration / 10).min(Duration::from_secs(30));
    let mut next_line = Duration::ZERO;
    while begin.elapsed() < options.duration {
        turn(&mut streams, true)?;
        if begin.elapsed() >= next_line {
            next_line += interval;
            let given_out = GIVEN_OUT.load(Relaxed) - before;
            peaks.push(given_out);
            let held: usize = streams.iter().map(|stream| stream.session.bytes()).sum();
            println!(
                "{:8.2} | {:>12.1} | {:>11.1} | {:>8.1}",
                begin.elapsed().as_secs_f64() / 60.0,
                given_out as f64 / 1e6,
                held as f64 / 1e6,
                resident() as f64 / 1e6
            );
        }
    }
    println!(
        "{windows} windows of {} streams",
        options.sessions as u64 + gone
    );
    drop(streams);
    let left = GIVEN_OUT.load(Relaxed).saturating_sub(before);
    let most = options.sessions * (plan.session_bytes() + 64 * 1024) + SLACK;
    let peak = peaks.iter().copied().max().unwrap_or(0);
    println!("left behind when all are gone: {:.1} kB", left as f64 / 1e3);
    if left > SLACK || peak > most {
        return Err(format!("memory grew: {left} bytes were left, {peak} were taken").into());
    }
    Ok(())
}
