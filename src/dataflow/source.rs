use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::generic::operator::source;
use timely::dataflow::{Scope, StreamVec};

use super::cluster::Claims;
use super::control::lock;
use super::run::Outcome;
use super::{Clock, Control, Credits, Epoch, LiveStream, StreamFailure, Waker, WriterHandle};
use crate::domain::{ContentHash, Frame, PatientId, StreamId, StudyUid};
use crate::ingest::{Arrival, IngestError, StreamHeader, Wake};
use crate::metrics::{Metrics, SourceMetrics};
use crate::store::Batch;

/// Frames that one turn of a source operator hands on before the operators
/// behind it get theirs.
const FRAMES_A_TURN: usize = 32;

/// Where frames come from, one stream at a time: a decoder, or a stand-in.
pub trait Feed {
    /// The next arrival, if one is there; never waits.
    ///
    /// `Opened` comes first, `Ended` last and exactly once.
    fn try_next(&self) -> Option<Arrival>;
}

impl Feed for crate::ingest::Stream {
    fn try_next(&self) -> Option<Arrival> {
        Self::try_next(self)
    }
}

impl<F: Feed + ?Sized> Feed for Box<F> {
    fn try_next(&self) -> Option<Arrival> {
        (**self).try_next()
    }
}

/// Opens a feed, given how to wake its reader and where to count.
type Open = Box<dyn FnOnce(Wake, SourceMetrics) -> Box<dyn Feed> + Send>;

/// A stream that waits to be opened.
pub struct Opening {
    /// The source's name in the pipeline file.
    pub source: String,
    /// A live stream is opened at once and stays; recorded ones take turns.
    pub live: bool,
    /// Opens it; must return at once.
    pub open: Open,
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opening({}, live: {})", self.source, self.live)
    }
}

/// What the dataflow knows of an open stream.
#[derive(Clone, Debug)]
pub struct StreamInfo {
    /// The source's name in the pipeline file.
    pub source: String,
    /// Which bytes.
    pub content: ContentHash,
    /// Whose liver.
    pub patient: PatientId,
    /// The DICOM study, if there is one.
    pub study: Option<StudyUid>,
    /// Time from one frame to the next, if the stream says so.
    pub frame_interval: Option<Duration>,
    /// Whether it is live: its answers are waited for.
    pub live: bool,
}

/// Something that happened on a stream.
#[derive(Clone, Debug)]
pub struct StreamItem {
    /// Which stream.
    pub stream: StreamId,
    /// What happened.
    pub event: StreamEvent,
}

/// What can happen on a stream.
#[derive(Clone, Debug)]
pub enum StreamEvent {
    /// It gave its first frame, and these are its facts.
    Opened(Arc<StreamInfo>),
    /// A frame.
    Frame(Frame),
    /// Nothing more will come.
    Ended,
}

/// Streams that wait for a worker, and what the sources of all workers share.
#[derive(Debug)]
pub(super) struct Intake {
    recorded: Mutex<VecDeque<Opening>>,
    /// Live streams, dealt out by worker.
    live: Vec<Mutex<Vec<Opening>>>,
    next_stream: AtomicU32,
    /// Recorded streams that one worker keeps open.
    decoders: usize,
}

impl Intake {
    pub(super) fn new(openings: Vec<Opening>, workers: usize, decoders: usize) -> Self {
        let mut live: Vec<_> = (0..workers).map(|_| Vec::new()).collect();
        let mut recorded = VecDeque::new();
        for (position, opening) in openings.into_iter().enumerate() {
            if opening.live {
                live[position % workers].push(opening);
            } else {
                recorded.push_back(opening);
            }
        }
        Self {
            recorded: Mutex::new(recorded),
            live: live.into_iter().map(Mutex::new).collect(),
            next_stream: AtomicU32::new(0),
            decoders: decoders.div_ceil(workers).max(1),
        }
    }
}

/// What a source operator works with; one set for all workers.
#[derive(Clone, Debug)]
pub(super) struct SourceContext {
    pub(super) intake: Arc<Intake>,
    /// Which bytes are read already.
    pub(super) claims: Claims,
    pub(super) clock: Clock,
    pub(super) control: Control,
    pub(super) credits: Credits,
    pub(super) metrics: Metrics,
    pub(super) writer: WriterHandle,
    pub(super) outcome: Arc<Mutex<Outcome>>,
    /// Workers that still read or may read.
    pub(super) reading: Arc<AtomicUsize>,
}

/// One stream that this worker reads.
struct OpenStream {
    id: StreamId,
    source: String,
    live: bool,
    /// Its first words, while other processes are asked whether they read it.
    asked: Option<StreamHeader>,
    feed: Box<dyn Feed>,
    counters: SourceMetrics,
}

/// The streams of this worker: opens, reads and closes them.
pub(super) fn sources(
    scope: Scope<'_, Epoch>,
    context: SourceContext,
) -> StreamVec<'_, Epoch, StreamItem> {
    source::<_, CapacityContainerBuilder<Vec<_>>, _, _>(scope, "Sources", |capability, info| {
        let waker = Waker::new(scope.worker().sync_activator_for(info.address.to_vec()));
        context.control.register_source(waker.clone());
        // Of this process's workers.
        let worker = scope.index() % context.intake.live.len();
        let waiting_live = std::mem::take(&mut *lock(&context.intake.live[worker]));
        let mut desk = Desk {
            waiting_live,
            removals_seen: 0,
            context,
            waker: waker.clone(),
            streams: VecDeque::new(),
        };
        let mut capability = Some(capability);
        waker.wake();
        move |output| {
            waker.clear();
            let Some(held) = capability.as_mut() else {
                return;
            };
            let now = desk.context.clock.now();
            if now > *held.time() {
                held.downgrade(&now);
            }
            let mut session = output.session(&*held);
            desk.make_changes(|item| session.give(item));
            let stops = desk.context.control.is_stopping();
            // Nothing is stored before everybody has read the ledger.
            if stops || desk.context.claims.everybody_is_here() {
                desk.open_what_waits();
            }
            let more = desk.read(|item| session.give(item));
            drop(session);
            if desk.is_done() {
                // Without its capability, the answers of others wait no more
                // for this worker.
                capability = None;
                desk.context.reading.fetch_sub(1, Ordering::AcqRel);
                desk.context.control.wake_sources();
            } else if more {
                waker.wake();
            }
        }
    })
}

/// The state of a source operator.
struct Desk {
    context: SourceContext,
    waker: Waker,
    waiting_live: Vec<Opening>,
    /// How many of [`Control::remove`]'s names were seen to.
    removals_seen: usize,
    streams: VecDeque<OpenStream>,
}

impl Desk {
    /// Ends what was removed and takes in what was added, in this order: a
    /// source that was removed and added again goes on with its new stream.
    fn make_changes(&mut self, mut give: impl FnMut(StreamItem)) {
        let (added, removed) = self.context.control.take_changes(self.removals_seen);
        self.removals_seen += removed.len();
        for source in removed {
            self.waiting_live.retain(|opening| opening.source != source);
            lock(&self.context.intake.recorded).retain(|opening| opening.source != source);
            self.streams.retain(|stream| {
                let stays = stream.source != source;
                if !stays {
                    self.context.metrics.streams_ended.inc();
                    self.context.control.live().ended(stream.id);
                    give(StreamItem {
                        stream: stream.id,
                        event: StreamEvent::Ended,
                    });
                }
                stays
            });
        }
        for opening in added {
            if opening.live {
                self.waiting_live.push(opening);
            } else {
                lock(&self.context.intake.recorded).push_back(opening);
            }
        }
    }

    fn open_what_waits(&mut self) {
        if self.context.control.is_stopping() {
            self.waiting_live.clear();
            lock(&self.context.intake.recorded).clear();
            // Dropping a feed closes it; its queued frames count as dropped.
            for stream in self.streams.drain(..) {
                self.context.control.live().ended(stream.id);
            }
            return;
        }
        for opening in std::mem::take(&mut self.waiting_live) {
            self.open(opening);
        }
        let decoding = self.streams.iter().filter(|stream| !stream.live).count();
        for _ in decoding..self.context.intake.decoders {
            let next = lock(&self.context.intake.recorded).pop_front();
            let Some(opening) = next else { break };
            self.open(opening);
        }
    }

    fn open(&mut self, opening: Opening) {
        let counters = self.context.metrics.source(&opening.source);
        let waker = self.waker.clone();
        let wake: Wake = Arc::new(move || waker.wake());
        self.streams.push_back(OpenStream {
            id: StreamId(
                self.context
                    .intake
                    .next_stream
                    .fetch_add(1, Ordering::Relaxed),
            ),
            source: opening.source,
            live: opening.live,
            asked: None,
            feed: (opening.open)(wake, counters.clone()),
            counters,
        });
    }

    /// Hands on what has arrived, stream by stream in turn, while there is room
    /// for clips. True if something may be left to read.
    fn read(&mut self, mut give: impl FnMut(StreamItem)) -> bool {
        let mut budget = FRAMES_A_TURN;
        let mut idle = 0;
        while idle < self.streams.len() {
            if budget == 0 {
                self.context.clock.touch();
                return true;
            }
            if !self.context.credits.has_room() {
                // Whoever gives credit back wakes the sources.
                break;
            }
            let Some(mut stream) = self.streams.pop_front() else {
                break;
            };
            let Some(event) = self.next_event(&mut stream) else {
                idle += 1;
                self.streams.push_back(stream);
                continue;
            };
            idle = 0;
            budget -= 1;
            let ended = matches!(event, StreamEvent::Ended);
            give(StreamItem {
                stream: stream.id,
                event,
            });
            if ended {
                self.context.metrics.streams_ended.inc();
                drop(stream);
                self.open_what_waits();
                continue;
            }
            self.streams.push_back(stream);
        }
        if budget < FRAMES_A_TURN {
            self.context.clock.touch();
        }
        false
    }

    /// What is next on `stream`, if it is there already.
    fn next_event(&self, stream: &mut OpenStream) -> Option<StreamEvent> {
        let claims = &self.context.claims;
        let (header, granted) = match stream.asked.take() {
            Some(header) => (header, claims.verdict(stream.id)),
            None => match stream.feed.try_next()? {
                Arrival::Opened(header) => {
                    let granted = claims.claim(header.content, stream.id);
                    (header, granted)
                }
                Arrival::Frame(frame) => {
                    stream.counters.used.inc();
                    self.context.control.live().frame(stream.id, &frame);
                    return Some(StreamEvent::Frame(frame));
                }
                Arrival::Ended(result) => return Some(self.end(stream, result)),
            },
        };
        match granted {
            Some(granted) => Some(self.begin(stream, header, granted)),
            None => {
                stream.asked = Some(header);
                None
            }
        }
    }

    fn begin(&self, stream: &OpenStream, header: StreamHeader, granted: bool) -> StreamEvent {
        if !granted {
            tracing::warn!(
                source = stream.source,
                content = header.content.short(),
                "left out: another stream has the same bytes"
            );
            lock(&self.context.outcome).duplicates += 1;
            return StreamEvent::Ended;
        }
        self.context.metrics.streams_opened.inc();
        // Before any of its clips: what is on its way keeps its order.
        if let Some(instance) = header.instance {
            self.context.writer.send(Batch {
                instances: vec![(header.content, instance)],
                ..Batch::default()
            });
        }
        lock(&self.context.outcome).streams += 1;
        self.context.control.live().opened(LiveStream::new(
            stream.id,
            stream.source.clone(),
            stream.live,
            header.patient.clone(),
            (header.picture, header.crop),
        ));
        StreamEvent::Opened(Arc::new(StreamInfo {
            source: stream.source.clone(),
            content: header.content,
            patient: header.patient,
            study: header.study,
            frame_interval: header.frame_interval,
            live: stream.live,
        }))
    }

    fn end(&self, stream: &OpenStream, result: Result<(), IngestError>) -> StreamEvent {
        self.context.control.live().ended(stream.id);
        if let Err(error) = result {
            stream.counters.failures.inc();
            tracing::error!(source = stream.source, %error, "a stream failed");
            let source = stream.source.clone();
            lock(&self.context.outcome)
                .failures
                .push(StreamFailure { source, error });
        }
        StreamEvent::Ended
    }

    fn is_done(&self) -> bool {
        self.streams.is_empty()
            && self.waiting_live.is_empty()
            && lock(&self.context.intake.recorded).is_empty()
            && (self.context.control.is_stopping()
                || !(self.context.control.is_kept_open() || self.context.control.has_added()))
    }
}
