//! Names for patients and studies that tell nothing about them: what addresses
//! and pages show instead of an identifier.

use std::io;
use std::path::Path;

use rand::TryRngCore;
use rand::rngs::OsRng;

use crate::config::{KeyError, pseudonym_key};
use crate::domain::{PatientId, PseudonymKey};

/// Makes opaque names: keyed, so that nobody without the key can try out which
/// identifier gives a name.
#[derive(Clone, Debug)]
pub(super) struct Ids(PseudonymKey);

impl Ids {
    /// With the key in `file`, which is made if it is not there: names stay the
    /// same from run to run.
    pub(super) fn open(file: &Path) -> Result<Self, KeyError> {
        pseudonym_key(file).map(Self)
    }

    /// The patient's name in addresses: 32 hexadecimal digits.
    pub(super) fn patient(&self, patient: &PatientId) -> String {
        self.0.name("patient", patient.expose(), 16)
    }

    /// The patient's name for people who may not see the identifier.
    pub(super) fn label(&self, patient: &PatientId) -> String {
        let mut name = self.patient(patient).to_uppercase();
        name.truncate(6);
        format!("#{name}")
    }
}

/// Bytes that nobody can guess.
pub(super) fn random(bytes: &mut [u8]) -> io::Result<()> {
    OsRng.try_fill_bytes(bytes).map_err(io::Error::other)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text += &format!("{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_the_same_with_the_key_and_tell_nothing_without() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ids");
        let patient = PatientId::new("Doe^Jane");
        let ids = Ids::open(&file).unwrap();
        let name = ids.patient(&patient);
        assert_eq!(name.len(), 32);
        assert_eq!(Ids::open(&file).unwrap().patient(&patient), name);
        assert_ne!(ids.patient(&PatientId::new("Doe^John")), name);
        let other = Ids::open(&folder.path().join("other")).unwrap();
        assert_ne!(other.patient(&patient), name);
        assert!(!format!("{ids:?}").contains(&name[..4]));
    }
}
