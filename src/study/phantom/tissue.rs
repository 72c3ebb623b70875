//! The body: a slab of scatterers, the liver's capsule and its vessels.
//!
//! The slab is 150 mm along the probe's face (`u`), 80 mm deep and 28 mm
//! across (`e`, elevation). Depths `v` are counted from the capsule's resting
//! line, negative in the abdominal wall, so that sliding along the capsule is a
//! change of `u` alone. In the picture that line lies at
//!
//! `y(x) = depth + slope x - x^2 / (2 bend)`  [mm]
//!
//! Everything is kept sorted by elevation: a frame needs one run of it.

use std::f32::consts::TAU;
use std::ops::Range;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::field::{Axis, Field};
use super::patient::Patient;
use super::rng::{self, Purpose, normal};

/// Half the slab's length along the face, mm.
const HALF_LENGTH: f32 = 75.0;
/// Half its width across the imaging plane, mm.
const HALF_WIDTH: f32 = 14.0;
/// Where it begins and ends below the skin, mm. It begins above it because the
/// ends of a curved face are lifted off the middle's tangent.
const DEPTHS: [f32; 2] = [-5.0, 75.0];
/// Points of the capsule per mm^2.
const CAPSULE_PER_MM2: f32 = 10.0;
/// Amplitude of a capsule point: about 15 dB above the parenchyma's speckle.
const CAPSULE_AMPLITUDE: f32 = 1.3;
/// Spread of the logarithm of that amplitude along the surface, over 7 mm: a
/// capsule is not seen equally well everywhere.
const CAPSULE_PATCHINESS: f32 = 0.5;
/// How much brighter the wall of a vessel is, and how many radii it reaches.
const LINING: f32 = 1.7;
const LINING_END: f32 = 1.25;

/// The resting line of the capsule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CapsuleLine {
    /// Depth below the middle of the face, mm.
    pub depth_mm: f32,
    /// Tangent of its tilt.
    pub slope: f32,
    /// Radius of its curvature, mm.
    pub bend_mm: f32,
}

impl CapsuleLine {
    /// Depth below the skin at `x` mm, in mm.
    #[inline]
    pub fn y_mm(&self, x: f32) -> f32 {
        self.depth_mm + x * (self.slope - x * 0.5 / self.bend_mm)
    }
}

/// Point scatterers, column by column, sorted by elevation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scatterers {
    /// Along the face, mm.
    pub u: Vec<f32>,
    /// Below the capsule's resting line, mm.
    pub v: Vec<f32>,
    /// Elevation, mm, rising.
    pub e: Vec<f32>,
    /// Real amplitude.
    pub amplitude: Vec<f32>,
    /// Distance from the nearest vessel's axis over its radius.
    pub vessel: Vec<f32>,
}

impl Scatterers {
    pub(crate) fn push(&mut self, at: [f32; 3], amplitude: f32, vessel: f32) {
        self.u.push(at[0]);
        self.v.push(at[1]);
        self.e.push(at[2]);
        self.amplitude.push(amplitude);
        self.vessel.push(vessel);
    }
}

/// Points of the capsule, sorted by elevation. Each has a phase of its own,
/// fixed once: without it the smooth surface would interfere with itself and
/// show as a row of dashes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Capsule {
    /// Along the face, mm.
    pub u: Vec<f32>,
    /// Height A H(u, e) over the resting line, counted downwards, mm.
    pub v: Vec<f32>,
    /// Elevation, mm, rising.
    pub e: Vec<f32>,
    /// Complex amplitude.
    pub phasor: Vec<[f32; 2]>,
}

/// Those of `elevations` (rising) within `reach` of `centre`.
pub(crate) fn near(elevations: &[f32], centre: f32, reach: f32) -> Range<usize> {
    elevations.partition_point(|&e| e < centre - reach)
        ..elevations.partition_point(|&e| e <= centre + reach)
}

/// A tube of few scatterers.
struct Vessel {
    through: [f32; 3],
    /// Unit vector.
    along: [f32; 3],
    radius: f32,
}

impl Vessel {
    fn draw(rng: &mut ChaCha8Rng, deepest: f32) -> Self {
        let mut along = [
            normal(rng, 0.0, 1.0),
            normal(rng, 0.0, 0.6),
            normal(rng, 0.0, 0.7),
        ];
        let norm = along.iter().map(|a| a * a).sum::<f32>().sqrt().max(1e-3);
        for a in &mut along {
            *a /= norm;
        }
        Self {
            through: [
                rng.random_range(-45.0..45.0),
                rng.random_range(14.0..deepest),
                rng.random_range(-8.0..8.0),
            ],
            along,
            radius: rng.random_range(1.2..4.2),
        }
    }

    /// Distance of `point` from the axis over the radius.
    fn reach(&self, point: [f32; 3]) -> f32 {
        let d: [f32; 3] = std::array::from_fn(|i| point[i] - self.through[i]);
        let along: f32 = d.iter().zip(&self.along).map(|(d, a)| d * a).sum();
        let square: f32 = d.iter().map(|d| d * d).sum();
        (square - along * along).max(0.0).sqrt() / self.radius
    }
}

/// The body under the probe.
#[derive(Clone, Debug)]
pub(crate) struct Tissue {
    /// Where the capsule rests.
    pub line: CapsuleLine,
    /// Skin, fat and muscle: they do not breathe.
    pub wall: Scatterers,
    /// Parenchyma: breathes.
    pub liver: Scatterers,
    /// The capsule: breathes with the liver.
    pub capsule: Capsule,
    /// Scatterers per mm^3.
    pub density: f32,
}

impl Tissue {
    /// Draws the body of `patient`, of `count` scatterers (the recipe's 300,000;
    /// fewer for tests, whose speckle is then less fully developed).
    ///
    /// A scatterer's amplitude is N(0,1) exp(S T - S^2), where T is a smooth
    /// field of 2.2 mm length and S the patient's echotexture. The recipe's
    /// N(0,1) exp(S T) has the mean power exp(2 S^2); the term S^2 takes that
    /// out, so that brightness tells nothing about the stage.
    pub(crate) fn draw(seed: u64, patient: &Patient, count: usize) -> Self {
        let rng = &mut rng::stream(seed, patient.number, 0, Purpose::Tissue);
        let line = CapsuleLine {
            depth_mm: normal(rng, 16.0, 3.0).clamp(9.0, 23.0),
            slope: normal(rng, 0.0, 4.0).clamp(-8.0, 8.0).to_radians().tan(),
            bend_mm: 120.0,
        };
        let (top, bottom) = (DEPTHS[0] - line.depth_mm, DEPTHS[1] - line.depth_mm);
        let axis = |begin, end, length| Axis { begin, end, length };
        let across = |length| axis(-HALF_WIDTH, HALF_WIDTH, length);
        let along = |length| axis(-HALF_LENGTH, HALF_LENGTH, length);
        let echotexture = Field::draw(rng, [across(2.2), axis(-4.0, bottom, 2.2), along(2.2)]);
        let height = Field::draw(rng, [across(5.0), along(5.0)]);
        let patches = Field::draw(rng, [across(7.0), along(7.0)]);
        // Layers of fat and muscle: thin in depth, long along the face.
        let layers = Field::draw(rng, [across(9.0), axis(top, 4.0, 0.9), along(14.0)]);
        let vessels: Vec<_> = (0..rng.random_range(7..13))
            .map(|_| Vessel::draw(rng, bottom - 8.0))
            .collect();

        let s = patient.echotexture as f32;
        let a = patient.nodularity_mm as f32;
        let (mut wall, mut liver) = (Scatterers::default(), Scatterers::default());
        for i in 0..count {
            // One scatterer in each of `count` thin sheets: sorted as drawn.
            let sheet = (i as f32 + rng.random::<f32>()) / count as f32;
            let e = HALF_WIDTH * (2.0 * sheet - 1.0);
            let u = rng.random_range(-HALF_LENGTH..HALF_LENGTH);
            let v = rng.random_range(top..bottom);
            let z = normal(rng, 0.0, 1.0);
            if v < a * height.at([e, u]) {
                let bright = (0.6 * layers.at([e, v, u]) - 0.36).exp();
                wall.push([u, v, e], 0.75 * z * bright, f32::MAX);
            } else {
                let texture = (s * echotexture.at([e, v, u]) - s * s).exp();
                let reach = vessels.iter().map(|vessel| vessel.reach([u, v, e]));
                let reach = reach.fold(f32::MAX, f32::min);
                // Walls of vessels reflect.
                let lining = if (1.0..LINING_END).contains(&reach) {
                    LINING
                } else {
                    1.0
                };
                liver.push([u, v, e], z * texture * lining, reach);
            }
        }

        let mut capsule = Capsule::default();
        let points = (4.0 * HALF_LENGTH * HALF_WIDTH * CAPSULE_PER_MM2) as usize;
        for i in 0..points {
            let sheet = (i as f32 + rng.random::<f32>()) / points as f32;
            let e = HALF_WIDTH * (2.0 * sheet - 1.0);
            let u = rng.random_range(-HALF_LENGTH..HALF_LENGTH);
            let (sin, cos) = (TAU * rng.random::<f32>()).sin_cos();
            let seen = CAPSULE_AMPLITUDE * (CAPSULE_PATCHINESS * patches.at([e, u])).exp();
            capsule.u.push(u);
            capsule.v.push(a * height.at([e, u]));
            capsule.e.push(e);
            capsule.phasor.push([seen * cos, seen * sin]);
        }
        Self {
            line,
            wall,
            liver,
            capsule,
            density: count as f32 / (4.0 * HALF_LENGTH * HALF_WIDTH * (DEPTHS[1] - DEPTHS[0])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Stage;

    fn rms(values: &[f32]) -> f32 {
        (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt()
    }

    #[test]
    fn the_capsule_is_as_rough_as_the_patient_is_nodular() {
        for stage in [Stage::F0, Stage::F4] {
            let patient = Patient::draw(2, 9, Some(stage));
            let tissue = Tissue::draw(2, &patient, 2000);
            let ratio = f64::from(rms(&tissue.capsule.v)) / patient.nodularity_mm;
            // Some 170 independent patches of 5 x 5 mm, less what interpolation loses.
            assert!((0.8..1.15).contains(&ratio), "{stage}: {ratio}");
        }
    }

    #[test]
    fn echotexture_changes_the_spread_of_amplitudes_and_not_their_power() {
        let mut patient = Patient::draw(2, 9, None);
        let kurtosis = |a: &[f32]| {
            let [square, fourth] = [2, 4].map(|n| a.iter().map(|a| a.powi(n)).sum::<f32>());
            fourth * a.len() as f32 / (square * square)
        };
        let mut amplitudes = [0.15, 0.45].map(|s| {
            patient.echotexture = s;
            Tissue::draw(2, &patient, 60_000).liver.amplitude
        });
        let power = amplitudes.each_ref().map(|a| rms(a));
        assert!((power[0] / power[1] - 1.0).abs() < 0.06, "{power:?}");
        let [smooth, coarse] = amplitudes.each_mut().map(|a| kurtosis(a));
        // N(0,1) has kurtosis 3; exp(S T) multiplies it by exp(4 S^2).
        assert!(coarse / smooth > 1.5, "{smooth} {coarse}");
    }

    #[test]
    fn elevations_rise_so_that_a_frame_is_one_run() {
        let tissue = Tissue::draw(1, &Patient::draw(1, 1, None), 3000);
        for e in [&tissue.wall.e, &tissue.liver.e, &tissue.capsule.e] {
            assert!(e.is_sorted() && !e.is_empty());
            let run = near(e, 1.0, 2.0);
            assert!(e[run.clone()].iter().all(|e| (-1.0..=3.0).contains(e)));
            assert_eq!(
                run.len(),
                e.iter().filter(|e| (-1.0..=3.0).contains(*e)).count()
            );
        }
    }
}
