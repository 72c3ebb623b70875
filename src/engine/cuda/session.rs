//! Sessions on a card: what windows share is kept in the card's memory, and the
//! same stage of several streams is computed at once.
//!
//! A stage is computed where clips are, in a thread's [`Batch`], each stream in
//! the place of a clip. Layer by layer, what is held is copied to its place by
//! one launch for all streams, what is missing is computed by the launches of
//! whole clips, cut down to the frames that are missing, and what is read again
//! is copied out. Sums run in the order of whole clips, so the bits are theirs.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::ThreadId;

use super::CudaError;
use super::kernels::{self, Slice as Copy};
use super::launch::{Card, Memory};
use super::layers::Place;
use super::network::{Batch, Kind, Launches, Network};
use crate::engine::course::{Course, Due, Slice, Slots};
use crate::engine::reuse::{Cost, Link, Schedule, Sliding, Source, Stage};

/// How the windows of any stream are computed; shared by all sessions.
#[derive(Debug)]
pub(in crate::engine) struct SessionPlan {
    /// Among all plans of the process.
    number: u64,
    schedule: Schedule,
    names: Vec<String>,
    /// Where each layer's slices begin in a session's memory.
    begins: Vec<usize>,
    /// Bytes of a session on the card.
    bytes: usize,
    pixels: usize,
}

/// One stream's state.
#[derive(Debug)]
pub(in crate::engine) struct Session {
    plan: Arc<SessionPlan>,
    course: Course,
    /// Of each layer.
    held: Vec<Slots>,
    /// On the card, from the first stage on; and which opening of the card that was.
    memory: Option<(usize, Arc<Holding>)>,
    /// Who computed the last stage: a stage's end is not waited for, so another
    /// thread must do that first.
    thread: Option<ThreadId>,
}

/// A session's memory on the card, which is taken away when the card fails: its
/// context goes with the last memory in it.
#[derive(Debug)]
struct Holding(Mutex<Option<Memory>>);

impl Holding {
    fn take(&self) -> Option<Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The memory of all sessions of a backend.
#[derive(Debug, Default)]
pub(super) struct Holdings(Mutex<Vec<Weak<Holding>>>);

impl Holdings {
    fn add(&self, holding: &Arc<Holding>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == all.capacity() {
            all.retain(|holding| holding.strong_count() > 0);
        }
        all.push(Arc::downgrade(holding));
    }

    /// Takes all of it away.
    pub(super) fn clear(&self) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for holding in all.drain(..).filter_map(|holding| holding.upgrade()) {
            drop(holding.take());
        }
    }
}

/// The neighbouring frames among those to be computed.
fn runs(frames: &[usize]) -> impl Iterator<Item = Range<usize>> {
    let runs = frames.chunk_by(|a, b| a + 1 == *b);
    runs.map(|run| run[0]..run[0] + run.len())
}

impl Network {
    /// How the layers hang together in time.
    fn links(&self) -> Vec<Link> {
        let source = |place: &Place, before: usize| {
            // Buffers serve several values; the last one written is meant.
            let writer = (0..before)
                .rev()
                .find(|number| self.layers[*number].output().buffer == place.buffer);
            Source {
                value: writer.map_or(0, |number| number + 1),
                crop: place.offset / place.frame_bytes(),
            }
        };
        let layers = self.layers.iter().zip(&self.facts).enumerate();
        layers
            .map(|(number, (layer, (_, cost)))| Link {
                input: source(layer.input(), number),
                residual: layer.residual().map(|place| source(place, number)),
                window: layer.window(),
                inputs: layer.input().extent[0],
                outputs: layer.output().extent[0],
                cost: *cost as u64,
            })
            .collect()
    }
}

impl SessionPlan {
    /// Works out how a network's windows follow each other; None if they cannot.
    pub(super) fn new(network: &Network, sliding: Sliding) -> Option<Self> {
        static PLANS: AtomicU64 = AtomicU64::new(0);
        let schedule = Schedule::new(&network.links(), sliding, None)?;
        let mut bytes = 0;
        let mut begins = Vec::new();
        for (layer, held) in network.layers.iter().zip(&schedule.held) {
            begins.push(bytes);
            bytes += layer.output().frame_bytes() * held;
        }
        let [_, rows, columns] = network.input.extent;
        Some(Self {
            number: PLANS.fetch_add(1, Relaxed),
            schedule,
            names: network.facts.iter().map(|(name, _)| name.clone()).collect(),
            begins,
            bytes,
            pixels: rows * columns,
        })
    }

    /// What each layer costs.
    pub(in crate::engine) fn costs(&self) -> Vec<(String, Cost)> {
        self.schedule.costs_by_name(&self.names)
    }

    /// What a window costs.
    pub(in crate::engine) fn cost(&self) -> Cost {
        self.schedule.cost()
    }

    /// Bytes that a session holds at most, on the card and here.
    pub(in crate::engine) fn session_bytes(&self) -> usize {
        self.bytes + self.schedule.frames * self.pixels
    }
}

impl Session {
    pub(in crate::engine) fn new(plan: Arc<SessionPlan>) -> Self {
        Self {
            course: Course::new(&plan.schedule, 0),
            held: plan.begins.iter().map(|_| Slots::default()).collect(),
            plan,
            memory: None,
            thread: None,
        }
    }

    /// Forgets the stream; memory stays for the next one.
    pub(in crate::engine) fn reset(&mut self) {
        self.course.reset();
        self.held.iter_mut().for_each(Slots::clear);
    }

    /// Bytes that it holds now.
    pub(in crate::engine) fn bytes(&self) -> usize {
        let on_card = self.memory.as_ref().map_or(0, |_| self.plan.bytes);
        on_card + self.course.pictures().len() * self.plan.pixels
    }

    /// Takes a picture, `[H, W]`; says what can be computed now. That must have
    /// been done, or the session reset, before the next picture.
    pub(in crate::engine) fn push(&mut self, picture: &Arc<[u8]>) -> Option<Due> {
        self.course.push(&self.plan.schedule, picture)
    }

    /// Whether two sessions' stages can be computed together.
    pub(in crate::engine) fn is_like(&self, other: &Self) -> bool {
        self.plan.number == other.plan.number
    }

    fn is_of(&self, generation: usize) -> bool {
        self.plan.bytes == 0
            || self
                .memory
                .as_ref()
                .is_some_and(|(of, _)| *of == generation)
    }

    /// Whether what it held is gone with an earlier opening of the card.
    pub(super) fn is_lost(&self, generation: usize) -> bool {
        self.course.stages() > 0 && !self.is_of(generation)
    }

    /// Where its memory is; it takes some, where it has none of this opening of the
    /// card.
    fn hold(&mut self, run: &Opened<'_>) -> Result<u64, CudaError> {
        if self.plan.bytes == 0 {
            return Ok(0);
        }
        if !self.is_of(run.generation) {
            // The old one first: there may be no room for both.
            self.memory = None;
            let memory = Memory::new(run.card, self.plan.bytes)?;
            let holding = Arc::new(Holding(Mutex::new(Some(memory))));
            run.holdings.add(&holding);
            self.memory = Some((run.generation, holding));
        }
        let thread = std::thread::current().id();
        if let Some(other) = self.thread.replace(thread).filter(|last| *last != thread) {
            run.card.wait_for(other)?;
        }
        let address = self.memory.as_ref().and_then(|(_, holding)| {
            let memory = holding.0.lock().unwrap_or_else(PoisonError::into_inner);
            memory.as_ref().map(Memory::address)
        });
        // Another thread saw the card fail.
        address.ok_or(CudaError::Launch {
            problem: "a session's memory is gone with its card".to_owned(),
        })
    }
}

/// The card as it was opened last.
#[derive(Clone, Copy)]
pub(super) struct Opened<'a> {
    pub(super) card: &'a Arc<dyn Card>,
    /// Which opening it is.
    pub(super) generation: usize,
    pub(super) holdings: &'a Holdings,
}

/// What one stage copies, layer by layer: a launch for what is loaded before a
/// layer is computed, and one for what is kept behind it.
#[derive(Default)]
struct Copies {
    /// As the card reads them.
    bytes: Vec<u8>,
    count: usize,
}

impl Copies {
    fn push(&mut self, from: u64, to: u64, bytes: usize) {
        let chunks = (bytes / 16) as i64;
        self.bytes.extend(Copy { from, to, chunks }.to_bytes());
        self.count += 1;
    }
}

impl Network {
    /// Computes the stage that all of some sessions of one plan are due for. Gives
    /// each one's logits if it is a window's last stage.
    pub(super) fn run_stage(
        &self,
        batch: &mut Batch,
        opened: Opened<'_>,
        due: Due,
        sessions: &mut [&mut Session],
    ) -> Result<Vec<Option<Vec<f32>>>, CudaError> {
        let Some(plan) = sessions.first().map(|session| Arc::clone(&session.plan)) else {
            return Ok(Vec::new());
        };
        let holdings = sessions.iter_mut().map(|session| session.hold(&opened));
        let holdings = holdings.collect::<Result<Vec<_>, _>>()?;
        let stage = due.of(&plan.schedule);
        let count = sessions.len();
        let grey = match (stage.input.first(), stage.input.last()) {
            (Some(first), Some(last)) => *first..*last + 1,
            _ => 0..0,
        };
        let mut pictures = Vec::with_capacity(count * grey.len() * plan.pixels);
        for session in sessions.iter() {
            for frame in grey.clone() {
                pictures.extend_from_slice(session.course.picture(stage, frame));
            }
        }
        let copies = self.copies(batch, &plan, stage, sessions, &holdings);
        let partial = stage.turns.iter().enumerate().flat_map(|(layer, turn)| {
            runs(&turn.compute).map(move |run| self.partial_bytes(count, layer, run))
        });
        batch.make_room(copies.bytes.len(), partial.max().unwrap_or(0))?;
        if !pictures.is_empty() {
            batch.incoming.upload(&pictures)?;
        }
        if copies.count > 0 {
            batch.slices.upload(&copies.bytes)?;
        }
        self.play(batch, Launches::Stage(count, plan.number, due), &|batch| {
            self.launch_stage(batch, count, stage, &grey)
        })?;
        let is_last = due.stage + 1 == plan.schedule.windows[due.window].len();
        let rows = if is_last {
            self.logits(batch, count)?
        } else {
            Vec::new()
        };
        let mut rows = rows.chunks_exact(rows.len().max(count) / count);
        for session in sessions.iter_mut() {
            session.course.done(&plan.schedule, due);
        }
        Ok((0..count)
            .map(|_| {
                if is_last {
                    rows.next().map(<[f32]>::to_vec)
                } else {
                    None
                }
            })
            .collect())
    }

    /// What is copied, in the order of the launches; what will be held is booked.
    fn copies(
        &self,
        batch: &Batch,
        plan: &SessionPlan,
        stage: &Stage,
        sessions: &mut [&mut Session],
        holdings: &[u64],
    ) -> Copies {
        let mut copies = Copies::default();
        for (number, (layer, turn)) in self.layers.iter().zip(&stage.turns).enumerate() {
            let place = layer.output();
            let bytes = place.frame_bytes();
            let value = |clip: usize, slice: usize| {
                let clip_bytes = place.clip * place.value_bytes();
                let address = batch.buffers[place.buffer].address();
                address + (place.offset + clip * clip_bytes + slice * bytes) as u64
            };
            for (clip, session) in sessions.iter().enumerate() {
                let now = session.course.stages();
                for load in &turn.load {
                    let slot = session.held[number].find(now - load.age as u64, load.was);
                    let held = holdings[clip] + (plan.begins[number] + slot * bytes) as u64;
                    copies.push(held, value(clip, load.slice), bytes);
                }
            }
            for (clip, session) in sessions.iter_mut().enumerate() {
                let now = session.course.stages();
                for &(slice, ahead) in &turn.keep {
                    let kept = Slice {
                        born: now,
                        slice,
                        last: now + ahead as u64,
                    };
                    let slot = session.held[number].put(kept, now);
                    let held = holdings[clip] + (plan.begins[number] + slot * bytes) as u64;
                    copies.push(value(clip, slice), held, bytes);
                }
            }
        }
        copies
    }

    fn launch_stage(
        &self,
        batch: &Batch,
        count: usize,
        stage: &Stage,
        grey: &Range<usize>,
    ) -> Result<(), CudaError> {
        if !grey.is_empty() {
            self.launch_input(batch, count, Kind::Grey, grey.clone())?;
        }
        let mut copied = 0;
        let mut copy = |slices: usize, bytes: usize| {
            let slices = slices * count;
            if slices == 0 {
                return Ok(());
            }
            let list = batch.slices.address() + (copied * size_of::<Copy>()) as u64;
            copied += slices;
            kernels::copy_slices(self.card().as_ref(), list, slices, bytes / 16)
        };
        for (number, turn) in stage.turns.iter().enumerate() {
            let bytes = self.layers[number].output().frame_bytes();
            copy(turn.load.len(), bytes)?;
            for run in runs(&turn.compute) {
                self.launch_layer(batch, count, number, run, Some(grey.clone()))?;
            }
            copy(turn.keep.len(), bytes)?;
        }
        Ok(())
    }
}
