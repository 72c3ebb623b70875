//! A network on a card that may fail: batches that are halved when the card has
//! no room, a card that is opened anew after an error, and the CPU at last.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::ThreadId;

use super::driver::DriverCard;
use super::launch::Card;
use super::network::{Batch, Clips, Network};
use super::session::{Holdings, Opened, Session, SessionPlan};
use super::{CudaError, Precision};
use crate::engine::course::Due;
use crate::engine::cpu::{self, Storage, Team};
use crate::engine::reuse::Sliding;
use crate::engine::{Health, Plan};
use crate::model::InputSpec;

/// Clips at once, at the most: beyond this a batch costs memory and gains
/// nothing.
const LARGEST_BATCH: usize = 32;

/// Failures without an answer between them, after which the card is given up.
const PATIENCE: usize = 2;

/// Opens the card, and opens it anew.
type Open = Box<dyn Fn() -> Result<Arc<dyn Card>, CudaError> + Send + Sync>;

/// A plan, and a card to execute it on.
pub(in crate::engine) struct Backend {
    plan: Plan,
    precision: Precision,
    spec: InputSpec,
    open: Open,
    state: Mutex<State>,
    fallback: OnceLock<cpu::Program>,
    /// What sessions hold on the card.
    holdings: Holdings,
    /// Clips at once, as far as the card has room.
    batch: AtomicUsize,
    halved: AtomicUsize,
    rebuilt: AtomicUsize,
}

struct State {
    /// None when the card was given up.
    network: Option<Arc<Network>>,
    /// Counts openings, so that of many threads that see one failure only the
    /// first opens the card anew.
    generation: usize,
    failures: usize,
}

/// What became of a session's stage.
#[derive(Debug)]
pub(in crate::engine) enum Served {
    /// It was computed; its window goes on.
    Stage,
    /// It was its window's last one: the logits.
    Window(Vec<f32>),
    /// The card failed or has no room: the session must be reset, and its window
    /// scored as a clip.
    Failed,
}

/// What one thread needs.
#[derive(Debug, Default)]
pub(in crate::engine) struct Workspace {
    batch: Option<Room>,
    /// For when the card was given up.
    cpu: Option<cpu::Buffers>,
}

/// Memory for so many clips.
#[derive(Debug)]
struct Room {
    /// Which opening of the card it is on.
    generation: usize,
    clips: usize,
    /// Who used it last.
    thread: ThreadId,
    batch: Batch,
}

impl Workspace {
    /// Memory to compute on the CPU.
    pub(in crate::engine) fn cpu(&mut self, program: &cpu::Program) -> &mut cpu::Buffers {
        self.cpu
            .get_or_insert_with(|| cpu::Buffers::new(program, Team::alone()))
    }
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend")
            .field("precision", &self.precision)
            .finish_non_exhaustive()
    }
}

impl Backend {
    /// On the driver's first card.
    pub(in crate::engine) fn new(
        plan: &Plan,
        precision: Precision,
        spec: &InputSpec,
    ) -> Result<Self, CudaError> {
        let open = || Ok(DriverCard::open_checked(0)? as Arc<dyn Card>);
        Self::on(plan, precision, spec, Box::new(open))
    }

    pub(super) fn on(
        plan: &Plan,
        precision: Precision,
        spec: &InputSpec,
        open: Open,
    ) -> Result<Self, CudaError> {
        let network = Network::new(&open()?, precision, plan, spec)?;
        Ok(Self {
            plan: plan.clone(),
            precision,
            spec: spec.clone(),
            open,
            state: Mutex::new(State {
                network: Some(Arc::new(network)),
                generation: 0,
                failures: 0,
            }),
            fallback: OnceLock::new(),
            holdings: Holdings::default(),
            batch: AtomicUsize::new(LARGEST_BATCH),
            halved: AtomicUsize::new(0),
            rebuilt: AtomicUsize::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For people.
    pub(in crate::engine) fn description(&self) -> String {
        match &self.state().network {
            Some(network) => format!("cuda ({}), {}", network.card_name(), self.precision),
            None => "cpu, f32, since the card failed".to_owned(),
        }
    }

    /// Bytes of weights on the card.
    pub(in crate::engine) fn weight_bytes(&self) -> usize {
        let network = self.state().network.clone();
        network.map_or(0, |network| network.weight_bytes())
    }

    /// Bytes on the card that a workspace takes for one clip.
    pub(in crate::engine) fn workspace_bytes(&self) -> usize {
        let network = self.state().network.clone();
        network.map_or(0, |network| network.clip_bytes())
    }

    /// Clips at once, as far as the card has room; 1 when it was given up.
    pub(in crate::engine) fn batch(&self) -> usize {
        if self.state().network.is_some() {
            self.batch.load(Relaxed)
        } else {
            1
        }
    }

    pub(in crate::engine) fn health(&self) -> Health {
        Health {
            batches_halved: self.halved.load(Relaxed),
            engines_rebuilt: self.rebuilt.load(Relaxed),
            fell_back: self.state().network.is_none(),
        }
    }

    /// The network on the CPU, for when the card was given up.
    pub(in crate::engine) fn fallback(&self) -> &cpu::Program {
        self.fallback
            .get_or_init(|| cpu::Program::new(self.plan.clone(), Storage::F32))
    }

    /// Logits, `[N][classes]`; none when the card was given up, and the CPU must
    /// do it. A clip is asked of the card again until it answers or is given up:
    /// none is lost.
    pub(in crate::engine) fn infer(
        &self,
        workspace: &mut Workspace,
        count: usize,
        clips: Clips<'_>,
    ) -> Result<Option<Vec<f32>>, CudaError> {
        let mut logits = Vec::new();
        let mut done = 0;
        while done < count {
            let (network, generation) = {
                let state = self.state();
                (state.network.clone(), state.generation)
            };
            let Some(network) = network else {
                return Ok(None);
            };
            let at_once = self.batch.load(Relaxed).min(count - done);
            let part = clips.part(done, done + at_once, network.input_shape());
            let rows = Self::room(workspace, &network, generation, at_once)
                .and_then(|batch| network.run(batch, at_once, part));
            match rows {
                Ok(rows) => {
                    logits.extend(rows);
                    done += at_once;
                    self.state().failures = 0;
                }
                Err(error @ CudaError::TooLarge { .. }) if at_once == 1 => return Err(error),
                Err(CudaError::OutOfMemory { .. } | CudaError::TooLarge { .. }) if at_once > 1 => {
                    workspace.batch = None;
                    self.batch.store(at_once / 2, Relaxed);
                    self.halved.fetch_add(1, Relaxed);
                    tracing::warn!(
                        clips = at_once / 2,
                        "the card has no room: batches are halved"
                    );
                }
                Err(error) => {
                    workspace.batch = None;
                    drop(network);
                    self.rebuild(generation, &error);
                }
            }
        }
        Ok(Some(logits))
    }

    /// How windows follow each other on the card; none if they cannot, or the card
    /// was given up.
    pub(in crate::engine) fn session_plan(&self, sliding: Sliding) -> Option<SessionPlan> {
        let network = self.state().network.clone()?;
        SessionPlan::new(&network, sliding)
    }

    /// Computes the stage that all of some sessions of one plan are due for.
    pub(in crate::engine) fn run_stage(
        &self,
        workspace: &mut Workspace,
        due: Due,
        sessions: &mut [&mut Session],
    ) -> Vec<Served> {
        let mut answers = Vec::with_capacity(sessions.len());
        while answers.len() < sessions.len() {
            let left = &mut sessions[answers.len()..];
            let (network, generation) = {
                let state = self.state();
                (state.network.clone(), state.generation)
            };
            let Some(network) = network else {
                answers.extend(left.iter().map(|_| Served::Failed));
                break;
            };
            let is_there = |session: &&mut Session| !session.is_lost(generation);
            let there = left.iter().take_while(|session| is_there(session)).count();
            if there == 0 {
                answers.push(Served::Failed);
                continue;
            }
            let at_once = self.batch.load(Relaxed).min(there);
            let part = &mut left[..at_once];
            let opened = Opened {
                card: network.card(),
                generation,
                holdings: &self.holdings,
            };
            let run = Self::room(workspace, &network, generation, at_once)
                .and_then(|batch| network.run_stage(batch, opened, due, part));
            match run {
                Ok(rows) => {
                    let served = |row: Option<_>| row.map_or(Served::Stage, Served::Window);
                    answers.extend(rows.into_iter().map(served));
                    self.state().failures = 0;
                }
                Err(CudaError::OutOfMemory { .. } | CudaError::TooLarge { .. }) => {
                    // Whole clips find out how many there is room for.
                    workspace.batch = None;
                    answers.extend((0..at_once).map(|_| Served::Failed));
                }
                Err(error) => {
                    workspace.batch = None;
                    drop(network);
                    self.rebuild(generation, &error);
                    answers.extend((0..at_once).map(|_| Served::Failed));
                }
            }
        }
        answers
    }

    /// Memory for so many clips at once.
    fn room<'a>(
        workspace: &'a mut Workspace,
        network: &Network,
        generation: usize,
        count: usize,
    ) -> Result<&'a mut Batch, CudaError> {
        let thread = std::thread::current().id();
        let fits = |room: &Room| room.generation == generation && room.clips >= count;
        if !workspace.batch.as_ref().is_some_and(fits) {
            // The old one first: there may be no room for both.
            workspace.batch = None;
            workspace.batch = Some(Room {
                generation,
                clips: count,
                thread,
                batch: network.batch(count)?,
            });
        }
        let Some(room) = &mut workspace.batch else {
            return Err(CudaError::OutOfMemory { bytes: 0 });
        };
        if room.thread != thread {
            network.card().wait_for(room.thread)?;
            room.thread = thread;
        }
        Ok(&mut room.batch)
    }

    /// Opens the card anew after an error, unless another thread has; gives it
    /// up when that does not help.
    fn rebuild(&self, generation: usize, error: &CudaError) {
        let mut state = self.state();
        if state.generation != generation || state.network.is_none() {
            return;
        }
        state.generation += 1;
        state.failures += 1;
        // Before the new one: the old context must go with its error.
        state.network = None;
        self.holdings.clear();
        if state.failures > PATIENCE {
            tracing::error!(%error, "the card keeps failing: the CPU computes from now on");
            return;
        }
        tracing::error!(%error, "the card failed: the engine is rebuilt");
        self.rebuilt.fetch_add(1, Relaxed);
        let opened = (self.open)()
            .and_then(|card| Network::new(&card, self.precision, &self.plan, &self.spec));
        match opened {
            Ok(network) => state.network = Some(Arc::new(network)),
            Err(error) => {
                tracing::error!(%error, "the card cannot be opened again: the CPU computes from now on");
            }
        }
    }
}

#[cfg(test)]
mod tests;
