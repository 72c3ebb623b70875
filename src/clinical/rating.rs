use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{BloodTest, Cutoffs, Etiology, Milli, Verdict};
use crate::domain::{ModelHash, Stage};

/// The three questions: significant fibrosis, advanced fibrosis, cirrhosis.
pub const TARGETS: [Stage; 3] = [Stage::F2, Stage::F3, Stage::F4];

/// Who has an opinion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Rater {
    /// A model.
    Model(ModelHash),
    /// FIB-4.
    Fib4,
    /// APRI.
    Apri,
    /// Shear wave or transient elastography.
    Elastography,
}

impl fmt::Display for Rater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(model) => model.fmt(f),
            Self::Fib4 => f.write_str("fib4"),
            Self::Apri => f.write_str("apri"),
            Self::Elastography => f.write_str("elastography"),
        }
    }
}

impl FromStr for Rater {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fib4" => Ok(Self::Fib4),
            "apri" => Ok(Self::Apri),
            "elastography" => Ok(Self::Elastography),
            model => model
                .parse()
                .map(Self::Model)
                .map_err(|_| "expected fib4, apri, elastography or the hash of a model".to_owned()),
        }
    }
}

/// A model's opinion beside an index's, both having one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Agreement {
    /// Which model.
    pub model: ModelHash,
    /// Beside whom.
    pub index: Rater,
    /// Which question.
    pub target: Stage,
    /// What the model says.
    pub model_says: bool,
    /// What the index says.
    pub index_says: bool,
}

/// FIB-4 and APRI of a patient's standing blood test, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Indices {
    /// FIB-4.
    pub fib4: Milli,
    /// What it says of >= F3, by the cut-offs of chronic hepatitis.
    pub fib4_class: Verdict,
    /// APRI.
    pub apri: Milli,
    /// What it says of >= F2.
    pub apri_class: Verdict,
}

impl Indices {
    /// The indices of a [checked](BloodTest::checked) test.
    pub fn of(test: &BloodTest) -> Self {
        let (fib4, apri) = (test.fib4(), test.apri());
        Self {
            fib4,
            fib4_class: Cutoffs::fib4(Etiology::Viral, test.age).verdict(fib4),
            apri,
            apri_class: Cutoffs::APRI.verdict(apri),
        }
    }
}
