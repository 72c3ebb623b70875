use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Operator;

use super::surroundings::Surroundings;
use super::{Epoch, StreamEvent, StreamInfo, StreamItem};
use crate::domain::{Clip, ClipKey, ClipSpan, Frame, ModelHash};
use crate::metrics::Metrics;

/// How frames become clips.
#[derive(Clone, Copy, Debug)]
pub struct WindowShape {
    /// Frames in a clip, `W`, at least one.
    pub length: usize,
    /// Frames from the start of one clip to the start of the next, `S`, at
    /// least one. More than `W` leaves frames out between clips.
    pub stride: usize,
    /// A longer step between two frames is a gap; without it, 2.5 times the
    /// stream's frame interval, or half a second where that is unknown.
    pub max_gap: Option<Duration>,
}

/// Assembles the clips of one stream.
///
/// A clip never spans a gap. There is a gap where a frame's index is not the
/// last one's successor (frames were dropped, other than to keep the model's pace), where time does not advance or
/// advances by more than the longest step allowed, and where the source says
/// so. After a gap, windows begin anew at the first frame behind it.
///
/// ```
/// use hepaflow::dataflow::{WindowShape, Windower};
/// use hepaflow::domain::{EventTime, Frame};
/// let mut windower = Windower::new(WindowShape { length: 4, stride: 2, max_gap: None }, None);
/// let frame = |index| Frame {
///     index,
///     time: EventTime::from_nanos(index * 33_000_000),
///     arrived: std::time::Instant::now(),
///     discontinuity: false,
///     skipped: 0,
///     pixels: [0; 1].into(),
/// };
/// let starts: Vec<_> =
///     (0..9).filter_map(|i| windower.push(frame(i))).map(|(_, span)| span.first_frame).collect();
/// assert_eq!(starts, [0, 2, 4]);
/// ```
#[derive(Debug)]
pub struct Windower {
    length: usize,
    stride: usize,
    max_gap: Duration,
    /// Frames that a later clip may begin with: at most `W`.
    frames: VecDeque<Frame>,
    /// Frames to leave out before the next clip begins, where `S > W`.
    skip: usize,
    last: Option<Frame>,
    gaps: u64,
    /// None for a live stream.
    surroundings: Option<Surroundings>,
}

impl Windower {
    /// For a stream whose frames are `frame_interval` apart, if that is known.
    pub fn new(shape: WindowShape, frame_interval: Option<Duration>) -> Self {
        let usual = frame_interval.map_or(Duration::from_millis(500), |step| step.mul_f64(2.5));
        Self {
            length: shape.length.max(1),
            stride: shape.stride.max(1),
            max_gap: shape.max_gap.unwrap_or(usual),
            frames: VecDeque::with_capacity(shape.length),
            skip: 0,
            last: None,
            gaps: 0,
            surroundings: Some(Surroundings::new(shape.length.max(1))),
        }
    }

    /// Trusts every clip fully: a live stream loses frames because this machine is
    /// late, too, and that says nothing of its pictures.
    #[must_use]
    pub fn of_live_stream(mut self) -> Self {
        self.surroundings = None;
        self
    }

    /// Gaps seen so far.
    pub fn gaps(&self) -> u64 {
        self.gaps
    }

    /// Takes the next frame; gives a clip's frames, `[W]`, if it completes one.
    pub fn push(&mut self, frame: Frame) -> Option<(Vec<Frame>, ClipSpan)> {
        if self
            .last
            .as_ref()
            .is_some_and(|last| self.is_gap(last, &frame))
        {
            self.gaps += 1;
            self.frames.clear();
            self.skip = 0;
        }
        self.last = Some(frame.clone());
        if let Some(surroundings) = &mut self.surroundings {
            surroundings.push(frame.index, frame.skipped);
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.frames.push_back(frame);
        if self.frames.len() < self.length {
            return None;
        }
        let clip: Vec<_> = self.frames.iter().cloned().collect();
        self.skip = self.stride.saturating_sub(self.length);
        self.frames.drain(..self.stride.min(self.length));
        let (first, last) = (clip.first()?, clip.last()?);
        let span = ClipSpan {
            first_frame: first.index,
            last_frame: last.index,
            begin: first.time,
            end: last.time,
            gaps_before: self.gaps,
            weight: self
                .surroundings
                .as_ref()
                .map_or(ClipSpan::FULL_WEIGHT, Surroundings::weight),
        };
        Some((clip, span))
    }

    fn is_gap(&self, last: &Frame, frame: &Frame) -> bool {
        let step = frame.time.since(last.time).filter(|step| !step.is_zero());
        !frame.follows(last.index) || step.is_none_or(|step| step > self.max_gap)
    }
}

/// A clip on its way to the engine.
#[derive(Clone, Debug)]
pub struct WindowedClip {
    /// The frames.
    pub clip: Clip,
    /// Where they lie in the stream.
    pub span: ClipSpan,
    /// The stream's facts: whose it is, which bytes.
    pub stream: Arc<StreamInfo>,
    /// The run's models that have not scored it, by their positions.
    pub wanted: Vec<usize>,
}

/// Extension: frames into clips.
pub trait Windows<'scope> {
    /// Assembles every stream's clips on the worker that reads the stream.
    ///
    /// Windows in `finished` under one of `models` are counted and left out
    /// there: their predictions are in the store already.
    fn windows(
        self,
        shape: WindowShape,
        models: Vec<ModelHash>,
        finished: Arc<HashSet<ClipKey>>,
        metrics: Metrics,
    ) -> StreamVec<'scope, Epoch, WindowedClip>;
}

impl<'scope> Windows<'scope> for StreamVec<'scope, Epoch, StreamItem> {
    fn windows(
        self,
        shape: WindowShape,
        models: Vec<ModelHash>,
        finished: Arc<HashSet<ClipKey>>,
        metrics: Metrics,
    ) -> StreamVec<'scope, Epoch, WindowedClip> {
        self.unary(Pipeline, "Windows", move |_, _| {
            let mut streams = HashMap::new();
            move |input, output| {
                input.for_each(|capability, items| {
                    let mut session = output.session(&capability);
                    for StreamItem { stream: id, event } in items.drain(..) {
                        match event {
                            StreamEvent::Opened(info) => {
                                let mut windower = Windower::new(shape, info.frame_interval);
                                if info.live {
                                    windower = windower.of_live_stream();
                                }
                                let counters = metrics.source(&info.source);
                                streams.insert(id, (info, windower, counters));
                            }
                            StreamEvent::Ended => {
                                streams.remove(&id);
                            }
                            StreamEvent::Frame(frame) => {
                                let Some((info, windower, counters)) = streams.get_mut(&id) else {
                                    continue;
                                };
                                let gaps = windower.gaps();
                                let window = windower.push(frame);
                                counters.gaps.inc_by(windower.gaps() - gaps);
                                let Some((frames, span)) = window else {
                                    continue;
                                };
                                counters.windows.inc();
                                if let Some(level) = frames.last().and_then(Frame::brightness) {
                                    counters.brightness.observe(level);
                                }
                                let wanted: Vec<_> = (0..)
                                    .zip(&models)
                                    .filter_map(|(position, &model)| {
                                        let key = ClipKey {
                                            content: info.content,
                                            first_frame: span.first_frame,
                                            model,
                                        };
                                        (!finished.contains(&key)).then_some(position)
                                    })
                                    .collect();
                                let resumed = models.len() - wanted.len();
                                metrics.windows_resumed.inc_by(resumed as u64);
                                if wanted.is_empty() {
                                    continue;
                                }
                                session.give(WindowedClip {
                                    clip: Clip { stream: id, frames },
                                    span,
                                    stream: Arc::clone(info),
                                    wanted,
                                });
                            }
                        }
                    }
                });
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::EventTime;

    const STEP: u64 = 33_000_000;

    fn frame(index: u64, nanos: u64, discontinuity: bool) -> Frame {
        Frame {
            index,
            time: EventTime::from_nanos(nanos),
            arrived: Instant::now(),
            discontinuity,
            skipped: 0,
            pixels: [0_u8; 0].into(),
        }
    }

    fn windower(length: usize, stride: usize) -> Windower {
        let shape = WindowShape {
            length,
            stride,
            max_gap: None,
        };
        Windower::new(shape, Some(Duration::from_nanos(STEP)))
    }

    fn starts(windower: &mut Windower, frames: impl IntoIterator<Item = Frame>) -> Vec<u64> {
        frames
            .into_iter()
            .filter_map(|frame| windower.push(frame))
            .map(|(_, span)| span.first_frame)
            .collect()
    }

    #[test]
    fn a_jump_in_index_or_time_or_the_sources_word_is_a_gap() {
        let plain = (0..4).map(|i| frame(i, i * STEP, false));
        for (name, after) in [
            ("dropped frames", frame(6, 6 * STEP, false)),
            ("a pause", frame(4, 9 * STEP, false)),
            ("time standing still", frame(4, 3 * STEP, false)),
            ("time running back", frame(4, STEP, false)),
            ("a discontinuity", frame(4, 4 * STEP, true)),
        ] {
            let mut windower = windower(3, 1);
            assert_eq!(starts(&mut windower, plain.clone()), [0, 1]);
            assert_eq!(starts(&mut windower, [after]), [] as [u64; 0], "{name}");
            assert_eq!(windower.gaps(), 1, "{name}");
        }
    }

    #[test]
    fn frames_that_were_skipped_are_no_gap_and_those_that_were_lost_beside_them_are() {
        let thinned = |index: u64, skipped| Frame {
            skipped,
            ..frame(index, index * STEP, false)
        };
        let mut windower = windower(3, 1);
        let steps = [(0, 0), (2, 1), (4, 1), (5, 0), (8, 1), (10, 1), (11, 0)];
        let frames = steps.map(|(index, skipped)| thinned(index, skipped));
        assert_eq!(starts(&mut windower, frames), [0, 2, 8]);
        assert_eq!(windower.gaps(), 1);
    }

    #[test]
    fn a_little_jitter_is_no_gap() {
        let mut windower = windower(2, 2);
        let times = [0, 30, 70, 95, 175].map(|ms| ms * 1_000_000);
        let frames = (0..).zip(times).map(|(i, time)| frame(i, time, false));
        assert_eq!(starts(&mut windower, frames), [0, 2]);
        assert_eq!(windower.gaps(), 0);
    }

    #[test]
    fn a_recording_s_clips_weigh_what_was_let_through_and_those_of_a_live_stream_are_full() {
        let kept = || {
            let indices = (0..20).chain(30..90);
            indices.map(|index| frame(index, index * STEP, false))
        };
        let weights = |mut windower: Windower| -> Vec<_> {
            let clips = kept().filter_map(|frame| windower.push(frame));
            clips
                .map(|(_, span)| (span.first_frame, span.weight))
                .collect()
        };
        let recorded = weights(windower(4, 4));
        assert_eq!(recorded[0], (0, 256));
        // 22 of the 32 frames up to 33.
        assert_eq!(recorded[5], (30, 176));
        assert_eq!(recorded.last(), Some(&(86, 256)));
        let live = weights(windower(4, 4).of_live_stream());
        assert!(
            live.iter()
                .all(|&(_, weight)| weight == ClipSpan::FULL_WEIGHT)
        );
        assert_eq!(live.len(), recorded.len());
    }

    proptest! {
        /// Against the definition, by brute force: cut at the gaps, then take
        /// every S-th run of W frames of each piece.
        #[test]
        fn windows_are_every_s_th_run_of_w_frames_between_gaps(
            length in 1_usize..7,
            stride in 1_usize..9,
            drops in proptest::collection::vec(prop::bool::weighted(0.1), 0..80),
        ) {
            let kept: Vec<u64> =
                (0..).zip(&drops).filter(|(_, dropped)| !**dropped).map(|(i, _)| i).collect();
            let mut expected = Vec::new();
            for piece in kept.chunk_by(|a, b| a + 1 == *b) {
                expected.extend(piece.windows(length).step_by(stride).map(|window| window[0]));
            }
            let mut windower = windower(length, stride);
            let mut found = Vec::new();
            for &index in &kept {
                if let Some((clip, span)) = windower.push(frame(index, index * STEP, false)) {
                    prop_assert_eq!(clip.len(), length);
                    prop_assert!(clip.windows(2).all(|pair| pair[0].index + 1 == pair[1].index));
                    prop_assert_eq!(span.last_frame, span.first_frame + length as u64 - 1);
                    found.push(span.first_frame);
                }
            }
            prop_assert_eq!(found, expected);
        }
    }
}
