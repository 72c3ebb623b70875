use std::fmt;
use std::str::FromStr;

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

/// How severe a model finds a window of which it gives its classes these
/// probabilities: their mean place, from 0 for the first to 1 for the last. `None` of
/// fewer than two.
///
/// ```
/// use hepaflow::domain::severity;
/// assert_eq!(severity([0.25, 0.75].into_iter()), Some(0.75));
/// assert_eq!(severity([0.0, 1.0, 0.0].into_iter()), Some(0.5));
/// assert_eq!(severity([1.0].into_iter()), None);
/// ```
pub fn severity(probabilities: impl ExactSizeIterator<Item = f64>) -> Option<f64> {
    let last = probabilities.len().checked_sub(1)?;
    let places = probabilities.enumerate();
    let sum: f64 = places.map(|(place, p)| place as f64 * p).sum();
    (last > 0).then(|| sum / last as f64)
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

impl ClipPrediction {
    /// How severe the model finds it: see [`severity`].
    pub fn severity(&self) -> Option<f64> {
        severity(self.probabilities.iter().map(|p| p.to_f64()))
    }
}

/// Why an answer is no more than a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Abstention {
    /// Too few usable clips.
    ThinEvidence,
    /// Too many clips see another class than the patient's likeliest.
    ClipsDisagree,
}

impl Abstention {
    /// All reasons.
    pub const ALL: [Self; 2] = [Self::ThinEvidence, Self::ClipsDisagree];
}

impl fmt::Display for Abstention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ThinEvidence => "thin_evidence",
            Self::ClipsDisagree => "clips_disagree",
        })
    }
}

impl FromStr for Abstention {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|why| why.to_string() == text);
        found.ok_or_else(|| "this is no reason to abstain".to_owned())
    }
}

/// The standing answer for one patient under one model.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PatientResult {
    /// Whose answer.
    pub patient: PatientId,
    /// Under which model.
    pub model: ModelHash,
    /// Whether that is the active model: one answer of a patient is.
    pub current: bool,
    /// How many clips it rests on.
    pub clips: u64,
    /// Clips of weight 0, which it does not rest on.
    pub left_out: u64,
    /// Sum of the weights of the clips that count, 1/256 each at least and 256
    /// of these for a clip that is to be trusted fully.
    pub weight: u64,
    /// Weighted mean probability of each class, `[K]`; empty without clips.
    pub probabilities: Vec<Probability>,
    /// Why nothing is concluded, if nothing is.
    pub abstention: Option<Abstention>,
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
    ///     current: true,
    ///     clips: 3,
    ///     left_out: 0,
    ///     weight: 3 * 256,
    ///     probabilities: [0.25, 0.75].map(|p| Probability::from_f64(p).unwrap()).to_vec(),
    ///     abstention: None,
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
