//! The statistics of a comparison of diagnostic methods, one idea a file.
//!
//! Everything takes patients, never clips: clips of one patient are no
//! independent witnesses. A score is the higher the severer; a [`Scored`]
//! patient is a case or not. What cannot be computed, such as an AUC of one
//! class, is `None`. Golden values come from scikit-learn, SciPy and statsmodels
//! (`scripts/make_statistics_goldens.py`).

mod auc;
mod bootstrap;
mod calibration;
mod confusion;
mod decision;
mod delong;
mod interval;
mod logistic;
mod mcnemar;
mod threshold;

#[cfg(test)]
mod tests;

pub use auc::{auc, roc_curve};
pub use bootstrap::Bootstrap;
pub use calibration::{CalibrationBin, brier, calibration_bins, expected_calibration_error};
pub use confusion::Confusion;
pub use decision::{net_benefit, net_benefit_of_all};
pub use delong::{DeLong, PairedAuc, delong, delong_paired};
pub use interval::{Estimate, clopper_pearson, wilson};
pub use logistic::{
    Logistic, calibration_in_the_large, calibration_slope, fit_logistic, fit_temperature, logit,
    sigmoid, with_temperature,
};
pub use mcnemar::mcnemar_exact;
pub use threshold::youden_threshold;

/// A score, and whether the patient is a case.
pub type Scored = (f64, bool);

/// The confidence of every interval.
pub const CONFIDENCE: f64 = 0.95;

/// Cases and controls among `scored`; `None` unless there are both.
fn both_classes(scored: &[Scored]) -> Option<(usize, usize)> {
    let cases = scored.iter().filter(|(_, case)| *case).count();
    let controls = scored.len() - cases;
    (cases > 0 && controls > 0).then_some((cases, controls))
}
