use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Instant, SystemTime};

use super::control::lock;
use crate::domain::{ClipSpan, Crop, Frame, FrameSize, PatientId, Probability, StreamId};

/// Streams that have ended and are still shown; the oldest makes room.
const ENDED_KEPT: usize = 32;
/// Predictions of one stream that are kept for a chart.
const PREDICTIONS_KEPT: usize = 600;

/// What a display may see of a run while it goes on: of every stream the newest
/// picture, the last predictions, and where the network looked.
///
/// The run puts the newest in place and never waits for who looks; whoever looks
/// takes what is there then. Nothing is queued, so a display that is slow, or a
/// hundred of them, cost the run nothing but the lock of one small state. Where
/// the network looked is computed only while somebody wants it: hold
/// [`LiveStream::want_attention`].
#[derive(Clone, Debug, Default)]
pub struct Live(Arc<RwLock<BTreeMap<StreamId, Arc<LiveStream>>>>);

/// One stream as a display sees it.
#[derive(Debug)]
pub struct LiveStream {
    /// Which one, within this run.
    pub id: StreamId,
    /// The source's name in the pipeline file.
    pub source: String,
    /// Whether it keeps its own pace.
    pub live: bool,
    /// Whose liver it is.
    pub patient: PatientId,
    /// The picture as decoded.
    pub picture: FrameSize,
    /// The part of it that the model sees.
    pub crop: Crop,
    attention_wanted: AtomicUsize,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    frame: Option<Frame>,
    frames: u64,
    ended: Option<SystemTime>,
    predictions: VecDeque<LivePrediction>,
    predicted: u64,
    attention: Option<Arc<LiveAttention>>,
}

/// What the model said of one window.
#[derive(Clone, Debug)]
pub struct LivePrediction {
    /// Counted from 1 within the stream.
    pub number: u64,
    /// The window.
    pub span: ClipSpan,
    /// When it was made.
    pub made: SystemTime,
    /// Seconds from the arrival of the window's last frame to this.
    pub latency: Option<f64>,
    /// One probability a class: `[K]`.
    pub probabilities: Vec<Probability>,
}

/// Where the network looked in the last frame of a window.
#[derive(Clone, Debug)]
pub struct LiveAttention {
    /// Index of that frame.
    pub frame: u64,
    /// The class it looked for, by its place in the model's list.
    pub class: usize,
    /// Rows and columns of the map.
    pub shape: [usize; 2],
    /// `[H', W']`, none below zero, in units of the logit.
    pub values: Vec<f32>,
}

/// Asks for attention to be computed, until it is dropped.
#[derive(Debug)]
pub struct AttentionWanted(Arc<LiveStream>);

impl Drop for AttentionWanted {
    fn drop(&mut self) {
        self.0.attention_wanted.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Live {
    /// All streams that are open, and those that ended last, by number.
    pub fn streams(&self) -> Vec<Arc<LiveStream>> {
        let streams = self.0.read().unwrap_or_else(PoisonError::into_inner);
        streams.values().cloned().collect()
    }

    /// One of them.
    pub fn stream(&self, id: StreamId) -> Option<Arc<LiveStream>> {
        let streams = self.0.read().unwrap_or_else(PoisonError::into_inner);
        streams.get(&id).cloned()
    }

    /// A stream gave its first frame.
    pub(super) fn opened(&self, stream: LiveStream) {
        let mut streams = self.0.write().unwrap_or_else(PoisonError::into_inner);
        streams.insert(stream.id, Arc::new(stream));
        let ended = streams.values().filter(|stream| stream.ended().is_some());
        let ended: Vec<_> = ended.map(|stream| stream.id).collect();
        let surplus = ended.len().saturating_sub(ENDED_KEPT);
        for id in &ended[..surplus] {
            streams.remove(id);
        }
    }

    /// A frame is on its way to the windows.
    pub(super) fn frame(&self, id: StreamId, frame: &Frame) {
        if let Some(stream) = self.stream(id) {
            let mut now = lock(&stream.now);
            now.frame = Some(frame.clone());
            now.frames += 1;
        }
    }

    /// A stream has ended, or was removed.
    pub(super) fn ended(&self, id: StreamId) {
        if let Some(stream) = self.stream(id) {
            lock(&stream.now).ended.get_or_insert_with(SystemTime::now);
        }
    }

    /// The model has said something of a window.
    pub(super) fn predicted(
        &self,
        id: StreamId,
        span: ClipSpan,
        latency: Option<f64>,
        probabilities: &[Probability],
    ) {
        let Some(stream) = self.stream(id) else {
            return;
        };
        let mut now = lock(&stream.now);
        now.predicted += 1;
        if now.predictions.len() == PREDICTIONS_KEPT {
            now.predictions.pop_front();
        }
        let number = now.predicted;
        now.predictions.push_back(LivePrediction {
            number,
            span,
            made: SystemTime::now(),
            latency,
            probabilities: probabilities.to_vec(),
        });
    }

    /// Whether somebody wants to see where the network looks in a stream.
    pub fn wants_attention(&self, id: StreamId) -> bool {
        self.stream(id)
            .is_some_and(|stream| stream.attention_wanted.load(Ordering::Relaxed) > 0)
    }

    /// Where it looked.
    pub fn attended(&self, id: StreamId, attention: LiveAttention) {
        if let Some(stream) = self.stream(id) {
            lock(&stream.now).attention = Some(Arc::new(attention));
        }
    }
}

impl LiveStream {
    pub(super) fn new(
        id: StreamId,
        source: String,
        live: bool,
        patient: PatientId,
        (picture, crop): (FrameSize, Crop),
    ) -> Self {
        Self {
            id,
            source,
            live,
            patient,
            picture,
            crop,
            attention_wanted: AtomicUsize::new(0),
            now: Mutex::default(),
        }
    }

    /// The newest frame.
    pub fn frame(&self) -> Option<Frame> {
        lock(&self.now).frame.clone()
    }

    /// How many frames went to the windows, and when the newest arrived.
    pub fn frames(&self) -> (u64, Option<Instant>) {
        let now = lock(&self.now);
        (now.frames, now.frame.as_ref().map(|frame| frame.arrived))
    }

    /// When it ended, if it has.
    pub fn ended(&self) -> Option<SystemTime> {
        lock(&self.now).ended
    }

    /// The predictions behind the one with this number, the oldest first, as far
    /// as they are kept.
    pub fn predictions_after(&self, number: u64) -> Vec<LivePrediction> {
        let now = lock(&self.now);
        let new = now.predictions.iter().rev();
        let mut new: Vec<_> = new
            .take_while(|prediction| prediction.number > number)
            .cloned()
            .collect();
        new.reverse();
        new
    }

    /// Where the network looked last while somebody wanted to see it.
    pub fn attention(&self) -> Option<Arc<LiveAttention>> {
        lock(&self.now).attention.clone()
    }

    /// Lets attention be computed for this stream until the guard is dropped.
    pub fn want_attention(self: &Arc<Self>) -> AttentionWanted {
        self.attention_wanted.fetch_add(1, Ordering::Relaxed);
        AttentionWanted(Arc::clone(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::EventTime;

    fn opened(live: &Live, id: u32) -> Arc<LiveStream> {
        let size = FrameSize {
            height: 4,
            width: 4,
        };
        let crop = Crop {
            x: 0,
            y: 0,
            width: 4,
            height: 4,
        };
        let (name, patient) = ("bed".to_owned(), PatientId::new("P"));
        let stream = LiveStream::new(StreamId(id), name, true, patient, (size, crop));
        live.opened(stream);
        live.stream(StreamId(id)).unwrap()
    }

    fn span() -> ClipSpan {
        ClipSpan {
            first_frame: 0,
            last_frame: 1,
            begin: EventTime::from_nanos(0),
            end: EventTime::from_nanos(1),
            gaps_before: 0,
            weight: ClipSpan::FULL_WEIGHT,
        }
    }

    #[test]
    fn who_looks_late_sees_the_newest_and_no_more_than_is_kept() {
        let live = Live::default();
        let stream = opened(&live, 7);
        for index in 0..2000 {
            let frame = Frame {
                index,
                time: EventTime::from_nanos(index),
                arrived: Instant::now(),
                discontinuity: false,
                skipped: 0,
                pixels: [0; 16].into(),
            };
            live.frame(StreamId(7), &frame);
            live.predicted(StreamId(7), span(), None, &[]);
        }
        assert_eq!(stream.frame().unwrap().index, 1999);
        assert_eq!(stream.frames().0, 2000);
        let all = stream.predictions_after(0);
        assert_eq!(all.len(), PREDICTIONS_KEPT);
        assert_eq!(all.last().unwrap().number, 2000);
        let new: Vec<_> = stream.predictions_after(1998);
        assert_eq!(
            new.iter().map(|it| it.number).collect::<Vec<_>>(),
            [1999, 2000]
        );
        assert!(stream.predictions_after(2000).is_empty());
    }

    #[test]
    fn attention_is_wanted_only_while_somebody_holds_the_wish() {
        let live = Live::default();
        let stream = opened(&live, 1);
        assert!(!live.wants_attention(StreamId(1)));
        let (one, other) = (stream.want_attention(), stream.want_attention());
        drop(one);
        assert!(live.wants_attention(StreamId(1)));
        drop(other);
        assert!(!live.wants_attention(StreamId(1)));
        assert!(!live.wants_attention(StreamId(2)), "an unknown stream");
    }

    #[test]
    fn streams_that_ended_long_ago_are_forgotten_and_open_ones_never() {
        let live = Live::default();
        opened(&live, 0);
        for id in 1..100 {
            opened(&live, id);
            live.ended(StreamId(id));
        }
        let streams = live.streams();
        assert!(streams.len() <= ENDED_KEPT + 2, "{}", streams.len());
        assert_eq!(streams[0].id, StreamId(0));
        assert_eq!(streams.last().unwrap().id, StreamId(99));
    }
}
