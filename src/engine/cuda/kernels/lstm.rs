//! The recurrence: `lstm.cu`.

use super::super::launch::{Card, Launch, Parameters};
use super::super::{CudaError, Precision};
use super::{int, suffix};

/// `struct Lstm` of `lstm.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LstmParameters {
    gates: u64,
    recurrent: u64,
    state: u64,
    sequence: u64,
    output: u64,
    counters: u64,
    clips: i32,
    frames: i32,
    hidden: i32,
    units: i32,
    first_group: i32,
    _end: i32,
}

/// The recurrence of one LSTM layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recurrence {
    /// `[hidden / units][4 units][hidden]`.
    pub(crate) recurrent: u64,
    /// Padded to a multiple of sixteen.
    pub(crate) hidden: usize,
    /// Hidden units of one block: 4, 8 or 16.
    pub(crate) units: usize,
}

/// Clips that a block of the recurrence takes.
pub(crate) const LSTM_CLIPS: usize = 16;

/// Shared memory of a block of the recurrence.
pub(crate) fn lstm_shared_bytes(precision: Precision, hidden: usize, units: usize) -> usize {
    let weights = match precision {
        Precision::F32 => 4 * units * (hidden + 1) * 4,
        Precision::F16 | Precision::Bf16 => 4 * units * (hidden + 2) * 2,
    };
    weights.next_multiple_of(16) + LSTM_CLIPS * (hidden + 4 * units) * 4
}

/// What a recurrence reads and writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sequence {
    /// `[clips, frames, 4 hidden]`, f32.
    pub(crate) gates: u64,
    /// `[2][clips][hidden]`, f32.
    pub(crate) state: u64,
    /// `[clips, frames, hidden]`, or 0.
    pub(crate) sequence: u64,
    /// `[clips, hidden]`, f32, or 0.
    pub(crate) output: u64,
    /// Two for every sixteen clips, zero.
    pub(crate) counters: u64,
}

/// Runs the recurrence over all frames.
pub(crate) fn lstm(
    card: &dyn Card,
    precision: Precision,
    clips: usize,
    frames: usize,
    layer: Recurrence,
    sequence: Sequence,
) -> Result<(), CudaError> {
    let blocks = layer.hidden / layer.units;
    let groups = clips.div_ceil(LSTM_CLIPS);
    // All blocks of a launch run at once: no more groups than there is room for.
    let at_once = (card.limits().multiprocessors / blocks).max(1);
    let kernel = format!("lstm_{}", suffix(precision));
    for first_group in (0..groups).step_by(at_once) {
        let parameters = LstmParameters {
            gates: sequence.gates,
            recurrent: layer.recurrent,
            state: sequence.state,
            sequence: sequence.sequence,
            output: sequence.output,
            counters: sequence.counters,
            clips: int(clips)?,
            frames: int(frames)?,
            hidden: int(layer.hidden)?,
            units: int(layer.units)?,
            first_group: int(first_group)?,
            _end: 0,
        };
        card.launch(&Launch {
            kernel: &kernel,
            grid: [blocks, at_once.min(groups - first_group), 1],
            block: 256,
            shared_bytes: lstm_shared_bytes(precision, layer.hidden, layer.units),
            together: true,
            parameters: Parameters::of(&parameters),
        })?;
    }
    Ok(())
}
