//! The doors through which bytes from outside come, one by one, for fuzzing and
//! for tests with damaged bytes: `fuzz/` and `tests/doors.rs`. None may panic,
//! whatever comes; what a worker of the sandbox would survive is not asked for.

use std::fs::File;
use std::io::Write;

use super::dicom::{Cine, DicomError, decode};
use super::listener::command::Request;
use super::pull;

/// A protocol data unit of a DICOM peer, as the listener takes it: true if it
/// is one, whole.
pub fn pdu(bytes: &[u8]) -> bool {
    const LARGEST: u32 = 262_144 - 6;
    dicom_ul::read_pdu(bytes, LARGEST, true).is_ok_and(|pdu| pdu.is_some())
}

/// A command set of a peer that stores, or of an archive that answers: true if
/// it is either.
pub fn command(bytes: &[u8]) -> bool {
    // Both are asked, whatever the first says.
    let (asks, answers) = (Request::read(bytes).is_some(), pull::is_answer(bytes));
    asks || answers
}

/// A DICOM file: its header with regions and timing, and every frame in its
/// coding. How many frames could be read.
///
/// # Errors
/// If it is no cine; or if there is no place for a temporary file.
pub fn dicom(bytes: &[u8]) -> Result<usize, DicomError> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(bytes)?;
    let mut cine = Cine::open(file.path())?;
    let frames = cine.len().unwrap_or(0);
    Ok((0..frames)
        .filter(|&index| cine.read(index).is_ok_and(|frame| frame.is_some()))
        .count())
}

/// The bytes of one frame, in each packing that is undone here: how many of
/// them take it for a picture of 16 x 16.
///
/// # Errors
/// If there is no place for a temporary file.
pub fn frame(bytes: &[u8]) -> Result<usize, DicomError> {
    let mut file: File = tempfile::tempfile()?;
    file.write_all(bytes)?;
    Ok(decode(&mut file, bytes.len() as u64))
}
