//! How the tissue moves under the probe: sweep, breathing, heartbeat.
//!
//! The probe slides across the slab (elevation), the liver slides with the
//! breath along its capsule under the abdominal wall, which stays, and vessels
//! pulsate.

use std::f32::consts::{PI, TAU};

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::rng::normal;

/// The motion of one recording.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Motion {
    /// Way of the probe across the slab, mm.
    pub sweep_mm: f32,
    /// Breathing, peak to peak along the capsule, mm.
    pub breathing_mm: f32,
    /// One breath, s.
    pub breath_s: f32,
    /// Where in the breath the recording begins, rad.
    pub breath_phase: f32,
    /// Heartbeats a second.
    pub heart_hz: f32,
    /// What the probe takes for its way, s; then it goes back.
    pub sweep_s: f32,
}

/// Where everything is at one instant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pose {
    /// Elevation of the imaging plane in the slab, mm.
    pub elevation: f32,
    /// Shift of the liver along its capsule, mm.
    pub along: f32,
    /// Shift of the liver away from the skin, mm.
    pub down: f32,
    /// Radius of the vessels relative to their mean.
    pub pulse: f32,
}

impl Motion {
    /// Sweep 12 +- 4 mm, breathing 4 +- 1.5 mm, as the recipe says; bounded so
    /// that the beam stays inside the slab of 28 mm.
    pub(crate) fn draw(rng: &mut ChaCha8Rng, sweep_s: f32) -> Self {
        Self {
            sweep_mm: normal(rng, 12.0, 4.0).clamp(4.0, 19.0),
            breathing_mm: normal(rng, 4.0, 1.5).clamp(0.5, 8.0),
            breath_s: normal(rng, 4.0, 0.6).clamp(2.5, 6.0),
            breath_phase: rng.random::<f32>() * TAU,
            heart_hz: normal(rng, 1.2, 0.15).clamp(0.8, 1.8),
            sweep_s,
        }
    }

    /// The pose at `t` seconds.
    pub(crate) fn pose(&self, t: f32) -> Pose {
        let breath = 0.5 * (TAU * t / self.breath_s + self.breath_phase).sin();
        Pose {
            // Each pass begins and ends gently.
            elevation: -0.5 * self.sweep_mm * (PI * t / self.sweep_s).cos(),
            along: self.breathing_mm * breath,
            // The diaphragm moves the liver along, and hardly down.
            down: 0.12 * self.breathing_mm * breath,
            pulse: 1.0 + 0.07 * (TAU * self.heart_hz * t).sin(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_sweeps_its_way_and_back_and_the_breath_comes_back() {
        let motion = Motion {
            sweep_mm: 12.0,
            breathing_mm: 4.0,
            breath_s: 4.0,
            breath_phase: 0.3,
            heart_hz: 1.0,
            sweep_s: 8.0,
        };
        let way = motion.pose(8.0).elevation - motion.pose(0.0).elevation;
        assert!((way - 12.0).abs() < 1e-4);
        assert!((motion.pose(16.0).elevation - motion.pose(0.0).elevation).abs() < 1e-3);
        assert!((motion.pose(1.0).along - motion.pose(5.0).along).abs() < 1e-4);
        let reach = (0..400).map(|i| motion.pose(i as f32 * 0.01).along);
        let reach = reach.fold([0.0_f32; 2], |[low, high], a| [low.min(a), high.max(a)]);
        assert!((reach[1] - reach[0] - 4.0).abs() < 0.01, "{reach:?}");
    }
}
