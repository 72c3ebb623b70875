//! Logistic regression on one score: what calibration is measured and mended by.
//!
//! Newton's method on a likelihood that is concave; where a score separates the
//! classes there is no maximum, and no answer.

use serde::{Deserialize, Serialize};

use super::{Scored, both_classes};

/// log(p / (1 - p)), with probabilities kept 1e-6 away from 0 and 1.
pub fn logit(p: f64) -> f64 {
    const EDGE: f64 = 1e-6;
    let p = p.clamp(EDGE, 1.0 - EDGE);
    (p / (1.0 - p)).ln()
}

/// 1 / (1 + exp(-x))
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// P(case) = sigmoid(intercept + slope x score)
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logistic {
    /// At score 0.
    pub intercept: f64,
    /// A unit of score.
    pub slope: f64,
}

impl Logistic {
    /// P(case) at `score`.
    pub fn probability(&self, score: f64) -> f64 {
        sigmoid(self.intercept + self.slope * score)
    }
}

/// What Newton's method takes at most.
const STEPS: usize = 100;
/// A step this small is the end.
const CLOSE: f64 = 1e-11;
/// Slopes beyond this, in standard deviations of the score, separate the classes.
const SEPARATED: f64 = 50.0;

/// The most likely line; `None` unless there are both classes and they overlap.
pub fn fit_logistic(scored: &[Scored]) -> Option<Logistic> {
    both_classes(scored)?;
    let n = scored.len() as f64;
    let mean = scored.iter().map(|(x, _)| x).sum::<f64>() / n;
    let variance = scored.iter().map(|(x, _)| (x - mean).powi(2)).sum::<f64>() / n;
    let deviation = variance.sqrt();
    if deviation.is_nan() || deviation <= 0.0 {
        return None;
    }
    // In standard units every score is alike to Newton's method.
    let units: Vec<Scored> = scored
        .iter()
        .map(|&(x, case)| ((x - mean) / deviation, case))
        .collect();
    let likelihood = |a: f64, b: f64| log_likelihood(&units, |x| a + b * x);
    let (mut a, mut b) = (0.0, 0.0);
    for _ in 0..STEPS {
        let (mut ga, mut gb, mut haa, mut hab, mut hbb) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for &(x, case) in &units {
            let p = sigmoid(a + b * x);
            let (error, weight) = (f64::from(case) - p, p * (1.0 - p));
            ga += error;
            gb += error * x;
            haa += weight;
            hab += weight * x;
            hbb += weight * x * x;
        }
        let determinant = haa * hbb - hab * hab;
        if determinant.is_nan() || determinant <= 0.0 {
            return None;
        }
        let (da, db) = (
            (hbb * ga - hab * gb) / determinant,
            (haa * gb - hab * ga) / determinant,
        );
        // Half the step until it leads upwards.
        let before = likelihood(a, b);
        let mut share = 1.0;
        while likelihood(a + share * da, b + share * db) < before - 1e-12 && share > 1e-6 {
            share /= 2.0;
        }
        a += share * da;
        b += share * db;
        if b.abs() > SEPARATED {
            return None;
        }
        if da.abs().max(db.abs()) < CLOSE {
            let slope = b / deviation;
            return Some(Logistic {
                intercept: a - slope * mean,
                slope,
            });
        }
    }
    None
}

fn log_likelihood(scored: &[Scored], line: impl Fn(f64) -> f64) -> f64 {
    let each = scored.iter().map(|&(x, case)| {
        let eta = line(x);
        // ln sigmoid(eta), or of the contrary, without overflow.
        let eta = if case { eta } else { -eta };
        eta.min(0.0) - (-eta.abs()).exp().ln_1p()
    });
    each.sum()
}

/// The slope of the outcome on the logit: 1 if right, below it if predictions
/// are too extreme.
pub fn calibration_slope(probabilities: &[Scored]) -> Option<f64> {
    Some(fit_logistic(&in_logits(probabilities))?.slope)
}

/// The intercept with a slope of 1: 0 if as many cases are foreseen as there
/// are, above it if too few.
pub fn calibration_in_the_large(probabilities: &[Scored]) -> Option<f64> {
    both_classes(probabilities)?;
    let logits = in_logits(probabilities);
    newton(0.0, |a| {
        let mut sums = (0.0, 0.0);
        for &(x, case) in &logits {
            let p = sigmoid(a + x);
            sums.0 += f64::from(case) - p;
            sums.1 += p * (1.0 - p);
        }
        sums
    })
}

/// The temperature that makes the probabilities most likely: above 1 if they
/// are too extreme. `None` where none is positive and finite. To be learnt on
/// validation patients.
pub fn fit_temperature(probabilities: &[Scored]) -> Option<f64> {
    both_classes(probabilities)?;
    let logits = in_logits(probabilities);
    let inverse = newton(1.0, |b| {
        let mut sums = (0.0, 0.0);
        for &(x, case) in &logits {
            let p = sigmoid(b * x);
            sums.0 += (f64::from(case) - p) * x;
            sums.1 += p * (1.0 - p) * x * x;
        }
        sums
    })?;
    (inverse > 1e-3).then(|| 1.0 / inverse)
}

/// `p` at another temperature.
pub fn with_temperature(p: f64, temperature: f64) -> f64 {
    sigmoid(logit(p) / temperature)
}

fn in_logits(probabilities: &[Scored]) -> Vec<Scored> {
    let each = probabilities.iter();
    each.map(|&(p, case)| (logit(p), case)).collect()
}

/// The root of a falling derivative, from (derivative, minus its slope).
fn newton(start: f64, at: impl Fn(f64) -> (f64, f64)) -> Option<f64> {
    let mut value = start;
    for _ in 0..STEPS {
        let (gradient, curvature) = at(value);
        if curvature.is_nan() || curvature <= 0.0 {
            return None;
        }
        let step = (gradient / curvature).clamp(-1.0, 1.0);
        value += step;
        if step.abs() < CLOSE {
            return Some(value);
        }
        if value.abs() > SEPARATED {
            return None;
        }
    }
    None
}
