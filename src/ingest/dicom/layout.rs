//! Where things lie in a DICOM file, found by walking its bytes.
//!
//! Two reasons not to leave this to a DICOM library. Its parser recurses into
//! nested sequences, so that a small hostile file overflows the stack and
//! aborts the process; this walk keeps its own stack, limits the depth, and
//! checks every length against what there is *before* the parser sees the file.
//! And a cine's pixels can be gigabytes: knowing where its frames lie lets them
//! be read one at a time.
//!
//! PS3.5 section 7 is the encoding, PS3.10 section 7 the file. The values
//! themselves are not read here.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use super::DicomError;
use super::pixels::J2K_START;
use super::syntax::Syntax;

/// Deeper than any real cine nests, far from where a parser's stack ends.
const MAX_DEPTH: usize = 64;

const UNDEFINED: u32 = u32::MAX;
const ITEM: Tag = (0xFFFE, 0xE000);
const ITEM_END: Tag = (0xFFFE, 0xE00D);
const SEQUENCE_END: Tag = (0xFFFE, 0xE0DD);
const TRANSFER_SYNTAX: Tag = (0x0002, 0x0010);
const PIXEL_DATA: Tag = (0x7FE0, 0x0010);

type Tag = (u16, u16);

/// A stretch of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) at: u64,
    pub(super) length: u64,
}

/// Where the pixels lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pixels {
    /// All frames one after the other.
    Native(Extent),
    /// PS3.5 section A.4: a basic offset table, which may be empty, and fragments.
    Fragments {
        offsets: Vec<u32>,
        fragments: Vec<Extent>,
    },
}

/// What the walk found.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) syntax: Syntax,
    pub(super) pixels: Pixels,
}

/// Walks a file of `length` bytes up to the end of its pixel data.
pub(super) fn walk(file: impl Read + Seek, length: u64) -> Result<Layout, DicomError> {
    let mut walker = Walker {
        file: BufReader::new(file),
        at: 0,
        length,
    };
    walker.file.seek(SeekFrom::Start(0))?;
    walker.skip(132)?;
    let transfer_syntax = walker.meta()?;
    let Some(syntax) = Syntax::of(&transfer_syntax) else {
        // What is no UID may be anything, a name among it.
        let is_uid = |byte: u8| byte.is_ascii_digit() || byte == b'.';
        let said = if transfer_syntax.bytes().all(is_uid) {
            transfer_syntax
        } else {
            "(no UID)".to_owned()
        };
        return Err(DicomError::TransferSyntax(said));
    };
    let pixels = walker.data_set(Syntax::is_implicit(&transfer_syntax))?;
    Ok(Layout { syntax, pixels })
}

/// What a level of nesting consists of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    Elements,
    Items,
    /// Items whose content is no data set: encapsulated pixels of an icon.
    Fragments,
}

struct Level {
    holds: Holds,
    /// Where it ends; without this it ends at its delimiter.
    end: Option<u64>,
    implicit: bool,
}

struct Element {
    tag: Tag,
    vr: [u8; 2],
    length: u32,
}

struct Walker<R> {
    file: BufReader<R>,
    at: u64,
    length: u64,
}

impl<R: Read + Seek> Walker<R> {
    /// PS3.10 section 7.1: the file meta group, always explicit little endian.
    fn meta(&mut self) -> Result<String, DicomError> {
        let mut transfer_syntax = None;
        while self.at < self.length {
            let group = self.peek_u16()?;
            if group != 0x0002 {
                break;
            }
            let element = self.element(false)?;
            if element.tag == TRANSFER_SYNTAX {
                // PS3.5 section 9: a UID has at most 64 characters.
                if element.length > 64 {
                    return Err(malformed("a transfer syntax UID is too long"));
                }
                let mut uid = vec![0; element.length as usize];
                self.read(&mut uid)?;
                let uid = String::from_utf8_lossy(&uid);
                transfer_syntax = Some(uid.trim_end_matches(['\0', ' ']).to_owned());
            } else {
                self.skip(u64::from(element.length))?;
            }
        }
        transfer_syntax.ok_or(malformed("it names no transfer syntax"))
    }

    fn data_set(&mut self, implicit: bool) -> Result<Pixels, DicomError> {
        let mut levels = vec![Level {
            holds: Holds::Elements,
            end: Some(self.length),
            implicit,
        }];
        loop {
            while levels
                .last()
                .is_some_and(|level| level.end == Some(self.at))
            {
                levels.pop();
            }
            let Some(level) = levels.last() else {
                return Err(DicomError::NoPixelData);
            };
            if level.end.is_some_and(|end| self.at > end) {
                return Err(malformed("a value is longer than the sequence it is in"));
            }
            let element = self.element(level.implicit)?;
            match (level.holds, element.tag) {
                (Holds::Items, ITEM) => {
                    let inner = self.level(Holds::Elements, &element, level.implicit);
                    push(&mut levels, inner)?;
                }
                (Holds::Fragments, ITEM) => self.skip(u64::from(element.length))?,
                (Holds::Items | Holds::Fragments, SEQUENCE_END) | (Holds::Elements, ITEM_END)
                    if level.end.is_none() =>
                {
                    levels.pop();
                }
                (Holds::Items | Holds::Fragments, _) | (_, (0xFFFE, _)) => {
                    return Err(malformed("its sequences are not properly nested"));
                }
                (Holds::Elements, PIXEL_DATA) if levels.len() == 1 => {
                    return self.pixels(&element);
                }
                (Holds::Elements, _) => match self.nested(&element, level.implicit)? {
                    Some(inner) => push(&mut levels, inner)?,
                    None => self.skip(u64::from(element.length))?,
                },
            }
        }
    }

    /// The level that `element` opens, if it is a sequence.
    fn nested(&mut self, element: &Element, implicit: bool) -> Result<Option<Level>, DicomError> {
        let (holds, implicit) = match (&element.vr, element.length) {
            (b"SQ", _) => (Holds::Items, implicit),
            // PS3.5 section 6.2.2: a sequence whose VR was not known to the
            // writer is implicit inside.
            (b"UN", UNDEFINED) => (Holds::Items, true),
            (_, UNDEFINED) if implicit => (Holds::Items, true),
            (_, UNDEFINED) => (Holds::Fragments, implicit),
            // Implicit VR does not say what is a sequence; its first bytes do.
            (_, 8..) if implicit && self.peek_u32()? == 0xE000_FFFE => (Holds::Items, true),
            _ => return Ok(None),
        };
        Ok(Some(self.level(holds, element, implicit)))
    }

    fn level(&self, holds: Holds, element: &Element, implicit: bool) -> Level {
        let end = (element.length != UNDEFINED).then(|| self.at + u64::from(element.length));
        Level {
            holds,
            end,
            implicit,
        }
    }

    fn pixels(&mut self, element: &Element) -> Result<Pixels, DicomError> {
        if element.length != UNDEFINED {
            let extent = self.extent(element.length)?;
            return Ok(Pixels::Native(extent));
        }
        let mut offsets = None;
        let mut fragments = Vec::new();
        loop {
            let item = self.element(true)?;
            match item.tag {
                ITEM if offsets.is_none() => offsets = Some(self.offset_table(item.length)?),
                ITEM => {
                    let extent = self.extent(item.length)?;
                    fragments.push(extent);
                }
                SEQUENCE_END => break,
                _ => return Err(malformed("something lies between its fragments")),
            }
        }
        Ok(Pixels::Fragments {
            offsets: offsets.unwrap_or_default(),
            fragments,
        })
    }

    fn offset_table(&mut self, length: u32) -> Result<Vec<u32>, DicomError> {
        self.fits(u64::from(length))?;
        let mut bytes = vec![0; length as usize];
        self.read(&mut bytes)?;
        let entries = bytes.chunks_exact(4);
        Ok(entries
            .map(|entry| u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]))
            .collect())
    }

    fn extent(&mut self, length: u32) -> Result<Extent, DicomError> {
        let extent = Extent {
            at: self.at,
            length: u64::from(length),
        };
        self.skip(extent.length)?;
        Ok(extent)
    }

    /// The head of an element: PS3.5 section 7.1.2 explicit, 7.1.3 implicit.
    fn element(&mut self, implicit: bool) -> Result<Element, DicomError> {
        let [g0, g1, e0, e1, rest @ ..] = self.bytes::<8>()?;
        let tag = (u16::from_le_bytes([g0, g1]), u16::from_le_bytes([e0, e1]));
        if implicit || tag.0 == 0xFFFE {
            let length = u32::from_le_bytes(rest);
            return Ok(Element {
                tag,
                vr: *b"  ",
                length,
            });
        }
        let [v0, v1, l0, l1] = rest;
        let vr = [v0, v1];
        let length = match &vr {
            b"OB" | b"OD" | b"OF" | b"OL" | b"OV" | b"OW" | b"SQ" | b"SV" | b"UC" | b"UN"
            | b"UR" | b"UT" | b"UV" => u32::from_le_bytes(self.bytes::<4>()?),
            _ => u32::from(u16::from_le_bytes([l0, l1])),
        };
        // PS3.5 section 6.2. The parser reads whole numbers and takes the rest of a
        // last one for the next element, with whatever length it then finds.
        let number = match &vr {
            b"FD" => 8,
            b"AT" | b"FL" | b"SL" | b"UL" => 4,
            b"SS" | b"US" => 2,
            _ => 1,
        };
        if length % number != 0 {
            return Err(malformed("a number in it is cut short"));
        }
        Ok(Element { tag, vr, length })
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], DicomError> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), DicomError> {
        self.fits(bytes.len() as u64)?;
        self.file.read_exact(bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn skip(&mut self, length: u64) -> Result<(), DicomError> {
        self.fits(length)?;
        self.file
            .seek_relative(i64::try_from(length).unwrap_or(i64::MAX))?;
        self.at += length;
        Ok(())
    }

    fn fits(&self, length: u64) -> Result<(), DicomError> {
        let expected = self.at.saturating_add(length);
        if expected > self.length {
            return Err(DicomError::Truncated {
                expected,
                found: self.length,
            });
        }
        Ok(())
    }

    fn peek_u16(&mut self) -> Result<u16, DicomError> {
        let bytes: [u8; 2] = self.bytes()?;
        self.back(2)?;
        Ok(u16::from_le_bytes(bytes))
    }

    fn peek_u32(&mut self) -> Result<u32, DicomError> {
        let bytes: [u8; 4] = self.bytes()?;
        self.back(4)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn back(&mut self, length: u8) -> io::Result<()> {
        self.at -= u64::from(length);
        self.file.seek_relative(-i64::from(length))
    }
}

fn push(levels: &mut Vec<Level>, level: Level) -> Result<(), DicomError> {
    if levels.len() >= MAX_DEPTH {
        return Err(DicomError::TooDeep { limit: MAX_DEPTH });
    }
    levels.push(level);
    Ok(())
}

const fn malformed(detail: &'static str) -> DicomError {
    DicomError::Malformed { detail }
}

/// Whether the file's bytes at `extent` begin with an image's first marker.
pub(super) fn starts_image(
    file: &mut (impl Read + Seek),
    extent: Extent,
    syntax: Syntax,
) -> io::Result<bool> {
    let start: &[u8] = match syntax {
        Syntax::Jpeg | Syntax::JpegLs => &[0xFF, 0xD8],
        Syntax::Jpeg2000 => &J2K_START,
        // PS3.5 section A.4.2: a frame has one fragment.
        Syntax::Rle | Syntax::Native | Syntax::Video => return Ok(true),
    };
    if extent.length < start.len() as u64 {
        return Ok(false);
    }
    file.seek(SeekFrom::Start(extent.at))?;
    let mut marker = vec![0; start.len()];
    file.read_exact(&mut marker)?;
    Ok(marker == start)
}
