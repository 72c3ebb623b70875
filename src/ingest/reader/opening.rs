//! From what a request names to something that plays, with everything wrong about
//! it told before the first picture.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{Reader, Stop};
use crate::domain::{ContentHash, PatientId};
use crate::ingest::Media;
use crate::ingest::container::{self, Kind};
use crate::ingest::dicom::{Cine, Coding, Facts};
use crate::ingest::error::IngestError;
use crate::ingest::pictures::{NoSeries, Series};
use crate::ingest::pipeline::{Bell, Playback};

/// A source before its first frame.
pub(super) struct Opening {
    pub(super) playback: Playback,
    /// A video that was unwrapped; open for as long as it plays.
    _bitstream: Option<File>,
    pub(super) content: ContentHash,
    pub(super) patient: PatientId,
    /// From the DICOM header; nothing for other media.
    pub(super) facts: Facts,
    /// How many frames there must be, where that is known beforehand.
    pub(super) expected: Option<u64>,
    /// The pictures, if they are a folder's.
    pub(super) series: Option<Series>,
}

impl Opening {
    /// The same error, of which picture it is, where `found` ones came before it:
    /// the decoder does not know their names.
    pub(super) fn named(&self, error: IngestError, found: u64) -> IngestError {
        match (&self.series, error) {
            (
                Some(series),
                IngestError::Element { origin, .. } | IngestError::Undecodable { origin, .. },
            ) => IngestError::Undecodable {
                origin,
                detail: format!("`{}` is no whole picture", series.name(found as u32)),
            },
            (_, error) => error,
        }
    }
}

impl Reader {
    /// Whether this is a file that says it is DICOM. Anything else, what cannot
    /// be opened included, is told by the reader.
    pub(super) fn is_dicom(&self) -> bool {
        let Media::File(path) = &self.request.media else {
            return false;
        };
        std::fs::metadata(path).is_ok_and(|about| about.is_file())
            && File::open(path)
                .and_then(|mut file| container::kind(&mut file))
                .is_ok_and(|kind| kind == Kind::Dicom)
    }

    pub(super) fn open(&self) -> Result<Opening, Stop> {
        match &self.request.media {
            Media::File(path) => self.open_file(path),
            Media::Launch(line) => {
                let patient = self.patient(None)?;
                let playback = Playback::of_launch(line, &self.origin, self.ring())?;
                Ok(Opening {
                    playback,
                    _bitstream: None,
                    content: launch_content(line, self.request.live),
                    patient,
                    facts: Facts::default(),
                    expected: None,
                    series: None,
                })
            }
        }
    }

    fn open_file(&self, path: &Path) -> Result<Opening, Stop> {
        let unreadable = |error| self.unreadable(error);
        // Asked before opening: to open a pipe would wait for its writer.
        let about = std::fs::metadata(path).map_err(unreadable)?;
        let origin = || self.origin.clone();
        if about.is_dir() {
            return self.open_folder(path);
        }
        if !about.is_file() {
            return Err(IngestError::NotAFile { origin: origin() }.into());
        }
        if about.len() == 0 {
            return Err(IngestError::Empty { origin: origin() }.into());
        }
        let mut file = File::open(path).map_err(unreadable)?;
        let kind = container::kind(&mut file).map_err(unreadable)?;
        let cine = match kind {
            Kind::Dicom => {
                let cine = Cine::open(path).map_err(|error| IngestError::Dicom {
                    origin: origin(),
                    error: Arc::new(error),
                })?;
                Some(cine)
            }
            Kind::Gif => return Err(IngestError::Gif { origin: origin() }.into()),
            Kind::Picture(still) => {
                if !container::is_whole(&mut file, still, about.len()).map_err(unreadable)? {
                    return Err(IngestError::Undecodable {
                        origin: origin(),
                        detail: "the picture breaks off before its end".into(),
                    }
                    .into());
                }
                None
            }
            Kind::Other => {
                let claimed = container::claims_more_than(&mut file, about.len());
                if let Some(expected) = claimed.map_err(unreadable)? {
                    return Err(IngestError::Truncated {
                        origin: origin(),
                        expected,
                        found: about.len(),
                    }
                    .into());
                }
                None
            }
        };
        let facts = cine.as_ref().map(|cine| cine.facts.clone());
        let facts = facts.unwrap_or_default();
        let expected = cine.as_ref().and_then(Cine::len).map(|len| len as u64);
        let patient = self.patient(facts.patient.clone())?;
        let content = container::hash(&mut file, || self.queue.is_closed())
            .map_err(unreadable)?
            .ok_or(Stop::Closed)?;
        let mut bitstream = None;
        let playback = match cine {
            Some(mut cine) if cine.coding == Coding::Video => {
                let stream = bitstream.insert(cine.bitstream().map_err(unreadable)?);
                // By way of /proc it can be opened again, though it has no name.
                let path = format!("/proc/self/fd/{}", stream.as_raw_fd());
                Playback::of_file(Path::new(&path), &self.origin, self.ring())?
            }
            Some(cine) => Playback::of_dicom(path, cine, &self.origin, self.ring())?,
            None => Playback::of_file(path, &self.origin, self.ring())?,
        };
        Ok(Opening {
            playback,
            _bitstream: bitstream,
            content,
            patient,
            facts,
            expected,
            series: None,
        })
    }

    /// Numbered pictures, which are one recording.
    fn open_folder(&self, path: &Path) -> Result<Opening, Stop> {
        let no_series = |error| {
            let origin = self.origin.clone();
            match error {
                NoSeries::Io(error) => self.unreadable(error),
                NoSeries::Empty => IngestError::NotAFile { origin },
                NoSeries::Unlike(detail) => IngestError::NoSeries { origin, detail },
            }
        };
        let series = Series::of(path).map_err(no_series)?;
        let patient = self.patient(None)?;
        let interval = self.request.frame_interval;
        let interval = interval.ok_or_else(|| IngestError::NoFrameRate {
            origin: self.origin.clone(),
        })?;
        let content = series
            .hash(|| self.queue.is_closed())
            .map_err(no_series)?
            .ok_or(Stop::Closed)?;
        Ok(Opening {
            playback: Playback::of_pictures(&series, interval, &self.origin, self.ring())?,
            _bitstream: None,
            content,
            patient,
            facts: Facts::default(),
            expected: Some(u64::from(series.count)),
            series: Some(series),
        })
    }

    fn unreadable(&self, error: io::Error) -> IngestError {
        let origin = self.origin.clone();
        match error.kind() {
            io::ErrorKind::NotFound => IngestError::Missing { origin },
            _ => IngestError::Unreadable {
                origin,
                error: Arc::new(error),
            },
        }
    }

    fn patient(&self, from_header: Option<PatientId>) -> Result<PatientId, IngestError> {
        let given = self.request.patient.clone();
        given.or(from_header).ok_or_else(|| IngestError::NoPatient {
            origin: self.origin.clone(),
        })
    }

    fn ring(&self) -> Bell {
        let bell = self.bell.clone();
        Arc::new(move || {
            // A full bell is a bell that will be heard.
            let _ = bell.try_send(());
        })
    }
}

/// See [`crate::ingest::StreamHeader::content`].
fn launch_content(line: &str, live: bool) -> ContentHash {
    let mut digest = Sha256::new();
    digest.update(b"launch line\0");
    digest.update(line.as_bytes());
    if live {
        // Not the time of day: two scanners may be opened in one tick of a coarse
        // clock, and a clock that is set back tells an hour again.
        digest.update(rand::random::<u128>().to_le_bytes());
    }
    ContentHash::from_digest(digest)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::launch_content;

    #[test]
    fn live_lines_opened_at_one_instant_are_not_alike() {
        let opened = |()| std::thread::spawn(|| [(); 500].map(|()| launch_content("line", true)));
        let threads = [(); 4].map(opened);
        let contents: HashSet<_> = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        assert_eq!(contents.len(), 4 * 500);
    }
}
