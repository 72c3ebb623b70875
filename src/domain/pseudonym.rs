use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::{PatientId, StudyUid};

/// A key under which identifiers get other names: HMAC-SHA256 of the identifier. The same key gives the same pseudonym, so that answers still
/// correct themselves and laboratory values still find their patient; without
/// the key nobody can tell whose it is, not even by trying all identifiers.
///
/// ```
/// use hepaflow::domain::{PatientId, PseudonymKey};
/// let key = PseudonymKey::new([7; 32]);
/// let pseudonym = key.patient(&PatientId::new("Doe^Jane"));
/// assert!(pseudonym.expose().starts_with("P-"));
/// assert_eq!(pseudonym, key.patient(&PatientId::new("Doe^Jane")));
/// assert_ne!(pseudonym, PseudonymKey::new([8; 32]).patient(&PatientId::new("Doe^Jane")));
/// ```
#[derive(Clone)]
pub struct PseudonymKey([u8; 32]);

impl PseudonymKey {
    /// The key of these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// What stands for the patient: `P-` and 80 bits in hexadecimal.
    pub fn patient(&self, patient: &PatientId) -> PatientId {
        PatientId::new(format!("P-{}", self.name("patient", patient.expose(), 10)))
    }

    /// The same for what people enter: a pseudonym stays as it is.
    ///
    /// ```
    /// # use hepaflow::domain::{PatientId, PseudonymKey};
    /// let key = PseudonymKey::new([7; 32]);
    /// let pseudonym = key.known(&PatientId::new("Doe^Jane"));
    /// assert_eq!(pseudonym, key.patient(&PatientId::new("Doe^Jane")));
    /// assert_eq!(pseudonym, key.known(&pseudonym));
    /// ```
    pub fn known(&self, patient: &PatientId) -> PatientId {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let digits = patient.expose().strip_prefix("P-");
        if digits.is_some_and(|digits| digits.len() == 20 && digits.bytes().all(is_digit)) {
            return patient.clone();
        }
        self.patient(patient)
    }

    /// Another name for `text`: the first `bytes` of its digest, at most 32, in
    /// hexadecimal. `what` keeps equal texts of different meaning apart.
    pub fn name(&self, what: &str, text: &str, bytes: usize) -> String {
        let mut name = String::with_capacity(2 * bytes);
        for byte in self.digest(what, text).iter().take(bytes) {
            name += &format!("{byte:02x}");
        }
        name
    }

    /// What stands for the study: a UID below 2.25, as PS3.5 section B.2 makes
    /// them of 128 bits.
    pub fn study(&self, study: &StudyUid) -> StudyUid {
        let digest = self.digest("study", study.expose());
        let bits = digest[..16]
            .iter()
            .fold(0_u128, |bits, &byte| bits << 8 | u128::from(byte));
        StudyUid::new(format!("2.25.{bits}"))
    }

    /// The whole digest of `text`; see [`Self::name`].
    pub fn digest(&self, what: &str, text: &str) -> [u8; 32] {
        let mut outer = [0; 32];
        // A key of any length is taken.
        if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) {
            mac.update(what.as_bytes());
            mac.update(&[0]);
            mac.update(text.as_bytes());
            outer = mac.finalize().into_bytes().into();
        }
        outer
    }
}

impl fmt::Debug for PseudonymKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PseudonymKey(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pseudonyms_are_those_of_python_s_hmac() {
        // hmac.new(bytes(range(32)), b"patient\0Doe^Jane", "sha256").hexdigest()[:20]
        // and int.from_bytes(hmac.new(.., b"study\01.2.3", "sha256").digest()[:16])
        let key = PseudonymKey::new(std::array::from_fn(|i| i as u8));
        assert_eq!(
            key.patient(&PatientId::new("Doe^Jane")).expose(),
            "P-d8e6675d365a5aa425a1"
        );
        assert_eq!(
            key.study(&StudyUid::new("1.2.3")).expose(),
            "2.25.35465625018351648717024053923445990274"
        );
        assert_eq!(format!("{key:?}"), "PseudonymKey(redacted)");
    }
}
