//! One stream's windows, one after the other, each with what the last ones left.
//!
//! A window is computed where a clip is, in a thread's [`Buffers`]; a session
//! holds only the slices that later stages read. For each step in turn, what is
//! held goes to its place, what is missing is computed beside it, and what will
//! be read again is copied out. As every step computes each frame in the same
//! way whatever frames are beside it, the logits have the bits of the whole clip.

use std::sync::Arc;

use super::lines::{Line, Lines};
use super::values::writer;
use super::work::Work;
use super::{Buffers, FRAMES, Program, normalise};
use crate::engine::course::{Course, Due, Slice, Slots};
use crate::engine::plan::Value;
use crate::engine::reuse::{Cost, Link, Schedule, Sliding, Source};

/// How the windows of any stream are computed; shared by all sessions.
#[derive(Debug)]
pub(in crate::engine) struct SessionPlan {
    schedule: Schedule,
    /// Of each stage of each window, step by step.
    works: Vec<Vec<Vec<Vec<Work>>>>,
    /// Bytes of one slice of each step's output.
    slices: Vec<usize>,
    names: Vec<String>,
    pixels: usize,
}

/// One stream's state.
#[derive(Debug)]
pub(in crate::engine) struct Session {
    plan: Arc<SessionPlan>,
    course: Course,
    held: Vec<Store>,
}

/// Slices of one step's output.
#[derive(Debug, Default)]
struct Store {
    slots: Slots,
    values: Lines,
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
            let writer = writer(steps, value, before);
            let begin = writer.map_or(0, |step| steps[step].output.value.offset);
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
                input: source(step.input.value, number),
                residual: step.residual.map(|place| source(place.value, number)),
                window: step.window,
                inputs: step.input.value.shape.extent[0],
                outputs: step.output.value.shape.extent[0],
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
        let schedule = Schedule::new(&links, sliding, also)?;
        let works = schedule.windows.iter().map(|stages| {
            let stages = stages.iter().map(|stage| {
                let turns = stage.turns.iter().zip(&links);
                turns
                    .map(|(turn, link)| {
                        Work::some(link.window, link.inputs, turn.compute.iter().copied())
                    })
                    .collect()
            });
            stages.collect()
        });
        let [_, height, width] = program.input.shape.extent;
        Some(Self {
            works: works.collect(),
            schedule,
            slices: steps.iter().map(super::Operation::frame_bytes).collect(),
            names: steps.iter().map(|step| step.name.clone()).collect(),
            pixels: height * width,
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

    /// Bytes that a session holds at most.
    pub(in crate::engine) fn session_bytes(&self) -> usize {
        let held = self.schedule.held.iter().zip(&self.slices);
        let bytes: usize = held
            .map(|(count, len)| (count * len).next_multiple_of(size_of::<Line>()))
            .sum();
        bytes + self.schedule.frames * self.pixels
    }
}

impl Session {
    pub(in crate::engine) fn new(plan: Arc<SessionPlan>) -> Self {
        let held = plan.slices.iter().map(|_| Store::default()).collect();
        Self {
            course: Course::new(&plan.schedule, 0),
            plan,
            held,
        }
    }

    /// Forgets the stream; memory stays for the next one.
    pub(in crate::engine) fn reset(&mut self) {
        self.course.reset();
        self.held.iter_mut().for_each(|store| store.slots.clear());
    }

    /// Bytes that it holds now.
    pub(in crate::engine) fn bytes(&self) -> usize {
        let values: usize = self.held.iter().map(|store| store.values.len()).sum();
        values * size_of::<f32>() + self.course.pictures().len() * self.plan.pixels
    }

    /// Frames of the next window that were taken already.
    pub(in crate::engine) fn overlap(&self) -> u64 {
        self.course.overlap(&self.plan.schedule)
    }

    /// Takes a picture, `[H, W]`; says what can be computed now, which must be before
    /// the next picture.
    pub(in crate::engine) fn push(&mut self, picture: &Arc<[u8]>) -> Option<Due> {
        self.course.push(&self.plan.schedule, picture)
    }

    /// Sessions whose stages are better computed together than one after the other.
    pub(in crate::engine) fn company(&self, program: &Program, due: Due) -> usize {
        let frames = due.of(&self.plan.schedule).input.len().max(1);
        (FRAMES / frames).clamp(1, program.streams())
    }

    /// Whether two sessions' stages can be computed together.
    pub(in crate::engine) fn is_like(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.plan, &other.plan)
    }
}

impl Program {
    /// Computes the stage that all of some sessions of one plan are due for; true if it
    /// was a window's last, and [`Program::output`] then has each one's logits. `table`
    /// says what each grey level becomes, channel by channel.
    pub(in crate::engine) fn run_stage(
        &self,
        buffers: &mut Buffers,
        due: Due,
        sessions: &mut [&mut Session],
        table: &[[f32; 256]],
    ) -> bool {
        let Some(plan) = sessions.first().map(|session| Arc::clone(&session.plan)) else {
            return false;
        };
        let _at_work = buffers.team.begin();
        buffers.make_room(self, sessions.len());
        let stage = due.of(&plan.schedule);
        let len = plan.pixels * table.len();
        for (clip, session) in sessions.iter().enumerate() {
            let input = buffers.of_mut(clip, self.input);
            for &frame in &stage.input {
                let picture = session.course.picture(stage, frame);
                normalise(picture, table, &mut input[frame * len..][..len]);
            }
        }
        let works = &plan.works[due.window][due.stage];
        for (step, (turn, works)) in stage.turns.iter().zip(works).enumerate() {
            let (operation, len) = (&self.steps[step], plan.slices[step]);
            for (clip, session) in sessions.iter().enumerate() {
                let now = session.course.stages();
                let output = buffers.values_mut(clip, operation.output).bytes();
                for load in &turn.load {
                    let held = session.held[step].get(now - load.age as u64, load.was, len);
                    output[load.slice * len..][..len].copy_from_slice(held);
                }
            }
            for work in works {
                operation.run(self.arithmetic.isa, work, sessions.len(), buffers);
            }
            for (clip, session) in sessions.iter_mut().enumerate() {
                let now = session.course.stages();
                let output = buffers.values(clip, operation.output).bytes();
                for &(slice, ahead) in &turn.keep {
                    let kept = Slice {
                        born: now,
                        slice,
                        last: now + ahead as u64,
                    };
                    session.held[step].put(kept, now, &output[slice * len..][..len]);
                }
            }
        }
        let sessions = sessions.iter_mut();
        let last = sessions.map(|session| session.course.done(&plan.schedule, due));
        last.fold(false, |_, is_last| is_last)
    }
}

impl Store {
    fn get(&self, born: u64, slice: usize, len: usize) -> &[u8] {
        let bytes: &[u8] = bytemuck::cast_slice(&self.values);
        &bytes[self.slots.find(born, slice) * len..][..len]
    }

    fn put(&mut self, slice: Slice, now: u64, values: &[u8]) {
        let (place, len) = (self.slots.put(slice, now), values.len());
        let all = self.slots.len() * len;
        self.values.reserve(all.div_ceil(size_of::<f32>()));
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.values);
        bytes[place * len..][..len].copy_from_slice(values);
    }
}
