use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// METAVIR fibrosis stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Stage {
    /// No fibrosis.
    F0,
    /// Portal fibrosis without septa.
    F1,
    /// Portal fibrosis with few septa: significant fibrosis begins here.
    F2,
    /// Numerous septa without cirrhosis: advanced fibrosis begins here.
    F3,
    /// Cirrhosis.
    F4,
}

impl Stage {
    /// All stages, mildest first.
    pub const ALL: [Self; 5] = [Self::F0, Self::F1, Self::F2, Self::F3, Self::F4];
}

/// A text named no METAVIR stage or range of stages.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is no METAVIR stage: expected F0, F1, F2, F3 or F4, or a rising range such as F0-F1"
)]
pub struct ParseStageError(String);

impl FromStr for Stage {
    type Err = ParseStageError;

    fn from_str(text: &str) -> Result<Self, ParseStageError> {
        match text.trim() {
            "F0" => Ok(Self::F0),
            "F1" => Ok(Self::F1),
            "F2" => Ok(Self::F2),
            "F3" => Ok(Self::F3),
            "F4" => Ok(Self::F4),
            other => Err(ParseStageError(other.to_owned())),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "F{}", *self as u8)
    }
}

/// What one output class of a model means: the stages from `lowest` to
/// `highest`, both included.
///
/// ```
/// use hepaflow::domain::{Stage, StageRange};
/// let significant: StageRange = "F2-F4".parse().unwrap();
/// assert!(significant.lowest == Stage::F2 && significant.highest == Stage::F4);
/// assert_eq!("F3".parse::<StageRange>().unwrap().to_string(), "F3");
/// assert!("F4-F2".parse::<StageRange>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StageRange {
    /// The mildest stage in the class.
    pub lowest: Stage,
    /// The severest stage in the class.
    pub highest: Stage,
}

impl FromStr for StageRange {
    type Err = ParseStageError;

    fn from_str(text: &str) -> Result<Self, ParseStageError> {
        let (lowest, highest) = match text.split_once('-') {
            Some((lowest, highest)) => (lowest.parse()?, highest.parse()?),
            None => (text.parse()?, text.parse()?),
        };
        if lowest > highest {
            return Err(ParseStageError(text.to_owned()));
        }
        Ok(Self { lowest, highest })
    }
}

impl fmt::Display for StageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lowest == self.highest {
            write!(f, "{}", self.lowest)
        } else {
            write!(f, "{}-{}", self.lowest, self.highest)
        }
    }
}

impl Serialize for StageRange {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StageRange {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
