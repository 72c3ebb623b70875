//! A plan on a card: its layers turned into launches.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::kernels::{self, Activations, Conv, ConvIo, Incoming, Recurrence, Sequence, Window};
use super::launch::{Card, Memory, Recording, bytes_of, floats_of};
use super::layers::{self, Builder, Layer, Place, value_bytes};
use super::weights::CHANNELS;
use super::{CudaError, Precision};
use crate::engine::course::Due;
use crate::engine::plan::{Plan, Value};
use crate::model::{InputSpec, Shape};

/// A network whose weights are on a card.
#[derive(Debug)]
pub(in crate::engine) struct Network {
    card: Arc<dyn Card>,
    precision: Precision,
    pub(super) layers: Vec<Layer>,
    /// Of each layer: its step's name, and multiplications and additions of one
    /// tap in time of one output frame.
    pub(super) facts: Vec<(String, usize)>,
    /// Bytes of each buffer, for one clip.
    buffers: Vec<usize>,
    /// Clips as they come in, padded.
    pub(super) input: Place,
    input_shape: Shape,
    /// `[C, 256]`: what each grey level becomes.
    table: u64,
    /// The last step's rows of f32.
    output: Place,
    classes: usize,
    /// Kept for the addresses in `layers`.
    weights: Vec<Memory>,
}

/// What comes in.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) enum Clips<'a> {
    /// Grey pictures, `[N, T, H, W]`.
    Grey(&'a [u8]),
    /// Normalised values, `[N, C, T, H, W]`.
    Values(&'a [f32]),
}

impl Clips<'_> {
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Grey(_) => Kind::Grey,
            Self::Values(_) => Kind::Values,
        }
    }

    /// Clips `from..to`.
    pub(super) fn part(&self, from: usize, to: usize, shape: Shape) -> Self {
        match self {
            Self::Grey(bytes) => {
                Self::Grey(&bytes[from * shape.positions()..to * shape.positions()])
            }
            Self::Values(values) => Self::Values(&values[from * shape.len()..to * shape.len()]),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Grey,
    Values,
}

/// Memory for the intermediate values of so many clips.
#[derive(Debug)]
pub(in crate::engine) struct Batch {
    card: Arc<dyn Card>,
    pub(super) clips: usize,
    pub(super) buffers: Vec<Memory>,
    pub(super) incoming: Memory,
    partial: Memory,
    /// Slices to be copied, for sessions.
    pub(super) slices: Memory,
    lstm: Option<LstmMemory>,
    /// The first time they are launched one by one, so that the card has loaded
    /// what it needs.
    recordings: HashMap<Launches, Recorded>,
}

/// Launches that are always the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Launches {
    /// For so many clips of a kind.
    Clips(usize, Kind),
    /// For so many streams' stage of a plan, by the plan's number.
    Stage(usize, u64, Due),
}

#[derive(Clone, Copy, Debug)]
enum Recorded {
    /// Launched one by one, once.
    Warm,
    As(Recording),
    /// The card does not record.
    Never,
}

#[derive(Debug)]
struct LstmMemory {
    gates: Memory,
    state: Memory,
    sequences: [Memory; 2],
    counters: Memory,
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.forget();
    }
}

impl Batch {
    /// Forgets recordings: they hold addresses.
    fn forget(&mut self) {
        for (_, recorded) in self.recordings.drain() {
            if let Recorded::As(recording) = recorded {
                self.card.forget(recording);
            }
        }
    }

    /// Whether [`Network::compute`] replays a recording from now on.
    pub(super) fn is_recorded(&self, clips: usize, kind: Kind) -> bool {
        let recorded = self.recordings.get(&Launches::Clips(clips, kind));
        matches!(recorded, Some(Recorded::As(_)))
    }

    /// Makes room for so many bytes of slices' addresses and of partial sums.
    pub(super) fn make_room(&mut self, slices: usize, partial: usize) -> Result<(), CudaError> {
        if self.slices.len() < slices {
            self.forget();
            self.slices = Memory::new(&self.card, slices.next_power_of_two())?;
        }
        if self.partial.len() < partial {
            self.forget();
            self.partial = Memory::new(&self.card, partial)?;
        }
        Ok(())
    }
}

impl Network {
    /// Uploads a plan's weights.
    pub(in crate::engine) fn new(
        card: &Arc<dyn Card>,
        precision: Precision,
        plan: &Plan,
        spec: &InputSpec,
    ) -> Result<Self, CudaError> {
        let input_shape = Shape {
            channels: spec.channels,
            extent: [spec.frames, spec.height, spec.width],
        };
        let mut builder = Builder {
            card,
            precision,
            spec,
            weights: Vec::new(),
            buffers: vec![0; plan.buffers.len()],
            held: vec![None; plan.buffers.len()],
        };
        let value = Value {
            buffer: 0,
            offset: 0,
            shape: input_shape,
        };
        let input = builder.put(value, spec.channels.next_multiple_of(CHANNELS), false);
        builder.held[0] = Some((input, true));
        let (mut of_plan, mut facts) = (Vec::new(), Vec::new());
        for (number, step) in plan.steps.iter().enumerate() {
            builder.add(step, &plan.steps[number + 1..], &mut of_plan)?;
            let costs = layers::costs(step).into_iter();
            facts.extend(costs.map(|cost| (step.name.clone(), cost)));
        }
        let table: Vec<f32> = crate::engine::grey_table(spec).concat();
        let table = builder.upload(&table, Precision::F32)?;
        let last = plan.steps.last().map(|step| step.output);
        let output = last.and_then(|value| builder.place(value));
        let (Some(last), Some(output)) = (last, output) else {
            return Err(CudaError::Plan {
                problem: "the network computes nothing",
            });
        };
        if !output.is_f32 || last.shape.positions() != 1 {
            return Err(CudaError::Plan {
                problem: "the network does not end in one row of logits",
            });
        }
        // Other threads compute with the weights, and know nothing of this one.
        card.wait_for(std::thread::current().id())?;
        Ok(Self {
            card: Arc::clone(card),
            precision,
            layers: of_plan,
            facts,
            buffers: builder.buffers,
            input,
            input_shape,
            table,
            output,
            classes: last.shape.channels,
            weights: builder.weights,
        })
    }

    pub(super) fn input_shape(&self) -> Shape {
        self.input_shape
    }

    pub(super) fn card(&self) -> &Arc<dyn Card> {
        &self.card
    }

    pub(super) fn card_name(&self) -> String {
        self.card.name()
    }

    /// Bytes of intermediate values of one clip.
    pub(super) fn clip_bytes(&self) -> usize {
        self.buffers.iter().sum::<usize>() + self.input_shape.len() * 4
    }

    /// Bytes of weights on the card.
    pub(super) fn weight_bytes(&self) -> usize {
        self.weights.iter().map(Memory::len).sum()
    }

    /// Whether the first layer reads grey pictures itself.
    pub(super) fn reads_grey(&self) -> bool {
        let mut layers = self.layers.iter();
        let first = layers.next();
        let buffer = self.input.buffer;
        // Until something else lies there.
        let mut others = layers
            .take_while(|layer| layer.output().buffer != buffer)
            .filter(|layer| layer.reads(buffer));
        matches!(
            first,
            Some(Layer::Conv {
                stem: Some(_),
                residual: None,
                ..
            })
        ) && others.next().is_none()
    }

    /// Memory for so many clips at once.
    pub(super) fn batch(&self, clips: usize) -> Result<Batch, CudaError> {
        let card = &self.card;
        let buffers = self
            .buffers
            .iter()
            .map(|bytes| Memory::new(card, clips * bytes));
        let limits = card.limits();
        // Fewer clips may be split further than all of them.
        let partial = (1..=clips).flat_map(|clips| {
            self.layers.iter().map(move |layer| match layer {
                Layer::Conv { conv, output, .. } => {
                    conv.partial_bytes(clips, output.at(0), limits.multiprocessors)
                }
                _ => 0,
            })
        });
        let lstm = self.layers.iter().find_map(|layer| match layer {
            Layer::Lstm {
                first,
                above,
                frames,
                ..
            } => {
                let above = above.iter().map(|(_, layer)| layer.hidden);
                let hidden = above.fold(first.hidden, usize::max);
                Some(LstmMemory::new(
                    card,
                    self.precision,
                    clips,
                    *frames,
                    hidden,
                ))
            }
            _ => None,
        });
        Ok(Batch {
            card: Arc::clone(card),
            clips,
            buffers: buffers.collect::<Result<_, _>>()?,
            incoming: Memory::new(card, clips * self.input_shape.len() * 4)?,
            partial: Memory::new(card, partial.max().unwrap_or(0))?,
            slices: Memory::new(card, 0)?,
            lstm: lstm.transpose()?,
            recordings: HashMap::new(),
        })
    }

    /// Logits, `[N][classes]`, of at most as many clips as the batch has room for.
    pub(super) fn run(
        &self,
        batch: &mut Batch,
        clips: usize,
        incoming: Clips<'_>,
    ) -> Result<Vec<f32>, CudaError> {
        assert!(
            clips <= batch.clips,
            "more clips than the batch has room for"
        );
        match incoming {
            Clips::Grey(bytes) => batch.incoming.upload(bytes)?,
            Clips::Values(values) => batch.incoming.upload(&bytes_of(values))?,
        }
        self.compute(batch, clips, incoming.kind())?;
        self.logits(batch, clips)
    }

    /// What lies in the last layer's place, `[N][classes]`.
    pub(super) fn logits(&self, batch: &Batch, clips: usize) -> Result<Vec<f32>, CudaError> {
        let stride = self.output.clip;
        let mut bytes = vec![0; clips * stride * 4];
        batch.buffers[self.output.buffer].download(&mut bytes)?;
        let rows = floats_of(&bytes);
        let rows = rows.chunks_exact(stride);
        Ok(rows.flat_map(|row| &row[..self.classes]).copied().collect())
    }

    /// Launches everything, or replays its recording.
    pub(super) fn compute(
        &self,
        batch: &mut Batch,
        clips: usize,
        kind: Kind,
    ) -> Result<(), CudaError> {
        self.play(batch, Launches::Clips(clips, kind), &|batch| {
            self.launch(batch, clips, kind)
        })
    }

    /// Launches something, or replays its recording.
    pub(super) fn play(
        &self,
        batch: &mut Batch,
        launches: Launches,
        launch: &dyn Fn(&Batch) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        match batch.recordings.get(&launches).copied() {
            Some(Recorded::As(recording)) => return self.card.replay(recording),
            Some(Recorded::Warm) => {
                let recording = self.card.record(&mut || launch(batch))?;
                let recorded = recording.map_or(Recorded::Never, Recorded::As);
                batch.recordings.insert(launches, recorded);
                if let Some(recording) = recording {
                    return self.card.replay(recording);
                }
            }
            Some(Recorded::Never) => {}
            None => {
                batch.recordings.insert(launches, Recorded::Warm);
            }
        }
        launch(batch)
    }

    /// Waits until everything launched has ended.
    pub(super) fn finish(&self, batch: &Batch) -> Result<(), CudaError> {
        batch.buffers[self.output.buffer].download(&mut [0; 4])
    }

    fn launch(&self, batch: &Batch, clips: usize, kind: Kind) -> Result<(), CudaError> {
        let frames = 0..self.input_shape.extent[0];
        self.launch_input(batch, clips, kind, frames.clone())?;
        let grey = (kind == Kind::Grey).then_some(frames);
        for (number, layer) in self.layers.iter().enumerate() {
            let frames = 0..layer.output().extent[0];
            self.launch_layer(batch, clips, number, frames, grey.clone())?;
        }
        Ok(())
    }

    /// What each layer is called, in their order.
    pub(super) fn layer_names(&self) -> impl Iterator<Item = &str> {
        self.facts.iter().map(|(name, _)| name.as_str())
    }

    /// Records a layer's launches for grey pictures, so many times in a row; none where
    /// the card does not record.
    pub(super) fn record_layer(
        &self,
        batch: &Batch,
        clips: usize,
        number: usize,
        times: usize,
    ) -> Result<Option<Recording>, CudaError> {
        let frames = 0..self.layers[number].output().extent[0];
        let grey = 0..self.input_shape.extent[0];
        self.card.record(&mut || {
            (0..times).try_for_each(|_| {
                self.launch_layer(batch, clips, number, frames.clone(), Some(grey.clone()))
            })
        })
    }

    /// Lays out what came in, which is these frames of every clip; nothing where
    /// the first layer reads it as it is.
    pub(super) fn launch_input(
        &self,
        batch: &Batch,
        clips: usize,
        kind: Kind,
        frames: Range<usize>,
    ) -> Result<(), CudaError> {
        if kind == Kind::Grey && self.reads_grey() {
            return Ok(());
        }
        let kind = match kind {
            Kind::Grey => Incoming::Grey { table: self.table },
            Kind::Values => Incoming::Values,
        };
        let channels = self.input_shape.channels;
        let to = batch.buffers[self.input.buffer].address();
        let to = self.input.frames(to, frames);
        let from = batch.incoming.address();
        kernels::lay_out(
            self.card.as_ref(),
            self.precision,
            kind,
            clips,
            channels,
            from,
            to,
        )
    }

    /// Bytes of partial sums that some frames of a layer need.
    pub(super) fn partial_bytes(&self, clips: usize, number: usize, frames: Range<usize>) -> usize {
        match &self.layers[number] {
            Layer::Conv { conv, output, .. } => {
                let multiprocessors = self.card.limits().multiprocessors;
                conv.partial_bytes(clips, output.frames(0, frames), multiprocessors)
            }
            _ => 0,
        }
    }

    /// Computes some frames of a layer's output. `grey` are the frames of every
    /// clip that came in as grey pictures.
    pub(super) fn launch_layer(
        &self,
        batch: &Batch,
        clips: usize,
        number: usize,
        frames: Range<usize>,
        grey: Option<Range<usize>>,
    ) -> Result<(), CudaError> {
        let card = self.card.as_ref();
        let layer = &self.layers[number];
        let address = |place: &Place| batch.buffers[place.buffer].address();
        let beside = |place: &Place| place.frames(address(place), frames.clone());
        let to = beside(layer.output());
        // The first frame that is read, and how many are missing before it.
        let time = layer.window();
        let skipped = frames.start * time.stride;
        let first = skipped.saturating_sub(time.padding);
        let padding = time.padding.saturating_sub(skipped);
        let within = |window: Window| Window {
            padding: [padding, window.padding[1], window.padding[2]],
            ..window
        };
        let read = |place: &Place| place.frames(address(place), first..place.extent[0]);
        match layer {
            Layer::Conv {
                conv,
                stem,
                input,
                residual,
                ..
            } => {
                let (mut conv, mut from) = (conv, read(input));
                if let (0, Some(stem), Some(grey)) = (number, stem, grey)
                    && self.reads_grey()
                {
                    conv = stem;
                    let [_, rows, columns] = input.extent;
                    let area = rows * columns;
                    from = Activations {
                        address: batch.incoming.address() + ((first - grey.start) * area) as u64,
                        clip: grey.len() * area,
                        channels: 1,
                        // What did not come in is not read either.
                        extent: [grey.end - first, rows, columns],
                    };
                }
                let conv = Conv {
                    window: within(conv.window),
                    ..*conv
                };
                let io = ConvIo {
                    input: from,
                    residual: residual.as_ref().map(beside),
                    output: to,
                    partial: batch.partial.address(),
                };
                kernels::conv(card, self.precision, clips, &conv, io)
            }
            Layer::WindowPool {
                of, window, input, ..
            } => {
                let window = within(*window);
                kernels::window_pool(card, self.precision, clips, *of, window, read(input), to)
            }
            Layer::Pointwise {
                layer,
                input,
                other,
                ..
            } => {
                let precision = if input.is_f32 {
                    Precision::F32
                } else {
                    self.precision
                };
                let other = other.as_ref().map(beside);
                kernels::pointwise(card, precision, clips, *layer, beside(input), other, to)
            }
            Layer::MeanPool {
                by_frame: true,
                input,
                output,
            } => {
                let (from, is_f32) = (beside(input), output.is_f32);
                kernels::mean_pool(card, self.precision, clips, true, from, to, is_f32)
            }
            Layer::MeanPool { input, output, .. } => {
                let (from, is_f32) = (read(input), output.is_f32);
                kernels::mean_pool(card, self.precision, clips, false, from, to, is_f32)
            }
            Layer::Linear { layer, input, .. } => {
                kernels::linear(card, *layer, clips, beside(input), to)
            }
            Layer::Lstm {
                first,
                above,
                frames,
                input,
                ..
            } => match &batch.lstm {
                Some(memory) => {
                    let gates = address(input);
                    self.launch_lstm(memory, *first, above, clips, *frames, gates, to.address)
                }
                None => Ok(()),
            },
            Layer::LogMeanSoftmax {
                frames,
                classes,
                input,
                ..
            } => {
                let from = read(input);
                let (stride, from) = (from.channels, from.address);
                kernels::log_mean_softmax(card, clips, *frames, *classes, stride, from, to.address)
            }
        }
    }

    /// The first layer's recurrence from its gates; for each layer above, one
    /// product for all frames before that.
    #[allow(
        clippy::too_many_arguments,
        reason = "memory, layers, extents, and where"
    )]
    fn launch_lstm(
        &self,
        memory: &LstmMemory,
        first: Recurrence,
        above: &[(Conv, Recurrence)],
        clips: usize,
        frames: usize,
        gates: u64,
        output: u64,
    ) -> Result<(), CudaError> {
        let card = self.card.as_ref();
        let run = |number: usize, layer: Recurrence, gates: u64| {
            let is_last = number == above.len();
            let sequence = memory.sequences[number % 2].address();
            let io = Sequence {
                gates,
                state: memory.state.address(),
                sequence: if is_last { 0 } else { sequence },
                output: if is_last { output } else { 0 },
                counters: memory.counters.address(),
            };
            kernels::lstm(card, self.precision, clips, frames, layer, io)
        };
        let rows = |address, channels| Activations {
            address,
            clip: frames * channels,
            channels,
            extent: [frames, 1, 1],
        };
        run(0, first, gates)?;
        let mut below = first.hidden;
        for (number, (projection, layer)) in above.iter().enumerate() {
            let gates = rows(memory.gates.address(), 4 * layer.hidden);
            let io = ConvIo {
                input: rows(memory.sequences[number % 2].address(), below),
                residual: None,
                output: gates,
                partial: 0,
            };
            kernels::conv(card, self.precision, clips, projection, io)?;
            run(number + 1, *layer, gates.address)?;
            below = layer.hidden;
        }
        Ok(())
    }
}

impl LstmMemory {
    fn new(
        card: &Arc<dyn Card>,
        precision: Precision,
        clips: usize,
        frames: usize,
        hidden: usize,
    ) -> Result<Self, CudaError> {
        let sequence = || Memory::new(card, clips * frames * hidden * value_bytes(precision));
        let counters = kernels::lstm_counter_bytes(precision, clips);
        Ok(Self {
            gates: Memory::new(card, clips * frames * 4 * hidden * 4)?,
            state: Memory::new(card, 2 * clips * hidden * 4)?,
            sequences: [sequence()?, sequence()?],
            counters: Memory::of(card, &vec![0; counters])?,
        })
    }
}
