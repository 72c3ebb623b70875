//! Attention over a picture: enlarged to its size, laid over it in colour,
//! written as PNG.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::{Picture, Pixels};
use crate::domain::FrameSize;
use crate::engine::Attention;

/// How much of a picture's brightness the strongest attention takes over.
const OPACITY: f64 = 0.6;

/// A map or picture could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeatError {
    /// The map could not be enlarged.
    #[error("cannot enlarge the map: {0}")]
    Enlarge(String),
    /// The picture could not be written.
    #[error("cannot write {}: {problem}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
}

/// A frame's map in the size of the picture, `[H, W]`, in units of the logit.
pub(crate) fn enlarged(
    attention: &Attention,
    frame: usize,
    size: FrameSize,
) -> Result<Vec<f32>, HeatError> {
    let map = attention.at(frame);
    let [_, rows, columns] = attention.shape;
    let failed = |error: &dyn std::fmt::Display| HeatError::Enlarge(error.to_string());
    let source = ImageRef::new(
        columns as u32,
        rows as u32,
        bytemuck::cast_slice(&map),
        PixelType::F32,
    )
    .map_err(|error| failed(&error))?;
    let mut image = Image::new(size.width as u32, size.height as u32, PixelType::F32);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Interpolation(FilterType::Bilinear));
    Resizer::new()
        .resize(&source, &mut image, &options)
        .map_err(|error| failed(&error))?;
    let bytes = image.buffer().as_chunks::<4>().0;
    Ok(bytes.iter().map(|b| f32::from_ne_bytes(*b)).collect())
}

/// The grey picture with its heat in colour; `strongest` is as hot as can be.
pub(crate) fn painted(grey: &[u8], heat: &[f32], strongest: f32, size: FrameSize) -> Picture {
    let scale = if strongest > 0.0 {
        1.0 / f64::from(strongest)
    } else {
        0.0
    };
    let mut pixels = Vec::with_capacity(3 * grey.len());
    for (grey, heat) in grey.iter().zip(heat) {
        let heat = (f64::from(*heat) * scale).clamp(0.0, 1.0);
        let colour = colorous::INFERNO.eval_continuous(heat);
        let share = OPACITY * heat;
        let mixed = |colour: u8| {
            (f64::from(*grey) * (1.0 - share) + f64::from(colour) * share).round() as u8
        };
        pixels.extend([mixed(colour.r), mixed(colour.g), mixed(colour.b)]);
    }
    Picture {
        width: size.width,
        height: size.height,
        format: Pixels::Rgb,
        pixels,
    }
}

/// Writes a colour picture.
pub(crate) fn write_png(path: &Path, picture: &Picture) -> Result<(), HeatError> {
    let failed = |error: &dyn std::fmt::Display| HeatError::Write {
        path: path.to_owned(),
        problem: error.to_string(),
    };
    let file = BufWriter::new(File::create(path).map_err(|error| failed(&error))?);
    let mut encoder = png::Encoder::new(file, picture.width as u32, picture.height as u32);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().map_err(|error| failed(&error))?;
    writer
        .write_image_data(&picture.pixels)
        .map_err(|error| failed(&error))
}
