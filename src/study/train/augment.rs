//! One clip out of a film, as it is or changed as a scanner might have.
//!
//! What a scanner may do: point the other way (flip), amplify more or less
//! (gain, offset), be held a little askew (rotation) or pressed more or less
//! (shift), begin elsewhere and lose a frame (temporal jitter). What it may not:
//! turn the picture over, stretch it, change its scale in millimetres, or play it
//! backwards. One clip is changed as a whole, so that nothing flickers from frame to
//! frame.

use std::fmt;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::film::Film;
use crate::model::InputSpec;

/// How far clips are changed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Augmentation {
    /// Probability that left and right change places.
    pub flip: f64,
    /// Grey levels are multiplied by 1 within this share.
    pub gain: f32,
    /// At most so much of white is added or taken away.
    pub offset: f32,
    /// Moved up or down by at most this share of the rows; the edge is repeated.
    pub shift: f32,
    /// Turned by at most so many degrees, either way.
    pub rotation: f32,
    /// Probability that one frame of the clip is lost.
    pub lost_frame: f64,
}

impl Augmentation {
    /// Nothing is changed but where the clip begins.
    pub const NONE: Self = Self {
        flip: 0.0,
        gain: 0.0,
        offset: 0.0,
        shift: 0.0,
        rotation: 0.0,
        lost_frame: 0.0,
    };
}

impl Default for Augmentation {
    fn default() -> Self {
        Self {
            flip: 0.5,
            gain: 0.3,
            offset: 0.08,
            shift: 0.15,
            rotation: 4.0,
            lost_frame: 0.25,
        }
    }
}

impl fmt::Display for Augmentation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "flip {}, gain {}, offset {}, shift {}, rotation {} degrees, lost frame {}",
            self.flip, self.gain, self.offset, self.shift, self.rotation, self.lost_frame
        )
    }
}

/// What is done to one clip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Change {
    /// The first frame.
    start: usize,
    /// The place in the clip before which a frame is lost; none at 0.
    lost: usize,
    flip: bool,
    gain: f32,
    /// Share of white.
    offset: f32,
    /// Share of the rows, downwards.
    shift: f32,
    /// Radians.
    angle: f32,
}

impl Change {
    /// The clip that begins at `start`, as it is.
    pub(super) const fn none(start: usize) -> Self {
        Self {
            start,
            lost: 0,
            flip: false,
            gain: 1.0,
            offset: 0.0,
            shift: 0.0,
            angle: 0.0,
        }
    }

    /// Draws a clip of `length` frames out of `film`; None if it has none so long.
    pub(super) fn draw(
        film: &Film,
        length: usize,
        how: &Augmentation,
        rng: &mut ChaCha8Rng,
    ) -> Option<Self> {
        let starts = film.starts(length);
        if starts.is_empty() {
            return None;
        }
        // Every draw is made, whatever it is needed for, so that one setting does
        // not change what another draws.
        let start = starts[rng.random_range(0..starts.len())];
        let lose = rng.random_bool(how.lost_frame);
        let place = rng.random_range(1..=length.max(2) - 1);
        let room = film.starts(length + 1).binary_search(&start).is_ok();
        let flip = rng.random_bool(how.flip);
        let gain = 1.0 + how.gain * rng.random_range(-1.0..=1.0_f32);
        let angle = how.rotation * rng.random_range(-1.0..=1.0_f32);
        let offset = how.offset * rng.random_range(-1.0..=1.0_f32);
        let shift = how.shift * rng.random_range(-1.0..=1.0_f32);
        Some(Self {
            start,
            lost: if lose && room && length > 1 { place } else { 0 },
            flip,
            gain,
            offset,
            shift,
            angle: angle.to_radians(),
        })
    }

    /// Appends the clip, `[T, C, H, W]`, normalised.
    pub(super) fn append(&self, film: &Film, input: &InputSpec, clips: &mut Vec<f32>) {
        let (height, width) = (input.height, input.width);
        let mut painter = Painter::new(self, height, width);
        let mut picture = vec![0.0; height * width];
        for place in 0..input.frames {
            let skipped = usize::from(self.lost > 0 && place >= self.lost);
            painter.paint(film.frame(self.start + place + skipped), &mut picture);
            for (mean, std) in input.mean.iter().zip(&input.std) {
                clips.extend(picture.iter().map(|grey| (grey - mean) / std));
            }
        }
    }
}

/// Paints the frames of a clip, all of them changed in the same way.
struct Painter {
    /// Of white, for a grey level.
    gain: f32,
    offset: f32,
    width: usize,
    /// Where each pixel comes from.
    origins: Vec<Origin>,
    /// The frame with two black pixels around it, so that a pixel may come from
    /// beyond.
    framed: Vec<f32>,
}

/// The pixel at the upper left of a place in the framed picture, and how far the place
/// is to the right and below.
#[derive(Clone, Copy)]
struct Origin {
    corner: usize,
    right: f32,
    down: f32,
}

/// Black pixels at each edge.
const EDGE: usize = 2;

impl Painter {
    fn new(change: &Change, height: usize, width: usize) -> Self {
        let down = (change.shift * height as f32).round() as isize;
        let (sin, cos) = change.angle.sin_cos();
        let middle = ((height - 1) as f32 / 2.0, (width - 1) as f32 / 2.0);
        let row_length = width + 2 * EDGE;
        let place = |at: f32, length: usize| {
            // Further out it is as black as here.
            let at = at.clamp(-1.0, length as f32);
            let first = at.floor();
            ((first + EDGE as f32) as usize, at - first)
        };
        let origin = |row: usize, column: usize| {
            let row = row.saturating_add_signed(-down).min(height - 1);
            let column = if change.flip {
                width - 1 - column
            } else {
                column
            };
            let (y, x) = (row as f32, column as f32);
            let (y, x) = if change.angle == 0.0 {
                (y, x)
            } else {
                let (y, x) = (y - middle.0, x - middle.1);
                (middle.0 + cos * y - sin * x, middle.1 + sin * y + cos * x)
            };
            let ((row, down), (column, right)) = (place(y, height), place(x, width));
            Origin {
                corner: row * row_length + column,
                right,
                down,
            }
        };
        let rows = (0..height).flat_map(|row| (0..width).map(move |column| (row, column)));
        Self {
            gain: change.gain / 255.0,
            offset: change.offset,
            width,
            origins: rows.map(|(row, column)| origin(row, column)).collect(),
            framed: vec![0.0; (height + 2 * EDGE) * row_length],
        }
    }

    /// The frame as shares of white.
    fn paint(&mut self, frame: &[u8], picture: &mut [f32]) {
        let length = self.width + 2 * EDGE;
        let rows = self.framed.chunks_exact_mut(length).skip(EDGE);
        for (row, stored) in rows.zip(frame.chunks_exact(self.width)) {
            for (pixel, grey) in row[EDGE..].iter_mut().zip(stored) {
                *pixel = f32::from(*grey);
            }
        }
        for (pixel, origin) in picture.iter_mut().zip(&self.origins) {
            let [upper, lower] = [0, length].map(|below| {
                let pair = &self.framed[origin.corner + below..][..2];
                pair[0] + (pair[1] - pair[0]) * origin.right
            });
            let grey = upper + (lower - upper) * origin.down;
            *pixel = (grey * self.gain + self.offset).clamp(0.0, 1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::PatientId;
    use rand_chacha::rand_core::SeedableRng;

    fn input() -> InputSpec {
        InputSpec {
            channels: 2,
            frames: 3,
            height: 4,
            width: 5,
            mean: vec![0.5, 0.0],
            std: vec![0.25, 1.0],
        }
    }

    fn film() -> Film {
        let frames = (0..6 * 20).map(|value| (value * 2) as u8).collect();
        Film::new(
            PatientId::new("P1"),
            "a.mp4".into(),
            1,
            20,
            frames,
            vec![4, 2],
        )
    }

    fn painted(change: &Change) -> Vec<f32> {
        let mut clips = Vec::new();
        change.append(&film(), &input(), &mut clips);
        clips
    }

    #[test]
    fn an_unchanged_clip_is_the_film_normalised_for_each_channel() {
        let clip = painted(&Change::none(1));
        assert_eq!(clip.len(), 3 * 2 * 20);
        // Frame 1 begins with grey 40; then the second channel has it again.
        assert!((clip[0] - (40.0 / 255.0 - 0.5) / 0.25).abs() < 1e-6);
        assert!((clip[20] - 40.0 / 255.0).abs() < 1e-6);
        assert!((clip[40] - (80.0 / 255.0 - 0.5) / 0.25).abs() < 1e-6);
    }

    #[test]
    fn a_flip_changes_left_and_right_and_a_lost_frame_skips_one() {
        let plain = painted(&Change::none(0));
        let flipped = painted(&Change {
            flip: true,
            ..Change::none(0)
        });
        for (plain, flipped) in plain.chunks(5).zip(flipped.chunks(5)) {
            assert!(plain.iter().eq(flipped.iter().rev()));
        }
        let lossy = painted(&Change {
            lost: 2,
            ..Change::none(0)
        });
        assert_eq!(lossy[..80], plain[..80]);
        let third = painted(&Change::none(3));
        assert_eq!(lossy[80..], third[..40]);
    }

    #[test]
    fn a_shift_moves_rows_and_repeats_the_edge_and_an_offset_stays_within_black_and_white() {
        let frame: Vec<u8> = (0..20).map(|value| value * 10).collect();
        let shown = |change: Change| {
            let mut picture = vec![0.0; 20];
            Painter::new(&change, 4, 5).paint(&frame, &mut picture);
            picture
        };
        let plain = shown(Change::none(0));
        let moved = |shift| {
            shown(Change {
                shift,
                ..Change::none(0)
            })
        };
        assert_eq!(moved(0.25)[5..], plain[..15]);
        assert_eq!(moved(0.25)[..5], plain[..5]);
        assert_eq!(moved(-0.5)[..10], plain[10..]);
        assert_eq!(moved(-0.5)[15..], plain[15..]);
        let darker = shown(Change {
            offset: -0.1,
            ..Change::none(0)
        });
        for (plain, darker) in plain.iter().zip(darker) {
            assert!((darker - (plain - 0.1).max(0.0)).abs() < 1e-6);
        }
    }

    #[test]
    fn what_is_turned_in_from_outside_is_black_and_the_middle_stays() {
        let frame = [255_u8; 9 * 5];
        let mut picture = vec![0.5; 9 * 5];
        let change = Change {
            angle: std::f32::consts::FRAC_PI_2,
            ..Change::none(0)
        };
        Painter::new(&change, 5, 9).paint(&frame, &mut picture);
        for row in picture.chunks(9) {
            // Five rows stand upright now, and leave two columns empty at each side.
            assert!(
                row[..2]
                    .iter()
                    .chain(&row[7..])
                    .all(|grey| grey.abs() < 1e-4)
            );
            assert!(row[2..7].iter().all(|grey| (grey - 1.0).abs() < 1e-4));
        }
    }

    #[test]
    fn a_quarter_turn_moves_columns_to_rows() {
        let size = 5;
        let frame: Vec<u8> = (0..25).map(|value| value * 10).collect();
        let mut picture = vec![0.0; 25];
        let change = Change {
            angle: std::f32::consts::FRAC_PI_2,
            ..Change::none(0)
        };
        Painter::new(&change, size, size).paint(&frame, &mut picture);
        for row in 0..size {
            for column in 0..size {
                let expected = f32::from(frame[(size - 1 - column) * size + row]) / 255.0;
                assert!((picture[row * size + column] - expected).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_clips_and_none_spans_a_gap() {
        let drawn = |seed| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let how = Augmentation::default();
            (0..200)
                .filter_map(|_| Change::draw(&film(), 3, &how, &mut rng))
                .collect::<Vec<_>>()
        };
        assert_eq!(drawn(3), drawn(3));
        assert_ne!(drawn(3), drawn(4));
        for change in drawn(3) {
            assert!(change.start + 3 + usize::from(change.lost > 0) <= 4);
        }
    }
}
