//! The recurrence.

use std::sync::Arc;

use super::super::reference::{self, Tensor};
use super::{Noise, bytes_each, difference, padded, read, wide};
use crate::engine::cuda::kernels;
use crate::engine::cuda::launch::{Card, Memory, bytes_of};
use crate::engine::cuda::weights;
use crate::engine::cuda::{CudaError, Precision};

/// Clips, frames, hidden units, units of a block.
type LstmShape = (usize, usize, usize, usize);

/// For the plain kernel, whose groups have 16 clips.
const PLAIN: [LstmShape; 4] = [
    (1, 4, 13, 16),
    (3, 5, 40, 16),
    (19, 3, 24, 8),
    (2, 1, 10, 4),
];

/// For tensor cores, whose groups have 4 clips.
const TENSOR: [LstmShape; 9] = [
    // One block, which waits for no other.
    (1, 4, 13, 16),
    (3, 5, 40, 48),
    (9, 3, 72, 80),
    (19, 3, 24, 32),
    (2, 1, 10, 16),
    // Several.
    (1, 6, 40, 16),
    (9, 3, 24, 8),
    // The second block is not full, and registers do not hold all weights.
    (5, 4, 150, 96),
    // No cluster has three.
    (5, 3, 72, 32),
];

pub(super) fn shapes(precision: Precision) -> &'static [LstmShape] {
    match precision {
        Precision::F32 => &PLAIN,
        Precision::F16 | Precision::Bf16 => &TENSOR,
    }
}

/// An LSTM of random weights over random gates.
struct Sample {
    precision: Precision,
    clips: usize,
    frames: usize,
    hidden: usize,
    units: usize,
    /// `[clips, frames, 4 hidden]`.
    gates: Vec<f32>,
    /// `[hidden, 4 hidden]`.
    recurrent: Vec<f32>,
}

/// What it comes to; hidden units are padded.
struct States {
    /// `[clips, frames, hidden]`.
    all: Vec<f64>,
    /// `[clips, hidden]`.
    last: Vec<f64>,
}

impl Sample {
    fn new(precision: Precision, (clips, frames, hidden, units): LstmShape) -> Self {
        let mut noise = Noise(12);
        Self {
            precision,
            clips,
            frames,
            hidden,
            units,
            gates: noise.values(clips * frames * 4 * hidden),
            recurrent: noise.exact(hidden * 4 * hidden, precision),
        }
    }

    fn padded_hidden(&self) -> usize {
        self.hidden.next_multiple_of(16)
    }

    fn expected(&self) -> States {
        let (frames, hidden) = (self.frames, self.hidden);
        let mut states = Tensor::zeros(self.clips, [frames, 1, 1], hidden);
        let of_clips = self.gates.chunks_exact(frames * 4 * hidden);
        states.values = of_clips
            .flat_map(|gates| reference::lstm(&wide(gates), &wide(&self.recurrent), hidden))
            .collect();
        let last = states.frames(frames - 1, frames);
        let padded = |states| wide(&padded(states, self.padded_hidden()));
        States {
            all: padded(&states),
            last: padded(&last),
        }
    }

    /// None where the counters are not left as they were.
    fn run(&self, card: &Arc<dyn Card>, clusters: bool) -> Result<Option<States>, CudaError> {
        let (hidden, units, precision) = (self.padded_hidden(), self.units, self.precision);
        let packed = weights::recurrent(&self.recurrent, self.hidden, hidden, units, precision);
        let packed = weights::rounded(&packed, weights::recurrent_type(precision));
        let packed = Memory::of(card, &packed)?;
        let rows = self.clips * self.frames;
        let gates = weights::padded_gates(&self.gates, rows, self.hidden, hidden);
        let gates = Memory::of(card, &bytes_of(&gates))?;
        let values = self.clips * hidden;
        let state = Memory::new(card, 2 * values * 4)?;
        let sequence = vec![0xff; values * self.frames * bytes_each(precision)];
        let sequence = Memory::of(card, &sequence)?;
        let output = Memory::of(card, &vec![0xff; values * 4])?;
        let counter_bytes = kernels::lstm_counter_bytes(precision, self.clips);
        let counters = Memory::of(card, &vec![0; counter_bytes])?;
        let layer = kernels::Recurrence {
            recurrent: packed.address(),
            hidden,
            units,
            clusters,
        };
        let io = kernels::Sequence {
            gates: gates.address(),
            state: state.address(),
            sequence: sequence.address(),
            output: output.address(),
            counters: counters.address(),
        };
        // Twice: the counters must be as they were.
        for _ in 0..2 {
            kernels::lstm(card.as_ref(), precision, self.clips, self.frames, layer, io)?;
        }
        let mut left = vec![1; counter_bytes];
        counters.download(&mut left)?;
        if left.iter().any(|byte| *byte != 0) {
            return Ok(None);
        }
        Ok(Some(States {
            all: read(&sequence, values * self.frames, precision)?,
            last: read(&output, values, Precision::F32)?,
        }))
    }
}

/// In every way that its blocks can exchange h.
pub(super) fn lstm(
    card: &Arc<dyn Card>,
    precision: Precision,
    shape: LstmShape,
) -> Result<f64, CudaError> {
    let sample = Sample::new(precision, shape);
    let expected = sample.expected();
    let mut worst = 0.0_f64;
    for clusters in [false, true] {
        if clusters && !card.limits().clusters {
            break;
        }
        let Some(found) = sample.run(card, clusters)? else {
            return Ok(f64::INFINITY);
        };
        let end = difference(&found.last, &expected.last);
        let end = if end < 1e-5 { end } else { f64::INFINITY };
        worst = worst.max(difference(&found.all, &expected.all)).max(end);
    }
    Ok(worst)
}

/// Whether the blocks of a cluster exchange what they do through global memory: the
/// largest cluster, with as much shared memory as any.
pub(crate) fn clusters_conform(card: &Arc<dyn Card>) -> Result<bool, CudaError> {
    let sample = Sample::new(Precision::F16, (5, 4, 512, 64));
    let bits = |found: Option<States>| -> Option<Vec<u64>> {
        let States { all, last } = found?;
        let values = all.iter().chain(&last);
        Some(values.map(|value| value.to_bits()).collect())
    };
    let [apart, clustered] = [false, true].map(|clusters| sample.run(card, clusters));
    let apart = bits(apart?);
    Ok(apart.is_some() && apart == bits(clustered?))
}

/// A gate that half precision could not hold must not give an ordinary number.
/// The difference is how many answers of its unit are numbers.
pub(super) fn lstm_of_infinity(
    card: &Arc<dyn Card>,
    precision: Precision,
) -> Result<f64, CudaError> {
    let mut numbers = 0.0;
    let weights = weights::recurrent(&[0.0; 4 * 16 * 16], 16, 16, 16, precision).len();
    for gate in 0..4 {
        for value in [f32::INFINITY, f32::NEG_INFINITY] {
            let mut gates = [0.5; 4 * 16];
            gates[gate * 16] = value;
            let gates = Memory::of(card, &bytes_of(&gates))?;
            let recurrent = Memory::of(card, &vec![0; weights * 4])?;
            let state = Memory::new(card, 2 * 16 * 4)?;
            let output = Memory::new(card, 16 * 4)?;
            let counters = Memory::of(card, &[0; 8])?;
            let layer = kernels::Recurrence {
                recurrent: recurrent.address(),
                hidden: 16,
                units: 16,
                clusters: false,
            };
            let io = kernels::Sequence {
                gates: gates.address(),
                state: state.address(),
                sequence: 0,
                output: output.address(),
                counters: counters.address(),
            };
            kernels::lstm(card.as_ref(), precision, 1, 1, layer, io)?;
            let found = read(&output, 16, Precision::F32)?;
            let others = found[1..].iter().all(|value| value.is_finite());
            numbers += f64::from(u8::from(found[0].is_finite() || !others));
        }
    }
    Ok(numbers)
}
