//! From IQ data to grey levels in beam space: noise, gain and log compression.
//!
//! Along each beam, at depth `d` (cm) and frequency `f` (MHz):
//!
//! - the echo is weaker by `2 alpha f d` dB, and the machine raises everything
//!   by `2 * 0.5 f d` dB (time gain compensation); what is left of the echo is
//!   `-2 (alpha - 0.5) f d`, and the noise grows by `f d` (up to a limit);
//! - TGC error, shadows and gain are added in dB;
//! - the envelope `|iq + noise|` becomes grey by
//!   `255 (0.42 + dB / dynamic range)`, clamped: 0 dB is mean parenchyma.

use rand::Rng;

use super::RecordingSpec;
use super::beam::{Beams, parenchyma_power};
use super::probe::{LINES, SAMPLE_MM};
use super::rng::{self, Purpose};
use super::scan::Scan;

/// Grey level of mean parenchyma at nominal gain, as a share of white.
const PARENCHYMA_LEVEL: f32 = 0.42;
/// The most that TGC amplifies, dB: a machine's sliders end.
const TGC_LIMIT_DB: f32 = 42.0;
/// Normal deviates that noise is read from at a random place for every line.
const NOISE_TABLE: usize = 1 << 16;

/// The tables that one recording is processed with.
pub(crate) struct Receiver {
    samples: usize,
    /// Amplitude factor of the echo: `[lines, samples]`.
    echo: Vec<f32>,
    /// Amplitude of the noise: `[samples]`.
    noise: Vec<f32>,
    normals: Vec<f32>,
    /// Mixed into every frame's noise.
    salt: u64,
    grey_per_db: f32,
}

fn amplitude(db: f32) -> f32 {
    10.0_f32.powf(db / 20.0)
}

impl Receiver {
    /// Works the tables out. `density` is the tissue's scatterers per mm^3.
    pub(crate) fn new(spec: &RecordingSpec, scan: &Scan, density: f32) -> Self {
        let rng = &mut rng::stream(spec.seed, spec.patient, spec.clip, Purpose::Noise);
        let salt = rng.random();
        let normals = rng::normals(rng, NOISE_TABLE);
        let samples = scan.probe.samples();
        let frequency = scan.probe.frequency_mhz;

        let mut common = Vec::with_capacity(samples);
        let mut echo_of_depth = Vec::with_capacity(samples);
        for s in 0..samples {
            let mm = s as f32 * SAMPLE_MM;
            let round_trip = 2.0 * frequency * mm / 10.0;
            let tgc = (0.5 * round_trip).min(TGC_LIMIT_DB);
            let gain = scan.gain_db + slider(&scan.tgc_error_db, mm / scan.probe.depth_mm);
            common.push(tgc + gain);
            let power = parenchyma_power(density, &scan.probe, mm);
            // Right under the face the transducer still rings.
            let ringing = 14.0 * (-mm / 1.2).exp();
            let db = tgc - scan.attenuation * round_trip + gain + ringing;
            echo_of_depth.push(amplitude(db) / power.sqrt());
        }
        let mut echo = Vec::with_capacity(LINES * samples);
        for line in 0..LINES {
            for (s, of_depth) in echo_of_depth.iter().enumerate() {
                let mm = s as f32 * SAMPLE_MM;
                let dark: f32 = scan
                    .shadows
                    .iter()
                    .map(|shadow| {
                        let aside = (line as f32 - shadow.line) / shadow.lines;
                        let below = ((mm - shadow.from_mm) / 4.0).clamp(0.0, 1.0);
                        shadow.db * below * (-0.5 * aside * aside).exp()
                    })
                    .sum();
                echo.push(of_depth * amplitude(-dark));
            }
        }
        Self {
            samples,
            echo,
            noise: common
                .iter()
                .map(|db| amplitude(db + scan.noise_db))
                .collect(),
            normals,
            salt,
            grey_per_db: 255.0 / scan.dynamic_range_db,
        }
    }

    /// Processes one frame into `grey`: `[lines, samples]`. The noise depends on
    /// `frame` alone.
    pub(crate) fn process(&self, beams: &Beams, frame: u64, grey: &mut Vec<u8>) {
        grey.resize(LINES * self.samples, 0);
        // 10 log10 = 3.0103 log2; the envelope's square saves its root.
        let slope = 10.0 * std::f32::consts::LOG10_2 * self.grey_per_db;
        let offset = 255.0 * PARENCHYMA_LEVEL;
        for (line, out) in grey.chunks_exact_mut(self.samples).enumerate() {
            let place = mix(self.salt ^ mix(frame << 16 | line as u64)) as usize;
            // One read serves both parts: interleaved, like the data.
            let begin = place % (NOISE_TABLE - 2 * self.samples);
            let noise = self.normals[begin..].chunks_exact(2);
            let echo = &self.echo[line * self.samples..][..self.samples];
            let pairs = beams.line(line).chunks_exact(2);
            for ((((out, iq), n), a), b) in out
                .iter_mut()
                .zip(pairs)
                .zip(noise)
                .zip(echo)
                .zip(&self.noise)
            {
                let re = a * iq[0] + b * n[0];
                let im = a * iq[1] + b * n[1];
                let level = offset + slope * log2(re * re + im * im + 1e-12);
                *out = level.clamp(0.0, 255.0) as u8;
            }
        }
    }
}

/// Six sliders over the depth, joined by straight lines; `share` from 0 to 1.
fn slider(sliders: &[f32; 6], share: f32) -> f32 {
    let position = share.clamp(0.0, 0.999) * 5.0;
    let (i, between) = (position as usize, position.fract());
    sliders[i] * (1.0 - between) + sliders[i + 1] * between
}

/// Base-2 logarithm of a positive number to 0.01: the exponent, and a parabola
/// through the mantissa. A hundredth of an octave is a tenth of a grey level.
#[inline]
fn log2(x: f32) -> f32 {
    let bits = x.to_bits();
    let exponent = (bits >> 23) as i32 - 127;
    let m = f32::from_bits(bits & 0x007f_ffff | 0x3f80_0000) - 1.0;
    exponent as f32 + m * (1.346_555 - 0.346_555 * m)
}

/// The finaliser of the `SplitMix64` generator: a number of its own for every frame and line.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_logarithm_is_a_logarithm() {
        for i in 1..2000 {
            let x = 1e-6 * 1.013_f32.powi(i);
            assert!((log2(x) - x.log2()).abs() < 0.011, "{x}");
        }
    }

    #[test]
    fn sliders_hold_at_their_depths_and_join_between() {
        let sliders = [0.0, 1.0, 2.0, 0.0, 0.0, 5.0];
        assert!((slider(&sliders, 0.2) - 1.0).abs() < 1e-5);
        assert!((slider(&sliders, 0.3) - 1.5).abs() < 1e-5);
        assert!((slider(&sliders, 1.0) - 5.0).abs() < 0.05);
    }
}
