//! Yes and no beside the truth.

use serde::{Deserialize, Serialize};

use super::{Estimate, Scored, wilson};

/// How often a method was right and wrong in saying yes and no.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    /// Said yes, rightly.
    pub true_positive: u64,
    /// Said yes, wrongly.
    pub false_positive: u64,
    /// Said no, rightly.
    pub true_negative: u64,
    /// Said no, wrongly.
    pub false_negative: u64,
}

impl Confusion {
    /// Saying yes to every score above `threshold`.
    pub fn at(scored: &[Scored], threshold: f64) -> Self {
        let mut confusion = Self::default();
        for &(score, case) in scored {
            *match (score > threshold, case) {
                (true, true) => &mut confusion.true_positive,
                (true, false) => &mut confusion.false_positive,
                (false, true) => &mut confusion.false_negative,
                (false, false) => &mut confusion.true_negative,
            } += 1;
        }
        confusion
    }

    /// Everyone.
    pub const fn total(&self) -> u64 {
        self.true_positive + self.false_positive + self.true_negative + self.false_negative
    }

    /// Those it was right about.
    pub const fn right(&self) -> u64 {
        self.true_positive + self.true_negative
    }

    /// Share of patients it was right about.
    pub fn accuracy(&self) -> Option<f64> {
        ratio(self.right(), self.total())
    }

    /// Share of cases found, with Wilson's interval.
    pub fn sensitivity(&self) -> Option<Estimate> {
        wilson(self.true_positive, self.true_positive + self.false_negative)
    }

    /// Share of controls left alone, with Wilson's interval.
    pub fn specificity(&self) -> Option<Estimate> {
        wilson(self.true_negative, self.true_negative + self.false_positive)
    }

    /// Mean over both classes of the precision. A class never said counts as 0,
    /// as in scikit-learn.
    pub fn macro_precision(&self) -> Option<f64> {
        let of_yes = ratio(self.true_positive, self.true_positive + self.false_positive);
        let of_no = ratio(self.true_negative, self.true_negative + self.false_negative);
        (self.total() > 0).then(|| f64::midpoint(of_yes.unwrap_or(0.0), of_no.unwrap_or(0.0)))
    }

    /// Mean over both classes of the recall; `None` unless there are both.
    pub fn macro_recall(&self) -> Option<f64> {
        let of_cases = ratio(self.true_positive, self.true_positive + self.false_negative)?;
        let of_controls = ratio(self.true_negative, self.true_negative + self.false_positive)?;
        Some(f64::midpoint(of_cases, of_controls))
    }

    /// Mean over both classes of the F1 of each.
    pub fn macro_f1(&self) -> Option<f64> {
        let wrong = self.false_positive + self.false_negative;
        let of = |right: u64| ratio(2 * right, 2 * right + wrong).unwrap_or(0.0);
        (self.total() > 0).then(|| f64::midpoint(of(self.true_positive), of(self.true_negative)))
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
