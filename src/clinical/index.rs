use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{LARGEST, Milli};

/// A value that cannot be what its column says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{quantity} must lie above 0 and below {limit} {unit}: check the value and its unit")]
pub struct InvalidValue {
    /// What was measured.
    pub quantity: &'static str,
    /// The unit expected.
    pub unit: &'static str,
    /// The first value refused, in that unit.
    pub limit: i64,
}

pub(super) fn positive(
    value: Milli,
    limit: i64,
    quantity: &'static str,
    unit: &'static str,
) -> Result<Milli, InvalidValue> {
    if value > 0 && value < limit * 1000 {
        Ok(value)
    } else {
        Err(InvalidValue {
            quantity,
            unit,
            limit,
        })
    }
}

/// One blood draw, as FIB-4 and APRI need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BloodTest {
    /// Age at the draw, thousandths of a year.
    pub age: Milli,
    /// Aspartate aminotransferase, thousandths of U/L.
    pub ast: Milli,
    /// Alanine aminotransferase, thousandths of U/L.
    pub alt: Milli,
    /// Platelets, thousandths of 10^9/L (the same number as 10^3/uL).
    pub platelets: Milli,
    /// The laboratory's upper limit of normal of AST, thousandths of U/L.
    pub ast_upper_limit: Milli,
}

impl BloodTest {
    /// The upper limit of normal where a laboratory gives none: 40 U/L.
    pub const DEFAULT_AST_UPPER_LIMIT: Milli = 40_000;

    /// Checks every value.
    ///
    /// # Errors
    /// The first value that no blood test can have.
    pub fn checked(self) -> Result<Self, InvalidValue> {
        positive(self.age, 130, "age", "years")?;
        positive(self.ast, 100_000, "AST", "U/L")?;
        positive(self.alt, 100_000, "ALT", "U/L")?;
        positive(self.platelets, 5_000, "platelets", "10^9/L")?;
        positive(
            self.ast_upper_limit,
            1_000,
            "AST upper limit of normal",
            "U/L",
        )?;
        Ok(self)
    }

    /// FIB-4 = age x AST / (platelets x sqrt(ALT)), with age in years, AST and
    /// ALT in U/L and platelets in 10^9/L; in thousandths, of a test that was [checked](Self::checked).
    ///
    /// ```
    /// use hepaflow::clinical::BloodTest;
    /// let test = BloodTest {
    ///     age: 50_000, ast: 40_000, alt: 30_000, platelets: 200_000, ast_upper_limit: 40_000,
    /// };
    /// assert_eq!(test.fib4(), 1_826);
    /// assert_eq!(test.apri(), 500);
    /// ```
    pub fn fib4(&self) -> Milli {
        let unit = |value: Milli| value as f64 / 1e3;
        // IEEE 754 rounds each of these operations in one way only.
        let value =
            unit(self.age) * unit(self.ast) / (unit(self.platelets) * unit(self.alt).sqrt());
        ((value * 1e3).round() as Milli).min(LARGEST)
    }

    /// APRI = 100 x (AST / its upper limit of normal) / platelets [10^9/L], in
    /// thousandths, rounded half up, of a test that was [checked](Self::checked).
    pub fn apri(&self) -> Milli {
        let above = 100_000_i128 * 1000 * i128::from(self.ast);
        let below = i128::from(self.ast_upper_limit) * i128::from(self.platelets);
        let rounded = (2 * above + below).div_euclid(2 * below);
        Milli::try_from(rounded).unwrap_or(LARGEST).min(LARGEST)
    }
}

/// Why the liver is ill: it decides which cut-offs hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Etiology {
    /// Chronic hepatitis B or C.
    Viral,
    /// Steatotic liver disease.
    Steatotic,
}

/// An index from a blood test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Index {
    /// Fibrosis-4; its cut-offs speak of advanced fibrosis (>= F3).
    Fib4,
    /// AST to platelet ratio; its cut-offs speak of significant fibrosis (>= F2).
    Apri,
}

/// What a value says, given a lower and an upper cut-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// Below the lower cut-off: the stage is unlikely.
    Unlikely,
    /// Between the two: nothing is said.
    Undecided,
    /// Above the upper cut-off: the stage is likely.
    Likely,
}

impl Verdict {
    /// Whether the stage is likely, or `None` where nothing is said.
    pub const fn decided(self) -> Option<bool> {
        match self {
            Self::Unlikely => Some(false),
            Self::Undecided => None,
            Self::Likely => Some(true),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unlikely => "unlikely",
            Self::Undecided => "undecided",
            Self::Likely => "likely",
        })
    }
}

impl FromStr for Verdict {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "unlikely" => Ok(Self::Unlikely),
            "undecided" => Ok(Self::Undecided),
            "likely" => Ok(Self::Likely),
            _ => Err("expected unlikely, undecided or likely".to_owned()),
        }
    }
}

/// A lower and an upper cut-off, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutoffs {
    /// Values below it speak against the stage.
    pub lower: Milli,
    /// Values above it speak for the stage.
    pub upper: Milli,
}

impl Cutoffs {
    /// FIB-4 for >= F3: 1.45 and 3.25 in chronic hepatitis; 1.3 and 2.67 in
    /// steatotic disease, where the lower one is 2.0 from 65 years on.
    pub const fn fib4(etiology: Etiology, age: Milli) -> Self {
        let (lower, upper) = match etiology {
            Etiology::Viral => (1_450, 3_250),
            Etiology::Steatotic if age >= 65_000 => (2_000, 2_670),
            Etiology::Steatotic => (1_300, 2_670),
        };
        Self { lower, upper }
    }

    /// APRI for >= F2: 0.5 and 1.5.
    pub const APRI: Self = Self {
        lower: 500,
        upper: 1_500,
    };

    /// What `value` says. A value on a cut-off is between.
    pub const fn verdict(self, value: Milli) -> Verdict {
        if value < self.lower {
            Verdict::Unlikely
        } else if value > self.upper {
            Verdict::Likely
        } else {
            Verdict::Undecided
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEST: BloodTest = BloodTest {
        age: 50_000,
        ast: 40_000,
        alt: 30_000,
        platelets: 200_000,
        ast_upper_limit: BloodTest::DEFAULT_AST_UPPER_LIMIT,
    };

    #[test]
    fn what_no_blood_test_can_have_is_refused_by_name() {
        for (test, quantity) in [
            (
                BloodTest {
                    platelets: -1,
                    ..TEST
                },
                "platelets",
            ),
            (
                BloodTest {
                    platelets: 0,
                    ..TEST
                },
                "platelets",
            ),
            (BloodTest { alt: 0, ..TEST }, "ALT"),
            (
                BloodTest {
                    age: 130_000,
                    ..TEST
                },
                "age",
            ),
        ] {
            assert_eq!(test.checked().unwrap_err().quantity, quantity);
        }
        assert_eq!(TEST.checked(), Ok(TEST));
    }

    #[test]
    fn between_the_cut_offs_nothing_is_said() {
        let viral = Cutoffs::fib4(Etiology::Viral, 70_000);
        assert_eq!(viral.verdict(1_449), Verdict::Unlikely);
        assert_eq!(viral.verdict(1_450), Verdict::Undecided);
        assert_eq!(viral.verdict(3_250), Verdict::Undecided);
        assert_eq!(viral.verdict(3_251), Verdict::Likely);
        let steatotic = |age| Cutoffs::fib4(Etiology::Steatotic, age).verdict(1_900);
        assert_eq!(steatotic(64_999), Verdict::Undecided);
        assert_eq!(steatotic(65_000), Verdict::Unlikely);
    }

    proptest! {
        /// Against the square of the definition, which needs no square root.
        #[test]
        fn fib4_is_its_definition(age in 1_i64..130_000, ast in 1_i64..9_999_999, alt in 1_i64..9_999_999, platelets in 1_000_i64..4_999_999) {
            let test = BloodTest { age, ast, alt, platelets, ..TEST };
            let squared = (age as f64 * ast as f64 / platelets as f64).powi(2) * 1e3 / alt as f64;
            let value = test.fib4() as f64;
            if test.fib4() < LARGEST {
                prop_assert!((value - squared.sqrt()).abs() <= 0.5 + value * 1e-12);
            }
            let apri = 1e8 * ast as f64 / (40_000.0 * platelets as f64);
            prop_assert!((test.apri() as f64 - apri).abs() <= 0.5 + 1e-6);
        }
    }
}
