//! What a recording costs from file to model input: frames a CPU-second for
//! H.264 in MP4 and Motion JPEG in AVI, 800x600 to 112x112, beside GStreamer
//! decoding the same file and throwing the pictures away.
//!
//! `cargo bench --bench ingest`; with `-- --quick` for shorter recordings.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use cpu_time::ProcessTime;
use gstreamer as gst;
use gstreamer::prelude::*;
use hepaflow::domain::{FrameSize, PatientId};
use hepaflow::ingest::{Arrival, Look, Media, SourceRequest, Stream};
use hepaflow::metrics::Metrics;
use hepaflow::study::phantom::{self, RecordingSpec};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args().collect();
    let quick = args.contains(&"--quick".to_owned()) || !args.contains(&"--bench".to_owned());
    gst::init()?;
    let folder = tempfile::tempdir()?;
    println!("a synthetic ultrasound recording of 800x600, frames a CPU-second:");
    println!(
        "{:22} {:>12} {:>18} {:>8}",
        "", "decode only", "to model input", "ratio"
    );
    for (name, file) in [("MP4 (H.264)", "a.mp4"), ("AVI (Motion JPEG)", "a.avi")] {
        let path = folder.path().join(file);
        let mut spec = RecordingSpec::new(7, 1);
        spec.frame_size = Some(FrameSize {
            height: 600,
            width: 800,
        });
        spec.frames_per_second = Some(30);
        spec.seconds = Some(if quick { 1.0 } else { 10.0 });
        spec.episode_rate = 0.0;
        phantom::record(&spec, &path)?;
        let (mut bare, mut whole) = (0.0_f64, 0.0_f64);
        // The best of three, taken in turn: other work only ever slows.
        for _ in 0..3 {
            bare = bare.max(decode_only(&path)?);
            whole = whole.max(to_model_input(&path)?);
        }
        println!("{name:22} {bare:12.0} {whole:18.0} {:8.2}", whole / bare);
    }
    Ok(())
}

/// GStreamer alone: decoded pictures are counted and dropped.
fn decode_only(path: &Path) -> Result<f64, Box<dyn Error>> {
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
            Ok(stats.get::<u64>("rendered")? as f64 / cpu.as_secs_f64())
        }
        _ => Err("decoding failed".into()),
    }
}

/// Our ingest: decoded, grey, full range, resized, stamped, queued.
fn to_model_input(path: &Path) -> Result<f64, Box<dyn Error>> {
    let request = SourceRequest {
        name: "bench".to_owned(),
        media: Media::File(path.to_owned()),
        patient: Some(PatientId::new("p")),
        crop: None,
        look: Look::default(),
        size: FrameSize {
            height: 112,
            width: 112,
        },
        queue: 64,
        live: false,
        reconnect: None,
        first_frame_timeout: Duration::from_secs(20),
    };
    let counters = Metrics::new()?.source("bench");
    let reader = thread::current();
    let begin = ProcessTime::now();
    let stream = Stream::open(request, Arc::new(move || reader.unpark()), counters);
    let mut frames = 0;
    loop {
        match stream.try_next() {
            Some(Arrival::Frame(_)) => frames += 1,
            Some(Arrival::Ended(end)) => {
                end?;
                return Ok(f64::from(frames) / begin.elapsed().as_secs_f64());
            }
            Some(Arrival::Opened(_)) => {}
            None => thread::park_timeout(Duration::from_millis(100)),
        }
    }
}
