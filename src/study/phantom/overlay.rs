//! What a machine burns into its picture: text, depth ticks, a grey bar, a logo.
//!
//! All of it is static but the time, as on a scanner: a pipeline must learn
//! that these pixels are no tissue.

use super::font::glyph;
use super::patient::Patient;
use super::scan::Scan;
use super::sector::Placement;
use crate::study::picture::Picture;

/// Grey level of burned-in text.
const TEXT: u8 = 200;

/// Writes `text` with its upper left corner at (`column`, `row`), each dot of
/// the 5 x 7 glyphs `scale` pixels wide.
pub(crate) fn write(picture: &mut Picture, column: usize, row: usize, scale: usize, text: &str) {
    for (i, character) in text.chars().enumerate() {
        for (x, bits) in glyph(character).into_iter().enumerate() {
            for y in (0..7).filter(|y| bits >> y & 1 == 1) {
                for dot in 0..scale * scale {
                    let across = (6 * i + x) * scale + dot % scale;
                    picture.set(column + across, row + y * scale + dot / scale, TEXT);
                }
            }
        }
    }
}

/// Dots per pixel for a picture `height` rows high.
fn text_scale(height: usize) -> usize {
    (height / 350).max(1)
}

/// The static part: drawn once a recording.
pub(crate) fn annotate(picture: &mut Picture, patient: &Patient, scan: &Scan, place: &Placement) {
    let scale = text_scale(picture.height);
    let (width, line) = (picture.width, 10 * scale);
    let margin = width / 80;
    logo(picture, margin, margin, 4 * scale);
    let id = patient.id();
    write(
        picture,
        margin + 10 * scale,
        margin,
        scale,
        &format!("HEPAFLOW PHANTOM  {id}"),
    );
    let label = "SYNTHETIC";
    write(
        picture,
        width - margin - 6 * scale * label.len(),
        margin,
        scale,
        label,
    );

    // Settings, lower left, as few machines agree where to put them.
    let settings = [
        format!("F {:.1} MHZ", scan.probe.frequency_mhz),
        format!("DR {:.0}", scan.dynamic_range_db),
        format!("G {:.0}", 50.0 + scan.gain_db),
        format!("D {:.1} CM", scan.probe.depth_mm / 10.0),
        format!("FR {}", scan.frames_per_second),
    ];
    let first = picture
        .height
        .saturating_sub(margin + line * settings.len());
    for (i, text) in settings.iter().enumerate() {
        write(picture, margin, first + i * line, scale, text);
    }
    ticks(picture, scan, place, margin);
    grey_bar(picture, margin);
}

/// The time since the recording began; drawn on every frame.
pub(crate) fn clock(picture: &mut Picture, seconds: f32) {
    let scale = text_scale(picture.height);
    let margin = picture.width / 80;
    let text = format!("{seconds:06.2} S");
    let column = picture.width - margin - 6 * scale * text.len();
    write(picture, column, margin + 10 * scale, scale, &text);
}

/// Centimetres down the right edge, every fifth longer.
fn ticks(picture: &mut Picture, scan: &Scan, place: &Placement, margin: usize) {
    for cm in 0..=(scan.probe.depth_mm / 10.0) as usize {
        let row = place.face_row + cm as f32 * 10.0 / place.mm_per_pixel;
        let length = if cm % 5 == 0 { 10 } else { 5 };
        for x in 0..length {
            picture.set(picture.width - margin - x, row as usize, TEXT);
        }
    }
}

/// The map of grey levels, top left below the logo.
fn grey_bar(picture: &mut Picture, margin: usize) {
    let (top, rows) = (picture.height / 6, picture.height / 4);
    for y in 0..rows {
        let level = 255 - (255 * y / rows) as u8;
        for x in 0..picture.width / 100 {
            picture.set(margin + x, top + y, level);
        }
    }
}

/// A filled disc with a notch: enough to be mistaken for tissue.
fn logo(picture: &mut Picture, column: usize, row: usize, radius: usize) {
    for y in 0..2 * radius {
        for x in 0..2 * radius {
            let (dx, dy) = (x.abs_diff(radius), y.abs_diff(radius));
            if dx * dx + dy * dy < radius * radius && !(x > radius && dy < radius / 3) {
                picture.set(column + x, row + y, 150);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_legible_dot_by_dot() {
        let mut picture = Picture::grey(14, 9);
        write(&mut picture, 1, 1, 1, "L1");
        let rows: Vec<String> = picture
            .pixels
            .chunks(14)
            .map(|row| row.iter().map(|&p| if p > 0 { '#' } else { '.' }).collect())
            .collect();
        let expected = [
            "..............",
            ".#.......#....",
            ".#......##....",
            ".#.......#....",
            ".#.......#....",
            ".#.......#....",
            ".#.......#....",
            ".#####..###...",
            "..............",
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn text_beyond_the_edge_is_cut_off() {
        let mut picture = Picture::grey(4, 4);
        write(&mut picture, 2, 2, 2, "HEPAFLOW");
        assert!(picture.pixels[..8].iter().all(|&p| p == 0));
    }
}
