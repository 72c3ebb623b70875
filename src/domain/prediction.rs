use serde::{Deserialize, Serialize};

use super::{ClipKey, ClipSpan, ModelHash, PatientId, Stage, StageRange, StudyUid};

/// A probability in fixed point, in units of 2^-32.
///
/// Sums of these are exact, so a patient's mean is the same to the last bit in
/// whatever order the clips arrive and however many workers added them up.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Probability(i64);

impl Probability {
    const ONE: f64 = (1_u64 << 32) as f64;

    /// The nearest representable probability to `value`, clamped to `[0, 1]`;
    /// `None` if it is not a number.
    ///
    /// ```
    /// use hepaflow::domain::Probability;
    /// let third = Probability::from_f64(1.0 / 3.0).unwrap();
    /// assert!((third.to_f64() - 1.0 / 3.0).abs() < 1e-9);
    /// assert!(Probability::from_f64(f64::NAN).is_none());
    /// ```
    pub fn from_f64(value: f64) -> Option<Self> {
        (!value.is_nan()).then(|| Self((value.clamp(0.0, 1.0) * Self::ONE).round() as i64))
    }

    /// Units of 2^-32, as stored.
    pub const fn from_raw(raw: i64) -> Self {
        Self(raw)
    }

    /// Units of 2^-32, to store.
    pub const fn to_raw(self) -> i64 {
        self.0
    }

    /// As a fraction of one.
    pub fn to_f64(self) -> f64 {
        self.0 as f64 / Self::ONE
    }
}

/// What a model said of one clip.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClipPrediction {
    /// Which window of which bytes under which model.
    pub key: ClipKey,
    /// Where in the stream the window lies.
    pub span: ClipSpan,
    /// Whose it is.
    pub patient: PatientId,
    /// The DICOM study it came from, if it came from one.
    pub study: Option<StudyUid>,
    /// The source's name in the pipeline file.
    pub source: String,
    /// One probability a class, in the model's order: `[K]`.
    pub probabilities: Vec<Probability>,
}

/// The running sum behind one patient's answer: how many clips, and the sum of
/// their probabilities class by class.
///
/// It is a group (it adds, subtracts and has a zero), which is what lets an
/// incremental computation retract a clip as exactly as it added it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tally {
    clips: i64,
    sums: Vec<i64>,
}

impl Tally {
    /// The tally of one clip.
    pub fn of(probabilities: &[Probability]) -> Self {
        Self {
            clips: 1,
            sums: probabilities.iter().map(|p| p.0).collect(),
        }
    }

    /// How many clips were added, less those retracted.
    pub const fn clips(&self) -> i64 {
        self.clips
    }

    /// True when everything that was added has been retracted.
    pub fn is_zero(&self) -> bool {
        self.clips == 0 && self.sums.iter().all(|&sum| sum == 0)
    }

    /// Adds `other`. A shorter list of classes counts as padded with zeros.
    pub fn add(&mut self, other: &Self) {
        self.clips += other.clips;
        if self.sums.len() < other.sums.len() {
            self.sums.resize(other.sums.len(), 0);
        }
        for (sum, more) in self.sums.iter_mut().zip(&other.sums) {
            *sum += more;
        }
    }

    /// Turns an addition into a retraction and back.
    pub fn negate(&mut self) {
        self.clips = -self.clips;
        self.sums.iter_mut().for_each(|sum| *sum = -*sum);
    }

    /// Mean probability of each class, `[K]`; empty without clips.
    pub fn means(&self) -> Vec<Probability> {
        match self.clips {
            ..=0 => Vec::new(),
            clips => self
                .sums
                .iter()
                // Rounds half up, exactly, in integers.
                .map(|&sum| Probability((2 * sum + clips).div_euclid(2 * clips)))
                .collect(),
        }
    }
}

/// The standing answer for one patient under one model.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PatientResult {
    /// Whose answer.
    pub patient: PatientId,
    /// Under which model.
    pub model: ModelHash,
    /// How many clips it rests on.
    pub clips: u64,
    /// Mean probability of each class, `[K]`.
    pub probabilities: Vec<Probability>,
}

impl PatientResult {
    /// P(stage >= `stage`), given what each class means; `None` where a class
    /// straddles the boundary, so that the model cannot tell.
    ///
    /// ```
    /// # use hepaflow::domain::*;
    /// let result = PatientResult {
    ///     patient: PatientId::new("p"),
    ///     model: ModelHash::of(b""),
    ///     clips: 3,
    ///     probabilities: [0.25, 0.75].map(|p| Probability::from_f64(p).unwrap()).to_vec(),
    /// };
    /// let classes = ["F0-F1", "F2-F4"].map(|class| class.parse().unwrap());
    /// assert_eq!(result.at_least(Stage::F2, &classes), Some(0.75));
    /// assert_eq!(result.at_least(Stage::F4, &classes), None);
    /// ```
    pub fn at_least(&self, stage: Stage, classes: &[StageRange]) -> Option<f64> {
        if classes.len() != self.probabilities.len()
            || classes
                .iter()
                .any(|class| class.lowest < stage && stage <= class.highest)
        {
            return None;
        }
        let sum = classes
            .iter()
            .zip(&self.probabilities)
            .filter(|(class, _)| class.lowest >= stage)
            .map(|(_, p)| p.to_raw())
            .sum();
        Some(Probability::from_raw(sum).to_f64())
    }

    /// Index of the likeliest class; the milder one on a tie.
    pub fn likeliest(&self) -> Option<usize> {
        let best = self.probabilities.iter().max()?;
        self.probabilities.iter().position(|p| p == best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn clip() -> impl Strategy<Value = Vec<Probability>> {
        proptest::collection::vec(0.0_f64..=1.0, 3).prop_map(|values| {
            values
                .into_iter()
                .filter_map(Probability::from_f64)
                .collect()
        })
    }

    proptest! {
        #[test]
        fn the_mean_does_not_depend_on_the_order(clips in proptest::collection::vec(clip(), 1..40)) {
            let sum = |clips: &mut dyn Iterator<Item = &Vec<Probability>>| {
                let mut tally = Tally::default();
                clips.for_each(|clip| tally.add(&Tally::of(clip)));
                tally
            };
            let forward = sum(&mut clips.iter());
            prop_assert_eq!(&forward, &sum(&mut clips.iter().rev()));
            for (class, mean) in forward.means().iter().enumerate() {
                let expected = clips.iter().map(|clip| clip[class].to_f64()).sum::<f64>() / clips.len() as f64;
                prop_assert!((mean.to_f64() - expected).abs() < 1e-9);
            }
        }

        #[test]
        fn a_retraction_undoes_an_addition(clips in proptest::collection::vec(clip(), 1..10)) {
            let mut tally = Tally::default();
            for clip in &clips { tally.add(&Tally::of(clip)); }
            for clip in &clips {
                let mut back = Tally::of(clip);
                back.negate();
                tally.add(&back);
            }
            prop_assert!(tally.is_zero());
            prop_assert!(tally.means().is_empty());
        }
    }
}
