//! Our side of an association that we ask for, PS3.8 section 9.3, over TCP or TLS.
//!
//! The library that speaks with peers does this, too; but its TLS brings a second
//! provider of cryptography, built from C. Its reader and writer of PDUs are used.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;

use dicom_ul::Pdu;
use dicom_ul::pdu::{
    AbortRQSource, AssociationRQ, PDataValue, PDataValueType, PresentationContextProposed,
    PresentationContextResultReason, UserVariableItem, read_pdu, write_pdu,
};
use dicom_ul::{IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::pull::Archive;

/// PS3.7 section A.2.1.
const APPLICATION_CONTEXT: &str = "1.2.840.10008.3.1.1.1";
/// The largest PDU that we take; answers to C-STORE are small.
const LARGEST: u32 = 16_384;
/// The largest that we send, whatever the peer takes.
const LARGEST_SENT: u32 = 262_144;
/// Bytes of a PDU, and of each value in it, before their content.
const HEADER: usize = 6;

/// What carries the bytes.
trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// An association that was accepted.
pub(super) struct Calling {
    wire: Box<dyn Wire>,
    /// Number, class and syntax of each context that was agreed.
    agreed: Vec<(u8, &'static str, &'static str)>,
    /// Bytes of a PDU that the peer takes.
    room: usize,
}

/// No association came about: what kind of failure.
pub(super) enum NotBegun {
    Unreachable,
    Unencrypted,
    Rejected,
    NothingAgreed,
}

impl NotBegun {
    /// For people.
    pub(super) const fn detail(&self) -> &'static str {
        match self {
            Self::Unreachable => "no connection",
            Self::Unencrypted => {
                "no encrypted connection: it does not speak TLS, has no certificate for this name \
                 by `authorities`, or does not trust ours"
            }
            Self::Rejected => "it rejects us",
            Self::NothingAgreed => "it takes nothing of the kind",
        }
    }
}

impl Calling {
    /// Calls `archive`, offering each of `classes` in each of `syntaxes`.
    pub(super) fn begin(
        archive: &Archive,
        classes: &[&'static str],
        syntaxes: &[&'static str],
    ) -> Result<Self, NotBegun> {
        let socket = connect(archive).map_err(|_| NotBegun::Unreachable)?;
        let wire: Box<dyn Wire> = match &archive.tls {
            None => Box::new(socket),
            Some(tls) => {
                let encrypted = encrypt(socket, &archive.address, tls);
                Box::new(encrypted.map_err(|_| NotBegun::Unencrypted)?)
            }
        };
        // One syntax a context: the archive need not choose, and each that it takes
        // can be told. Contexts have odd numbers.
        let offers = classes
            .iter()
            .flat_map(|class| syntaxes.iter().map(move |syntax| (*class, *syntax)));
        let offered: Vec<_> = (1_u8..)
            .step_by(2)
            .zip(offers)
            .map(|(id, (class, syntax))| (id, class, syntax))
            .collect();
        let contexts = offered.iter();
        let request = Pdu::AssociationRQ(AssociationRQ {
            protocol_version: 1,
            calling_ae_title: archive.calling.clone(),
            called_ae_title: archive.title.clone(),
            application_context_name: APPLICATION_CONTEXT.to_owned(),
            presentation_contexts: contexts
                .map(|(id, class, syntax)| PresentationContextProposed {
                    id: *id,
                    abstract_syntax: (*class).to_owned(),
                    transfer_syntaxes: vec![(*syntax).to_owned()],
                })
                .collect(),
            user_variables: vec![
                UserVariableItem::MaxLength(LARGEST),
                UserVariableItem::ImplementationClassUID(IMPLEMENTATION_CLASS_UID.to_owned()),
                UserVariableItem::ImplementationVersionName(IMPLEMENTATION_VERSION_NAME.to_owned()),
            ],
        });
        let mut calling = Self {
            wire,
            agreed: Vec::new(),
            room: 0,
        };
        calling.send(&request).map_err(|_| NotBegun::Unreachable)?;
        let accepted = match calling.receive().map_err(|_| NotBegun::Unreachable)? {
            Pdu::AssociationAC(accepted) => accepted,
            Pdu::AssociationRJ(_) => return Err(NotBegun::Rejected),
            _ => return Err(NotBegun::Unreachable),
        };
        let takes = accepted.user_variables.iter().find_map(|item| match item {
            UserVariableItem::MaxLength(most) => Some(*most),
            _ => None,
        });
        // PS3.8 section D.1: 0, or nothing, is no limit.
        let takes = takes.filter(|most| *most > 0).unwrap_or(LARGEST_SENT);
        calling.room = takes.clamp(1024, LARGEST_SENT) as usize;
        calling.agreed = offered;
        calling.agreed.retain(|(id, ..)| {
            let mut results = accepted.presentation_contexts.iter();
            results
                .any(|it| it.id == *id && it.reason == PresentationContextResultReason::Acceptance)
        });
        if calling.agreed.is_empty() {
            calling.release();
            return Err(NotBegun::NothingAgreed);
        }
        Ok(calling)
    }

    /// The context for a class, and its syntax: the first that was offered and taken.
    pub(super) fn context(&self, class: &str) -> Option<(u8, &'static str)> {
        let mut agreed = self.agreed.iter();
        let found = agreed.find(|(_, of, _)| *of == class);
        found.map(|(id, _, syntax)| (*id, *syntax))
    }

    /// Sends a command, or a data set, in as many fragments as it needs.
    pub(super) fn send_all(
        &mut self,
        context: u8,
        value_type: &PDataValueType,
        bytes: &[u8],
    ) -> io::Result<()> {
        let most = self.room.saturating_sub(HEADER).max(1);
        let count = bytes.len().div_ceil(most).max(1);
        for number in 0..count {
            let begin = (number * most).min(bytes.len());
            let end = (begin + most).min(bytes.len());
            let value = PDataValue {
                presentation_context_id: context,
                value_type: value_type.clone(),
                is_last: number + 1 == count,
                data: bytes[begin..end].to_vec(),
            };
            self.send(&Pdu::PData { data: vec![value] })?;
        }
        Ok(())
    }

    pub(super) fn send(&mut self, pdu: &Pdu) -> io::Result<()> {
        let mut bytes = Vec::new();
        write_pdu(&mut bytes, pdu).map_err(io::Error::other)?;
        self.wire.write_all(&bytes)?;
        self.wire.flush()
    }

    pub(super) fn receive(&mut self) -> io::Result<Pdu> {
        let mut bytes = vec![0; HEADER];
        self.wire.read_exact(&mut bytes)?;
        let length = bytes.get(2..6).and_then(|it| it.try_into().ok());
        let length = length.map_or(u32::MAX, u32::from_be_bytes);
        if length > LARGEST {
            return Err(io::Error::other("a PDU that is too long"));
        }
        bytes.resize(HEADER + length as usize, 0);
        let body = bytes.get_mut(HEADER..).unwrap_or_default();
        self.wire.read_exact(body)?;
        let pdu = read_pdu(bytes.as_slice(), LARGEST, true).map_err(io::Error::other)?;
        pdu.ok_or_else(|| io::Error::other("no PDU"))
    }

    /// Parts in peace; how the peer takes it does not matter.
    pub(super) fn release(mut self) {
        if self.send(&Pdu::ReleaseRQ).is_ok() {
            let _ = self.receive();
        }
    }

    /// Parts in the middle of it; whether the peer hears of it does not matter.
    pub(super) fn abort(mut self) {
        let source = AbortRQSource::ServiceUser;
        let _ = self.send(&Pdu::AbortRQ { source });
    }
}

fn connect(archive: &Archive) -> io::Result<TcpStream> {
    let mut failure = io::Error::other("this name has no address");
    for address in archive.address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, archive.timeout) {
            Ok(socket) => {
                socket.set_read_timeout(Some(archive.timeout))?;
                socket.set_write_timeout(Some(archive.timeout))?;
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// PS3.15 section B.9 and after: TLS from the first byte on. The certificate must be
/// one for the host of `address`.
fn encrypt(
    mut socket: TcpStream,
    address: &str,
    tls: &Arc<ClientConfig>,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_matches(['[', ']']).to_owned();
    let host = ServerName::try_from(host).map_err(io::Error::other)?;
    let connection = ClientConnection::new(Arc::clone(tls), host);
    let mut connection = connection.map_err(io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(connection, socket))
}
