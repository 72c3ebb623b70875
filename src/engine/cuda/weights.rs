//! Weights as the kernels want them: padded, reordered, rounded.

use half::{bf16, f16};

use super::Precision;

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

/// The recurrent weights of an LSTM, `[hidden, 4 * hidden]`, as
/// `[padded / units][4 units][padded]`: block by block, gate by gate.
pub(super) fn recurrent(values: &[f32], hidden: usize, padded: usize, units: usize) -> Vec<f32> {
    let mut packed = vec![0.0; 4 * padded * padded];
    for from in 0..hidden {
        for gate in 0..4 {
            for unit in 0..hidden {
                let (block, inside) = (unit / units, unit % units);
                let row = (block * 4 + gate) * units + inside;
                packed[row * padded + from] = values[(from * 4 + gate) * hidden + unit];
            }
        }
    }
    packed
}
