//! Instances to an archive (a PACS) by C-STORE, PS3.4 annex B: one association for
//! those that belong together, with timeouts on every read and write. Called by
//! the sink that files reports.

use dicom_dictionary_std::uids;
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use dicom_ul::Pdu;
use dicom_ul::pdu::PDataValueType;

use super::calling::{Calling, NotBegun};
use super::listener::command::{elements, padded, put, with_length};
use super::pull::Archive;

/// The largest command set that an archive answers with.
const LARGEST_ANSWER: usize = 4096;

/// In the order in which they are offered; the second is understood by all.
const SYNTAXES: [&str; 2] = [
    uids::EXPLICIT_VR_LITTLE_ENDIAN,
    uids::IMPLICIT_VR_LITTLE_ENDIAN,
];

/// An instance to be sent.
#[derive(Clone, Debug)]
pub struct Outbound {
    /// SOP Class UID.
    pub class: &'static str,
    /// SOP Instance UID.
    pub uid: String,
    /// The data set, these two included.
    pub object: InMemDicomObject,
}

/// An archive did not take an instance. The texts name no patient and no study.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// No association came about.
    #[error(
        "the archive {title} at {address} takes no association: {detail}; check address and titles, and that the archive knows ours"
    )]
    NoAssociation {
        /// Its title.
        title: String,
        /// Where.
        address: String,
        /// What kind of failure.
        detail: &'static str,
    },
    /// It does not take this kind of instance.
    #[error("the archive {title} does not take the SOP class {class}; have it accept that")]
    NotTaken {
        /// Its title.
        title: String,
        /// Which kind.
        class: &'static str,
    },
    /// The association broke.
    #[error("the archive {title} broke off, or was silent for too long")]
    Broken {
        /// Its title.
        title: String,
    },
    /// It answered with a failure, PS3.4 section B.2.3.
    #[error("the archive {title} refuses an instance with status {status:04X}H; {}", way_out(*.status))]
    Refused {
        /// Its title.
        title: String,
        /// The status.
        status: u16,
    },
    /// The instance could not be written.
    #[error("an instance cannot be encoded: {0}")]
    Encoding(String),
}

fn way_out(status: u16) -> &'static str {
    match status {
        0xA700..=0xA7FF => "it is out of resources",
        _ => "its log says more",
    }
}

impl Archive {
    /// Sends instances, one after the other, and waits until each is acknowledged.
    /// One that the archive has already counts as taken.
    ///
    /// # Errors
    /// If not all of them were taken; sending all of them again does no harm.
    pub fn push(&self, instances: &[Outbound]) -> Result<(), PushError> {
        let broken = || PushError::Broken {
            title: self.title.clone(),
        };
        let mut classes: Vec<_> = instances.iter().map(|instance| instance.class).collect();
        classes.sort_unstable();
        classes.dedup();
        let mut calling = Calling::begin(self, &classes, &SYNTAXES).map_err(|failure| {
            PushError::NoAssociation {
                title: self.title.clone(),
                address: self.address.clone(),
                detail: match failure {
                    NotBegun::NothingAgreed => "it takes no reports",
                    other => other.detail(),
                },
            }
        })?;
        for (number, instance) in (1_u16..).zip(instances) {
            let Some((context, syntax)) = calling.context(instance.class) else {
                calling.release();
                return Err(PushError::NotTaken {
                    title: self.title.clone(),
                    class: instance.class,
                });
            };
            let data = encoded(instance, syntax)?;
            let command = request(instance, number);
            for (kind, bytes) in [
                (&PDataValueType::Command, &command),
                (&PDataValueType::Data, &data),
            ] {
                let sent = calling.send_all(context, kind, bytes);
                sent.map_err(|_| broken())?;
            }

            let mut answer = Vec::new();
            'answer: loop {
                let Ok(Pdu::PData { data }) = calling.receive() else {
                    return Err(broken());
                };
                for value in data {
                    answer.extend(value.data);
                    if value.value_type != PDataValueType::Command || answer.len() > LARGEST_ANSWER
                    {
                        return Err(broken());
                    }
                    if value.is_last {
                        break 'answer;
                    }
                }
            }
            match status(&answer).ok_or_else(broken)? {
                // Bxxx: kept, with a warning. 0111H: it has this instance already.
                0x0000 | 0x0111 | 0xB000..=0xBFFF => {}
                status => {
                    calling.release();
                    return Err(PushError::Refused {
                        title: self.title.clone(),
                        status,
                    });
                }
            }
        }
        // Everything is acknowledged; how the archive parts does not matter.
        calling.release();
        Ok(())
    }
}

/// C-STORE-RQ, PS3.7 section 9.3.1.1.
fn request(instance: &Outbound, number: u16) -> Vec<u8> {
    let mut body = Vec::new();
    put(&mut body, (0, 0x0002), &padded(instance.class));
    put(&mut body, (0, 0x0100), &1_u16.to_le_bytes());
    put(&mut body, (0, 0x0110), &number.to_le_bytes());
    put(&mut body, (0, 0x0700), &0_u16.to_le_bytes());
    put(&mut body, (0, 0x0800), &1_u16.to_le_bytes());
    put(&mut body, (0, 0x1000), &padded(&instance.uid));
    with_length(&body)
}

fn encoded(instance: &Outbound, syntax: &str) -> Result<Vec<u8>, PushError> {
    let meta = FileMetaTableBuilder::new()
        .media_storage_sop_class_uid(instance.class)
        .media_storage_sop_instance_uid(instance.uid.as_str())
        .transfer_syntax(syntax);
    let failed = |error: &dyn std::fmt::Display| PushError::Encoding(error.to_string());
    let file = instance
        .object
        .clone()
        .with_meta(meta)
        .map_err(|error| failed(&error))?;
    let mut bytes = Vec::new();
    file.write_dataset(&mut bytes)
        .map_err(|error| failed(&error))?;
    Ok(bytes)
}

/// What a response says, PS3.7 section 9.3.1.2.
fn status(answer: &[u8]) -> Option<u16> {
    let mut status = None;
    for element in elements(answer) {
        if let (0, 0x0900, value) = element? {
            status = Some(u16::from_le_bytes(value.try_into().ok()?));
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_a_status_or_cut_off_is_none() {
        let mut body = Vec::new();
        put(&mut body, (0, 0x0100), &0x8001_u16.to_le_bytes());
        assert_eq!(status(&with_length(&body)), None);
        put(&mut body, (0, 0x0900), &0xA700_u16.to_le_bytes());
        let whole = with_length(&body);
        assert_eq!(status(&whole), Some(0xA700));
        assert_eq!(status(&whole[..whole.len() - 1]), None);
    }
}
