//! A convolution in bfloat16: the picture is filled, then tasks take tiles of it.

use std::ops::Range;

use super::super::conv::{Geometry, Target};
use super::super::product::Isa;
use super::super::team::{Scratch, Team};
use super::super::values::Values;
use super::super::work::{Batch, FrameJob};
use super::finish::{Finish, NOWHERE};
use super::panels::Panels;
use super::picture::{Band, Layout};
use super::{Left, STEP, Step, Sums, TILE, Tiler, Unit};
#[cfg(target_arch = "x86_64")]
use super::{
    avx512::Avx512,
    vectors::{POSITIONS, Positions},
};

/// Tiles of one task where all weights fit in the second level of cache, which
/// then pass by every task.
const TILES: usize = 8;
/// Elsewhere, weights pass by once for so many tiles, which stay there instead.
const MANY_TILES: usize = 64;
/// Bytes of weights that fit, beside the rest; in tests, some do not.
const FITTING_WEIGHTS: usize = if cfg!(test) { 1 << 14 } else { 1 << 20 };

/// See the modules.
#[derive(Debug)]
pub(in crate::engine::cpu) struct Bf16 {
    unit: Unit,
    pub(super) geometry: Geometry,
    pub(super) layout: Layout,
    /// The steps of K within a frame, in order.
    order: Vec<Step>,
    pub(super) panels: Panels,
}

/// How the product is cut into tasks.
#[derive(Clone, Copy)]
struct Cut {
    tiles: usize,
    panels: usize,
}

impl Bf16 {
    /// Whether vectors are faster than one by one in f32, as measured: of sums of few
    /// products, filling the picture takes longer than is saved.
    pub(in crate::engine::cpu) fn pays(geometry: &Geometry) -> bool {
        geometry.kernel.iter().product::<usize>() * geometry.channels >= STEP
    }

    /// `weights` are `[kt, kh, kw, C, C']`.
    pub(in crate::engine::cpu) fn new(unit: Unit, geometry: Geometry, weights: &[f32]) -> Self {
        let [kt, kh, kw] = geometry.kernel;
        let run = kw * geometry.channels;
        let order = unit.order(&geometry);
        Self {
            unit,
            layout: Layout::of(unit, &geometry),
            panels: Panels::pack(
                [kt, kh, run],
                &order,
                geometry.filters,
                unit.takes_fours(run),
                weights,
            ),
            order,
            geometry,
        }
    }

    pub(in crate::engine::cpu) fn method(&self) -> &'static str {
        self.unit.method()
    }

    /// Whether it multiplies whole tiles at once.
    pub(in crate::engine::cpu) fn has_tiles(&self) -> bool {
        self.unit.has_tiles()
    }

    /// Products in the time that one takes in f32, about.
    pub(in crate::engine::cpu) fn speed(&self) -> u64 {
        self.unit.speed()
    }

    pub(in crate::engine::cpu) fn weight_bytes(&self) -> usize {
        self.panels.bytes()
    }

    /// The pictures', in f32.
    pub(in crate::engine::cpu) fn scratch_len(&self, batch: Batch<'_>) -> usize {
        (batch.clips * self.layout.len(batch.work)).div_ceil(2)
    }

    fn cut(&self) -> Cut {
        let all = self.panels.count();
        if self.panels.bytes() <= FITTING_WEIGHTS {
            let (tiles, panels) = (TILES, all);
            return Cut { tiles, panels };
        }
        let (tiles, panels) = (MANY_TILES, 2);
        Cut { tiles, panels }
    }

    pub(in crate::engine::cpu) fn run(
        &self,
        isa: Isa,
        team: &Team,
        batch: Batch<'_>,
        input: Values<'_>,
        target: Target<'_>,
        scratch: &mut [f32],
    ) {
        let work = batch.work;
        let reads = work.reads();
        #[cfg(not(target_arch = "x86_64"))]
        let _ = isa;
        let input = input.behind(reads.start * self.geometry.input_frame_len());
        let pictures: &mut [u16] = bytemuck::cast_slice_mut(scratch);
        for band in self.layout.bands(work) {
            let clip_len = self.layout.len_of(&band, work);
            let mut filled = 0;
            for class in work.classes() {
                let frames_at_once = band.frames().div_ceil(batch.clips);
                for frames in class.frames.chunks(frames_at_once) {
                    // Those that the taps lie on, if any do.
                    let needed = |frame: &FrameJob| frame.input + class.taps.len() - reads.start;
                    let taken = frames.iter().filter(|_| !class.taps.is_empty());
                    let end = taken.map(needed).max().unwrap_or(0);
                    if filled < end {
                        let new = filled..end;
                        for clip in 0..batch.clips {
                            let input = input.behind(clip * batch.pitch);
                            let picture = &mut pictures[clip * clip_len..][..clip_len];
                            self.layout
                                .fill(team, work, &band, new.clone(), input, picture);
                        }
                        filled = end;
                    }
                    let beat = Beat {
                        conv: self,
                        batch,
                        band: &band,
                        taps: &class.taps,
                        frames,
                        pictures,
                        clip_len,
                        target,
                    };
                    match self.unit {
                        Unit::Tiles(tiler) => beat.by_tiles(tiler, team),
                        #[cfg(target_arch = "x86_64")]
                        Unit::Vectors(unit) => beat.by_vectors(unit, isa, team),
                    }
                }
            }
        }
    }
}

/// Frames of one class, in all clips, that are computed together.
#[derive(Clone, Copy)]
pub(super) struct Beat<'a> {
    pub(super) conv: &'a Bf16,
    batch: Batch<'a>,
    pub(super) band: &'a Band,
    pub(super) taps: &'a Range<usize>,
    frames: &'a [FrameJob],
    /// One for each clip, of so many values.
    pub(super) pictures: &'a [u16],
    clip_len: usize,
    pub(super) target: Target<'a>,
}

impl Beat<'_> {
    /// Output frames, clip by clip.
    fn count(&self) -> usize {
        self.batch.clips * self.frames.len()
    }

    /// Where an output frame's first tap begins in the pictures, and where its values
    /// go.
    pub(super) fn frame(&self, number: usize) -> (usize, usize) {
        let (clip, frame) = (number / self.frames.len(), number % self.frames.len());
        let frame = self.frames[frame];
        // A window in the padding of time alone has no first frame.
        let first = frame.input.saturating_sub(self.batch.work.reads().start);
        (
            clip * self.clip_len + first * self.band.frame,
            clip * self.batch.pitch + frame.output * self.conv.geometry.output_frame_len(),
        )
    }

    fn by_tiles(self, tiler: Tiler, team: &Team) {
        let cut = self.conv.cut();
        let tiles = self.count() * self.band.tiles;
        let panels = self.conv.panels.count();
        let by_panels = panels.div_ceil(cut.panels);
        team.each(tiles.div_ceil(cut.tiles) * by_panels, |number, scratch| {
            let part = |number: usize, size: usize, all: usize| {
                number * size..all.min((number + 1) * size)
            };
            let tiles = Tiles {
                beat: self,
                tiles: part(number / by_panels, cut.tiles, tiles),
                panels: part(number % by_panels, cut.panels, panels),
            };
            tiles.run(tiler, scratch);
        });
    }

    #[cfg(target_arch = "x86_64")]
    fn by_vectors(self, unit: Avx512, isa: Isa, team: &Team) {
        let columns = self.conv.geometry.output[2];
        let all = self.count() * self.band.rows.len() * columns;
        team.each(all.div_ceil(POSITIONS), |number, scratch| {
            let first = number * POSITIONS;
            isa.run(Positions {
                unit,
                beat: self,
                first,
                count: POSITIONS.min(all - first),
                scratch,
            });
        });
    }
}

/// Tiles by panels: what one task does.
struct Tiles<'a> {
    beat: Beat<'a>,
    tiles: Range<usize>,
    panels: Range<usize>,
}

impl Tiles<'_> {
    fn run(self, tiler: Tiler, scratch: &mut Scratch) {
        let Self {
            beat,
            tiles,
            panels,
        } = self;
        let Beat {
            conv, band, target, ..
        } = beat;
        let (geometry, layout) = (&conv.geometry, &conv.layout);
        let Scratch {
            bases,
            deltas,
            places,
            ..
        } = scratch;
        deltas.clear();
        for t in 0..beat.taps.len() {
            let begin = |step: &Step| t * band.frame + step.row * layout.row + step.first;
            deltas.extend(conv.order.iter().map(begin));
        }
        bases.clear();
        places.clear();
        for tile in tiles {
            let (first, place) = beat.frame(tile / band.tiles);
            let tile = tile % band.tiles;
            bases.push(first + layout.begin(tile));
            let positions = layout.positions(band, tile);
            places.extend(positions.map(|position| {
                position.map_or(NOWHERE, |position| place + position * geometry.filters)
            }));
        }
        let left = Left::new(beat.pictures, layout.tile_row, deltas);
        let first = beat.taps.start * conv.order.len();
        let panel = |panel| conv.panels.steps(panel, first, deltas.len());
        let ready = tiler.prepare();
        let mut sums = Sums([0.0; 4 * TILE * TILE]);
        let mut number = panels.start;
        while number < panels.end {
            let is_pair = number + 1 < panels.end;
            let (tiles, width) = if is_pair { (2, 2 * TILE) } else { (4, TILE) };
            let begin = number * TILE;
            let finish = Finish::new(target, begin..geometry.filters.min(begin + width));
            let groups = bases.chunks(tiles).zip(places.chunks(tiles * TILE));
            for (bases, places) in groups {
                // What is missing is computed once more.
                let base = |tile: usize| bases[tile.min(bases.len() - 1)];
                if is_pair {
                    let panels = [panel(number), panel(number + 1)];
                    ready.square(left, [base(0), base(1)], panels, &mut sums);
                } else {
                    let bases = [base(0), base(1), base(2), base(3)];
                    ready.tall(left, bases, panel(number), &mut sums);
                }
                // SAFETY: each position has its own place, and each position belongs
                // to one task for each panel.
                unsafe { tiler.finish(finish, places, width, &sums) };
            }
            number += if is_pair { 2 } else { 1 };
        }
    }
}
