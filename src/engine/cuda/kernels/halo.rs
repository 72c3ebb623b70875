//! Convolutions whose tiles keep a rim: `conv_halo.cu`.

use super::super::launch::{Card, Limits, TensorMap, Tiles};
use super::super::{CudaError, Precision};
use super::conv::{Conv, ConvIo, ConvParameters, TMA_BYTES, TMA_ROW, rows_of_weights};
use super::{Activations, Window, run, suffix};

/// `struct ConvHalo` of `conv_halo.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct HaloParameters {
    conv: ConvParameters,
    input: TensorMap,
    rows: TensorMap,
    residual: TensorMap,
    output: TensorMap,
}

/// Columns of a tile, and how far beyond it a box goes.
const COLUMNS: usize = 28;
const RIM: usize = 2;

/// How two warpgroups share their work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    Tiles,
    Channels,
    Rows,
}

impl Sharing {
    /// That which brings less for its work first.
    const ALL: [Self; 3] = [Self::Tiles, Self::Channels, Self::Rows];

    fn name(self) -> &'static str {
        match self {
            Self::Tiles => "tiles",
            Self::Channels => "channels",
            Self::Rows => "rows",
        }
    }

    fn channels_in(self) -> usize {
        match self {
            Self::Tiles => 64,
            Self::Channels | Self::Rows => 128,
        }
    }

    /// Channels out of a block.
    fn channels_out(self) -> usize {
        match self {
            Self::Tiles | Self::Rows => 64,
            Self::Channels => 128,
        }
    }

    /// Rows of a warpgroup's tile, and of a block's.
    fn rows(self) -> [usize; 2] {
        match self {
            Self::Tiles | Self::Channels => [8, 8],
            Self::Rows => [2, 4],
        }
    }

    fn shared_bytes(self) -> usize {
        const BYTES: usize = TMA_ROW * TMA_BYTES;
        let [tile_rows, rows] = self.rows();
        let columns = COLUMNS + RIM;
        let positions = (columns * tile_rows).next_multiple_of(16);
        let reach = (rows - tile_rows + RIM) * columns + RIM + positions;
        let slots = if self == Self::Channels { 4 } else { 8 };
        // Two boxes in each of two stages; two barriers a stage and a slot.
        4 * (reach * BYTES).next_multiple_of(1024)
            + slots * self.channels_out() * BYTES
            + (2 + slots) * 16
    }

    /// Pieces of work, for blocks to share; none where too little of a tile would be used.
    fn works(self, clips: usize, output: Activations) -> Option<usize> {
        let [frames, rows, columns] = output.extent;
        let [_, down] = self.rows();
        let tiles = rows.div_ceil(down) * columns.div_ceil(COLUMNS);
        let is_worth_it = 4 * rows * columns >= 3 * tiles * down * COLUMNS;
        let at_once = if self == Self::Tiles { 2 } else { 1 };
        let tiles = (clips * frames * tiles).div_ceil(at_once);
        is_worth_it.then(|| tiles * output.channels.div_ceil(self.channels_out()))
    }
}

/// Whether a convolution is one of those that `conv_halo.cu` is for, where its sums are in
/// one segment and its tiles fit its frames.
pub(crate) fn halo_suits(window: Window, channels: usize) -> bool {
    let is_suited = Sharing::ALL
        .into_iter()
        .any(|sharing| sharing.channels_in() == channels);
    is_suited && window.kernel[1..] == [3, 3] && window.stride == [1; 3]
}

/// A convolution that `conv_halo.cu` computes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Halo {
    sharing: Sharing,
    works: usize,
}

impl Halo {
    /// None where it cannot, or where it would leave much of the card idle.
    pub(super) fn of(conv: &Conv, clips: usize, io: &ConvIo, limits: Limits) -> Option<Self> {
        let (window, input, output) = (conv.window, io.input, io.output);
        let is_aligned =
            |of: &Activations| of.address.is_multiple_of(16) && of.clip.is_multiple_of(8);
        let fits = conv.way.has_tma()
            && limits.boxes
            && halo_suits(window, input.channels)
            && conv.segments() == 1
            && !conv.output_is_f32
            && conv.k == 9 * window.kernel[0] * input.channels
            && [Some(&input), Some(&output), io.residual.as_ref()]
                .into_iter()
                .flatten()
                .all(is_aligned);
        if !fits {
            return None;
        }
        let halo = |sharing: Sharing| {
            let is_whole = output.channels.is_multiple_of(sharing.channels_out());
            if sharing.channels_in() != input.channels || sharing != Sharing::Tiles && !is_whole {
                return None;
            }
            let works = sharing.works(clips, output)?;
            (4 * works >= 3 * limits.multiprocessors).then_some(Self { sharing, works })
        };
        Sharing::ALL.into_iter().find_map(halo)
    }

    pub(super) fn run(
        &self,
        card: &dyn Card,
        precision: Precision,
        clips: usize,
        conv: &Conv,
        io: &ConvIo,
        parameters: ConvParameters,
    ) -> Result<(), CudaError> {
        let sharing = self.sharing;
        let [tile_rows, down] = sharing.rows();
        let tiles = |of| card.map(&boxes(of, clips, COLUMNS, tile_rows));
        let output = tiles(io.output)?;
        let rows = rows_of_weights(conv, io.output, sharing.channels_out());
        let parameters = HaloParameters {
            conv: parameters,
            input: card.map(&boxes(io.input, clips, COLUMNS + RIM, down + RIM))?,
            rows: card.map(&rows)?,
            residual: io.residual.map_or(Ok(output), tiles)?,
            output,
        };
        let name = format!("halo_{}_{}", sharing.name(), suffix(precision));
        let grid = [self.works.min(card.limits().multiprocessors), 1, 1];
        // Two warps beside the eight that multiply.
        let (threads, shared) = (256 + 64, sharing.shared_bytes());
        run(card, &name, grid, threads, shared, &parameters)
    }
}

/// Parts of activations, so many columns and rows at a time.
fn boxes(of: Activations, clips: usize, columns: usize, rows: usize) -> Tiles {
    let ([t, h, w], channels) = (of.extent, of.channels);
    let pitch = [channels, w * channels, h * w * channels, of.clip];
    Tiles::Boxes {
        address: of.address,
        extent: [channels, w, h, t, clips],
        pitch: pitch.map(|values| TMA_BYTES * values),
        columns,
        rows,
    }
}
