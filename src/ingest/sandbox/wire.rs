//! What a worker tells its parent: a byte that names the message, its length,
//! and its content. What comes from a worker is not trusted: sizes are checked
//! before anything is allocated.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::domain::{Crop, EventTime, Frame, FrameSize, PatientId};
use crate::ingest::{Look, StreamHeader};

/// The largest JSON content.
const LARGEST_TEXT: u32 = 64 << 10;

const OPENED: u8 = 1;
const FRAME: u8 = 2;
const ENDED: u8 = 3;

/// What a worker is to read, as one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Work {
    pub(super) name: String,
    pub(super) path: std::path::PathBuf,
    pub(super) patient: Option<PatientId>,
    pub(super) crop: Option<Crop>,
    pub(super) look: Look,
    pub(super) size: FrameSize,
    pub(super) queue: usize,
    pub(super) first_frame_timeout: std::time::Duration,
    pub(super) frame_interval: Option<std::time::Duration>,
    pub(super) pace: Option<std::time::Duration>,
}

/// What it answers, in the order of [`crate::ingest::Arrival`].
#[derive(Debug)]
pub(super) enum Message {
    Opened(StreamHeader),
    Frame(Frame),
    Ended(End),
}

/// How it went.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct End {
    /// Frames that were decoded and left out, in the order of
    /// [`crate::metrics::DropReason::ALL`].
    pub(super) dropped: Vec<u64>,
    pub(super) failure: Option<Failure>,
}

/// An error, by its stable name and its text.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) code: String,
    pub(super) text: String,
}

pub(super) fn write(to: &mut impl Write, message: &Message) -> io::Result<()> {
    match message {
        Message::Opened(header) => write_json(to, OPENED, header),
        Message::Ended(end) => write_json(to, ENDED, end),
        Message::Frame(frame) => {
            to.write_all(&[FRAME])?;
            to.write_all(&(frame.pixels.len() as u32).to_le_bytes())?;
            to.write_all(&frame.index.to_le_bytes())?;
            to.write_all(&frame.time.as_nanos().to_le_bytes())?;
            to.write_all(&[u8::from(frame.discontinuity)])?;
            to.write_all(&frame.skipped.to_le_bytes())?;
            to.write_all(&frame.pixels)
        }
    }
}

fn write_json(to: &mut impl Write, kind: u8, value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(value)?;
    to.write_all(&[kind])?;
    to.write_all(&(text.len() as u32).to_le_bytes())?;
    to.write_all(&text)
}

/// The next message of a stream whose frames have `size`.
pub(super) fn read(from: &mut impl Read, size: FrameSize) -> io::Result<Message> {
    let [kind, l0, l1, l2, l3] = bytes(from)?;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    match kind {
        FRAME if length as usize == size.area() => {
            let index = u64::from_le_bytes(bytes(from)?);
            let time = EventTime::from_nanos(u64::from_le_bytes(bytes(from)?));
            let [discontinuity] = bytes(from)?;
            let skipped = u32::from_le_bytes(bytes(from)?);
            let mut pixels = vec![0; size.area()];
            from.read_exact(&mut pixels)?;
            Ok(Message::Frame(Frame {
                index,
                time,
                arrived: Instant::now(),
                discontinuity: discontinuity != 0,
                skipped,
                pixels: Arc::from(pixels),
            }))
        }
        OPENED if length <= LARGEST_TEXT => Ok(Message::Opened(json(from, length)?)),
        ENDED if length <= LARGEST_TEXT => Ok(Message::Ended(json(from, length)?)),
        _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}

fn bytes<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn json<T: for<'a> Deserialize<'a>>(from: &mut impl Read, length: u32) -> io::Result<T> {
    let mut text = vec![0; length as usize];
    from.read_exact(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: FrameSize = FrameSize {
        height: 2,
        width: 3,
    };

    #[test]
    fn what_is_written_is_read() {
        let frame = Frame {
            index: 7,
            time: EventTime::from_nanos(9),
            arrived: Instant::now(),
            discontinuity: true,
            skipped: 2,
            pixels: Arc::from([1, 2, 3, 4, 5, 6]),
        };
        let failure = Failure {
            code: "truncated".to_owned(),
            text: "cut".to_owned(),
        };
        let end = End {
            dropped: vec![0, 3],
            failure: Some(failure),
        };
        let mut wire = Vec::new();
        write(&mut wire, &Message::Frame(frame)).unwrap();
        write(&mut wire, &Message::Ended(end)).unwrap();
        let mut wire = wire.as_slice();
        let first = read(&mut wire, SIZE).unwrap();
        assert!(
            matches!(&first, Message::Frame(f) if f.index == 7 && f.discontinuity && f.skipped == 2 && f.pixels[5] == 6)
        );
        let second = read(&mut wire, SIZE).unwrap();
        assert!(
            matches!(&second, Message::Ended(e) if e.dropped == [0, 3] && e.failure.as_ref().unwrap().code == "truncated")
        );
        assert!(read(&mut wire, SIZE).is_err(), "the end");
    }

    proptest! {
        #[test]
        fn no_worker_makes_its_parent_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = read(&mut bytes.as_slice(), SIZE);
            let mut said = bytes;
            said.insert(0, FRAME);
            let _ = read(&mut said.as_slice(), SIZE);
        }
    }
}
