//! Where received instances come to rest.
//!
//! An instance is written to a file without a telling name while it arrives,
//! and gets its real name, the SHA-256 of its bytes, when it is whole and on
//! disk. Nothing that the peer says enters a file name. What crashes leave
//! behind are files ending in `.part`, removed at the next start.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::domain::ContentHash;

const PART: &str = ".part";

/// A folder of instances.
#[derive(Clone, Debug)]
pub(super) struct Spool {
    folder: PathBuf,
}

impl Spool {
    /// Opens `folder`, made if need be for nobody else to read, and clears it
    /// of what an earlier run did not finish.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.to_string_lossy().ends_with(PART) {
                fs::remove_file(path)?;
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// The instances that are there, in the order of their names.
    pub(super) fn instances(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "dcm") {
                found.push(path);
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Room for an instance of at most `limit` bytes.
    pub(super) fn begin(&self, limit: u64) -> io::Result<Incoming> {
        let file = tempfile::Builder::new()
            .suffix(PART)
            .tempfile_in(&self.folder)?;
        Ok(Incoming {
            file,
            folder: self.folder.clone(),
            digest: Sha256::new(),
            left: limit,
        })
    }
}

/// An instance on its way in; dropped unfinished, it leaves nothing.
#[derive(Debug)]
pub(super) struct Incoming {
    file: NamedTempFile,
    folder: PathBuf,
    digest: Sha256,
    left: u64,
}

impl Incoming {
    /// Makes the instance durable: when this returns, its bytes, its name and
    /// the folder that holds the name are on disk. The flag says whether it was
    /// not there before.
    pub(super) fn finish(self) -> io::Result<(PathBuf, bool)> {
        self.file.as_file().sync_all()?;
        let name = format!("{}.dcm", ContentHash::from_digest(self.digest));
        let path = self.folder.join(name);
        let is_new = match self.file.persist_noclobber(&path) {
            Ok(_) => true,
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error.error),
        };
        // For one that was there as well: whoever stored it may be about to.
        File::open(&self.folder)?.sync_all()?;
        Ok((path, is_new))
    }
}

impl Write for Incoming {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self
            .left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
        self.file.write_all(bytes)?;
        self.digest.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(spool: &Spool, bytes: &[u8]) -> io::Result<(PathBuf, bool)> {
        let mut incoming = spool.begin(8)?;
        incoming.write_all(bytes)?;
        incoming.finish()
    }

    #[test]
    fn an_instance_is_named_by_its_bytes_and_stored_once() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(&folder.path().join("in")).unwrap();
        let (path, is_new) = store(&spool, b"cine").unwrap();
        assert!(is_new);
        assert_eq!(fs::read(&path).unwrap(), b"cine");
        let name = format!("{}.dcm", ContentHash::of(b"cine"));
        assert_eq!(path.file_name().unwrap().to_str(), Some(name.as_str()));
        assert_eq!(store(&spool, b"cine").unwrap(), (path.clone(), false));
        assert_eq!(spool.instances().unwrap(), [path]);
    }

    #[test]
    fn what_is_unfinished_or_too_large_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path()).unwrap();
        let error = store(&spool, b"too large").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        drop(spool.begin(8).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        // What a killed process leaves.
        fs::write(folder.path().join("x.part"), b"half").unwrap();
        fs::write(folder.path().join("y.dcm"), b"whole").unwrap();
        let spool = Spool::open(folder.path()).unwrap();
        assert_eq!(spool.instances().unwrap(), [folder.path().join("y.dcm")]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
