//! The engine, as the dataflow asks for it.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dataflow::{Live, LiveAttention, Scorer};
use crate::domain::{Clip, StreamId};
use crate::engine::{Attention, Engine, Session, SessionOptions, SessionPlan, Workspace, softmax};
use crate::metrics::Metrics;

/// A stream that was silent for so long is forgotten; if it speaks again, its
/// first window is computed as a whole.
const IDLE: Duration = Duration::from_mins(1);

/// Sessions of one thread: beyond, the one that was silent longest makes room.
const MOST_SESSIONS: usize = 1024;

/// Clips that are scored whole give a map so often at most, a thread: the map
/// takes a pass of its own on the CPU, whatever the device.
const BETWEEN_MAPS: Duration = Duration::from_secs(1);

/// How a run scores windows: shared by its inference threads.
pub(super) struct Scoring {
    engine: Engine,
    plan: SessionPlan,
    /// The same, saying where the network looks: for streams that are watched.
    watched: SessionPlan,
    live: Live,
    metrics: Metrics,
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
    /// As the metric has it.
    bytes: i64,
}

impl Scoring {
    /// For windows that are `stride` frames apart.
    pub(super) fn new(engine: Engine, stride: usize, metrics: &Metrics, live: &Live) -> Arc<Self> {
        let plan_of = |attention| {
            engine.session_plan(SessionOptions {
                stride,
                early: false,
                attention,
            })
        };
        let (plan, watched) = (plan_of(false), plan_of(true));
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
            watched,
            live: live.clone(),
            metrics: metrics.clone(),
        })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// For one thread.
    pub(super) fn scorer(self: &Arc<Self>) -> Box<dyn Scorer> {
        Box::new(EngineScorer {
            workspace: self.engine.workspace(),
            scoring: Arc::clone(self),
            sessions: HashMap::new(),
            swept: Instant::now(),
            mapped: None,
            unmappable: false,
        })
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
        if self.swept.elapsed() < IDLE / 4 {
            return;
        }
        self.swept = Instant::now();
        let streams = self.sessions.iter();
        let idle: Vec<_> = streams
            .filter(|(_, followed)| followed.heard.elapsed() > IDLE)
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
        let silent = self.sessions.iter().min_by_key(|(_, it)| it.heard);
        if let Some(stream) = silent.map(|(stream, _)| *stream) {
            self.forget(stream);
        }
    }

    fn follow(&mut self, clip: &Clip) -> Result<Vec<f32>, Box<dyn Error + Send + Sync>> {
        let scoring = Arc::clone(&self.scoring);
        let metrics = &scoring.metrics;
        let watched = scoring.live.wants_attention(clip.stream);
        // Who begins to look, or ceases to, costs the stream one whole window.
        let followed = self.sessions.get(&clip.stream);
        if followed.is_some_and(|followed| followed.watched != watched) {
            self.forget(clip.stream);
        }
        if !self.sessions.contains_key(&clip.stream) {
            self.make_room();
            metrics.sessions.inc();
        }
        let followed = self
            .sessions
            .entry(clip.stream)
            .or_insert_with(|| Followed {
                session: scoring.engine.session(if watched {
                    &scoring.watched
                } else {
                    &scoring.plan
                }),
                watched,
                heard: Instant::now(),
                bytes: 0,
            });
        followed.heard = Instant::now();
        let logits = followed
            .session
            .score(&scoring.engine, &mut self.workspace, clip)?;
        if let Some(attention) = followed.session.attention() {
            scoring.show(clip, attention);
        }
        let bytes = i64::try_from(followed.session.bytes()).unwrap_or(i64::MAX);
        metrics.session_bytes.add(bytes - followed.bytes);
        followed.bytes = bytes;
        Ok(logits)
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
            let rows = clips.iter().map(|clip| self.follow(clip));
            rows.collect::<Result<_, _>>()?
        } else {
            let logits = self.scoring.engine.infer(&mut self.workspace, clips)?;
            self.map_one(clips);
            logits
        };
        let (health, metrics) = (self.scoring.engine.health(), &self.scoring.metrics);
        let count = |times: usize| i64::try_from(times).unwrap_or(i64::MAX);
        let halved = count(health.batches_halved);
        metrics.engine_batches_halved.set(halved);
        metrics.engine_rebuilds.set(count(health.engines_rebuilt));
        metrics.engine_fell_back.set(health.fell_back.into());
        Ok(logits.iter().map(|row| softmax(row)).collect())
    }

    fn batch(&self) -> usize {
        self.scoring.engine.batch()
    }

    fn follows_streams(&self) -> bool {
        self.scoring.plan.clip_by_clip().is_none()
    }
}
