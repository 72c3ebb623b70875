//! Names for patients and studies that tell nothing about them: what addresses
//! and pages show instead of an identifier.

use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRngCore;
use rand::rngs::OsRng;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::config::{KeyError, pseudonym_key};
use crate::domain::{PatientId, PseudonymKey};

/// A name's plain text is filled up to a multiple of so many bytes, so that its length
/// says little.
const BLOCK: usize = 16;

/// What begins the filling.
const END: u8 = 0x80;

/// Makes opaque names, and opens them: an identifier, encrypted under a key, so that
/// nobody without it learns anything from a name or can make one up. Equal identifiers
/// have equal names: the nonce is a keyed digest of the identifier, as in the
/// synthetic-IV modes of RFC 5297 and RFC 8452, and no two identifiers share one.
#[derive(Debug)]
pub(super) struct Ids {
    key: PseudonymKey,
    cipher: LessSafeKey,
}

impl Ids {
    /// With the key in `file`, which is made if it is not there: names stay the
    /// same from run to run, and in all processes that run at once.
    pub(super) fn open(file: &Path) -> Result<Self, KeyError> {
        let key = pseudonym_key(file)?;
        let cipher = UnboundKey::new(&AES_256_GCM, &key.digest("names in addresses", ""));
        let cipher = cipher.map_err(|_| KeyError::NoKey(file.to_owned()))?;
        let cipher = LessSafeKey::new(cipher);
        Ok(Self { key, cipher })
    }

    /// The patient's name in addresses: letters, digits, `-` and `_`.
    pub(super) fn patient(&self, patient: &PatientId) -> String {
        let nonce = self.nonce(patient);
        let mut sealed = patient.expose().as_bytes().to_vec();
        sealed.push(END);
        sealed.resize(sealed.len().next_multiple_of(BLOCK), 0);
        let unique = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .cipher
            .seal_in_place_separate_tag(unique, Aad::empty(), &mut sealed);
        // Only gigabytes cannot be encrypted; this opens to nobody.
        let Ok(tag) = tag else { return String::new() };
        URL_SAFE_NO_PAD.encode([&nonce, &sealed[..], tag.as_ref()].concat())
    }

    /// Whose name this is, if it is one that [`Ids::patient`] made.
    pub(super) fn opened(&self, name: &str) -> Option<PatientId> {
        let bytes = URL_SAFE_NO_PAD.decode(name).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let mut sealed = sealed.to_vec();
        let unique = Nonce::assume_unique_for_key(*nonce);
        let opened = self
            .cipher
            .open_in_place(unique, Aad::empty(), &mut sealed)
            .ok()?;
        let end = opened.iter().rposition(|byte| *byte == END)?;
        let text = std::str::from_utf8(opened.get(..end)?).ok()?;
        Some(PatientId::new(text))
    }

    fn nonce(&self, patient: &PatientId) -> [u8; NONCE_LEN] {
        let digest = self.key.digest("patient", patient.expose());
        std::array::from_fn(|place| digest[place])
    }

    /// The patient's name for people who may not see the identifier.
    pub(super) fn label(&self, patient: &PatientId) -> String {
        let name = self.key.name("patient", patient.expose(), 3);
        format!("#{}", name.to_uppercase())
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
        assert_eq!(ids.patient(&PatientId::new("D")).len(), name.len());
        assert_eq!(Ids::open(&file).unwrap().patient(&patient), name);
        assert_ne!(ids.patient(&PatientId::new("Doe^John")), name);
        let other = Ids::open(&folder.path().join("other")).unwrap();
        assert_ne!(other.patient(&patient), name);
        assert!(!format!("{ids:?}").contains(&name[..4]));
    }

    #[test]
    fn a_name_is_opened_with_its_key_alone_and_none_can_be_made_up() {
        let folder = tempfile::tempdir().unwrap();
        let ids = Ids::open(&folder.path().join("ids")).unwrap();
        let other = Ids::open(&folder.path().join("other")).unwrap();
        let longest = "x".repeat(256);
        for identifier in [
            "",
            "P",
            "15 characters..",
            "16 characters...",
            "王\u{80}",
            &longest,
        ] {
            let patient = PatientId::new(identifier);
            let name = ids.patient(&patient);
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            assert!(name.bytes().all(is_plain), "{name}");
            assert_eq!(ids.opened(&name), Some(patient));
            assert_eq!(other.opened(&name), None);
            for place in 0..name.len() {
                let mut forged = name.clone().into_bytes();
                forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
                let forged = String::from_utf8(forged).unwrap();
                assert_eq!(ids.opened(&forged), None, "{identifier} at {place}");
            }
        }
        for name in ["", "A", "0123456789abcdef0123456789abcdef", "=", "ä"] {
            assert_eq!(ids.opened(name), None);
        }
    }
}
