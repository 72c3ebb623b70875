use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Passport;

/// The first bytes that either side sends.
const MAGIC: &[u8; 8] = b"hepaflow";
/// A greeting is smaller than this.
const LONGEST: usize = 16 << 10;
/// How long either side waits for the other's greeting.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What either side says first: who it is, and what it runs.
#[derive(Serialize, Deserialize)]
pub(super) struct Greeting {
    pub(super) index: usize,
    pub(super) passport: Passport,
    /// Why the caller is turned away, if it is.
    pub(super) refused: Option<String>,
}

impl Greeting {
    pub(super) fn write(&self, socket: &mut TcpStream) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        let mut message = MAGIC.to_vec();
        message.extend((text.len() as u32).to_be_bytes());
        message.extend(text);
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.write_all(&message)
    }

    pub(super) fn read(socket: &mut TcpStream) -> io::Result<Self> {
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut head = [0; MAGIC.len() + 4];
        socket.read_exact(&mut head)?;
        let (magic, length) = head.split_at(MAGIC.len());
        let length = length
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        if magic != MAGIC || length > LONGEST {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "what speaks there is no hepaflow",
            ));
        }
        let mut text = vec![0; length];
        socket.read_exact(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }
}
