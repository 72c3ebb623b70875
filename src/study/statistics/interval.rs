//! Intervals of proportions.

use serde::{Deserialize, Serialize};
use statrs::distribution::{Beta, ContinuousCDF, Normal};

use super::CONFIDENCE;

/// A value with the ends of its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The value itself.
    pub value: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// The deviate that 95 % of a standard normal distribution lie within: 1.96.
pub(super) fn deviate() -> f64 {
    Normal::standard().inverse_cdf(f64::midpoint(1.0, CONFIDENCE))
}

/// Wilson's score interval of `hits` in `trials`; `None` without trials.
pub fn wilson(hits: u64, trials: u64) -> Option<Estimate> {
    let (share, n) = share_of(hits, trials)?;
    let z = deviate();
    let middle = share + z * z / (2.0 * n);
    let half = z * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    let whole = 1.0 + z * z / n;
    Some(Estimate {
        value: share,
        low: ((middle - half) / whole).max(0.0),
        high: ((middle + half) / whole).min(1.0),
    })
}

/// Clopper and Pearson's exact interval of `hits` in `trials`.
pub fn clopper_pearson(hits: u64, trials: u64) -> Option<Estimate> {
    let (share, n) = share_of(hits, trials)?;
    let k = hits as f64;
    let tail = (1.0 - CONFIDENCE) / 2.0;
    let low = match hits {
        0 => 0.0,
        _ => Beta::new(k, n - k + 1.0).ok()?.inverse_cdf(tail),
    };
    let high = if hits == trials {
        1.0
    } else {
        Beta::new(k + 1.0, n - k).ok()?.inverse_cdf(1.0 - tail)
    };
    Some(Estimate {
        value: share,
        low,
        high,
    })
}

fn share_of(hits: u64, trials: u64) -> Option<(f64, f64)> {
    (trials > 0 && hits <= trials).then(|| (hits as f64 / trials as f64, trials as f64))
}
