use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// The text was not 64 hexadecimal digits.
#[derive(Debug, thiserror::Error)]
#[error("expected 64 hexadecimal digits")]
pub struct ParseHashError;

macro_rules! sha256_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        // Digits where people read, bytes between machines.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; 32]>::deserialize(deserializer).map(Self)
                }
            }
        }

        impl $name {
            /// The SHA-256 of `bytes`.
            pub fn of(bytes: &[u8]) -> Self {
                Self(Sha256::digest(bytes).into())
            }

            /// Takes over a digest computed piece by piece.
            pub fn from_digest(digest: Sha256) -> Self {
                Self(digest.finalize().into())
            }

            /// Which of `parts` equal parts of all hashes this one falls into.
            pub fn share(&self, parts: usize) -> usize {
                let head = self.0.iter().take(8);
                let head = head.fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
                (head % parts.max(1) as u64) as usize
            }

            /// The first 12 hexadecimal digits, for people to read.
            pub fn short(&self) -> String {
                let mut text = self.to_string();
                text.truncate(12);
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseHashError;

            fn from_str(text: &str) -> Result<Self, ParseHashError> {
                if text.len() != 64 || !text.is_ascii() {
                    return Err(ParseHashError);
                }
                let mut digest = [0; 32];
                for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                    let pair = std::str::from_utf8(pair).map_err(|_| ParseHashError)?;
                    *byte = u8::from_str_radix(pair, 16).map_err(|_| ParseHashError)?;
                }
                Ok(Self(digest))
            }
        }
    };
}

sha256_newtype! {
    /// What a stream *is*, whatever it is called: the SHA-256 of a file's bytes,
    /// or for a live source a digest of where and when it was opened.
    ContentHash
}

sha256_newtype! {
    /// Which model answered: the SHA-256 over its `model.toml` and weights.
    ModelHash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_survives_its_text() {
        let hash = ContentHash::of(b"speckle");
        assert_eq!(hash.to_string().parse::<ContentHash>().unwrap(), hash);
        assert_eq!(hash.short().len(), 12);
    }

    #[test]
    fn text_that_is_no_hash_is_refused() {
        for text in ["", "ab", &"z".repeat(64), &"é".repeat(32)] {
            assert!(text.parse::<ModelHash>().is_err(), "{text}");
        }
    }
}
