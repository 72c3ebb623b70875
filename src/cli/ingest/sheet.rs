//! The contact sheet of a preview.

use crate::ingest::Seen;
use crate::study::phantom::glyph;
use crate::study::{Picture, Pixels};

/// Pictures side by side.
const ACROSS: usize = 4;
/// Pixels between them, and rows for the text below each.
const MARGIN: usize = 6;
const CAPTION: usize = 22;

const FRAME: [u8; 3] = [250, 210, 60];
const USED: [u8; 3] = [120, 220, 120];
const LEFT_OUT: [u8; 3] = [255, 110, 100];

/// Draws `shown` in rows, each with its decision.
pub(super) fn draw(shown: &[&Seen]) -> Picture {
    let widest = shown.iter().map(|seen| seen.size.width).max().unwrap_or(1);
    let highest = shown.iter().map(|seen| seen.size.height).max().unwrap_or(1);
    let cell = [widest + MARGIN, highest + MARGIN + CAPTION];
    let rows = shown.len().div_ceil(ACROSS).max(1);
    let mut sheet = Sheet(Picture {
        width: MARGIN + ACROSS * cell[0],
        height: MARGIN + rows * cell[1],
        format: Pixels::Rgb,
        pixels: Vec::new(),
    });
    sheet.0.pixels = vec![40; 3 * sheet.0.width * sheet.0.height];
    for (number, seen) in shown.iter().enumerate() {
        let x = MARGIN + number % ACROSS * cell[0];
        let y = MARGIN + number / ACROSS * cell[1];
        sheet.tile(seen, x, y);
    }
    sheet.0
}

struct Sheet(Picture);

impl Sheet {
    fn set(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        let at = 3 * (y * self.0.width + x);
        if x < self.0.width
            && let Some(pixel) = self.0.pixels.get_mut(at..at + 3)
        {
            pixel.copy_from_slice(&colour);
        }
    }

    fn tile(&mut self, seen: &Seen, left: usize, top: usize) {
        let (width, height) = (seen.size.width, seen.size.height);
        let samples = seen.sketch.iter().zip(&seen.visible).enumerate();
        for (at, (&grey, &is_visible)) in samples {
            let colour = if is_visible {
                [grey; 3]
            } else {
                [grey / 3, grey / 3, grey / 2 + 50]
            };
            self.set(left + at % width, top + at / width, colour);
        }
        // The smallest rectangle around what is visible.
        let places = || {
            let visible = seen.visible.iter().enumerate();
            visible.filter_map(|(at, &is)| is.then_some((at % width, at / width)))
        };
        let columns = [
            places().map(|p| p.0).min().unwrap_or(0),
            places().map(|p| p.0).max().unwrap_or(0),
        ];
        let rows = [
            places().map(|p| p.1).min().unwrap_or(0),
            places().map(|p| p.1).max().unwrap_or(0),
        ];
        for x in columns[0]..=columns[1] {
            for y in rows {
                self.set(left + x, top + y, FRAME);
            }
        }
        for y in rows[0]..=rows[1] {
            for x in columns {
                self.set(left + x, top + y, FRAME);
            }
        }
        let (decision, colour) = match seen.reason {
            None => ("used", USED),
            Some(reason) => (reason.as_str(), LEFT_OUT),
        };
        let text = format!("{} {}", seen.index, decision.replace('_', " "));
        self.write(&text.to_uppercase(), left, top + height + 3, colour);
    }

    fn write(&mut self, text: &str, left: usize, top: usize, colour: [u8; 3]) {
        const SCALE: usize = 2;
        for (number, character) in text.chars().enumerate() {
            for (column, bits) in glyph(character).into_iter().enumerate() {
                for row in (0..7).filter(|row| bits >> row & 1 == 1) {
                    for dot in 0..SCALE * SCALE {
                        let x = (6 * number + column) * SCALE + dot % SCALE;
                        self.set(left + x, top + row * SCALE + dot / SCALE, colour);
                    }
                }
            }
        }
    }
}
