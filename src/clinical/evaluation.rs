use serde::{Deserialize, Serialize};

/// How a rater's yes and no compare with pathology.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Confusion {
    /// Said yes, rightly.
    pub true_positive: i64,
    /// Said yes, wrongly.
    pub false_positive: i64,
    /// Said no, rightly.
    pub true_negative: i64,
    /// Said no, wrongly.
    pub false_negative: i64,
    /// Said nothing.
    pub undecided: i64,
}

impl Confusion {
    /// `change` times one patient.
    pub fn of(verdict: Option<bool>, truth: bool, change: isize) -> Self {
        let mut one = Self::default();
        *match (verdict, truth) {
            (Some(true), true) => &mut one.true_positive,
            (Some(true), false) => &mut one.false_positive,
            (Some(false), false) => &mut one.true_negative,
            (Some(false), true) => &mut one.false_negative,
            (None, _) => &mut one.undecided,
        } = change as i64;
        one
    }

    /// Share of decided patients that were right; `None` without any.
    pub fn accuracy(&self) -> Option<f64> {
        let right = self.true_positive + self.true_negative;
        ratio(right, right + self.false_positive + self.false_negative)
    }

    /// Mean over both classes of the precision.
    pub fn macro_precision(&self) -> Option<f64> {
        mean(
            ratio(self.true_positive, self.true_positive + self.false_positive),
            ratio(self.true_negative, self.true_negative + self.false_negative),
        )
    }

    /// Mean over both classes of the recall.
    pub fn macro_recall(&self) -> Option<f64> {
        mean(
            ratio(self.true_positive, self.true_positive + self.false_negative),
            ratio(self.true_negative, self.true_negative + self.false_positive),
        )
    }

    /// Mean over both classes of the F1 of each.
    pub fn macro_f1(&self) -> Option<f64> {
        let wrong = self.false_positive + self.false_negative;
        mean(
            ratio(2 * self.true_positive, 2 * self.true_positive + wrong),
            ratio(2 * self.true_negative, 2 * self.true_negative + wrong),
        )
    }
}

fn ratio(part: i64, whole: i64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn mean(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    Some(f64::midpoint(a?, b?))
}

/// The area under the ROC curve as whole numbers: of all pairs of a patient
/// with the stage and one without, how many the score ranks rightly.
///
/// Two of these for neighbouring ranges of score add up to the one of both
/// ranges: that makes a tree of them, and a changed score touches one path.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Auc {
    /// Patients with the stage.
    pub positives: i64,
    /// Patients without.
    pub negatives: i64,
    /// Twice the pairs ranked rightly, plus the pairs that tie.
    pub twice_wins: i64,
}

impl Auc {
    /// Patients who all have the same score.
    pub fn tied(positives: i64, negatives: i64) -> Self {
        Self {
            positives,
            negatives,
            twice_wins: positives * negatives,
        }
    }

    /// Adds patients whose scores are all higher than those counted so far.
    pub fn append(&mut self, higher: &Self) {
        self.twice_wins += higher.twice_wins + 2 * higher.positives * self.negatives;
        self.positives += higher.positives;
        self.negatives += higher.negatives;
    }

    /// The area, 0 to 1; `None` unless there are patients with and without.
    pub fn area(&self) -> Option<f64> {
        ratio(self.twice_wins, 2 * self.positives * self.negatives)
    }
}

/// The standing evaluation of one rater on one question.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Evaluation {
    /// Its yes and no.
    pub confusion: Confusion,
    /// Its ranking.
    pub auc: Auc,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_confusion_matrix_gives_the_published_figures() {
        // 17 patients, 8 of 9 and 5 of 8 right.
        let matrix = Confusion {
            true_negative: 8,
            false_positive: 1,
            true_positive: 5,
            false_negative: 3,
            undecided: 0,
        };
        let percent = |value: Option<f64>| format!("{:.2}", value.unwrap() * 100.0);
        assert_eq!(percent(matrix.accuracy()), "76.47");
        assert_eq!(percent(matrix.macro_precision()), "78.03");
        assert_eq!(percent(matrix.macro_recall()), "75.69");
        assert_eq!(percent(matrix.macro_f1()), "75.71");
        assert_eq!(Confusion::default().accuracy(), None);
    }
}
