use differential_dataflow::difference::{IsZero, Semigroup};
use serde::{Deserialize, Serialize};

use crate::clinical::Confusion;

// Both are differences: differential adds and retracts them as others do counts.
impl IsZero for Confusion {
    fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

impl Semigroup for Confusion {
    fn plus_equals(&mut self, other: &Self) {
        self.true_positive += other.true_positive;
        self.false_positive += other.false_positive;
        self.true_negative += other.true_negative;
        self.false_negative += other.false_negative;
        self.undecided += other.undecided;
    }
}

/// Patients with and without the stage at one score, as a difference.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub(super) struct Outcomes {
    pub(super) positives: i64,
    pub(super) negatives: i64,
}

impl IsZero for Outcomes {
    fn is_zero(&self) -> bool {
        self.positives == 0 && self.negatives == 0
    }
}

impl Semigroup for Outcomes {
    fn plus_equals(&mut self, other: &Self) {
        self.positives += other.positives;
        self.negatives += other.negatives;
    }
}
