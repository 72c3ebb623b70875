//! Linear layers, LSTM and softmax: small next to convolutions.

use pulp::Simd;

use super::product::{Isa, Panels, Rows, Storage, Sums, Task, multiply};
use crate::engine::plan;

/// `output[t] = weights * input[t] + bias` for every frame; sums in f64.
pub(super) fn linear(weights: &[f32], bias: &[f32], input: &[f32], output: &mut [f32]) {
    let features = weights.len() / bias.len();
    for (input, output) in input
        .chunks_exact(features)
        .zip(output.chunks_exact_mut(bias.len()))
    {
        for ((output, bias), weights) in output
            .iter_mut()
            .zip(bias)
            .zip(weights.chunks_exact(features))
        {
            let products = weights
                .iter()
                .zip(input)
                .map(|(w, x)| f64::from(*w) * f64::from(*x));
            *output = (products.sum::<f64>() + f64::from(*bias)) as f32;
        }
    }
}

/// One layer of an LSTM, its matrices packed.
#[derive(Debug)]
pub(super) struct LstmLayer {
    features: usize,
    hidden: usize,
    /// `[features, 4 * hidden]`.
    input: Panels,
    /// `[hidden, 4 * hidden]`.
    recurrent: Panels,
    bias: Vec<f32>,
}

impl LstmLayer {
    pub(super) fn new(isa: Isa, storage: Storage, layer: plan::LstmLayer) -> Self {
        let gates = 4 * layer.hidden;
        let pack = |rows, matrix: &[f32]| {
            Panels::pack(isa, storage, rows, gates, |k, n| matrix[k * gates + n])
        };
        Self {
            input: pack(layer.features, &layer.input),
            recurrent: pack(layer.hidden, &layer.recurrent),
            features: layer.features,
            hidden: layer.hidden,
            bias: layer.bias,
        }
    }

    pub(super) fn weight_bytes(&self) -> usize {
        self.input.bytes() + self.recurrent.bytes()
    }
}

/// What an LSTM keeps while it runs; grows once, then stays.
#[derive(Debug, Default)]
pub(super) struct LstmState {
    /// `[T, hidden]`: what the layer below gave, and this one gives.
    sequence: Vec<f32>,
    /// `[T, 4 * hidden]`.
    gates: Vec<f32>,
    cell: Vec<f32>,
    hidden: Vec<f32>,
    sums: Sums,
    bases: Vec<usize>,
}

/// The top layer's hidden state after the last frame, from zero states:
///
/// ```text
/// i, f, g, o = W_ih x[t] + W_hh h + b
/// c = sigmoid(f) c + sigmoid(i) tanh(g);   h = sigmoid(o) tanh(c)
/// ```
///
/// The products with `x` of all frames are one matrix product.
pub(super) fn lstm(
    isa: Isa,
    layers: &[LstmLayer],
    input: &[f32],
    output: &mut [f32],
    state: &mut LstmState,
) {
    state.sequence.clear();
    state.sequence.extend_from_slice(input);
    for layer in layers {
        let width = 4 * layer.hidden;
        let frames = state.sequence.len() / layer.features;
        state.gates.clear();
        (0..frames).for_each(|_| state.gates.extend_from_slice(&layer.bias));
        state.bases.clear();
        state
            .bases
            .extend((0..frames).map(|frame| frame * layer.features));
        isa.run(AddProduct {
            rows: &state.sequence,
            bases: &state.bases,
            matrix: &layer.input,
            output: &mut state.gates,
            sums: &mut state.sums,
        });

        state.sequence.clear();
        state.cell.clear();
        state.cell.resize(layer.hidden, 0.0);
        state.hidden.clear();
        state.hidden.resize(layer.hidden, 0.0);
        for gates in state.gates.chunks_exact_mut(width) {
            isa.run(AddProduct {
                rows: &state.hidden,
                bases: &[0],
                matrix: &layer.recurrent,
                output: gates,
                sums: &mut state.sums,
            });
            let (i, rest) = gates.split_at(layer.hidden);
            let (f, rest) = rest.split_at(layer.hidden);
            let (g, o) = rest.split_at(layer.hidden);
            for (unit, (cell, hidden)) in state.cell.iter_mut().zip(&mut state.hidden).enumerate() {
                *cell = sigmoid(f[unit]) * *cell + sigmoid(i[unit]) * g[unit].tanh();
                *hidden = sigmoid(o[unit]) * cell.tanh();
            }
            state.sequence.extend_from_slice(&state.hidden);
        }
    }
    output.copy_from_slice(&state.hidden);
}

/// `output += rows * matrix`.
struct AddProduct<'a> {
    rows: &'a [f32],
    /// Where each row begins.
    bases: &'a [usize],
    matrix: &'a Panels,
    output: &'a mut [f32],
    sums: &'a mut Sums,
}

impl Task for AddProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const MR: usize, const NV: usize>(self, simd: S) {
        let rows = Rows {
            input: self.rows,
            bases: self.bases,
            deltas: &[0],
            run: self.matrix.depth(),
        };
        for panel in 0..self.matrix.count() {
            let columns = self.matrix.columns_of(panel);
            let output = &mut *self.output;
            let add = |row: usize, sums: &[f32]| {
                let begin = row * self.matrix.columns() + columns.start;
                let output = &mut output[begin..][..columns.len()];
                output
                    .iter_mut()
                    .zip(sums)
                    .for_each(|(output, sum)| *output += sum);
            };
            if self.bases.len() == 1 {
                // Rows that nobody asked for are not computed either.
                multiply::<S, 1, NV>(simd, rows, self.matrix, panel, 0, self.sums, add);
            } else {
                multiply::<S, MR, NV>(simd, rows, self.matrix, panel, 0, self.sums, add);
            }
        }
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// `log(mean over t of softmax(input[t]))`, in f64.
pub(super) fn log_mean_softmax(input: &[f32], output: &mut [f32]) {
    let frames = (input.len() / output.len()) as f64;
    for (class, output) in output.iter_mut().enumerate() {
        let rows = input.chunks_exact(input.len() / frames as usize);
        let sum: f64 = rows.map(|row| crate::engine::softmax(row)[class]).sum();
        *output = (sum / frames).ln() as f32;
    }
}
