//! A small copy of a picture, on which everything is measured.
//!
//! At most 320 samples wide, taken at even steps without filtering, so that
//! speckle stays speckle and the cost is the same for every size of picture.
//! Samples come in cells of 4 x 4, about an eightieth of the picture's width:
//! smaller than anything that has to be found, larger than a letter's stroke.

use crate::domain::{Crop, FrameSize};
use crate::ingest::preprocess::{Luma, Range, expand};

/// Samples across and down a cell.
pub(super) const CELL: usize = 4;

/// Samples across the widest sketch.
const WIDEST: usize = 320;

/// The samples of one picture, full range: `[height, width]`.
#[derive(Debug)]
pub(super) struct Sketch {
    pub(super) size: FrameSize,
    pub(super) pixels: Vec<u8>,
    picture: FrameSize,
    /// Column of the picture that each column of samples is taken from.
    columns: Vec<usize>,
    rows: Vec<usize>,
}

impl Sketch {
    /// For pictures of this size; black until drawn.
    pub(super) fn new(picture: FrameSize) -> Self {
        let width = picture.width.clamp(1, WIDEST);
        let height = if width < picture.width {
            (picture.height * width / picture.width).max(1)
        } else {
            picture.height
        };
        let middles = |samples: usize, pixels: usize| {
            (0..samples)
                .map(|at| (2 * at + 1) * pixels / (2 * samples))
                .collect()
        };
        Self {
            size: FrameSize { height, width },
            pixels: vec![0; height * width],
            picture,
            columns: middles(width, picture.width),
            rows: middles(height, picture.height),
        }
    }

    /// Takes the samples of `luma`; `None` if it is not what it claims to be.
    pub(super) fn draw(&mut self, luma: Luma<'_>) -> Option<()> {
        if luma.size != self.picture {
            return None;
        }
        let rows = self.pixels.chunks_exact_mut(self.size.width);
        for (to, &row) in rows.zip(&self.rows) {
            let start = row * luma.stride;
            let from = luma.data.get(start..start + self.picture.width)?;
            for (to, &column) in to.iter_mut().zip(&self.columns) {
                *to = *from.get(column)?;
            }
            if luma.range == Range::Limited {
                for sample in to.iter_mut() {
                    *sample = expand(*sample);
                }
            }
        }
        Some(())
    }

    /// The place in the picture of the sample at (`column`, `row`).
    pub(super) fn place(&self, column: usize, row: usize) -> Option<(usize, usize)> {
        Some((*self.columns.get(column)?, *self.rows.get(row)?))
    }

    /// Cells across and down; what is left at the right and below is no cell's.
    pub(super) fn cells(&self) -> FrameSize {
        FrameSize {
            height: self.size.height / CELL,
            width: self.size.width / CELL,
        }
    }

    /// The cells that lie within `crop` by their middle.
    pub(super) fn cells_of(&self, crop: Crop) -> Cells {
        let mut cells = Cells::none(self.cells());
        for row in 0..cells.size.height {
            for column in 0..cells.size.width {
                let middle = self.place(column * CELL + CELL / 2, row * CELL + CELL / 2);
                let is_within = middle.is_some_and(|(x, y)| {
                    let (x, y) = (x as u32, y as u32);
                    (crop.x..crop.x + crop.width).contains(&x)
                        && (crop.y..crop.y + crop.height).contains(&y)
                });
                cells.set(column, row, is_within);
            }
        }
        cells
    }

    /// The rectangle of the picture that the cells of `bounds` cover; those at
    /// the right and lower end reach to the picture's edge.
    pub(super) fn crop_of(&self, bounds: Bounds) -> Crop {
        let cells = self.cells();
        let edge = |cell: usize, cells: usize, samples: usize, pixels: usize| {
            if cell >= cells {
                pixels
            } else {
                cell * CELL * pixels / samples
            }
        };
        let across = |cell| edge(cell, cells.width, self.size.width, self.picture.width);
        let down = |cell| edge(cell, cells.height, self.size.height, self.picture.height);
        let (left, right) = (across(bounds.left), across(bounds.right));
        let (top, bottom) = (down(bounds.top), down(bounds.bottom));
        Crop {
            x: left as u32,
            y: top as u32,
            width: (right - left) as u32,
            height: (bottom - top) as u32,
        }
    }

    /// The cell of the picture's pixel at (`x`, `y`); the last one for what is
    /// no cell's.
    pub(super) fn cell_at(&self, x: usize, y: usize) -> (usize, usize) {
        let cells = self.cells();
        let column = x * self.size.width / self.picture.width / CELL;
        let row = y * self.size.height / self.picture.height / CELL;
        (
            column.min(cells.width.saturating_sub(1)),
            row.min(cells.height.saturating_sub(1)),
        )
    }

    /// The stretches of samples that `cells` cover, row by row.
    pub(super) fn runs(&self, cells: &Cells) -> Vec<std::ops::Range<usize>> {
        let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
        for row in 0..cells.size.height * CELL {
            let start = row * self.size.width;
            for column in 0..cells.size.width {
                if !cells.has(column, row / CELL) {
                    continue;
                }
                let from = start + column * CELL;
                match runs.last_mut() {
                    Some(last) if last.end == from => last.end = from + CELL,
                    _ => runs.push(from..from + CELL),
                }
            }
        }
        runs
    }
}

/// A rectangle of cells; `right` and `bottom` are not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) left: usize,
    pub(super) top: usize,
    pub(super) right: usize,
    pub(super) bottom: usize,
}

impl Bounds {
    pub(super) fn width(self) -> usize {
        self.right - self.left
    }

    pub(super) fn height(self) -> usize {
        self.bottom - self.top
    }

    /// Intersection over union, 0 to 1.
    pub(super) fn overlap(self, other: Self) -> f32 {
        let side = |from: usize, to: usize| to.saturating_sub(from);
        let shared = side(self.left.max(other.left), self.right.min(other.right))
            * side(self.top.max(other.top), self.bottom.min(other.bottom));
        let all = self.width() * self.height() + other.width() * other.height() - shared;
        shared as f32 / all.max(1) as f32
    }
}

/// A set of cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cells {
    pub(super) size: FrameSize,
    members: Vec<bool>,
}

impl Cells {
    pub(super) fn none(size: FrameSize) -> Self {
        Self {
            size,
            members: vec![false; size.area()],
        }
    }

    /// False for places that are not there.
    pub(super) fn has(&self, column: usize, row: usize) -> bool {
        column < self.size.width && self.members.get(row * self.size.width + column) == Some(&true)
    }

    pub(super) fn set(&mut self, column: usize, row: usize, member: bool) {
        if column < self.size.width
            && let Some(cell) = self.members.get_mut(row * self.size.width + column)
        {
            *cell = member;
        }
    }

    pub(super) fn count(&self) -> usize {
        self.members.iter().filter(|&&member| member).count()
    }

    /// Every member's place.
    pub(super) fn places(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let width = self.size.width.max(1);
        let members = self.members.iter().enumerate();
        members.filter_map(move |(at, &member)| member.then_some((at % width, at / width)))
    }

    /// The smallest rectangle around them.
    pub(super) fn bounds(&self) -> Option<Bounds> {
        self.places().fold(None, |bounds: Option<Bounds>, (x, y)| {
            let own = Bounds {
                left: x,
                top: y,
                right: x + 1,
                bottom: y + 1,
            };
            Some(bounds.map_or(own, |bounds| Bounds {
                left: bounds.left.min(x),
                top: bounds.top.min(y),
                right: bounds.right.max(x + 1),
                bottom: bounds.bottom.max(y + 1),
            }))
        })
    }

    /// Those with all (`0`) or any (`1`) of their 3 x 3 neighbourhood: erosion
    /// and dilation. Beyond the edge is like the edge.
    fn neighbours(&self, all: bool) -> Self {
        let FrameSize { height, width } = self.size;
        let mut across = Self::none(self.size);
        let mut down = Self::none(self.size);
        let fold = |a: bool, b: bool, c: bool| if all { a && b && c } else { a || b || c };
        for y in 0..height {
            for x in 0..width {
                let (before, after) = (x.saturating_sub(1), (x + 1).min(width - 1));
                let member = fold(self.has(before, y), self.has(x, y), self.has(after, y));
                across.set(x, y, member);
            }
        }
        for y in 0..height {
            let (before, after) = (y.saturating_sub(1), (y + 1).min(height - 1));
            for x in 0..width {
                let member = fold(
                    across.has(x, before),
                    across.has(x, y),
                    across.has(x, after),
                );
                down.set(x, y, member);
            }
        }
        down
    }

    pub(super) fn eroded(&self) -> Self {
        self.neighbours(true)
    }

    pub(super) fn dilated(&self) -> Self {
        self.neighbours(false)
    }
}
