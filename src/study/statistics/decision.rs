//! Decision curves: what acting on a prediction is worth.
//!
//! Vickers and Elkin, Medical Decision Making 26 (2006) 565: a threshold
//! probability says how many needless actions one wants to pay for a needed one.

use super::{Confusion, Scored};

/// Cases acted on, less controls acted on at the threshold's odds, a patient, if
/// one acts on every probability above `threshold` (between 0 and 1).
pub fn net_benefit(probabilities: &[Scored], threshold: f64) -> f64 {
    let confusion = Confusion::at(probabilities, threshold);
    benefit(
        confusion.true_positive,
        confusion.false_positive,
        probabilities.len(),
        threshold,
    )
}

/// The same if one acts on everyone.
pub fn net_benefit_of_all(cases: usize, patients: usize, threshold: f64) -> f64 {
    let controls = patients.saturating_sub(cases);
    benefit(cases as u64, controls as u64, patients, threshold)
}

fn benefit(needed: u64, needless: u64, patients: usize, threshold: f64) -> f64 {
    let odds = threshold / (1.0 - threshold);
    (needed as f64 - needless as f64 * odds) / patients.max(1) as f64
}
