//! Linear layers, LSTM and softmax: small next to convolutions.

use pulp::Simd;

use super::product::{Isa, Panels, Rows, Storage, Sums, Task, multiply};
use super::work::Work;
use crate::engine::plan;

/// `output[t] = weights * input[t] + bias` for the frames that work lists; sums
/// in f64.
pub(super) fn linear(
    weights: &[f32],
    bias: &[f32],
    work: &Work,
    input: &[f32],
    output: &mut [f32],
) {
    let (features, classes) = (weights.len() / bias.len(), bias.len());
    for (_, job) in work.jobs() {
        let input = &input[job.input * features..][..features];
        let output = &mut output[job.output * classes..][..classes];
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

/// What an LSTM's gates get from the layer below: `W_ih x[t] + b`.
#[derive(Debug)]
pub(super) struct Projection {
    features: usize,
    /// `[features, 4 * hidden]`.
    matrix: Panels,
    bias: Vec<f32>,
}

/// What an LSTM's gates get from its own state, frame by frame: `W_hh h`.
#[derive(Debug)]
pub(super) struct Recurrence {
    hidden: usize,
    /// `[hidden, 4 * hidden]`.
    matrix: Panels,
}

/// An LSTM from its first layer's projection on.
#[derive(Debug)]
pub(super) struct Lstm {
    first: Recurrence,
    above: Vec<(Projection, Recurrence)>,
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

/// The layers, with the first one's projection apart: it knows nothing of other
/// frames.
pub(super) fn split_lstm(
    isa: Isa,
    storage: Storage,
    layers: Vec<plan::LstmLayer>,
) -> Option<(Projection, Lstm)> {
    let mut layers = layers.into_iter().map(|layer| {
        let gates = 4 * layer.hidden;
        let pack = |rows, matrix: &[f32]| {
            Panels::pack(isa, storage, rows, gates, |k, n| matrix[k * gates + n])
        };
        let projection = Projection {
            features: layer.features,
            matrix: pack(layer.features, &layer.input),
            bias: layer.bias,
        };
        let recurrence = Recurrence {
            hidden: layer.hidden,
            matrix: pack(layer.hidden, &layer.recurrent),
        };
        (projection, recurrence)
    });
    let (projection, first) = layers.next()?;
    let above = layers.collect();
    Some((projection, Lstm { first, above }))
}

impl Projection {
    /// Values of one frame's output, `4 * hidden`.
    pub(super) fn gates(&self) -> usize {
        self.matrix.columns()
    }

    pub(super) fn weight_bytes(&self) -> usize {
        self.matrix.bytes()
    }

    /// Multiplications and additions for one frame.
    pub(super) fn cost(&self) -> usize {
        self.features * self.matrix.columns()
    }

    /// The frames that work lists, `[T, features]`, to `[T, 4 * hidden]`.
    pub(super) fn run(
        &self,
        work: &Work,
        input: &[f32],
        output: &mut [f32],
        state: &mut LstmState,
    ) {
        let width = self.matrix.columns();
        for (_, job) in work.jobs() {
            output[job.output * width..][..width].copy_from_slice(&self.bias);
        }
        // The frames of a work lie side by side.
        let (mut frames, mut first) = (0, usize::MAX);
        for (_, job) in work.jobs() {
            frames += 1;
            first = first.min(job.output);
        }
        if frames == 0 {
            return;
        }
        self.add(
            &input[first * self.features..][..frames * self.features],
            &mut output[first * width..][..frames * width],
            &mut state.bases,
            &mut state.sums,
        );
    }

    /// `output += input * matrix`, row by row.
    fn add(&self, input: &[f32], output: &mut [f32], bases: &mut Vec<usize>, sums: &mut Sums) {
        bases.clear();
        bases.extend((0..input.len()).step_by(self.features));
        self.matrix.isa().run(AddProduct {
            rows: input,
            bases,
            matrix: &self.matrix,
            output,
            sums,
        });
    }
}

impl Lstm {
    pub(super) fn weight_bytes(&self) -> usize {
        let above = self.above.iter();
        let above = above.map(|(below, layer)| below.matrix.bytes() + layer.matrix.bytes());
        self.first.matrix.bytes() + above.sum::<usize>()
    }

    /// Multiplications and additions for one frame.
    pub(super) fn cost(&self) -> usize {
        let of = |layer: &Recurrence| layer.hidden * layer.matrix.columns();
        let above = self.above.iter();
        let above = above.map(|(below, layer)| below.cost() + of(layer));
        of(&self.first) + above.sum::<usize>()
    }

    /// The top layer's hidden state after the last frame, from zero states and
    /// the first layer's projections, `[T, 4 * hidden]`:
    ///
    /// ```text
    /// i, f, g, o = W_ih x[t] + W_hh h + b
    /// c = sigmoid(f) c + sigmoid(i) tanh(g);   h = sigmoid(o) tanh(c)
    /// ```
    ///
    /// The products with `x` of all frames are one matrix product.
    pub(super) fn run(&self, input: &[f32], output: &mut [f32], state: &mut LstmState) {
        state.gates.clear();
        state.gates.extend_from_slice(input);
        self.first.run(state);
        for (projection, layer) in &self.above {
            let frames = state.sequence.len() / projection.features;
            state.gates.clear();
            (0..frames).for_each(|_| state.gates.extend_from_slice(&projection.bias));
            projection.add(
                &state.sequence,
                &mut state.gates,
                &mut state.bases,
                &mut state.sums,
            );
            layer.run(state);
        }
        output.copy_from_slice(&state.hidden);
    }
}

impl Recurrence {
    /// From the state's gates to its sequence.
    fn run(&self, state: &mut LstmState) {
        state.sequence.clear();
        state.cell.clear();
        state.cell.resize(self.hidden, 0.0);
        state.hidden.clear();
        state.hidden.resize(self.hidden, 0.0);
        for gates in state.gates.chunks_exact_mut(4 * self.hidden) {
            self.matrix.isa().run(AddProduct {
                rows: &state.hidden,
                bases: &[0],
                matrix: &self.matrix,
                output: gates,
                sums: &mut state.sums,
            });
            let (i, rest) = gates.split_at(self.hidden);
            let (f, rest) = rest.split_at(self.hidden);
            let (g, o) = rest.split_at(self.hidden);
            for (unit, (cell, hidden)) in state.cell.iter_mut().zip(&mut state.hidden).enumerate() {
                *cell = sigmoid(f[unit]) * *cell + sigmoid(i[unit]) * g[unit].tanh();
                *hidden = sigmoid(o[unit]) * cell.tanh();
            }
            state.sequence.extend_from_slice(&state.hidden);
        }
    }
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
        if self.bases.len() == 1 {
            // Rows that nobody asked for are not computed either.
            self.add::<S, 1, NV>(simd);
        } else {
            self.add::<S, MR, NV>(simd);
        }
    }
}

impl AddProduct<'_> {
    #[inline(always)]
    fn add<S: Simd, const MR: usize, const NV: usize>(self, simd: S) {
        let rows = Rows {
            input: self.rows,
            bases: self.bases,
            deltas: &[0],
            run: self.matrix.depth(),
        };
        for panel in 0..self.matrix.count() {
            let columns = self.matrix.columns_of(panel);
            let output = &mut *self.output;
            multiply::<S, MR, NV>(
                simd,
                rows,
                self.matrix,
                panel,
                0,
                self.sums,
                #[inline(always)]
                |row, sums| {
                    for (row, sums) in (row..).zip(sums) {
                        let begin = row * self.matrix.columns() + columns.start;
                        add::<S>(simd, &mut output[begin..][..columns.len()], sums);
                    }
                },
            );
        }
    }
}

/// `output += sums`, of which the last ones may be of no column.
#[inline(always)]
fn add<S: Simd>(simd: S, output: &mut [f32], sums: &[S::f32s]) {
    let (vectors, rest) = S::as_mut_simd_f32s(output);
    let whole = vectors.len();
    for i in 0..whole {
        vectors[i] = simd.add_f32s(vectors[i], sums[i]);
    }
    if !rest.is_empty() {
        let value = simd.add_f32s(simd.partial_load_f32s(rest), sums[whole]);
        simd.partial_store_f32s(rest, value);
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
