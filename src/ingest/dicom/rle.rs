//! RLE Lossless, PS3.5 annex G: each colour plane packed by runs of bytes.
//!
//! Written here because a decoder is small and this one cannot be made to panic
//! or to allocate more than the picture it was told to make.

/// Bytes of the header: the number of segments and where each begins.
const HEADER: usize = 64;

/// Unpacks a frame into `planes` planes of `area` bytes, one after the other;
/// `None` if it does not hold them.
pub(super) fn unpack(frame: &[u8], area: usize, planes: usize) -> Option<Vec<u8>> {
    let header = frame.get(..HEADER)?;
    let entry = |index: usize| -> Option<usize> {
        let bytes = header.get(index * 4..index * 4 + 4)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    if entry(0)? != planes {
        return None;
    }
    let mut out = Vec::with_capacity(area * planes);
    for plane in 0..planes {
        let begin = entry(plane + 1)?;
        let end = match plane + 1 {
            last if last == planes => frame.len(),
            next => entry(next + 1)?,
        };
        unpack_plane(frame.get(begin..end)?, &mut out, (plane + 1) * area)?;
    }
    Some(out)
}

/// Section G.3.2: appends to `out` until it holds `upto` bytes.
fn unpack_plane(segment: &[u8], out: &mut Vec<u8>, upto: usize) -> Option<()> {
    let mut rest = segment;
    while out.len() < upto {
        let (&head, behind) = rest.split_first()?;
        let room = upto - out.len();
        rest = match head {
            // That many and one more bytes follow as they are.
            0..=127 => {
                let (literal, behind) = behind.split_at_checked(usize::from(head) + 1)?;
                out.extend(literal.iter().take(room));
                behind
            }
            128 => behind,
            // The next byte, repeated.
            129.. => {
                let (&value, behind) = behind.split_first()?;
                let count = 257 - usize::from(head);
                out.extend(std::iter::repeat_n(value, count.min(room)));
                behind
            }
        };
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame whose planes are packed as literals and runs in turn.
    fn pack(planes: &[Vec<u8>]) -> Vec<u8> {
        let mut header = vec![planes.len() as u32];
        let mut body = Vec::new();
        for plane in planes {
            header.push((HEADER + body.len()) as u32);
            for run in plane.chunk_by(|a, b| a == b) {
                for piece in run.chunks(128) {
                    match piece {
                        [one] => body.extend([0, *one]),
                        [same, ..] => body.extend([(257 - piece.len()) as u8, *same]),
                        [] => {}
                    }
                }
            }
        }
        header.resize(16, 0);
        let header = header.iter().flat_map(|entry| entry.to_le_bytes());
        header.chain(body).collect()
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(
            planes in (1_usize..4, 1_usize..400).prop_flat_map(|(planes, area)| {
                prop::collection::vec(prop::collection::vec(0_u8..3, area), planes)
            })
        ) {
            let unpacked = unpack(&pack(&planes), planes[0].len(), planes.len());
            prop_assert_eq!(unpacked, Some(planes.concat()));
        }

        #[test]
        fn no_bytes_make_it_panic_or_give_too_much(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            offset in 0_u8..90,
        ) {
            let mut frame = bytes;
            // Now and then a header that leads somewhere.
            if let [count, .., ] = frame.as_mut_slice() { *count %= 4; }
            if let Some(first) = frame.get_mut(4) { *first = offset; }
            for planes in 1..4 {
                if let Some(out) = unpack(&frame, 50, planes) {
                    prop_assert_eq!(out.len(), 50 * planes);
                }
            }
        }
    }
}
