//! Random numbers that depend on what is drawn, never on when.
//!
//! Every patient, clip and purpose has its own `ChaCha` stream of the one seed,
//! so a cohort has the same pixels whatever the number of jobs, and switching
//! one effect off (an ablation) leaves every other draw as it was.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

/// What a stream of random numbers is for. Values are part of the format:
/// changing one changes every cohort.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// Stage, laboratory values, biology.
    Patient = 0,
    /// Scatterers, capsule, vessels.
    Tissue = 1,
    /// Probe, machine settings and motion of one clip.
    Scan = 2,
    /// The probe-fixed ripple of one clip.
    Ripple = 3,
    /// Electronic noise of one clip.
    Noise = 4,
    /// Freeze, Doppler box, dual screen of one clip.
    Episodes = 5,
    /// The order of shuffled frames.
    Order = 6,
}

/// The random numbers of `patient` and `clip` for `purpose` under `seed`.
pub(crate) fn stream(seed: u64, patient: u32, clip: u16, purpose: Purpose) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::from(patient) << 32 | u64::from(clip) << 8 | purpose as u64);
    rng
}

/// One draw from N(`mean`, `sd`^2).
pub(crate) fn normal(rng: &mut ChaCha8Rng, mean: f32, sd: f32) -> f32 {
    let z: f32 = StandardNormal.sample(rng);
    mean + sd * z
}

/// One draw of a quantity whose logarithm is N(ln `median`, `log_sd`^2).
pub(crate) fn lognormal(rng: &mut ChaCha8Rng, median: f64, log_sd: f64) -> f64 {
    let z: f64 = StandardNormal.sample(rng);
    median * (log_sd * z).exp()
}

/// `count` draws from N(0, 1).
pub(crate) fn normals(rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
    StandardNormal.sample_iter(rng).take(count).collect()
}
