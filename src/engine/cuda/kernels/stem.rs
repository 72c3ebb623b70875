//! The stem that reads grey pictures: `stem.cu`.

use super::super::launch::{Card, Limits};
use super::super::{CudaError, Precision};
use super::conv::{Conv, ConvParameters};
use super::{Activations, Window, int, run, suffix};

/// `struct Stem` of `stem.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct StemParameters {
    conv: ConvParameters,
    rows: i32,
    octets: i32,
    pitch: i32,
    _end: i32,
}

/// Positions beside each other that are computed together.
const OCTET: usize = 8;
/// Octets of a warp, and of a block of eight warps.
const WARP_OCTETS: usize = 4;
const BLOCK_OCTETS: usize = 8 * WARP_OCTETS;
/// Of k, in one product.
const STEP: usize = 16;
/// Shared memory that the card keeps for itself, of each block.
const RESERVED_BYTES: usize = 1024;

/// What a block computes at a time of an output frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    /// Channels out.
    channels: usize,
    rows: usize,
    /// Of a row.
    octets: usize,
    /// Rows of the patch, of all frames that the kernel reaches, and places of one.
    patch: [usize; 2],
    /// Words from one row of the patch to the next.
    pitch: usize,
    shared_bytes: usize,
}

impl Tile {
    fn new(window: Window, k: usize, channels: usize, rows: usize, octets: usize) -> Self {
        const BANKS: usize = 32;
        let Window { kernel, stride, .. } = window;
        let down = kernel[0] * ((rows - 1) * stride[1] + kernel[1]);
        let reach = |octets: usize| (OCTET * octets - 1) * stride[2] + kernel[2];
        let across = reach(octets);
        // The next row goes on in the banks behind those of an octet.
        let gap = (BANKS - (across - reach(1)) % BANKS) % BANKS;
        let pitch = across + gap;
        let weights = channels * (k + 8) * 2;
        Self {
            channels,
            rows,
            octets,
            patch: [down, across],
            pitch,
            shared_bytes: weights + 2 * k + down * pitch * 4,
        }
    }

    /// Whether a block can hold it.
    fn fits(&self, limits: Limits) -> bool {
        self.shared_bytes <= limits.shared_bytes
    }

    fn warps(&self) -> usize {
        (self.rows * self.octets).div_ceil(WARP_OCTETS)
    }

    /// Blocks that a multiprocessor holds.
    fn resident(&self, limits: Limits) -> usize {
        // That have the registers: 128 each, or 96 (see `budget` in `compile/tests.rs`).
        let threads = if self.channels > 32 { 512 } else { 672 };
        let by_memory =
            (limits.shared_bytes + RESERVED_BYTES) / (self.shared_bytes + RESERVED_BYTES);
        by_memory.min(threads / (32 * self.warps())).max(1)
    }

    /// Of one output frame.
    fn count(&self, [rows, columns]: [usize; 2]) -> usize {
        rows.div_ceil(self.rows) * columns.div_ceil(OCTET * self.octets)
    }

    /// Instructions of a warp, about: it multiplies, and it fills the patch, a row at a
    /// time and of that 128 places.
    fn cost(&self, k: usize) -> usize {
        const PRODUCT: usize = 40;
        const ROW: usize = 20;
        const PLACES: usize = 50;
        let [rows, columns] = self.patch;
        self.warps() * (k / STEP) * PRODUCT + rows * (ROW + columns.div_ceil(128) * PLACES)
    }

    /// The tile that takes a card the least for so many output frames; none where no tile
    /// fits. Which one it is changes no bit of what is computed.
    fn best(conv: &Conv, frames: usize, output: Activations, limits: Limits) -> Option<Self> {
        let [_, rows, columns] = output.extent;
        let tiles = |channels: usize| {
            let shapes = (1..=BLOCK_OCTETS)
                .flat_map(|octets| (1..=BLOCK_OCTETS / octets).map(move |rows| (rows, octets)));
            let tiles = shapes
                .map(move |(rows, octets)| Self::new(conv.window, conv.k, channels, rows, octets));
            tiles.filter(|tile| tile.fits(limits)).min_by_key(|tile| {
                let all = frames * tile.count([rows, columns]);
                all.div_ceil(limits.multiprocessors) * tile.cost(conv.k)
            })
        };
        let wide = (output.channels > 32).then(|| tiles(64)).flatten();
        wide.or_else(|| tiles(32))
    }
}

/// Whether the card has room for a stem's weights and for what its kernel reaches.
pub(crate) fn stem_fits(window: Window, k: usize, limits: Limits) -> bool {
    Tile::new(window, k, 32, 1, 1).fits(limits)
}

/// A convolution of grey pictures; see [`super::conv`].
pub(super) fn stem(
    card: &dyn Card,
    precision: Precision,
    conv: &Conv,
    clips: usize,
    output: Activations,
    parameters: ConvParameters,
) -> Result<(), CudaError> {
    let [frames, rows, columns] = output.extent;
    // The kernel counts the values of a frame with an `int`.
    int(rows * columns * output.channels)?;
    let limits = card.limits();
    let tile = Tile::best(conv, clips * frames, output, limits).ok_or(CudaError::Plan {
        problem: "the card has no room for the stem",
    })?;
    let parameters = StemParameters {
        conv: parameters,
        rows: int(tile.rows)?,
        octets: int(tile.octets)?,
        pitch: int(tile.pitch)?,
        _end: 0,
    };
    // As many blocks as there is room for: each brings the weights once for many tiles.
    let columns_of_blocks = output.channels.div_ceil(tile.channels);
    let room = limits.multiprocessors * tile.resident(limits) / columns_of_blocks;
    let tiles = clips * frames * tile.count([rows, columns]);
    run(
        card,
        &format!("stem{}_{}", tile.channels, suffix(precision)),
        [tiles.min(room.max(1)), columns_of_blocks, 1],
        32 * tile.warps(),
        tile.shared_bytes,
        &parameters,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window {
        kernel: [3, 7, 7],
        stride: [1, 2, 2],
        padding: [1, 3, 3],
    };
    const K: usize = 304;

    fn limits(kilobytes: usize) -> Limits {
        Limits {
            multiprocessors: 132,
            shared_bytes: kilobytes * 1024,
            warpgroups: false,
            tma: false,
            boxes: false,
            clusters: false,
            pairs: false,
        }
    }

    fn tile(channels: usize, extent: [usize; 3], limits: Limits) -> Option<Tile> {
        let conv = Conv {
            window: WINDOW,
            weights: 0,
            bias: 0,
            k: K,
            segment: K,
            way: super::super::Way::Warps,
            relu: true,
            output_is_f32: false,
            centre: Some(0),
        };
        let output = Activations {
            address: 0,
            clip: extent.iter().product::<usize>() * channels,
            channels,
            extent,
        };
        Tile::best(&conv, 32 * extent[0], output, limits)
    }

    #[test]
    fn tiles_of_a_video_network_cover_its_frames_exactly_and_leave_room_for_two_blocks() {
        let tile = tile(64, [16, 56, 56], limits(227)).unwrap();
        assert_eq!((tile.channels, tile.rows, tile.octets), (64, 4, 7));
        assert_eq!(tile.count([56, 56]), 14);
        assert!(tile.resident(limits(227)) >= 2);
    }

    #[test]
    fn lanes_that_load_together_meet_in_few_banks() {
        let tile = tile(64, [16, 56, 56], limits(227)).unwrap();
        let [_, rows, columns] = WINDOW.kernel;
        let frame_rows = tile.patch[0] / WINDOW.kernel[0];
        let places: Vec<usize> = (0..WINDOW.kernel.iter().product())
            .map(|tap| {
                let (t, h, w) = (tap / columns / rows, tap / columns % rows, tap % columns);
                (t * frame_rows + h) * tile.pitch + w
            })
            .collect();
        let waves = places.chunks(4).map(|taps| {
            let words = taps.iter().flat_map(|tap| (0..8).map(move |g| tap + 2 * g));
            let mut words: Vec<usize> = words.collect();
            words.sort_unstable();
            words.dedup();
            (0..32)
                .map(|bank| words.iter().filter(|word| *word % 32 == bank).count())
                .max()
                .unwrap()
        });
        let waves: Vec<usize> = waves.collect();
        // Where a frame of the kernel ends, banks are met twice.
        let twice = waves.iter().filter(|waves| **waves > 1).count();
        assert!(
            twice <= 3 && waves.iter().all(|waves| *waves <= 2),
            "{waves:?}"
        );
    }

    #[test]
    fn a_card_with_less_shared_memory_gets_smaller_tiles_or_fewer_channels_at_once() {
        let small = tile(64, [16, 56, 56], limits(48)).unwrap();
        assert!(small.shared_bytes <= 48 * 1024 && small.channels == 64);
        let narrow = tile(64, [16, 56, 56], limits(32)).unwrap();
        assert!(narrow.shared_bytes <= 32 * 1024 && narrow.channels == 32);
        assert_eq!(tile(64, [16, 56, 56], limits(16)), None);
    }

    #[test]
    fn a_stem_fits_wherever_a_tile_is_found() {
        for kilobytes in 8..64 {
            let fits = stem_fits(WINDOW, K, limits(kilobytes));
            let found = tile(64, [16, 56, 56], limits(kilobytes)).is_some();
            assert_eq!(fits, found, "{kilobytes} KiB");
        }
        let large = Window {
            kernel: [1, 200, 200],
            ..WINDOW
        };
        assert!(!stem_fits(large, 80_000, limits(227)));
    }
}
