//! Pictures for the live view: encoded when somebody looks, once for all who do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jpeg_encoder::{ColorType, Encoder};

use crate::domain::{Frame, FrameSize, StreamId};

const QUALITY: u8 = 88;
/// Streams whose newest picture is kept.
const KEPT: usize = 64;

/// The newest encoded picture of each stream, as base64 of a JPEG.
#[derive(Debug, Default)]
pub(super) struct Pictures(Mutex<HashMap<StreamId, (u64, Arc<str>)>>);

impl Pictures {
    /// The frame as base64 of a JPEG; None if it is no picture of that size.
    /// Takes about a millisecond of a thread that may block.
    pub(super) fn encode(&self, id: StreamId, frame: &Frame, size: FrameSize) -> Option<Arc<str>> {
        let kept = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((index, picture)) = kept().get(&id)
            && *index == frame.index
        {
            return Some(Arc::clone(picture));
        }
        let picture: Arc<str> = STANDARD.encode(jpeg(&frame.pixels, size)?).into();
        let mut kept = kept();
        if kept.len() >= KEPT && !kept.contains_key(&id) {
            kept.clear();
        }
        kept.insert(id, (frame.index, Arc::clone(&picture)));
        Some(picture)
    }
}

fn jpeg(pixels: &[u8], size: FrameSize) -> Option<Vec<u8>> {
    let (width, height) = (size.width.try_into().ok()?, size.height.try_into().ok()?);
    if pixels.len() != size.area() {
        return None;
    }
    let mut bytes = Vec::new();
    let encoder = Encoder::new(&mut bytes, QUALITY);
    encoder
        .encode(pixels, width, height, ColorType::Luma)
        .ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::EventTime;
    use std::time::Instant;

    #[test]
    fn a_frame_becomes_a_jpeg_and_the_next_one_another() {
        let size = FrameSize {
            height: 16,
            width: 24,
        };
        let frame = |index, grey| Frame {
            index,
            time: EventTime::from_nanos(0),
            arrived: Instant::now(),
            discontinuity: false,
            skipped: 0,
            pixels: vec![grey; size.area()].into(),
        };
        let pictures = Pictures::default();
        let encode = |frame| pictures.encode(StreamId(1), &frame, size).unwrap();
        let first = encode(frame(1, 20));
        assert!(
            STANDARD
                .decode(first.as_bytes())
                .unwrap()
                .starts_with(b"\xff\xd8\xff")
        );
        assert!(Arc::ptr_eq(&first, &encode(frame(1, 20))), "encoded once");
        assert_ne!(first, encode(frame(2, 200)));
        let wrong = FrameSize {
            height: 16,
            width: 25,
        };
        assert!(pictures.encode(StreamId(2), &frame(1, 0), wrong).is_none());
    }
}
