//! GStreamer pipelines that end in an appsink, and what they report.
//!
//! Four ways in (recording, DICOM, pictures, launch line), one way out: a decoded
//! picture whose first plane is luma. Nothing here looks at pixels or knows of
//! queues; the reader drives it.

use std::collections::VecDeque;
use std::fmt::Display;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

use super::dicom::{Cine, Coding};
use super::dicomsrc::DicomSrc;
use super::error::{IngestError, Origin, without_credentials};
use super::pictures::Series;

/// Decoded pictures that wait in the appsink: enough to let the decoder work
/// while one is being made smaller, few because they are large.
const DECODED_AHEAD: u32 = 4;

/// Formats whose first plane is eight-bit luma: taken as they are. Anything
/// else is converted by GStreamer, RGB to I420 and other greys to GRAY8.
const LUMA_FIRST: [&str; 11] = [
    "GRAY8", "I420", "YV12", "NV12", "NV21", "Y42B", "Y41B", "Y444", "NV16", "NV24", "NV61",
];

/// What the element behind an operator's launch line is called.
const LINE_END: &str = "hepaflow-end";

/// Rings when there is something to look at: a sample, a message, an end.
pub(super) type Bell = Arc<dyn Fn() + Send + Sync>;

/// Tells buffers that wait in a sink apart.
type Identity = (usize, Option<gst::ClockTime>);

fn identity(buffer: &gst::BufferRef) -> Identity {
    (std::ptr::from_ref(buffer).addr(), buffer.pts())
}

/// A pipeline from opening to `Null`, which it is set to when dropped.
pub(super) struct Playback {
    origin: Origin,
    pipeline: gst::Pipeline,
    bus: gst::Bus,
    sink: gst_app::AppSink,
    /// What reached the sink and was not pulled yet; only where the sink drops.
    waiting: Option<Arc<Mutex<VecDeque<Identity>>>>,
    /// All pads are there and none is video.
    no_video: Arc<AtomicBool>,
    /// A decoder that GStreamer looked for in vain.
    missing: Option<String>,
}

impl Playback {
    /// A recording of any kind but DICOM.
    pub(super) fn of_file(path: &Path, origin: &Origin, bell: Bell) -> Result<Self, IngestError> {
        let path = std::path::absolute(path).map_err(|error| unusable(origin, &error))?;
        let uri = glib::filename_to_uri(&path, None).map_err(|error| unusable(origin, &error))?;
        let source = make("uridecodebin", origin)?;
        source.set_property("uri", uri.as_str());
        // Sound is not decoded: its pad appears as it is and runs dry.
        source.connect("autoplug-continue", false, |args| {
            let caps = args.get(2)?.get::<gst::Caps>().ok()?;
            let media = caps.structure(0)?.name();
            Some((!media.starts_with("audio/")).to_value())
        });
        let playback = Self::new(origin, &bell)?;
        playback.add(&[&source])?;
        playback.connect_decoded(&source, bell);
        Ok(playback)
    }

    /// A DICOM cine that was opened at `path`.
    pub(super) fn of_dicom(
        path: &Path,
        cine: Cine,
        origin: &Origin,
        bell: Bell,
    ) -> Result<Self, IngestError> {
        // Named rather than found by rank, so that every machine decodes alike.
        let decoder = match cine.coding {
            Coding::Jpeg { .. } => Some(make("jpegdec", origin)?),
            Coding::Jpeg2000 { .. } => Some(make("openjpegdec", origin)?),
            _ => None,
        };
        let source = DicomSrc::of(path.to_owned(), cine).upcast();
        let Some(decoder) = decoder else {
            return Self::decoded_from(&[&source], origin, bell);
        };
        // Decoders swallow the first few broken pictures. In a cine every
        // picture stands for itself, so a missing one is an error.
        decoder.set_property("max-errors", 1_i32);
        Self::decoded_from(&[&source, &decoder], origin, bell)
    }

    /// Numbered pictures, so long one after the other.
    pub(super) fn of_pictures(
        series: &Series,
        interval: Duration,
        origin: &Origin,
        bell: Bell,
    ) -> Result<Self, IngestError> {
        let pattern = series
            .pattern()
            .ok_or_else(|| unusable(origin, "the folder's path is not UTF-8"))?;
        let last = series.first.saturating_add(series.count - 1);
        let source = make("imagesequencesrc", origin)?;
        source.set_property("location", pattern);
        source.set_property("start-index", series.first as i32);
        source.set_property("stop-index", last as i32);
        // The element takes one frame a second or more.
        let nanoseconds = interval.as_nanos().clamp(1, 1_000_000_000) as i32;
        source.set_property("framerate", gst::Fraction::new(1_000_000_000, nanoseconds));
        let decoder = make(series.still.decoder(), origin)?;
        // As in a cine, a picture that is missing is an error.
        decoder.set_property("max-errors", 1_i32);
        Self::decoded_from(&[&source, &decoder], origin, bell)
    }

    /// Whatever the operator wrote.
    pub(super) fn of_launch(line: &str, origin: &Origin, bell: Bell) -> Result<Self, IngestError> {
        let bad = |detail: String| IngestError::BadLaunch {
            origin: origin.clone(),
            detail,
        };
        // `identity` lets a line end in caps, which is no element, or in pads
        // that appear only later. The bin's own pad is made by hand: parsing
        // could give a pad to every element that is not linked yet, those
        // behind a source whose pads appear later among them.
        let bin =
            gst::parse::bin_from_description(&format!("{line} ! identity name={LINE_END}"), false)
                .map_err(|error| bad(without_credentials(error.message())))?;
        let end = bin.by_name(LINE_END).and_then(|end| end.static_pad("src"));
        let pad = end.and_then(|end| gst::GhostPad::with_target(&end).ok());
        if pad.is_none_or(|pad| bin.add_pad(&pad).is_err()) {
            return Err(bad("nothing is left unlinked at its end".into()));
        }
        Self::decoded_from(&[bin.upcast_ref()], origin, bell)
    }

    /// `decodebin` decodes what is encoded and passes on what is not.
    fn decoded_from(
        chain: &[&gst::Element],
        origin: &Origin,
        bell: Bell,
    ) -> Result<Self, IngestError> {
        let decoder = make("decodebin", origin)?;
        let chain: Vec<_> = chain.iter().copied().chain([&decoder]).collect();
        let playback = Self::new(origin, &bell)?;
        playback.add(&chain)?;
        gst::Element::link_many(&chain).map_err(|error| unusable(origin, &error))?;
        playback.connect_decoded(&decoder, bell);
        Ok(playback)
    }

    fn new(origin: &Origin, bell: &Bell) -> Result<Self, IngestError> {
        let sample = Arc::clone(bell);
        let end = Arc::clone(bell);
        let sink = gst_app::AppSink::builder()
            .max_buffers(DECODED_AHEAD)
            .drop(false)
            .sync(false)
            .wait_on_eos(false)
            .caps(&luma_caps(&LUMA_FIRST))
            .callbacks(
                gst_app::AppSinkCallbacks::builder()
                    .new_sample(move |_| {
                        sample();
                        Ok(gst::FlowSuccess::Ok)
                    })
                    .eos(move |_| end())
                    .build(),
            )
            .build();
        // Decoders need not copy pictures out of their padded buffers: the
        // preprocessor honours strides.
        if let Some(pad) = sink.static_pad("sink") {
            pad.add_probe(gst::PadProbeType::QUERY_DOWNSTREAM, |_, info| {
                if let Some(query) = info.query_mut()
                    && let gst::QueryViewMut::Allocation(allocation) = query.view_mut()
                {
                    allocation.add_allocation_meta::<gst_video::VideoMeta>(None);
                    return gst::PadProbeReturn::Handled;
                }
                gst::PadProbeReturn::Ok
            });
        }
        let pipeline = gst::Pipeline::new();
        pipeline
            .add(&sink)
            .map_err(|error| unusable(origin, &error))?;
        let bus = pipeline
            .bus()
            .ok_or_else(|| unusable(origin, "a pipeline has no bus"))?;
        let message = Arc::clone(bell);
        bus.set_sync_handler(move |_, _| {
            message();
            gst::BusSyncReply::Pass
        });
        Ok(Self {
            origin: origin.clone(),
            pipeline,
            bus,
            sink,
            waiting: None,
            no_video: Arc::default(),
            missing: None,
        })
    }

    fn add(&self, elements: &[&gst::Element]) -> Result<(), IngestError> {
        self.pipeline
            .add_many(elements)
            .map_err(|error| unusable(&self.origin, &error))
    }

    /// Links the first video pad of `decoder` to the sink, and all others to
    /// nothing.
    fn connect_decoded(&self, decoder: &gst::Element, bell: Bell) {
        let linked = Arc::new(AtomicBool::new(false));
        let pipeline = self.pipeline.downgrade();
        let sink = self.sink.downgrade();
        let video_linked = Arc::clone(&linked);
        decoder.connect_pad_added(move |decoder, pad| {
            let (Some(pipeline), Some(sink)) = (pipeline.upgrade(), sink.upgrade()) else {
                return;
            };
            let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
            let result = match caps.structure(0) {
                Some(media)
                    if media.name() == "video/x-raw"
                        && !video_linked.swap(true, Ordering::SeqCst) =>
                {
                    attach(&pipeline, pad, media, &sink)
                }
                _ => drain(&pipeline, pad),
            };
            if let Err(error) = result {
                gst::element_error!(decoder, gst::CoreError::Pad, ("{error}"));
            }
        });
        let no_video = Arc::clone(&self.no_video);
        decoder.connect_no_more_pads(move |_| {
            if !linked.load(Ordering::SeqCst) {
                no_video.store(true, Ordering::SeqCst);
                bell();
            }
        });
    }

    /// Makes the sink drop its oldest picture rather than hold up the source,
    /// and keeps count of what it drops.
    pub(super) fn never_wait(&mut self) {
        let Some(pad) = self.sink.static_pad("sink") else {
            return;
        };
        let waiting = Arc::new(Mutex::new(VecDeque::new()));
        let arrived = Arc::clone(&waiting);
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(buffer) = info.buffer() {
                lock(&arrived).push_back(identity(buffer));
            }
            gst::PadProbeReturn::Ok
        });
        self.waiting = Some(waiting);
        self.sink.set_drop(true);
    }

    /// The next decoded picture, and how many the sink dropped before it.
    pub(super) fn pull(&self) -> Option<(gst::Sample, u64)> {
        let sample = self.sink.try_pull_sample(gst::ClockTime::ZERO)?;
        let dropped = match (&self.waiting, sample.buffer()) {
            (Some(waiting), Some(buffer)) => {
                let identity = identity(buffer);
                let mut waiting = lock(waiting);
                // In the order of arrival, so what lies before was dropped.
                let position = waiting.iter().position(|other| *other == identity);
                position.map_or(0, |position| waiting.drain(..=position).count() as u64 - 1)
            }
            _ => 0,
        };
        Some((sample, dropped))
    }

    /// Lets it run; `replay` at the pace of its timestamps, unless the source
    /// itself already sets the pace.
    pub(super) fn start(&mut self, replay: bool) -> Result<(), IngestError> {
        let changed = self.pipeline.set_state(gst::State::Paused);
        let paces_itself = matches!(changed, Ok(gst::StateChangeSuccess::NoPreroll));
        self.sink.set_property("sync", replay && !paces_itself);
        if changed.is_ok() && self.pipeline.set_state(gst::State::Playing).is_ok() {
            return Ok(());
        }
        self.check()?;
        Err(unusable(&self.origin, "the pipeline refuses to start"))
    }

    /// Whether everything was played and pulled.
    pub(super) fn has_ended(&self) -> bool {
        self.sink.is_eos()
    }

    /// Reads what the pipeline reported since the last call; an error in it is
    /// the end.
    pub(super) fn check(&mut self) -> Result<(), IngestError> {
        while let Some(message) = self.bus.pop() {
            match message.view() {
                gst::MessageView::Error(error) => {
                    return Err(self.failure(error));
                }
                gst::MessageView::Warning(warning) => {
                    let element = message.src().map(|source| source.name().to_string());
                    let detail = without_credentials(warning.error().message());
                    tracing::warn!(element, detail, "GStreamer warns");
                }
                gst::MessageView::Element(element) => {
                    if let Some(about) = element.structure()
                        && about.name() == "missing-plugin"
                    {
                        self.missing = about.get::<String>("name").ok();
                    }
                }
                _ => {}
            }
        }
        if self.no_video.load(Ordering::SeqCst) {
            let missing = self.missing.take();
            let origin = self.origin.clone();
            return Err(match missing {
                Some(detail) => IngestError::NoDecoder { origin, detail },
                None => IngestError::NoVideo { origin },
            });
        }
        Ok(())
    }

    fn failure(&mut self, message: &gst::message::Error) -> IngestError {
        let origin = self.origin.clone();
        let error = message.error();
        let detail = without_credentials(error.message());
        let element = message
            .src()
            .map_or_else(|| "pipeline".to_owned(), |source| source.name().to_string());
        tracing::debug!(
            element,
            detail,
            debug = message.debug().as_deref().map(without_credentials),
            "GStreamer reports an error"
        );
        if let Some(missing) = self.missing.take() {
            return IngestError::NoDecoder {
                origin,
                detail: missing,
            };
        }
        if error.matches(gst::CoreError::MissingPlugin) {
            return IngestError::NoDecoder { origin, detail };
        }
        match error.kind::<gst::StreamError>() {
            Some(gst::StreamError::TypeNotFound | gst::StreamError::WrongType) => {
                IngestError::NotMedia { origin, detail }
            }
            Some(gst::StreamError::CodecNotFound) => IngestError::NoDecoder { origin, detail },
            Some(
                gst::StreamError::Decode
                | gst::StreamError::Demux
                | gst::StreamError::Format
                | gst::StreamError::Mux,
            ) => IngestError::Undecodable { origin, detail },
            _ => IngestError::Element {
                origin,
                element,
                detail,
            },
        }
    }
}

impl Drop for Playback {
    fn drop(&mut self) {
        // Nobody is waiting in a callback: those only ring a bell. So this
        // returns as soon as the elements' threads have noticed.
        if self.pipeline.set_state(gst::State::Null).is_err() {
            tracing::warn!("a pipeline could not be stopped cleanly");
        }
        self.bus.unset_sync_handler();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that could panic runs under the lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn luma_caps(formats: &[&str]) -> gst::Caps {
    gst::Caps::builder("video/x-raw")
        .field("format", gst::List::new(formats))
        .build()
}

/// Links decoded video to the sink, through a conversion only where its first
/// plane is not luma.
fn attach(
    pipeline: &gst::Pipeline,
    pad: &gst::Pad,
    media: &gst::StructureRef,
    sink: &gst_app::AppSink,
) -> Result<(), glib::BoolError> {
    let missing = || glib::bool_error!("an element lacks its pad");
    let sink_pad = sink.static_pad("sink").ok_or_else(missing)?;
    let format = media.get::<String>("format").ok();
    let has_luma = format.is_some_and(|format| LUMA_FIRST.contains(&format.as_str()));
    if has_luma {
        return pad
            .link(&sink_pad)
            .map(|_| ())
            .map_err(|error| glib::bool_error!("{error}"));
    }
    // Full range, as grey would be: luma is the same, and colour can be seen.
    let caps = match media.get::<&str>("format") {
        Ok(format) if format.starts_with("GRAY") => luma_caps(&["GRAY8"]),
        _ => gst::Caps::builder("video/x-raw")
            .field("format", "I420")
            .field("colorimetry", "1:4:0:0")
            .build(),
    };
    sink.set_caps(Some(&caps));
    let convert = gst::ElementFactory::make("videoconvert")
        .property_from_str("dither", "none")
        .build()?;
    pipeline.add(&convert)?;
    convert.link(sink)?;
    let convert_pad = convert.static_pad("sink").ok_or_else(missing)?;
    pad.link(&convert_pad)
        .map_err(|error| glib::bool_error!("{error}"))?;
    convert.sync_state_with_parent()
}

/// Lets a pad that nobody wants run dry, so that it does not hold up the rest.
fn drain(pipeline: &gst::Pipeline, pad: &gst::Pad) -> Result<(), glib::BoolError> {
    let sink = gst::ElementFactory::make("fakesink")
        .property("sync", false)
        .property("async", false)
        .build()?;
    pipeline.add(&sink)?;
    let sink_pad = sink
        .static_pad("sink")
        .ok_or_else(|| glib::bool_error!("fakesink lacks its pad"))?;
    pad.link(&sink_pad)
        .map_err(|error| glib::bool_error!("{error}"))?;
    sink.sync_state_with_parent()
}

fn make(factory: &str, origin: &Origin) -> Result<gst::Element, IngestError> {
    gst::ElementFactory::make(factory)
        .build()
        .map_err(|error| unusable(origin, &error))
}

/// The installation is at fault, not the source.
pub(super) fn unusable(origin: &Origin, detail: &(impl Display + ?Sized)) -> IngestError {
    IngestError::GStreamer {
        origin: origin.clone(),
        detail: detail.to_string(),
    }
}
