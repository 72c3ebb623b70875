//! The matrix product that everything else is made of.
//!
//! `out[row, n] = sum over segments s and k of
//! input[base[row] + delta[s] + k] * weights[s * run + k, n]`: rows of the left
//! matrix lie anywhere in memory, one run of values for each segment, so that a
//! convolution reads its input in place. The right matrix is packed into panels:
//!
//! ```text
//! weights [K, N]          panel 0          panel 1          N padded with zeros
//!                     [K, width]       [K, width]       ...  to whole panels
//! ```
//!
//! A tile of `MR` rows by one panel's width stays in registers while K runs
//! through it: 6 by 16 with AVX2, 12 by 32 with AVX-512; of narrow matrices, whose
//! columns would leave half of that empty, 12 by 8 and 12 by 16. Sums run over K in
//! one order, whatever the thread, the rows beside it or the batch.

use std::any::TypeId;

use pulp::{Simd, WithSimd};

use super::lines::{HalfLine, Lines};

/// What the processor can do, and how wide a panel is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512(pulp::x86::V4, Panel),
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3, Panel),
    /// Vectors of eight values, in whatever registers the compiler finds.
    Portable,
}

/// How many vectors lie side by side in a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Panel {
    /// Two: each value of the left matrix is multiplied twice.
    Wide,
    /// One, and twice the rows.
    Narrow,
}

/// Work that is compiled once for each instruction set and panel.
pub(super) trait Task {
    type Output;
    /// `MR` rows by `NV` vectors make up one tile.
    fn run<S: Simd, const MR: usize, const NV: usize>(self, simd: S) -> Self::Output;
}

struct Tiled<T, const MR: usize, const NV: usize>(T);

impl<T: Task, const MR: usize, const NV: usize> WithSimd for Tiled<T, MR, NV> {
    type Output = T::Output;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> T::Output {
        self.0.run::<S, MR, NV>(simd)
    }
}

impl Isa {
    /// The best that this machine has.
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(simd) = pulp::x86::V4::try_new() {
                return Self::Avx512(simd, Panel::Wide);
            }
            if let Some(simd) = pulp::x86::V3::try_new() {
                return Self::Avx2(simd, Panel::Wide);
            }
        }
        Self::Portable
    }

    /// Every one that this machine can execute, the best first.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Self> {
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(pulp::x86::V3::try_new().map(|simd| Self::Avx2(simd, Panel::Wide)));
            all.extend(pulp::x86::V4::try_new().map(|simd| Self::Avx512(simd, Panel::Wide)));
        }
        all.reverse();
        all
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(..) => "AVX-512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(..) => "AVX2",
            Self::Portable => "portable",
        }
    }

    /// The same vectors in the panels that leave the fewest of so many columns
    /// empty.
    pub(super) fn fitting(self, columns: usize) -> Self {
        let narrow = match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd, _) => Self::Avx512(simd, Panel::Narrow),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd, _) => Self::Avx2(simd, Panel::Narrow),
            Self::Portable => return self,
        };
        let covered = |isa: Self| columns.next_multiple_of(isa.panel_width());
        if covered(narrow) < covered(self) {
            narrow
        } else {
            self
        }
    }

    pub(super) fn run<T: Task>(self, task: T) -> T::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd, Panel::Wide) => Simd::vectorize(simd, Tiled::<T, 12, 2>(task)),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd, Panel::Narrow) => Simd::vectorize(simd, Tiled::<T, 12, 1>(task)),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd, Panel::Wide) => Simd::vectorize(simd, Tiled::<T, 6, 2>(task)),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd, Panel::Narrow) => Simd::vectorize(simd, Tiled::<T, 12, 1>(task)),
            Self::Portable => Simd::vectorize(pulp::Scalar256b, Tiled::<T, 4, 1>(task)),
        }
    }

    /// Columns of one panel.
    pub(super) fn panel_width(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_, Panel::Wide) | Self::Avx2(_, Panel::Wide) => 2 * self.lanes(),
            _ => self.lanes(),
        }
    }

    /// Values of one vector.
    pub(super) fn lanes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(..) => 16,
            _ => 8,
        }
    }
}

/// What a right matrix is kept in; sums are f32 in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Storage {
    F32,
    /// Half the memory, and half the traffic where weights are the most of it.
    Bf16,
}

/// Panels begin where cache lines do.
#[derive(Debug)]
enum Packed {
    F32(Lines),
    Bf16(Vec<HalfLine>),
}

/// A right matrix, packed.
#[derive(Debug)]
pub(super) struct Panels {
    /// What multiplies with it.
    isa: Isa,
    values: Packed,
    /// Rows of the matrix: K.
    depth: usize,
    /// Columns of the matrix: N.
    columns: usize,
    width: usize,
    /// From one panel to the next, in values.
    pitch: usize,
}

impl Panels {
    /// Packs `matrix(k, n)`.
    pub(super) fn pack(
        isa: Isa,
        storage: Storage,
        depth: usize,
        columns: usize,
        matrix: impl Fn(usize, usize) -> f32,
    ) -> Self {
        let isa = isa.fitting(columns);
        let width = isa.panel_width();
        let panels = columns.div_ceil(width);
        let pitch = (depth * width).next_multiple_of(32);
        let place = |panel: usize, k: usize, n: usize| panel * pitch + k * width + n;
        let fill = |put: &mut dyn FnMut(usize, f32)| {
            for column in 0..columns {
                let (panel, n) = (column / width, column % width);
                (0..depth).for_each(|k| put(place(panel, k, n), matrix(k, column)));
            }
        };
        let values = match storage {
            Storage::F32 => {
                let mut values = Lines::zeroed(panels * pitch);
                fill(&mut |place, value| values[place] = value);
                Packed::F32(values)
            }
            Storage::Bf16 => {
                let mut lines = vec![HalfLine([0; 32]); panels * pitch / 32];
                let values: &mut [u16] = bytemuck::cast_slice_mut(&mut lines);
                fill(&mut |place, value| values[place] = half::bf16::from_f32(value).to_bits());
                Packed::Bf16(lines)
            }
        };
        Self {
            isa,
            values,
            depth,
            columns,
            width,
            pitch,
        }
    }

    /// The vectors and panels that [`multiply`] must run with.
    pub(super) fn isa(&self) -> Isa {
        self.isa
    }

    pub(super) fn count(&self) -> usize {
        self.columns.div_ceil(self.width)
    }

    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Which columns a panel holds.
    pub(super) fn columns_of(&self, panel: usize) -> std::ops::Range<usize> {
        panel * self.width..self.columns.min((panel + 1) * self.width)
    }

    pub(super) fn bytes(&self) -> usize {
        match &self.values {
            Packed::F32(values) => size_of_val(&values[..]),
            Packed::Bf16(lines) => size_of_val(&lines[..]),
        }
    }

    /// Rows of a panel, from row `first` on, in f32: where they lie, or in
    /// `expanded`.
    #[inline(always)]
    fn rows<'a>(
        &'a self,
        panel: usize,
        first: usize,
        count: usize,
        expanded: &'a mut Lines,
    ) -> &'a [f32] {
        assert!(first + count <= self.depth, "rows outside the matrix");
        let begin = panel * self.pitch + first * self.width;
        let len = count * self.width;
        match &self.values {
            Packed::F32(values) => &values[begin..][..len],
            Packed::Bf16(lines) => {
                let halves: &[u16] = &bytemuck::cast_slice(lines)[begin..][..len];
                expanded.reserve(len);
                for (wide, &half) in expanded.iter_mut().zip(halves) {
                    *wide = f32::from_bits(u32::from(half) << 16);
                }
                &expanded[..len]
            }
        }
    }
}

/// A left matrix that lies scattered.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) input: &'a [f32],
    /// Where each row begins.
    pub(super) bases: &'a [usize],
    /// How far behind its beginning each segment of a row lies.
    pub(super) deltas: &'a [usize],
    /// Values in a segment.
    pub(super) run: usize,
}

/// Scratch memory of a product.
#[derive(Debug, Default)]
pub(super) struct Sums {
    /// One tile for each group of rows.
    tiles: Lines,
    /// Weights that are kept in bfloat16, as f32.
    expanded: Lines,
}

impl Sums {
    /// So many values that hold whatever they held last.
    pub(super) fn tiles(&mut self, len: usize) -> &mut [f32] {
        self.tiles.reserve(len);
        &mut self.tiles[..len]
    }
}

/// Rows of the right matrix that go through a tile at once: with 32 columns, 32
/// KiB of them, which stay in the first level of cache for all rows.
const DEPTH_AT_ONCE: usize = 256;

/// One panel's columns of the product with every row; `sink` gets the first one's number
/// of some rows that follow each other, and their values, a panel's width of each, while
/// they are at hand; it must be `inline(always)`, or its vectors are compiled for the
/// plainest of processors. The rows' segments meet the right matrix from its row `first`
/// on. Scratch memory grows as it must.
#[inline(always)]
pub(super) fn multiply<S: Simd, const MR: usize, const NV: usize>(
    simd: S,
    rows: Rows<'_>,
    panels: &Panels,
    panel: usize,
    first: usize,
    scratch: &mut Sums,
    mut sink: impl FnMut(usize, &[[S::f32s; NV]]),
) {
    let width = NV * S::F32_LANES;
    assert_eq!(width, panels.width, "packed for other vectors");
    let Sums {
        tiles: scratch,
        expanded,
    } = scratch;
    let Some(&furthest) = rows.bases.iter().max() else {
        return;
    };
    let at_once = (DEPTH_AT_ONCE / rows.run).max(1);
    // Sums of nothing are sums too.
    let turns = rows.deltas.len().div_ceil(at_once).max(1);
    // What is done in one turn stays in registers.
    let groups = if turns == 1 {
        0
    } else {
        rows.bases.len().div_ceil(MR)
    };
    scratch.reserve(groups * MR * width);
    let (tiles, _) = S::as_mut_simd_f32s(&mut scratch[..groups * MR * width]);
    let (tiles, _) = tiles.as_chunks_mut::<NV>();
    for number in 0..turns {
        let deltas = &rows.deltas[number * at_once..];
        let deltas = &deltas[..at_once.min(deltas.len())];
        let depth = deltas.len() * rows.run;
        let begin = first + number * at_once * rows.run;
        let (panel, _) = S::as_simd_f32s(panels.rows(panel, begin, depth, expanded));
        let end = deltas.iter().max();
        let end = end.map_or(0, |delta| furthest + delta + rows.run);
        assert!(end <= rows.input.len(), "rows reach behind the input");
        assert!(panel.len() == depth * NV);
        let rows = Rows { deltas, ..rows };
        let turn = Turn {
            rows,
            panel,
            is_first: number == 0,
            is_last: number + 1 == turns,
        };
        for (group, bases) in rows.bases.chunks(MR).enumerate() {
            let begin = group * MR;
            let tile = match turns {
                1 => &mut [][..],
                _ => &mut tiles[begin..][..MR],
            };
            // The last group costs what it holds, not a whole tile.
            // SAFETY: no row of these reaches behind the input, and the panel has
            // a value for each of theirs, see above.
            unsafe {
                match bases.len() {
                    1..=2 if 2 < MR => turn.group::<2>(simd, begin, bases, tile, &mut sink),
                    1..=4 if 4 < MR => turn.group::<4>(simd, begin, bases, tile, &mut sink),
                    1..=8 if 8 < MR => turn.group::<8>(simd, begin, bases, tile, &mut sink),
                    _ => turn.group::<MR>(simd, begin, bases, tile, &mut sink),
                }
            }
        }
    }
}

/// As much of a product as goes through the tiles at once.
struct Turn<'a, S: Simd, const NV: usize> {
    rows: Rows<'a>,
    /// `NV` vectors for each value of a row.
    panel: &'a [S::f32s],
    is_first: bool,
    is_last: bool,
}

impl<S: Simd, const NV: usize> Turn<'_, S, NV> {
    /// Adds to a tile, of which nothing is read in the first turn and nothing written in
    /// the last one; there its rows, which begin at `bases`, go to the sink.
    ///
    /// # Safety
    /// As [`Turn::sums`] says.
    #[inline(always)]
    unsafe fn group<const MR: usize>(
        &self,
        simd: S,
        first: usize,
        bases: &[usize],
        tile: &mut [[S::f32s; NV]],
        sink: &mut impl FnMut(usize, &[[S::f32s; NV]]),
    ) {
        let mut sums = [[simd.splat_f32s(0.0); NV]; MR];
        if !self.is_first {
            sums.copy_from_slice(&tile[..MR]);
        }
        // SAFETY: as the caller says.
        let sums = unsafe { self.sums(simd, bases, sums) };
        if !self.is_last {
            tile[..MR].copy_from_slice(&sums);
        } else if bases.len() == MR {
            // Nearly always, and then the length is a constant.
            sink(first, &sums);
        } else {
            sink(first, &sums[..bases.len()]);
        }
    }

    /// `sums + rows * panel` for those of the rows that begin at `group`, at most `MR`;
    /// the last one fills up what is missing.
    ///
    /// # Safety
    /// Every segment of these rows must lie in the input, and the panel must have `NV`
    /// vectors for each value of a row.
    #[inline(always)]
    unsafe fn sums<const MR: usize>(
        &self,
        simd: S,
        group: &[usize],
        mut sums: [[S::f32s; NV]; MR],
    ) -> [[S::f32s; NV]; MR] {
        let Rows {
            input, deltas, run, ..
        } = self.rows;
        let bases: [usize; MR] = match group.first_chunk() {
            Some(whole) => *whole,
            None => std::array::from_fn(|i| group[i.min(group.len() - 1)]),
        };
        let mut rows = [input.as_ptr(); MR];
        for i in 0..MR {
            // Rows without segments may begin anywhere.
            rows[i] = input.as_ptr().wrapping_add(bases[i]);
        }
        let mut panel = self.panel.as_ptr();
        for &delta in deltas {
            for k in delta..delta + run {
                let mut right = [simd.splat_f32s(0.0); NV];
                for j in 0..NV {
                    // SAFETY: there are `NV` vectors for each value of a row.
                    right[j] = unsafe { *panel.add(j) };
                }
                // SAFETY: it ends behind the last of them.
                panel = unsafe { panel.add(NV) };
                for i in 0..MR {
                    // SAFETY: the row's segments lie in the input.
                    let left = simd.splat_f32s(unsafe { *rows[i].add(k) });
                    for j in 0..NV {
                        sums[i][j] = mul_add(simd, left, right[j], sums[i][j]);
                    }
                }
            }
        }
        sums
    }
}

/// `a * b + c`: in one rounding where the processor can, in two elsewhere.
#[inline(always)]
pub(super) fn mul_add<S: Simd>(simd: S, a: S::f32s, b: S::f32s, c: S::f32s) -> S::f32s {
    // Without the instruction, one rounding costs a call of the C library.
    if cfg!(target_arch = "x86_64") && TypeId::of::<S>() == TypeId::of::<pulp::Scalar256b>() {
        simd.add_f32s(simd.mul_f32s(a, b), c)
    } else {
        simd.mul_add_e_f32s(a, b, c)
    }
}
