//! How good every method is: models and indices side by side, with intervals.
//!
//! Three questions: significant fibrosis (>= F2, the primary one), advanced
//! fibrosis (>= F3) and cirrhosis (F4). Whatever is learnt for judging (a
//! threshold, a temperature, a line from an index to a probability) is learnt on
//! training and validation patients, and each result says so. Called by
//! `hepaflow evaluate` and `hepaflow study`.

mod method;
mod record;
mod rows;

use std::collections::{BTreeMap, BTreeSet};

pub use record::{
    AtThreshold, Calibration, Comparison, CutoffResult, Discordant, Evaluation, FoldResult,
    McNemar, MeanSd, Method, MethodKind, Opinion, Origin, Question, Subgroup, SubgroupResult,
    Threshold,
};

use super::cohort::{Cohort, CohortPatient};
use super::predictions::{Aggregation, PatientSet, Predictions, PredictionsError};
use super::split::{Split, SplitError};
use super::statistics::{Bootstrap, auc, delong_paired, mcnemar_exact};
use crate::clinical::Sex;
use crate::domain::{PatientId, Stage};
use rows::Rater;

/// The three questions, the primary one first.
pub const QUESTIONS: [Stage; 3] = [Stage::F2, Stage::F3, Stage::F4];

/// Predictions cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum EvaluationError {
    /// A patient decides and judges, or the like.
    #[error(transparent)]
    Predictions(#[from] PredictionsError),
    /// The split is none.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// Nobody knows their stage.
    #[error(
        "{0} patients with predictions are not in the cohort, or have no stage there: the \
         predictions belong to another cohort"
    )]
    Strangers(usize),
    /// A patient was scored in a set that the split puts elsewhere.
    #[error(
        "{count} patients are scored as {set} and the split has them elsewhere: results on them \
         would be worth nothing"
    )]
    Misplaced {
        /// How many.
        count: usize,
        /// In which set they were scored.
        set: &'static str,
    },
    /// Nobody judges.
    #[error("no patient of the test set has a prediction")]
    NoTest,
}

/// How to judge.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How clips become patients.
    pub aggregation: Aggregation,
    /// How bootstrap intervals are drawn.
    pub bootstrap: Bootstrap,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            aggregation: Aggregation::Mean,
            bootstrap: Bootstrap {
                draws: 2000,
                seed: 7,
            },
        }
    }
}

/// Judges `predictions` by the stages of `cohort`. Without a `split`, every
/// patient who is not scored as test counts as one to learn thresholds from.
///
/// # Errors
/// When a patient is on two sides, or unknown.
pub fn evaluate(
    predictions: &Predictions,
    cohort: &Cohort,
    split: Option<&Split>,
    options: Options,
) -> Result<Evaluation, EvaluationError> {
    predictions.check()?;
    let patients: BTreeMap<&PatientId, &CohortPatient> =
        cohort.patients.iter().map(|p| (p.id(), p)).collect();
    let test = predictions.patients(PatientSet::Test);
    let validation = predictions.patients(PatientSet::Validation);
    let strangers = test.union(&validation);
    let strangers = strangers.filter(|id| !patients.contains_key(**id)).count();
    if strangers > 0 {
        return Err(EvaluationError::Strangers(strangers));
    }
    if test.is_empty() {
        return Err(EvaluationError::NoTest);
    }
    // Who judges, and who may be learnt from.
    let (test, learning): (BTreeSet<&PatientId>, BTreeSet<&PatientId>) = match split {
        Some(split) => {
            split.check()?;
            split.check_against(&cohort.stages())?;
            for (set, scored, members) in [
                ("test", &test, &split.test),
                ("validation", &validation, &split.validation),
            ] {
                let members: BTreeSet<&PatientId> = members.iter().collect();
                let count = scored.difference(&members).count();
                if count > 0 {
                    return Err(EvaluationError::Misplaced { count, set });
                }
            }
            let learning = split.train.iter().chain(&split.validation);
            (split.test.iter().collect(), learning.collect())
        }
        None => {
            let others = patients.keys().copied().filter(|id| !test.contains(id));
            (test.clone(), others.collect())
        }
    };
    let group = |ids: &BTreeSet<&PatientId>| -> Vec<&CohortPatient> {
        // In the order of the table, so that lines rise.
        let members = cohort.patients.iter().filter(|p| ids.contains(p.id()));
        members.collect()
    };
    let (test, learning) = (group(&test), group(&learning));
    let mut questions = Vec::new();
    let mut discordant = Vec::new();
    let mut subgroups = Vec::new();
    for stage in QUESTIONS {
        let raters = rows::raters(predictions, stage, options.aggregation, &test, &learning);
        let methods: Vec<Method> = raters
            .iter()
            .map(|rater| method::judge(rater, stage, &test, options.bootstrap))
            .collect();
        if stage == QUESTIONS[0] {
            discordant = discordance(&raters, &methods, &test, stage);
            subgroups = in_subgroups(&raters, &test, stage);
        }
        questions.push(Question {
            stage,
            patients: test.len(),
            cases: test.iter().filter(|p| p.stage >= stage).count(),
            comparisons: compare(&raters, &methods, &test, stage, options.bootstrap),
            methods,
        });
    }
    Ok(Evaluation {
        is_synthetic: cohort.is_synthetic,
        flow: cohort.flow.clone(),
        partition: "patients".to_owned(),
        split_seed: split.map(|split| split.seed),
        training: split.map(|split| split.train.len()),
        validation: split.map_or(validation.len(), |split| split.validation.len()),
        test: test.len(),
        aggregation: options.aggregation,
        bootstrap_draws: options.bootstrap.draws,
        bootstrap_seed: options.bootstrap.seed,
        questions,
        discordant,
        subgroups,
    })
}

/// Models against each other and against every index.
fn compare(
    raters: &[Rater],
    methods: &[Method],
    test: &[&CohortPatient],
    stage: Stage,
    bootstrap: Bootstrap,
) -> Vec<Comparison> {
    let mut comparisons = Vec::new();
    for (position, first) in raters.iter().enumerate() {
        for (other, second) in raters.iter().enumerate().skip(position + 1) {
            if first.kind == MethodKind::Index {
                continue;
            }
            let shared: Vec<(f64, f64, bool)> = test
                .iter()
                .filter_map(|patient| {
                    let (a, b) = (
                        first.test.get(patient.id())?,
                        second.test.get(patient.id())?,
                    );
                    Some((*a, *b, patient.stage >= stage))
                })
                .collect();
            let is_case: Vec<bool> = shared.iter().map(|(_, _, case)| *case).collect();
            let area = |sample: &[usize], pick: fn(&(f64, f64, bool)) -> f64| {
                let scored: Vec<_> = sample
                    .iter()
                    .map(|&i| (pick(&shared[i]), is_case[i]))
                    .collect();
                auc(&scored)
            };
            let difference = bootstrap.interval(&is_case, |sample| {
                Some(area(sample, |pair| pair.0)? - area(sample, |pair| pair.1)?)
            });
            let thresholds = (methods[position].threshold, methods[other].threshold);
            let mcnemar = match thresholds {
                (Some(a), Some(b)) => {
                    let (mut only_first, mut only_second) = (0, 0);
                    for &(x, y, case) in &shared {
                        match ((x > a.value) == case, (y > b.value) == case) {
                            (true, false) => only_first += 1,
                            (false, true) => only_second += 1,
                            _ => {}
                        }
                    }
                    Some(McNemar {
                        only_first,
                        only_second,
                        p: mcnemar_exact(only_first, only_second),
                    })
                }
                _ => None,
            };
            comparisons.push(Comparison {
                first: first.name.clone(),
                second: second.name.clone(),
                patients: shared.len(),
                difference,
                delong: delong_paired(&shared),
                mcnemar,
            });
        }
    }
    comparisons
}

/// Patients about whom methods disagree, or all are wrong. They are named by
/// their line in `cohort.csv`, which means nothing without that file.
fn discordance(
    raters: &[Rater],
    methods: &[Method],
    test: &[&CohortPatient],
    stage: Stage,
) -> Vec<Discordant> {
    let mut discordant = Vec::new();
    for patient in test {
        let opinions: Vec<Opinion> = raters
            .iter()
            .zip(methods)
            .filter_map(|(rater, method)| {
                let score = *rater.test.get(patient.id())?;
                Some(Opinion {
                    method: rater.name.clone(),
                    score,
                    says_yes: score > method.threshold?.value,
                })
            })
            .collect();
        let truth = patient.stage >= stage;
        if opinions.iter().any(|opinion| opinion.says_yes != truth) {
            discordant.push(Discordant {
                line: patient.record.line,
                stage: patient.stage,
                opinions,
            });
        }
    }
    discordant
}

fn in_subgroups(raters: &[Rater], test: &[&CohortPatient], stage: Stage) -> Vec<Subgroup> {
    type Belongs = fn(&CohortPatient) -> bool;
    const MIDDLE_AGE: i64 = 50_000;
    let groups: [(&str, Belongs); 4] = [
        ("women", |p| p.record.sex == Some(Sex::Female)),
        ("men", |p| p.record.sex == Some(Sex::Male)),
        ("under 50 years", |p| {
            p.record.age.is_some_and(|age| age < MIDDLE_AGE)
        }),
        ("50 years and older", |p| {
            p.record.age.is_some_and(|age| age >= MIDDLE_AGE)
        }),
    ];
    let each = groups.into_iter().map(|(name, belongs)| {
        let members: Vec<_> = test.iter().copied().filter(|p| belongs(p)).collect();
        Subgroup {
            name: name.to_owned(),
            patients: members.len(),
            cases: members.iter().filter(|p| p.stage >= stage).count(),
            results: raters
                .iter()
                .map(|rater| SubgroupResult {
                    method: rater.name.clone(),
                    auc: super::statistics::delong(&rater.scored(&members, stage))
                        .map(|delong| delong.estimate()),
                })
                .collect(),
        }
    });
    each.collect()
}

#[cfg(test)]
mod tests;
