//! One association, from its request to its release: PS3.8 section 9, PS3.7
//! sections 9.3.1 and 9.3.5.

use std::io::Write;
use std::net::TcpStream;

use dicom_dictionary_std::uids;
use dicom_object::FileMetaTableBuilder;
use dicom_ul::Pdu;
use dicom_ul::association::Error as ProtocolError;
use dicom_ul::association::server::{AccessControl, ServerAssociation, ServerAssociationOptions};
use dicom_ul::pdu::{
    AssociationRJServiceUserReason, AssociationRJSource, PDataValue, PDataValueType,
    PresentationContextResultReason, UserIdentity,
};

use super::command::{self, Request, Status, VERIFICATION};
use super::spool::{Incoming, Spool};
use super::{ListenerConfig, OnStored};
use crate::ingest::dicom::TRANSFER_SYNTAXES;
use crate::metrics::{InstanceOutcome, ListenerMetrics};

/// What a peer may store: everything that ultrasound is kept in.
const SOP_CLASSES: [&str; 8] = [
    VERIFICATION,
    uids::ULTRASOUND_MULTI_FRAME_IMAGE_STORAGE,
    uids::ULTRASOUND_IMAGE_STORAGE,
    uids::ENHANCED_US_VOLUME_STORAGE,
    uids::MULTI_FRAME_TRUE_COLOR_SECONDARY_CAPTURE_IMAGE_STORAGE,
    uids::SECONDARY_CAPTURE_IMAGE_STORAGE,
    // Retired, and still sent by old scanners.
    "1.2.840.10008.5.1.4.1.1.3",
    "1.2.840.10008.5.1.4.1.1.6",
];

/// The largest PDU that is taken, 256 KiB: no association request comes near.
const LARGEST_PDU: u32 = 262_144 - 6;

/// Why an association ended before its release. The library's own texts quote
/// what the peer sent, so they are not passed on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The titles do not fit.
    #[error("it was not let in: {0}")]
    Refused(String),
    /// No TLS, or with a certificate of no authority that is trusted.
    #[error(
        "no encrypted connection came about: it does not speak TLS, does not trust our certificate, or has none that `clients` vouches for"
    )]
    Unencrypted,
    /// The connection ended.
    #[error("it closed the connection")]
    Closed,
    /// Nothing came, or something that is no PDU.
    #[error("nothing came in time, or something that is no DICOM message")]
    Unreadable,
    /// The answer could not be delivered.
    #[error("it took no answer")]
    Deaf,
    /// A message that no storage or verification user sends.
    #[error("it sent {0}")]
    Unexpected(&'static str),
}

impl From<ProtocolError> for Broken {
    fn from(error: ProtocolError) -> Self {
        match error {
            ProtocolError::Rejected { association_rj, .. } => match association_rj.source {
                AssociationRJSource::ServiceUser(reason) => Self::Refused(reason.to_string()),
                _ => Self::Refused("its protocol is another".to_owned()),
            },
            ProtocolError::ConnectionClosed { .. } => Self::Closed,
            ProtocolError::SendPdu { .. } | ProtocolError::WireSend { .. } => Self::Deaf,
            ProtocolError::UnexpectedPdu { .. } | ProtocolError::UnknownPdu { .. } => {
                Self::Unexpected("a message out of turn")
            }
            _ => Self::Unreadable,
        }
    }
}

/// Who may associate.
struct Titles<'a>(&'a ListenerConfig);

impl AccessControl for Titles<'_> {
    fn check_access(
        &self,
        this: &str,
        calling: &str,
        called: &str,
        _: Option<&UserIdentity>,
    ) -> Result<(), AssociationRJServiceUserReason> {
        if called.trim() != this.trim() {
            return Err(AssociationRJServiceUserReason::CalledAETitleNotRecognized);
        }
        let allowed = &self.0.allow;
        if !allowed.is_empty() && !allowed.iter().any(|title| title == calling.trim()) {
            return Err(AssociationRJServiceUserReason::CallingAETitleNotRecognized);
        }
        Ok(())
    }
}

/// An instance that is being received.
struct Receiving {
    request: Request,
    context: u8,
    /// Absent when it cannot be kept: the rest of it is read and forgotten,
    /// and the peer is told.
    file: Result<Incoming, Status>,
}

/// What an association works with.
pub(super) struct Desk<'a> {
    pub(super) config: &'a ListenerConfig,
    pub(super) spool: &'a Spool,
    pub(super) on_stored: &'a OnStored,
    pub(super) metrics: &'a ListenerMetrics,
}

impl Desk<'_> {
    /// Serves one peer until it releases the association.
    pub(super) fn serve(&self, socket: TcpStream) -> Result<(), Broken> {
        let mut options = ServerAssociationOptions::new()
            .ae_access_control(Titles(self.config))
            .ae_title(self.config.ae_title.as_str())
            .max_pdu_length(LARGEST_PDU)
            .read_timeout(self.config.timeout)
            .write_timeout(self.config.timeout);
        for class in SOP_CLASSES {
            options = options.with_abstract_syntax(class);
        }
        for syntax in TRANSFER_SYNTAXES {
            options = options.with_transfer_syntax(syntax);
        }
        let mut association = options.establish(socket)?;
        let mut command = Vec::new();
        let mut receiving = None;
        loop {
            match association.receive()? {
                Pdu::PData { data } => {
                    for value in data {
                        self.take(&mut association, value, &mut command, &mut receiving)?;
                    }
                }
                Pdu::ReleaseRQ => {
                    association.send(&Pdu::ReleaseRP)?;
                    return Ok(());
                }
                Pdu::AbortRQ { .. } => return Err(Broken::Unexpected("an abort")),
                _ => return Err(Broken::Unexpected("a message out of turn")),
            }
        }
    }

    /// PS3.8 annex E: commands and data sets come in fragments.
    fn take(
        &self,
        association: &mut ServerAssociation<TcpStream>,
        value: PDataValue,
        command: &mut Vec<u8>,
        receiving: &mut Option<Receiving>,
    ) -> Result<(), Broken> {
        let context = value.presentation_context_id;
        match (value.value_type, receiving.as_mut()) {
            (PDataValueType::Command, None) => {
                command.extend(value.data);
                if command.len() > command::LARGEST {
                    return Err(Broken::Unexpected("a command without end"));
                }
                if !value.is_last {
                    return Ok(());
                }
                let request = Request::read(&std::mem::take(command))
                    .ok_or(Broken::Unexpected("a command that is not served here"))?;
                match request {
                    Request::Echo { .. } => answer(association, context, &request, Status::Success),
                    Request::Store { .. } => {
                        let file = self.begin(association, context, &request)?;
                        *receiving = Some(Receiving {
                            request,
                            context,
                            file,
                        });
                        Ok(())
                    }
                }
            }
            (PDataValueType::Data, Some(instance)) if instance.context == context => {
                if let Ok(file) = &mut instance.file
                    && let Err(error) = file.write_all(&value.data)
                {
                    tracing::error!(%error, "an instance cannot be kept");
                    instance.file = Err(Status::OutOfResources);
                }
                if !value.is_last {
                    return Ok(());
                }
                let Some(instance) = receiving.take() else {
                    return Ok(());
                };
                let status = self.finish(instance.file);
                answer(association, context, &instance.request, status)
            }
            _ => Err(Broken::Unexpected("a fragment out of turn")),
        }
    }

    /// Opens a file and writes what PS3.10 section 7.1 puts before a data set.
    fn begin(
        &self,
        association: &ServerAssociation<TcpStream>,
        context: u8,
        request: &Request,
    ) -> Result<Result<Incoming, Status>, Broken> {
        let Request::Store {
            class, instance, ..
        } = request
        else {
            return Ok(Err(Status::CannotUnderstand));
        };
        let agreed = association
            .presentation_contexts()
            .iter()
            .find(|agreed| agreed.id == context)
            .filter(|agreed| agreed.reason == PresentationContextResultReason::Acceptance)
            .ok_or(Broken::Unexpected("data in a context that was not agreed"))?;
        if agreed.abstract_syntax != *class {
            return Ok(Err(Status::DataSetDoesNotMatch));
        }
        let meta = FileMetaTableBuilder::new()
            .media_storage_sop_class_uid(class)
            .media_storage_sop_instance_uid(instance)
            .transfer_syntax(&agreed.transfer_syntax)
            .build();
        let Ok(meta) = meta else {
            return Ok(Err(Status::CannotUnderstand));
        };
        let begun = self.spool.begin(self.config.largest).and_then(|mut file| {
            file.write_all(&[0; 128])?;
            file.write_all(b"DICM")?;
            Ok(file)
        });
        Ok(match begun {
            Ok(mut file) => match meta.write(&mut file) {
                Ok(()) => Ok(file),
                Err(_) => Err(Status::OutOfResources),
            },
            Err(error) => {
                tracing::error!(%error, "an instance cannot be kept");
                Err(Status::OutOfResources)
            }
        })
    }

    /// Success is said only of what is on disk.
    fn finish(&self, file: Result<Incoming, Status>) -> Status {
        let stored = match file {
            Ok(file) => file.finish(),
            Err(status) => {
                self.metrics.instances(InstanceOutcome::Refused).inc();
                return status;
            }
        };
        match stored {
            Ok((path, true)) => {
                self.metrics.instances(InstanceOutcome::Stored).inc();
                (self.on_stored)(path);
                Status::Success
            }
            Ok((_, false)) => {
                self.metrics.instances(InstanceOutcome::Duplicate).inc();
                Status::Success
            }
            Err(error) => {
                tracing::error!(%error, "an instance cannot be kept");
                self.metrics.instances(InstanceOutcome::Refused).inc();
                Status::OutOfResources
            }
        }
    }
}

fn answer(
    association: &mut ServerAssociation<TcpStream>,
    context: u8,
    request: &Request,
    status: Status,
) -> Result<(), Broken> {
    association.send(&Pdu::PData {
        data: vec![PDataValue {
            presentation_context_id: context,
            value_type: PDataValueType::Command,
            is_last: true,
            data: request.answer(status),
        }],
    })?;
    Ok(())
}
