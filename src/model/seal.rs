//! Whether a model directory is what somebody made: `SHA256SUMS` holds the sums of
//! its files, and `SHA256SUMS.sig` an Ed25519 signature (RFC 8032) over that file.
//! Both are in the formats of other tools: `sha256sum --check SHA256SUMS` reads the
//! one, and OpenSSL makes and verifies the other (see README.md).

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, UnparsedPublicKey};

use super::ModelError;
use crate::domain::ContentHash;

/// The file of sums.
pub const MANIFEST: &str = "SHA256SUMS";
/// The signature over it.
const SIGNATURE: &str = "SHA256SUMS.sig";

/// What comes before the 32 bytes of an Ed25519 key in a `SubjectPublicKeyInfo`,
/// RFC 8410 section 4.
const KEY_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// The sums of these files, by name.
pub(crate) fn manifest(files: &[(&str, &[u8])]) -> String {
    let lines = files
        .iter()
        .map(|(name, bytes)| format!("{}  {name}\n", ContentHash::of(bytes)));
    lines.collect()
}

/// Holds files against the directory's manifest, if it has one: gives that.
pub(super) fn check(
    directory: &Path,
    files: &[(&str, &[u8])],
) -> Result<Option<Vec<u8>>, ModelError> {
    let file = directory.join(MANIFEST);
    let bytes = match std::fs::read(&file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ModelError::Read { file, error }),
    };
    let broken = |problem: String| ModelError::Seal {
        file: file.clone(),
        problem,
    };
    let text = std::str::from_utf8(&bytes).map_err(|error| broken(error.to_string()))?;
    let mut sums = BTreeMap::new();
    for line in text.lines() {
        // A star before the name says that it was read as bytes.
        let entry = line.split_once(' ').and_then(|(sum, name)| {
            let name = name.strip_prefix([' ', '*'])?;
            Some((name, sum.parse::<ContentHash>().ok()?))
        });
        let (name, sum) = entry.ok_or_else(|| broken("this is no list of sums".to_owned()))?;
        if sums.insert(name, sum).is_some() {
            return Err(broken(format!("it names {name} twice")));
        }
    }
    for (name, bytes) in files {
        match sums.get(name) {
            Some(sum) if *sum == ContentHash::of(bytes) => {}
            Some(_) => return Err(broken(format!("{name} has another sum"))),
            None => return Err(broken(format!("it does not name {name}"))),
        }
    }
    Ok(Some(bytes))
}

/// Holds a manifest against its signature and the public key in `key_file`, a PEM
/// file.
pub(super) fn check_signature(
    directory: &Path,
    manifest: Option<&[u8]>,
    key_file: &Path,
) -> Result<(), ModelError> {
    let read = |file: &Path| {
        std::fs::read(file).map_err(|error| ModelError::Seal {
            file: file.to_owned(),
            problem: error.to_string(),
        })
    };
    let file = directory.join(SIGNATURE);
    let unsigned = |problem: &str| ModelError::Seal {
        file: file.clone(),
        problem: problem.to_owned(),
    };
    let manifest = manifest.ok_or_else(|| ModelError::Seal {
        file: directory.join(MANIFEST),
        problem: "there is none, and the pipeline asks for a signed model".to_owned(),
    })?;
    let key = public_key(&read(key_file)?).ok_or_else(|| ModelError::Seal {
        file: key_file.to_owned(),
        problem: "this is no Ed25519 public key in PEM".to_owned(),
    })?;
    let signature = read(&file)?;
    UnparsedPublicKey::new(&ED25519, key)
        .verify(manifest, &signature)
        .map_err(|_| unsigned("the signature is not that of the key"))
}

fn public_key(pem: &[u8]) -> Option<[u8; 32]> {
    let text = std::str::from_utf8(pem).ok()?;
    let (_, text) = text.split_once("-----BEGIN PUBLIC KEY-----")?;
    let (text, _) = text.split_once("-----END PUBLIC KEY-----")?;
    let text: String = text.split_whitespace().collect();
    let der = STANDARD.decode(text).ok()?;
    der.strip_prefix(&KEY_PREFIX)?.try_into().ok()
}
