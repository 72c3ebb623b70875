//! The phantom: a synthetic cohort that stands in for patients.
//!
//! No real cohort can be shipped, so this simulates one, from the stage of
//! fibrosis to the file that a scanner would have written. Every result on it
//! is a result on synthetic data and must say so. It is no model of any real
//! liver: the stage acts on the pictures through two numbers alone, the
//! coarseness of the echotexture and the roughness of the capsule
//! ([`Patient`]), and everything else is independent of it.
//!
//! The way of one frame, a file each:
//!
//! 1. `tissue`: scatterers, capsule and vessels of the patient's body;
//! 2. `motion`: where the probe's sweep, breath and heart have moved them;
//! 3. `probe`, `beam`: splatted into IQ data and spread by the beam's shape,
//!    with the capsule's echo displaced by the probe-fixed ripple;
//! 4. `receive`: noise, gain, shadows, log compression;
//! 5. `sector`: scan conversion to the picture;
//! 6. `overlay`, `episodes`: burned-in text, freezes, Doppler, dual screens.
//!
//! A bump of the capsule line that moves with the tissue is disease; one that
//! stays with the probe is the ripple. One frame cannot tell them apart, which
//! is why motion is informative here. [`Ablation`] takes that away again.
//!
//! Measured on 200 patients of 4 s, seed 21, in beam space, AUC at >= F2 of the
//! roughness of the tracked capsule line (standard error about .03): in one
//! frame .66, of what moves over time .86; with the ripple off .89 and .88. A
//! frame of 800x600 takes 4.5 ms on one core. Both can be measured again with
//! `cargo test --release --test phantom -- --ignored --nocapture`.
//!
//! [`Recording`] paints frames in memory; [`record`] writes one file and
//! [`cohort::write`] a whole cohort directory (both need the feature
//! `gstreamer`). The command is `hepaflow phantom`.

mod beam;
#[cfg(feature = "gstreamer")]
pub mod cohort;
mod episodes;
mod field;
mod font;
mod motion;
mod overlay;
mod patient;
mod probe;
mod receive;
mod recording;
mod rng;
mod scan;
mod sector;
mod tissue;
#[cfg(feature = "gstreamer")]
mod writer;

pub use super::picture::{Picture, Pixels};
pub use episodes::Episode;
#[cfg(feature = "gstreamer")]
pub(crate) use font::glyph;
pub use motion::Motion;
pub use patient::{Patient, STAGE_SHARES, Sex};
pub use probe::{Face, Probe};
pub use recording::{Painter, Recording};
pub use scan::{Scan, Shadow};
pub use sector::Placement;
pub use tissue::CapsuleLine;
#[cfg(feature = "gstreamer")]
pub use writer::{Container, Error, record, write_recording};

use serde::{Deserialize, Serialize};

use crate::domain::{FrameSize, Stage};

/// What is taken away from a recording, to see what a model lives on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ablation {
    /// Nothing.
    #[default]
    None,
    /// No probe-fixed ripple: one frame then shows as much as many.
    RippleOff,
    /// The frames in random order: their content without their sequence.
    ShuffledFrames,
    /// One instant for all frames, with fresh noise each: no motion at all.
    OneFrameRepeated,
}

/// Which recording to make. The same specification gives the same pixels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordingSpec {
    /// The cohort's seed.
    pub seed: u64,
    /// Which patient of it, from 1.
    pub patient: u32,
    /// Which of the patient's clips, from 0 (below 32768).
    pub clip: u16,
    /// The patient's stage; drawn when not given.
    pub stage: Option<Stage>,
    /// Picture size; drawn from 800x600 to 1024x768 when not given.
    pub frame_size: Option<FrameSize>,
    /// Length in seconds; drawn from 2 to 10 when not given.
    pub seconds: Option<f32>,
    /// How long the probe's way across the liver takes, to and fro; all of the recording
    /// when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweep_seconds: Option<f32>,
    /// Frames a second; drawn from 20 to 60 when not given.
    pub frames_per_second: Option<u32>,
    /// What is taken away.
    pub ablation: Ablation,
    /// Probability of an [`Episode`].
    pub episode_rate: f32,
    /// Scatterers in the slab; the recipe's 300,000 give fully developed
    /// speckle, fewer are for quick tests.
    pub scatterers: usize,
}

impl RecordingSpec {
    /// The first clip of `patient`, everything drawn, uninterrupted.
    pub const fn new(seed: u64, patient: u32) -> Self {
        Self {
            seed,
            patient,
            clip: 0,
            stage: None,
            frame_size: None,
            seconds: None,
            sweep_seconds: None,
            frames_per_second: None,
            ablation: Ablation::None,
            episode_rate: 0.0,
            scatterers: 300_000,
        }
    }
}
