//! Takes the time of writing out of an MP4 file, so that the same recording
//! gives the same bytes (and the same content hash).
//!
//! ISO/IEC 14496-12: `mvhd` (8.2.2), `tkhd` (8.3.2) and `mdhd` (8.4.2) begin
//! with a version, flags, and creation and modification time, of 32 bits each in
//! version 0 and 64 bits in version 1.

use std::fs;
use std::io;
use std::path::Path;

/// Boxes that hold other boxes on the way to the headers.
const CONTAINERS: [&[u8; 4]; 3] = [b"moov", b"trak", b"mdia"];
/// Boxes that begin with times.
const HEADERS: [&[u8; 4]; 3] = [b"mvhd", b"tkhd", b"mdhd"];

/// Zeroes the times in the file at `path`.
pub(super) fn forget(path: &Path) -> io::Result<()> {
    let mut bytes = fs::read(path)?;
    forget_in(&mut bytes);
    fs::write(path, bytes)
}

fn forget_in(mut boxes: &mut [u8]) {
    while let Some((size, kind, header)) = next_box(boxes) {
        let (this, rest) = boxes.split_at_mut(size);
        let content = &mut this[header..];
        if CONTAINERS.contains(&&kind) {
            forget_in(content);
        } else if HEADERS.contains(&&kind) {
            let times = if content.first() == Some(&1) { 16 } else { 8 };
            if let Some(times) = content.get_mut(4..4 + times) {
                times.fill(0);
            }
        }
        boxes = rest;
    }
}

/// Size, kind and header length of the first box, if it is whole.
fn next_box(boxes: &[u8]) -> Option<(usize, [u8; 4], usize)> {
    let (short, rest) = boxes.split_first_chunk::<4>()?;
    let (kind, rest) = rest.split_first_chunk::<4>()?;
    let (size, header) = match u32::from_be_bytes(*short) {
        0 => (boxes.len(), 8),
        1 => {
            let (long, _) = rest.split_first_chunk::<8>()?;
            (usize::try_from(u64::from_be_bytes(*long)).ok()?, 16)
        }
        size => (size as usize, 8),
    };
    (header..=boxes.len())
        .contains(&size)
        .then_some((size, *kind, header))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(kind: [u8; 4], content: &[u8]) -> Vec<u8> {
        let size = (content.len() as u32 + 8).to_be_bytes();
        [&size[..], &kind, content].concat()
    }

    #[test]
    fn times_are_forgotten_and_nothing_else() {
        let header = [&[0; 4][..], &[7; 8], &[9; 6]].concat();
        let cleared = [&[0; 4][..], &[0; 8], &[9; 6]].concat();
        let file = |header: &[u8]| {
            let media = boxed(*b"mdia", &boxed(*b"mdhd", header));
            let moov = [boxed(*b"mvhd", header), boxed(*b"trak", &media)].concat();
            [boxed(*b"mdat", &[7; 30]), boxed(*b"moov", &moov)].concat()
        };
        let mut bytes = file(&header);
        forget_in(&mut bytes);
        assert_eq!(bytes, file(&cleared));
    }

    #[test]
    fn a_broken_box_ends_the_walk() {
        let mut bytes = [&500_u32.to_be_bytes()[..], b"mvhd", &[7; 20]].concat();
        let before = bytes.clone();
        forget_in(&mut bytes);
        assert_eq!(bytes, before);
    }
}
