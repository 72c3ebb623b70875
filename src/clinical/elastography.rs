use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::index::positive;
use super::{InvalidValue, Milli};
use crate::domain::Stage;

/// How stiffness was measured. Cut-offs do not carry over from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ElastographyMethod {
    /// Two-dimensional shear wave elastography of `SuperSonic`.
    SuperSonic,
    /// Mindray's sound touch elastography.
    MindraySte,
    /// Mindray's sound touch quantification.
    MindrayStq,
    /// Transient elastography.
    Transient,
}

impl ElastographyMethod {
    /// All methods.
    pub const ALL: [Self; 4] = [
        Self::SuperSonic,
        Self::MindraySte,
        Self::MindrayStq,
        Self::Transient,
    ];

    /// As tables write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SuperSonic => "super_sonic",
            Self::MindraySte => "mindray_ste",
            Self::MindrayStq => "mindray_stq",
            Self::Transient => "transient",
        }
    }

    /// The stiffness above which `stage` or a severer one is likely, in Pa;
    /// `None` where the table has none.
    pub const fn cutoff(self, stage: Stage) -> Option<Milli> {
        match (self, stage) {
            (Self::SuperSonic, Stage::F2) => Some(7_600),
            (Self::SuperSonic, Stage::F3) => Some(9_200),
            (Self::SuperSonic, Stage::F4) => Some(10_400),
            (Self::MindraySte, Stage::F2) => Some(8_850),
            (Self::MindraySte, Stage::F3) => Some(9_970),
            (Self::MindraySte, Stage::F4) => Some(10_290),
            (Self::MindrayStq, Stage::F2) => Some(11_310),
            (Self::MindrayStq, Stage::F3) => Some(13_810),
            (Self::MindrayStq, Stage::F4) => Some(20_600),
            // WHO 2024, chronic hepatitis B.
            (Self::Transient, Stage::F2) => Some(7_000),
            (Self::Transient, Stage::F4) => Some(12_500),
            _ => None,
        }
    }
}

/// A text named no method of elastography.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected super_sonic, mindray_ste, mindray_stq or transient")]
pub struct UnknownMethod;

impl FromStr for ElastographyMethod {
    type Err = UnknownMethod;

    fn from_str(text: &str) -> Result<Self, UnknownMethod> {
        let method = Self::ALL.into_iter().find(|method| method.name() == text);
        method.ok_or(UnknownMethod)
    }
}

/// One measurement of stiffness; of two the stiffer is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Elastography {
    /// Young's modulus in thousandths of kPa, that is in Pa.
    pub stiffness: Milli,
    /// How it was measured.
    pub method: ElastographyMethod,
}

impl Elastography {
    /// Takes a modulus in Pa.
    ///
    /// # Errors
    /// If no liver can be that stiff.
    pub fn from_pascal(method: ElastographyMethod, stiffness: Milli) -> Result<Self, InvalidValue> {
        let stiffness = positive(stiffness, 300, "stiffness", "kPa")?;
        Ok(Self { stiffness, method })
    }

    /// Takes a shear wave speed in mm/s: E = 3 rho v^2 with rho = 1000 kg/m^3.
    ///
    /// # Errors
    /// If no liver can be that stiff.
    pub fn from_speed(method: ElastographyMethod, speed: Milli) -> Result<Self, InvalidValue> {
        let speed = positive(speed, 10, "shear wave speed", "m/s")?;
        // 3000 kg/m^3 x (speed / 1000)^2, rounded half up.
        Self::from_pascal(method, (3 * speed * speed + 500) / 1000)
    }

    /// Whether `stage` or a severer one is likely; `None` without a cut-off.
    pub fn at_least(&self, stage: Stage) -> Option<bool> {
        Some(self.stiffness > self.method.cutoff(stage)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speed_becomes_a_modulus() {
        let method = ElastographyMethod::SuperSonic;
        let soft = Elastography::from_speed(method, 1_500).unwrap();
        assert_eq!(soft.stiffness, 6_750);
        assert_eq!(soft.at_least(Stage::F2), Some(false));
        assert!(Elastography::from_speed(method, -1).is_err());
        assert!(Elastography::from_pascal(method, 300_000).is_err());
    }

    #[test]
    fn cut_offs_rise_with_the_stage_and_a_missing_one_says_nothing() {
        for method in ElastographyMethod::ALL {
            let known: Vec<_> = Stage::ALL
                .into_iter()
                .filter_map(|stage| method.cutoff(stage))
                .collect();
            assert!(known.len() >= 2 && known.is_sorted(), "{method:?}");
        }
        let transient = Elastography::from_pascal(ElastographyMethod::Transient, 9_000).unwrap();
        assert_eq!(transient.at_least(Stage::F2), Some(true));
        assert_eq!(transient.at_least(Stage::F3), None);
    }
}
