//! The frames within a cine's pixel data, and how each is coded.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::header::Image;
use super::layout::{Extent, Pixels, starts_image};
use super::palette::Palette;
use super::syntax::Syntax;
use super::{DicomError, jpegls, rle};

/// How a frame's bytes are to be understood when they leave here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ingest) enum Coding {
    /// A JPEG image. `rgb`: if its markers do not say what its components are,
    /// they are red, green and blue.
    Jpeg { rgb: bool },
    /// A JPEG 2000 codestream, grey or red, green, blue: `YBR_RCT` and `YBR_ICT` are
    /// transforms within the codestream, which its decoder undoes.
    Jpeg2000 { components: u8 },
    /// All frames together are one stream of video, of which the header's
    /// frames, times and colours are only a description.
    Video,
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
    pub(super) fn new(image: &Image, syntax: Syntax) -> Result<Self, DicomError> {
        let unsupported = || DicomError::Photometric {
            value: known(&image.photometric).to_owned(),
            samples: image.samples,
        };
        if syntax == Syntax::Video {
            // Where tags and bitstream disagree, the bitstream wins.
            return Ok(Self::Video);
        }
        if (image.bits_allocated, image.bits_stored) != (8, 8) {
            return Err(DicomError::BitDepth {
                allocated: image.bits_allocated,
                stored: image.bits_stored,
            });
        }
        let planar = image.planar;
        match (syntax, image.photometric.as_str(), image.samples) {
            (Syntax::Jpeg, "MONOCHROME2", 1) | (Syntax::Jpeg, "YBR_FULL" | "YBR_FULL_422", 3) => {
                Ok(Self::Jpeg { rgb: false })
            }
            (Syntax::Jpeg, "RGB", 3) => Ok(Self::Jpeg { rgb: true }),
            (Syntax::Jpeg2000, "MONOCHROME2", 1) => Ok(Self::Jpeg2000 { components: 1 }),
            (Syntax::Jpeg2000, "RGB" | "YBR_RCT" | "YBR_ICT", 3) => {
                Ok(Self::Jpeg2000 { components: 3 })
            }
            (Syntax::Native | Syntax::Rle | Syntax::JpegLs, "MONOCHROME2", 1) => Ok(Self::Gray),
            // Looked up when a frame is read.
            (Syntax::Native | Syntax::Rle | Syntax::JpegLs, "PALETTE COLOR", 1) => {
                Ok(Self::Rgb { planar: false })
            }
            (Syntax::Native, "RGB", 3) => Ok(Self::Rgb { planar }),
            (Syntax::Native, "YBR_FULL", 3) => Ok(Self::YbrFull { planar }),
            (Syntax::Native, "YBR_FULL_422", 3) if !image.columns.is_multiple_of(2) => {
                Err(DicomError::OddColumns {
                    columns: image.columns,
                })
            }
            (Syntax::Native, "YBR_FULL_422", 3) => Ok(Self::YbrFull422),
            // Unpacked plane by plane, whatever the header says of its planes.
            (Syntax::Rle, "RGB", 3) => Ok(Self::Rgb { planar: true }),
            (Syntax::Rle, "YBR_FULL", 3) => Ok(Self::YbrFull { planar: true }),
            (Syntax::JpegLs, "RGB", 3) => Ok(Self::Rgb { planar: false }),
            (Syntax::JpegLs, "YBR_FULL", 3) => Ok(Self::YbrFull { planar: false }),
            _ => Err(unsupported()),
        }
    }
}

/// Bytes of one frame that is not compressed.
fn frame_length(image: &Image, coding: Coding) -> u64 {
    let area = u64::from(image.rows) * u64::from(image.columns);
    match coding {
        Coding::YbrFull422 => area * 2,
        _ => area * u64::from(image.samples),
    }
}

/// Which stretches of the file make up each frame.
pub(super) fn frames(
    file: &mut File,
    image: &Image,
    syntax: Syntax,
    coding: Coding,
    pixels: Pixels,
) -> Result<Vec<Vec<Extent>>, DicomError> {
    let claimed = image.frames;
    match (syntax, pixels) {
        (Syntax::Native, Pixels::Native(all)) => {
            let length = frame_length(image, coding);
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
        // PS3.5 section A.4.5: the fragments hold one stream.
        (Syntax::Video, Pixels::Fragments { fragments, .. }) if fragments.is_empty() => {
            Err(DicomError::FrameCount { claimed, found: 0 })
        }
        (Syntax::Video, Pixels::Fragments { fragments, .. }) => Ok(vec![fragments]),
        (
            Syntax::Jpeg | Syntax::JpegLs | Syntax::Jpeg2000 | Syntax::Rle,
            Pixels::Fragments { offsets, fragments },
        ) => {
            let frames = group(file, claimed, syntax, &offsets, fragments)?;
            let found = frames.len() as u64;
            if found != claimed {
                return Err(DicomError::FrameCount { claimed, found });
            }
            Ok(frames)
        }
        (Syntax::Native, Pixels::Fragments { .. }) => Err(DicomError::Malformed {
            detail: "its transfer syntax is uncompressed and its pixel data is in fragments",
        }),
        (_, Pixels::Native(_)) => Err(DicomError::Malformed {
            detail: "its transfer syntax is compressed and its pixel data is not in fragments",
        }),
    }
}

/// PS3.5 section A.4 lets a frame span fragments. The offset table says which,
/// but may be empty; then one fragment each, or a new frame wherever an image
/// begins.
fn group(
    file: &mut File,
    claimed: u64,
    syntax: Syntax,
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
            starts_image(file, fragment, syntax)?
        };
        match frames.last_mut() {
            Some(frame) if !begins => frame.push(fragment),
            _ => frames.push(vec![fragment]),
        }
    }
    Ok(frames)
}

/// What it takes to turn a frame's bytes in the file into its coding.
#[derive(Debug)]
pub(super) struct Unpacking {
    pub(super) syntax: Syntax,
    pub(super) coding: Coding,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) samples: usize,
    pub(super) palette: Option<Palette>,
}

/// One frame's bytes.
pub(super) fn read(
    file: &mut File,
    extents: &[Extent],
    unpacking: &Unpacking,
) -> io::Result<Vec<u8>> {
    let frame = stored(file, extents)?;
    let damaged = |detail: &'static str| io::Error::new(io::ErrorKind::InvalidData, detail);
    let area = unpacking.rows * unpacking.columns;
    let frame = match unpacking.syntax {
        Syntax::Rle => rle::unpack(&frame, area, unpacking.samples)
            .ok_or_else(|| damaged("its runs do not make up the picture"))?,
        Syntax::JpegLs => {
            let image = jpegls::decode(&frame, area)
                .filter(|image| (image.height, image.width) == (unpacking.rows, unpacking.columns))
                .filter(|image| image.components == unpacking.samples)
                .ok_or_else(|| damaged("it is no JPEG-LS image of the size it should have"))?;
            image.samples
        }
        Syntax::Jpeg2000 if !frame.starts_with(&J2K_START) => {
            return Err(damaged("it is no JPEG 2000 codestream"));
        }
        Syntax::Native | Syntax::Video | Syntax::Jpeg2000 => frame,
        Syntax::Jpeg => whole_jpeg(frame, unpacking.coding == Coding::Jpeg { rgb: true })
            .ok_or_else(|| damaged("it is no JPEG image"))?,
    };
    Ok(match &unpacking.palette {
        Some(palette) => palette.apply(&frame),
        None => frame,
    })
}

/// The bytes as they lie in the file.
pub(super) fn stored(file: &mut File, extents: &[Extent]) -> io::Result<Vec<u8>> {
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
    Ok(frame)
}

/// SOC and SIZ, ISO/IEC 15444-1 annex A.
pub(super) const J2K_START: [u8; 4] = [0xFF, 0x4F, 0xFF, 0x51];

/// A JPEG image that a decoder cannot misread; `None` if it is none.
fn whole_jpeg(mut frame: Vec<u8>, rgb: bool) -> Option<Vec<u8>> {
    // Decoders pass over what is no image without a word, and the frames
    // behind it would move up.
    let colours = colours(&frame)?;
    close(&mut frame);
    if rgb && colours == Colours::Unsaid {
        frame.splice(2..2, ADOBE_RGB);
    }
    Some(frame)
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

/// The Defined Terms of PS3.3 section C.7.6.3.1.2. Anything else stays unsaid:
/// whoever wrote it may have written a name there.
fn known(photometric: &str) -> &str {
    const TERMS: [&str; 14] = [
        "MONOCHROME1",
        "MONOCHROME2",
        "PALETTE COLOR",
        "RGB",
        "HSV",
        "ARGB",
        "CMYK",
        "YBR_FULL",
        "YBR_FULL_422",
        "YBR_PARTIAL_422",
        "YBR_PARTIAL_420",
        "YBR_ICT",
        "YBR_RCT",
        "XYB",
    ];
    let term = TERMS.into_iter().find(|term| *term == photometric);
    term.unwrap_or("(none that is defined)")
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
