//! How an operation slides over a clip's frames.

use std::ops::Range;

/// How an operation slides over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) struct TimeWindow {
    pub(in crate::engine) kernel: usize,
    pub(in crate::engine) stride: usize,
    pub(in crate::engine) padding: usize,
}

impl TimeWindow {
    /// Each frame by itself.
    pub(in crate::engine) const FRAME: Self = Self {
        kernel: 1,
        stride: 1,
        padding: 0,
    };

    /// All frames of a clip at once.
    pub(in crate::engine) const fn over(frames: usize) -> Self {
        Self {
            kernel: frames,
            stride: 1,
            padding: 0,
        }
    }

    /// Which taps of an output frame lie inside a clip of so many frames.
    pub(in crate::engine) fn taps(self, frame: usize, frames: usize) -> Range<usize> {
        let begin = self
            .padding
            .saturating_sub(frame * self.stride)
            .min(self.kernel);
        let end = (frames + self.padding)
            .saturating_sub(frame * self.stride)
            .clamp(begin, self.kernel);
        begin..end
    }

    /// The input frame under a tap of an output frame; 0 where that lies before
    /// the clip.
    pub(in crate::engine) fn input(self, frame: usize, tap: usize) -> usize {
        (frame * self.stride + tap).saturating_sub(self.padding)
    }

    /// The input frames under the taps of an output frame.
    pub(in crate::engine) fn inputs(self, frame: usize, frames: usize) -> Range<usize> {
        let taps = self.taps(frame, frames);
        let begin = self.input(frame, taps.start);
        begin..begin + taps.len()
    }
}
