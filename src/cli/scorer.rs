//! The engine, as the dataflow asks for it.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dataflow::{Live, LiveAttention, Scorer};
use crate::domain::{Clip, Frame, StreamId};
use crate::engine::{
    Attention, Engine, EngineError, Session, SessionOptions, SessionPlan, Workspace, softmax,
};
use crate::metrics::EngineMetrics;

/// A stream that was silent for so long is forgotten; if it speaks again, its
/// first window is computed as a whole.
const IDLE: Duration = Duration::from_mins(1);

/// A stream that has ended is forgotten after so long: its last clips may still be
/// on their way.
const PARTING: Duration = Duration::from_secs(2);

/// Windows of a stream whose answers are kept until they are asked for.
const MOST_READY: usize = 64;

/// Sessions of one thread: beyond, the one that was silent longest makes room.
const MOST_SESSIONS: usize = 1024;

/// How long a clip waits for others, where a card scores them together.
const COMPANY: Duration = Duration::from_millis(2);

/// Clips that are scored whole give a map so often at most, a thread: the map
/// takes a pass of its own on the CPU, whatever the device.
const BETWEEN_MAPS: Duration = Duration::from_secs(1);

/// How a run scores windows: shared by its inference threads.
pub(super) struct Scoring {
    engine: Arc<Engine>,
    plan: SessionPlan,
    /// For live streams, where less is left to do when a window's last frame comes
    /// if each frame is worked on at once.
    early: Option<SessionPlan>,
    /// For streams that are watched: it says where the network looks.
    watched: SessionPlan,
    live: Live,
    metrics: EngineMetrics,
}

/// What one inference thread scores clips with.
struct EngineScorer {
    scoring: Arc<Scoring>,
    workspace: Workspace,
    sessions: HashMap<StreamId, Followed>,
    /// When the idle were looked for last.
    swept: Instant,
    /// When a clip that was scored whole gave a map.
    mapped: Option<Instant>,
    /// The last map could not be made: none will be.
    unmappable: bool,
}

/// A stream that a thread follows.
struct Followed {
    session: Session,
    /// Whether it says where the network looks.
    watched: bool,
    heard: Instant,
    ended: bool,
    /// As the metric has it.
    bytes: i64,
    /// The last frame that it took, and answers that nobody has asked for yet:
    /// each with its window's last frame.
    taken: Option<u64>,
    ready: VecDeque<(Frame, Vec<f32>)>,
}

impl Scoring {
    /// For windows that are `stride` frames apart.
    pub(super) fn new(
        engine: Arc<Engine>,
        stride: usize,
        metrics: EngineMetrics,
        live: &Live,
    ) -> Arc<Self> {
        let plan_of = |early, attention| {
            engine.session_plan(SessionOptions {
                stride,
                early,
                attention,
            })
        };
        let (plan, watched) = (plan_of(false, false), plan_of(false, true));
        let early = plan_of(true, false);
        // With one new frame a window, there is nothing to do before it.
        let pays = 4 * early.cost().last_frame <= 3 * plan.cost().last_frame;
        let early = Some(early).filter(|early| early.cost().dense > 0 && pays);
        match plan.clip_by_clip() {
            Some(reason) => tracing::info!("scoring clip by clip: {reason}"),
            None => {
                tracing::info!(
                    "windows share what they have in common: each costs {:.0} % of a whole clip",
                    100.0 * plan.cost().ratio()
                );
            }
        }
        Arc::new(Self {
            engine,
            plan,
            early,
            watched,
            live: live.clone(),
            metrics,
        })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// For so many threads; one that has work while the others have none is helped.
    ///
    /// # Errors
    /// If the engine's threads cannot be started.
    pub(super) fn scorers(
        self: &Arc<Self>,
        threads: usize,
    ) -> Result<Vec<Box<dyn Scorer>>, EngineError> {
        let workspaces = self.engine.workspaces(threads)?.into_iter();
        Ok(workspaces
            .map(|workspace| Box::new(self.scorer(workspace)) as Box<dyn Scorer>)
            .collect())
    }

    fn scorer(self: &Arc<Self>, workspace: Workspace) -> EngineScorer {
        EngineScorer {
            workspace,
            scoring: Arc::clone(self),
            sessions: HashMap::new(),
            swept: Instant::now(),
            mapped: None,
            unmappable: false,
        }
    }

    fn show(&self, clip: &Clip, attention: &Attention) {
        let Some(frame) = clip.frames.last() else {
            return;
        };
        let [_, rows, columns] = attention.shape;
        let map = LiveAttention {
            frame: frame.index,
            class: attention.class,
            shape: [rows, columns],
            values: attention.at(clip.frames.len() - 1),
        };
        self.live.attended(clip.stream, map);
    }
}

impl EngineScorer {
    fn forget(&mut self, stream: StreamId) {
        if let Some(followed) = self.sessions.remove(&stream) {
            let metrics = &self.scoring.metrics;
            metrics.sessions.dec();
            metrics.session_bytes.sub(followed.bytes);
        }
    }

    /// Forgets the idle, now and then.
    fn sweep(&mut self) {
        if self.swept.elapsed() < PARTING {
            return;
        }
        self.swept = Instant::now();
        self.forget_silent(IDLE, PARTING);
    }

    /// Forgets streams that were silent for longer than so long, and those that
    /// have ended after another time.
    fn forget_silent(&mut self, idle: Duration, parting: Duration) {
        let is_silent = |followed: &Followed| {
            let longest = if followed.ended { parting } else { idle };
            followed.heard.elapsed() >= longest
        };
        let streams = self.sessions.iter();
        let idle: Vec<_> = streams
            .filter(|(_, followed)| is_silent(followed))
            .map(|(stream, _)| *stream)
            .collect();
        for stream in idle {
            self.forget(stream);
        }
    }

    /// Forgets the stream that was silent longest, if there are too many.
    fn make_room(&mut self) {
        if self.sessions.len() < MOST_SESSIONS {
            return;
        }
        let streams = self.sessions.iter();
        let silent = streams.min_by_key(|(_, it)| (!it.ended, it.heard));
        if let Some(stream) = silent.map(|(stream, _)| *stream) {
            self.forget(stream);
        }
    }

    /// Begins to follow a stream by this plan, if it does not yet.
    fn follow(&mut self, stream: StreamId, plan: &SessionPlan) {
        let watched = plan.options().attention;
        // Who begins to look, or ceases to, costs the stream one whole window.
        let followed = self.sessions.get(&stream);
        if followed.is_some_and(|followed| followed.watched != watched) {
            self.forget(stream);
        }
        if !self.sessions.contains_key(&stream) {
            self.make_room();
            self.scoring.metrics.sessions.inc();
            let followed = Followed {
                session: self.scoring.engine.session(plan),
                watched,
                heard: Instant::now(),
                ended: false,
                bytes: 0,
                taken: None,
                ready: VecDeque::new(),
            };
            self.sessions.insert(stream, followed);
        }
    }

    /// Scores clips by their streams' sessions: those of several streams together,
    /// those of one stream one after the other.
    fn score_followed(&mut self, clips: &[Clip]) -> Result<Vec<Vec<f32>>, EngineError> {
        let scoring = Arc::clone(&self.scoring);
        let mut rows: Vec<Option<Vec<f32>>> = clips
            .iter()
            .map(|clip| self.sessions.get_mut(&clip.stream)?.take_ready(clip))
            .collect();
        let mut left: VecDeque<_> = (0..clips.len())
            .filter(|number| rows[*number].is_none())
            .collect();
        while !left.is_empty() {
            // The first clip of each stream, of as many as may be followed.
            let mut turn: HashMap<StreamId, usize> = HashMap::new();
            left.retain(|&number| {
                let is_next =
                    turn.len() < MOST_SESSIONS / 2 && !turn.contains_key(&clips[number].stream);
                if is_next {
                    turn.insert(clips[number].stream, number);
                }
                !is_next
            });
            for stream in turn.keys() {
                let watched = scoring.live.wants_attention(*stream);
                let plan = if watched {
                    &scoring.watched
                } else {
                    &scoring.plan
                };
                self.follow(*stream, plan);
                if let Some(followed) = self.sessions.get_mut(stream) {
                    followed.heard = Instant::now();
                }
            }
            let (numbers, mut work): (Vec<_>, Vec<_>) = self
                .sessions
                .iter_mut()
                .filter_map(|(stream, followed)| {
                    let number = *turn.get(stream)?;
                    followed.taken = clips[number].frames.last().map(|frame| frame.index);
                    Some((number, (&mut followed.session, &clips[number])))
                })
                .unzip();
            let answers = scoring.engine.score_all(&mut self.workspace, &mut work);
            for (number, answer) in numbers.into_iter().zip(answers) {
                let clip = &clips[number];
                rows[number] = Some(answer?);
                self.count(clip.stream);
                let followed = self.sessions.get(&clip.stream);
                if let Some(attention) = followed.and_then(|it| it.session.attention()) {
                    scoring.show(clip, attention);
                }
            }
        }
        Ok(rows.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// Brings the metric up to date.
    fn count(&mut self, stream: StreamId) {
        if let Some(followed) = self.sessions.get_mut(&stream) {
            let bytes = i64::try_from(followed.session.bytes()).unwrap_or(i64::MAX);
            self.scoring
                .metrics
                .session_bytes
                .add(bytes - followed.bytes);
            followed.bytes = bytes;
        }
    }

    /// Shows where the network looked in one of the clips that are watched, now
    /// and then.
    fn map_one(&mut self, clips: &[Clip]) {
        if self.unmappable
            || self
                .mapped
                .is_some_and(|last| last.elapsed() < BETWEEN_MAPS)
        {
            return;
        }
        let live = &self.scoring.live;
        let mut watched = clips
            .iter()
            .filter(|clip| live.wants_attention(clip.stream));
        let Some(clip) = watched.next_back() else {
            return;
        };
        self.mapped = Some(Instant::now());
        match self.scoring.engine.explain(&mut self.workspace, clip, None) {
            Ok((_, attention)) => self.scoring.show(clip, &attention),
            Err(error) => {
                tracing::info!("no attention is shown: {error}");
                self.unmappable = true;
            }
        }
    }
}

impl Followed {
    /// The answer to a clip whose frames have all been looked at.
    fn take_ready(&mut self, clip: &Clip) -> Option<Vec<f32>> {
        let last = clip.frames.last()?;
        // Windows whose clips were left out are behind us.
        while self.ready.front()?.0.index < last.index {
            self.ready.pop_front();
        }
        let (frame, _) = self.ready.front()?;
        // The very same picture: so are those before it.
        if frame.index != last.index || !Arc::ptr_eq(&frame.pixels, &last.pixels) {
            return None;
        }
        self.heard = Instant::now();
        self.ready.pop_front().map(|(_, logits)| logits)
    }
}

impl Drop for EngineScorer {
    fn drop(&mut self) {
        let streams: Vec<_> = self.sessions.keys().copied().collect();
        for stream in streams {
            self.forget(stream);
        }
    }
}

impl Scorer for EngineScorer {
    fn score(&mut self, clips: &[Clip]) -> Result<Vec<Vec<f64>>, Box<dyn Error + Send + Sync>> {
        self.sweep();
        let logits = if self.follows_streams() {
            self.score_followed(clips)?
        } else {
            let logits = self.scoring.engine.infer(&mut self.workspace, clips)?;
            self.map_one(clips);
            logits
        };
        let (health, metrics) = (self.scoring.engine.health(), &self.scoring.metrics);
        let count = |times: usize| i64::try_from(times).unwrap_or(i64::MAX);
        let halved = count(health.batches_halved);
        metrics.batches_halved.set(halved);
        metrics.rebuilds.set(count(health.engines_rebuilt));
        metrics.fell_back.set(health.fell_back.into());
        Ok(logits.iter().map(|row| softmax(row)).collect())
    }

    fn batch(&self) -> usize {
        if self.follows_streams() {
            self.scoring.engine.streams()
        } else {
            self.scoring.engine.batch()
        }
    }

    fn patience(&self) -> Duration {
        // A CPU gains less by company than would be lost by waiting for it.
        if self.scoring.engine.is_on_card() {
            COMPANY
        } else {
            Duration::ZERO
        }
    }

    fn follows_streams(&self) -> bool {
        self.scoring.plan.clip_by_clip().is_none() || self.scoring.early.is_some()
    }

    fn look_ahead(&mut self, frames: &[(StreamId, Frame)]) {
        let scoring = Arc::clone(&self.scoring);
        let Some(plan) = &scoring.early else {
            return;
        };
        self.sweep();
        // A stream that is watched waits for its clips: they say where to look.
        let is_watched = |stream: &StreamId| {
            let followed = self.sessions.get(stream);
            scoring.live.wants_attention(*stream) || followed.is_some_and(|it| it.watched)
        };
        let mut left: VecDeque<_> = frames
            .iter()
            .filter(|(stream, _)| !is_watched(stream))
            .collect();
        while !left.is_empty() {
            // The next frame of each stream.
            let mut turn: HashMap<StreamId, &Frame> = HashMap::new();
            left.retain(|(stream, frame)| {
                let is_next = turn.len() < MOST_SESSIONS / 2 && !turn.contains_key(stream);
                if is_next {
                    turn.insert(*stream, frame);
                }
                !is_next
            });
            for stream in turn.keys() {
                self.follow(*stream, plan);
            }
            // What a clip has told of before is not new; behind a gap, the next
            // clip says where windows begin.
            let is_next = |followed: &Followed, frame: &Frame| {
                followed.taken.is_none_or(|taken| frame.follows(taken))
            };
            let (streams, mut work): (Vec<_>, Vec<_>) = self
                .sessions
                .iter_mut()
                .filter_map(|(stream, followed)| {
                    let frame = *turn.get(stream).filter(|frame| is_next(followed, frame))?;
                    followed.taken = Some(frame.index);
                    followed.heard = Instant::now();
                    Some((*stream, (&mut followed.session, frame)))
                })
                .unzip();
            let answers = scoring.engine.push_all(&mut self.workspace, &mut work);
            for (stream, answer) in streams.into_iter().zip(answers) {
                self.count(stream);
                let (Some(followed), Some(frame)) =
                    (self.sessions.get_mut(&stream), turn.get(&stream))
                else {
                    continue;
                };
                // What cannot be scored is told when its clip comes.
                if let Ok(Some(logits)) = answer {
                    if followed.ready.len() == MOST_READY {
                        followed.ready.pop_front();
                    }
                    followed.ready.push_back(((*frame).clone(), logits));
                }
            }
        }
    }

    fn end(&mut self, stream: StreamId) {
        if let Some(followed) = self.sessions.get_mut(&stream) {
            followed.ended = true;
        }
    }

    fn rest(&mut self) {
        self.sweep();
    }
}

#[cfg(test)]
mod tests;
