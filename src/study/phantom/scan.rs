//! One recording's settings: everything that differs between scans and says
//! nothing about the stage.
//!
//! Drawn once per clip, independently of the patient's stage, by the recipe's
//! ranges. The receiver's tables are worked out from it in [`super::receive`].

use rand::Rng;

use super::field::{Axis, Field};
use super::motion::Motion;
use super::probe::{LINES, Probe};
use super::rng::{self, Purpose, normal};
use super::{Ablation, RecordingSpec};
use crate::domain::FrameSize;

/// A dark stripe along the beams behind something that lets no sound through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shadow {
    /// The beam in its middle.
    pub line: f32,
    /// Its sd in beams.
    pub lines: f32,
    /// Where it begins, mm below the skin.
    pub from_mm: f32,
    /// How dark it is, dB.
    pub db: f32,
}

/// Probe, machine settings, motion and nuisances of one clip.
#[derive(Clone, Debug, PartialEq)]
pub struct Scan {
    /// The probe.
    pub probe: Probe,
    /// Picture size.
    pub size: FrameSize,
    /// Frames a second.
    pub frames_per_second: u32,
    /// Frames in the recording.
    pub frames: usize,
    /// How the tissue moves.
    pub motion: Motion,
    /// Overall gain, dB.
    pub gain_db: f32,
    /// Displayed dynamic range, dB.
    pub dynamic_range_db: f32,
    /// The body's attenuation, dB/cm/MHz; the machine compensates 0.5.
    pub attenuation: f32,
    /// Error of the operator's TGC sliders, dB, at six depths evenly spaced.
    pub tgc_error_db: [f32; 6],
    /// Electronic noise at the skin relative to parenchyma, dB.
    pub noise_db: f32,
    /// Shadows of ribs and gas.
    pub shadows: Vec<Shadow>,
    /// RMS of the probe-fixed ripple, mm.
    pub ripple_mm: f32,
}

impl Scan {
    /// Draws the settings of `spec`'s clip.
    pub(crate) fn draw(spec: &RecordingSpec) -> Self {
        let rng = &mut rng::stream(spec.seed, spec.patient, spec.clip, Purpose::Scan);
        let probe = Probe::draw(rng);
        let sizes = [(800, 600), (960, 720), (1024, 768)];
        let (width, height) = sizes[rng.random_range(0..sizes.len())];
        let size = spec.frame_size.unwrap_or(FrameSize { height, width });
        let rate = [20, 24, 25, 30, 30, 36, 40, 48, 50, 60][rng.random_range(0..10)];
        let rate = spec.frames_per_second.unwrap_or(rate);
        // Drawn even when given, so that what follows is the same either way.
        let seconds = rng.random_range(2.0..10.0_f32);
        let seconds = spec.seconds.unwrap_or(seconds);
        let frames = ((seconds * rate as f32).round() as usize).max(1);
        let sweep = spec.sweep_seconds.unwrap_or(frames as f32 / rate as f32);
        let motion = Motion::draw(rng, sweep);
        let shadows = (0..[0, 0, 1, 1, 2][rng.random_range(0..5)])
            .map(|_| Shadow {
                line: rng.random_range(0.0..LINES as f32),
                lines: rng.random_range(3.0..9.0),
                from_mm: rng.random_range(2.0..30.0),
                db: rng.random_range(6.0..22.0),
            })
            .collect();
        Self {
            probe,
            size,
            frames_per_second: rate,
            frames,
            motion,
            gain_db: rng.random_range(-6.0..6.0),
            dynamic_range_db: rng.random_range(50.0..70.0),
            attenuation: normal(rng, 0.5, 0.15).clamp(0.2, 0.8),
            tgc_error_db: std::array::from_fn(|_| normal(rng, 0.0, 1.5)),
            noise_db: rng.random_range(-52.0..-44.0),
            shadows,
            ripple_mm: if spec.ablation == Ablation::RippleOff {
                0.0
            } else {
                let rng = &mut rng::stream(spec.seed, spec.patient, spec.clip, Purpose::Ripple);
                rng::lognormal(rng, 0.5, 0.5) as f32
            },
        }
    }

    /// The ripple along each beam, mm: `[lines]`. A smooth curve of 5 mm length
    /// at the capsule, like the capsule's own, so that one frame cannot tell
    /// them apart; but it stays with the probe.
    pub(crate) fn ripple(&self, spec: &RecordingSpec, capsule_mm: f32) -> Vec<f32> {
        // The RMS was drawn from the clip's own stream; this is another one.
        let clip = spec.clip | 1 << 15;
        let rng = &mut rng::stream(spec.seed, spec.patient, clip, Purpose::Ripple);
        let pitch = self.probe.line_pitch_mm(capsule_mm);
        let axis = Axis {
            begin: 0.0,
            end: pitch * LINES as f32,
            length: 5.0,
        };
        let field = Field::draw(rng, [axis]);
        (0..LINES)
            .map(|line| self.ripple_mm * field.at([line as f32 * pitch]))
            .collect()
    }
}
