//! What a synthetic recording costs: frames a CPU-second on one core, from scatterers
//! to a file, and how many times faster than it would be watched. Beside it, writing
//! alone: GStreamer encoding as many moving test pictures with the same encoder.
//!
//! `cargo bench --bench phantom`; with `-- --quick` for shorter recordings.

use std::error::Error;
use std::path::Path;

use cpu_time::ProcessTime;
use gstreamer as gst;
use gstreamer::prelude::*;
use hepaflow::domain::FrameSize;
use hepaflow::study::phantom::{self, RecordingSpec};

const FRAMES_PER_SECOND: u32 = 25;

fn main() -> Result<(), Box<dyn Error>> {
    let quick = std::env::args().any(|arg| arg == "--quick");
    gst::init()?;
    let folder = tempfile::tempdir()?;
    let seconds = if quick { 0.8 } else { 4.0 };
    println!("a synthetic recording in Motion JPEG, frames a CPU-second:");
    println!(
        "{:10} {:>10} {:>16} {:>14}",
        "", "phantom", "times real time", "writing alone"
    );
    for (width, height) in [(640, 480), (800, 600), (1024, 768)] {
        let mut spec = RecordingSpec::new(7, 1);
        spec.frame_size = Some(FrameSize { height, width });
        spec.frames_per_second = Some(FRAMES_PER_SECOND);
        spec.seconds = Some(seconds);
        let frames = seconds * FRAMES_PER_SECOND as f32;
        let (mut whole, mut alone) = (0.0_f64, 0.0_f64);
        // The best of three, taken in turn: other work only ever slows.
        for _ in 0..3 {
            let clock = ProcessTime::now();
            phantom::record(&spec, &folder.path().join("phantom.avi"))?;
            whole = whole.max(f64::from(frames) / clock.elapsed().as_secs_f64());
            let clock = ProcessTime::now();
            write_alone(
                &folder.path().join("alone.avi"),
                width,
                height,
                frames as u32,
            )?;
            alone = alone.max(f64::from(frames) / clock.elapsed().as_secs_f64());
        }
        println!(
            "{:10} {whole:10.0} {:16.1} {alone:14.0}",
            format!("{width}x{height}"),
            whole / f64::from(FRAMES_PER_SECOND)
        );
    }
    Ok(())
}

fn write_alone(
    path: &Path,
    width: usize,
    height: usize,
    frames: u32,
) -> Result<(), Box<dyn Error>> {
    let launch = format!(
        "videotestsrc pattern=ball num-buffers={frames} ! \
         video/x-raw,width={width},height={height},framerate={FRAMES_PER_SECOND}/1 ! \
         jpegenc ! avimux ! filesink name=file"
    );
    let pipeline = gst::parse::launch(&launch)?;
    let bin = pipeline
        .downcast_ref::<gst::Pipeline>()
        .ok_or("no pipeline")?;
    let file = bin.by_name("file").ok_or("no sink")?;
    file.set_property("location", path.display().to_string());
    pipeline.set_state(gst::State::Playing)?;
    let bus = pipeline.bus().ok_or("no bus")?;
    let ended = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = bus.timed_pop_filtered(gst::ClockTime::NONE, &ended);
    pipeline.set_state(gst::State::Null)?;
    match message.as_ref().map(|message| message.view()) {
        Some(gst::MessageView::Error(error)) => Err(error.error().into()),
        _ => Ok(()),
    }
}
