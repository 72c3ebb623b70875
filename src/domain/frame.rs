use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::EventTime;

/// Height and width of a picture in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FrameSize {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl FrameSize {
    /// Pixels in one picture.
    pub const fn area(self) -> usize {
        self.height * self.width
    }
}

/// A rectangle of the original picture, in pixels from its top left corner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crop {
    /// First column.
    pub x: u32,
    /// First row.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// One grey picture, ready for a model: cropped, resized, eight bits deep.
///
/// Frames are shared, not copied: overlapping clips hold the same pixels.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Position in the source, counted from 0 over *every* frame that the
    /// source delivered, dropped ones included. A jump in it is a gap.
    pub index: u64,
    /// When it was acquired.
    pub time: EventTime,
    /// When it reached us; only ever used to measure latency.
    pub arrived: Instant,
    /// The source said that what came before is not adjacent to this.
    pub discontinuity: bool,
    /// Frames just before it that were left out on purpose, because the source gives
    /// more of them than the model has learned from.
    pub skipped: u32,
    /// Luma, full range, row by row: `[H, W]`.
    pub pixels: Arc<[u8]>,
}

impl Frame {
    /// Whether nothing is missing between the frame with the index `last` and this one.
    pub fn follows(&self, last: u64) -> bool {
        let step = 1 + u64::from(self.skipped);
        !self.discontinuity && self.index.checked_sub(last) == Some(step)
    }

    /// The mean grey level, 0 black to 1 white; `None` without a pixel.
    pub fn brightness(&self) -> Option<f64> {
        let sum: u64 = self.pixels.iter().map(|&grey| u64::from(grey)).sum();
        let count = self.pixels.len() as f64;
        (count > 0.0).then(|| sum as f64 / (255.0 * count))
    }
}
