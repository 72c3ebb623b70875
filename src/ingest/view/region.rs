//! Where the tissue is in a picture: the sector, without what is written
//! around it.
//!
//! Tissue is speckle: cells most of whose samples are lit and differ. Letters,
//! ticks and bars are thinner than three cells and vanish when the cells are
//! opened (eroded, then dilated); menus are flat. What remains are connected
//! parts; the largest, and others that are tall beside it, are the tissue.

use super::sketch::{Bounds, CELL, Cells, Sketch};

/// A sample above this is lit: above black, the noise of a codec and the ringing
/// around letters.
pub(super) const DARK: u8 = 6;
/// A cell is lit with this many of its 16 samples: letters cover a third.
const LIT: usize = 7;
/// A cell with a sample as bright as this beside several that are black is a
/// letter, a tick or an edge: speckle is not that uneven within a cell.
const LETTER: u8 = 140;
const LETTER_LIT: usize = 13;
/// Grey levels that the samples of speckle differ by at least.
const SPECKLE: u8 = 3;
/// The smallest sector: its share of all cells, and of the picture's sides.
const LEAST_AREA: f32 = 0.03;
const LEAST_WIDTH: f32 = 0.15;
const LEAST_HEIGHT: f32 = 0.12;
/// A part that is at least this large beside the largest belongs to it.
const MINOR_PART: f32 = 0.05;

/// A connected part.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) cells: Cells,
    pub(super) area: usize,
    pub(super) bounds: Bounds,
}

/// What is lit in a picture.
#[derive(Debug)]
pub(super) struct Shapes {
    /// All lit cells, letters among them.
    lit: Cells,
    /// Lit cells that form something at least three cells thick, flat or not.
    pub(super) solid: Cells,
    /// The parts of speckle, the largest first.
    pub(super) parts: Vec<Part>,
}

impl Shapes {
    /// Looks within `place`.
    pub(super) fn find(sketch: &Sketch, place: &Cells) -> Self {
        let size = sketch.cells();
        let mut bright = Cells::none(size);
        let mut lit = Cells::none(size);
        for (column, row) in place.places() {
            let (mut count, mut low, mut high) = (0, u8::MAX, 0);
            for y in row * CELL..(row + 1) * CELL {
                let start = y * sketch.size.width + column * CELL;
                for &sample in sketch.pixels.get(start..start + CELL).unwrap_or_default() {
                    count += usize::from(sample > DARK);
                    low = low.min(sample);
                    high = high.max(sample);
                }
            }
            bright.set(column, row, count >= LIT);
            let is_letter = high >= LETTER && count <= LETTER_LIT;
            let is_speckle = high.saturating_sub(low) >= SPECKLE && !is_letter;
            lit.set(column, row, count >= LIT && is_speckle);
        }
        let opened = lit.eroded().dilated();
        let mut parts = parts(&opened);
        parts.sort_by_key(|part| std::cmp::Reverse(part.area));
        Self {
            lit,
            solid: bright.eroded().dilated(),
            parts,
        }
    }

    /// The cells of the sector, filled and a cell wider on every side, so that
    /// the near field stays whole; `None` if nothing looks like one.
    pub(super) fn sector(&self) -> Option<Cells> {
        let main = self.parts.first()?;
        let size = self.lit.size;
        let share = |part: usize, whole: usize| part as f32 / whole.max(1) as f32;
        if share(main.area, size.area()) < LEAST_AREA
            || share(main.bounds.width(), size.width) < LEAST_WIDTH
            || share(main.bounds.height(), size.height) < LEAST_HEIGHT
        {
            return None;
        }
        let mut cells = Cells::none(size);
        let belongs = |part: &&Part| {
            part.area as f32 >= MINOR_PART * main.area as f32
                && share(part.bounds.height(), size.height) >= LEAST_HEIGHT
        };
        for part in self.parts.iter().filter(belongs) {
            part.cells.places().for_each(|(x, y)| cells.set(x, y, true));
        }
        // What opening took from the sector's own rim.
        for _ in 0..2 {
            let wider = cells.dilated();
            for (x, y) in wider.places() {
                if self.lit.has(x, y) {
                    cells.set(x, y, true);
                }
            }
        }
        Some(filled(&cells).dilated())
    }
}

/// The connected parts of `cells`, by their sides.
fn parts(cells: &Cells) -> Vec<Part> {
    let mut left = cells.clone();
    let mut found = Vec::new();
    for place in cells.places() {
        if !left.has(place.0, place.1) {
            continue;
        }
        let mut part = Cells::none(cells.size);
        let mut waiting = vec![place];
        let mut area = 0;
        while let Some((x, y)) = waiting.pop() {
            if !left.has(x, y) {
                continue;
            }
            left.set(x, y, false);
            part.set(x, y, true);
            area += 1;
            waiting.extend([(x + 1, y), (x, y + 1)]);
            waiting.extend(x.checked_sub(1).map(|x| (x, y)));
            waiting.extend(y.checked_sub(1).map(|y| (x, y)));
        }
        if let Some(bounds) = part.bounds() {
            found.push(Part {
                cells: part,
                area,
                bounds,
            });
        }
    }
    found
}

/// A sector's shape: convex but for its top, which the probe's face bends inwards
/// between two horns. Vessels, shadows and dim flanks are filled.
fn filled(cells: &Cells) -> Cells {
    let height = cells.size.height;
    // First and last member of every row, and the topmost of every column.
    let mut spans: Vec<Option<(f32, f32)>> = vec![None; height];
    let mut tops = vec![height; cells.size.width];
    for (x, y) in cells.places() {
        let at = x as f32;
        let span = spans[y].get_or_insert((at, at));
        *span = (span.0.min(at), span.1.max(at));
        tops[x] = tops[x].min(y);
    }
    let rows: Vec<_> = (0..height)
        .filter_map(|row| spans[row].map(|span| (row, span)))
        .collect();
    let mut hull = spans.clone();
    for (i, &(above, first)) in rows.iter().enumerate() {
        for &(below, second) in &rows[i + 1..] {
            for (row, span) in hull.iter_mut().enumerate().take(below).skip(above + 1) {
                let share = (row - above) as f32 / (below - above) as f32;
                let left = first.0 + share * (second.0 - first.0);
                let right = first.1 + share * (second.1 - first.1);
                let span = span.get_or_insert((left, right));
                *span = (span.0.min(left), span.1.max(right));
            }
        }
    }
    // The horns reach into the topmost eighth; what lies between them and above
    // the face is not tissue.
    let first = rows.first().map_or(0, |(row, _)| *row);
    let last = rows.last().map_or(0, |(row, _)| *row);
    let horns = rows
        .iter()
        .take_while(|(row, _)| *row <= first + (last - first) / 8 + 1);
    let (left_horn, right_horn) = horns.fold((f32::MAX, 0.0_f32), |horns, (_, span)| {
        (horns.0.min(span.0), horns.1.max(span.1))
    });
    let mut whole = Cells::none(cells.size);
    for (row, span) in hull.into_iter().enumerate() {
        let Some((left, right)) = span else { continue };
        for column in left.ceil() as usize..=right.floor() as usize {
            let is_face = (left_horn..=right_horn).contains(&(column as f32));
            if !is_face || tops.get(column).is_some_and(|&top| row >= top) {
                whole.set(column, row, true);
            }
        }
    }
    whole
}
