//! How much of a network's attention lies at the liver's capsule, where the
//! phantom knows it to be: the one thing about an explanation that can be
//! measured rather than admired.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::domain::{Crop, FrameSize};

/// What counts as at the capsule.
pub const NEAR_MM: f64 = 5.0;

/// Where the capsule rests in a synthetic recording: columns of `phantom.csv`.
/// Breathing moves it by half a millimetre or so, which is left out.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Truth {
    mm_per_pixel: f64,
    middle_column: f64,
    face_row: f64,
    capsule_depth_mm: f64,
    capsule_slope: f64,
    capsule_bend_mm: f64,
}

#[derive(Deserialize)]
struct Row {
    path: PathBuf,
    #[serde(flatten)]
    truth: Truth,
}

/// The truth of each recording of a cohort, by its path; none for a real cohort.
///
/// # Errors
/// If `phantom.csv` is there and cannot be read.
pub fn truths(cohort: &Path) -> Result<BTreeMap<PathBuf, Truth>, csv::Error> {
    let file = cohort.join("phantom.csv");
    if !file.exists() {
        return Ok(BTreeMap::new());
    }
    let rows = csv::Reader::from_path(file)?.into_deserialize();
    rows.map(|row| row.map(|row: Row| (row.path, row.truth)))
        .collect()
}

impl Truth {
    /// Millimetres between a place in the recording's picture, in pixels, and the
    /// capsule's line.
    pub fn distance_mm(&self, column: f64, row: f64) -> f64 {
        let x = (column - self.middle_column) * self.mm_per_pixel;
        let y = (row - self.face_row) * self.mm_per_pixel;
        let line =
            self.capsule_depth_mm + x * (self.capsule_slope - x * 0.5 / self.capsule_bend_mm);
        let tangent = self.capsule_slope - x / self.capsule_bend_mm;
        (y - line).abs() / tangent.hypot(1.0)
    }
}

/// Of `heat`, `[H, W]` over the part `crop` of the picture: the share within
/// [`NEAR_MM`] of the capsule, and the share of the area that lies there, which is
/// what attention that is the same everywhere would have. None without any heat.
pub fn share(heat: &[f32], size: FrameSize, crop: Crop, truth: &Truth) -> Option<(f64, f64)> {
    let (mut near, mut all, mut area) = (0.0, 0.0, 0_usize);
    let scale = |extent: u32, places: usize| f64::from(extent) / places as f64;
    let (down, across) = (
        scale(crop.height, size.height),
        scale(crop.width, size.width),
    );
    for (place, heat) in heat.iter().enumerate() {
        // The middle of the place, where the middle of pixel 0 is 0.
        let row = f64::from(crop.y) + ((place / size.width) as f64 + 0.5) * down - 0.5;
        let column = f64::from(crop.x) + ((place % size.width) as f64 + 0.5) * across - 0.5;
        let heat = f64::from(*heat);
        all += heat;
        if truth.distance_mm(column, row) <= NEAR_MM {
            near += heat;
            area += 1;
        }
    }
    (all > 0.0).then(|| (near / all, area as f64 / heat.len() as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUTH: Truth = Truth {
        mm_per_pixel: 0.5,
        middle_column: 100.0,
        face_row: 20.0,
        capsule_depth_mm: 15.0,
        capsule_slope: 0.0,
        capsule_bend_mm: 1e9,
    };

    #[test]
    fn attention_is_counted_where_the_capsule_is() {
        // A level capsule at row 20 + 15 / 0.5 = 50, near it rows 40 to 60.
        assert!(TRUTH.distance_mm(100.0, 50.0) < 1e-9);
        assert!((TRUTH.distance_mm(30.0, 60.0) - 5.0).abs() < 1e-6);
        let crop = Crop {
            x: 0,
            y: 0,
            width: 200,
            height: 100,
        };
        let size = FrameSize {
            height: 50,
            width: 40,
        };
        let even = vec![1.0; 2000];
        let (share_of, area) = share(&even, size, crop, &TRUTH).unwrap_or_default();
        assert!((share_of - area).abs() < 1e-9 && (area - 0.2).abs() < 0.03);
        // All of it in the row of the picture that shows the capsule.
        let mut row = vec![0.0; 2000];
        row[25 * 40..26 * 40].fill(2.0);
        assert_eq!(share(&row, size, crop, &TRUTH).map(|s| s.0), Some(1.0));
        assert_eq!(share(&vec![0.0; 2000], size, crop, &TRUTH), None);
    }

    #[test]
    fn distance_from_a_tilted_capsule_is_at_right_angles() {
        let tilted = Truth {
            capsule_slope: 1.0,
            ..TRUTH
        };
        let distance = tilted.distance_mm(100.0, 50.0 + 10.0);
        assert!((distance - 5.0 / 2.0_f64.sqrt()).abs() < 1e-9);
    }
}
