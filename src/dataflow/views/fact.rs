use serde::{Deserialize, Serialize};

use crate::domain::{ClipKey, PatientId, Probability};

/// A clip's prediction with how much its picture is to be trusted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClipFact {
    /// Which window under which model.
    pub key: ClipKey,
    /// Whose it is, according to the recording itself.
    pub patient: PatientId,
    /// Weight in 1/256, 0 to 256; a clip of weight 0 is left out.
    pub weight: u16,
    /// One probability a class, `[K]`.
    pub probabilities: Vec<Probability>,
}
