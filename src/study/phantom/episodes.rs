//! What interrupts a scan now and then: a freeze, a Doppler box, a dual screen.
//!
//! None of them is fit for staging; a quality gate must find them. At most one
//! happens in a recording.

use rand::Rng;

use super::RecordingSpec;
use super::probe::LINES;
use super::rng::{self, Purpose};
use super::sector::Sector;
use crate::study::picture::{Picture, Pixels};

/// An interruption, in frames counted from 0; `to` is not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Episode {
    /// The picture stands still.
    Freeze {
        /// The frame that stays.
        from: usize,
        /// The first that moves again.
        to: usize,
    },
    /// A colour box lies over the picture. The recording is in colour.
    Doppler {
        /// First frame with it.
        from: usize,
        /// First frame without it.
        to: usize,
    },
    /// Two sectors side by side up to the end: the left one frozen.
    DualScreen {
        /// First frame with it, and the one the left half shows.
        from: usize,
    },
}

impl Episode {
    /// Draws the episode of `spec`'s clip of `frames` frames, if it has one.
    pub(crate) fn draw(spec: &RecordingSpec, frames: usize) -> Option<Self> {
        let rng = &mut rng::stream(spec.seed, spec.patient, spec.clip, Purpose::Episodes);
        let happens = rng.random::<f32>() < spec.episode_rate;
        let kind = rng.random::<f32>();
        let from = (frames as f32 * rng.random_range(0.1..0.7)) as usize;
        let length = (frames as f32 * rng.random_range(0.1..0.3)) as usize;
        let to = (from + length.max(1)).min(frames);
        happens.then_some(match kind {
            ..0.5 => Self::Freeze { from, to },
            ..0.8 => Self::Doppler { from, to },
            _ => Self::DualScreen { from },
        })
    }

    /// The word for it in the cohort's table.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Freeze { .. } => "freeze",
            Self::Doppler { .. } => "doppler",
            Self::DualScreen { .. } => "dual-screen",
        }
    }
}

/// Draws a colour box over the middle of `picture` (RGB): a band of flow crosses
/// it, red towards the probe and blue away from it, wider and faster with the
/// heart (`pulse`, 0 to 1); what is dark elsewhere, as lumens are, flows too.
pub(crate) fn colour_box(picture: &mut Picture, sector: &Sector, samples: usize, pulse: f32) {
    debug_assert_eq!(picture.format, Pixels::Rgb);
    let lines = [LINES * 3 / 10, LINES * 7 / 10];
    let depths = [samples * 4 / 10, samples * 8 / 10];
    for &pixel in &sector.pixels {
        let (line, sample) = pixel.cell(samples);
        if !(lines[0]..lines[1]).contains(&line) || !(depths[0]..depths[1]).contains(&sample) {
            continue;
        }
        let rgb = &mut picture.pixels[3 * pixel.at as usize..][..3];
        let edge = line == lines[0]
            || line == lines[1] - 1
            || sample - depths[0] < 2
            || depths[1] - sample <= 2;
        if edge {
            rgb.copy_from_slice(&[230, 230, 120]);
            continue;
        }
        // Position in the box, -1 to 1 across and along the beams.
        let across = 2.0 * (line - lines[0]) as f32 / (lines[1] - lines[0]) as f32 - 1.0;
        let along = 2.0 * (sample - depths[0]) as f32 / (depths[1] - depths[0]) as f32 - 1.0;
        let off_axis = (along - 0.35 * across).abs();
        if off_axis < 0.14 + 0.08 * pulse || rgb[0] < 24 {
            // Fastest on the axis; the other way beyond the bend in the middle.
            let speed = (90.0 + 140.0 * pulse - 60.0 * off_axis) as u8;
            rgb.copy_from_slice(&if across < 0.2 {
                [speed, 20, 10]
            } else {
                [10, 30, speed]
            });
        }
    }
}
