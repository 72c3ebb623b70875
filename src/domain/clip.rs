use serde::{Deserialize, Serialize};

use super::{ContentHash, EventTime, Frame, ModelHash, StreamId};

/// `W` consecutive frames of one stream, without a gap between them.
#[derive(Clone, Debug)]
pub struct Clip {
    /// The stream that all frames come from.
    pub stream: StreamId,
    /// The frames in order of time, never empty: `[T]` pictures of `[H, W]`.
    pub frames: Vec<Frame>,
}

/// Where in its stream a clip lies, and how good that is there: its provenance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClipSpan {
    /// Index of the first frame.
    pub first_frame: u64,
    /// Index of the last frame.
    pub last_frame: u64,
    /// Event time of the first frame.
    pub begin: EventTime,
    /// Event time of the last frame.
    pub end: EventTime,
    /// Gaps seen in the stream before this clip.
    pub gaps_before: u64,
    /// How far its picture is to be trusted, in 1/256; 0 leaves the clip out.
    pub weight: u16,
}

impl ClipSpan {
    /// The weight of a clip that is to be trusted fully.
    pub const FULL_WEIGHT: u16 = 256;
}

/// What makes a clip's prediction unique: the same window of the same bytes
/// under the same model is the same fact, whenever and wherever it is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClipKey {
    /// The stream's content.
    pub content: ContentHash,
    /// Index of the window's first frame.
    pub first_frame: u64,
    /// The model that scored it.
    pub model: ModelHash,
}
