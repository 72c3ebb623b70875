//! From scatterers to IQ data: what the probe hears before any processing.
//!
//! `iq[line, sample] = sum_k a_k w(e_k) exp(-j 4 pi f d_k / c)`, each scatterer
//! splatted bilinearly at its beam and depth `d_k`, and the whole convolved
//! with a separable Gaussian point spread function (axial sd .32 mm, lateral
//! sd 1.3 lines). The elevation weight `w` is a Gaussian of sd 1.6 mm. Speed
//! of sound c = 1.54 mm/us, so f in MHz gives `2 f / c` turns per mm.
//!
//! This is the hot loop of the phantom: some 100,000 scatterers a frame. The
//! arithmetic is done for a batch at once, without a branch, so that the
//! compiler vectorises it; then the batch is splatted.

use super::motion::Pose;
use super::probe::{CurvedBeams, Face, LINES, LinearBeams, Probe, SAMPLE_MM, ToBeam};
use super::tissue::{Capsule, CapsuleLine, Scatterers, Tissue, near};

/// Speed of sound, mm/us.
const SPEED_OF_SOUND: f32 = 1.54;
/// Sd of the beam across the imaging plane, mm.
const ELEVATION_MM: f32 = 1.6;
/// Sd of the pulse along the beam, mm.
const AXIAL_MM: f32 = 0.32;
/// Sd of the beam in the imaging plane, lines.
const LATERAL_LINES: f32 = 1.3;
/// Where the elevation weight is cut off: at 4 % of its peak.
const ELEVATION_REACH: f32 = 2.55 * ELEVATION_MM;
/// Half length of the PSF in samples and in lines: three sd.
const AXIAL_REACH: usize = 6;
const LATERAL_REACH: usize = 4;
/// Scatterers worked on at once.
const BATCH: usize = 256;
/// What is left of a scatterer's amplitude in blood.
const BLOOD: f32 = 0.06;

/// IQ data of one frame, and the buffers to make it.
///
/// Both planes are `[LATERAL_REACH + lines + LATERAL_REACH, row]` with rows of
/// `AXIAL_REACH + samples + AXIAL_REACH` interleaved (re, im) pairs; the margins
/// catch what the PSF spreads over the edge.
pub(crate) struct Beams {
    samples: usize,
    row: usize,
    raw: Vec<f32>,
    heard: Vec<f32>,
    axial: [f32; AXIAL_REACH + 1],
    lateral: [f32; LATERAL_REACH + 1],
}

/// Half of a symmetric Gaussian kernel whose squares sum to 1.
fn half_kernel<const N: usize>(sd: f32) -> [f32; N] {
    let mut kernel = std::array::from_fn(|i| (-0.5 * (i as f32 / sd).powi(2)).exp());
    let power: f32 = kernel.iter().map(|k: &f32| 2.0 * k * k).sum::<f32>() - 1.0;
    for k in &mut kernel {
        *k /= power.sqrt();
    }
    kernel
}

impl Beams {
    /// Buffers for `samples` samples a line.
    pub(crate) fn new(samples: usize) -> Self {
        let row = 2 * (samples + 2 * AXIAL_REACH);
        let plane = vec![0.0; row * (LINES + 2 * LATERAL_REACH)];
        Self {
            samples,
            row,
            heard: plane.clone(),
            raw: plane,
            axial: half_kernel(AXIAL_MM / SAMPLE_MM),
            lateral: half_kernel(LATERAL_LINES),
        }
    }

    /// One line as interleaved (re, im): `[samples, 2]`.
    pub(crate) fn line(&self, line: usize) -> &[f32] {
        let begin = (line + LATERAL_REACH) * self.row + 2 * AXIAL_REACH;
        &self.heard[begin..begin + 2 * self.samples]
    }

    /// What `probe` hears of `tissue` in `pose`. `ripple` is the probe-fixed
    /// displacement of the capsule's echo along each beam, mm: `[lines]`.
    pub(crate) fn listen(&mut self, tissue: &Tissue, probe: &Probe, pose: &Pose, ripple: &[f32]) {
        match probe.face {
            Face::Curved {
                radius_mm,
                half_angle,
            } => {
                let beams = CurvedBeams::new(radius_mm, half_angle);
                self.listen_with(beams, tissue, probe.frequency_mhz, pose, ripple);
            }
            Face::Linear { half_width_mm } => {
                let beams = LinearBeams::new(half_width_mm);
                self.listen_with(beams, tissue, probe.frequency_mhz, pose, ripple);
            }
        }
    }

    fn listen_with(
        &mut self,
        beams: impl ToBeam,
        tissue: &Tissue,
        frequency: f32,
        pose: &Pose,
        ripple: &[f32],
    ) {
        self.raw.fill(0.0);
        let turns_per_mm = 2.0 * frequency / SPEED_OF_SOUND;
        let still = Pose {
            along: 0.0,
            down: 0.0,
            ..*pose
        };
        self.hear_scatterers(beams, &tissue.wall, tissue.line, &still, turns_per_mm);
        self.hear_scatterers(beams, &tissue.liver, tissue.line, pose, turns_per_mm);
        self.hear_capsule(
            beams,
            &tissue.capsule,
            tissue.line,
            pose,
            turns_per_mm,
            ripple,
        );
        self.spread();
    }

    fn hear_scatterers(
        &mut self,
        beams: impl ToBeam,
        scatterers: &Scatterers,
        rest: CapsuleLine,
        pose: &Pose,
        turns_per_mm: f32,
    ) {
        let mut lines = [0.0; BATCH];
        let mut depths = [0.0; BATCH];
        let mut re = [0.0; BATCH];
        let mut im = [0.0; BATCH];
        let run = near(&scatterers.e, pose.elevation, ELEVATION_REACH);
        for begin in run.clone().step_by(BATCH) {
            let batch = begin..run.end.min(begin + BATCH);
            let count = batch.len();
            let (u, v) = (&scatterers.u[batch.clone()], &scatterers.v[batch.clone()]);
            let (e, a) = (
                &scatterers.e[batch.clone()],
                &scatterers.amplitude[batch.clone()],
            );
            let vessel = &scatterers.vessel[batch];
            for i in 0..count {
                let x = u[i] + pose.along;
                let y = rest.y_mm(x) + v[i] + pose.down;
                (lines[i], depths[i]) = beams.to_beam(x, y);
                let (cos, sin) = phasor(depths[i] * turns_per_mm);
                let blood = if vessel[i] < pose.pulse { BLOOD } else { 1.0 };
                let a = a[i] * blood * elevation_weight(e[i] - pose.elevation);
                (re[i], im[i]) = (a * cos, -a * sin);
            }
            for i in 0..count {
                self.splat(lines[i], depths[i], re[i], im[i]);
            }
        }
    }

    fn hear_capsule(
        &mut self,
        beams: impl ToBeam,
        capsule: &Capsule,
        rest: CapsuleLine,
        pose: &Pose,
        turns_per_mm: f32,
        ripple: &[f32],
    ) {
        for i in near(&capsule.e, pose.elevation, ELEVATION_REACH) {
            let x = capsule.u[i] + pose.along;
            let y = rest.y_mm(x) + capsule.v[i] + pose.down;
            let (line, depth) = beams.to_beam(x, y);
            if !(0.0..(LINES - 1) as f32).contains(&line) {
                continue;
            }
            // The artefact belongs to the beam, whatever tissue lies under it.
            let (l, between) = (line as usize, line.fract());
            let depth = depth + ripple[l] * (1.0 - between) + ripple[l + 1] * between;
            let (cos, sin) = phasor(depth * turns_per_mm);
            let w = elevation_weight(capsule.e[i] - pose.elevation);
            let [a, b] = capsule.phasor[i];
            self.splat(
                line,
                depth,
                w * (a * cos + b * sin),
                w * (b * cos - a * sin),
            );
        }
    }

    /// Adds (re, im) to the four cells around a position in beam space.
    #[inline]
    fn splat(&mut self, line: f32, depth: f32, re: f32, im: f32) {
        // Positions counted from the margins' corner, which lets echoes just
        // outside the picture spread into it.
        let across = line + LATERAL_REACH as f32;
        let along = depth * (1.0 / SAMPLE_MM) + AXIAL_REACH as f32;
        let last_line = (LINES + 2 * LATERAL_REACH - 1) as f32;
        let last_sample = (self.samples + 2 * AXIAL_REACH - 1) as f32;
        if !(across >= 0.0 && across < last_line && along >= 0.0 && along < last_sample) {
            return;
        }
        let (l, s) = (across as usize, along as usize);
        let (fl, fs) = (across - l as f32, along - s as f32);
        let weights = [
            (1.0 - fl) * (1.0 - fs),
            (1.0 - fl) * fs,
            fl * (1.0 - fs),
            fl * fs,
        ];
        let at = l * self.row + 2 * s;
        let [here, next] = [at, at + self.row];
        for (start, w) in [
            (here, [weights[0], weights[1]]),
            (next, [weights[2], weights[3]]),
        ] {
            let cells = &mut self.raw[start..start + 4];
            cells[0] += w[0] * re;
            cells[1] += w[0] * im;
            cells[2] += w[1] * re;
            cells[3] += w[1] * im;
        }
    }

    /// Convolves with the PSF: along the beams, then across them.
    fn spread(&mut self) {
        let Self {
            row, raw, heard, ..
        } = self;
        let row = *row;
        let margin = 2 * AXIAL_REACH;
        let inner = row - 2 * margin;
        for (from, to) in raw.chunks_exact(row).zip(heard.chunks_exact_mut(row)) {
            let to = &mut to[margin..margin + inner];
            for (t, f) in to.iter_mut().zip(&from[margin..]) {
                *t = self.axial[0] * f;
            }
            for (j, k) in self.axial.iter().enumerate().skip(1) {
                let before = &from[margin - 2 * j..][..inner];
                let after = &from[margin + 2 * j..][..inner];
                for ((t, b), a) in to.iter_mut().zip(before).zip(after) {
                    *t += k * (b + a);
                }
            }
        }
        // Across: from `heard` back into `raw`, then swap the two.
        for l in LATERAL_REACH..LATERAL_REACH + LINES {
            let from = |l: usize| &heard[l * row + margin..][..inner];
            let to = &mut raw[l * row + margin..][..inner];
            for (t, f) in to.iter_mut().zip(from(l)) {
                *t = self.lateral[0] * f;
            }
            for (j, k) in self.lateral.iter().enumerate().skip(1) {
                for ((t, b), a) in to.iter_mut().zip(from(l - j)).zip(from(l + j)) {
                    *t += k * (b + a);
                }
            }
        }
        std::mem::swap(raw, heard);
    }
}

/// (cos, sin) of `turns` full turns, `turns` >= 0 within the picture; good to
/// 3e-4. Half the angle is brought into [-pi/2, pi/2], where short series
/// suffice, and doubled.
#[inline]
fn phasor(turns: f32) -> (f32, f32) {
    // Truncation, not floor, which baseline x86-64 would call a function for.
    let half = std::f32::consts::PI * (turns - (turns as i32) as f32 - 0.5);
    let q = half * half;
    let s = half * (1.0 + q * (-1.0 / 6.0 + q * (1.0 / 120.0 + q * (-1.0 / 5040.0))));
    let c = 1.0 + q * (-0.5 + q * (1.0 / 24.0 + q * (-1.0 / 720.0 + q * (1.0 / 40320.0))));
    // The half turn taken off above comes back as a change of sign.
    (s * s - c * c, -2.0 * s * c)
}

/// exp(-e^2 / (2 sd^2)) as (1 - q/32)^32, which needs no call and reaches zero.
#[inline]
fn elevation_weight(e: f32) -> f32 {
    let q = e * e * (0.5 / (ELEVATION_MM * ELEVATION_MM));
    let p = (1.0 - q * (1.0 / 32.0)).max(0.0);
    let p2 = p * p;
    let p4 = p2 * p2;
    let p8 = p4 * p4;
    let p16 = p8 * p8;
    p16 * p16
}

/// Mean power of parenchyma in IQ data at `depth` mm: scatterers of mean square
/// amplitude 1, `density` a mm^3, in a cell of one sample by one line, weighted
/// by the squared beam profile across. The PSF keeps power.
pub(crate) fn parenchyma_power(density: f32, probe: &Probe, depth: f32) -> f32 {
    let across = ELEVATION_MM * std::f32::consts::PI.sqrt();
    density * across * SAMPLE_MM * probe.line_pitch_mm(depth)
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::super::rng::{Purpose, normal, stream};
    use super::*;

    const PROBE: Probe = Probe {
        face: Face::Linear {
            half_width_mm: 25.0,
        },
        frequency_mhz: 4.0,
        depth_mm: 45.0,
    };
    const STILL: Pose = Pose {
        elevation: 0.0,
        along: 0.0,
        down: 0.0,
        pulse: 0.0,
    };

    #[test]
    fn the_quick_phasor_is_a_phasor() {
        for i in 0..1000 {
            let turns = i as f32 * 0.137;
            let (cos, sin) = phasor(turns);
            let angle = std::f32::consts::TAU * turns.fract();
            assert!((cos - angle.cos()).abs() < 1e-3 && (sin - angle.sin()).abs() < 1e-3);
        }
    }

    /// Envelope of a homogeneous block of `density` scatterers a mm^3 in three
    /// planes, well inside the picture.
    fn envelope(density: f32) -> Vec<f32> {
        let block = [60.0_f32, 24.0, 10.0];
        let count = (density * block.iter().product::<f32>()) as usize;
        let mut beams = Beams::new(PROBE.samples());
        let mut all = Vec::new();
        for plane in 0..3 {
            let rng = &mut stream(4, plane, 0, Purpose::Tissue);
            let mut tissue = Tissue {
                line: CapsuleLine {
                    depth_mm: 15.0,
                    slope: 0.0,
                    bend_mm: 1e6,
                },
                wall: Scatterers::default(),
                liver: Scatterers::default(),
                capsule: Capsule::default(),
                density,
            };
            for i in 0..count {
                let e = (i as f32 / count as f32 - 0.5) * block[2];
                let [u, v] = [0, 1].map(|axis| (rng.random::<f32>() - 0.5) * block[axis]);
                let liver = &mut tissue.liver;
                liver.push([u, v + 0.5 * block[1], e], normal(rng, 0.0, 1.0), f32::MAX);
            }
            beams.listen(&tissue, &PROBE, &STILL, &[0.0; LINES]);
            for line in 10..LINES - 10 {
                let (pairs, _) = beams.line(line)[2 * 110..2 * 225].as_chunks::<2>();
                all.extend(pairs.iter().map(|[re, im]| re.hypot(*im)));
            }
        }
        all
    }

    fn snr(envelope: &[f32]) -> f32 {
        let count = envelope.len() as f32;
        let mean = envelope.iter().sum::<f32>() / count;
        let variance = envelope.iter().map(|e| (e - mean).powi(2)).sum::<f32>() / count;
        mean / variance.sqrt()
    }

    #[test]
    fn fully_developed_speckle_has_the_snr_of_a_rayleigh_envelope() {
        // sqrt(pi / (4 - pi)) = 1.91. Three planes of 44 x 18 mm hold some 1500
        // speckles: standard error about 0.04. The intensity's second moment is
        // 2 + 3 / N with N = density x 3.3 mm^3, so 20 a mm^3 is developed.
        let many = snr(&envelope(20.0));
        assert!((many - 1.91).abs() < 0.1, "{many}");
        // A handful of scatterers far apart is not, and it shows.
        let few = snr(&envelope(0.1));
        assert!(few < 1.3, "{few}");
    }

    #[test]
    fn parenchyma_has_the_power_it_is_normalised_by() {
        let seen = envelope(5.0);
        let power = seen.iter().map(|e| e * e).sum::<f32>() / seen.len() as f32;
        let expected = parenchyma_power(5.0, &PROBE, 25.0);
        // What bilinear splatting and the cut of the beam lose is small.
        assert!((power / expected).ln().abs() < 0.2, "{power} {expected}");
    }

    #[test]
    fn an_echo_is_as_wide_as_the_point_spread_function() {
        let mut beams = Beams::new(PROBE.samples());
        beams.splat(80.0, 100.0 * SAMPLE_MM, 1.0, 0.0);
        beams.spread();
        let at = |line: usize, sample: usize| beams.line(line)[2 * sample];
        let peak = at(80, 100);
        // One sd away a Gaussian has fallen to exp(-1/2).
        assert!((at(80, 102) / peak - (-0.5_f32).exp()).abs() < 0.01);
        let lateral = (-0.5_f32 / (1.3 * 1.3)).exp();
        assert!((at(81, 100) / peak - lateral).abs() < 0.01);
    }
}
