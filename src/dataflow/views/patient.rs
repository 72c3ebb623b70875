use differential_dataflow::difference::{IsZero, Semigroup};
use serde::{Deserialize, Serialize};

use super::ClipFact;
use crate::clinical::TARGETS;
use crate::domain::{Abstention, ModelHash, PatientId, Probability, Stage, StageRange};

/// A patient under a model.
pub type PatientKey = (PatientId, ModelHash);

/// The standing answer for one patient under one model.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PatientAnswer {
    /// Clips that count.
    pub used: u64,
    /// Clips of weight 0.
    pub left_out: u64,
    /// Sum of the weights of the clips that count, in 1/256.
    pub weight: u64,
    /// Weighted mean probability of each class, `[K]`; empty without clips.
    pub probabilities: Vec<Probability>,
    /// P(>= F2), P(>= F3), P(F4), where the classes can tell.
    pub at_least: [Option<Probability>; 3],
    /// Why nothing is concluded, if nothing is.
    pub abstention: Option<Abstention>,
}

impl PatientAnswer {
    /// Fewest usable clips for a conclusion.
    pub const FEWEST_CLIPS: i64 = 3;
    /// Largest share of clips that may see another class, in percent.
    pub const DISSENT_PERCENT: i64 = 40;
}

/// The running evidence of one patient and model: a group, so that what was
/// added is taken back exactly.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Evidence {
    used: i64,
    left_out: i64,
    weight: i64,
    /// Weighted sums of the probabilities, in 2^-32 / 256; 2^22 clips fit.
    sums: Vec<i64>,
    /// How many clips find each class likeliest, the milder one on a tie.
    votes: Vec<i64>,
}

impl IsZero for Evidence {
    fn is_zero(&self) -> bool {
        self.used == 0
            && self.left_out == 0
            && self.weight == 0
            && self.sums.iter().chain(&self.votes).all(|&value| value == 0)
    }
}

impl Semigroup for Evidence {
    fn plus_equals(&mut self, other: &Self) {
        self.used += other.used;
        self.left_out += other.left_out;
        self.weight += other.weight;
        add(&mut self.sums, &other.sums);
        add(&mut self.votes, &other.votes);
    }
}

fn add(into: &mut Vec<i64>, from: &[i64]) {
    if into.len() < from.len() {
        into.resize(from.len(), 0);
    }
    for (value, more) in into.iter_mut().zip(from) {
        *value += more;
    }
}

fn likeliest<V: Ord>(values: &[V]) -> Option<usize> {
    let best = values.iter().max()?;
    values.iter().position(|value| value == best)
}

impl Evidence {
    /// `change` times the evidence of one clip.
    pub(super) fn of(clip: &ClipFact, change: isize) -> Self {
        let change = change as i64;
        if clip.weight == 0 {
            return Self {
                left_out: change,
                ..Self::default()
            };
        }
        let weight = i64::from(clip.weight) * change;
        let mut votes = vec![0; clip.probabilities.len()];
        if let Some(class) = likeliest(&clip.probabilities) {
            votes[class] = change;
        }
        Self {
            used: change,
            left_out: 0,
            weight,
            sums: clip
                .probabilities
                .iter()
                .map(|p| p.to_raw() * weight)
                .collect(),
            votes,
        }
    }

    /// Turns an addition into a retraction and back.
    pub(super) fn negate(&mut self) {
        self.used = -self.used;
        self.left_out = -self.left_out;
        self.weight = -self.weight;
        for value in self.sums.iter_mut().chain(&mut self.votes) {
            *value = -*value;
        }
    }

    pub(super) fn answer(&self, classes: &[StageRange]) -> PatientAnswer {
        let means: Vec<_> = if self.weight > 0 {
            let mean = |&sum: &i64| {
                (2 * i128::from(sum) + i128::from(self.weight))
                    .div_euclid(2 * i128::from(self.weight))
            };
            self.sums
                .iter()
                .map(|sum| Probability::from_raw(mean(sum) as i64))
                .collect()
        } else {
            Vec::new()
        };
        let agreeing = likeliest(&means)
            .and_then(|class| self.votes.get(class))
            .copied()
            .unwrap_or(0);
        let abstention = if self.used < PatientAnswer::FEWEST_CLIPS {
            Some(Abstention::ThinEvidence)
        } else if (self.used - agreeing) * 100 > self.used * PatientAnswer::DISSENT_PERCENT {
            Some(Abstention::ClipsDisagree)
        } else {
            None
        };
        PatientAnswer {
            used: self.used.unsigned_abs(),
            left_out: self.left_out.unsigned_abs(),
            weight: self.weight.unsigned_abs(),
            at_least: TARGETS.map(|stage| at_least(&means, classes, stage)),
            probabilities: means,
            abstention,
        }
    }
}

fn at_least(means: &[Probability], classes: &[StageRange], stage: Stage) -> Option<Probability> {
    let straddles = |class: &StageRange| class.lowest < stage && stage <= class.highest;
    if means.is_empty() || classes.len() != means.len() || classes.iter().any(straddles) {
        return None;
    }
    let sum = classes
        .iter()
        .zip(means)
        .filter(|(class, _)| class.lowest >= stage)
        .map(|(_, p)| p.to_raw())
        .sum();
    Some(Probability::from_raw(sum))
}
