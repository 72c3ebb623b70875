//! What can go wrong between a source and its frames, and the way out.
//!
//! The texts name the source and its file or launch line, never the patient or
//! the study. Passwords within a launch line are blanked.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Media;
use super::dicom::DicomError;
use crate::domain::{Crop, FrameSize};

/// Which source of the pipeline file, and what it was to read.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The source's name in the pipeline file.
    pub name: String,
    /// What it was to read.
    pub media: Media,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "source `{}`: ", self.name)?;
        match &self.media {
            Media::File(path) => write!(f, "{}", path.display()),
            Media::Launch(line) => write!(f, "`{}`", without_credentials(line)),
        }
    }
}

/// Why a stream ended before its time.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// GStreamer or one of its elements is not installed.
    #[error(
        "{origin}: GStreamer is not usable: {detail}; install the GStreamer base, good, bad and libav plugins"
    )]
    GStreamer {
        /// Where.
        origin: Origin,
        /// What GStreamer said.
        detail: String,
    },
    /// There is no such file.
    #[error("{origin}: there is no such file; correct the path, or remove the source")]
    Missing {
        /// Where.
        origin: Origin,
    },
    /// The path is a folder without a picture, a pipe or a device.
    #[error(
        "{origin}: is neither a file nor a folder of numbered pictures; name a recording, or list a folder's files with a pattern"
    )]
    NotAFile {
        /// Where.
        origin: Origin,
    },
    /// The file has no bytes.
    #[error("{origin}: the file is empty; copy it again from where it was recorded")]
    Empty {
        /// Where.
        origin: Origin,
    },
    /// The operating system refused to read the file.
    #[error("{origin}: cannot be read: {error}; check its permissions and the disk")]
    Unreadable {
        /// Where.
        origin: Origin,
        /// What the operating system said.
        error: Arc<io::Error>,
    },
    /// The folder holds pictures that are not one recording.
    #[error(
        "{origin}: is no series of pictures: {detail}; number the pictures of one recording without a hole, and keep those of others elsewhere"
    )]
    NoSeries {
        /// Where.
        origin: Origin,
        /// Which picture does not fit.
        detail: String,
    },
    /// Nothing says how fast the pictures of a folder follow each other.
    #[error(
        "{origin}: its pictures do not say how fast they follow each other; give the source its `frames_per_second`"
    )]
    NoFrameRate {
        /// Where.
        origin: Origin,
    },
    /// A GIF.
    #[error("{origin}: is a GIF, which is not read; make it an MP4 or AVI")]
    Gif {
        /// Where.
        origin: Origin,
    },
    /// The file is shorter than its own headers say.
    #[error(
        "{origin}: is cut short: its headers speak of {expected} bytes and it has {found}; copy it again from where it was recorded"
    )]
    Truncated {
        /// Where.
        origin: Origin,
        /// Bytes that there should be.
        expected: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// The file is DICOM, but not a cine that can be read.
    #[error("{origin}: {error}")]
    Dicom {
        /// Where.
        origin: Origin,
        /// What is wrong with it.
        error: Arc<DicomError>,
    },
    /// Neither the pipeline file nor the recording says whose liver it is.
    #[error("{origin}: says nothing of the patient; give the source a `patient`")]
    NoPatient {
        /// Where.
        origin: Origin,
    },
    /// The launch line does not describe a source of video.
    #[error(
        "{origin}: is no usable launch line: {detail}; it must be a chain of elements whose last one is left unlinked and gives video"
    )]
    BadLaunch {
        /// Where.
        origin: Origin,
        /// What GStreamer said.
        detail: String,
    },
    /// The content is of no kind that GStreamer knows.
    #[error(
        "{origin}: is no video: {detail}; give it an MP4, AVI, MKV or DICOM recording, or numbered pictures"
    )]
    NotMedia {
        /// Where.
        origin: Origin,
        /// What GStreamer said.
        detail: String,
    },
    /// It plays, but without a picture.
    #[error("{origin}: has no video in it, only sound or data; name a recording with pictures")]
    NoVideo {
        /// Where.
        origin: Origin,
    },
    /// The coding is known, but no decoder for it is installed.
    #[error(
        "{origin}: no decoder is installed: {detail}; install the GStreamer plugin for it (most are in libav, good and bad)"
    )]
    NoDecoder {
        /// Where.
        origin: Origin,
        /// The missing decoder.
        detail: String,
    },
    /// The content breaks the rules of its own format.
    #[error(
        "{origin}: cannot be decoded: {detail}; the recording is damaged, copy it again or leave it out"
    )]
    Undecodable {
        /// Where.
        origin: Origin,
        /// What GStreamer said.
        detail: String,
    },
    /// It ended without a single picture.
    #[error("{origin}: ended without a single frame; the recording is empty or damaged")]
    NoFrames {
        /// Where.
        origin: Origin,
    },
    /// A DICOM cine gave another number of pictures than it has.
    #[error(
        "{origin}: has {expected} frames, of which {found} could be decoded; the recording is damaged, copy it again or leave it out"
    )]
    FramesMissing {
        /// Where.
        origin: Origin,
        /// Frames in the file.
        expected: u64,
        /// Frames decoded.
        found: u64,
    },
    /// No picture came in time.
    #[error("{origin}: no frame came within {}; check that the scanner or recording delivers video, or allow it more time", humantime::format_duration(*.waited))]
    NeverStarted {
        /// Where.
        origin: Origin,
        /// How long it was given.
        waited: Duration,
    },
    /// A recording stopped giving pictures without ending.
    #[error("{origin}: gave {frames} frames and then none for {}; the recording or its storage hangs", humantime::format_duration(*.waited))]
    Stalled {
        /// Where.
        origin: Origin,
        /// Frames until then.
        frames: u64,
        /// How long it was given.
        waited: Duration,
    },
    /// The crop is not within the picture.
    #[error("{origin}: the crop of {}x{} pixels at ({}, {}) does not lie within the picture of {}x{}; correct the source's `crop`", .crop.width, .crop.height, .crop.x, .crop.y, .picture.width, .picture.height)]
    CropOutside {
        /// Where.
        origin: Origin,
        /// The crop asked for.
        crop: Crop,
        /// The picture as decoded.
        picture: FrameSize,
    },
    /// A GStreamer element failed in a way that has no name of its own here.
    #[error("{origin}: GStreamer's `{element}` failed: {detail}")]
    Element {
        /// Where.
        origin: Origin,
        /// The element's name.
        element: String,
        /// What it said.
        detail: String,
    },
    /// A worker of the sandbox refused the file; the text is its own.
    #[error("{text}")]
    Refused {
        /// Where.
        origin: Origin,
        /// See [`IngestError::code`].
        code: String,
        /// What is wrong, and the way out.
        text: String,
    },
    /// A worker of the sandbox did not survive the file.
    #[error(
        "{origin}: its decoder broke down ({how}); the file is damaged or hostile, leave it out"
    )]
    Crashed {
        /// Where.
        origin: Origin,
        /// How the worker ended.
        how: String,
    },
    /// The reader itself broke: a mistake in this program.
    #[error("{origin}: the reader broke down; this is a mistake in hepaflow, please report it")]
    Broken {
        /// Where.
        origin: Origin,
    },
}

impl IngestError {
    /// Which source it was.
    pub fn origin(&self) -> &Origin {
        match self {
            Self::GStreamer { origin, .. }
            | Self::Missing { origin }
            | Self::NotAFile { origin }
            | Self::Empty { origin }
            | Self::Unreadable { origin, .. }
            | Self::NoSeries { origin, .. }
            | Self::NoFrameRate { origin }
            | Self::Gif { origin }
            | Self::Truncated { origin, .. }
            | Self::Dicom { origin, .. }
            | Self::NoPatient { origin }
            | Self::BadLaunch { origin, .. }
            | Self::NotMedia { origin, .. }
            | Self::NoVideo { origin }
            | Self::NoDecoder { origin, .. }
            | Self::Undecodable { origin, .. }
            | Self::NoFrames { origin }
            | Self::FramesMissing { origin, .. }
            | Self::NeverStarted { origin, .. }
            | Self::Stalled { origin, .. }
            | Self::CropOutside { origin, .. }
            | Self::Element { origin, .. }
            | Self::Refused { origin, .. }
            | Self::Crashed { origin, .. }
            | Self::Broken { origin } => origin,
        }
    }

    /// A stable word for what went wrong, for reports and scripts.
    pub fn code(&self) -> &str {
        match self {
            Self::GStreamer { .. } => "gstreamer",
            Self::Missing { .. } => "missing",
            Self::NotAFile { .. } => "not_a_file",
            Self::Empty { .. } => "empty",
            Self::Unreadable { .. } => "unreadable",
            Self::NoSeries { .. } => "no_series",
            Self::NoFrameRate { .. } => "no_frame_rate",
            Self::Gif { .. } => "gif",
            Self::Truncated { .. } => "truncated",
            Self::Dicom { error, .. } => error.code(),
            Self::NoPatient { .. } => "no_patient",
            Self::BadLaunch { .. } => "bad_launch",
            Self::NotMedia { .. } => "not_media",
            Self::NoVideo { .. } => "no_video",
            Self::NoDecoder { .. } => "no_decoder",
            Self::Undecodable { .. } => "undecodable",
            Self::NoFrames { .. } => "no_frames",
            Self::FramesMissing { .. } => "frames_missing",
            Self::NeverStarted { .. } => "never_started",
            Self::Stalled { .. } => "stalled",
            Self::CropOutside { .. } => "crop_outside",
            Self::Element { .. } => "element",
            Self::Refused { code, .. } => code,
            Self::Crashed { .. } => "crashed",
            Self::Broken { .. } => "broken",
        }
    }

    /// The file concerned, if it is one.
    pub fn path(&self) -> Option<&PathBuf> {
        match &self.origin().media {
            Media::File(path) => Some(path),
            Media::Launch(_) => None,
        }
    }
}

/// `text` with `user:password@` blanked in every URL, so that a scanner's
/// password does not end in a log.
pub(super) fn without_credentials(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(scheme) = rest.find("://") {
        let (before, after) = rest.split_at(scheme + 3);
        safe.push_str(before);
        let authority = after
            .find(|c: char| c == '/' || c == '"' || c.is_whitespace())
            .unwrap_or(after.len());
        rest = match after[..authority].rfind('@') {
            Some(at) => {
                safe.push_str("***");
                &after[at..]
            }
            None => after,
        };
    }
    safe.push_str(rest);
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_blanked_and_the_rest_is_kept() {
        for (text, safe) in [
            (
                "rtspsrc location=rtsp://me:secret@scanner:554/a ! x",
                "rtspsrc location=rtsp://***@scanner:554/a ! x",
            ),
            (
                "a http://h/x@y b rtsp://u@v",
                "a http://h/x@y b rtsp://***@v",
            ),
            ("videotestsrc ! video/x-raw", "videotestsrc ! video/x-raw"),
        ] {
            assert_eq!(without_credentials(text), safe);
        }
    }
}
