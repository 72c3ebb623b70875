//! Who is scanned: the stage, the laboratory's and the elastograph's numbers,
//! and the two properties of the tissue that the pictures show.
//!
//! The medians by stage are the recipe of the synthetic cohort; no number here
//! was measured on a person. Called by [`super::Recording`] and the cohort's
//! writer, which draw the same patient from the same stream.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::rng::{self, Purpose};
pub use crate::clinical::Sex;
use crate::domain::Stage;

/// Share of patients in F0 to F4.
pub const STAGE_SHARES: [f64; 5] = [0.12, 0.35, 0.23, 0.14, 0.16];

/// What is drawn for one stage: medians (means for the age).
struct StageMedians {
    age_years: f64,
    ast_u_l: f64,
    ast_over_alt: f64,
    platelets_10e9_l: f64,
    swe_kpa: f64,
    /// Spread of the log-amplitude of scatterers.
    echotexture: f64,
    /// RMS height of the capsule, mm.
    nodularity_mm: f64,
}

#[rustfmt::skip]
const MEDIANS: [StageMedians; 5] = [
    StageMedians { age_years: 42.0, ast_u_l: 26.0, ast_over_alt: 0.92, platelets_10e9_l: 215.0, swe_kpa:  5.6, echotexture: 0.25, nodularity_mm: 0.15 },
    StageMedians { age_years: 42.0, ast_u_l: 29.0, ast_over_alt: 0.92, platelets_10e9_l: 205.0, swe_kpa:  6.3, echotexture: 0.29, nodularity_mm: 0.22 },
    StageMedians { age_years: 43.0, ast_u_l: 34.0, ast_over_alt: 0.95, platelets_10e9_l: 185.0, swe_kpa:  8.0, echotexture: 0.34, nodularity_mm: 0.38 },
    StageMedians { age_years: 45.0, ast_u_l: 40.0, ast_over_alt: 1.00, platelets_10e9_l: 165.0, swe_kpa: 10.0, echotexture: 0.39, nodularity_mm: 0.60 },
    StageMedians { age_years: 47.0, ast_u_l: 45.0, ast_over_alt: 1.08, platelets_10e9_l: 125.0, swe_kpa: 14.5, echotexture: 0.45, nodularity_mm: 1.00 },
];

/// A synthetic patient.
#[derive(Clone, Debug, PartialEq)]
pub struct Patient {
    /// Position in the cohort, from 1.
    pub number: u32,
    /// METAVIR stage: the reference standard.
    pub stage: Stage,
    /// Sex; has no influence on anything.
    pub sex: Sex,
    /// Age in years, 18 to 85.
    pub age_years: f64,
    /// Aspartate aminotransferase, U/L.
    pub ast_u_l: f64,
    /// Alanine aminotransferase, U/L.
    pub alt_u_l: f64,
    /// Platelets, 10^9/L.
    pub platelets_10e9_l: f64,
    /// Shear-wave elastography, kPa.
    pub swe_kpa: f64,
    /// S in the scatterers' amplitude N(0,1) exp(S T): how coarse the
    /// echotexture is.
    pub echotexture: f64,
    /// RMS height of the capsule's nodularity, mm.
    pub nodularity_mm: f64,
}

impl Patient {
    /// Draws patient `number` of the cohort of `seed`. With `stage` the stage
    /// is given instead of drawn; every other draw stays the same.
    ///
    /// ```
    /// use hepaflow::study::phantom::Patient;
    /// assert_eq!(Patient::draw(7, 1, None), Patient::draw(7, 1, None));
    /// assert_eq!(Patient::draw(7, 1, None).id(), "PH-0001");
    /// ```
    pub fn draw(seed: u64, number: u32, stage: Option<Stage>) -> Self {
        let rng = &mut rng::stream(seed, number, 0, Purpose::Patient);
        let drawn = draw_stage(rng);
        let stage = stage.unwrap_or(drawn);
        let median = &MEDIANS[stage as usize];
        let sex = if rng.random_bool(0.62) {
            Sex::Male
        } else {
            Sex::Female
        };
        let age_years = f64::from(rng::normal(rng, median.age_years as f32, 10.0));
        let ast_u_l = rng::lognormal(rng, median.ast_u_l, 0.45);
        let ratio = rng::lognormal(rng, median.ast_over_alt, 0.25);
        let platelets = rng::lognormal(rng, median.platelets_10e9_l, 0.30);
        // Inflammation stiffens the liver too, and shows in AST.
        let inflamed = (ast_u_l / median.ast_u_l).powf(0.15);
        let swe_kpa = rng::lognormal(rng, median.swe_kpa, 0.27) * inflamed;
        Self {
            number,
            stage,
            sex,
            age_years: age_years.clamp(18.0, 85.0).round(),
            ast_u_l: ast_u_l.round().max(1.0),
            alt_u_l: (ast_u_l / ratio).round().max(1.0),
            platelets_10e9_l: platelets.round().max(1.0),
            swe_kpa: (swe_kpa * 10.0).round() / 10.0,
            echotexture: rng::lognormal(rng, median.echotexture, 0.30),
            nodularity_mm: rng::lognormal(rng, median.nodularity_mm, 0.40),
        }
    }

    /// The identifier in every table and file: `PH-0001`.
    pub fn id(&self) -> String {
        format!("PH-{:04}", self.number)
    }
}

fn draw_stage(rng: &mut ChaCha8Rng) -> Stage {
    let mut left = rng.random::<f64>();
    for (stage, share) in Stage::ALL.into_iter().zip(STAGE_SHARES) {
        left -= share;
        if left < 0.0 {
            return stage;
        }
    }
    Stage::F4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cohort(count: u32) -> Vec<Patient> {
        (1..=count).map(|n| Patient::draw(11, n, None)).collect()
    }

    /// Share of (diseased, healthy) pairs that `score` puts in order: the AUC
    /// by its definition.
    fn auc(patients: &[Patient], score: impl Fn(&Patient) -> f64) -> f64 {
        let side = |diseased: bool| -> Vec<f64> {
            let side = patients
                .iter()
                .filter(|p| (p.stage >= Stage::F2) == diseased);
            side.map(&score).collect()
        };
        let (diseased, healthy) = (side(true), side(false));
        let mut wins = 0.0;
        for d in &diseased {
            for h in &healthy {
                wins +=
                    f64::from(u8::from(d > h)) + 0.5 * f64::from(u8::from(d.total_cmp(h).is_eq()));
            }
        }
        wins / (diseased.len() * healthy.len()) as f64
    }

    fn median(mut values: Vec<f64>) -> f64 {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    #[test]
    fn stages_come_in_their_shares() {
        let patients = cohort(8000);
        for (stage, share) in Stage::ALL.into_iter().zip(STAGE_SHARES) {
            let seen = patients.iter().filter(|p| p.stage == stage).count() as f64 / 8000.0;
            assert!((seen - share).abs() < 0.02, "{stage}: {seen}, not {share}");
        }
    }

    #[test]
    fn indices_separate_significant_fibrosis_as_well_as_in_clinics() {
        let patients = cohort(4000);
        let swe = auc(&patients, |p| p.swe_kpa);
        let fib4 = auc(&patients, |p| {
            p.age_years * p.ast_u_l / (p.platelets_10e9_l * p.alt_u_l.sqrt())
        });
        let apri = auc(&patients, |p| p.ast_u_l / p.platelets_10e9_l);
        // Standard error of an AUC with 4000 patients: below 0.008.
        assert!((swe - 0.86).abs() < 0.03, "SWE {swe:.3}");
        assert!((fib4 - 0.77).abs() < 0.03, "FIB-4 {fib4:.3}");
        assert!((apri - 0.76).abs() < 0.03, "APRI {apri:.3}");
    }

    #[test]
    fn every_stage_has_the_medians_of_the_recipe() {
        for (stage, wanted) in Stage::ALL.into_iter().zip(&MEDIANS) {
            let patients: Vec<_> = (1..=2000)
                .map(|n| Patient::draw(5, n, Some(stage)))
                .collect();
            assert!(patients.iter().all(|p| p.stage == stage));
            let check = |name: &str, wanted: f64, value: fn(&Patient) -> f64| {
                let seen = median(patients.iter().map(value).collect());
                // Log-SD .45 over 2000 patients: standard error of the median 1.3 %.
                let off = (seen / wanted).ln().abs();
                assert!(off < 0.06, "{stage} {name}: {seen}, not {wanted}");
            };
            check("age", wanted.age_years, |p| p.age_years);
            check("AST", wanted.ast_u_l, |p| p.ast_u_l);
            check("AST/ALT", wanted.ast_over_alt, |p| p.ast_u_l / p.alt_u_l);
            check("platelets", wanted.platelets_10e9_l, |p| p.platelets_10e9_l);
            check("SWE", wanted.swe_kpa, |p| p.swe_kpa);
            check("S", wanted.echotexture, |p| p.echotexture);
            check("A", wanted.nodularity_mm, |p| p.nodularity_mm);
        }
    }
}
