//! Video in: from a recording or a scanner to grey frames of a model's size.
//!
//! A [`Stream`] is one source being read: a GStreamer pipeline, a thread that
//! pulls decoded pictures from it, makes them a model's input and queues them,
//! and a [`Wake`] that tells the worker on the other side of the queue. Called
//! by the dataflow's source operator, which asks [`Stream::try_next`] whenever
//! it is woken. What this room does not do: windows, predictions, or deciding
//! which files to read.
//!
//! ```text
//! file, DICOM, launch line ─▶ GStreamer ─▶ appsink ─▶ reader thread ─▶ queue ─▶ worker
//!                             demux, decode           luma, crop,      bounded
//!                                                     gate, resize,
//!                                                     stamp
//! ```
//!
//! A recording waits for room in the queue and back through GStreamer to the
//! disk; a live source drops its oldest frame and counts it. Every frame is
//! counted once as received, and once more as dropped if it does not reach the
//! caller; what the caller takes, the caller counts as used.
//!
//! A live source that is interrupted stays one stream: it is opened again until
//! it is back ([`Reconnect`]), its frames are counted on, and the first frame
//! behind the interruption is marked as a discontinuity.

mod calling;
mod container;
mod dicom;
pub mod dicomsrc;
pub mod doors;
mod error;
pub mod listener;
mod pace;
mod pictures;
mod pipeline;
mod preprocess;
pub mod pull;
pub mod push;
mod queue;
mod reader;
mod reconnect;
pub mod sandbox;
mod timing;
mod view;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};

pub use container::{Recognised, recognise};
pub use dicom::DicomError;
pub use error::{IngestError, Origin};
pub use pictures::{USUAL_INTERVAL, are_series, holds_series};
pub use reconnect::Reconnect;
pub use view::{Look, Measures, Seen};

use crate::domain::{ContentHash, Crop, Frame, FrameSize, Instance, PatientId, StudyUid};
use crate::metrics::{DropReason, SourceMetrics};
use queue::Queue;
use sandbox::Sandbox;

/// How long dropping a [`Stream`] waits for its pipeline to come down. One that
/// takes longer is left to finish on its own thread.
const CLOSING_TIME: Duration = Duration::from_secs(3);

/// What to read, and what to make of it.
#[derive(Clone, Debug)]
pub struct SourceRequest {
    /// The source's name in the pipeline file.
    pub name: String,
    /// What to read.
    pub media: Media,
    /// Whose liver it is. Wins over what a DICOM header says; needed for
    /// everything that is not DICOM.
    pub patient: Option<PatientId>,
    /// The part of the picture to use. Without it, a DICOM header's 2D tissue
    /// region, or else what `look` finds, or the whole picture.
    pub crop: Option<Crop>,
    /// How much the pictures are examined.
    pub look: Look,
    /// The model's input.
    pub size: FrameSize,
    /// Frames that may wait for the caller, at least one.
    pub queue: usize,
    /// Whether the frames must be taken as they come. A live source never waits
    /// for the caller and drops its oldest frame instead; a file is then
    /// replayed at its own pace. A source that is not live is a recording: the
    /// same request gives the same frames every time.
    pub live: bool,
    /// Opens the source again whenever it ends, fails or falls silent. Without
    /// this, any of them is the end of the stream.
    pub reconnect: Option<Reconnect>,
    /// How long to wait for the first frame. A recording that pauses longer
    /// than this between frames has stalled, too.
    pub first_frame_timeout: Duration,
    /// From one frame to the next where the recording itself does not say: a folder
    /// of pictures, which needs this, or a cine without times.
    pub frame_interval: Option<Duration>,
    /// From one frame to the next as the model has learned: of a source that gives
    /// more frames, those in between are left out. Nothing makes up for too few.
    pub pace: Option<Duration>,
}

/// Where the pictures come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Media {
    /// A recording. Its content decides how it is read, not its name: DICOM
    /// goes through [`dicomsrc`], a folder of numbered pictures through
    /// `imagesequencesrc`, all else through `uridecodebin`.
    File(PathBuf),
    /// A chain of GStreamer elements in the notation of `gst-launch-1.0`, the
    /// last of which is left unlinked and gives raw or encoded video:
    /// `v4l2src device=/dev/video0`,
    /// `rtspsrc location=rtsp://scanner/liver ! rtph264depay`.
    Launch(String),
}

/// What is known of a stream once its first frame is decoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamHeader {
    /// What the stream is. For a file, the SHA-256 of its bytes; for a launch
    /// line that is live, a digest of the line and of a random number, since no
    /// two openings are alike; for one that is not, of the line alone.
    pub content: ContentHash,
    /// Whose liver it is.
    pub patient: PatientId,
    /// The DICOM study, if it is one.
    pub study: Option<StudyUid>,
    /// The DICOM instance, if it is one and says which.
    pub instance: Option<Arc<Instance>>,
    /// The nominal time between frames, if the source says so; of one that is kept to
    /// the model's pace, no less than that.
    pub frame_interval: Option<Duration>,
    /// The picture as decoded.
    pub picture: FrameSize,
    /// The part of it that is used. A sector that is found later, or elsewhere,
    /// changes it, and the frames before and after are not adjacent.
    pub crop: Crop,
}

/// What a stream has to tell.
#[derive(Clone, Debug)]
pub enum Arrival {
    /// The first frame is decoded. Comes first and once; a source that fails
    /// before this gives only [`Arrival::Ended`].
    Opened(StreamHeader),
    /// A frame, in order of its index.
    Frame(Frame),
    /// The last word, exactly once.
    Ended(Result<(), IngestError>),
}

/// Called after something was queued, on the reader's thread. Must not block.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// Is told of every picture that is examined, on the reader's thread.
pub type Watch = Arc<dyn Fn(Seen) + Send + Sync>;

/// One source being read.
///
/// Dropping it stops the pipeline within a bounded time and counts the frames
/// that nobody took as [`DropReason::Shutdown`].
///
/// ```no_run
/// use std::{sync::Arc, thread, time::Duration};
/// use hepaflow::domain::{FrameSize, PatientId};
/// use hepaflow::ingest::{Arrival, Look, Media, SourceRequest, Stream};
/// use hepaflow::metrics::Metrics;
///
/// let request = SourceRequest {
///     name: "archive".into(),
///     media: Media::File("liver.mp4".into()),
///     patient: Some(PatientId::new("P1")),
///     crop: None,
///     look: Look::default(),
///     size: FrameSize { height: 224, width: 224 },
///     queue: 32,
///     live: false,
///     reconnect: None,
///     first_frame_timeout: Duration::from_secs(10),
///     frame_interval: None,
///     pace: None,
/// };
/// let metrics = Metrics::new()?.source("archive");
/// let worker = thread::current();
/// let stream = Stream::open(request, Arc::new(move || worker.unpark()), metrics);
/// loop {
///     match stream.try_next() {
///         Some(Arrival::Opened(header)) => println!("{:?}", header.picture),
///         Some(Arrival::Frame(frame)) => println!("frame {} at {}", frame.index, frame.time),
///         Some(Arrival::Ended(result)) => break result?,
///         None => thread::park(),
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Stream {
    queue: Arc<Queue>,
    /// Wakes the reader where it waits for GStreamer.
    bell: Sender<()>,
    /// Nothing is ever sent: it disconnects when the reader is done.
    done: Receiver<Infallible>,
    metrics: SourceMetrics,
}

impl Stream {
    /// Begins to read, on a thread of its own; returns at once. Whatever is
    /// wrong with the request arrives as [`Arrival::Ended`].
    ///
    /// Of `metrics` this keeps everything but `used`, `windows`, `gaps` and
    /// `failures`, which are the caller's.
    pub fn open(request: SourceRequest, wake: Wake, metrics: SourceMetrics) -> Self {
        Self::start(request, wake, metrics, None, None)
    }

    /// The same, and tells `watch` of every picture, those that are left out
    /// among them: for people who want to see what is seen.
    pub fn open_watched(
        request: SourceRequest,
        wake: Wake,
        metrics: SourceMetrics,
        watch: Watch,
    ) -> Self {
        Self::start(request, wake, metrics, None, Some(watch))
    }

    /// The same, but DICOM files are read in `sandbox`, so that no file can
    /// harm this process.
    pub fn open_in(
        sandbox: Sandbox,
        request: SourceRequest,
        wake: Wake,
        metrics: SourceMetrics,
    ) -> Self {
        Self::start(request, wake, metrics, Some(sandbox), None)
    }

    fn start(
        request: SourceRequest,
        wake: Wake,
        metrics: SourceMetrics,
        sandbox: Option<Sandbox>,
        watch: Option<Watch>,
    ) -> Self {
        let queue = Arc::new(Queue::new(request.queue));
        let (bell, rung) = channel::bounded(1);
        let (running, done) = channel::bounded(0);
        let stream = Self {
            queue: Arc::clone(&queue),
            bell: bell.clone(),
            done,
            metrics: metrics.clone(),
        };
        let origin = Origin {
            name: request.name.clone(),
            media: request.media.clone(),
        };
        let unspawned = Arc::clone(&wake);
        let reader = reader::Reader {
            request,
            origin: origin.clone(),
            queue: Arc::clone(&queue),
            bell,
            rung,
            wake,
            metrics,
            sandbox,
            watch,
        };
        let spawned = std::thread::Builder::new()
            .name("ingest".into())
            .spawn(move || {
                reader.run();
                drop(running);
            });
        if let Err(error) = spawned {
            let error = Arc::new(error);
            queue.end(Err(IngestError::Unreadable { origin, error }));
            unspawned();
        }
        stream
    }

    /// What came next, or `None` if nothing is waiting. Never blocks.
    pub fn try_next(&self) -> Option<Arrival> {
        self.queue.pop()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let left = self.queue.close();
        self.metrics
            .dropped(DropReason::Shutdown)
            .inc_by(left as u64);
        // A full bell is a bell that will be heard.
        let _ = self.bell.try_send(());
        if let Err(RecvTimeoutError::Timeout) = self.done.recv_timeout(CLOSING_TIME) {
            tracing::warn!("a pipeline takes long to stop; it is left to finish by itself");
        }
    }
}
