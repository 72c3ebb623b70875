use serde::{Deserialize, Serialize};

use super::PatientAnswer;
use crate::clinical::{Elastography, Indices, Milli, Rater, TARGETS};
use crate::domain::{ModelHash, Probability, Stage};

/// What one rater says to "at least this stage?" about one patient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Opinion {
    /// Who says so.
    pub rater: Rater,
    /// Which question.
    pub target: Stage,
    /// The severer the higher; ranked, never compared between raters.
    pub score: u32,
    /// Yes, no, or nothing (abstained, between cut-offs, no cut-off).
    pub verdict: Option<bool>,
}

/// Scores have this many bits: probabilities in 2^-20, indices in thousandths.
pub(super) const SCORE_BITS: u32 = 20;
const LARGEST_SCORE: u32 = (1 << SCORE_BITS) - 1;

fn score_of_milli(value: Milli) -> u32 {
    u32::try_from(value.max(0)).map_or(LARGEST_SCORE, |score| score.min(LARGEST_SCORE))
}

fn score_of_probability(p: Probability) -> u32 {
    u32::try_from(p.to_raw() >> (32 - SCORE_BITS)).map_or(0, |score| score.min(LARGEST_SCORE))
}

/// An abstaining model still ranks the patient: its AUC counts everyone it saw.
pub(super) fn of_model(model: ModelHash, answer: &PatientAnswer) -> Vec<Opinion> {
    let half = Probability::from_raw(1 << 31);
    TARGETS
        .into_iter()
        .zip(answer.at_least)
        .filter_map(|(target, p)| {
            let p = p?;
            Some(Opinion {
                rater: Rater::Model(model),
                target,
                score: score_of_probability(p),
                verdict: answer.abstention.is_none().then_some(p >= half),
            })
        })
        .collect()
}

pub(super) fn of_indices(indices: &Indices) -> Vec<Opinion> {
    TARGETS
        .into_iter()
        .flat_map(|target| {
            let at = |stage, verdict: Option<bool>| verdict.filter(|_| target == stage);
            [
                Opinion {
                    rater: Rater::Fib4,
                    target,
                    score: score_of_milli(indices.fib4),
                    verdict: at(Stage::F3, indices.fib4_class.decided()),
                },
                Opinion {
                    rater: Rater::Apri,
                    target,
                    score: score_of_milli(indices.apri),
                    verdict: at(Stage::F2, indices.apri_class.decided()),
                },
            ]
        })
        .collect()
}

pub(super) fn of_elastography(measured: &Elastography) -> Vec<Opinion> {
    TARGETS
        .into_iter()
        .map(|target| Opinion {
            rater: Rater::Elastography,
            target,
            score: score_of_milli(measured.stiffness),
            verdict: measured.at_least(target),
        })
        .collect()
}
