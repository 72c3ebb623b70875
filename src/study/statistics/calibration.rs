//! Whether probabilities mean what they say.

use serde::{Deserialize, Serialize};

use super::{Estimate, Scored, wilson};

/// Mean squared distance of the probability from what was; `None` without any.
pub fn brier(probabilities: &[Scored]) -> Option<f64> {
    let squares = probabilities
        .iter()
        .map(|&(p, case)| (p - f64::from(case)).powi(2));
    (!probabilities.is_empty()).then(|| squares.sum::<f64>() / probabilities.len() as f64)
}

/// Patients with neighbouring probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationBin {
    /// How many.
    pub patients: usize,
    /// Their mean probability.
    pub predicted: f64,
    /// Share of them that are cases, with Wilson's interval.
    pub observed: Estimate,
}

/// Patients by rising probability in `bins` groups, as equal in size as can be,
/// the larger ones first.
pub fn calibration_bins(probabilities: &[Scored], bins: usize) -> Vec<CalibrationBin> {
    let mut sorted = probabilities.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let bins = bins.clamp(1, sorted.len().max(1));
    let (size, larger) = (sorted.len() / bins, sorted.len() % bins);
    let mut rest = sorted.as_slice();
    let mut groups = Vec::new();
    for bin in 0..bins {
        let (group, after) = rest.split_at(size + usize::from(bin < larger));
        rest = after;
        let cases = group.iter().filter(|(_, case)| *case).count();
        if let Some(observed) = wilson(cases as u64, group.len() as u64) {
            groups.push(CalibrationBin {
                patients: group.len(),
                predicted: group.iter().map(|(p, _)| p).sum::<f64>() / group.len() as f64,
                observed,
            });
        }
    }
    groups
}

/// Mean over patients of how far the share of cases in their bin is from its
/// mean probability.
pub fn expected_calibration_error(bins: &[CalibrationBin]) -> Option<f64> {
    let patients: usize = bins.iter().map(|bin| bin.patients).sum();
    let weighted = bins
        .iter()
        .map(|bin| bin.patients as f64 * (bin.observed.value - bin.predicted).abs());
    (patients > 0).then(|| weighted.sum::<f64>() / patients as f64)
}
