//! What may be wrong with a row of labels.

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::{InvalidValue, UnknownMethod};

/// Why a row is left out. No text shows a value: it may name a patient.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowProblem {
    /// Bytes that are no text.
    #[error("this line is not UTF-8")]
    NotUtf8,
    /// More or fewer columns than the header.
    #[error("{found} columns where the header has {expected}")]
    Columns {
        /// In this row.
        found: usize,
        /// In the header.
        expected: usize,
    },
    /// Nobody's row.
    #[error("patient_id is empty")]
    NoPatient,
    /// An identifier that is none.
    #[error("patient_id is longer than 256 bytes or has control characters")]
    Patient,
    /// A column that holds no number.
    #[error("{0} is not a number such as 41.5")]
    NoNumber(&'static str),
    /// A column that holds no day.
    #[error("{0} is not a date such as 2024-05-17")]
    NoDate(&'static str),
    /// A day that has not begun anywhere.
    #[error("{0} lies in the future")]
    Future(&'static str),
    /// Part of a blood test.
    #[error("{0} is missing: a blood test needs age_years, ast_u_l, alt_u_l and platelets_10e9_l")]
    Missing(&'static str),
    /// No liver, no blood has such a value.
    #[error(transparent)]
    Impossible(#[from] InvalidValue),
    /// Unheard-of elastography.
    #[error("swe_method: {0}")]
    Method(#[from] UnknownMethod),
    /// No stage of METAVIR or Scheuer.
    #[error("stage is none of F0, F1, F2, F3, F4 (or S0 to S4)")]
    Stage,
    /// A patient, and nothing about them.
    #[error("no blood test, no swe_kpa and no stage")]
    Nothing,
    /// Two rows contradict each other.
    #[error("another {kind} of the same patient and date stands in line {line}")]
    Contradicts {
        /// What both say something about.
        kind: &'static str,
        /// The earlier one's line.
        line: u64,
    },
    /// The log does not take it.
    #[error("{0}")]
    Refused(String),
}

impl RowProblem {
    /// A stable word for programs, which may have their own texts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotUtf8 => "not_utf8",
            Self::Columns { .. } => "columns",
            Self::NoPatient => "no_patient",
            Self::Patient => "patient",
            Self::NoNumber(_) => "no_number",
            Self::NoDate(_) => "no_date",
            Self::Future(_) => "future",
            Self::Missing(_) => "missing",
            Self::Impossible(_) => "impossible",
            Self::Method(_) => "method",
            Self::Stage => "stage",
            Self::Nothing => "nothing",
            Self::Contradicts { .. } => "contradicts",
            Self::Refused(_) => "refused",
        }
    }

    /// The column that is wrong, or for an impossible value what it should be of.
    pub fn place(&self) -> Option<&'static str> {
        match self {
            Self::NoNumber(column)
            | Self::NoDate(column)
            | Self::Future(column)
            | Self::Missing(column) => Some(column),
            Self::NoPatient | Self::Patient => Some("patient_id"),
            Self::Method(_) => Some("swe_method"),
            Self::Stage => Some("stage"),
            Self::Impossible(value) => Some(value.quantity),
            Self::Contradicts { kind, .. } => Some(kind),
            Self::NotUtf8 | Self::Columns { .. } | Self::Nothing | Self::Refused(_) => None,
        }
    }
}

/// The text, the code, and the place if there is one.
impl Serialize for RowProblem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let place = self.place();
        let fields = 2 + usize::from(place.is_some());
        let mut row = serializer.serialize_struct("RowProblem", fields)?;
        row.serialize_field("problem", &self.to_string())?;
        row.serialize_field("code", self.code())?;
        match place {
            Some(place) => row.serialize_field("place", place)?,
            None => row.skip_field("place")?,
        }
        row.end()
    }
}
