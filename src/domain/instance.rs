use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::StudyUid;

/// The DICOM instance that a stream is: what a report on it refers to, and what
/// the report repeats so that an archive files it beside its source.
///
/// `Debug` shows nothing of it: all of it identifies a person.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// SOP Class UID (0008,0016).
    pub class: String,
    /// SOP Instance UID (0008,0018).
    pub uid: String,
    /// Series Instance UID (0020,000E).
    pub series: String,
    /// Study Instance UID (0020,000D).
    pub study: StudyUid,
    /// Number of Frames (0028,0008), at least one.
    pub frames: u64,
    /// Where its bytes were read.
    pub file: PathBuf,
    /// What it says of the patient and of the study: group, element, value.
    pub repeated: Vec<(u16, u16, String)>,
}

impl Instance {
    /// The repeated value of this element.
    pub fn value(&self, group: u16, element: u16) -> Option<&str> {
        let found = self
            .repeated
            .iter()
            .find(|(g, e, _)| (*g, *e) == (group, element));
        found.map(|(.., value)| value.as_str())
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Instance(redacted)")
    }
}
