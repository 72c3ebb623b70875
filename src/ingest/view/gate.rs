//! The quality gate: which pictures are not fit to be seen, and why.
//!
//! Thresholds are those of published pipelines where there is one, and else
//! were set on the phantom and on real pictures; `tests/gate.rs` measures how
//! often they hit and how often they raise a false alarm.

use super::Chroma;
use super::region::{DARK, Part, Shapes};
use super::sketch::{CELL, Cells, Sketch};
use crate::metrics::DropReason;

/// Colour (Doppler, an elastogram's box): a pixel whose Cb or Cr is further than
/// this from grey, and the share of such pixels that is too much.
const COLOURED: u8 = 25;
const COLOUR_SHARE: f32 = 0.005;

/// Freeze: lit samples that differ by at most this are the same, on the mean and
/// each by itself, but for the few that a codec paints anew with a key frame.
const SAME: u8 = 3;
const FREEZE_OTHERS: f32 = 0.02;
/// Once it stands, a key frame that is coded anew does not make it move.
const STANDING_OTHERS: f32 = 0.1;
/// Repeats that are let through: a grabber at 30 frames a second shows each
/// picture of a scanner at 10 three times, which is no freeze.
const REPEATS_ALLOWED: u32 = 2;

/// Dual screen: two parts side by side, the smaller at least this large beside
/// the other, each with this share of all cells.
const DUAL_RATIO: f32 = 0.35;
const DUAL_AREA: f32 = 0.03;
/// Share of the lower one's height in which they stand side by side.
const DUAL_BESIDE: f32 = 0.5;

/// Blank: the grey levels span no more than this, but for a hundredth at each
/// end.
const BLANK_SPAN: u8 = 12;

/// In air: below what is lit, the picture is dark for this many times its depth;
/// and the share of a dark row's cells that may be lit.
const AIR_BELOW: f32 = 1.6;
const AIR_LIT: f32 = 0.03;

/// Scene cut: histograms (32 bins) of two pictures that share less than this.
const CUT_SHARED: f32 = 0.5;

const BINS: usize = 32;

/// What was measured of a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measures {
    /// Share of pixels in colour; nothing for grey pictures.
    pub colour: Option<f32>,
    /// Mean difference to the picture that stood last, in grey levels, and the
    /// share of samples that differ by more than 3.
    pub difference: Option<(f32, f32)>,
    /// Share that the histogram has in common with that of the picture before.
    pub shared_histogram: Option<f32>,
    /// Grey levels from the first to the last hundredth.
    pub span: u8,
    /// Depth of the dark below what is lit, in depths of what is lit.
    pub dark_below: f32,
    /// Size of the second part beside the first, if both stand side by side.
    pub beside: f32,
}

/// What is remembered from picture to picture.
#[derive(Debug)]
pub(super) struct Gate {
    /// The stretches of samples that are judged.
    runs: Vec<std::ops::Range<usize>>,
    samples: usize,
    cells: Cells,
    /// Where the part of the picture ends that may be used at all, in rows of cells.
    end: usize,
    /// The picture that stood last.
    held: Option<Vec<u8>>,
    repeats: u32,
    histogram: Option<[u32; BINS]>,
    measures: Measures,
}

impl Gate {
    /// Judges what lies in `place`.
    pub(super) fn new(sketch: &Sketch, place: &Cells) -> Self {
        let runs = sketch.runs(place);
        Self {
            samples: runs.iter().map(ExactSizeIterator::len).sum(),
            runs,
            cells: place.clone(),
            end: place.bounds().map_or(0, |bounds| bounds.bottom),
            held: None,
            repeats: 0,
            histogram: None,
            measures: Measures::default(),
        }
    }

    /// Judges what lies in `place` from now on.
    pub(super) fn turn_to(&mut self, sketch: &Sketch, place: &Cells) {
        let (measures, end) = (self.measures, self.end);
        *self = Self::new(sketch, place);
        (self.measures, self.end) = (measures, end);
    }

    pub(super) fn measures(&self) -> Measures {
        self.measures
    }

    /// Why the picture is not fit to be seen, if it is not.
    pub(super) fn judge(
        &mut self,
        sketch: &Sketch,
        shapes: &Shapes,
        chroma: Option<Chroma<'_>>,
    ) -> Option<DropReason> {
        let histogram = self.histogram_of(sketch);
        let shared = self.histogram.map(|last| self.shared(&last, &histogram));
        let others_allowed = if self.repeats > REPEATS_ALLOWED {
            STANDING_OTHERS
        } else {
            FREEZE_OTHERS
        };
        let difference = self.held.as_ref().map(|held| self.difference(sketch, held));
        self.measures = Measures {
            colour: chroma.map(|chroma| self.coloured(sketch, &chroma)),
            difference,
            shared_histogram: shared,
            span: self.span(&histogram),
            dark_below: dark_below(shapes, self.end),
            beside: beside(shapes),
        };
        self.histogram = Some(histogram);
        let stands = difference
            .is_some_and(|(mean, others)| mean <= f32::from(SAME) && others <= others_allowed);
        if stands {
            self.repeats += 1;
        } else {
            self.repeats = 0;
            self.held = Some(sketch.pixels.clone());
        }
        let found = &self.measures;
        if found.colour.is_some_and(|share| share > COLOUR_SHARE) {
            Some(DropReason::Colour)
        } else if found.beside >= DUAL_RATIO {
            Some(DropReason::DualScreen)
        } else if found.span <= BLANK_SPAN || shapes.solid.count() == 0 {
            Some(DropReason::Blank)
        } else if found.dark_below >= AIR_BELOW {
            Some(DropReason::InAir)
        } else if shared.is_some_and(|shared| shared < CUT_SHARED) {
            Some(DropReason::SceneCut)
        } else if self.repeats > REPEATS_ALLOWED {
            Some(DropReason::Freeze)
        } else {
            None
        }
    }

    fn histogram_of(&self, sketch: &Sketch) -> [u32; BINS] {
        let mut histogram = [0; BINS];
        for run in &self.runs {
            for &sample in sketch.pixels.get(run.clone()).unwrap_or_default() {
                histogram[usize::from(sample) * BINS / 256] += 1;
            }
        }
        histogram
    }

    fn shared(&self, one: &[u32; BINS], other: &[u32; BINS]) -> f32 {
        let shared: u32 = one.iter().zip(other).map(|(a, b)| a.min(b)).sum();
        shared as f32 / self.samples.max(1) as f32
    }

    /// By the histogram's bins of 8 grey levels.
    fn span(&self, histogram: &[u32; BINS]) -> u8 {
        let hundredth = self.samples as u32 / 100;
        let mut seen = 0;
        let mut at = |share: u32| {
            seen = 0;
            let bin = histogram.iter().position(|count| {
                seen += count;
                seen > share
            });
            bin.unwrap_or(BINS - 1) as u8
        };
        let (low, high) = (
            at(hundredth),
            at((self.samples as u32 - hundredth).saturating_sub(1)),
        );
        (high.saturating_sub(low)) * (256 / BINS) as u8
    }

    /// The mean difference, and the share of samples that are not the same, of
    /// those that are lit in either: what is black stays black when tissue moves.
    fn difference(&self, sketch: &Sketch, held: &[u8]) -> (f32, f32) {
        let (mut sum, mut others, mut lit) = (0_u32, 0_u32, 0_u32);
        for run in &self.runs {
            let now = sketch.pixels.get(run.clone()).unwrap_or_default();
            let then = held.get(run.clone()).unwrap_or_default();
            for (now, then) in now.iter().zip(then) {
                let is_lit = u32::from(*now.max(then) > DARK);
                let difference = now.abs_diff(*then);
                lit += is_lit;
                sum += is_lit * u32::from(difference);
                others += is_lit * u32::from(difference > SAME);
            }
        }
        let lit = lit.max(1) as f32;
        (sum as f32 / lit, others as f32 / lit)
    }

    /// The share of pixels in colour: every second sample in both directions.
    fn coloured(&self, sketch: &Sketch, chroma: &Chroma<'_>) -> f32 {
        let limit = if chroma.is_limited {
            (u16::from(COLOURED) * 224 / 255) as u8
        } else {
            COLOURED
        };
        let (mut coloured, mut all) = (0_u32, 0_u32);
        for (column, row) in self.cells.places() {
            for (dx, dy) in [(0, 0), (2, 0), (0, 2), (2, 2)] {
                let Some((x, y)) = sketch.place(column * CELL + dx, row * CELL + dy) else {
                    continue;
                };
                let is_coloured = chroma.planes.iter().any(|plane| {
                    let at = (y >> plane.down) * plane.stride + (x >> plane.across) * plane.step;
                    plane
                        .data
                        .get(at)
                        .is_some_and(|sample| sample.abs_diff(128) > limit)
                });
                coloured += u32::from(is_coloured);
                all += 1;
            }
        }
        coloured as f32 / all.max(1) as f32
    }
}

/// How deep the dark below the largest part is, in depths of that part: sound
/// that does not enter the body echoes from the probe's own face alone. From row `end`
/// on nothing is looked at, so that it is no dark.
fn dark_below(shapes: &Shapes, end: usize) -> f32 {
    let Some(Part { bounds, area, .. }) = shapes.parts.first() else {
        return 0.0;
    };
    let size = shapes.solid.size;
    let is_wide = bounds.width() as f32 >= 0.2 * size.width as f32;
    // A thin line is no near field; one in the middle of nowhere is neither.
    if !is_wide || bounds.height() < 3 || *area < 3 * bounds.width() {
        return 0.0;
    }
    let dark_rows = (bounds.bottom..end).take_while(|&row| {
        let lit = (bounds.left..bounds.right).filter(|&column| shapes.solid.has(column, row));
        lit.count() as f32 <= AIR_LIT * bounds.width() as f32
    });
    dark_rows.count() as f32 / bounds.height() as f32
}

/// How large the second part is beside the first, where both are large and
/// stand side by side with a dark column between.
fn beside(shapes: &Shapes) -> f32 {
    let [one, other, ..] = shapes.parts.as_slice() else {
        return 0.0;
    };
    let all = shapes.solid.size.area() as f32;
    if (other.area as f32) < DUAL_AREA * all {
        return 0.0;
    }
    let (a, b) = (one.bounds, other.bounds);
    let is_apart = a.right < b.left || b.right < a.left;
    let rows = a.bottom.min(b.bottom).saturating_sub(a.top.max(b.top));
    if !is_apart || (rows as f32) < DUAL_BESIDE * a.height().min(b.height()) as f32 {
        return 0.0;
    }
    other.area as f32 / one.area as f32
}
