//! Where in a clip a network looks for its answer: Grad-CAM.
//!
//! Of the last values `A`, `[T', H', W', C]`, that still have rows and columns, and
//! the logit `y` of a class (Selvaraju et al., *Grad-CAM*, ICCV 2017, eq. 1 and 2):
//!
//! ```text
//! alpha[c]      = mean over positions of dy / dA[.., c]
//! map[position] = relu(sum over c of alpha[c] A[position, c])
//! ```
//!
//! Positions are those of the whole clip for a network that sees it as a volume.
//! One that looks at each frame by itself, with or without a recurrence behind it,
//! has an `alpha` for each frame.
//!
//! Behind `A` comes a mean, and then a few small layers, the *head*: it is gone
//! through forwards and backwards here in f64. So the map needs no gradients of
//! the convolutions, and costs little beside them.

use super::plan::{Kernel, LstmLayer, Plan, Value};

/// A map of where a network looked for one class.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// The class, by its place in the model's list.
    pub class: usize,
    /// Slices of time, rows and columns.
    pub shape: [usize; 3],
    /// `[T', H', W']`, none below zero, in units of the logit: not scaled.
    pub values: Vec<f32>,
    /// The clip's frame in whose middle the first slice lies, and how many frames
    /// further each next one does.
    pub frames: (f64, f64),
}

impl Attention {
    /// The map of one of the clip's frames, `[H', W']`: between two slices, in
    /// proportion.
    pub fn at(&self, frame: usize) -> Vec<f32> {
        let [slices, rows, columns] = self.shape;
        let (first, apart) = self.frames;
        let place = ((frame as f64 - first) / apart).clamp(0.0, (slices - 1) as f64);
        let (before, share) = (place.floor() as usize, place.fract() as f32);
        let slice = |number: usize| &self.values[number.min(slices - 1) * rows * columns..];
        let pairs = slice(before).iter().zip(slice(before + 1));
        pairs
            .take(rows * columns)
            .map(|(a, b)| a * (1.0 - share) + b * share)
            .collect()
    }
}

/// What comes behind the last values that have rows and columns.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// Those values, `[T', H', W', C]`.
    pub(super) features: Value,
    /// Whether frames stay apart when rows and columns are averaged.
    by_frame: bool,
    layers: Vec<Layer>,
    frames: (f64, f64),
}

#[derive(Clone, Debug)]
enum Layer {
    /// `weights` is `[K, C]`.
    Linear {
        weights: Vec<f32>,
        bias: Vec<f32>,
    },
    Pointwise {
        scale: Vec<f32>,
        shift: Vec<f32>,
        relu: bool,
    },
    /// All frames to all frames.
    Lstm(LstmLayer),
    /// The last frame of several.
    Last,
    LogMeanSoftmax,
}

/// Rows of values, one for each frame.
#[derive(Clone, Debug, PartialEq)]
struct Rows {
    width: usize,
    values: Vec<f64>,
}

impl Rows {
    fn zeros(rows: usize, width: usize) -> Self {
        Self {
            width,
            values: vec![0.0; rows * width],
        }
    }

    fn len(&self) -> usize {
        self.values.len() / self.width
    }

    fn iter(&self) -> std::slice::ChunksExact<'_, f64> {
        self.values.chunks_exact(self.width)
    }

    fn iter_mut(&mut self) -> std::slice::ChunksExactMut<'_, f64> {
        self.values.chunks_exact_mut(self.width)
    }
}

impl Head {
    /// Finds it; None if what lies behind the last rows and columns is more than
    /// layers on single frames, a recurrence and a softmax.
    pub(super) fn of(plan: &Plan) -> Option<Self> {
        let is_mean = |kernel: &Kernel| {
            matches!(kernel, Kernel::FrameAveragePool | Kernel::GlobalAveragePool)
        };
        let mean = plan.steps.iter().rposition(|step| is_mean(&step.kernel))?;
        let mut layers = Vec::new();
        for step in &plan.steps[mean + 1..] {
            match &step.kernel {
                Kernel::Linear { weights, bias } => layers.push(Layer::Linear {
                    weights: weights.clone(),
                    bias: bias.clone(),
                }),
                Kernel::Pointwise {
                    scale,
                    shift,
                    other: None,
                    relu,
                } => layers.push(Layer::Pointwise {
                    scale: scale.clone(),
                    shift: shift.clone(),
                    relu: *relu,
                }),
                Kernel::Lstm(recurrences) => {
                    layers.extend(recurrences.iter().cloned().map(Layer::Lstm));
                    layers.push(Layer::Last);
                }
                Kernel::LogMeanSoftmax => layers.push(Layer::LogMeanSoftmax),
                _ => return None,
            }
        }
        let step = &plan.steps[mean];
        Some(Self {
            features: step.input,
            by_frame: matches!(step.kernel, Kernel::FrameAveragePool),
            layers,
            frames: middles(plan, mean),
        })
    }

    /// The map of a class, for features `[T', H', W', C]`.
    pub(super) fn attention(&self, features: &[f32], class: usize) -> Attention {
        let shape = self.features.shape;
        let [t, h, w] = shape.extent;
        let rows = if self.by_frame { t } else { 1 };
        let positions = t * h * w / rows;
        let mut means = Rows::zeros(rows, shape.channels);
        for (mean, row) in means
            .iter_mut()
            .zip(features.chunks_exact(positions * shape.channels))
        {
            for values in row.chunks_exact(shape.channels) {
                for (mean, value) in mean.iter_mut().zip(values) {
                    *mean += f64::from(*value) / positions as f64;
                }
            }
        }
        let gradient = self.gradient(means, class);
        let mut values = Vec::with_capacity(t * h * w);
        let row_len = positions * shape.channels;
        for (gradient, row) in gradient.iter().zip(features.chunks_exact(row_len)) {
            // Each position has the same share in the mean.
            let alpha: Vec<_> = gradient.iter().map(|g| g / positions as f64).collect();
            values.extend(row.chunks_exact(shape.channels).map(|values| {
                let products = alpha.iter().zip(values).map(|(a, v)| a * f64::from(*v));
                products.sum::<f64>().max(0.0) as f32
            }));
        }
        Attention {
            class,
            shape: [t, h, w],
            values,
            frames: self.frames,
        }
    }

    /// `d logit[class] / d means`.
    fn gradient(&self, means: Rows, class: usize) -> Rows {
        let mut passes = Vec::with_capacity(self.layers.len());
        let mut values = means;
        for layer in &self.layers {
            let pass = layer.forward(values);
            values = pass.output.clone();
            passes.push(pass);
        }
        let mut gradient = Rows::zeros(values.len(), values.width);
        gradient.values[class] = 1.0;
        for (layer, pass) in self.layers.iter().zip(&passes).rev() {
            gradient = layer.backward(pass, &gradient);
        }
        gradient
    }
}

/// A layer's way forwards, as its way back needs it.
struct Pass {
    input: Rows,
    output: Rows,
    /// Of a recurrence: `[T, 4 * hidden]` behind their activations, and `[T, hidden]`.
    gates: Rows,
    cells: Rows,
}

impl Layer {
    fn forward(&self, input: Rows) -> Pass {
        let frames = input.len();
        let (mut gates, mut cells) = (Rows::zeros(0, 1), Rows::zeros(0, 1));
        let output = match self {
            Self::Linear { weights, bias } => {
                let mut output = Rows::zeros(frames, bias.len());
                for (output, input) in output.iter_mut().zip(input.iter()) {
                    let matrix = weights.chunks_exact(input.len()).zip(bias);
                    for (output, (weights, bias)) in output.iter_mut().zip(matrix) {
                        *output = f64::from(*bias) + dot(weights, input);
                    }
                }
                output
            }
            Self::Pointwise { scale, shift, relu } => {
                let mut output = input.clone();
                for row in output.iter_mut() {
                    for (value, (scale, shift)) in row.iter_mut().zip(scale.iter().zip(shift)) {
                        *value = *value * f64::from(*scale) + f64::from(*shift);
                        if *relu {
                            *value = value.max(0.0);
                        }
                    }
                }
                output
            }
            Self::Lstm(layer) => {
                let output;
                (gates, cells, output) = recur(layer, &input);
                output
            }
            Self::Last => Rows {
                width: input.width,
                values: input.values[(frames - 1) * input.width..].to_vec(),
            },
            Self::LogMeanSoftmax => {
                let mut output = Rows::zeros(1, input.width);
                for row in input.iter() {
                    for (sum, p) in output.values.iter_mut().zip(softmax(row)) {
                        *sum += p / frames as f64;
                    }
                }
                output.values.iter_mut().for_each(|p| *p = p.ln());
                output
            }
        };
        Pass {
            input,
            output,
            gates,
            cells,
        }
    }

    /// From the gradient of the output to that of the input.
    fn backward(&self, pass: &Pass, gradient: &Rows) -> Rows {
        let input = &pass.input;
        let mut back = Rows::zeros(input.len(), input.width);
        match self {
            Self::Linear { weights, .. } => {
                for (back, gradient) in back.iter_mut().zip(gradient.iter()) {
                    for (weights, gradient) in weights.chunks_exact(back.len()).zip(gradient) {
                        for (back, weight) in back.iter_mut().zip(weights) {
                            *back += f64::from(*weight) * gradient;
                        }
                    }
                }
            }
            Self::Pointwise { scale, relu, .. } => {
                let rows = back.iter_mut().zip(gradient.iter().zip(pass.output.iter()));
                for (back, (gradient, output)) in rows {
                    for (channel, back) in back.iter_mut().enumerate() {
                        if !relu || output[channel] > 0.0 {
                            *back = f64::from(scale[channel]) * gradient[channel];
                        }
                    }
                }
            }
            Self::Lstm(layer) => recur_back(layer, pass, gradient, &mut back),
            Self::Last => {
                let begin = back.values.len() - back.width;
                back.values[begin..].copy_from_slice(&gradient.values);
            }
            // y[k] = ln(m[k]), m[k] = mean of p[t][k]; dp[k] / dx[j] = p[k] (k = j) - p[k] p[j]
            Self::LogMeanSoftmax => {
                let frames = input.len() as f64;
                let mean: Vec<_> = pass.output.values.iter().map(|y| y.exp()).collect();
                for (back, row) in back.iter_mut().zip(input.iter()) {
                    let p = softmax(row);
                    let to_p: Vec<_> = gradient
                        .values
                        .iter()
                        .zip(&mean)
                        .map(|(gradient, mean)| gradient / (mean * frames))
                        .collect();
                    let sum: f64 = to_p.iter().zip(&p).map(|(g, p)| g * p).sum();
                    for (back, (to_p, p)) in back.iter_mut().zip(to_p.iter().zip(&p)) {
                        *back = p * (to_p - sum);
                    }
                }
            }
        }
        back
    }
}

/// Gates, cells and hidden states of every frame, from zero states; see the CPU
/// backend for the formulas.
fn recur(layer: &LstmLayer, input: &Rows) -> (Rows, Rows, Rows) {
    let (hidden, width) = (layer.hidden, 4 * layer.hidden);
    let mut gates = Rows::zeros(input.len(), width);
    let mut cells = Rows::zeros(input.len(), hidden);
    let mut states = Rows::zeros(input.len(), hidden);
    let (mut h, mut c) = (vec![0.0; hidden], vec![0.0; hidden]);
    let rows = gates
        .iter_mut()
        .zip(cells.iter_mut())
        .zip(states.iter_mut());
    for (x, ((gates, cells), states)) in input.iter().zip(rows) {
        for (gate, bias) in gates.iter_mut().zip(&layer.bias) {
            *gate = f64::from(*bias);
        }
        add_product(x, &layer.input, gates);
        add_product(&h, &layer.recurrent, gates);
        for (place, gate) in gates.iter_mut().enumerate() {
            *gate = if place / hidden == 2 {
                gate.tanh()
            } else {
                1.0 / (1.0 + (-*gate).exp())
            };
        }
        for unit in 0..hidden {
            let [i, f, g, o] = [0, 1, 2, 3].map(|gate| gates[gate * hidden + unit]);
            c[unit] = f * c[unit] + i * g;
            h[unit] = o * c[unit].tanh();
        }
        cells.copy_from_slice(&c);
        states.copy_from_slice(&h);
    }
    (gates, cells, states)
}

/// Backpropagation through time: from the gradient of every hidden state to that
/// of every input.
fn recur_back(layer: &LstmLayer, pass: &Pass, gradient: &Rows, back: &mut Rows) {
    let (hidden, width) = (layer.hidden, 4 * layer.hidden);
    let (mut to_h, mut to_c) = (vec![0.0; hidden], vec![0.0; hidden]);
    let mut to_gates = vec![0.0; width];
    let none = vec![0.0; hidden];
    for t in (0..gradient.len()).rev() {
        let gates = &pass.gates.values[t * width..][..width];
        let cell = |t: usize| &pass.cells.values[t * hidden..][..hidden];
        let (now, before) = (cell(t), if t > 0 { cell(t - 1) } else { &none });
        for unit in 0..hidden {
            let [i, f, g, o] = [0, 1, 2, 3].map(|gate| gates[gate * hidden + unit]);
            let squashed = now[unit].tanh();
            let h = gradient.values[t * hidden + unit] + to_h[unit];
            let c = to_c[unit] + h * o * (1.0 - squashed * squashed);
            to_gates[unit] = c * g * i * (1.0 - i);
            to_gates[hidden + unit] = c * before[unit] * f * (1.0 - f);
            to_gates[2 * hidden + unit] = c * i * (1.0 - g * g);
            to_gates[3 * hidden + unit] = h * squashed * o * (1.0 - o);
            to_c[unit] = c * f;
        }
        let back = &mut back.values[t * layer.features..][..layer.features];
        for (back, weights) in back.iter_mut().zip(layer.input.chunks_exact(width)) {
            *back = dot(weights, &to_gates);
        }
        for (to_h, weights) in to_h.iter_mut().zip(layer.recurrent.chunks_exact(width)) {
            *to_h = dot(weights, &to_gates);
        }
    }
}

/// `sums += row * matrix`, the matrix `[row, sums]`.
fn add_product(row: &[f64], matrix: &[f32], sums: &mut [f64]) {
    for (value, weights) in row.iter().zip(matrix.chunks_exact(sums.len())) {
        for (sum, weight) in sums.iter_mut().zip(weights) {
            *sum += value * f64::from(*weight);
        }
    }
}

fn dot(weights: &[f32], values: &[f64]) -> f64 {
    let products = weights.iter().zip(values).map(|(w, v)| f64::from(*w) * v);
    products.sum()
}

fn softmax(row: &[f64]) -> Vec<f64> {
    let highest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<_> = row.iter().map(|x| (x - highest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

/// Which frame of the clip lies in the middle of what the first slice of a step's
/// input has seen, and how many frames further each next one's does.
fn middles(plan: &Plan, step: usize) -> (f64, f64) {
    // Of what lies in each buffer at the time.
    let mut known = vec![(0.0, 1.0); plan.buffers.len()];
    let of = |known: &[(f64, f64)], value: Value| {
        let frame_len = value.shape.len() / value.shape.extent[0];
        let (first, apart) = known[value.buffer];
        (first + (value.offset / frame_len) as f64 * apart, apart)
    };
    for step in &plan.steps[..step] {
        let (first, apart) = of(&known, step.input);
        let window = match &step.kernel {
            Kernel::Conv(step) => Some((step.conv.kernel, step.conv.stride, step.conv.padding)),
            Kernel::MaxPool(pool) | Kernel::AveragePool(pool) => {
                Some((pool.kernel, pool.stride, pool.padding))
            }
            _ => None,
        };
        known[step.output.buffer] = match window {
            Some((kernel, stride, padding)) => {
                let middle = (kernel[0] as f64 - 1.0) / 2.0 - padding[0] as f64;
                (first + middle * apart, apart * stride[0] as f64)
            }
            None => (first, apart),
        };
    }
    of(&known, plan.steps[step].input)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may")]
    use proptest::prelude::*;

    use super::*;
    use crate::model::Shape;

    fn matrix(len: usize) -> impl Strategy<Value = Vec<f32>> {
        proptest::collection::vec(-1.0_f32..1.0, len)
    }

    fn lstm(features: usize, hidden: usize) -> impl Strategy<Value = Layer> {
        let gates = 4 * hidden;
        (
            matrix(features * gates),
            matrix(hidden * gates),
            matrix(gates),
        )
            .prop_map(move |(input, recurrent, bias)| {
                Layer::Lstm(LstmLayer {
                    features,
                    hidden,
                    input,
                    recurrent,
                    bias,
                })
            })
    }

    fn linear(features: usize, outputs: usize) -> impl Strategy<Value = Layer> {
        (matrix(features * outputs), matrix(outputs))
            .prop_map(|(weights, bias)| Layer::Linear { weights, bias })
    }

    fn layers() -> impl Strategy<Value = Vec<Layer>> {
        let recurrent =
            (lstm(3, 2), lstm(2, 4), linear(4, 2)).prop_map(|(a, b, c)| vec![a, b, Layer::Last, c]);
        let pointwise = (matrix(3), matrix(3)).prop_map(|(scale, shift)| Layer::Pointwise {
            scale,
            shift,
            relu: true,
        });
        let means = (pointwise, linear(3, 2)).prop_map(|(a, b)| vec![a, b, Layer::LogMeanSoftmax]);
        recurrent.boxed().prop_union(means.boxed())
    }

    proptest! {
        #[test]
        fn the_gradient_is_the_quotient_of_differences(
            layers in layers(),
            means in proptest::collection::vec(-1.0_f64..1.0, 12),
            class in 0_usize..2,
        ) {
            let shape = Shape { channels: 3, extent: [4, 1, 1] };
            let head = Head {
                features: Value { buffer: 0, offset: 0, shape },
                by_frame: true,
                layers,
                frames: (0.0, 1.0),
            };
            let logit = |means: &[f64]| {
                let mut rows = Rows { width: 3, values: means.to_vec() };
                for layer in &head.layers {
                    rows = layer.forward(rows).output;
                }
                rows.values[class]
            };
            let gradient = head.gradient(Rows { width: 3, values: means.clone() }, class);
            for place in 0..means.len() {
                let step = 1e-5;
                let beside = |by: f64| {
                    let mut means = means.clone();
                    means[place] += by;
                    logit(&means)
                };
                let forward = (beside(step) - logit(&means)) / step;
                let quotient = (beside(step) - beside(-step)) / (2.0 * step);
                // At a ReLU's bend there is no derivative.
                if (forward - quotient).abs() < 1e-3 {
                    prop_assert!((gradient.values[place] - quotient).abs() < 1e-6);
                }
            }
        }
    }
}
