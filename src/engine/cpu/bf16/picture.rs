//! The left matrix: a layer's input in bfloat16, with zeros around it.
//!
//! ```text
//!                   before   width
//! frame 0   above   0 0 0 0 0 0 0 0 0
//!                   0 0 x x x x x x x      what lies to the right of a row is what
//!           height  0 0 x x x x x x x      lies to the left of the next
//!           below   0 0 0 0 0 0 0 0 0
//! frame 1   above   0 0 0 0 0 0 0 0 0
//!                   ...
//! ```
//!
//! It is filled for a band of output rows at a time, and frame by frame just before
//! what is computed from it: the frames under a kernel stay in the second level of
//! cache, beside the weights, while input and results stream through it.
//!
//! All positions of a frame are evenly spaced, those in the padding too: of a kernel
//! that moves by one, 16 windows that follow each other are the rows of a tile,
//! across the ends of picture rows. The windows that begin in the padding give sums
//! that nobody asked for, 1 in 15 of a picture 14 wide; they are left out at the end.
//!
//! Of a kernel of a single row and column that moves further, only the positions that
//! it lands on are in the picture, side by side.

use std::ops::Range;

use super::super::conv::Geometry;
use super::super::team::{Parts, Team};
use super::super::values::{Kept, Values};
use super::super::work::Work;
use super::{STEP, TILE, Unit};

/// What the rows of a band may take in the frames under a kernel, in bytes. Little in
/// tests, where pictures are small, so that they come in bands too.
const BAND_BYTES: usize = if cfg!(test) { 1 << 11 } else { 3 << 17 };
/// Tiles that are computed together, in as many frames as it takes.
const TILES_AT_ONCE: usize = if cfg!(test) { 2 } else { 64 };

/// Where everything lies in it, in values.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// From one position to the next: the channels, filled up to whole steps where a
    /// run is one position.
    position: usize,
    /// From one row to the next.
    pub(super) row: usize,
    /// From one row of a tile to the next.
    pub(super) tile_row: usize,
    /// Tiles of one output row, where they do not run on across its end.
    tiles_a_row: Option<usize>,
    /// Whether no run is followed by other values than its own position's.
    is_exact: bool,
    /// Of the picture.
    geometry: Geometry,
    /// Rows and columns of the input, and which ones of them are in the picture: each
    /// first of so many.
    input: [usize; 2],
    every: [usize; 2],
    unit: Unit,
}

/// Output rows that are computed together.
#[derive(Clone, Debug)]
pub(super) struct Band {
    pub(super) rows: Range<usize>,
    /// From one frame to the next, in values of the picture.
    pub(super) frame: usize,
    /// Tiles of one output frame.
    pub(super) tiles: usize,
}

impl Band {
    /// Output frames that are computed together.
    pub(super) fn frames(&self) -> usize {
        TILES_AT_ONCE.div_ceil(self.tiles)
    }
}

impl Layout {
    pub(super) fn of(unit: Unit, geometry: &Geometry) -> Self {
        let mut geometry = geometry.clone();
        let input = [geometry.input[1], geometry.input[2]];
        let every = [geometry.stride[1], geometry.stride[2]];
        let lands = geometry.kernel[1..] == [1, 1] && geometry.padding[1..] == [0, 0];
        let is_thinned = lands && every != [1, 1];
        if is_thinned {
            for axis in [1, 2] {
                (geometry.input[axis], geometry.stride[axis]) = (geometry.output[axis], 1);
            }
        }
        let Geometry {
            kernel: [_, _, kw],
            stride: [_, sh, sw],
            padding: [_, _, before],
            input: [_, _, width],
            output: [_, _, columns],
            channels,
            ..
        } = geometry;
        let position = if kw == 1 && channels > TILE {
            channels.next_multiple_of(STEP)
        } else {
            channels
        };
        let runs_on = sh == 1 && sw == 1;
        // A window must find its row's end, and a row of windows their place.
        let width = (before + width).max(if runs_on { columns } else { 0 });
        Self {
            position,
            row: width * position,
            tile_row: sw * position,
            tiles_a_row: (!runs_on).then(|| columns.div_ceil(TILE)),
            is_exact: (kw * channels).next_multiple_of(STEP) <= kw * position,
            geometry,
            input,
            every: if is_thinned { every } else { [1, 1] },
            unit,
        }
    }

    /// From one output row's windows to those of the next, in values.
    pub(super) fn rows_on(&self) -> usize {
        self.geometry.stride[1] * self.row
    }

    /// Rows of the picture under so many output rows.
    fn rows_under(&self, rows: usize) -> usize {
        (rows - 1) * self.geometry.stride[1] + self.geometry.kernel[1]
    }

    /// Output rows of a band: all of them of one height, as far as that goes.
    fn height(&self, work: &Work) -> usize {
        let rows = self.geometry.output[1];
        let [kt, ..] = self.geometry.kernel;
        let row = 2 * self.row * work.reads().len().clamp(1, kt + 1);
        let fitting = (BAND_BYTES / row).saturating_sub(self.geometry.kernel[1]);
        let height = (fitting / self.geometry.stride[1] + 1).min(rows);
        rows.div_ceil(rows.div_ceil(height))
    }

    /// The work, band by band.
    pub(super) fn bands(&self, work: &Work) -> impl Iterator<Item = Band> {
        let [_, rows, columns] = self.geometry.output;
        let height = self.height(work);
        (0..rows).step_by(height).map(move |first| {
            let band = first..rows.min(first + height);
            let tiles = match self.tiles_a_row {
                Some(tiles) => band.len() * tiles,
                None => ((band.len() - 1) * self.row / self.position + columns).div_ceil(TILE),
            };
            Band {
                frame: self.rows_under(band.len()) * self.row,
                rows: band,
                tiles,
            }
        })
    }

    /// Values of the picture of any band.
    pub(super) fn len(&self, work: &Work) -> usize {
        let bands = self.bands(work).map(|band| self.len_of(&band, work));
        bands.max().unwrap_or(0)
    }

    /// Values of the picture of one band.
    pub(super) fn len_of(&self, band: &Band, work: &Work) -> usize {
        work.reads().len() * band.frame + self.beyond(band)
    }

    /// How far tiles may reach behind a frame.
    fn beyond(&self, band: &Band) -> usize {
        let [_, kh, kw] = self.geometry.kernel;
        let last = self.begin(band.tiles - 1) + (TILE - 1) * self.tile_row;
        let run = (kw * self.geometry.channels).next_multiple_of(STEP);
        let touched = last + (kh - 1) * self.row + run;
        touched.saturating_sub(band.frame).max(self.row)
    }

    /// Where a band's tile begins, counted from its frame's beginning.
    pub(super) fn begin(&self, tile: usize) -> usize {
        match self.tiles_a_row {
            Some(tiles) => {
                let (h, w) = (tile / tiles, tile % tiles * TILE);
                h * self.rows_on() + w * self.tile_row
            }
            None => tile * TILE * self.position,
        }
    }

    /// The output position of each row of a band's tile, if there is one.
    pub(super) fn positions(
        &self,
        band: &Band,
        tile: usize,
    ) -> impl Iterator<Item = Option<usize>> {
        let columns = self.geometry.output[2];
        let (first, rows) = (band.rows.start, band.rows.len());
        // Rows of windows are as long as those of the picture, if they run on.
        let width = self.row / self.position;
        let (mut h, mut w, wrap) = match self.tiles_a_row {
            Some(tiles) => (tile / tiles, tile % tiles * TILE, usize::MAX),
            None => (tile * TILE / width, tile * TILE % width, width),
        };
        (0..TILE).map(move |_| {
            let position = (h < rows && w < columns).then_some((first + h) * columns + w);
            w += 1;
            if w == wrap {
                (h, w) = (h + 1, 0);
            }
            position
        })
    }

    /// Fills some frames of a band's picture from those that the work reads,
    /// `[T, H, W, C]`, counted from the first one that it reads.
    pub(super) fn fill(
        &self,
        team: &Team,
        work: &Work,
        band: &Band,
        frames: Range<usize>,
        input: Values<'_>,
        picture: &mut [u16],
    ) {
        let [_, height, width] = self.geometry.input;
        let [_, sh, _] = self.geometry.stride;
        let [_, above, before] = self.geometry.padding;
        let reads = work.reads();
        let row_len = self.input[1] * self.geometry.channels;
        // What is read there is multiplied by zero, and must be a number for that.
        picture[frames.end * band.frame..][..self.beyond(band)].fill(0);
        let rows = self.rows_under(band.rows.len());
        let parts = Parts::new(picture);
        team.each(frames.len() * rows, |number, _| {
            let number = frames.start * rows + number;
            let (frame, row) = (number / rows, number % rows);
            // SAFETY: rows are apart, and each is one task.
            let to = unsafe { parts.part(number * self.row, self.row) };
            let h = (band.rows.start * sh + row).checked_sub(above);
            let Some(h) = h.filter(|h| *h < height) else {
                return to.fill(0);
            };
            // They lie to the right of the row above as well, which may be read
            // where this one is not.
            let (zeros, to) = to.split_at_mut(before * self.position);
            zeros.fill(0);
            if self.is_skipped(work, reads.start + frame, row) {
                return;
            }
            let (to, rest) = to.split_at_mut(width * self.position);
            rest.fill(0);
            let h = h * self.every[0];
            match input.part((frame * self.input[0] + h) * row_len, row_len) {
                Kept::F32(from) => self.copy(from, to, |from, to| self.unit.narrow(from, to)),
                Kept::Bf16(from) => self.copy(from, to, |from, to| to.copy_from_slice(from)),
            }
        });
    }

    /// A row, with zeros behind each position's channels where there is room for more.
    #[inline(always)]
    fn copy<T>(&self, from: &[T], to: &mut [u16], put: impl Fn(&[T], &mut [u16])) {
        let channels = self.geometry.channels;
        if self.position == channels && self.every[1] == 1 {
            return put(from, to);
        }
        let positions = to.chunks_exact_mut(self.position);
        let taken = from.chunks_exact(channels).step_by(self.every[1]);
        for (from, to) in taken.zip(positions) {
            let (to, zeros) = to.split_at_mut(channels);
            put(from, to);
            zeros.fill(0);
        }
    }

    /// Whether nothing reads a band's row of a frame: kernels that move further than
    /// they reach leave some out.
    fn is_skipped(&self, work: &Work, frame: usize, row: usize) -> bool {
        // Where a run is followed by other values, they must be numbers at least:
        // they are multiplied by zero.
        let reads = |taps: usize, first: usize| (first..first + taps).contains(&frame);
        self.is_exact
            && (row % self.geometry.stride[1] >= self.geometry.kernel[1]
                || !work.jobs().any(|(taps, job)| reads(taps.len(), job.input)))
    }
}
