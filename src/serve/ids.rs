//! Names for patients and studies that tell nothing about them: what addresses
//! and pages show instead of an identifier.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use hmac::{Hmac, Mac};
use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::Sha256;

use crate::domain::PatientId;

/// Makes opaque names: keyed, so that nobody without the key can try out which
/// identifier gives a name.
#[derive(Clone)]
pub(super) struct Ids([u8; 32]);

impl std::fmt::Debug for Ids {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ids(secret)")
    }
}

impl Ids {
    /// With the key in `file`, which is made if it is not there: names stay the
    /// same from run to run, and in all processes that run at once. It appears whole
    /// or not at all, and the first one made stays.
    pub(super) fn open(file: &Path) -> io::Result<Self> {
        let mut key = [0; 32];
        if !file.exists() {
            random(&mut key)?;
            let folder = file.parent().filter(|it| !it.as_os_str().is_empty());
            // For this user alone: temporary files are.
            let mut made = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
            made.write_all(&key)?;
            made.as_file().sync_all()?;
            match made.persist_noclobber(file) {
                Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(error.error);
                }
                _ => {}
            }
        }
        File::open(file)?.read_exact(&mut key)?;
        Ok(Self(key))
    }

    /// The patient's name in addresses: 32 hexadecimal digits.
    pub(super) fn patient(&self, patient: &PatientId) -> String {
        self.name("patient", patient.expose())
    }

    /// The patient's name for people who may not see the identifier.
    pub(super) fn label(&self, patient: &PatientId) -> String {
        let mut name = self.patient(patient).to_uppercase();
        name.truncate(6);
        format!("#{name}")
    }

    fn name(&self, kind: &str, text: &str) -> String {
        // HMAC takes keys of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            return String::new();
        };
        mac.update(kind.as_bytes());
        mac.update(&[0]);
        mac.update(text.as_bytes());
        hex(&mac.finalize().into_bytes()[..16])
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
