//! A DICOM cine: what its header says, and its frames one at a time.
//!
//! [`Cine::open`] checks a file as a whole, so that everything wrong with it is
//! told before the first frame. Packings that GStreamer has no decoder for (RLE,
//! JPEG-LS, palettes) are undone here; JPEG, JPEG 2000 and video are handed on as
//! they are. Called by the reader, which needs the facts, and
//! by [`super::dicomsrc`], which pushes the frames.
//!
//! Values of the header never reach an error or a log, except those that name a
//! coding.

mod header;
mod jpegls;
mod layout;
mod palette;
mod pixels;
mod rle;
mod syntax;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::{Crop, Instance, PatientId, StudyUid};
use layout::Extent;
pub(super) use pixels::Coding;
use pixels::Unpacking;
pub(super) use syntax::TRANSFER_SYNTAXES;

/// Why a DICOM file is no cine that can be read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DicomError {
    /// The operating system refused to read.
    #[error("cannot be read: {0}; check its permissions and the disk")]
    Io(Arc<io::Error>),
    /// The bytes break the encoding rules.
    #[error("is malformed DICOM: {detail}; export it again from the scanner or archive")]
    Malformed {
        /// Which rule.
        detail: &'static str,
    },
    /// The header could be walked, but not understood.
    #[error(
        "has a DICOM header that cannot be parsed; export it again from the scanner or archive"
    )]
    Header,
    /// Sequences within sequences beyond reason.
    #[error("nests sequences more than {limit} deep, as no scanner does; it is damaged or hostile")]
    TooDeep {
        /// What is allowed.
        limit: usize,
    },
    /// Lengths in the file point beyond its end.
    #[error(
        "is cut short: it speaks of at least {expected} bytes and has {found}; copy it again from where it was recorded"
    )]
    Truncated {
        /// Bytes that there should be, at least.
        expected: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// The coding is not supported.
    #[error(
        "uses the transfer syntax {0}, which is not supported; export it as Explicit VR Little Endian, RLE, JPEG Baseline, JPEG-LS, JPEG 2000, MPEG-2, H.264 or HEVC"
    )]
    TransferSyntax(String),
    /// There is no picture in it: a report, a presentation state.
    #[error("holds no pixel data; it is no cine but another kind of DICOM object, leave it out")]
    NoPixelData,
    /// Required of every image, and absent or unreadable.
    #[error("does not say its {0}; export it again from the scanner or archive")]
    Lacks(&'static str),
    /// An image without an area.
    #[error(
        "says it has {rows} rows and {columns} columns; export it again from the scanner or archive"
    )]
    NoArea {
        /// Rows (0028,0010).
        rows: u16,
        /// Columns (0028,0011).
        columns: u16,
    },
    /// More pixels than any scanner's picture.
    #[error(
        "says it has {rows} rows and {columns} columns, more than a picture of {limit} pixels; it is damaged or hostile"
    )]
    TooLarge {
        /// Rows (0028,0010).
        rows: u16,
        /// Columns (0028,0011).
        columns: u16,
        /// Pixels allowed.
        limit: u64,
    },
    /// PALETTE COLOR without usable tables.
    #[error(
        "has PALETTE COLOR without whole Palette Color Lookup Tables (0028,1101) to (0028,1203); export it as RGB"
    )]
    Palette,
    /// A colour space or combination that is not supported.
    #[error(
        "has the photometric interpretation {value} with {samples} samples per pixel, which is not supported here; export it as MONOCHROME2, RGB, PALETTE COLOR, YBR_FULL or YBR_FULL_422"
    )]
    Photometric {
        /// Photometric Interpretation (0028,0004).
        value: String,
        /// Samples per Pixel (0028,0002).
        samples: u16,
    },
    /// Not eight bits deep.
    #[error(
        "has {allocated} bits allocated and {stored} stored per sample; only 8 of 8 is supported"
    )]
    BitDepth {
        /// Bits Allocated (0028,0100).
        allocated: u16,
        /// Bits Stored (0028,0101).
        stored: u16,
    },
    /// An odd width cannot be halved.
    #[error("has {columns} columns in YBR_FULL_422, which needs an even number")]
    OddColumns {
        /// Columns (0028,0011).
        columns: u16,
    },
    /// Number of Frames and pixel data contradict each other.
    #[error(
        "says it has {claimed} frames, but its pixel data holds {found}; export it again from the scanner or archive"
    )]
    FrameCount {
        /// Number of Frames (0028,0008).
        claimed: u64,
        /// What can be found.
        found: u64,
    },
}

impl DicomError {
    /// See [`super::IngestError::code`].
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io(_) => "unreadable",
            Self::Malformed { .. } => "dicom_malformed",
            Self::Header => "dicom_header",
            Self::TooDeep { .. } => "dicom_too_deep",
            Self::Truncated { .. } => "truncated",
            Self::TransferSyntax(_) => "dicom_transfer_syntax",
            Self::NoPixelData => "dicom_no_pixel_data",
            Self::Lacks(_) => "dicom_lacks_attribute",
            Self::NoArea { .. } => "dicom_no_area",
            Self::TooLarge { .. } => "dicom_too_large",
            Self::Palette => "dicom_palette",
            Self::Photometric { .. } => "dicom_photometric",
            Self::BitDepth { .. } => "dicom_bit_depth",
            Self::OddColumns { .. } => "dicom_odd_columns",
            Self::FrameCount { .. } => "dicom_frame_count",
        }
    }
}

impl From<io::Error> for DicomError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

/// What the rest of ingest needs of the header.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Facts {
    pub(super) patient: Option<PatientId>,
    pub(super) study: Option<StudyUid>,
    /// What a report refers to.
    pub(super) instance: Option<Instance>,
    /// The nominal time between frames.
    pub(super) frame_interval: Option<Duration>,
    /// The 2D tissue region, if one is marked.
    pub(super) tissue: Option<Region>,
    /// Two of them stand side by side: which shows the liver as it is now, and
    /// which a picture that is kept beside it, the header does not say.
    pub(super) is_dual_screen: bool,
}

/// An ultrasound region, PS3.3 section C.8.5.5.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Region {
    /// Where it lies, clipped to the picture.
    pub(super) crop: Crop,
    /// Millimetres per pixel across and down, if both axes are lengths.
    pub(super) mm_per_pixel: Option<[f64; 2]>,
}

/// When a cine's frames were acquired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Timing {
    /// One after the other at this interval.
    Every(Duration),
    /// At these times from the first frame on.
    At(Vec<Duration>),
    /// The header does not say.
    Unknown,
}

impl Timing {
    /// When frame `index` was acquired.
    pub(super) fn of(&self, index: usize) -> Option<Duration> {
        match self {
            Self::Every(interval) => u32::try_from(index).ok().map(|index| *interval * index),
            Self::At(times) => times.get(index).copied(),
            Self::Unknown => None,
        }
    }

    /// The time between any two frames, if it is the same for all.
    pub(super) fn interval(&self) -> Option<Duration> {
        match self {
            Self::Every(interval) => Some(*interval),
            Self::At(times) => {
                let mut steps = times.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
                let first = steps.next().filter(|step| !step.is_zero())?;
                steps.all(|step| step == first).then_some(first)
            }
            Self::Unknown => None,
        }
    }
}

/// A DICOM file that was found to hold frames.
#[derive(Debug)]
pub(super) struct Cine {
    pub(super) facts: Facts,
    pub(super) timing: Timing,
    pub(super) coding: Coding,
    pub(super) rows: u16,
    pub(super) columns: u16,
    file: File,
    unpacking: Unpacking,
    frames: Vec<Vec<Extent>>,
}

impl Cine {
    /// Checks the file at `path` from end to end, without reading its pixels.
    pub(super) fn open(path: &Path) -> Result<Self, DicomError> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let layout = layout::walk(&mut file, length)?;
        let mut header = header::read(path)?;
        let image = header.image;
        let coding = Coding::new(&image, layout.syntax)?;
        let frames = pixels::frames(&mut file, &image, layout.syntax, coding, layout.pixels)?;
        if coding == Coding::Video {
            // The bitstream knows better.
            header.facts.frame_interval = None;
        }
        Ok(Self {
            facts: header.facts,
            timing: header.timing,
            coding,
            rows: image.rows,
            columns: image.columns,
            file,
            unpacking: Unpacking {
                syntax: layout.syntax,
                coding,
                rows: usize::from(image.rows),
                columns: usize::from(image.columns),
                samples: usize::from(image.samples),
                palette: image.palette,
            },
            frames,
        })
    }

    /// How many frames there are, at least one; of a video only the bitstream
    /// knows.
    pub(super) fn len(&self) -> Option<usize> {
        (self.coding != Coding::Video).then_some(self.frames.len())
    }

    /// Reads frame `index` in its coding, or `None` behind the last.
    pub(super) fn read(&mut self, index: usize) -> io::Result<Option<Vec<u8>>> {
        let Some(extents) = self.frames.get(index) else {
            return Ok(None);
        };
        pixels::read(&mut self.file, extents, &self.unpacking).map(Some)
    }

    /// The bitstream of a video, in a file that vanishes with its last handle.
    pub(super) fn bitstream(&mut self) -> io::Result<File> {
        let mut stream = tempfile::tempfile()?;
        for extent in self.frames.iter().flatten() {
            self.file.seek(SeekFrom::Start(extent.at))?;
            io::copy(&mut (&self.file).take(extent.length), &mut stream)?;
        }
        stream.flush()?;
        Ok(stream)
    }
}

/// In how many packings the first `length` bytes of `file` are a picture of
/// 16 x 16; for [`super::doors`].
pub(super) fn decode(file: &mut File, length: u64) -> usize {
    use syntax::Syntax;
    const SIDE: usize = 16;
    let whole = [Extent { at: 0, length }];
    let packings = [
        (Syntax::Rle, Coding::Gray, 1),
        (Syntax::Rle, Coding::Rgb { planar: true }, 3),
        (Syntax::JpegLs, Coding::Gray, 1),
        (Syntax::JpegLs, Coding::Rgb { planar: false }, 3),
        (Syntax::Jpeg, Coding::Jpeg { rgb: true }, 3),
        (Syntax::Jpeg2000, Coding::Jpeg2000 { components: 1 }, 1),
    ];
    let is_read = |(syntax, coding, samples)| {
        let unpacking = Unpacking {
            syntax,
            coding,
            rows: SIDE,
            columns: SIDE,
            samples,
            palette: None,
        };
        pixels::read(file, &whole, &unpacking).is_ok()
    };
    packings.into_iter().map(is_read).filter(|&is| is).count()
}
