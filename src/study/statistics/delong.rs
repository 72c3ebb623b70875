//! The variance of an AUC and the test of two AUCs of the same patients.
//!
//! DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837: each patient's
//! share in the AUC is the probability of ranking rightly against the other
//! class; the variance of the AUC follows from the variance of those shares.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal};

use super::interval::deviate;
use super::{Estimate, Scored, both_classes};

/// An AUC with its variance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeLong {
    /// The area.
    pub auc: f64,
    /// Its variance; 0 where the classes do not overlap, which says nothing
    /// about the patients to come.
    pub variance: f64,
}

impl DeLong {
    /// The normal interval, cut at 0 and 1.
    pub fn estimate(&self) -> Estimate {
        let half = deviate() * self.variance.sqrt();
        Estimate {
            value: self.auc,
            low: (self.auc - half).max(0.0),
            high: (self.auc + half).min(1.0),
        }
    }
}

/// Two methods on the same patients.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairedAuc {
    /// AUC of the first less that of the second.
    pub difference: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// Two-sided; `None` where the difference has no variance.
    pub p: Option<f64>,
}

/// `None` unless there are two cases and two controls.
pub fn delong(scored: &[Scored]) -> Option<DeLong> {
    let shares = Shares::of(scored)?;
    Some(DeLong {
        auc: mean(&shares.cases),
        variance: shares.covariance(&shares),
    })
}

/// Tests whether two AUCs of the same patients differ: (first score, second
/// score, whether a case).
pub fn delong_paired(scored: &[(f64, f64, bool)]) -> Option<PairedAuc> {
    let first: Vec<Scored> = scored.iter().map(|&(a, _, case)| (a, case)).collect();
    let second: Vec<Scored> = scored.iter().map(|&(_, b, case)| (b, case)).collect();
    let (first, second) = (Shares::of(&first)?, Shares::of(&second)?);
    let difference = mean(&first.cases) - mean(&second.cases);
    let variance =
        first.covariance(&first) + second.covariance(&second) - 2.0 * first.covariance(&second);
    // What rounding leaves of nothing is nothing.
    let standard_error = if variance > 1e-15 {
        variance.sqrt()
    } else {
        0.0
    };
    let p = (standard_error > 0.0).then(|| {
        let z = (difference / standard_error).abs();
        2.0 * Normal::standard().sf(z)
    });
    Some(PairedAuc {
        difference,
        standard_error,
        p,
    })
}

/// Each patient's share in the AUC, in the order of the patients.
struct Shares {
    cases: Vec<f64>,
    controls: Vec<f64>,
}

impl Shares {
    fn of(scored: &[Scored]) -> Option<Self> {
        let (cases, controls) = both_classes(scored)?;
        if cases < 2 || controls < 2 {
            return None;
        }
        let sorted = |wanted: bool| {
            let scores = scored.iter().filter(|(_, case)| *case == wanted);
            let mut scores: Vec<f64> = scores.map(|(score, _)| *score).collect();
            scores.sort_by(f64::total_cmp);
            scores
        };
        let (of_cases, of_controls) = (sorted(true), sorted(false));
        // How many of `sorted` lie below, those equal counting half.
        let below = |sorted: &[f64], score: f64| {
            let less = sorted.partition_point(|other| *other < score);
            let up_to = sorted.partition_point(|other| *other <= score);
            f64::midpoint(less as f64, up_to as f64)
        };
        let mut shares = Self {
            cases: Vec::with_capacity(cases),
            controls: Vec::with_capacity(controls),
        };
        for &(score, case) in scored {
            if case {
                shares
                    .cases
                    .push(below(&of_controls, score) / controls as f64);
            } else {
                let share = 1.0 - below(&of_cases, score) / cases as f64;
                shares.controls.push(share);
            }
        }
        Some(shares)
    }

    /// Of the two AUCs.
    fn covariance(&self, other: &Self) -> f64 {
        covariance(&self.cases, &other.cases) / self.cases.len() as f64
            + covariance(&self.controls, &other.controls) / self.controls.len() as f64
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn covariance(a: &[f64], b: &[f64]) -> f64 {
    let (of_a, of_b) = (mean(a), mean(b));
    let sum: f64 = a.iter().zip(b).map(|(a, b)| (a - of_a) * (b - of_b)).sum();
    sum / (a.len() as f64 - 1.0)
}
