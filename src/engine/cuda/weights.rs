//! Weights as the kernels want them: padded, reordered, rounded.

use half::{bf16, f16};

use super::{Precision, kernels};

/// Channels are padded to this many, so that every load is 16 bytes.
pub(super) const CHANNELS: usize = 8;

/// Values in a precision, as bytes.
pub(super) fn rounded(values: &[f32], precision: Precision) -> Vec<u8> {
    match precision {
        Precision::F32 => super::launch::bytes_of(values),
        Precision::F16 => values
            .iter()
            .flat_map(|&value| f16::from_f32(value).to_ne_bytes())
            .collect(),
        Precision::Bf16 => values
            .iter()
            .flat_map(|&value| bf16::from_f32(value).to_ne_bytes())
            .collect(),
    }
}

/// A matrix `[taps, channels, outputs]`, to be padded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix<'a> {
    pub(super) values: &'a [f32],
    pub(super) taps: usize,
    pub(super) channels: usize,
    pub(super) outputs: usize,
}

/// A padded matrix, and its extent in k.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) values: Vec<f32>,
    pub(super) k: usize,
}

impl Matrix<'_> {
    /// With channels in and out padded to these: `[k, outputs]` for f32, `[outputs,
    /// k]` for the others.
    pub(super) fn packed(&self, precision: Precision, channels: usize, outputs: usize) -> Packed {
        let depth = if precision == Precision::F32 { 16 } else { 64 };
        let k = (self.taps * channels).next_multiple_of(depth);
        let mut values = vec![0.0; k * outputs];
        for tap in 0..self.taps {
            for channel in 0..self.channels {
                let row = (tap * self.channels + channel) * self.outputs;
                for output in 0..self.outputs {
                    let to = tap * channels + channel;
                    let place = if precision == Precision::F32 {
                        to * outputs + output
                    } else {
                        output * k + to
                    };
                    values[place] = self.values[row + output];
                }
            }
        }
        Packed { values, k }
    }

    /// For a stem that reads grey pictures (see `stem.cu`): two channels, the grey
    /// level less `centre` over 64, and a one. All channels in are the same picture,
    /// normalised as `(grey / 255 - mean) / std`.
    pub(super) fn packed_for_grey(
        &self,
        mean: &[f32],
        std: &[f32],
        centre: u8,
        outputs: usize,
    ) -> Packed {
        let k = (self.taps * 2).next_multiple_of(16);
        let mut values = vec![0.0; k * outputs];
        for tap in 0..self.taps {
            for output in 0..self.outputs {
                let (mut slope, mut offset) = (0.0, 0.0);
                for (channel, (mean, std)) in mean.iter().zip(std).enumerate() {
                    let row = (tap * self.channels + channel) * self.outputs;
                    let weight = f64::from(self.values[row + output]) / f64::from(*std);
                    slope += weight * 64.0 / 255.0;
                    offset += weight * (f64::from(centre) / 255.0 - f64::from(*mean));
                }
                values[output * k + 2 * tap] = slope as f32;
                values[output * k + 2 * tap + 1] = offset as f32;
            }
        }
        Packed { values, k }
    }
}

/// The grey level that the stem counts from: the closest to the mean.
pub(super) fn centre_of(mean: &[f32]) -> u8 {
    let sum: f32 = mean.iter().sum();
    (sum / mean.len() as f32 * 255.0).round().clamp(0.0, 255.0) as u8
}

/// An LSTM's weights, `[features, 4 * hidden]`, with hidden units padded in each
/// gate.
pub(super) fn padded_gates(values: &[f32], rows: usize, hidden: usize, padded: usize) -> Vec<f32> {
    let mut wide = vec![0.0; rows * 4 * padded];
    for row in 0..rows {
        for gate in 0..4 {
            let from = &values[(row * 4 + gate) * hidden..][..hidden];
            wide[(row * 4 + gate) * padded..][..hidden].copy_from_slice(from);
        }
    }
    wide
}

/// What the recurrent weights of an LSTM are rounded to. Its products are in f16 for
/// both types of 16 bits: f16 rounds weights of ordinary size more finely, and those
/// that it cannot hold, beyond 65,504, no trained network has.
pub(super) fn recurrent_type(precision: Precision) -> Precision {
    match precision {
        Precision::F32 => Precision::F32,
        Precision::F16 | Precision::Bf16 => Precision::F16,
    }
}

/// The recurrent weights of an LSTM, `[hidden, 4 * hidden]`, as the kernel for a
/// precision wants them (`lstm.cu`), for `units` of the padded ones to a block.
pub(super) fn recurrent(
    values: &[f32],
    hidden: usize,
    padded: usize,
    units: usize,
    precision: Precision,
) -> Vec<f32> {
    let depth = kernels::lstm_depth(padded);
    // `[padded / units][4 units][padded]`.
    let in_rows = |from: usize, gate: usize, unit: usize| {
        let row = (unit / units * 4 + gate) * units + unit % units;
        row * padded + from
    };
    // `[padded / 8][depth / 16][2 tiles][32 lanes][8]`: a lane's four words of two
    // values are gates 2 tile and 2 tile + 1, then both again eight of k on.
    let by_lane = |from: usize, gate: usize, unit: usize| {
        let tile = (unit / 8 * (depth / 16) + from / 16) * 2 + gate / 2;
        let lane = unit % 8 * 4 + from % 8 / 2;
        let word = from % 16 / 8 * 2 + gate % 2;
        (tile * 32 + lane) * 8 + word * 2 + from % 2
    };
    let is_plain = precision == Precision::F32;
    let mut packed = vec![0.0; 4 * padded * if is_plain { padded } else { depth }];
    for from in 0..hidden {
        for gate in 0..4 {
            for unit in 0..hidden {
                let place = if is_plain {
                    in_rows(from, gate, unit)
                } else {
                    by_lane(from, gate, unit)
                };
                packed[place] = values[(from * 4 + gate) * hidden + unit];
            }
        }
    }
    packed
}
