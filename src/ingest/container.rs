//! What can be known of a recording from its bytes, before anything decodes it:
//! its hash, its kind, and whether it was cut short.
//!
//! Demultiplexers play a cut file as far as it goes and then report a normal
//! end, which would give a patient an answer from half a recording, and another
//! when the whole file arrives. So the outermost sizes of MP4, AVI and MKV are
//! compared with the file's own length, and a picture's end is looked for. Called by
//! the reader.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::pictures::{Still, TAIL};
use crate::domain::ContentHash;

/// What a file's first bytes say it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// PS3.10 section 7.1: a preamble of 128 bytes, then `DICM`.
    Dicom,
    /// A GIF, of which GStreamer's demultiplexer never finds the end.
    Gif,
    /// A single picture.
    Picture(Still),
    /// Whatever GStreamer makes of it.
    Other,
}

/// The kind of the file.
pub(super) fn kind(file: &mut File) -> io::Result<Kind> {
    if read_at::<4>(file, 128)? == Some(*b"DICM") {
        return Ok(Kind::Dicom);
    }
    let head = read_at::<8>(file, 0)?.unwrap_or_default();
    Ok(if head.starts_with(b"GIF8") {
        Kind::Gif
    } else if let Some(still) = Still::of(&head) {
        Kind::Picture(still)
    } else {
        Kind::Other
    })
}

/// Whether a single picture has its end.
pub(super) fn is_whole(file: &mut File, still: Still, length: u64) -> io::Result<bool> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL as u64)))?;
    file.take(TAIL as u64).read_to_end(&mut bytes)?;
    Ok(still.ends_in(&bytes))
}

/// What a file is by its content, whatever its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recognised {
    /// DICOM, with or without pictures in it.
    Dicom,
    /// A container of video: MP4, MOV, AVI, MKV, MPEG or ASF; or a GIF, which is
    /// refused by name.
    Video,
    /// A still picture, PNG or JPEG.
    Picture,
    /// Nothing with pictures that move.
    Foreign,
    /// No bytes at all.
    Empty,
}

/// Looks at the first bytes of the file at `path`.
///
/// # Errors
/// If it cannot be read.
pub fn recognise(path: &Path) -> io::Result<Recognised> {
    let mut file = File::open(path)?;
    match kind(&mut file)? {
        Kind::Dicom => return Ok(Recognised::Dicom),
        Kind::Gif => return Ok(Recognised::Video),
        Kind::Picture(_) => return Ok(Recognised::Picture),
        Kind::Other => {}
    }
    file.rewind()?;
    let mut head = Vec::new();
    file.take(2048).read_to_end(&mut head)?;
    // MPEG-TS: a sync byte at the head of every packet of 188 bytes.
    let is_ts = || head.len() > 376 && [0, 188, 376].iter().all(|&at| head[at] == 0x47);
    Ok(match head.as_slice() {
        [] => Recognised::Empty,
        [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', ..]
        | [0x1A, 0x45, 0xDF, 0xA3, ..]
        | [0, 0, 1, 0xB3 | 0xBA, ..]
        | [0x30, 0x26, 0xB2, 0x75, 0x8E, 0x66, 0xCF, 0x11, ..] => Recognised::Video,
        [_, _, _, _, a, b, c, d, ..] if is_box([*a, *b, *c, *d]) => Recognised::Video,
        _ if is_ts() => Recognised::Video,
        _ => Recognised::Foreign,
    })
}

/// The SHA-256 of the file's bytes, or `None` if `cancelled` while reading.
pub(super) fn hash(
    file: &mut File,
    cancelled: impl Fn() -> bool,
) -> io::Result<Option<ContentHash>> {
    file.rewind()?;
    let mut digest = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        if cancelled() {
            return Ok(None);
        }
        match file.read(&mut block) {
            Ok(0) => return Ok(Some(ContentHash::from_digest(digest))),
            Ok(length) => digest.update(&block[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The length that the container claims, if that is more than the `length`
/// bytes there are. Containers of other kinds pass.
pub(super) fn claims_more_than(file: &mut File, length: u64) -> io::Result<Option<u64>> {
    let Some(head) = read_at::<12>(file, 0)? else {
        return Ok(None);
    };
    let claimed = match &head {
        [b'R', b'I', b'F', b'F', rest @ ..] => riff_length([rest[0], rest[1], rest[2], rest[3]]),
        [0x1A, 0x45, 0xDF, 0xA3, ..] => matroska_length(file)?,
        [_, _, _, _, kind @ ..] if is_box([kind[0], kind[1], kind[2], kind[3]]) => {
            boxes_length(file, length)?
        }
        _ => None,
    };
    Ok(claimed.filter(|&claimed| claimed > length))
}

/// A RIFF file's first chunk; recorders that were streaming leave 0 or all ones.
fn riff_length(size: [u8; 4]) -> Option<u64> {
    match u32::from_le_bytes(size) {
        0 | 0xFFFF_FFF0.. => None,
        size => Some(u64::from(size) + 8),
    }
}

/// ISO/IEC 14496-12 section 4.2: boxes of a 32-bit size and a type, one after
/// the other; size 1 means a 64-bit size follows, 0 means up to the end.
fn boxes_length(file: &mut File, length: u64) -> io::Result<Option<u64>> {
    let mut at = 0_u64;
    while let Some(head) = read_at::<8>(file, at)? {
        let [s0, s1, s2, s3, kind @ ..] = head;
        // Rubbish behind the last box is not worth an error.
        if !is_box(kind) {
            break;
        }
        let size = match u32::from_be_bytes([s0, s1, s2, s3]) {
            0 => break,
            1 => match read_at::<8>(file, at + 8)? {
                Some(size) => u64::from_be_bytes(size),
                None => return Ok(Some(at + 16)),
            },
            size => u64::from(size),
        };
        if size < 8 {
            break;
        }
        at = at.saturating_add(size);
        if at > length {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

fn is_box(kind: [u8; 4]) -> bool {
    const TOP_LEVEL: [&[u8; 4]; 13] = [
        b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid", b"moof", b"mfra", b"sidx",
        b"styp", b"meta", b"pdin",
    ];
    TOP_LEVEL.contains(&&kind)
}

/// RFC 8794 (EBML) and RFC 9559 (Matroska): the EBML header, then one segment.
/// All size bits set means that the size was not known when it was written.
fn matroska_length(file: &mut File) -> io::Result<Option<u64>> {
    const SEGMENT: [u8; 4] = [0x18, 0x53, 0x80, 0x67];
    let Some((header, header_at)) = vint(file, 4)? else {
        return Ok(None);
    };
    let segment_at = header_at.saturating_add(header);
    if read_at::<4>(file, segment_at)? != Some(SEGMENT) {
        return Ok(None);
    }
    let size = vint(file, segment_at + 4)?;
    Ok(size.map(|(size, at)| at.saturating_add(size)))
}

/// The variable-length integer at `at`, unless it says "unknown", and where the
/// bytes after it begin.
fn vint(file: &mut File, at: u64) -> io::Result<Option<(u64, u64)>> {
    let Some([first]) = read_at::<1>(file, at)? else {
        return Ok(None);
    };
    let more = first.leading_zeros();
    if more > 7 {
        return Ok(None);
    }
    let bits = 7 * (more + 1);
    let mut value = u64::from(first);
    for step in 1..=u64::from(more) {
        let Some([byte]) = read_at::<1>(file, at + step)? else {
            return Ok(None);
        };
        value = value << 8 | u64::from(byte);
    }
    let mask = (1_u64 << bits) - 1;
    let value = value & mask;
    Ok((value != mask).then_some((value, at + 1 + u64::from(more))))
}

/// `N` bytes from `at`, or `None` if the file ends before.
fn read_at<const N: usize>(file: &mut File, at: u64) -> io::Result<Option<[u8; N]>> {
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = [0; N];
    match file.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn claimed(bytes: &[u8]) -> Option<u64> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        claims_more_than(&mut file, bytes.len() as u64).unwrap()
    }

    fn mp4_box(kind: &[u8], claimed: u32, payload: usize) -> Vec<u8> {
        [&claimed.to_be_bytes()[..], kind, &vec![0; payload]].concat()
    }

    #[test]
    fn an_mp4_claims_up_to_the_end_of_its_last_box() {
        let whole = [mp4_box(b"ftyp", 16, 8), mp4_box(b"mdat", 40, 32)].concat();
        assert_eq!(claimed(&whole), None);
        assert_eq!(claimed(&whole[..55]), Some(56));
        assert_eq!(claimed(&[&whole[..], b"rubbish behind it"].concat()), None);
        let open_ended = [mp4_box(b"ftyp", 16, 8), mp4_box(b"mdat", 0, 5)].concat();
        assert_eq!(claimed(&open_ended), None);
        let large = [
            mp4_box(b"ftyp", 16, 8),
            mp4_box(b"mdat", 1, 0),
            100_u64.to_be_bytes().to_vec(),
        ]
        .concat();
        assert_eq!(claimed(&large), Some(116));
    }

    #[test]
    fn a_box_that_claims_the_largest_size_does_not_overflow() {
        let bytes = [
            mp4_box(b"ftyp", 16, 8),
            mp4_box(b"mdat", 1, 0),
            u64::MAX.to_be_bytes().to_vec(),
        ]
        .concat();
        assert_eq!(claimed(&bytes), Some(u64::MAX));
    }

    #[test]
    fn an_avi_claims_what_its_first_chunk_says() {
        let avi = |size: u32| [b"RIFF", &size.to_le_bytes()[..], b"AVI LIST"].concat();
        assert_eq!(claimed(&avi(8)), None);
        assert_eq!(claimed(&avi(9)), Some(17));
        assert_eq!(claimed(&avi(0)), None, "never finalised");
    }

    #[test]
    fn a_matroska_file_claims_what_its_segment_says() {
        let head = [0x1A, 0x45, 0xDF, 0xA3, 0x82, 0, 0, 0x18, 0x53, 0x80, 0x67];
        assert_eq!(claimed(&[&head[..], &[0x84, 0, 0, 0, 0]].concat()), None);
        assert_eq!(claimed(&[&head[..], &[0x84, 0, 0, 0]].concat()), Some(16));
        assert_eq!(claimed(&[&head[..], &[0x40, 5, 1]].concat()), Some(18));
        assert_eq!(claimed(&[&head[..], &[0xFF]].concat()), None, "unknown");
    }

    #[test]
    fn what_is_no_container_claims_nothing() {
        for bytes in [
            &b""[..],
            b"plain text, long enough to have a head",
            &[0; 64],
        ] {
            assert_eq!(claimed(bytes), None);
        }
    }

    #[test]
    fn the_hash_is_that_of_the_bytes_and_can_be_cancelled() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"speckle").unwrap();
        let found = hash(&mut file, || false).unwrap();
        assert_eq!(found, Some(ContentHash::of(b"speckle")));
        assert_eq!(hash(&mut file, || true).unwrap(), None);
    }

    #[test]
    fn a_file_is_known_by_its_content_alone() {
        let packet = [&[0x47][..], &[0; 187]].concat();
        for (bytes, expected) in [
            ([&[0; 128][..], b"DICM"].concat(), Recognised::Dicom),
            (mp4_box(b"ftyp", 16, 8), Recognised::Video),
            (b"RIFF....AVI LIST".to_vec(), Recognised::Video),
            (b"RIFF....WAVEfmt ".to_vec(), Recognised::Foreign),
            (vec![0x1A, 0x45, 0xDF, 0xA3, 0x82], Recognised::Video),
            (packet.repeat(3), Recognised::Video),
            (vec![0x47; 100], Recognised::Foreign),
            (b"GIF89a....".to_vec(), Recognised::Video),
            (b"\x89PNG\r\n\x1a\n....".to_vec(), Recognised::Picture),
            (b"\xFF\xD8\xFF\xE0....".to_vec(), Recognised::Picture),
            (b"\xFF\xD8..........".to_vec(), Recognised::Foreign),
            (b"patient_id,path".to_vec(), Recognised::Foreign),
            (Vec::new(), Recognised::Empty),
        ] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&bytes).unwrap();
            assert_eq!(recognise(file.path()).unwrap(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn dicom_is_known_by_its_prefix() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0; 128]).unwrap();
        file.write_all(b"DICM").unwrap();
        assert_eq!(kind(&mut file).unwrap(), Kind::Dicom);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"DICM").unwrap();
        assert_eq!(kind(&mut file).unwrap(), Kind::Other);
    }
}
