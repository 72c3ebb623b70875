//! The engine, as the dataflow asks for it.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dataflow::Scorer;
use crate::domain::{Clip, StreamId};
use crate::engine::{Engine, Session, SessionOptions, SessionPlan, Workspace, softmax};
use crate::metrics::Metrics;

/// A stream that was silent for so long is forgotten; if it speaks again, its
/// first window is computed as a whole.
const IDLE: Duration = Duration::from_mins(1);

/// Sessions of one thread: beyond, the one that was silent longest makes room.
const MOST_SESSIONS: usize = 1024;

/// How a run scores windows: shared by its inference threads.
pub(super) struct Scoring {
    engine: Engine,
    plan: SessionPlan,
    metrics: Metrics,
}

/// What one inference thread scores clips with.
struct EngineScorer {
    scoring: Arc<Scoring>,
    workspace: Workspace,
    sessions: HashMap<StreamId, Followed>,
    /// When the idle were looked for last.
    swept: Instant,
}

/// A stream that a thread follows.
struct Followed {
    session: Session,
    heard: Instant,
    /// As the metric has it.
    bytes: i64,
}

impl Scoring {
    /// For windows that are `stride` frames apart.
    pub(super) fn new(engine: Engine, stride: usize, metrics: &Metrics) -> Arc<Self> {
        let plan = engine.session_plan(SessionOptions {
            stride,
            early: false,
            attention: false,
        });
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
        })
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
        if !self.sessions.contains_key(&clip.stream) {
            self.make_room();
            metrics.sessions.inc();
        }
        let followed = self
            .sessions
            .entry(clip.stream)
            .or_insert_with(|| Followed {
                session: scoring.engine.session(&scoring.plan),
                heard: Instant::now(),
                bytes: 0,
            });
        followed.heard = Instant::now();
        let logits = followed
            .session
            .score(&scoring.engine, &mut self.workspace, clip)?;
        let bytes = i64::try_from(followed.session.bytes()).unwrap_or(i64::MAX);
        metrics.session_bytes.add(bytes - followed.bytes);
        followed.bytes = bytes;
        Ok(logits)
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
            self.scoring.engine.infer(&mut self.workspace, clips)?
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
