//! The thread behind a stream: opens the source, pulls its pictures, queues
//! frames, and says how it ended.
//!
//! It sleeps on a bell that rings when GStreamer has a picture, a message or an
//! end, and when the stream is dropped; it never polls.

mod opening;
mod picture;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use gstreamer as gst;
use gstreamer_video as gst_video;
use prometheus::IntGauge;

use super::dicom::Facts;
use super::error::{IngestError, Origin};
use super::pace::Pace;
use super::pipeline::unusable;
use super::preprocess::{Preprocessor, fits};
use super::queue::{Closed, Queue};
use super::reconnect::{Backoff, Outage, Reconnect, interruption, is_lasting};
use super::sandbox::{self, Sandbox};
use super::timing::Timeline;
use super::view::{Sight, View};
use super::{SourceRequest, StreamHeader, Wake, Watch, dicomsrc};
use crate::domain::{Frame, FrameSize};
use crate::metrics::{DropReason, Interruption, SourceMetrics};
use opening::Opening;
use picture::{chroma, interval_of, luma, mapped, size_of, video_info};

/// Everything the thread needs.
pub(super) struct Reader {
    pub(super) request: SourceRequest,
    pub(super) origin: Origin,
    pub(super) queue: Arc<Queue>,
    pub(super) bell: Sender<()>,
    pub(super) rung: Receiver<()>,
    pub(super) wake: Wake,
    pub(super) metrics: SourceMetrics,
    /// Where DICOM is read; without it, here.
    pub(super) sandbox: Option<Sandbox>,
    /// Is told of every picture that is examined.
    pub(super) watch: Option<Watch>,
}

/// Why reading stopped early.
enum Stop {
    /// Nobody wants the frames any more.
    Closed,
    /// The source failed.
    Failed(IngestError),
}

impl From<Closed> for Stop {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<IngestError> for Stop {
    fn from(error: IngestError) -> Self {
        Self::Failed(error)
    }
}

/// A source from its first frame on, through all interruptions.
struct Running {
    preprocessor: Preprocessor,
    timeline: Timeline,
    picture: FrameSize,
    view: View,
    last_caps: Option<gst::Caps>,
    info: Option<gst_video::VideoInfo>,
    /// Frames that arrived, those dropped among them.
    frames: u64,
    last_arrival: Instant,
    /// Absent while the source is interrupted.
    presence: Option<Presence>,
    /// The next frame is not adjacent to the last.
    is_cut: bool,
    /// Of a source that may give more frames than the model wants.
    pace: Option<Pace>,
    /// Frames that were left out since the last one that was wanted.
    skipped: u32,
}

/// Counts a stream as up for as long as it lives.
pub(super) struct Presence(IntGauge);

impl Presence {
    pub(super) fn new(up: &IntGauge) -> Self {
        up.inc();
        Self(up.clone())
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Reader {
    /// Reads to the end. Whatever happens, an end is queued, unless nobody is
    /// left to take it.
    pub(super) fn run(self) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.read()));
        let result = match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Stop::Closed)) => return,
            Ok(Err(Stop::Failed(error))) => Err(error),
            Err(_) => Err(IngestError::Broken {
                origin: self.origin.clone(),
            }),
        };
        self.queue.end(result);
        (self.wake)();
    }

    fn read(&self) -> Result<(), Stop> {
        if let (Some(sandbox), true) = (&self.sandbox, self.is_dicom()) {
            let job = sandbox::Job {
                request: &self.request,
                origin: &self.origin,
                queue: &self.queue,
                rung: &self.rung,
                wake: &self.wake,
                metrics: &self.metrics,
            };
            let result = sandbox.read(&job).ok_or(Stop::Closed)?;
            return result.map_err(Stop::Failed);
        }
        gst::init().map_err(|error| unusable(&self.origin, &error))?;
        dicomsrc::register().map_err(|error| unusable(&self.origin, &error))?;
        let mut stream = None;
        match self.request.reconnect {
            None => self.connect(&mut stream, &mut Outage::default()),
            Some(policy) => self.keep(&mut stream, policy),
        }
    }

    /// Opens the source and plays it to its end.
    fn connect(&self, stream: &mut Option<Running>, outage: &mut Outage) -> Result<(), Stop> {
        let mut opening = self.open()?;
        if self.request.live {
            opening.playback.never_wait();
        }
        opening.playback.start(self.request.live)?;
        self.play(opening, stream, outage)
    }

    /// Opens the source again whenever it is lost; returns only when nobody
    /// wants its frames any more, or when no time can mend what is wrong.
    fn keep(&self, stream: &mut Option<Running>, policy: Reconnect) -> Result<(), Stop> {
        let mut backoff = Backoff::new(policy);
        let mut outage = Outage::default();
        loop {
            let opened = Instant::now();
            let frames = stream.as_ref().map_or(0, |stream| stream.frames);
            let (why, detail) = match self.connect(stream, &mut outage) {
                Ok(()) => (Interruption::Ended, "it said that it has ended".to_owned()),
                Err(Stop::Failed(error)) if !is_lasting(&error, stream.is_some()) => {
                    (interruption(&error), error.to_string())
                }
                Err(stop) => return Err(stop),
            };
            self.metrics.interrupted(why).inc();
            let mut held = None;
            if let Some(stream) = stream {
                stream.presence = None;
                held = (stream.frames > frames).then(|| stream.last_arrival - opened);
            }
            outage.noted(&self.origin.name, why, &detail);
            let resume = Instant::now() + backoff.after(held);
            // What rings meanwhile is the pipeline that was taken down.
            while self.wait(Some(resume))? {}
        }
    }

    fn play(
        &self,
        mut opening: Opening,
        stream: &mut Option<Running>,
        outage: &mut Outage,
    ) -> Result<(), Stop> {
        let before = stream.as_ref().map_or(0, |stream| stream.frames);
        let mut quiet_since = Instant::now();
        loop {
            if self.take_all(&opening, stream)? {
                quiet_since = Instant::now();
                outage.over(&self.origin.name);
            }
            // An element that fails reports first and sends its end after, so
            // an end is only believed when the bus has been read since.
            let ended = opening.playback.has_ended();
            let checked = opening.playback.check();
            let found = |stream: &Option<Running>| {
                stream.as_ref().map_or(0, |stream| stream.frames) - before
            };
            if let Err(error) = checked {
                // What was decoded before an error counts: it is as good as it
                // would have been without.
                if found(stream) > 0 {
                    self.take_all(&opening, stream)?;
                }
                return Err(opening.named(error, found(stream)).into());
            }
            let found = found(stream);
            if ended {
                return match opening.expected.unwrap_or(found) {
                    _ if found == 0 => Err(self.failed(|origin| IngestError::NoFrames { origin })),
                    expected if expected == found => Ok(()),
                    expected => Err(self.failed(|origin| IngestError::FramesMissing {
                        origin,
                        expected,
                        found,
                    })),
                };
            }
            let patience = self.patience(found > 0);
            let deadline = patience.map(|patience| quiet_since + patience);
            if !self.wait(deadline)? {
                let waited = patience.unwrap_or_default();
                return Err(self.failed(|origin| match found {
                    0 => IngestError::NeverStarted { origin, waited },
                    frames => IngestError::Stalled {
                        origin,
                        frames,
                        waited,
                    },
                }));
            }
        }
    }

    /// How long no frame may come; `None` for ever.
    fn patience(&self, has_frames: bool) -> Option<Duration> {
        match self.request.reconnect {
            Some(policy) if has_frames => Some(policy.stall),
            // A recording at its own pace may pause as long as it likes.
            None if has_frames && self.request.live => None,
            _ => Some(self.request.first_frame_timeout),
        }
    }

    /// Takes what is decoded; false if nothing was.
    fn take_all(&self, opening: &Opening, stream: &mut Option<Running>) -> Result<bool, Stop> {
        let mut any = false;
        while let Some((sample, dropped)) = opening.playback.pull() {
            any = true;
            self.metrics.received.inc_by(dropped + 1);
            self.metrics.dropped(DropReason::ReaderBusy).inc_by(dropped);
            let stream = match stream {
                Some(stream) => stream,
                None => stream.insert(self.begin(&sample, opening)?),
            };
            if stream.presence.is_none() {
                stream.resume(&self.metrics);
            }
            // Frames that are lost leave a hole in the count.
            stream.frames += dropped;
            self.take(stream, &sample)?;
        }
        Ok(any)
    }

    /// Waits for the bell; false if it did not ring until `deadline`.
    fn wait(&self, deadline: Option<Instant>) -> Result<bool, Stop> {
        let rung = match deadline {
            Some(deadline) => self.rung.recv_deadline(deadline),
            None => self.rung.recv().map_err(RecvTimeoutError::from),
        };
        if self.queue.is_closed() {
            return Err(Stop::Closed);
        }
        Ok(rung.is_ok())
    }

    /// The stream whose first frame is `sample`; counts that frame if there is
    /// none.
    fn begin(&self, sample: &gst::Sample, opening: &Opening) -> Result<Running, Stop> {
        let stream = self.describe(sample, &opening.facts).inspect_err(|_| {
            self.metrics.dropped(DropReason::Unreadable).inc();
        })?;
        self.announce(&stream, opening).inspect_err(|_| {
            self.metrics.dropped(DropReason::Shutdown).inc();
        })?;
        Ok(stream)
    }

    fn describe(&self, sample: &gst::Sample, facts: &Facts) -> Result<Running, Stop> {
        let info = video_info(sample).ok_or_else(|| self.no_picture())?;
        let picture = size_of(&info);
        let view = self.view(sample, &info, facts)?;
        let interval = facts.frame_interval.or_else(|| interval_of(&info));
        let interval = interval.or(self.request.frame_interval);
        Ok(Running {
            preprocessor: Preprocessor::new(self.request.size),
            timeline: Timeline::new(interval),
            picture,
            view,
            last_caps: sample.caps_owned(),
            info: Some(info),
            frames: 0,
            last_arrival: Instant::now(),
            presence: Some(Presence::new(&self.metrics.up)),
            is_cut: false,
            pace: Pace::of(self.request.pace, interval),
            skipped: 0,
        })
    }

    fn announce(&self, stream: &Running, opening: &Opening) -> Result<(), Stop> {
        let facts = &opening.facts;
        tracing::debug!(
            source = self.origin.name,
            picture = ?stream.picture,
            crop = ?stream.view.crop(),
            mm_per_pixel = ?facts.tissue.and_then(|region| region.mm_per_pixel),
            "first frame decoded"
        );
        let mut frame_interval = stream.timeline.interval();
        if Pace::is_missed(self.request.pace, frame_interval) {
            tracing::warn!(
                source = self.origin.name,
                interval = ?frame_interval.unwrap_or_default(),
                learned = ?self.request.pace.unwrap_or_default(),
                "gives fewer frames than the model has learned from: its windows span a longer time"
            );
        }
        if stream.pace.is_some() {
            frame_interval = frame_interval.max(self.request.pace);
        }
        self.queue.open(StreamHeader {
            content: opening.content,
            patient: opening.patient.clone(),
            study: facts.study.clone(),
            instance: facts.instance.clone().map(Arc::new),
            frame_interval,
            picture: stream.picture,
            crop: stream.view.crop(),
        })?;
        (self.wake)();
        Ok(())
    }

    /// A view of pictures like `sample`: of the operator's crop, else of the
    /// header's region, else of the sector that is found.
    fn view(
        &self,
        sample: &gst::Sample,
        info: &gst_video::VideoInfo,
        facts: &Facts,
    ) -> Result<View, IngestError> {
        let picture = size_of(info);
        if let Some(crop) = self.request.crop
            && !fits(crop, picture)
        {
            return Err(IngestError::CropOutside {
                origin: self.origin.clone(),
                crop,
                picture,
            });
        }
        let region = facts.tissue.map(|region| region.crop);
        let region = region.filter(|crop| fits(*crop, picture));
        let mut view = View::new(self.request.look, self.request.crop, region, picture);
        // Where the operator says which of two to look at, the other does no harm.
        if facts.is_dual_screen && self.request.crop.is_none() {
            view = view.of_dual_screen();
        }
        if let Some(mapped) = mapped(sample, info)
            && let Some(luma) = luma(&mapped, info)
        {
            view.aim(luma);
        }
        Ok(view)
    }

    /// Makes a frame of a decoded picture and queues it.
    fn take(&self, stream: &mut Running, sample: &gst::Sample) -> Result<(), Stop> {
        let arrived = Instant::now();
        let index = stream.frames;
        stream.frames += 1;
        stream.last_arrival = arrived;
        self.metrics.last_frame.set(seconds_since_1970());
        let changed = self.follow_caps(stream, sample).inspect_err(|_| {
            self.metrics.dropped(DropReason::Unreadable).inc();
        })?;
        let (time, gap) = stream.timeline.stamp(sample);
        stream.is_cut |= gap || changed;
        // Whatever the gate thinks of pictures: who reads this again without it shall
        // see the same ones.
        if let Some(pace) = &mut stream.pace
            && !pace.takes(time, gap || changed)
        {
            stream.skipped = stream.skipped.saturating_add(1);
            self.metrics.dropped(DropReason::Pace).inc();
            return Ok(());
        }
        let skipped = std::mem::take(&mut stream.skipped);
        let timer = self.metrics.preprocess.start_timer();
        let made = self.make(stream, sample);
        timer.observe_duration();
        let Some(made) = made else {
            self.metrics.dropped(DropReason::Unreadable).inc();
            return Ok(());
        };
        let pixels = match made {
            Ok(pixels) => pixels,
            // It leaves a hole in the count, so no window spans it.
            Err(reason) => {
                self.metrics.dropped(reason).inc();
                return Ok(());
            }
        };
        let frame = Frame {
            index,
            time,
            arrived,
            discontinuity: std::mem::take(&mut stream.is_cut),
            skipped,
            pixels,
        };
        let queued = if self.request.live {
            self.queue.push_replacing(frame)
        } else {
            self.queue.push_waiting(frame).map(|()| None)
        };
        match queued {
            Ok(replaced) => {
                if replaced.is_some() {
                    self.metrics.dropped(DropReason::QueueFull).inc();
                }
                (self.wake)();
                Ok(())
            }
            Err(closed) => {
                self.metrics.dropped(DropReason::Shutdown).inc();
                Err(closed.into())
            }
        }
    }

    /// The frame's pixels or why it is left out; `None` if they cannot be had or
    /// not be trusted.
    fn make(
        &self,
        stream: &mut Running,
        sample: &gst::Sample,
    ) -> Option<Result<Arc<[u8]>, DropReason>> {
        let info = stream.info.as_ref()?;
        let mapped = mapped(sample, info)?;
        let luma = luma(&mapped, info)?;
        let view = &mut stream.view;
        let Sight { reason, is_cut } = view.look(luma, chroma(&mapped, info))?;
        stream.is_cut |= is_cut;
        if let Some(watch) = &self.watch {
            watch(view.seen(stream.frames - 1, reason));
        }
        match reason {
            Some(reason) => Some(Err(reason)),
            None => {
                let pixels = stream.preprocessor.run(luma, view.crop(), view.mask())?;
                Some(Ok(pixels))
            }
        }
    }

    /// Whether the picture changed its size or coding since the last frame.
    fn follow_caps(&self, stream: &mut Running, sample: &gst::Sample) -> Result<bool, Stop> {
        let caps = sample.caps();
        if stream.last_caps.as_deref() == caps {
            return Ok(false);
        }
        let info = video_info(sample).ok_or_else(|| self.no_picture())?;
        let picture = size_of(&info);
        stream.last_caps = sample.caps_owned();
        let has_changed = picture != stream.picture;
        if has_changed {
            // The header's region was drawn for the picture as it was.
            stream.view = self.view(sample, &info, &Facts::default())?;
            stream.picture = picture;
        }
        stream.info = Some(info);
        Ok(has_changed)
    }

    fn no_picture(&self) -> IngestError {
        IngestError::Undecodable {
            origin: self.origin.clone(),
            detail: "the decoder gave something that is no picture".into(),
        }
    }

    fn failed(&self, error: impl FnOnce(Origin) -> IngestError) -> Stop {
        Stop::Failed(error(self.origin.clone()))
    }
}

impl Running {
    /// The source is back after an interruption.
    fn resume(&mut self, metrics: &SourceMetrics) {
        self.timeline.resume(self.last_arrival.elapsed());
        self.is_cut = true;
        self.presence = Some(Presence::new(&metrics.up));
    }
}

pub(super) fn seconds_since_1970() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}
