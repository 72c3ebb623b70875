//! Recordings: real ones that the test set-up fetched, and small ones made on
//! the spot with GStreamer.

use std::path::{Path, PathBuf};

use gstreamer as gst;
use gstreamer::prelude::*;

/// Runs a launch line to its end.
pub(crate) fn gst_run(line: &str) {
    gst::init().unwrap();
    let pipeline = gst::parse::launch(line).unwrap();
    let bus = pipeline.bus().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let message = bus
        .timed_pop_filtered(
            gst::ClockTime::from_seconds(60),
            &[gst::MessageType::Eos, gst::MessageType::Error],
        )
        .expect("the test's own recording finishes");
    pipeline.set_state(gst::State::Null).unwrap();
    if let gst::MessageView::Error(error) = message.view() {
        panic!("{line}: {error:?}");
    }
}

/// A recording of `frames` pictures of 320x240 at 25 per second: a ball that
/// moves, so that every frame is another.
pub(crate) fn record(directory: &Path, name: &str, encode: &str, frames: u32) -> PathBuf {
    record_pattern(directory, name, "ball", encode, frames)
}

pub(crate) fn record_pattern(
    directory: &Path,
    name: &str,
    pattern: &str,
    encode: &str,
    frames: u32,
) -> PathBuf {
    let path = directory.join(name);
    gst_run(&format!(
        "videotestsrc pattern={pattern} num-buffers={frames} \
         ! video/x-raw,format=I420,width=320,height=240,framerate=25/1,colorimetry=bt601 \
         ! {encode} ! filesink location={}",
        path.display()
    ));
    path
}

/// H.264 with B-frames, so that decoding order is not presentation order.
pub(crate) const MP4: &str = "x264enc bframes=2 threads=1 ! h264parse ! mp4mux";
/// JPEG is full range, which the encoder takes for granted. By way of RGB,
/// because between two YUV formats `videoconvert` leaves the range alone.
pub(crate) const AVI: &str = "videoconvert ! video/x-raw,format=RGB ! videoconvert \
    ! video/x-raw,format=I420,colorimetry=(string)1:4:0:0 ! jpegenc quality=95 ! avimux";

/// A real image out of the pydicom package.
pub(crate) fn pydicom(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/cache/pydicom")
        .join(name);
    assert!(
        path.is_file(),
        "{} is not there: run scripts/fetch-test-data.sh",
        path.display()
    );
    path
}
