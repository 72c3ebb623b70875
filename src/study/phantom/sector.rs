//! Scan conversion: beam space to the picture's pixels.
//!
//! A table, worked out once per recording, names for every pixel inside the
//! sector its cell in beam space and the fractions to interpolate with; a frame
//! is one pass over it.

use super::probe::{CurvedBeams, Face, LINES, LinearBeams, Probe, SAMPLE_MM, ToBeam};
use crate::domain::Crop;
use crate::study::picture::Picture;

/// One pixel inside the sector.
#[derive(Clone, Copy)]
pub(crate) struct Pixel {
    /// Its index in the picture.
    pub at: u32,
    /// Index of its upper left cell in beam space.
    cell: u32,
    /// Share of the next line, and of the next sample, in 1/128.
    across: u8,
    along: u8,
}

impl Pixel {
    /// The cell in beam space as (line, sample).
    pub(crate) fn cell(self, samples: usize) -> (usize, usize) {
        (self.cell as usize / samples, self.cell as usize % samples)
    }
}

/// Where the sector lies in the picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    /// The box around the sector, pixels.
    pub bounds: Crop,
    /// Column of the middle of the probe's face.
    pub middle_column: f32,
    /// Row of the middle of the probe's face.
    pub face_row: f32,
    /// Size of a pixel, mm, the same in both directions.
    pub mm_per_pixel: f32,
}

/// The table of one sector.
pub(crate) struct Sector {
    pub placement: Placement,
    pub pixels: Vec<Pixel>,
    samples: usize,
}

impl Sector {
    /// Fits what `probe` sees into `frame`, a rectangle of a picture that is
    /// `stride` pixels wide: centred, hanging from its top.
    pub(crate) fn new(probe: &Probe, frame: Crop, stride: usize) -> Self {
        let [left, top, right, bottom] = probe.extent_mm();
        let mm_per_pixel =
            ((right - left) / frame.width as f32).max((bottom - top) / frame.height as f32);
        let middle_column = frame.x as f32 + 0.5 * frame.width as f32;
        let face_row = frame.y as f32 - top / mm_per_pixel;
        let mut sector = Self {
            placement: Placement {
                bounds: Crop {
                    x: (middle_column + left / mm_per_pixel) as u32,
                    y: frame.y,
                    width: ((right - left) / mm_per_pixel) as u32,
                    height: ((bottom - top) / mm_per_pixel) as u32,
                },
                middle_column,
                face_row,
                mm_per_pixel,
            },
            pixels: Vec::new(),
            samples: probe.samples(),
        };
        match probe.face {
            Face::Curved {
                radius_mm,
                half_angle,
            } => sector.fill(frame, stride, CurvedBeams::new(radius_mm, half_angle)),
            Face::Linear { half_width_mm } => {
                sector.fill(frame, stride, LinearBeams::new(half_width_mm));
            }
        }
        sector
    }

    fn fill(&mut self, frame: Crop, stride: usize, beams: impl ToBeam) {
        let place = self.placement;
        for row in frame.y..frame.y + frame.height {
            let y = (row as f32 + 0.5 - place.face_row) * place.mm_per_pixel;
            for column in frame.x..frame.x + frame.width {
                let x = (column as f32 + 0.5 - place.middle_column) * place.mm_per_pixel;
                let (line, depth) = beams.to_beam(x, y);
                let sample = depth / SAMPLE_MM;
                let inside = (0.0..(LINES - 1) as f32).contains(&line)
                    && (0.0..(self.samples - 1) as f32).contains(&sample);
                if inside {
                    self.pixels.push(Pixel {
                        at: row * stride as u32 + column,
                        cell: (line as usize * self.samples + sample as usize) as u32,
                        across: (line.fract() * 128.0) as u8,
                        along: (sample.fract() * 128.0) as u8,
                    });
                }
            }
        }
    }

    /// Paints `grey` (`[lines, samples]`) into the grey `picture`.
    pub(crate) fn paint(&self, grey: &[u8], picture: &mut Picture) {
        for pixel in &self.pixels {
            let cell = pixel.cell as usize;
            let (a, b) = (u32::from(pixel.across), u32::from(pixel.along));
            let mix = |at: usize| u32::from(grey[at]) * (128 - b) + u32::from(grey[at + 1]) * b;
            let level = mix(cell) * (128 - a) + mix(cell + self.samples) * a;
            picture.pixels[pixel.at as usize] = (level >> 14) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_in_beam_space_is_an_arc_at_its_depth() {
        let probe = Probe {
            face: Face::Curved {
                radius_mm: 60.0,
                half_angle: 0.5,
            },
            frequency_mhz: 4.0,
            depth_mm: 64.0,
        };
        let frame = Crop {
            x: 10,
            y: 8,
            width: 180,
            height: 130,
        };
        let sector = Sector::new(&probe, frame, 200);
        let samples = probe.samples();
        let mut grey = vec![0; LINES * samples];
        for line in grey.chunks_exact_mut(samples) {
            line[195..206].fill(255);
        }
        let mut picture = Picture::grey(200, 150);
        sector.paint(&grey, &mut picture);
        let place = sector.placement;
        for angle in [-0.4_f32, 0.0, 0.3] {
            let r = 60.0 + 200.0 * SAMPLE_MM;
            let column = place.middle_column + r * angle.sin() / place.mm_per_pixel;
            let row = place.face_row + (r * angle.cos() - 60.0) / place.mm_per_pixel;
            assert!(picture.pixels[row as usize * 200 + column as usize] > 100);
        }
        // Outside the sector nothing is touched.
        assert_eq!(picture.pixels[149 * 200], 0);
        assert!(sector.pixels.len() > 180 * 130 / 3);
    }
}
