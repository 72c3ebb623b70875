//! The probe: where its beams run, and how a point of the body becomes a
//! position in beam space.
//!
//! Body coordinates: `x` mm along the probe's face, 0 at its middle; `y` mm
//! into the body, 0 where the middle of the face touches the skin. Beam space:
//! `[lines, samples]`, lines side by side, samples [`SAMPLE_MM`] apart.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Distance between two samples along a beam, mm: half the axial PSF's sd.
pub(crate) const SAMPLE_MM: f32 = 0.16;

/// Beams side by side.
pub(crate) const LINES: usize = 160;

/// The shape of the probe's face.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Face {
    /// Beams fan out from an arc of `radius_mm`, to `half_angle` rad each side.
    Curved {
        /// Radius of the face, mm.
        radius_mm: f32,
        /// Angle of the outermost beam, rad.
        half_angle: f32,
    },
    /// Parallel beams, to `half_width_mm` each side.
    Linear {
        /// Half the width of the face, mm.
        half_width_mm: f32,
    },
}

/// A probe and how deep it is set to look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probe {
    /// The shape of its face.
    pub face: Face,
    /// Centre frequency, MHz.
    pub frequency_mhz: f32,
    /// Displayed depth, mm.
    pub depth_mm: f32,
}

impl Probe {
    /// Curved (3 to 5 MHz) in four of five exams, as livers are scanned; linear
    /// (7 to 12 MHz) in the rest.
    pub(crate) fn draw(rng: &mut ChaCha8Rng) -> Self {
        let curved = rng.random_bool(0.8);
        let share = rng.random::<f32>();
        let depth = rng.random::<f32>();
        let width = rng.random::<f32>();
        if curved {
            Self {
                face: Face::Curved {
                    radius_mm: 60.0,
                    half_angle: (28.0 + 6.0 * width).to_radians(),
                },
                frequency_mhz: 3.0 + 2.0 * share,
                depth_mm: 62.0 + 10.0 * depth,
            }
        } else {
            Self {
                face: Face::Linear {
                    half_width_mm: 22.0 + 6.0 * width,
                },
                frequency_mhz: 7.0 + 5.0 * share,
                depth_mm: 38.0 + 12.0 * depth,
            }
        }
    }

    /// Samples along each beam, 0.16 mm apart.
    pub fn samples(&self) -> usize {
        (self.depth_mm / SAMPLE_MM) as usize
    }

    /// Distance between two beams at `depth` mm, in mm.
    pub(crate) fn line_pitch_mm(&self, depth: f32) -> f32 {
        let gaps = (LINES - 1) as f32;
        match self.face {
            Face::Curved {
                radius_mm,
                half_angle,
            } => 2.0 * half_angle / gaps * (radius_mm + depth),
            Face::Linear { half_width_mm } => 2.0 * half_width_mm / gaps,
        }
    }

    /// The point on beam `line` at `depth` mm, as `[x, y]` in mm.
    pub(crate) fn to_body(self, line: f32, depth: f32) -> [f32; 2] {
        let aside = 2.0 * line / (LINES - 1) as f32 - 1.0;
        match self.face {
            Face::Curved {
                radius_mm,
                half_angle,
            } => {
                let (sin, cos) = (aside * half_angle).sin_cos();
                let r = radius_mm + depth;
                [r * sin, r * cos - radius_mm]
            }
            Face::Linear { half_width_mm } => [aside * half_width_mm, depth],
        }
    }

    /// The smallest box around the picture, mm: `[left, top, right, bottom]`.
    pub(crate) fn extent_mm(&self) -> [f32; 4] {
        let last = (LINES - 1) as f32;
        let [right, _] = self.to_body(last, self.depth_mm);
        let [_, top] = self.to_body(last, 0.0);
        [-right, top.min(0.0), right, self.depth_mm]
    }
}

/// Turns body coordinates into (line, depth mm). One type per face, so that
/// the scatterers' loop is compiled for each without a branch inside.
pub(crate) trait ToBeam: Copy {
    /// (line, depth mm) of the point `x`, `y` mm.
    fn to_beam(self, x: f32, y: f32) -> (f32, f32);
}

/// [`Face::Curved`], with what is constant worked out.
#[derive(Clone, Copy)]
pub(crate) struct CurvedBeams {
    radius: f32,
    half_angle: f32,
    lines_per_rad: f32,
}

impl CurvedBeams {
    pub(crate) fn new(radius_mm: f32, half_angle: f32) -> Self {
        Self {
            radius: radius_mm,
            half_angle,
            lines_per_rad: (LINES - 1) as f32 / (2.0 * half_angle),
        }
    }
}

impl ToBeam for CurvedBeams {
    #[inline]
    fn to_beam(self, x: f32, y: f32) -> (f32, f32) {
        let down = y + self.radius;
        let r = (x * x + down * down).sqrt();
        // arctan by a minimax polynomial, good to 1e-5 rad for |x / down| <= 1;
        // a beam is 6e-3 rad wide, and no beam leans by more than 45 degrees.
        let t = x / down;
        let q = t * t;
        let angle = t
            * (0.999_866
                + q * (-0.330_299_5 + q * (0.180_141 + q * (-0.085_133 + q * 0.020_835_1))));
        (
            (angle + self.half_angle) * self.lines_per_rad,
            r - self.radius,
        )
    }
}

/// [`Face::Linear`], with what is constant worked out.
#[derive(Clone, Copy)]
pub(crate) struct LinearBeams {
    half_width: f32,
    lines_per_mm: f32,
}

impl LinearBeams {
    pub(crate) fn new(half_width_mm: f32) -> Self {
        Self {
            half_width: half_width_mm,
            lines_per_mm: (LINES - 1) as f32 / (2.0 * half_width_mm),
        }
    }
}

impl ToBeam for LinearBeams {
    #[inline]
    fn to_beam(self, x: f32, y: f32) -> (f32, f32) {
        ((x + self.half_width) * self.lines_per_mm, y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_of_the_body_and_its_place_in_beam_space_are_inverse() {
        let (radius_mm, half_angle, half_width_mm) = (60.0, 0.55, 25.0);
        let probe = |face| Probe {
            face,
            frequency_mhz: 4.0,
            depth_mm: 70.0,
        };
        let curved = probe(Face::Curved {
            radius_mm,
            half_angle,
        });
        let linear = probe(Face::Linear { half_width_mm });
        for line in [0.0, 12.5, 80.0, 159.0] {
            for depth in [0.5, 16.0, 69.0] {
                let [x, y] = curved.to_body(line, depth);
                let (l, d) = CurvedBeams::new(radius_mm, half_angle).to_beam(x, y);
                assert!((l - line).abs() < 0.01 && (d - depth).abs() < 1e-3);
                let [x, y] = linear.to_body(line, depth);
                let (l, d) = LinearBeams::new(half_width_mm).to_beam(x, y);
                assert!((l - line).abs() < 1e-3 && (d - depth).abs() < 1e-3);
            }
        }
    }
}
