//! Steps down the gradient, as `torch.optim` takes them.

use serde::{Deserialize, Serialize};

use super::network::Network;

/// How gradients change parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// `torch.optim.AdamW`: betas 0.9 and 0.999, epsilon 1e-8, decay apart.
    Adam,
    /// `torch.optim.SGD` with momentum 0.9; the decay is part of the gradient.
    Sgd,
}

const BETAS: (f32, f32) = (0.9, 0.999);
const EPSILON: f32 = 1e-8;
const MOMENTUM: f32 = 0.9;

/// An optimiser and what it remembers.
#[derive(Clone, Debug)]
pub struct Optimiser {
    rule: Rule,
    decay: f32,
    /// Steps taken.
    pub(super) steps: u64,
    /// For each learnt parameter: the mean of its gradients (Adam), or its
    /// velocity (SGD).
    pub(super) first: Vec<Vec<f32>>,
    /// For each learnt parameter: the mean of its gradients' squares (Adam).
    pub(super) second: Vec<Vec<f32>>,
}

impl Optimiser {
    /// At rest.
    pub fn new(rule: Rule, decay: f32, network: &Network) -> Self {
        let zeros = || {
            let learnt = network.parameters().iter().filter(|p| p.is_learnt());
            learnt
                .map(|p| vec![0.0; p.values.len()])
                .collect::<Vec<_>>()
        };
        Self {
            rule,
            decay,
            steps: 0,
            first: zeros(),
            second: if rule == Rule::Adam {
                zeros()
            } else {
                Vec::new()
            },
        }
    }

    /// One step of size `rate`; `gradients` as [`Network::gradients`] gives them.
    pub fn step(&mut self, network: &mut Network, gradients: &[Vec<f32>], rate: f32) {
        self.steps += 1;
        let learnt = network
            .parameters_mut()
            .iter_mut()
            .filter(|p| p.is_learnt());
        for (place, (parameter, gradient)) in learnt.zip(gradients).enumerate() {
            let values = parameter.values.iter_mut().zip(gradient);
            match self.rule {
                Rule::Sgd => {
                    for ((value, gradient), velocity) in values.zip(&mut self.first[place]) {
                        let gradient = gradient + self.decay * *value;
                        // PyTorch's first velocity is the gradient itself: the
                        // same, from rest.
                        *velocity = MOMENTUM * *velocity + gradient;
                        *value -= rate * *velocity;
                    }
                }
                Rule::Adam => {
                    let power = self.steps.min(1 << 30) as i32;
                    let correction = (1.0 - f64::from(BETAS.0).powi(power)) as f32;
                    let root = (1.0 - f64::from(BETAS.1).powi(power)).sqrt() as f32;
                    let moments = self.first[place].iter_mut().zip(&mut self.second[place]);
                    for ((value, gradient), (mean, square)) in values.zip(moments) {
                        *value *= 1.0 - rate * self.decay;
                        *mean += (1.0 - BETAS.0) * (gradient - *mean);
                        *square = BETAS.1 * *square + (1.0 - BETAS.1) * gradient * gradient;
                        let scale = square.sqrt() / root + EPSILON;
                        *value -= rate / correction * *mean / scale;
                    }
                }
            }
        }
    }
}

/// The step's size: up in a line over the first tenth, then down along half a
/// cosine to nothing.
pub fn scheduled(rate: f32, step: u64, steps: u64) -> f32 {
    let (step, steps) = (step as f32, (steps as f32).max(1.0));
    let rising = (0.1 * steps).ceil();
    if step < rising {
        return rate * (step + 1.0) / rising;
    }
    let way = (step - rising) / (steps - rising).max(1.0);
    rate * 0.5 * (1.0 + (std::f32::consts::PI * way.min(1.0)).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_over_a_tenth_and_falls_to_nothing() {
        let rates: Vec<_> = (0..100).map(|step| scheduled(1.0, step, 100)).collect();
        assert!((rates[0] - 0.1).abs() < 1e-6 && (rates[9] - 1.0).abs() < 1e-6);
        assert!(rates[10..].windows(2).all(|pair| pair[1] < pair[0]));
        assert!(rates[99] < 0.01);
    }
}
