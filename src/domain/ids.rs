use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// One open source within one run: a file being decoded, a scanner connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamId(pub u32);

/// Whose liver it is.
///
/// `Debug` never shows the identifier, so that a log line or an error text
/// cannot leak it by accident; [`PatientId::expose`] does, for the places whose
/// purpose is to show it: the store and the results.
///
/// The views compare identifiers more than anything else, and hold many: up to 23 bytes
/// lie in the value itself.
///
/// ```
/// use hepaflow::domain::PatientId;
/// let patient = PatientId::new("Doe^Jane");
/// assert_eq!(format!("{patient:?}"), "PatientId(redacted)");
/// assert_eq!(patient.expose(), "Doe^Jane");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PatientId(SmolStr);

impl PatientId {
    /// The patient known to the source as `identifier`.
    pub fn new(identifier: impl Into<SmolStr>) -> Self {
        Self(identifier.into())
    }

    /// The identifier itself. Call this only where a person or the store needs
    /// it, never on the way to a log, a metric, a file name or an error.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PatientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PatientId(redacted)")
    }
}

/// A DICOM Study Instance UID (0020,000D). It identifies a person as surely as
/// a name does to whoever holds the archive, so it is redacted alike.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StudyUid(Arc<str>);

impl StudyUid {
    /// The study with this UID.
    pub fn new(uid: impl Into<Arc<str>>) -> Self {
        Self(uid.into())
    }

    /// The UID itself; the same care as for [`PatientId::expose`] applies.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for StudyUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StudyUid(redacted)")
    }
}
