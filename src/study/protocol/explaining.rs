//! Where each kind of network looks: pictures for people, and on a synthetic
//! cohort the share of attention at the capsule.

use std::path::Path;

use super::scoring::Judge;
use super::{StudyConfig, StudyError};
use crate::domain::FrameSize;
use crate::study::capsule::{Truth, share};
use crate::study::heat::{enlarged, painted, write_png};
use crate::study::train::Film;
use crate::study::{Picture, Pixels};

/// Rows and columns of a panel's pictures, at least.
const PANEL: usize = 224;
/// Space between a panel's two pictures, in pixels.
const GAP: usize = 8;

/// Test patients of each class that are shown.
pub(super) const PATIENTS: usize = 4;

/// Of the attention for the severest class, the share within 5 mm of the capsule,
/// and of the picture the share that lies there: means over the windows of a film,
/// side by side. None where nobody knows where the capsule is, or nothing is hot.
pub(super) fn measure(
    config: &StudyConfig,
    judge: &mut Judge,
    film: &Film,
    truth: Option<&Truth>,
) -> Result<Option<(f64, f64)>, StudyError> {
    let (Some(truth), Some(crop)) = (truth, config.crop) else {
        return Ok(None);
    };
    let (mut near, mut area, mut count) = (0.0, 0.0, 0_u32);
    for place in film.windows(judge.frames, judge.frames) {
        let attention = judge.explain(film, place, config)?;
        for frame in 0..judge.frames {
            let heat = enlarged(&attention, frame, config.size)?;
            // A map without any heat says nothing of where it is.
            if let Some((share, at)) = share(&heat, config.size, crop, truth) {
                (near, area, count) = (near + share, area + at, count + 1);
            }
        }
    }
    let mean = |sum: f64| sum / f64::from(count);
    Ok((count > 0).then(|| (mean(near), mean(area))))
}

/// Writes the panel of a film: the middle frame of its middle window as it is, and
/// with the attention of one model over it.
pub(super) fn panel(
    config: &StudyConfig,
    judge: &mut Judge,
    film: &Film,
    path: &Path,
) -> Result<(), StudyError> {
    let windows = film.windows(judge.frames, config.stride);
    let Some(place) = windows.get(windows.len() / 2) else {
        return Ok(());
    };
    let attention = judge.explain(film, *place, config)?;
    let middle = judge.frames / 2;
    let times = PANEL.div_ceil(config.size.height.max(1)).max(1);
    let size = FrameSize {
        height: config.size.height * times,
        width: config.size.width * times,
    };
    let grey = repeated(film.frame(place + middle), config.size, times);
    let heat = enlarged(&attention, middle, size)?;
    let strongest = attention.values.iter().copied().fold(0.0, f32::max);
    let left = painted(&grey, &vec![0.0; grey.len()], 0.0, size);
    let right = painted(&grey, &heat, strongest, size);
    Ok(write_png(path, &beside(&left, &right))?)
}

/// Each pixel as a square of `times` by `times`.
fn repeated(frame: &[u8], size: FrameSize, times: usize) -> Vec<u8> {
    let mut grey = Vec::with_capacity(frame.len() * times * times);
    for row in frame.chunks_exact(size.width) {
        let row: Vec<u8> = row
            .iter()
            .flat_map(|g| std::iter::repeat_n(*g, times))
            .collect();
        for _ in 0..times {
            grey.extend_from_slice(&row);
        }
    }
    grey
}

/// Two colour pictures of one size, white between them.
fn beside(left: &Picture, right: &Picture) -> Picture {
    let row = 3 * left.width;
    let mut pixels = Vec::with_capacity(2 * left.pixels.len() + 3 * GAP * left.height);
    let rows = left
        .pixels
        .chunks_exact(row)
        .zip(right.pixels.chunks_exact(row));
    for (left, right) in rows {
        pixels.extend_from_slice(left);
        pixels.resize(pixels.len() + 3 * GAP, 255);
        pixels.extend_from_slice(right);
    }
    Picture {
        width: 2 * left.width + GAP,
        height: left.height,
        format: Pixels::Rgb,
        pixels,
    }
}
