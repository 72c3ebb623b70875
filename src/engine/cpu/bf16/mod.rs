//! Convolutions in bfloat16: products of the upper halves of f32, sums in f32.
//!
//! As in `direct.rs`, a convolution is a matrix product, output positions by
//! channels out, summed over taps and channels in. `picture.rs` copies the input
//! once a layer, rounded, with zeros around each frame, so that every row of the left
//! matrix can be read where it lies; `panels.rs` packs the weights; `conv.rs` and
//! `vectors.rs` share out the product, in tiles or row by row. K, the depth of the
//! sums, is kept in steps of 32:
//!
//! ```text
//! K           [kt][kh] runs of kw * C values, each filled up to whole steps;
//!             for tiles, where C is whole steps, [kt][C / 32][kh][kw] steps instead
//! left tile   16 rows of one step, 64 bytes each, evenly spaced in the picture
//! right tile  one step of a panel of 16 channels out:
//!
//!               column 0      column 1          column 15
//!             [ k 0, k 1    | k 0, k 1    | ... | k 0, k 1  ]   64 bytes
//!             [ k 2, k 3    | k 2, k 3    | ...             ]
//!               ...                                              16 such lines
//! ```
//!
//! In the latter order the 32 channels of a few rows of the picture stay in the first
//! level of cache for kh * kw steps, of however many channels there are.
//!
//! A run is followed by zeros in the right matrix; in the left tile, by whatever the
//! picture holds there. Every tap in time begins with a step of its own, since at
//! the ends of a clip only some take part. Sums run over K in one order, whatever
//! the thread, the rows beside a row, or the batch.
//!
//! What tiles give may stay in bfloat16 on its way to the next layer (`finish.rs`).
//!
//! The products are those of AMX where the processor has it (`amx.rs`; `plain.rs` says
//! what it computes), else of AVX-512 with bfloat16 (`avx512.rs`).
//! Where there is neither, convolutions are computed in f32, from weights that are
//! kept in bfloat16.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod conv;
mod finish;
mod panels;
mod picture;
mod plain;
#[cfg(target_arch = "x86_64")]
mod vectors;

use super::conv::Geometry;
pub(super) use conv::Bf16;
use finish::Finish;

/// Values of K that one instruction of AMX takes.
const STEP: usize = 32;
/// Rows of a tile, and columns of a panel.
const TILE: usize = 16;

/// One step of K within a frame: values of a run of the picture.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// Which row of the kernel.
    row: usize,
    /// Its first value, counted from the run's.
    first: usize,
}

/// What multiplies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unit {
    /// Whole tiles at once.
    Tiles(Tiler),
    /// Vectors of pairs.
    #[cfg(target_arch = "x86_64")]
    Vectors(avx512::Avx512),
}

/// What multiplies tiles.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tiler {
    #[cfg(target_arch = "x86_64")]
    Amx(amx::Amx, avx512::Avx512),
    /// The reference: too slow for anything but tests.
    #[cfg_attr(not(test), allow(dead_code, reason = "the reference of the tests"))]
    Plain,
}

/// A tiler that is set up on this thread.
enum Ready {
    #[cfg(target_arch = "x86_64")]
    Amx(amx::Tiles),
    Plain,
}

/// Rows of the left matrix, which lie in a picture.
#[derive(Clone, Copy)]
struct Left<'a> {
    picture: &'a [u16],
    /// From one row of a tile to the next, in values.
    pitch: usize,
    /// Where each step of a row lies, counted from its beginning.
    steps: &'a [usize],
    /// The furthest of them.
    furthest: usize,
}

/// Sums of the tiles that are computed at once.
#[repr(C, align(64))]
struct Sums([f32; 4 * TILE * TILE]);

impl Unit {
    /// The best that this machine has, if it beats arithmetic in f32.
    pub(super) fn detect() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        {
            let vectors = avx512::Avx512::try_new()?;
            match amx::Amx::try_new() {
                Some(tiles) => Some(Self::Tiles(Tiler::Amx(tiles, vectors))),
                None => avx512::Avx512::is_fast().then_some(Self::Vectors(vectors)),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// What every machine can execute.
    #[cfg(test)]
    pub(super) const PLAIN: Self = Self::Tiles(Tiler::Plain);

    /// Every one that this machine can execute.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Self> {
        let mut all = vec![Self::PLAIN];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(avx512::Avx512::try_new().map(Self::Vectors));
            all.extend(Self::detect().filter(|unit| unit.has_tiles()));
        }
        all
    }

    /// Of a convolution in it.
    pub(super) fn method(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Tiles(Tiler::Amx(..)) => "AMX bf16",
            Self::Tiles(Tiler::Plain) => "plain bf16",
            #[cfg(target_arch = "x86_64")]
            Self::Vectors(_) => "AVX-512 bf16",
        }
    }

    /// Whether it multiplies whole tiles at once.
    pub(super) fn has_tiles(self) -> bool {
        matches!(self, Self::Tiles(_))
    }

    /// The steps of K within a frame, in order.
    fn order(self, geometry: &Geometry) -> Vec<Step> {
        let [_, kh, kw] = geometry.kernel;
        let channels = geometry.channels;
        let step = |row, first| Step { row, first };
        if self.has_tiles() && channels.is_multiple_of(STEP) {
            let steps = (0..channels).step_by(STEP).flat_map(|channel| {
                (0..kh * kw).map(move |tap| step(tap / kw, tap % kw * channels + channel))
            });
            return steps.collect();
        }
        let runs = (0..kh).flat_map(|row| {
            let firsts = (0..kw * channels).step_by(STEP);
            firsts.map(move |first| step(row, first))
        });
        runs.collect()
    }

    /// Whether a panel that is multiplied alone is to lie in fours.
    fn takes_fours(self, run: usize) -> bool {
        match self {
            Self::Tiles(_) => false,
            #[cfg(target_arch = "x86_64")]
            Self::Vectors(_) => avx512::Avx512::takes_fours(run),
        }
    }

    /// Products in the time that one takes in f32, about.
    fn speed(self) -> u64 {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Tiles(Tiler::Amx(..)) => 8,
            Self::Tiles(Tiler::Plain) => 1,
            #[cfg(target_arch = "x86_64")]
            Self::Vectors(_) => 2,
        }
    }

    /// Rounds to the nearest bfloat16, ties to even.
    fn narrow(self, from: &[f32], to: &mut [u16]) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Tiles(Tiler::Amx(_, vectors)) | Self::Vectors(vectors) => {
                vectors.narrow(from, to);
            }
            Self::Tiles(Tiler::Plain) => {
                for (from, to) in from.iter().zip(to) {
                    *to = half::bf16::from_f32(*from).to_bits();
                }
            }
        }
    }
}

impl Tiler {
    fn prepare(self) -> Ready {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx(tiles, _) => Ready::Amx(tiles.prepare()),
            Self::Plain => Ready::Plain,
        }
    }

    /// Puts the sums of some positions, `[positions][width]`, where they go.
    ///
    /// # Safety
    /// Nobody else may finish the same filters there at the same time.
    #[inline(always)]
    unsafe fn finish(self, finish: Finish<'_>, places: &[usize], width: usize, sums: &Sums) {
        // SAFETY: as the caller says; and that there is an `Avx512` says that the
        // processor has the instructions.
        unsafe {
            match (self, width) {
                #[cfg(target_arch = "x86_64")]
                (Self::Amx(..), TILE) => finish.vectors::<1>(places, &sums.0),
                #[cfg(target_arch = "x86_64")]
                (Self::Amx(..), _) => finish.vectors::<2>(places, &sums.0),
                (Self::Plain, TILE) => finish.plain::<1>(places, &sums.0),
                (Self::Plain, _) => finish.plain::<2>(places, &sums.0),
            }
        }
    }
}

impl Ready {
    /// Two tiles, which begin there in the picture, by as many steps of two panels:
    /// `sums [2][16][32]`.
    #[inline(always)]
    fn square(&self, left: Left<'_>, tiles: [usize; 2], panels: [&[u16]; 2], sums: &mut Sums) {
        if left.steps.is_empty() {
            return sums.0.fill(0.0);
        }
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx(unit) => unit.square(left, tiles, panels, sums),
            Self::Plain => plain::multiply(left, tiles, panels, sums),
        }
    }

    /// Four tiles by one panel: `sums [4][16][16]`.
    #[inline(always)]
    fn tall(&self, left: Left<'_>, tiles: [usize; 4], panel: &[u16], sums: &mut Sums) {
        if left.steps.is_empty() {
            return sums.0.fill(0.0);
        }
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx(unit) => unit.tall(left, tiles, panel, sums),
            Self::Plain => plain::multiply(left, tiles, [panel], sums),
        }
    }
}

impl<'a> Left<'a> {
    fn new(picture: &'a [u16], pitch: usize, steps: &'a [usize]) -> Self {
        Self {
            picture,
            pitch,
            steps,
            furthest: steps.iter().copied().max().unwrap_or(0),
        }
    }

    /// Refuses tiles that reach behind the picture, and panels of other depth.
    #[inline(always)]
    fn check(self, tiles: &[usize], panels: &[&[u16]]) {
        let reach = (TILE - 1) * self.pitch + self.furthest + STEP;
        for tile in tiles {
            assert!(
                tile + reach <= self.picture.len(),
                "a tile behind the picture"
            );
        }
        for panel in panels {
            assert_eq!(
                panel.len(),
                self.steps.len() * STEP * TILE,
                "steps of a panel"
            );
        }
    }
}
