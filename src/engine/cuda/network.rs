//! A plan on a card: its layers turned into launches.

use std::collections::HashMap;
use std::sync::Arc;

use super::kernels::{self, Activations, Conv, ConvIo, Incoming, Recurrence, Sequence};
use super::launch::{Card, Memory, Recording, bytes_of, floats_of};
use super::layers::{Builder, Layer, Place, value_bytes};
use super::weights::CHANNELS;
use super::{CudaError, Precision};
use crate::engine::plan::{Plan, Value};
use crate::model::{InputSpec, Shape};

/// A network whose weights are on a card.
#[derive(Debug)]
pub(in crate::engine) struct Network {
    card: Arc<dyn Card>,
    precision: Precision,
    layers: Vec<Layer>,
    /// Bytes of each buffer, for one clip.
    buffers: Vec<usize>,
    /// Clips as they come in, padded.
    input: Place,
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
    clips: usize,
    buffers: Vec<Memory>,
    incoming: Memory,
    partial: Memory,
    lstm: Option<LstmMemory>,
    /// Of launches for so many clips of a kind; the first time they are launched
    /// one by one, so that the card has loaded what it needs.
    recordings: HashMap<(usize, Kind), Recorded>,
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
        for recorded in self.recordings.values() {
            if let Recorded::As(recording) = recorded {
                self.card.forget(*recording);
            }
        }
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
        let layers = plan
            .steps
            .iter()
            .enumerate()
            .map(|(number, step)| builder.layer(step, &plan.steps[number + 1..]))
            .collect::<Result<Vec<_>, _>>()?;
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
        Ok(Self {
            card: Arc::clone(card),
            precision,
            layers,
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
    fn reads_grey(&self) -> bool {
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
            Layer::Lstm { layers, frames, .. } => {
                let hidden = layers.iter().map(|(_, layer)| layer.hidden).max()?;
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
        match batch.recordings.get(&(clips, kind)).copied() {
            Some(Recorded::As(recording)) => return self.card.replay(recording),
            Some(Recorded::Warm) => {
                let recording = self.card.record(&mut || self.launch(batch, clips, kind))?;
                let recorded = recording.map_or(Recorded::Never, Recorded::As);
                batch.recordings.insert((clips, kind), recorded);
                if let Some(recording) = recording {
                    return self.card.replay(recording);
                }
            }
            Some(Recorded::Never) => {}
            None => {
                batch.recordings.insert((clips, kind), Recorded::Warm);
            }
        }
        self.launch(batch, clips, kind)
    }

    /// Waits until everything launched has ended.
    pub(super) fn finish(&self, batch: &Batch) -> Result<(), CudaError> {
        batch.buffers[self.output.buffer].download(&mut [0; 4])
    }

    fn launch(&self, batch: &Batch, clips: usize, kind: Kind) -> Result<(), CudaError> {
        let card = self.card.as_ref();
        let from_grey = kind == Kind::Grey && self.reads_grey();
        let at = |place: &Place| place.at(batch.buffers[place.buffer].address());
        let incoming = batch.incoming.address();
        if !from_grey {
            let kind = match kind {
                Kind::Grey => Incoming::Grey { table: self.table },
                Kind::Values => Incoming::Values,
            };
            let channels = self.input_shape.channels;
            let to = at(&self.input);
            kernels::lay_out(card, self.precision, kind, clips, channels, incoming, to)?;
        }
        for (number, layer) in self.layers.iter().enumerate() {
            match layer {
                Layer::Conv {
                    conv,
                    stem,
                    input,
                    residual,
                    output,
                } => {
                    let (mut conv, mut input) = (conv, at(input));
                    if let (true, 0, Some(stem)) = (from_grey, number, stem) {
                        conv = stem;
                        input = Activations {
                            address: incoming,
                            clip: self.input_shape.positions(),
                            channels: 1,
                            ..input
                        };
                    }
                    let io = ConvIo {
                        input,
                        residual: residual.as_ref().map(at),
                        output: at(output),
                        partial: batch.partial.address(),
                    };
                    kernels::conv(card, self.precision, clips, conv, io)?;
                }
                Layer::WindowPool {
                    of,
                    window,
                    input,
                    output,
                } => {
                    let (from, to) = (at(input), at(output));
                    kernels::window_pool(card, self.precision, clips, *of, *window, from, to)?;
                }
                Layer::Pointwise {
                    layer,
                    input,
                    other,
                    output,
                } => {
                    let precision = if input.is_f32 {
                        Precision::F32
                    } else {
                        self.precision
                    };
                    let (from, to) = (at(input), at(output));
                    let other = other.as_ref().map(at);
                    kernels::pointwise(card, precision, clips, *layer, from, other, to)?;
                }
                Layer::MeanPool {
                    by_frame,
                    input,
                    output,
                } => {
                    let (from, to) = (at(input), at(output).address);
                    let is_f32 = output.is_f32;
                    kernels::mean_pool(card, self.precision, clips, *by_frame, from, to, is_f32)?;
                }
                Layer::Linear {
                    layer,
                    rows,
                    input,
                    output,
                } => {
                    let (from, to) = (at(input), at(output));
                    let (stride, to_stride) = (from.channels, to.channels);
                    let rows = clips * rows;
                    kernels::linear(
                        card,
                        *layer,
                        rows,
                        from.address,
                        stride,
                        to.address,
                        to_stride,
                    )?;
                }
                Layer::Lstm {
                    layers,
                    frames,
                    input,
                    output,
                } => {
                    let Some(memory) = &batch.lstm else {
                        continue;
                    };
                    self.launch_lstm(
                        memory,
                        layers,
                        clips,
                        *frames,
                        at(input),
                        at(output).address,
                    )?;
                }
                Layer::LogMeanSoftmax {
                    frames,
                    classes,
                    input,
                    output,
                } => {
                    let (from, to) = (at(input), at(output).address);
                    let (stride, from) = (from.channels, from.address);
                    kernels::log_mean_softmax(card, clips, *frames, *classes, stride, from, to)?;
                }
            }
        }
        Ok(())
    }

    /// For each layer one product for all frames, then the recurrence.
    fn launch_lstm(
        &self,
        memory: &LstmMemory,
        layers: &[(Conv, Recurrence)],
        clips: usize,
        frames: usize,
        input: Activations,
        output: u64,
    ) -> Result<(), CudaError> {
        let card = self.card.as_ref();
        let mut input = input;
        for (number, (projection, recurrence)) in layers.iter().enumerate() {
            let hidden = recurrence.hidden;
            let gates = Activations {
                address: memory.gates.address(),
                clip: frames * 4 * hidden,
                channels: 4 * hidden,
                extent: [frames, 1, 1],
            };
            let io = ConvIo {
                input,
                residual: None,
                output: gates,
                partial: 0,
            };
            kernels::conv(card, self.precision, clips, projection, io)?;
            let is_last = number + 1 == layers.len();
            let sequence = memory.sequences[number % 2].address();
            let io = Sequence {
                gates: gates.address,
                state: memory.state.address(),
                sequence: if is_last { 0 } else { sequence },
                output: if is_last { output } else { 0 },
                counters: memory.counters.address(),
            };
            kernels::lstm(card, self.precision, clips, frames, *recurrence, io)?;
            input = Activations {
                address: sequence,
                clip: frames * hidden,
                channels: hidden,
                extent: [frames, 1, 1],
            };
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
        let counters = clips.div_ceil(kernels::LSTM_CLIPS) * 8;
        Ok(Self {
            gates: Memory::new(card, clips * frames * 4 * hidden * 4)?,
            state: Memory::new(card, 2 * clips * hidden * 4)?,
            sequences: [sequence()?, sequence()?],
            counters: Memory::of(card, &vec![0; counters])?,
        })
    }
}
