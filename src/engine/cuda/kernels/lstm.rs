//! The recurrence: `lstm.cu` and `lstm_cluster.cu`.

use super::super::launch::{Card, Launch, Limits, Parameters, Together};
use super::super::{CudaError, Precision};
use super::{int, suffix};

/// `struct Lstm` of `lstm.cuh`.
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
    /// `W_hh`, as `weights::recurrent` lays it out.
    pub(crate) recurrent: u64,
    /// Padded to a multiple of sixteen.
    pub(crate) hidden: usize,
    /// Hidden units of one block.
    pub(crate) units: usize,
    /// Whether its blocks are a cluster, if they can be.
    pub(crate) clusters: bool,
}

impl Recurrence {
    fn blocks(&self) -> usize {
        self.hidden.div_ceil(self.units)
    }
}

/// Blocks that can be a cluster on any card that has them.
const CLUSTERS: [usize; 3] = [2, 4, 8];

/// `kHeld` of `lstm.cuh`, in values of k: their weights stay in registers.
const HELD: usize = 128;

/// Units whose cells and weights a block of 512 threads holds.
const MOST_UNITS: usize = 128;

/// Values of k that the products of 16 bits take: h, padded.
pub(crate) fn lstm_depth(hidden: usize) -> usize {
    hidden.next_multiple_of(32).max(HELD)
}

/// Clips that a block of the recurrence takes.
fn clips_of_group(precision: Precision) -> usize {
    match precision {
        Precision::F32 => 16,
        Precision::F16 | Precision::Bf16 => 4,
    }
}

/// What blocks count in, for as many clips as this: zero before and after.
pub(crate) fn lstm_counter_bytes(precision: Precision, clips: usize) -> usize {
    clips.div_ceil(clips_of_group(precision)) * 8
}

/// Shared memory of a block of the recurrence.
fn shared_bytes(precision: Precision, hidden: usize, units: usize) -> usize {
    let clips = clips_of_group(precision);
    match precision {
        Precision::F32 => {
            let weights = 4 * units * (hidden + 1) * 4;
            weights.next_multiple_of(16) + clips * (hidden + 4 * units) * 4
        }
        Precision::F16 | Precision::Bf16 => {
            let depth = lstm_depth(hidden);
            // h of two frames, in two halves.
            2 * clips * 2 * (depth + 8) * 2 + 4 * units * (depth - HELD) * 2
        }
    }
}

/// Hidden units of a block, so that all blocks run at once: a multiprocessor is sure
/// of one. None where the card is too small.
pub(crate) fn lstm_units(precision: Precision, hidden: usize, limits: Limits) -> Option<usize> {
    let fits = |units: &usize| {
        shared_bytes(precision, hidden, *units) <= limits.shared_bytes
            && hidden.div_ceil(*units) <= limits.multiprocessors
    };
    match precision {
        Precision::F32 => [16, 8, 4].into_iter().find(fits),
        // As few blocks as there can be: one needs no other, and what blocks tell each
        // other costs more than what they compute, least in a cluster.
        Precision::F16 | Precision::Bf16 => {
            let clusters = CLUSTERS.into_iter().filter(|_| limits.clusters);
            std::iter::once(1)
                .chain(clusters)
                .chain(2..=hidden / 8)
                .map(|blocks| hidden.div_ceil(blocks).next_multiple_of(8))
                .find(|units| *units <= MOST_UNITS && fits(units))
        }
    }
}

/// What a recurrence reads and writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sequence {
    /// `[clips, frames, 4 hidden]`, f32.
    pub(crate) gates: u64,
    /// `[2][clips][hidden]`, 32 bits each.
    pub(crate) state: u64,
    /// `[clips, frames, hidden]`, or 0.
    pub(crate) sequence: u64,
    /// `[clips, hidden]`, f32, or 0.
    pub(crate) output: u64,
    /// As many bytes as [`lstm_counter_bytes`] says, zero.
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
    let blocks = layer.blocks();
    let groups = clips.div_ceil(clips_of_group(precision));
    let is_plain = precision == Precision::F32;
    let together = if !is_plain && blocks == 1 {
        Together::None
    } else if !is_plain && layer.clusters && CLUSTERS.contains(&blocks) {
        Together::Clusters(blocks)
    } else {
        Together::All
    };
    let (kind, at_once) = match together {
        Together::None => ("", groups.max(1)),
        Together::Clusters(_) => ("cluster_", groups.max(1)),
        // Blocks that wait for each other run at once: no more groups than there is
        // room for.
        Together::All => ("", (card.limits().multiprocessors / blocks).max(1)),
    };
    let kernel = format!("lstm_{kind}{}", suffix(precision));
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
            block: if is_plain { 256 } else { 4 * layer.units },
            shared_bytes: shared_bytes(precision, layer.hidden, layer.units),
            together,
            parameters: Parameters::of(&parameters),
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
