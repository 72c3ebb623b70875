//! The frames within a cine's pixel data, and how each is coded.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::DicomError;
use super::header::Image;
use super::layout::{EXPLICIT_LE, Extent, IMPLICIT_LE, JPEG_BASELINE, Pixels, starts_jpeg};

/// How a frame's bytes are to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ingest) enum Coding {
    /// A JPEG image. `rgb`: if its markers do not say what its components are,
    /// they are red, green and blue.
    Jpeg { rgb: bool },
    /// One sample per pixel, 0 is black.
    Gray,
    /// Red, green, blue; `planar`: plane after plane.
    Rgb { planar: bool },
    /// Y, CB, CR for every pixel; `planar`: plane after plane.
    YbrFull { planar: bool },
    /// Two Y, one CB and one CR for every two pixels.
    YbrFull422,
}

impl Coding {
    /// PS3.3 section C.7.6.3.1.2, as far as supported.
    pub(super) fn new(image: &Image, transfer_syntax: &str) -> Result<Self, DicomError> {
        let unsupported = || DicomError::Photometric {
            value: image.photometric.clone(),
            samples: image.samples,
        };
        if (image.bits_allocated, image.bits_stored) != (8, 8) {
            return Err(DicomError::BitDepth {
                allocated: image.bits_allocated,
                stored: image.bits_stored,
            });
        }
        let photometric = (image.photometric.as_str(), image.samples);
        match transfer_syntax {
            JPEG_BASELINE => match photometric {
                ("MONOCHROME2", 1) | ("YBR_FULL" | "YBR_FULL_422", 3) => {
                    Ok(Self::Jpeg { rgb: false })
                }
                ("RGB", 3) => Ok(Self::Jpeg { rgb: true }),
                _ => Err(unsupported()),
            },
            IMPLICIT_LE | EXPLICIT_LE => match photometric {
                ("MONOCHROME2", 1) => Ok(Self::Gray),
                ("RGB", 3) => Ok(Self::Rgb {
                    planar: image.planar,
                }),
                ("YBR_FULL", 3) => Ok(Self::YbrFull {
                    planar: image.planar,
                }),
                ("YBR_FULL_422", 3) if !image.columns.is_multiple_of(2) => {
                    Err(DicomError::OddColumns {
                        columns: image.columns,
                    })
                }
                ("YBR_FULL_422", 3) => Ok(Self::YbrFull422),
                _ => Err(unsupported()),
            },
            other => Err(DicomError::TransferSyntax(other.to_owned())),
        }
    }

    /// Bytes of one uncompressed frame.
    fn frame_length(self, image: &Image) -> Option<u64> {
        let area = u64::from(image.rows) * u64::from(image.columns);
        match self {
            Self::Jpeg { .. } => None,
            Self::Gray => Some(area),
            Self::Rgb { .. } | Self::YbrFull { .. } => Some(area * 3),
            Self::YbrFull422 => Some(area * 2),
        }
    }
}

/// Which stretches of the file make up each frame.
pub(super) fn frames(
    file: &mut File,
    image: &Image,
    coding: Coding,
    pixels: Pixels,
) -> Result<Vec<Vec<Extent>>, DicomError> {
    let claimed = image.frames;
    match (coding.frame_length(image), pixels) {
        (Some(length), Pixels::Native(all)) => {
            // A byte of padding may follow, and so may frames nobody counts.
            let found = all.length / length;
            if found < claimed {
                return Err(DicomError::FrameCount { claimed, found });
            }
            let extent = |index| Extent {
                at: all.at + index * length,
                length,
            };
            Ok((0..claimed).map(|index| vec![extent(index)]).collect())
        }
        (None, Pixels::Fragments { offsets, fragments }) => {
            let frames = group(file, claimed, &offsets, fragments)?;
            let found = frames.len() as u64;
            if found != claimed {
                return Err(DicomError::FrameCount { claimed, found });
            }
            Ok(frames)
        }
        (Some(_), Pixels::Fragments { .. }) => Err(DicomError::Malformed {
            detail: "its transfer syntax is uncompressed and its pixel data is in fragments",
        }),
        (None, Pixels::Native(_)) => Err(DicomError::Malformed {
            detail: "its transfer syntax is compressed and its pixel data is not in fragments",
        }),
    }
}

/// PS3.5 section A.4 lets a frame span fragments. The offset table says which,
/// but may be empty; then one fragment each, or a new frame at every JPEG start.
fn group(
    file: &mut File,
    claimed: u64,
    offsets: &[u32],
    fragments: Vec<Extent>,
) -> Result<Vec<Vec<Extent>>, DicomError> {
    let count = fragments.len() as u64;
    if claimed == count {
        return Ok(fragments
            .into_iter()
            .map(|fragment| vec![fragment])
            .collect());
    }
    if claimed == 1 && count > 0 {
        return Ok(vec![fragments]);
    }
    // Offsets count from the first byte of the first item behind the table,
    // and an item's head has eight bytes.
    let base = fragments.first().map_or(0, |first| first.at - 8);
    let by_table = offsets.len() as u64 == claimed;
    let mut frames: Vec<Vec<Extent>> = Vec::new();
    for fragment in fragments {
        let begins = if by_table {
            let offset = fragment.at - 8 - base;
            offsets.iter().any(|&begin| u64::from(begin) == offset)
        } else {
            starts_jpeg(file, fragment)?
        };
        match frames.last_mut() {
            Some(frame) if !begins => frame.push(fragment),
            _ => frames.push(vec![fragment]),
        }
    }
    Ok(frames)
}

/// One frame's bytes.
pub(super) fn read(file: &mut File, extents: &[Extent], coding: Coding) -> io::Result<Vec<u8>> {
    let length: u64 = extents.iter().map(|extent| extent.length).sum();
    // All extents were found to lie within the file.
    let mut frame = vec![0; length as usize];
    let mut filled = 0;
    for extent in extents {
        let end = filled + extent.length as usize;
        file.seek(SeekFrom::Start(extent.at))?;
        file.read_exact(&mut frame[filled..end])?;
        filled = end;
    }
    if let Coding::Jpeg { rgb } = coding {
        // Decoders pass over what is no image without a word, and the frames
        // behind it would move up.
        let Some(colours) = colours(&frame) else {
            let detail = "it is no JPEG image";
            return Err(io::Error::new(io::ErrorKind::InvalidData, detail));
        };
        close(&mut frame);
        if rgb && colours == Colours::Unsaid {
            frame.splice(2..2, ADOBE_RGB);
        }
    }
    Ok(frame)
}

/// Ends a JPEG image with its end marker, so that a decoder that looks for it
/// does not take a damaged image and the next one for a single image.
fn close(jpeg: &mut Vec<u8>) {
    let padding = jpeg.iter().rev().take_while(|&&byte| byte == 0).count();
    jpeg.truncate(jpeg.len() - padding);
    if !jpeg.ends_with(&[0xFF, 0xD9]) {
        jpeg.extend([0xFF, 0xD9]);
    }
}

/// An Adobe marker (APP14) that says that the components are not transformed.
const ADOBE_RGB: [u8; 16] = [
    0xFF, 0xEE, 0, 14, b'A', b'd', b'o', b'b', b'e', 0, 100, 0, 0, 0, 0, 0,
];

/// Whether the markers of a JPEG image say what its components are. Where they
/// do, the bitstream wins over the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colours {
    Said,
    Unsaid,
}

/// Walks the markers up to the scan (ISO/IEC 10918-1 annex B); `None` if they do
/// not lead to one by way of a frame header.
fn colours(jpeg: &[u8]) -> Option<Colours> {
    let mut colours = Colours::Unsaid;
    let mut has_frame_header = false;
    let mut at = 2;
    if !jpeg.starts_with(&[0xFF, 0xD8]) {
        return None;
    }
    while let Some(&[0xFF, marker, high, low]) = jpeg.get(at..at + 4) {
        match marker {
            // A marker may be preceded by any number of fill bytes.
            0xFF => {
                at += 1;
                continue;
            }
            // JFIF and Adobe.
            0xE0 | 0xEE => colours = Colours::Said,
            0xC0 | 0xC1 => has_frame_header = true,
            0xDA => return has_frame_header.then_some(colours),
            _ => {}
        }
        at += 2 + usize::from(u16::from_be_bytes([high, low]));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_closed_once_and_its_padding_is_cut() {
        for (given, expected) in [
            (
                &[0xFF, 0xD8, 7, 0xFF, 0xD9][..],
                &[0xFF, 0xD8, 7, 0xFF, 0xD9][..],
            ),
            (
                &[0xFF, 0xD8, 7, 0xFF, 0xD9, 0],
                &[0xFF, 0xD8, 7, 0xFF, 0xD9],
            ),
            (&[0xFF, 0xD8, 0, 0], &[0xFF, 0xD8, 0xFF, 0xD9]),
        ] {
            let mut jpeg = given.to_vec();
            close(&mut jpeg);
            assert_eq!(jpeg, expected);
        }
    }

    #[test]
    fn the_bitstream_says_its_colours_by_a_jfif_or_adobe_marker() {
        let table = [0xFF, 0xDB, 0, 3, 9];
        let frame_and_scan = [0xFF, 0xFF, 0xC0, 0, 4, 8, 0, 0xFF, 0xDA, 0, 2];
        let image = |marker: &[u8]| [&[0xFF, 0xD8][..], &table, marker, &frame_and_scan].concat();
        for (marker, expected) in [
            (&[][..], Colours::Unsaid),
            (&[0xFF, 0xE0, 0, 2], Colours::Said),
            (&ADOBE_RGB, Colours::Said),
            // A comment that only looks like a marker inside.
            (&[0xFF, 0xFE, 0, 4, 0xFF, 0xE0], Colours::Unsaid),
        ] {
            assert_eq!(colours(&image(marker)), Some(expected), "{marker:?}");
        }
    }

    #[test]
    fn what_has_no_frame_header_and_scan_is_no_image() {
        for bytes in [
            &[][..],
            &[0xFF, 0xD8],
            &[0xFF, 0xD8, 0, 0, 0, 0, 0xFF, 0xD9],
            &[0xFF, 0xD8, 0xFF, 0xDA, 0, 2],
            &[0xFF, 0xD8, 0xFF, 0xC0, 0xFF, 0xFF],
            &[0, 0, 0xFF, 0xC0, 0, 2, 0xFF, 0xDA, 0, 2],
        ] {
            assert_eq!(colours(bytes), None, "{bytes:?}");
        }
    }
}
