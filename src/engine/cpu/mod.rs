//! The CPU backend: a plan with its weights packed for this machine's vectors,
//! executed one clip at a time.
//!
//! `product.rs` is the arithmetic, once for every instruction set; `direct.rs`
//! and `winograd` are two ways to make a convolution of it; `bf16` is a third,
//! with an arithmetic of its own; `team.rs` shares one clip among threads. Everything
//! sums in one order: the same clip gives the same bits on one machine, whatever the
//! number of threads.

#![allow(
    clippy::inline_always,
    reason = "what is not inlined is not compiled for the vectors that were found"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "the loops are those of the formulas, index by index"
)]

mod bf16;
mod conv;
mod dense;
mod direct;
mod lines;
mod pool;
mod product;
mod session;
mod step;
mod team;
mod values;
mod winograd;
mod work;

use std::time::Duration;

use cpu_time::ProcessTime;

use super::plan::{self, Kernel, Plan, Value};
use crate::model::Shape;
use bf16::Unit;
use conv::Arithmetic;
use dense::LstmState;
use lines::{LINE, Lines};
use product::Isa;
pub(super) use product::Storage;
pub(super) use session::{Session, SessionPlan};
use step::{Kind, Operation};
pub(super) use team::{Helpers, Team};
use values::{Kept, Place, Values, ValuesMut};
use work::{TimeWindow, Work};

/// Bytes of weights that stay in the caches between two frames, about; none in tests,
/// whose networks are small.
const CACHED_WEIGHTS: usize = if cfg!(test) { 0 } else { 16 << 20 };
/// Streams that share the way of the weights: with more of them, little is won.
const STREAMS: usize = 8;
/// New frames of theirs altogether: with as many, weights are the smaller part.
const FRAMES: usize = 16;

/// A network, ready for this machine.
#[derive(Debug)]
pub(super) struct Program {
    arithmetic: Arithmetic,
    steps: Vec<Operation>,
    /// Length of each buffer, in values of f32. Buffer 0 is the input.
    buffers: Vec<usize>,
    /// Values of the longest value, whatever it is kept in: clips of a batch lie further
    /// apart than that.
    longest: usize,
    /// The most scratch memory that a step asks for, in values of f32.
    scratch: usize,
    input: Value,
}

/// Every intermediate value of some clips, and scratch for the steps.
#[derive(Debug)]
pub(super) struct Buffers {
    /// Each clip's values, `pitch` from those of the next.
    values: Vec<Lines>,
    clips: usize,
    pitch: usize,
    scratch: Lines,
    lstm: LstmState,
    team: Team,
}

impl Program {
    /// Packs a plan's weights.
    pub(super) fn new(plan: Plan, storage: Storage) -> Self {
        let bf16 = match storage {
            Storage::F32 => None,
            Storage::Bf16 => Unit::detect(),
        };
        Self::with(plan, storage, bf16)
    }

    /// As on a processor that multiplies tiles, slowly.
    #[cfg(test)]
    pub(super) fn with_plain_tiles(plan: Plan) -> Self {
        Self::with(plan, Storage::Bf16, Some(Unit::PLAIN))
    }

    fn with(plan: Plan, storage: Storage, bf16: Option<Unit>) -> Self {
        let mut program = Self {
            arithmetic: Arithmetic {
                isa: Isa::detect(),
                storage,
                bf16,
            },
            steps: Vec::new(),
            buffers: plan.buffers,
            longest: 0,
            scratch: 0,
            input: Value {
                buffer: 0,
                offset: 0,
                shape: plan.input,
            },
        };
        for step in plan.steps {
            program.add(step);
        }
        program.longest = program.buffers.iter().copied().max().unwrap_or(0);
        values::choose(&mut program.steps);
        program.shorten();
        let scratch = program.steps.iter().map(Operation::scratch_len);
        program.scratch = scratch.max().unwrap_or(0);
        program
    }

    /// Packs a step; one that looks at all frames at once is taken apart, so that
    /// what can be done frame by frame is.
    fn add(&mut self, step: plan::Step) {
        let Arithmetic { isa, storage, .. } = self.arithmetic;
        let frames = step.input.shape.extent[0];
        let by_frame = |channels| Shape {
            channels,
            extent: [frames, 1, 1],
        };
        match step.kernel {
            Kernel::GlobalAveragePool => {
                let means = self.temporary(by_frame(step.input.shape.channels));
                let pool = Kind::FrameAveragePool(step.input.shape);
                self.push(&step.name, step.input, None, means, TimeWindow::FRAME, pool);
                let window = TimeWindow::over(frames);
                self.push(
                    &step.name,
                    means,
                    None,
                    step.output,
                    window,
                    Kind::MeanOverFrames,
                );
            }
            Kernel::Lstm(layers) => {
                let Some((projection, lstm)) = dense::split_lstm(isa, storage, layers) else {
                    return;
                };
                let gates = self.temporary(by_frame(projection.gates()));
                let projection = Kind::Projection(projection);
                self.push(
                    &step.name,
                    step.input,
                    None,
                    gates,
                    TimeWindow::FRAME,
                    projection,
                );
                let window = TimeWindow::over(frames);
                self.push(
                    &step.name,
                    gates,
                    None,
                    step.output,
                    window,
                    Kind::Lstm(lstm),
                );
            }
            kernel => {
                let residual = match &kernel {
                    Kernel::Conv(conv) => conv.residual,
                    Kernel::Pointwise { other, .. } => *other,
                    _ => None,
                };
                let (window, kind) =
                    Kind::new(self.arithmetic, step.input.shape, step.output.shape, kernel);
                self.push(&step.name, step.input, residual, step.output, window, kind);
            }
        }
    }

    /// What is kept in bfloat16 takes half the room.
    fn shorten(&mut self) {
        let mut bytes = vec![0; self.buffers.len()];
        bytes[self.input.buffer] = size_of::<f32>() * self.input.shape.len();
        for step in &self.steps {
            let Place { value, format } = step.output;
            let room = &mut bytes[value.buffer];
            *room = format.bytes(value.shape.len()).max(*room);
        }
        let values = bytes
            .into_iter()
            .map(|bytes| bytes.div_ceil(size_of::<f32>()));
        self.buffers = values.collect();
    }

    /// A value in a buffer of its own.
    fn temporary(&mut self, shape: Shape) -> Value {
        self.buffers.push(shape.len());
        Value {
            buffer: self.buffers.len() - 1,
            offset: 0,
            shape,
        }
    }

    fn push(
        &mut self,
        name: &str,
        input: Value,
        residual: Option<Value>,
        output: Value,
        window: TimeWindow,
        kind: Kind,
    ) {
        let place = |value| Place {
            value,
            format: Kept::F32(()),
        };
        self.steps.push(Operation {
            name: name.to_owned(),
            input: place(input),
            residual: residual.map(place),
            output: place(output),
            window,
            whole: Work::whole(window, input.shape.extent[0], output.shape.extent[0]),
            kind,
        });
    }

    /// The instruction sets, for people.
    pub(super) fn isa(&self) -> String {
        let Arithmetic { isa, bf16, .. } = self.arithmetic;
        let names = [Some(isa.name()), bf16.map(Unit::method)];
        names.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// Bytes of packed weights.
    pub(super) fn weight_bytes(&self) -> usize {
        self.steps.iter().map(|step| step.kind.weight_bytes()).sum()
    }

    /// Bytes of memory that each thread that scores clips takes for one at a time.
    pub(super) fn workspace_bytes(&self) -> usize {
        (self.buffers.iter().sum::<usize>() + self.scratch) * size_of::<f32>()
    }

    /// Streams that are better computed together than one after the other: where weights
    /// come from memory again and again, the streams share the way. Small networks stay
    /// in the caches, and more values at a time would only push them out.
    pub(super) fn streams(&self) -> usize {
        if self.weight_bytes() > CACHED_WEIGHTS {
            STREAMS
        } else {
            1
        }
    }

    /// How each convolution is computed, in order.
    pub(super) fn methods(&self) -> impl Iterator<Item = &'static str> {
        self.steps.iter().filter_map(|step| step.kind.method())
    }

    /// Executes the network on what lies in the input; gives the last step's
    /// output.
    pub(super) fn run<'a>(&self, buffers: &'a mut Buffers) -> &'a [f32] {
        let at_work = buffers.team.begin();
        for step in &self.steps {
            step.run(self.arithmetic.isa, &step.whole, 1, buffers);
        }
        drop(at_work);
        self.output(buffers, 0)
    }

    /// The same once more on what lies in the input, with the CPU time of each step:
    /// its name, how it is computed, and how long.
    pub(super) fn layer_times(
        &self,
        buffers: &mut Buffers,
    ) -> Vec<(String, &'static str, Duration)> {
        let steps = self.steps.iter().map(|step| {
            let clock = ProcessTime::now();
            step.run(self.arithmetic.isa, &step.whole, 1, buffers);
            (step.name.clone(), step.kind.name(), clock.elapsed())
        });
        steps.collect()
    }

    /// What a clip's value holds, `[T, H, W, C]`, when all steps are done.
    ///
    /// # Panics
    /// If it is not kept in f32, as is what means are taken of.
    pub(super) fn value<'a>(&self, buffers: &'a Buffers, clip: usize, value: Value) -> &'a [f32] {
        let format = values::format(&self.steps, value, self.steps.len());
        buffers.values(clip, Place { value, format }).f32()
    }

    /// What the last step gave for a clip.
    pub(super) fn output<'a>(&self, buffers: &'a Buffers, clip: usize) -> &'a [f32] {
        self.steps
            .last()
            .map_or(&[], |step| buffers.values(clip, step.output).f32())
    }
}

impl Buffers {
    /// Memory for one clip at a time to begin with, which the team works on.
    pub(super) fn new(program: &Program, team: Team) -> Self {
        let values = program.buffers.iter().map(|&len| Lines::zeroed(len));
        Self {
            values: values.collect(),
            clips: 1,
            // Whole pages and two cache lines, or half as much in bfloat16: the same
            // places of several clips do not push each other out of the first cache.
            pitch: program.longest.next_multiple_of(64 * LINE) + 2 * LINE,
            scratch: Lines::zeroed(program.scratch),
            lstm: LstmState::default(),
            team,
        }
    }

    /// Makes room for so many clips at a time; what is in the buffers is lost if there
    /// were fewer. What lies between the clips' values is never touched, and takes no
    /// memory.
    fn make_room(&mut self, program: &Program, clips: usize) {
        if clips <= self.clips {
            return;
        }
        let lens = program.buffers.iter();
        let values = lens.map(|len| Lines::zeroed((clips - 1) * self.pitch + len));
        self.values = values.collect();
        self.clips = clips;
    }

    /// Where one clip goes: `[T, H, W, C]`.
    pub(super) fn input_mut(&mut self, program: &Program) -> &mut [f32] {
        self.of_mut(0, program.input)
    }

    /// A clip's values.
    fn values(&self, clip: usize, place: Place) -> Values<'_> {
        let Place { value, format } = place;
        let all = format.of(&self.values[value.buffer]);
        all.part(clip * self.pitch + value.offset, value.shape.len())
    }

    fn values_mut(&mut self, clip: usize, place: Place) -> ValuesMut<'_> {
        let Place { value, format } = place;
        let all = format.of_mut(&mut self.values[value.buffer]);
        all.part(clip * self.pitch + value.offset, value.shape.len())
    }

    fn of_mut(&mut self, clip: usize, value: Value) -> &mut [f32] {
        let begin = clip * self.pitch + value.offset;
        &mut self.values[value.buffer][begin..][..value.shape.len()]
    }

    /// Those of the first so many clips, from the first one's beginning to the last
    /// one's end.
    fn of_all(&self, place: Place, clips: usize) -> Values<'_> {
        let Place { value, format } = place;
        let len = (clips - 1) * self.pitch + value.shape.len();
        format
            .of(&self.values[value.buffer])
            .part(value.offset, len)
    }
}

#[cfg(test)]
mod tests;

/// Whether this process may multiply tiles of bfloat16.
#[cfg(target_arch = "x86_64")]
pub(super) fn has_tiles() -> bool {
    Unit::detect().is_some_and(Unit::has_tiles)
}

/// Grey pixels, `[H, W]`, as the network's values, `[H, W, C]`; `table` says what
/// each grey level becomes, channel by channel.
pub(super) fn normalise(pixels: &[u8], table: &[[f32; 256]], values: &mut [f32]) {
    for (values, &grey) in values.chunks_exact_mut(table.len()).zip(pixels) {
        for (value, table) in values.iter_mut().zip(table) {
            *value = table[usize::from(grey)];
        }
    }
}
