//! Studies out of an archive (a PACS) by date: C-FIND says which there are, and
//! C-MOVE has the archive push them to our own listener, which keeps what it
//! acknowledges and feeds the dataflow. PS3.4 annex C, Study Root.
//!
//! One association an operation, with timeouts on every read and write; answers
//! and their number are bounded. Nothing here holds pictures. Called by
//! `hepaflow pull`.

use std::sync::Arc;
use std::time::Duration;

use dicom_dictionary_std::uids;
use dicom_ul::Pdu;
use dicom_ul::pdu::PDataValueType;
use rustls::ClientConfig;

use super::calling::{Calling, NotBegun};
use super::listener::command::{elements, padded, put, uid, with_length};
use crate::domain::StudyUid;

const FIND: &str = uids::STUDY_ROOT_QUERY_RETRIEVE_INFORMATION_MODEL_FIND;
const MOVE: &str = uids::STUDY_ROOT_QUERY_RETRIEVE_INFORMATION_MODEL_MOVE;

/// The largest command or data set that an archive answers with.
const LARGEST_ANSWER: usize = 64 << 10;

/// An archive, and what it knows us as.
#[derive(Clone, Debug)]
pub struct Archive {
    /// `host:port`.
    pub address: String,
    /// Its title.
    pub title: String,
    /// Our title when we ask.
    pub calling: String,
    /// Silent for this long: given up.
    pub timeout: Duration,
    /// With it nothing is said that is not encrypted.
    pub tls: Option<Arc<ClientConfig>>,
}

/// Why an archive gave nothing. The texts name no study.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// No association came about.
    #[error(
        "the archive {title} at {address} cannot be asked: {detail}; check address and titles, and that the archive knows ours"
    )]
    NoAssociation {
        /// Its title.
        title: String,
        /// Where.
        address: String,
        /// What kind of failure.
        detail: &'static str,
    },
    /// The association broke.
    #[error(
        "the archive {title} broke off in the middle of an answer, or was silent for too long; start again to go on"
    )]
    Broken {
        /// Its title.
        title: String,
    },
    /// It answered with a failure, PS3.4 section C.4.
    #[error("the archive {title} refuses with status {status:04X}H; {}", way_out(*.status))]
    Refused {
        /// Its title.
        title: String,
        /// The status.
        status: u16,
    },
    /// More studies than asked for.
    #[error(
        "the archive {title} has more than {most} studies in that time; ask for a shorter one, or raise the limit"
    )]
    TooMany {
        /// Its title.
        title: String,
        /// The limit.
        most: usize,
    },
}

fn way_out(status: u16) -> &'static str {
    match status {
        0xA801 => {
            "it does not know the title to which it shall push: add our listener's title, host and port to its configuration"
        }
        0xA700..=0xA7FF => "it is out of resources: try again later",
        0xA900 => "it does not take this kind of question",
        _ => "its log says more",
    }
}

/// What became of the instances of one study.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Pushed and acknowledged.
    pub completed: u16,
    /// Not pushed, or refused by the listener.
    pub failed: u16,
    /// Pushed with a warning.
    pub warnings: u16,
}

/// One answer of an archive.
#[derive(Debug, Default)]
struct Answer {
    status: u16,
    moved: Moved,
    data: Vec<u8>,
}

impl Answer {
    /// PS3.7 section 9.1.2.1.5: more will come.
    fn is_pending(&self) -> bool {
        matches!(self.status, 0xFF00 | 0xFF01)
    }
}

impl Archive {
    /// The studies of `dates` (`20240131`, `20240101-20240131`, `20240101-`) with
    /// pictures of `modality`, at most `most`.
    ///
    /// # Errors
    /// If the archive cannot be asked, refuses, or has more.
    pub fn find(
        &self,
        dates: &str,
        modality: &str,
        most: usize,
    ) -> Result<Vec<StudyUid>, PullError> {
        let mut identifier = Vec::new();
        put(&mut identifier, (0x0008, 0x0020), &text(dates));
        put(&mut identifier, (0x0008, 0x0052), &text("STUDY"));
        put(&mut identifier, (0x0008, 0x0061), &text(modality));
        put(&mut identifier, (0x0020, 0x000D), &[]);
        let mut calling = self.associate(FIND)?;
        self.ask(&mut calling, (FIND, 0x0020), None, &identifier)?;
        let mut studies = Vec::new();
        loop {
            let answer = self.answer(&mut calling)?;
            if answer.is_pending() {
                let found = elements(&answer.data).map_while(|element| element);
                let study = found
                    .filter(|&(group, number, _)| (group, number) == (0x0020, 0x000D))
                    .find_map(|(_, _, value)| uid(value));
                studies.extend(study.map(StudyUid::new));
                if studies.len() > most {
                    let title = self.title.clone();
                    calling.abort();
                    return Err(PullError::TooMany { title, most });
                }
                continue;
            }
            if answer.status != 0 {
                return Err(self.refused(answer.status));
            }
            calling.release();
            studies.sort();
            studies.dedup();
            return Ok(studies);
        }
    }

    /// Has the archive push `study` to the listener that it knows as `to`, and
    /// waits for the end of it.
    ///
    /// # Errors
    /// If the archive cannot be asked, or refuses as a whole.
    pub fn fetch(&self, study: &StudyUid, to: &str) -> Result<Moved, PullError> {
        let mut identifier = Vec::new();
        put(&mut identifier, (0x0008, 0x0052), &text("STUDY"));
        put(&mut identifier, (0x0020, 0x000D), &padded(study.expose()));
        let mut calling = self.associate(MOVE)?;
        self.ask(&mut calling, (MOVE, 0x0021), Some(to), &identifier)?;
        loop {
            let answer = self.answer(&mut calling)?;
            if answer.is_pending() {
                continue;
            }
            calling.release();
            return match answer.status {
                // B000H: some of it failed, which is counted.
                0x0000 | 0xB000 => Ok(answer.moved),
                status => Err(self.refused(status)),
            };
        }
    }

    fn associate(&self, class: &'static str) -> Result<Calling, PullError> {
        let syntaxes = [uids::IMPLICIT_VR_LITTLE_ENDIAN];
        Calling::begin(self, &[class], &syntaxes).map_err(|failure| PullError::NoAssociation {
            title: self.title.clone(),
            address: self.address.clone(),
            detail: match failure {
                NotBegun::NothingAgreed => "it does not offer queries",
                other => other.detail(),
            },
        })
    }

    /// Sends a command with its identifier, PS3.7 sections 9.3.2.1 and 9.3.4.1.
    fn ask(
        &self,
        calling: &mut Calling,
        (class, command): (&str, u16),
        destination: Option<&str>,
        identifier: &[u8],
    ) -> Result<(), PullError> {
        let mut body = Vec::new();
        put(&mut body, (0, 0x0002), &padded(class));
        put(&mut body, (0, 0x0100), &command.to_le_bytes());
        put(&mut body, (0, 0x0110), &1_u16.to_le_bytes());
        if let Some(destination) = destination {
            put(&mut body, (0, 0x0600), &text(destination));
        }
        put(&mut body, (0, 0x0700), &0_u16.to_le_bytes());
        put(&mut body, (0, 0x0800), &1_u16.to_le_bytes());
        let (context, _) = calling.context(class).ok_or_else(|| self.broken())?;
        for (kind, bytes) in [
            (PDataValueType::Command, &with_length(&body)[..]),
            (PDataValueType::Data, identifier),
        ] {
            let sent = calling.send_all(context, &kind, bytes);
            sent.map_err(|_| self.broken())?;
        }
        Ok(())
    }

    /// The next answer, with its data set if it has one.
    fn answer(&self, calling: &mut Calling) -> Result<Answer, PullError> {
        let mut command = Vec::new();
        let mut answer: Option<(Answer, bool)> = None;
        loop {
            let Ok(Pdu::PData { data }) = calling.receive() else {
                return Err(self.broken());
            };
            for value in data {
                let is_command = value.value_type == PDataValueType::Command;
                match &mut answer {
                    None if is_command => {
                        command.extend(value.data);
                        if value.is_last {
                            let read = read(&command).ok_or_else(|| self.broken())?;
                            if !read.1 {
                                return Ok(read.0);
                            }
                            answer = Some(read);
                        }
                    }
                    Some((answer, _)) if !is_command => {
                        answer.data.extend(value.data);
                        if value.is_last {
                            return Ok(std::mem::take(answer));
                        }
                    }
                    _ => return Err(self.broken()),
                }
                let data = answer.as_ref().map_or(0, |(answer, _)| answer.data.len());
                if command.len() > LARGEST_ANSWER || data > LARGEST_ANSWER {
                    return Err(self.broken());
                }
            }
        }
    }

    fn broken(&self) -> PullError {
        PullError::Broken {
            title: self.title.clone(),
        }
    }

    fn refused(&self, status: u16) -> PullError {
        PullError::Refused {
            title: self.title.clone(),
            status,
        }
    }
}

/// An answer's command set, and whether a data set follows.
fn read(bytes: &[u8]) -> Option<(Answer, bool)> {
    const NO_DATA_SET: u16 = 0x0101;
    let mut answer = Answer::default();
    let (mut status, mut follows) = (None, false);
    for element in elements(bytes) {
        let (group, number, value) = element?;
        let short = || Some(u16::from_le_bytes(value.try_into().ok()?));
        match (group, number) {
            (0, 0x0800) => follows = short()? != NO_DATA_SET,
            (0, 0x0900) => status = short(),
            (0, 0x1021) => answer.moved.completed = short()?,
            (0, 0x1022) => answer.moved.failed = short()?,
            (0, 0x1023) => answer.moved.warnings = short()?,
            _ => {}
        }
    }
    answer.status = status?;
    Some((answer, follows))
}

/// Whether these bytes are an answer; for [`super::doors`].
pub(super) fn is_answer(bytes: &[u8]) -> bool {
    read(bytes).is_some()
}

/// Text of even length.
fn text(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    if bytes.len() % 2 == 1 {
        bytes.push(b' ');
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_answer_says_how_many_were_moved_and_whether_more_follows() {
        let mut body = Vec::new();
        put(&mut body, (0, 0x0800), &0x0101_u16.to_le_bytes());
        put(&mut body, (0, 0x0900), &0xB000_u16.to_le_bytes());
        put(&mut body, (0, 0x1021), &3_u16.to_le_bytes());
        put(&mut body, (0, 0x1022), &2_u16.to_le_bytes());
        let (answer, follows) = read(&with_length(&body)).unwrap();
        assert!(!follows && !answer.is_pending());
        let moved = Moved {
            completed: 3,
            failed: 2,
            warnings: 0,
        };
        assert_eq!((answer.status, answer.moved), (0xB000, moved));
        assert!(read(&body[..body.len() - 1]).is_none(), "cut off");
    }

    proptest! {
        #[test]
        fn no_answer_makes_us_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = read(&bytes);
        }
    }
}
