//! Recordings made on the spot, and a caller that reads a stream to its end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use dicom_core::value::{PixelFragmentSequence, PrimitiveValue};
use dicom_core::{DataElement, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use hepaflow::domain::{Frame, FrameSize, PatientId};
use hepaflow::ingest::{Arrival, IngestError, Look, Media, SourceRequest, Stream, StreamHeader};
use hepaflow::metrics::{DropReason, Metrics, SourceMetrics};

pub(crate) const SIZE: FrameSize = FrameSize {
    height: 48,
    width: 64,
};

/// Longer than anything here takes, so that a hang fails instead of hanging.
const DEADLINE: Duration = Duration::from_mins(1);

pub(crate) fn request(media: Media) -> SourceRequest {
    SourceRequest {
        name: "bench".into(),
        media,
        patient: Some(PatientId::new("P1")),
        crop: None,
        look: Look::PLAIN,
        size: SIZE,
        queue: 8,
        live: false,
        reconnect: None,
        first_frame_timeout: Duration::from_secs(20),
        frame_interval: None,
        pace: None,
    }
}

pub(crate) fn file(path: impl Into<PathBuf>) -> SourceRequest {
    request(Media::File(path.into()))
}

pub(crate) fn launch(line: &str) -> SourceRequest {
    request(Media::Launch(line.into()))
}

/// A stream with its counters, whose arrivals wake this thread.
pub(crate) fn open(request: SourceRequest) -> (Stream, SourceMetrics) {
    let metrics = Metrics::new().unwrap().source(&request.name);
    let worker = thread::current();
    let wake = Arc::new(move || worker.unpark());
    (Stream::open(request, wake, metrics.clone()), metrics)
}

/// Waits for what comes next.
pub(crate) fn next(stream: &Stream) -> Arrival {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(arrival) = stream.try_next() {
            return arrival;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "nothing arrived within {DEADLINE:?}");
        thread::park_timeout(left);
    }
}

/// All that a stream gave.
pub(crate) struct Story {
    pub(crate) header: Option<StreamHeader>,
    pub(crate) frames: Vec<Frame>,
    pub(crate) end: Result<(), IngestError>,
    pub(crate) metrics: SourceMetrics,
}

impl Story {
    pub(crate) fn indices(&self) -> Vec<u64> {
        self.frames.iter().map(|frame| frame.index).collect()
    }

    pub(crate) fn times_ms(&self) -> Vec<f64> {
        let times = self.frames.iter().map(|frame| frame.time.as_secs_f64());
        times.map(|seconds| seconds * 1e3).collect()
    }

    pub(crate) fn header(&self) -> &StreamHeader {
        self.header.as_ref().expect("the stream opened")
    }

    /// The error it ended with.
    #[track_caller]
    pub(crate) fn error(self) -> IngestError {
        self.end.expect_err("the stream ended well")
    }
}

/// Reads to the end, and checks what holds for every stream.
pub(crate) fn read(request: SourceRequest) -> Story {
    let (stream, metrics) = open(request);
    let mut header = None;
    let mut frames = Vec::new();
    let end = loop {
        match next(&stream) {
            Arrival::Opened(opened) => {
                assert!(header.is_none() && frames.is_empty(), "opened once, first");
                header = Some(opened);
            }
            Arrival::Frame(frame) => {
                assert!(header.is_some(), "a frame before the header");
                frames.push(frame);
            }
            Arrival::Ended(end) => break end,
        }
    };
    assert!(stream.try_next().is_none(), "nothing follows the end");
    drop(stream);
    let dropped: u64 = DropReason::ALL
        .iter()
        .map(|&reason| metrics.dropped(reason).get())
        .sum();
    assert_eq!(
        metrics.received.get(),
        frames.len() as u64 + dropped,
        "every frame is counted once"
    );
    Story {
        header,
        frames,
        end,
        metrics,
    }
}

pub(crate) const FAST_START_MP4: &str = "x264enc threads=1 ! h264parse ! mp4mux faststart=true";
pub(crate) const MOV: &str = "x264enc threads=1 ! h264parse ! qtmux";
pub(crate) const TS: &str = "x264enc threads=1 ! h264parse ! mpegtsmux";
pub(crate) const MKV: &str = "x264enc threads=1 ! h264parse ! matroskamux";
/// An ultrasound image of one black-and-white frame of 4 rows and 6 columns;
/// tests change what they are about.
pub(crate) fn ultrasound() -> InMemDicomObject {
    let mut object = InMemDicomObject::new_empty();
    let sop_class = uids::ULTRASOUND_MULTI_FRAME_IMAGE_STORAGE;
    for (tag, vr, value) in [
        (tags::SOP_CLASS_UID, VR::UI, sop_class),
        (tags::SOP_INSTANCE_UID, VR::UI, "2.25.1"),
        (tags::STUDY_INSTANCE_UID, VR::UI, "2.25.2"),
        (tags::PATIENT_ID, VR::LO, "SECRET-ID"),
        (tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
        (tags::NUMBER_OF_FRAMES, VR::IS, "1"),
        (tags::FRAME_TIME, VR::DS, "40"),
    ] {
        put(&mut object, tag, vr, value);
    }
    for (tag, value) in [
        (tags::SAMPLES_PER_PIXEL, 1_u16),
        (tags::ROWS, 4),
        (tags::COLUMNS, 6),
        (tags::BITS_ALLOCATED, 8),
        (tags::BITS_STORED, 8),
        (tags::HIGH_BIT, 7),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        put(&mut object, tag, VR::US, value);
    }
    let pixels: Vec<u8> = (0..24).map(|value| value * 10).collect();
    put(
        &mut object,
        tags::PIXEL_DATA,
        VR::OB,
        PrimitiveValue::U8(pixels.into()),
    );
    object
}

pub(crate) fn put(
    object: &mut InMemDicomObject,
    tag: Tag,
    vr: VR,
    value: impl Into<PrimitiveValue>,
) {
    object.put(DataElement::new(tag, vr, value.into()));
}

/// Pixel data in fragments.
pub(crate) fn put_fragments(
    object: &mut InMemDicomObject,
    offsets: Vec<u32>,
    fragments: Vec<Vec<u8>>,
) {
    object.put(DataElement::new(
        tags::PIXEL_DATA,
        VR::OB,
        PixelFragmentSequence::new(offsets, fragments),
    ));
}

pub(crate) fn write_dicom(object: InMemDicomObject, transfer_syntax: &str, path: &Path) {
    let meta = FileMetaTableBuilder::new().transfer_syntax(transfer_syntax);
    object.with_meta(meta).unwrap().write_to_file(path).unwrap();
}
