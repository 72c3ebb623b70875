//! Pictures in, encoded video out, through GStreamer.
//!
//! `appsrc ! videoconvert ! x264enc ! mp4mux ! filesink` and its like. The
//! source holds at most a few frames and blocks the painter beyond that; every
//! wait has a limit, and what the bus reports is what the caller gets.

use std::path::{Path, PathBuf};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

use super::{Picture, Pixels};
use crate::domain::FrameSize;

/// Frames that may wait between the painter and the encoder.
const QUEUE_FRAMES: u64 = 4;
/// How long an encoder may be silent before it counts as stuck.
const PATIENCE: gst::ClockTime = gst::ClockTime::from_seconds(60);

/// The video could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot encode `{}`: {message}", path.display())]
pub struct EncodeError {
    /// The file in the making.
    path: PathBuf,
    /// What GStreamer said.
    message: String,
}

/// What the pictures are like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    /// Even on both sides, as codecs ask.
    pub(crate) size: FrameSize,
    pub(crate) pixels: Pixels,
    /// At least one.
    pub(crate) frames_per_second: u32,
}

/// One pipeline at work.
pub(crate) struct Encoder {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    /// Where encoded pictures come out, when they do not go to a file.
    sink: Option<gst_app::AppSink>,
    path: PathBuf,
    rate: u64,
    pushed: u64,
}

impl Encoder {
    /// H.264 in an MP4 file at `path`.
    pub(crate) fn to_mp4(format: Format, path: &Path) -> Result<Self, EncodeError> {
        // One thread: the bytes must not depend on the number of cores.
        // Constant quality, a key frame a second at most two apart.
        Self::to_file(
            format,
            "video/x-raw,format=I420 ! x264enc threads=1 speed-preset=superfast \
             pass=quant quantizer=21 key-int-max=60 bframes=0 ! h264parse ! mp4mux",
            path,
        )
    }

    /// Motion JPEG in an AVI file at `path`.
    pub(crate) fn to_avi(format: Format, path: &Path) -> Result<Self, EncodeError> {
        Self::to_file(
            format,
            "video/x-raw,format=I420,colorimetry=1:4:0:0 ! jpegenc quality=90 ! avimux",
            path,
        )
    }

    fn to_file(format: Format, coding: &str, path: &Path) -> Result<Self, EncodeError> {
        let encoder = Self::build(format, &format!("{coding} ! filesink name=out"), path)?;
        if let Some(out) = encoder.pipeline.by_name("out") {
            out.set_property("location", path);
        }
        encoder.start()
    }

    /// An encoder that hands out one JPEG picture per frame (see
    /// [`Self::encode`]): grey for grey pictures, else YCbCr 4:2:2 in full
    /// range, which DICOM calls `YBR_FULL_422`. `path` is for messages.
    pub(crate) fn to_jpeg(format: Format, path: &Path) -> Result<Self, EncodeError> {
        let raw = match format.pixels {
            Pixels::Rgb => "video/x-raw,format=Y42B,colorimetry=1:4:0:0",
            Pixels::Grey => "video/x-raw,format=GRAY8",
        };
        let tail = format!("{raw} ! jpegenc quality=90 ! appsink name=out sync=false");
        let mut encoder = Self::build(format, &tail, path)?;
        encoder.sink = encoder
            .pipeline
            .by_name("out")
            .and_then(|out| out.downcast().ok());
        encoder.start()
    }

    fn build(format: Format, tail: &str, path: &Path) -> Result<Self, EncodeError> {
        let fail = |message: String| EncodeError {
            path: path.to_owned(),
            message,
        };
        gst::init().map_err(|error| fail(error.to_string()))?;
        let size = format.size;
        let (pixels, bytes) = match format.pixels {
            Pixels::Rgb => (gst_video::VideoFormat::Rgb, 3),
            Pixels::Grey => (gst_video::VideoFormat::Gray8, 1),
        };
        let rate = format.frames_per_second;
        let info = gst_video::VideoInfo::builder(pixels, size.width as u32, size.height as u32)
            .fps(gst::Fraction::new(rate as i32, 1))
            .build()
            .map_err(|error| fail(error.to_string()))?;
        let caps = info.to_caps().map_err(|error| fail(error.to_string()))?;
        let launch = format!("appsrc name=in ! videoconvert ! {tail}");
        let pipeline = gst::parse::launch(&launch)
            .ok()
            .and_then(|element| element.downcast::<gst::Pipeline>().ok())
            .ok_or_else(|| {
                fail(
                    "a GStreamer element is missing (x264enc, jpegenc, mp4mux, avimux, h264parse): \
                     install the good, bad and ugly plugins"
                        .to_owned(),
                )
            })?;
        let source = pipeline
            .by_name("in")
            .and_then(|source| source.downcast::<gst_app::AppSrc>().ok())
            .ok_or_else(|| fail("the pipeline has no source".to_owned()))?;
        source.set_caps(Some(&caps));
        source.set_format(gst::Format::Time);
        source.set_block(true);
        source.set_max_bytes(QUEUE_FRAMES * (size.area() * bytes) as u64);
        Ok(Self {
            pipeline,
            source,
            sink: None,
            path: path.to_owned(),
            rate: u64::from(rate),
            pushed: 0,
        })
    }

    fn start(self) -> Result<Self, EncodeError> {
        match self.pipeline.set_state(gst::State::Playing) {
            Ok(_) => Ok(self),
            Err(_) => Err(self.complaint("the pipeline does not start")),
        }
    }

    /// What the bus says went wrong, or `otherwise`.
    fn complaint(&self, otherwise: &str) -> EncodeError {
        let message = self
            .pipeline
            .bus()
            .and_then(|bus| bus.pop_filtered(&[gst::MessageType::Error]))
            .and_then(|message| match message.view() {
                gst::MessageView::Error(error) => Some(error.error().to_string()),
                _ => None,
            });
        EncodeError {
            path: self.path.clone(),
            message: message.unwrap_or_else(|| otherwise.to_owned()),
        }
    }

    /// Hands over the next frame; waits while the encoder is behind.
    pub(crate) fn push(&mut self, picture: Picture) -> Result<(), EncodeError> {
        let mut buffer = gst::Buffer::from_mut_slice(padded(picture));
        let begin = self.time(self.pushed);
        self.pushed += 1;
        let end = self.time(self.pushed);
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(begin);
            buffer.set_duration(end - begin);
        }
        match self.source.push_buffer(buffer) {
            Ok(_) => Ok(()),
            Err(flow) => Err(self.complaint(&format!("the encoder refuses frames ({flow})"))),
        }
    }

    /// When frame `frame` is shown, rounded down to a nanosecond.
    fn time(&self, frame: u64) -> gst::ClockTime {
        gst::ClockTime::from_nseconds(frame * 1_000_000_000 / self.rate)
    }

    /// Encodes one frame and waits for it.
    pub(crate) fn encode(&mut self, picture: Picture) -> Result<Vec<u8>, EncodeError> {
        self.push(picture)?;
        let sample = self
            .sink
            .as_ref()
            .and_then(|sink| sink.try_pull_sample(PATIENCE));
        let map = sample
            .as_ref()
            .and_then(|sample| sample.buffer())
            .and_then(|buffer| buffer.map_readable().ok());
        match map {
            Some(map) => Ok(map.to_vec()),
            None => Err(self.complaint("the encoder returned no picture")),
        }
    }

    /// Ends the stream and waits until the file is complete.
    pub(crate) fn finish(self) -> Result<(), EncodeError> {
        if self.source.end_of_stream().is_err() {
            return Err(self.complaint("the encoder refuses the end of the stream"));
        }
        let ends = [gst::MessageType::Eos, gst::MessageType::Error];
        let message = self
            .pipeline
            .bus()
            .and_then(|bus| bus.timed_pop_filtered(PATIENCE, &ends));
        let failure = match message.as_ref().map(|message| message.view()) {
            Some(gst::MessageView::Eos(_)) => return Ok(()),
            Some(gst::MessageView::Error(error)) => error.error().to_string(),
            _ => "the encoder did not finish in time".to_owned(),
        };
        Err(EncodeError {
            path: self.path.clone(),
            message: failure,
        })
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // Threads and file handles go with the pipeline; a failure to stop has
        // no one left to be told.
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

/// The picture's bytes with rows of a multiple of four, as GStreamer's default
/// layout has them.
fn padded(picture: Picture) -> Vec<u8> {
    let row = match picture.format {
        Pixels::Grey => picture.width,
        Pixels::Rgb => 3 * picture.width,
    };
    if row.is_multiple_of(4) {
        return picture.pixels;
    }
    let padding = 4 - row % 4;
    let rows = picture.pixels.chunks_exact(row);
    rows.flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0, padding)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_to_four_bytes() {
        let picture = Picture {
            width: 2,
            height: 2,
            format: Pixels::Rgb,
            pixels: (1..=12).collect(),
        };
        let expected = [1, 2, 3, 4, 5, 6, 0, 0, 7, 8, 9, 10, 11, 12, 0, 0];
        assert_eq!(padded(picture), expected);
    }
}
