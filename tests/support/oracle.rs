//! The views, recomputed from scratch in plain Rust, and random facts.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses some of it")]

use std::collections::{BTreeMap, BTreeSet};

use hepaflow::clinical::*;
use hepaflow::dataflow::views::{ClipFact, Opinion, PatientAnswer, PatientKey};
use hepaflow::domain::*;
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;

pub(crate) type Rows<D> = BTreeSet<D>;

#[derive(Debug, Default, PartialEq)]
pub(crate) struct State {
    pub(crate) answers: Rows<(PatientKey, PatientAnswer)>,
    pub(crate) current: Rows<(PatientKey, PatientAnswer)>,
    pub(crate) indices: Rows<(PatientId, Indices)>,
    pub(crate) elastography: Rows<(PatientId, Elastography)>,
    pub(crate) agreement: Rows<(PatientId, Agreement)>,
    pub(crate) discordance: Rows<(PatientId, Agreement)>,
    pub(crate) evaluation: Rows<((Rater, Stage), Evaluation)>,
}

/// Anything that enters the graph.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Known {
    Clip(ClipFact),
    Model(ModelHash, Vec<StageRange>),
    Fact(Fact),
}

/// What is in force, each once.
pub(crate) type Facts = BTreeSet<Known>;

fn greatest<K: Ord, V: Ord>(values: impl Iterator<Item = (K, V)>) -> BTreeMap<K, V> {
    let mut standing = BTreeMap::new();
    for (key, value) in values {
        match standing.get(&key) {
            Some(held) if *held >= value => {}
            _ => drop(standing.insert(key, value)),
        }
    }
    standing
}

fn resolve(facts: &Facts, patient: &PatientId) -> PatientId {
    let into = facts.iter().find_map(|fact| match fact {
        Known::Fact(Fact::Merge(from, into)) if from == patient => Some(into),
        _ => None,
    });
    into.map_or_else(|| patient.clone(), |into| resolve(facts, into))
}

/// Whoever is not deleted, as the record that stands for it.
fn person(facts: &Facts, patient: &PatientId) -> Option<PatientId> {
    let deleted = facts.contains(&Known::Fact(Fact::Deletion(Deletion::Patient(
        patient.clone(),
    ))));
    (!deleted).then(|| resolve(facts, patient))
}

fn answer(clips: &[&ClipFact], classes: &[StageRange]) -> PatientAnswer {
    let used: Vec<_> = clips.iter().filter(|clip| clip.weight > 0).collect();
    let weight: i128 = used.iter().map(|clip| i128::from(clip.weight)).sum();
    let argmax = |row: &[i64]| (0..row.len()).rev().max_by_key(|&k| row[k]);
    let raw =
        |clip: &ClipFact| -> Vec<i64> { clip.probabilities.iter().map(|p| p.to_raw()).collect() };
    let mut means = Vec::new();
    for class in 0..if used.is_empty() { 0 } else { classes.len() } {
        let sum: i128 = used
            .iter()
            .map(|clip| i128::from(raw(clip)[class]) * i128::from(clip.weight))
            .sum();
        let (whole, rest) = (sum / weight, sum % weight);
        means.push((whole + i128::from(2 * rest >= weight)) as i64);
    }
    let agreeing = used
        .iter()
        .filter(|clip| argmax(&raw(clip)) == argmax(&means))
        .count();
    let at_least = |stage: Stage| {
        if means.is_empty() {
            return None;
        }
        let mut sum = 0;
        for (class, mean) in classes.iter().zip(&means) {
            match (class.lowest >= stage, class.highest >= stage) {
                (true, true) => sum += mean,
                (false, false) => {}
                _ => return None,
            }
        }
        Some(Probability::from_raw(sum))
    };
    PatientAnswer {
        used: used.len() as u64,
        left_out: (clips.len() - used.len()) as u64,
        weight: weight as u64,
        at_least: [
            at_least(Stage::F2),
            at_least(Stage::F3),
            at_least(Stage::F4),
        ],
        probabilities: means.iter().map(|&p| Probability::from_raw(p)).collect(),
        abstention: if used.len() < 3 {
            Some(Abstention::ThinEvidence)
        } else if (used.len() - agreeing) as f64 / used.len() as f64 > 0.4 {
            Some(Abstention::ClipsDisagree)
        } else {
            None
        },
    }
}

pub(crate) fn from_scratch(facts: &Facts) -> State {
    let mut state = State::default();
    let mut clips: BTreeMap<PatientKey, Vec<&ClipFact>> = BTreeMap::new();
    for fact in facts {
        let Known::Clip(clip) = fact else { continue };
        if facts.contains(&Known::Fact(Fact::Deletion(Deletion::Stream(
            clip.key.content,
        )))) {
            continue;
        }
        let assigned = facts
            .iter()
            .filter_map(|fact| match fact {
                Known::Fact(Fact::Exam(exam))
                    if exam.content == clip.key.content
                        && exam.from <= clip.key.first_frame
                        && clip.key.first_frame < exam.until =>
                {
                    Some((exam.number, &exam.patient))
                }
                _ => None,
            })
            .max();
        let recorded = assigned.map_or(&clip.patient, |(_, patient)| patient);
        if let Some(patient) = person(facts, recorded) {
            clips
                .entry((patient, clip.key.model))
                .or_default()
                .push(clip);
        }
    }
    let active = facts
        .iter()
        .filter_map(|fact| match fact {
            Known::Fact(Fact::Activation(activation)) => {
                Some((activation.number, activation.model))
            }
            _ => None,
        })
        .max();
    let mut opinions: Vec<(PatientId, Opinion)> = Vec::new();
    for (key, clips) in &clips {
        let classes = facts.iter().find_map(|fact| match fact {
            Known::Model(model, classes) if *model == key.1 => Some(classes),
            _ => None,
        });
        let Some(classes) = classes else { continue };
        let answer = answer(clips, classes);
        for (number, target) in TARGETS.into_iter().enumerate() {
            if let Some(p) = answer.at_least[number] {
                let opinion = Opinion {
                    rater: Rater::Model(key.1),
                    target,
                    score: ((p.to_raw() / 4096) as u32).min(1_048_575),
                    verdict: answer.abstention.is_none().then_some(p.to_f64() >= 0.5),
                };
                opinions.push((key.0.clone(), opinion));
            }
        }
        if active.is_some_and(|(_, model)| model == key.1) {
            state.current.insert((key.clone(), answer.clone()));
        }
        state.answers.insert((key.clone(), answer));
    }
    let blood = greatest(facts.iter().filter_map(|fact| match fact {
        Known::Fact(Fact::Blood(d)) => Some((person(facts, &d.patient)?, (d.day, d.value))),
        _ => None,
    }));
    let decide = |value: f64, lower: f64, upper: f64| {
        if value < lower {
            Some(false)
        } else if value > upper {
            Some(true)
        } else {
            None
        }
    };
    for (patient, (_, test)) in &blood {
        let indices = Indices::of(test);
        state.indices.insert((patient.clone(), indices));
        for target in TARGETS {
            let fib4 = decide(indices.fib4 as f64 / 1e3, 1.45, 3.25);
            let apri = decide(indices.apri as f64 / 1e3, 0.5, 1.5);
            for (rater, value, verdict, says) in [
                (Rater::Fib4, indices.fib4, fib4, Stage::F3),
                (Rater::Apri, indices.apri, apri, Stage::F2),
            ] {
                let opinion = Opinion {
                    rater,
                    target,
                    score: value.min(1_048_575) as u32,
                    verdict: if target == says { verdict } else { None },
                };
                opinions.push((patient.clone(), opinion));
            }
        }
    }
    let measured = greatest(facts.iter().filter_map(|fact| match fact {
        Known::Fact(Fact::Elastography(d)) => {
            let rank = (d.day, d.value.stiffness, d.value.method);
            Some((person(facts, &d.patient)?, rank))
        }
        _ => None,
    }));
    for (patient, (_, stiffness, method)) in measured {
        let measured = Elastography { stiffness, method };
        state.elastography.insert((patient.clone(), measured));
        for target in TARGETS {
            let opinion = Opinion {
                rater: Rater::Elastography,
                target,
                score: measured.stiffness as u32,
                verdict: measured.at_least(target),
            };
            opinions.push((patient.clone(), opinion));
        }
    }
    for (patient, model) in &opinions {
        for (other_patient, other) in &opinions {
            let (Rater::Model(hash), Some(model_says), Some(index_says)) =
                (model.rater, model.verdict, other.verdict)
            else {
                continue;
            };
            let same = patient == other_patient && model.target == other.target;
            if !same || matches!(other.rater, Rater::Model(_)) {
                continue;
            }
            let row = Agreement {
                model: hash,
                index: other.rater,
                target: model.target,
                model_says,
                index_says,
            };
            state.agreement.insert((patient.clone(), row));
            if model_says != index_says {
                state.discordance.insert((patient.clone(), row));
            }
        }
    }
    let truth = greatest(facts.iter().filter_map(|fact| match fact {
        Known::Fact(Fact::Pathology(d)) => Some((person(facts, &d.patient)?, (d.day, d.value))),
        _ => None,
    }));
    let mut judged: BTreeMap<(Rater, Stage), Vec<(Opinion, bool)>> = BTreeMap::new();
    for (patient, opinion) in opinions {
        if let Some((_, stage)) = truth.get(&patient) {
            let key = (opinion.rater, opinion.target);
            let diseased = *stage >= opinion.target;
            judged.entry(key).or_default().push((opinion, diseased));
        }
    }
    for (key, judged) in judged {
        let mut evaluation = Evaluation::default();
        for (opinion, diseased) in &judged {
            let matrix = &mut evaluation.confusion;
            match (opinion.verdict, diseased) {
                (None, _) => matrix.undecided += 1,
                (Some(true), true) => matrix.true_positive += 1,
                (Some(true), false) => matrix.false_positive += 1,
                (Some(false), true) => matrix.false_negative += 1,
                (Some(false), false) => matrix.true_negative += 1,
            }
            // Mann and Whitney's count of pairs, pair by pair.
            let auc = &mut evaluation.auc;
            if *diseased {
                auc.positives += 1;
                for (healthy, _) in judged.iter().filter(|(_, diseased)| !diseased) {
                    auc.twice_wins += match opinion.score.cmp(&healthy.score) {
                        std::cmp::Ordering::Less => 0,
                        std::cmp::Ordering::Equal => 1,
                        std::cmp::Ordering::Greater => 2,
                    };
                }
            } else {
                auc.negatives += 1;
            }
        }
        state.evaluation.insert((key, evaluation));
    }
    state
}

const PATIENTS: usize = 14;
const STREAMS: u32 = 10;

pub(crate) fn patient(rng: &mut ChaCha8Rng) -> PatientId {
    PatientId::new(format!("p{}", rng.random_range(0..PATIENTS)))
}

fn content(rng: &mut ChaCha8Rng) -> ContentHash {
    ContentHash::of(&rng.random_range(0..STREAMS).to_le_bytes())
}

pub(crate) fn model(number: usize) -> ModelHash {
    ModelHash::of(&[number as u8])
}

/// Two models know significant fibrosis only, one knows every stage.
pub(crate) fn classes(number: usize) -> Vec<StageRange> {
    let names: &[&str] = match number {
        0 | 1 => &["F0-F1", "F2-F4"],
        _ => &["F0", "F1", "F2", "F3", "F4"],
    };
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn dated<V>(rng: &mut ChaCha8Rng, value: V) -> Dated<V> {
    Dated {
        patient: patient(rng),
        day: rng.random_range(0..4),
        value,
    }
}

pub(crate) fn fact(rng: &mut ChaCha8Rng) -> Known {
    match rng.random_range(0..100_u32) {
        0..45 => {
            let number = rng.random_range(0..3);
            let clip_content = content(rng);
            let ones: Vec<f64> = classes(number).iter().map(|_| rng.random()).collect();
            let sum: f64 = ones.iter().sum();
            Known::Clip(ClipFact {
                key: ClipKey {
                    content: clip_content,
                    first_frame: rng.random_range(0..12) * 4,
                    model: model(number),
                },
                patient: patient(rng),
                weight: [0, 64, 256][rng.random_range(0..3)],
                probabilities: ones
                    .iter()
                    .map(|one| Probability::from_f64(one / sum).unwrap())
                    .collect(),
            })
        }
        kind @ 45..98 => Known::Fact(said(rng, kind)),
        _ => {
            let number = rng.random_range(0..3);
            Known::Model(model(number), classes(number))
        }
    }
}

/// Something that somebody says; `kind` from 45 to 97 decides what.
pub(crate) fn said(rng: &mut ChaCha8Rng, kind: u32) -> Fact {
    match kind {
        ..60 => {
            let test = BloodTest {
                age: rng.random_range(20_000..90_000),
                ast: rng.random_range(10_000..150_000),
                alt: rng.random_range(10_000..150_000),
                platelets: rng.random_range(50_000..350_000),
                ast_upper_limit: BloodTest::DEFAULT_AST_UPPER_LIMIT,
            };
            Fact::Blood(dated(rng, test.checked().unwrap()))
        }
        60..72 => {
            let method = ElastographyMethod::ALL[rng.random_range(0..4)];
            let pascal = rng.random_range(3..20) * 1_000;
            let measured = Elastography::from_pascal(method, pascal).unwrap();
            Fact::Elastography(dated(rng, measured))
        }
        72..84 => {
            let stage = Stage::ALL[rng.random_range(0..5)];
            Fact::Pathology(dated(rng, stage))
        }
        84..88 => {
            let from = rng.random_range(0..40);
            Fact::Exam(Exam {
                content: content(rng),
                from,
                until: from + rng.random_range(1..30),
                number: rng.random(),
                patient: patient(rng),
            })
        }
        88..93 => Fact::Merge(patient(rng), patient(rng)),
        93..95 => Fact::Deletion(Deletion::Patient(patient(rng))),
        95..96 => Fact::Deletion(Deletion::Stream(content(rng))),
        _ => Fact::Activation(Activation {
            number: rng.random(),
            model: model(rng.random_range(0..3)),
        }),
    }
}
