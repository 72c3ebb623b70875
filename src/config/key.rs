//! The file that holds a key of other names: of pseudonyms, of names in addresses.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand::TryRngCore;
use rand::rngs::OsRng;

use crate::domain::PseudonymKey;

/// A key file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It could not be read or made.
    #[error("cannot use the key file {}: {error}; check its path and the permissions of its folder", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Others may read it.
    #[error("the key file {} can be read by others; run `chmod 600` on it", .0.display())]
    Open(PathBuf),
    /// It does not hold a key.
    #[error("the key file {} does not hold a key, 64 hexadecimal digits; restore it, or remove it for a new one, under which all pseudonyms are others", .0.display())]
    NoKey(PathBuf),
}

/// The key in `file`, which is made with a fresh key, for its owner alone, if it
/// is not there.
///
/// # Errors
/// If it cannot be read or made, others may read it, or it holds no key.
pub fn pseudonym_key(file: &Path) -> Result<PseudonymKey, KeyError> {
    let failed = |error| KeyError::Io {
        file: file.to_owned(),
        error,
    };
    match make(file) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    if fs::metadata(file).map_err(failed)?.permissions().mode() & 0o077 != 0 {
        return Err(KeyError::Open(file.to_owned()));
    }
    let bytes = fs::read(file).map_err(failed)?;
    let key = read(&bytes).ok_or_else(|| KeyError::NoKey(file.to_owned()))?;
    Ok(PseudonymKey::new(key))
}

/// Appears under its name only when whole, so that nobody reads half a key.
fn make(file: &Path) -> io::Result<()> {
    if file.exists() {
        return Ok(());
    }
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mut key = [0; 32];
    OsRng.try_fill_bytes(&mut key).map_err(io::Error::other)?;
    let number = |part: &[u8]| {
        part.iter()
            .fold(0_u128, |n, &byte| n << 8 | u128::from(byte))
    };
    let hex = format!("{:032x}{:032x}", number(&key[..16]), number(&key[16..]));
    let mut draft = file.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(draft);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut out = options.open(&draft)?;
    let made = writeln!(out, "{hex}")
        .and_then(|()| out.sync_all())
        // A link is not made where another process was faster.
        .and_then(|()| fs::hard_link(&draft, file));
    fs::remove_file(&draft)?;
    made?;
    File::open(folder)?.sync_all()
}

/// 64 hexadecimal digits, or the 32 bytes themselves.
fn read(bytes: &[u8]) -> Option<[u8; 32]> {
    if let Ok(key) = bytes.try_into() {
        return Some(key);
    }
    let hex = std::str::from_utf8(bytes).ok()?.trim();
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let mut key = [0; 32];
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::PatientId;

    #[test]
    fn a_key_is_made_once_for_its_owner_alone_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.key");
        let of = |key: &PseudonymKey| key.patient(&PatientId::new("x"));
        let first = pseudonym_key(&file).unwrap();
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(of(&first), of(&pseudonym_key(&file).unwrap()));
        let other = pseudonym_key(&folder.path().join("b.key")).unwrap();
        assert_ne!(of(&first), of(&other));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no drafts");
    }

    #[test]
    fn a_key_that_is_open_or_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.key");
        pseudonym_key(&file).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(pseudonym_key(&file), Err(KeyError::Open(_))));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&file, "secret").unwrap();
        assert!(matches!(pseudonym_key(&file), Err(KeyError::NoKey(_))));
        let nowhere = folder.path().join("no/a.key");
        assert!(matches!(pseudonym_key(&nowhere), Err(KeyError::Io { .. })));
    }
}
