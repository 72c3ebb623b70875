//! One stream's windows, one after the other, each with what the last ones left.
//!
//! A window is computed where a clip is, in a thread's [`Buffers`]; a session
//! holds only the slices that later stages read. For each step in turn, what is
//! held goes to its place, what is missing is computed beside it, and what will
//! be read again is copied out. As every step computes each frame in the same
//! way whatever frames are beside it, the logits have the bits of the whole clip.

use std::collections::VecDeque;
use std::sync::Arc;

use super::reuse::{Link, Load, Schedule, Sliding, Source};
use super::work::Work;
use super::{Buffers, Program, normalise};
use crate::engine::plan::Value;

/// How the windows of any stream are computed; shared by all sessions.
#[derive(Debug)]
pub(in crate::engine) struct SessionPlan {
    schedule: Schedule,
    sliding: Sliding,
    windows: Vec<Vec<Stage>>,
    /// Values of one slice of each step's output.
    slices: Vec<usize>,
    names: Vec<String>,
    pixels: usize,
}

/// A stage with its work laid out.
#[derive(Debug)]
struct Stage {
    arrived: usize,
    input: Vec<usize>,
    turns: Vec<Turn>,
}

#[derive(Debug)]
struct Turn {
    step: usize,
    load: Vec<Load>,
    works: Vec<Work>,
    /// Slices, with how many stages on they are read last.
    keep: Vec<(usize, usize)>,
}

/// What a layer or a network costs, in multiplications and additions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// For a window by itself.
    pub dense: u64,
    /// For a window that follows others, on average.
    pub window: u64,
    /// Thereof, what is left to do when its last frame comes.
    pub last_frame: u64,
}

impl Cost {
    /// How much of a window's cost by itself is paid for one that follows others.
    pub fn ratio(self) -> f64 {
        self.window as f64 / self.dense as f64
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), |sum, cost| Self {
            dense: sum.dense + cost.dense,
            window: sum.window + cost.window,
            last_frame: sum.last_frame + cost.last_frame,
        })
    }
}

/// One stream's state.
#[derive(Debug)]
pub(in crate::engine) struct Session {
    plan: Arc<SessionPlan>,
    /// Pictures that a later stage may read, the newest last.
    recent: VecDeque<Arc<[u8]>>,
    /// Frames since the session began.
    frames: u64,
    /// The window that is being computed, and its next stage.
    window: u64,
    stage: usize,
    /// Stages since the session began.
    stages: u64,
    held: Vec<Store>,
}

/// Slices of one step's output.
#[derive(Debug, Default)]
struct Store {
    /// One for each place.
    slices: Vec<Option<Slice>>,
    values: Vec<f32>,
}

#[derive(Clone, Copy, Debug)]
struct Slice {
    /// The stage that computed it.
    born: u64,
    slice: usize,
    /// The stage that reads it last.
    last: u64,
}

impl SessionPlan {
    /// Works out how a program's windows follow each other; None if they cannot.
    /// Whenever a window is done, the whole of `also` lies in its place too.
    pub(in crate::engine) fn new(
        program: &Program,
        sliding: Sliding,
        also: Option<Value>,
    ) -> Option<Self> {
        let steps = &program.steps;
        let source = |value: Value, before: usize| {
            // Buffers serve several values; the last one written is meant.
            let writer = (0..before)
                .rev()
                .find(|step| steps[*step].output.buffer == value.buffer);
            let begin = writer.map_or(0, |step| steps[step].output.offset);
            let frame_len = value.shape.len() / value.shape.extent[0];
            Source {
                value: writer.map_or(0, |step| step + 1),
                crop: (value.offset - begin) / frame_len,
            }
        };
        let links: Vec<_> = steps
            .iter()
            .enumerate()
            .map(|(number, step)| Link {
                input: source(step.input, number),
                residual: step.residual.map(|value| source(value, number)),
                window: step.window,
                inputs: step.input.shape.extent[0],
                outputs: step.output.shape.extent[0],
                cost: step.cost(),
            })
            .collect();
        let also = also.map(|value| {
            let Source {
                value: number,
                crop,
            } = source(value, steps.len());
            (number, crop..crop + value.shape.extent[0])
        });
        let mut schedule = Schedule::new(&links, sliding, also)?;
        let stage = |stage: super::reuse::Stage| {
            let turns = stage.turns.into_iter().enumerate();
            let turns = turns
                .filter(|(_, turn)| !turn.compute.is_empty() || !turn.load.is_empty())
                .map(|(step, turn)| Turn {
                    step,
                    load: turn.load,
                    works: Work::some(links[step].window, links[step].inputs, turn.compute),
                    keep: turn.keep,
                });
            Stage {
                arrived: stage.arrived,
                input: stage.input,
                turns: turns.collect(),
            }
        };
        let windows = std::mem::take(&mut schedule.windows).into_iter();
        let [_, height, width] = program.input.shape.extent;
        Some(Self {
            windows: windows
                .map(|stages| stages.into_iter().map(stage).collect())
                .collect(),
            schedule,
            sliding,
            slices: steps.iter().map(super::Operation::frame_len).collect(),
            names: steps.iter().map(|step| step.name.clone()).collect(),
            pixels: height * width,
        })
    }

    /// Which of `windows` is like the stream's window of this number.
    fn place(&self, number: u64) -> usize {
        let (known, first) = (self.windows.len() as u64, self.schedule.first_again as u64);
        let place = if number < known {
            number
        } else {
            first + (number - first) % (known - first)
        };
        place as usize
    }

    /// What each layer costs.
    pub(in crate::engine) fn costs(&self) -> Vec<(String, Cost)> {
        let mut layers: Vec<(String, Cost)> = Vec::new();
        for (name, &cost) in self.names.iter().zip(&self.schedule.costs) {
            match layers.last_mut().filter(|(layer, _)| layer == name) {
                Some((_, sum)) => *sum = [*sum, cost].into_iter().sum(),
                None => layers.push((name.clone(), cost)),
            }
        }
        layers.retain(|(_, cost)| cost.dense > 0);
        layers
    }

    /// What a window costs.
    pub(in crate::engine) fn cost(&self) -> Cost {
        self.schedule.costs.iter().copied().sum()
    }

    /// Bytes that a session holds at most.
    pub(in crate::engine) fn session_bytes(&self) -> usize {
        let held = self.schedule.held.iter().zip(&self.slices);
        let values: usize = held.map(|(count, len)| count * len).sum();
        values * size_of::<f32>() + self.schedule.frames * self.pixels
    }
}

impl Session {
    pub(in crate::engine) fn new(plan: Arc<SessionPlan>) -> Self {
        let held = plan.slices.iter().map(|_| Store::default()).collect();
        Self {
            recent: VecDeque::with_capacity(plan.schedule.frames),
            plan,
            frames: 0,
            window: 0,
            stage: 0,
            stages: 0,
            held,
        }
    }

    /// Forgets the stream; memory stays for the next one.
    pub(in crate::engine) fn reset(&mut self) {
        self.recent.clear();
        (self.frames, self.window, self.stage, self.stages) = (0, 0, 0, 0);
        for store in &mut self.held {
            store.slices.fill(None);
        }
    }

    /// Bytes that it holds now.
    pub(in crate::engine) fn bytes(&self) -> usize {
        let values: usize = self.held.iter().map(|store| store.values.len()).sum();
        values * size_of::<f32>() + self.recent.len() * self.plan.pixels
    }

    /// The frame of the stream, counted from the session's beginning, that the
    /// next window begins with.
    fn begin(&self) -> u64 {
        self.window * self.plan.sliding.stride as u64
    }

    /// Frames of the next window that were taken already.
    pub(in crate::engine) fn overlap(&self) -> u64 {
        self.frames.saturating_sub(self.begin())
    }

    /// Takes a picture, `[H, W]`; gives the logits of a window that it completes.
    /// `table` says what each grey level becomes, channel by channel.
    pub(in crate::engine) fn push<'a>(
        &mut self,
        program: &Program,
        buffers: &'a mut Buffers,
        picture: &Arc<[u8]>,
        table: &[[f32; 256]],
    ) -> Option<&'a [f32]> {
        let begin = self.begin();
        self.frames += 1;
        // Between windows that are apart.
        let arrived = self.frames.checked_sub(begin).filter(|count| *count > 0)?;
        if self.recent.len() == self.plan.schedule.frames {
            self.recent.pop_front();
        }
        self.recent.push_back(Arc::clone(picture));
        let plan = Arc::clone(&self.plan);
        let stages = &plan.windows[plan.place(self.window)];
        let stage = stages.get(self.stage)?;
        if stage.arrived as u64 != arrived {
            return None;
        }
        self.run(program, buffers, stage, table);
        self.stage += 1;
        if self.stage < stages.len() {
            return None;
        }
        self.stage = 0;
        self.window += 1;
        Some(program.output(buffers))
    }

    fn run(
        &mut self,
        program: &Program,
        buffers: &mut Buffers,
        stage: &Stage,
        table: &[[f32; 256]],
    ) {
        let len = self.plan.pixels * table.len();
        let input = buffers.input_mut(program);
        for &frame in &stage.input {
            let picture = &self.recent[self.recent.len() - (stage.arrived - frame)];
            normalise(picture, table, &mut input[frame * len..][..len]);
        }
        let now = self.stages;
        self.stages += 1;
        for turn in &stage.turns {
            let operation = &program.steps[turn.step];
            let (store, len) = (&mut self.held[turn.step], self.plan.slices[turn.step]);
            let output = buffers.get_mut(operation.output);
            for load in &turn.load {
                let born = now - load.age as u64;
                output[load.slice * len..][..len].copy_from_slice(store.get(born, load.was, len));
            }
            for work in &turn.works {
                operation.run(program.isa, work, buffers);
            }
            let output = buffers.get(operation.output);
            for &(slice, ahead) in &turn.keep {
                let values = &output[slice * len..][..len];
                let last = now + ahead as u64;
                let slice = Slice {
                    born: now,
                    slice,
                    last,
                };
                store.put(slice, now, values);
            }
        }
    }
}

impl Store {
    fn get(&self, born: u64, slice: usize, len: usize) -> &[f32] {
        let held = |held: &Option<Slice>| {
            held.is_some_and(|held| held.born == born && held.slice == slice)
        };
        let place = self.slices.iter().position(held);
        // The schedule keeps what it loads.
        let place = place.expect("a slice that was to be held");
        &self.values[place * len..][..len]
    }

    /// Into the first place whose slice is not read any more.
    fn put(&mut self, slice: Slice, now: u64, values: &[f32]) {
        let free = |held: &Option<Slice>| held.is_none_or(|held| held.last <= now);
        let place = self.slices.iter().position(free).unwrap_or_else(|| {
            self.slices.push(None);
            self.values.resize(self.values.len() + values.len(), 0.0);
            self.slices.len() - 1
        });
        self.slices[place] = Some(slice);
        self.values[place * values.len()..][..values.len()].copy_from_slice(values);
    }
}
