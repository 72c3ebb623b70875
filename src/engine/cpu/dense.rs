//! Linear layers, LSTM and softmax: small next to convolutions.

use super::product::add_product;
use crate::engine::plan::LstmLayer;

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

/// What an LSTM keeps while it runs; grows once, then stays.
#[derive(Debug, Default)]
pub(super) struct LstmState {
    /// `[T, hidden]`: what the layer below gave, and this one gives.
    sequence: Vec<f32>,
    /// `[T, 4 * hidden]`.
    gates: Vec<f32>,
    cell: Vec<f32>,
    hidden: Vec<f32>,
}

/// The top layer's hidden state after the last frame, from zero states:
///
/// ```text
/// i, f, g, o = W_ih x[t] + W_hh h + b
/// c = sigmoid(f) c + sigmoid(i) tanh(g);   h = sigmoid(o) tanh(c)
/// ```
///
/// The products with `x` of all frames are one matrix product.
pub(super) fn lstm(layers: &[LstmLayer], input: &[f32], output: &mut [f32], state: &mut LstmState) {
    state.sequence.clear();
    state.sequence.extend_from_slice(input);
    for layer in layers {
        let frames = state.sequence.len() / layer.features;
        let width = 4 * layer.hidden;
        state.gates.clear();
        (0..frames).for_each(|_| state.gates.extend_from_slice(&layer.bias));
        let x = &state.sequence;
        add_product(
            x,
            &layer.input,
            &mut state.gates,
            frames,
            layer.features,
            width,
        );

        state.sequence.clear();
        state.cell.clear();
        state.cell.resize(layer.hidden, 0.0);
        state.hidden.clear();
        state.hidden.resize(layer.hidden, 0.0);
        for gates in state.gates.chunks_exact_mut(width) {
            add_product(
                &state.hidden,
                &layer.recurrent,
                gates,
                1,
                layer.hidden,
                width,
            );
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
