//! The convolutions to check.

use std::sync::Arc;

use super::super::super::reference;
use crate::engine::cuda::kernels::{self, Window};
use crate::engine::cuda::launch::Card;

/// A convolution to check.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct ConvShape {
    pub(in super::super) name: &'static str,
    pub(super) clips: Clips,
    pub(super) extent: [usize; 3],
    pub(super) channels: [usize; 2],
    pub(super) window: Window,
    pub(super) residual: bool,
    pub(super) relu: bool,
    /// Frames left out at the beginning and at the end of what is there.
    pub(super) cropped: usize,
    pub(super) segment: usize,
}

/// How many clips.
#[derive(Clone, Copy, Debug)]
pub(super) enum Clips {
    Few(usize),
    /// So many that each multiprocessor gets two blocks.
    Filling,
}

pub(super) const PLAIN: ConvShape = ConvShape {
    name: "conv 3x3x3",
    clips: Clips::Few(2),
    extent: [3, 6, 7],
    channels: [8, 16],
    window: Window {
        kernel: [3, 3, 3],
        stride: [1, 1, 1],
        padding: [1, 1, 1],
    },
    residual: false,
    relu: false,
    cropped: 0,
    segment: usize::MAX,
};

pub(in super::super) const CONVS: [ConvShape; 36] = [
    PLAIN,
    ConvShape {
        name: "conv 3x3x3, odd channels, residual and relu",
        clips: Clips::Few(3),
        extent: [4, 5, 9],
        channels: [5, 21],
        residual: true,
        relu: true,
        ..PLAIN
    },
    ConvShape {
        name: "conv 3x3x3 without padding in time, of cropped frames",
        extent: [7, 5, 5],
        channels: [16, 11],
        window: Window {
            padding: [0, 1, 1],
            ..PLAIN.window
        },
        residual: true,
        cropped: 1,
        ..PLAIN
    },
    ConvShape {
        name: "conv 1x7x7 in strides",
        clips: Clips::Few(1),
        extent: [2, 19, 17],
        channels: [3, 9],
        window: Window {
            kernel: [1, 7, 7],
            stride: [1, 2, 2],
            padding: [0, 3, 3],
        },
        relu: true,
        ..PLAIN
    },
    ConvShape {
        name: "conv 3x1x1, all strides differ",
        extent: [9, 5, 8],
        channels: [12, 40],
        window: Window {
            kernel: [3, 1, 1],
            stride: [2, 1, 3],
            padding: [1, 0, 0],
        },
        ..PLAIN
    },
    ConvShape {
        name: "conv 1x1x1 in strides, over 64 channels",
        extent: [3, 7, 5],
        channels: [40, 72],
        window: Window {
            kernel: [1, 1, 1],
            stride: [2, 2, 2],
            padding: [0, 0, 0],
        },
        ..PLAIN
    },
    ConvShape {
        name: "conv of one position in segments",
        clips: Clips::Few(1),
        extent: [2, 2, 2],
        channels: [32, 24],
        residual: true,
        relu: true,
        segment: 320,
        ..PLAIN
    },
    ConvShape {
        name: "conv in segments that one block adds",
        clips: Clips::Filling,
        extent: [4, 5, 5],
        channels: [24, 16],
        residual: true,
        segment: 192,
        ..PLAIN
    },
    ConvShape {
        name: "conv of 128 channels",
        clips: Clips::Filling,
        extent: [3, 7, 7],
        channels: [8, 128],
        relu: true,
        ..PLAIN
    },
    // From here on, channels in that the tensor memory accelerator brings.
    ConvShape {
        name: "conv 3x3x3 of 64 channels",
        clips: Clips::Few(3),
        channels: [64, 72],
        residual: true,
        relu: true,
        ..PLAIN
    },
    ConvShape {
        name: "conv of 128 channels, of cropped frames, in segments",
        clips: Clips::Few(1),
        extent: [7, 5, 5],
        channels: [128, 16],
        window: Window {
            padding: [0, 1, 1],
            ..PLAIN.window
        },
        residual: true,
        cropped: 1,
        segment: 1152,
        ..PLAIN
    },
    ConvShape {
        name: "conv of 64 channels in segments that one block adds",
        clips: Clips::Filling,
        extent: [2, 6, 9],
        channels: [64, 24],
        segment: 576,
        ..PLAIN
    },
    ConvShape {
        name: "conv 1x3x3 of 64 channels in strides",
        extent: [2, 11, 14],
        channels: [64, 40],
        window: Window {
            kernel: [1, 3, 3],
            stride: [1, 2, 2],
            padding: [0, 1, 1],
        },
        ..PLAIN
    },
    ConvShape {
        name: "conv 3x1x1 of 64 channels, all strides differ",
        clips: Clips::Few(3),
        extent: [9, 5, 8],
        channels: [64, 16],
        window: Window {
            kernel: [3, 1, 1],
            stride: [2, 1, 3],
            padding: [1, 0, 0],
        },
        ..PLAIN
    },
    ConvShape {
        name: "conv 1x3x1 of 64 to 128 channels",
        clips: Clips::Filling,
        extent: [3, 7, 7],
        channels: [64, 128],
        window: Window {
            kernel: [1, 3, 1],
            padding: [0, 1, 0],
            ..PLAIN.window
        },
        relu: true,
        ..PLAIN
    },
    ConvShape {
        name: "conv 3x1x1 of 64 to 128 channels in segments that one block adds",
        clips: Clips::Filling,
        extent: [4, 5, 5],
        channels: [64, 128],
        window: ALONG_TIME,
        residual: true,
        segment: 64,
        ..PLAIN
    },
    ConvShape {
        name: "conv 3x1x1 of 64 to 128 channels in segments",
        clips: Clips::Few(1),
        channels: [64, 128],
        window: ALONG_TIME,
        residual: true,
        segment: 64,
        ..PLAIN
    },
    // Pairs of blocks: narrow ones, wide ones, and with more stages than a ring has.
    ConvShape {
        name: "conv 1x3x3 of 64 to 128 channels",
        clips: Clips::Few(1),
        extent: [2, 11, 9],
        channels: [64, 128],
        window: IN_FRAMES,
        residual: true,
        ..PLAIN
    },
    ConvShape {
        name: "conv 3x1x1 of 128 to 256 channels in segments that one block adds",
        clips: Clips::Few(3),
        channels: [128, 256],
        window: ALONG_TIME,
        segment: 128,
        ..PLAIN
    },
    ConvShape {
        name: "conv 3x1x1 of 128 to 72 channels in segments",
        clips: Clips::Few(1),
        channels: [128, 72],
        window: ALONG_TIME,
        residual: true,
        segment: 128,
        ..PLAIN
    },
    // Split on larger cards.
    ConvShape {
        name: "conv 3x1x1 of 128 to 256 channels in segments",
        clips: Clips::Few(1),
        channels: [128, 256],
        window: ALONG_TIME,
        residual: true,
        segment: 128,
        ..PLAIN
    },
    // Half of the positions lie behind the last clip, where no corner is at zero.
    ConvShape {
        name: "conv 3x3x3 of 64 to 128 channels, of one frame",
        clips: Clips::Few(1),
        extent: [1, 7, 7],
        channels: [64, 128],
        ..PLAIN
    },
    ConvShape {
        name: "conv 1x3x3 of 64 to 256 channels",
        clips: Clips::Few(3),
        extent: [3, 7, 8],
        channels: [64, 256],
        window: IN_FRAMES,
        relu: true,
        ..PLAIN
    },
    // From here on, tiles of which the last is not whole.
    ConvShape {
        name: "conv 3x3x3 of 40 channels",
        channels: [40, 24],
        residual: true,
        ..PLAIN
    },
    ConvShape {
        name: "conv 1x3x3 of 48 channels in strides",
        extent: [2, 11, 14],
        channels: [48, 40],
        window: Window {
            kernel: [1, 3, 3],
            stride: [1, 2, 2],
            padding: [0, 1, 1],
        },
        ..PLAIN
    },
    ConvShape {
        name: "conv 3x1x1 of 144 to 128 channels",
        clips: Clips::Filling,
        extent: [3, 7, 7],
        channels: [144, 128],
        window: ALONG_TIME,
        relu: true,
        ..PLAIN
    },
    ConvShape {
        name: "conv 1x3x3 of 72 channels in segments that one block adds",
        clips: Clips::Filling,
        extent: [2, 6, 9],
        channels: [72, 24],
        window: IN_FRAMES,
        segment: 128,
        ..PLAIN
    },
    // Four segments of k, and three of tiles.
    ConvShape {
        name: "conv 3x1x1 of 144 channels in segments",
        clips: Clips::Few(1),
        extent: [5, 4, 4],
        channels: [144, 16],
        window: ALONG_TIME,
        residual: true,
        segment: 128,
        ..PLAIN
    },
    // From here on, tiles with a rim.
    ConvShape {
        name: "conv 3x3x3 of 64 channels in tiles, two at a time",
        clips: Clips::Few(1),
        extent: [3, 15, 23],
        channels: [64, 24],
        residual: true,
        relu: true,
        ..PLAIN
    },
    ConvShape {
        name: "conv 1x3x3 of 64 channels in tiles, over 64 channels",
        clips: Clips::Few(1),
        extent: [3, 8, 53],
        channels: [64, 72],
        window: IN_FRAMES,
        residual: true,
        ..PLAIN
    },
    ConvShape {
        name: "conv 3x3x3 of 64 channels in tiles, of cropped frames",
        clips: Clips::Few(5),
        extent: [5, 10, 30],
        channels: [64, 64],
        window: Window {
            padding: [0, 0, 0],
            ..PLAIN.window
        },
        cropped: 1,
        ..PLAIN
    },
    ConvShape {
        name: "conv 3x3x3 of 128 channels in tiles of few rows",
        extent: [1, 7, 25],
        channels: [128, 64],
        residual: true,
        relu: true,
        ..PLAIN
    },
    ConvShape {
        name: "conv 3x3x3 of 128 channels in tiles",
        clips: Clips::Few(2),
        extent: [2, 8, 24],
        channels: [128, 128],
        residual: true,
        relu: true,
        ..PLAIN
    },
    // And of which each block has several, one after the other.
    ConvShape {
        name: "conv 1x3x3 of 64 channels in many tiles",
        clips: Clips::Few(3),
        extent: [6, 8, 21],
        channels: [64, 64],
        window: IN_FRAMES,
        residual: true,
        ..PLAIN
    },
    ConvShape {
        name: "conv 1x3x3 of 128 channels in many tiles of few rows",
        clips: Clips::Few(3),
        extent: [3, 4, 21],
        channels: [128, 64],
        window: IN_FRAMES,
        residual: true,
        ..PLAIN
    },
    ConvShape {
        name: "conv 1x3x3 of 128 channels in many tiles",
        clips: Clips::Few(3),
        extent: [3, 8, 21],
        channels: [128, 128],
        window: IN_FRAMES,
        residual: true,
        ..PLAIN
    },
];

const ALONG_TIME: Window = Window {
    kernel: [3, 1, 1],
    padding: [1, 0, 0],
    ..PLAIN.window
};

const IN_FRAMES: Window = Window {
    kernel: [1, 3, 3],
    padding: [0, 1, 1],
    ..PLAIN.window
};

impl ConvShape {
    /// Of the output.
    pub(super) fn extent_out(&self) -> [usize; 3] {
        let [frames, rows, columns] = self.extent;
        reference::slid([frames - 2 * self.cropped, rows, columns], self.window)
    }

    /// As many as it wants of this card.
    pub(super) fn clips(&self, card: &Arc<dyn Card>) -> usize {
        match self.clips {
            Clips::Few(clips) => clips,
            Clips::Filling => {
                let positions: usize = self.extent_out().iter().product();
                let rows = 2 * card.limits().multiprocessors * kernels::BLOCK_ROWS;
                rows.div_ceil(positions)
            }
        }
    }
}
