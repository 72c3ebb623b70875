//! What the model sees: which part of a picture, and which pictures at all.
//!
//! Scanners write names, rulers and settings around the tissue, freeze, show
//! two pictures side by side, lay colour over the tissue, and are put down with
//! the probe in the air. None of that may be taken for a liver. A [`View`]
//! follows one stream: it finds the sector where neither the operator nor a
//! DICOM region says where to look, blackens what lies outside it, and names a
//! reason for every picture that is not fit to be seen. It keeps nothing but
//! small copies and works on the reader's thread. Called by the reader, once a
//! frame.

mod gate;
mod region;
mod sketch;

use serde::{Deserialize, Serialize};

use super::preprocess::Luma;
use crate::domain::{Crop, FrameSize};
use crate::metrics::DropReason;
use gate::Gate;
pub use gate::Measures;
use region::Shapes;
use sketch::{Bounds, Cells, Sketch};

/// Pictures from one look for a sector that has moved to the next, and how
/// often in a row it must be found elsewhere.
const LOOKS_EVERY: u32 = 16;
const MOVED_FOR: u32 = 2;
/// A sector that overlaps less than this with the one in use is another.
const SAME_PLACE: f32 = 0.7;

/// How much a stream's pictures are examined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Find the sector in the picture, where the request has no crop: within
    /// the DICOM region, or else anywhere. What lies outside it becomes black.
    pub find: bool,
    /// Leave out pictures that are not fit to be seen, each with its reason.
    pub gate: bool,
}

impl Look {
    /// Every picture, as it is.
    pub const PLAIN: Self = Self {
        find: false,
        gate: false,
    };
}

impl Default for Look {
    fn default() -> Self {
        Self {
            find: true,
            gate: true,
        }
    }
}

/// The colour planes of a picture, borrowed from the decoder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chroma<'a> {
    /// Cb and Cr.
    pub(super) planes: [Plane<'a>; 2],
    /// Black is 16, and so colours span less.
    pub(super) is_limited: bool,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plane<'a> {
    pub(super) data: &'a [u8],
    /// Bytes from row to row, and from sample to sample.
    pub(super) stride: usize,
    pub(super) step: usize,
    /// Powers of two by which it is smaller than the picture.
    pub(super) across: u32,
    pub(super) down: u32,
}

/// What was seen of one picture, for people to look at.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its index in the stream.
    pub index: u64,
    /// Why it was left out, if it was.
    pub reason: Option<DropReason>,
    /// What was measured.
    pub measures: Measures,
    /// A small copy: `[height, width]` of grey levels.
    pub sketch: Vec<u8>,
    /// Its size.
    pub size: FrameSize,
    /// Which of its samples the model sees, `[height, width]`.
    pub visible: Vec<bool>,
    /// The part of the full picture that is used.
    pub crop: Crop,
}

/// The decision on one picture.
pub(super) struct Sight {
    /// Why it is left out.
    pub(super) reason: Option<DropReason>,
    /// The crop is another than before: it is not adjacent to the last one.
    pub(super) is_cut: bool,
}

/// Follows the pictures of one stream.
pub(super) struct View {
    look: Look,
    /// The header's region is kept as the crop, whatever is found in it.
    keeps_named: bool,
    finds: bool,
    /// The operator says where to look.
    is_operators: bool,
    sketch: Sketch,
    /// The cells of what the operator or the header names, or all.
    place: Cells,
    sector: Option<Sector>,
    crop: Crop,
    gate: Gate,
    since_look: u32,
    elsewhere: u32,
    /// Something else was shown meanwhile: where the sector is now, is open.
    is_lost: bool,
    /// The header says that two pictures stand side by side.
    is_dual_screen: bool,
}

/// A sector that was found.
struct Sector {
    cells: Cells,
    bounds: Bounds,
    /// 255 inside and 0 outside, `[crop.height, crop.width]`.
    mask: Vec<u8>,
}

impl View {
    /// For pictures of this size. `operator` and `region` lie within it; where
    /// both are given, the operator's wins and is taken as it is.
    pub(super) fn new(
        look: Look,
        operator: Option<Crop>,
        region: Option<Crop>,
        picture: FrameSize,
    ) -> Self {
        let whole = Crop {
            x: 0,
            y: 0,
            width: picture.width as u32,
            height: picture.height as u32,
        };
        let named = operator.or(region).unwrap_or(whole);
        let sketch = Sketch::new(picture);
        let place = sketch.cells_of(named);
        Self {
            look,
            keeps_named: region.is_some(),
            finds: look.find && operator.is_none(),
            is_operators: operator.is_some(),
            gate: Gate::new(&sketch, &place),
            sketch,
            place,
            sector: None,
            crop: named,
            since_look: 0,
            elsewhere: 0,
            is_lost: false,
            is_dual_screen: false,
        }
    }

    /// The same, of pictures whose header marks two that stand side by side.
    /// Where the operator says which to look at, that is no harm.
    pub(super) fn of_dual_screen(mut self) -> Self {
        self.is_dual_screen = !self.is_operators;
        self
    }

    /// The part of the picture that is used.
    pub(super) fn crop(&self) -> Crop {
        self.crop
    }

    /// Which of its pixels are tissue: 255, or 0 where they are not,
    /// `[crop.height, crop.width]`. All are, without a mask.
    pub(super) fn mask(&self) -> Option<&[u8]> {
        self.sector.as_ref().map(|sector| sector.mask.as_slice())
    }

    /// Finds the sector in a stream's first picture, if it shows one.
    pub(super) fn aim(&mut self, luma: Luma<'_>) {
        if self.finds && self.sketch.draw(luma).is_some() {
            let shapes = Shapes::find(&self.sketch, &self.place);
            if let Some(cells) = shapes.sector() {
                self.turn_to(cells);
            }
        }
    }

    /// Judges the next picture; `None` if it is not what it claims to be.
    pub(super) fn look(&mut self, luma: Luma<'_>, chroma: Option<Chroma<'_>>) -> Option<Sight> {
        if !self.finds && !self.look.gate {
            return Some(Sight {
                reason: None,
                is_cut: false,
            });
        }
        self.sketch.draw(luma)?;
        let shapes = Shapes::find(&self.sketch, &self.place);
        let mut reason = None;
        if self.look.gate {
            reason = self.gate.judge(&self.sketch, &shapes, chroma);
            if self.is_dual_screen {
                reason = Some(DropReason::DualScreen);
            }
        }
        let mut is_cut = false;
        if self.finds {
            let hides_the_sector = matches!(
                reason,
                Some(DropReason::DualScreen | DropReason::Blank | DropReason::InAir)
            );
            self.is_lost |= hides_the_sector || reason == Some(DropReason::SceneCut);
            if !hides_the_sector {
                is_cut = self.follow(&shapes);
            }
        }
        Some(Sight { reason, is_cut })
    }

    /// Looks now and then whether the sector is where it was; true if the crop
    /// is another now.
    fn follow(&mut self, shapes: &Shapes) -> bool {
        self.since_look += 1;
        let is_due = self.sector.is_none() || self.is_lost || self.elsewhere > 0;
        if !is_due && self.since_look < LOOKS_EVERY {
            return false;
        }
        self.since_look = 0;
        let Some(cells) = shapes.sector() else {
            return false;
        };
        let is_where_it_was = match (&self.sector, cells.bounds()) {
            (Some(sector), Some(bounds)) => sector.bounds.overlap(bounds) >= SAME_PLACE,
            _ => false,
        };
        if is_where_it_was {
            self.is_lost = false;
            self.elsewhere = 0;
            return false;
        }
        self.elsewhere += 1;
        if self.sector.is_some() && !self.is_lost && self.elsewhere < MOVED_FOR {
            return false;
        }
        self.is_lost = false;
        self.elsewhere = 0;
        self.turn_to(cells);
        true
    }

    fn turn_to(&mut self, cells: Cells) {
        let Some(bounds) = cells.bounds() else { return };
        if !self.keeps_named {
            self.crop = self.sketch.crop_of(bounds);
        }
        let (x, y) = (self.crop.x as usize, self.crop.y as usize);
        let (width, height) = (self.crop.width as usize, self.crop.height as usize);
        let mut mask = Vec::with_capacity(width * height);
        for row in y..y + height {
            mask.extend((x..x + width).map(|column| {
                let (column, row) = self.sketch.cell_at(column, row);
                if cells.has(column, row) { 255 } else { 0 }
            }));
        }
        self.gate.turn_to(&self.sketch, &cells);
        self.sector = Some(Sector {
            cells,
            bounds,
            mask,
        });
    }

    /// What was seen of the picture that was looked at last.
    pub(super) fn seen(&self, index: u64, reason: Option<DropReason>) -> Seen {
        let size = self.sketch.size;
        let cells = self.sector.as_ref().map_or(&self.place, |s| &s.cells);
        let within = self.sketch.cells_of(self.crop);
        let visible = (0..size.area()).map(|at| {
            let (column, row) = (
                at % size.width / sketch::CELL,
                at / size.width / sketch::CELL,
            );
            cells.has(column, row) && within.has(column, row)
        });
        Seen {
            index,
            reason,
            measures: self.gate.measures(),
            visible: visible.collect(),
            sketch: self.sketch.pixels.clone(),
            size,
            crop: self.crop,
        }
    }
}
