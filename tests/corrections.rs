//! The way of facts as a whole: thousands of random insertions, corrections,
//! late labels, merges and withdrawals go through the handle of a run that is
//! going, and after each commit the store holds what recomputing gives.
//!
//! `HEPAFLOW_CORRECTION_STEPS=400 cargo nextest run --test corrections` goes on
//! for longer.
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, unbounded};
use hepaflow::clinical::{Activation, Deletion, Exam, Fact};
use hepaflow::dataflow::views::ClipFact;
use hepaflow::dataflow::{Control, Facts, Feed, Job, Opening, Scorer, WindowShape, run};
use hepaflow::domain::*;
use hepaflow::ingest::{Arrival, StreamHeader};
use hepaflow::metrics::Metrics;
use hepaflow::store::{Change, Effect, Store, StoredModel, ViewRow};
use oracle::{Known, classes, from_scratch, model, said};
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;
use sizes::sizes;
use wait::wait_until;

#[path = "support/oracle.rs"]
mod oracle;
#[path = "support/sizes.rs"]
mod sizes;
#[path = "support/wait.rs"]
mod wait;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_mins(1);

const SHAPE: WindowShape = WindowShape {
    length: 4,
    stride: 4,
    max_gap: None,
};
/// Updates in all arrangements together for each row and each fact that stands.
const HELD: i64 = 30;

const FILMS: u32 = 10;
const FRAMES: u64 = 24;

struct Channel(Receiver<Arrival>);

impl Feed for Channel {
    fn try_next(&self) -> Option<Arrival> {
        self.0.try_recv().ok()
    }
}

/// The contents that random facts speak of.
fn content(film: u32) -> ContentHash {
    ContentHash::of(&film.to_le_bytes())
}

fn owner(film: u32) -> PatientId {
    PatientId::new(format!("p{}", film % 7))
}

fn grey(film: u32, index: u64) -> u8 {
    (u64::from(film) * 53 + index * 29 % 131) as u8
}

fn opening(film: u32) -> Opening {
    Opening {
        source: "film".to_owned(),
        live: false,
        open: Box::new(move |wake, _| {
            let (sender, arrivals) = unbounded();
            let size = FrameSize {
                height: 1,
                width: 1,
            };
            let header = StreamHeader {
                content: content(film),
                patient: owner(film),
                study: None,
                instance: None,
                frame_interval: Some(Duration::from_millis(33)),
                picture: size,
                crop: Crop {
                    x: 0,
                    y: 0,
                    width: 1,
                    height: 1,
                },
            };
            sender.send(Arrival::Opened(header)).unwrap();
            for index in 0..FRAMES {
                let frame = Frame {
                    index,
                    time: EventTime::from_nanos(index * 33_000_000),
                    arrived: Instant::now(),
                    discontinuity: false,
                    skipped: 0,
                    pixels: [grey(film, index)].into(),
                };
                sender.send(Arrival::Frame(frame)).unwrap();
            }
            sender.send(Arrival::Ended(Ok(()))).unwrap();
            wake();
            Box::new(Channel(arrivals))
        }),
    }
}

/// What model `number` says of a clip whose last pixel is `grey`.
fn says(number: usize, grey: u8) -> Vec<f64> {
    let p = f64::from(grey) / 255.0;
    match classes(number).len() {
        2 => vec![1.0 - p, p],
        _ => {
            let weights: Vec<_> = (0..5)
                .map(|class| (-(p * 4.0 - f64::from(class)).powi(2)).exp())
                .collect();
            let sum: f64 = weights.iter().sum();
            weights.iter().map(|weight| weight / sum).collect()
        }
    }
}

struct OfPixel(usize);

impl Scorer for OfPixel {
    fn score(&mut self, clips: &[Clip]) -> Result<Vec<Vec<f64>>, Box<dyn Error + Send + Sync>> {
        let grey = |clip: &Clip| clip.frames.last().unwrap().pixels[0];
        Ok(clips.iter().map(|clip| says(self.0, grey(clip))).collect())
    }
}

/// The clips of a film, under the two models that run.
fn clips(film: u32) -> impl Iterator<Item = Known> {
    let starts = (0..FRAMES).step_by(4);
    starts.flat_map(move |first_frame| {
        [0, 2].map(|number| {
            Known::Clip(ClipFact {
                key: ClipKey {
                    content: content(film),
                    first_frame,
                    model: model(number),
                },
                patient: owner(film),
                weight: 256,
                probabilities: says(number, grey(film, first_frame + 3))
                    .into_iter()
                    .map(|p| Probability::from_f64(p).unwrap())
                    .collect(),
            })
        })
    })
}

fn open(file: &Path) -> Store {
    let mut store = Store::open(file).unwrap();
    for number in 0..3 {
        store
            .register(&StoredModel {
                hash: model(number),
                architecture: format!("model {number}"),
                classes: classes(number),
            })
            .unwrap();
    }
    store
}

fn job(file: &Path, openings: Vec<Opening>, workers: usize) -> Job {
    Job {
        openings,
        decoders: 3,
        window: SHAPE,
        model: model(0),
        reference: None,
        scorers: vec![Box::new(OfPixel(0))],
        beside: vec![(model(2), vec![Box::new(OfPixel(2))])],
        workers,
        facts: Facts::new(open(file)),
        store: open(file),
        metrics: Metrics::new().unwrap(),
    }
}

/// Everything that the store shows.
#[derive(Clone, Debug, PartialEq)]
struct Shown {
    answers: Vec<PatientResult>,
    others: BTreeSet<ViewRow>,
}

fn shown(store: &Store) -> Shown {
    Shown {
        answers: store.patient_results().unwrap(),
        others: store.view_rows().unwrap().into_iter().collect(),
    }
}

/// The facts in force, by what they are about.
#[derive(Clone, Default)]
struct InForce {
    facts: BTreeMap<String, Fact>,
    films: u32,
}

impl InForce {
    fn recomputed(&self) -> Shown {
        let mut known: oracle::Facts = (0..self.films).flat_map(clips).collect();
        known.extend((0..3).map(|number| Known::Model(model(number), classes(number))));
        known.extend(self.facts.values().cloned().map(Known::Fact));
        let state = from_scratch(&known);
        let current: BTreeSet<_> = state.current.iter().map(|(key, _)| key).collect();
        let answers = state.answers.iter().map(|(key, answer)| PatientResult {
            patient: key.0.clone(),
            model: key.1,
            current: current.contains(key),
            clips: answer.used,
            left_out: answer.left_out,
            weight: answer.weight,
            probabilities: answer.probabilities.clone(),
            abstention: answer.abstention,
        });
        let mut answers: Vec<_> = answers.collect();
        // As text, as the store sorts them.
        answers.sort_by_key(|row| (row.patient.clone(), row.model.to_string()));
        let indices = state
            .indices
            .into_iter()
            .map(|(p, i)| ViewRow::Indices(p, i));
        let elastography = state.elastography.into_iter();
        let elastography = elastography.map(|(p, e)| ViewRow::Elastography(p, e));
        let agreement = state
            .agreement
            .into_iter()
            .map(|(p, a)| ViewRow::Agreement(p, a));
        let evaluation = state.evaluation.into_iter();
        let evaluation = evaluation.map(|((r, t), e)| ViewRow::Evaluation(r, t, e));
        Shown {
            answers,
            others: indices
                .chain(elastography)
                .chain(agreement)
                .chain(evaluation)
                .collect(),
        }
    }

    /// What a change comes to, by its own rules.
    fn expect(&mut self, change: &Change, number: Option<u64>) {
        match change {
            Change::Enter(fact) => {
                let mut fact = fact.clone();
                if let (
                    Fact::Exam(Exam { number, .. }) | Fact::Activation(Activation { number, .. }),
                    Some(logged),
                ) = (&mut fact, number)
                {
                    *number = logged;
                }
                self.facts.insert(about(&fact), fact);
            }
            Change::Withdraw(fact) => drop(self.facts.remove(&about(fact))),
        }
    }
}

fn about(fact: &Fact) -> String {
    match fact {
        Fact::Exam(exam) => format!("exam {} {} {}", exam.content, exam.from, exam.until),
        Fact::Merge(from, _) => format!("merge {}", from.expose()),
        Fact::Blood(test) => format!("blood {} {}", test.patient.expose(), test.day),
        Fact::Elastography(found) => format!(
            "elastography {} {} {:?}",
            found.patient.expose(),
            found.day,
            found.value.method
        ),
        Fact::Pathology(found) => format!("stage {} {}", found.patient.expose(), found.day),
        Fact::Activation(_) => "active".to_owned(),
        Fact::Deletion(Deletion::Patient(patient)) => format!("deleted {}", patient.expose()),
        Fact::Deletion(Deletion::Stream(content)) => format!("deleted {content}"),
    }
}

fn some_changes(rng: &mut ChaCha8Rng, in_force: &InForce) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut withdrawn = BTreeSet::new();
    for _ in 0..rng.random_range(20..60) {
        if rng.random_bool(0.35)
            && let Some((place, fact)) = in_force.facts.iter().choose(rng)
            // The active model is replaced, not taken away.
            && !matches!(fact, Fact::Activation(_))
            && withdrawn.insert(place.clone())
        {
            changes.push(Change::Withdraw(fact.clone()));
        } else {
            let kind = rng.random_range(45..98);
            let fact = said(rng, kind);
            // A model that does not run would lose its place to one that does.
            if !matches!(&fact, Fact::Activation(active) if active.model == model(1)) {
                changes.push(Change::Enter(fact));
            }
        }
    }
    changes
}

#[test]
fn whatever_is_entered_and_withdrawn_the_store_holds_what_recomputing_gives() {
    let steps = std::env::var("HEPAFLOW_CORRECTION_STEPS")
        .map_or(60, |text| text.parse().expect("a whole number"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("live.sqlite");
    let control = Control::default();
    let kept_open = control.keep_open();
    let job = job(&file, Vec::new(), 2);
    let facts = job.facts.clone();
    let metrics = job.metrics.clone();
    let running = {
        let control = control.clone();
        std::thread::spawn(move || run(job, &control))
    };
    let store = open(&file);
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut in_force = InForce::default();
    // The run activates its own model.
    wait_until("an active model", PATIENCE, || {
        store.active_model().unwrap().is_some()
    });
    let first = store.facts_after(0, 1).unwrap().remove(0);
    in_force.expect(&first.change, None);

    let (mut logged, mut refused, mut last) = (0, 0, in_force.recomputed());
    for step in 0..steps {
        let before = last.clone();
        if step % 5 == 0 && in_force.films < FILMS {
            control.add(opening(in_force.films));
            in_force.films += 1;
        } else {
            let changes = some_changes(&mut rng, &in_force);
            let receipt = facts.enter(&changes, "test", "random").unwrap();
            for (change, outcome) in changes.iter().zip(receipt.outcomes) {
                match outcome {
                    Ok(Effect::Logged(number) | Effect::Corrected(number)) => {
                        logged += 1;
                        in_force.expect(change, Some(number));
                    }
                    Ok(Effect::Unchanged) => {}
                    Err(_) => refused += 1,
                }
            }
        }
        last = in_force.recomputed();
        let begin = Instant::now();
        loop {
            let now = shown(&store);
            if now == last {
                break;
            }
            // A film's clips come one after the other, changes of one call in at
            // most a few epochs; each patient's rows change at once.
            assert!(
                begin.elapsed() < PATIENCE,
                "step {step}: {now:#?}\nis not\n{last:#?}\nfrom\n{before:#?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let current = last.answers.iter().filter(|answer| answer.current).count();
    assert_eq!(metrics.patients.get(), current as i64);
    // Whatever was corrected, and though films and labs pause in turn, the views hold
    // no more than what stands.
    let held: i64 = sizes(&metrics).values().sum();
    let stands = last.answers.len() + last.others.len() + in_force.facts.len();
    let stands = (stands + (0..in_force.films).flat_map(clips).count()) as i64;
    assert!(
        (1..HELD * stands).contains(&held),
        "{held} updates of {stands}"
    );
    drop(kept_open);
    control.stop();
    running.join().unwrap().unwrap();
    assert_eq!(shown(&store), last);
    assert!(logged > 15 * steps, "{logged} changes");
    assert!(refused > 0, "nothing was refused");
    // The comparison means nothing over empty views.
    let evaluated =
        |row: &ViewRow| matches!(row, ViewRow::Evaluation(_, _, e) if e.auc.area().is_some());
    assert!(last.others.iter().any(evaluated));
    assert!(!last.answers.is_empty());
    let log = store.verify_facts(None).unwrap();
    assert_eq!(log.faults, []);

    // An archive, with everything known before it begins and in another order.
    let other = folder.path().join("archive.sqlite");
    let mut archive = open(&other);
    let mut entered: Vec<_> = in_force.facts.values().cloned().collect();
    // Of exams that overlap the later one holds: these keep their order.
    entered.shuffle(&mut rng);
    entered.sort_by_key(|fact| match fact {
        Fact::Exam(exam) => exam.number,
        _ => 0,
    });
    let mut waiting: Vec<_> = entered.into_iter().map(Change::Enter).collect();
    // A merge may have to wait for another.
    while !waiting.is_empty() {
        let receipt = archive.enter(&waiting, "test", "at once").unwrap();
        let before = waiting.len();
        let mut outcomes = receipt.outcomes.into_iter();
        waiting.retain(|_| outcomes.next().unwrap().is_err());
        assert!(waiting.len() < before, "{waiting:?}");
    }
    let mut films: Vec<_> = (0..in_force.films).collect();
    films.shuffle(&mut rng);
    let openings = films.into_iter().map(opening).collect();
    run(self::job(&other, openings, 3), &Control::default()).unwrap();
    assert_eq!(shown(&archive), last);
    // A second run finds nothing to do, and leaves all as it is.
    run(self::job(&other, Vec::new(), 1), &Control::default()).unwrap();
    assert_eq!(shown(&archive), last);
}

#[test]
fn another_process_s_labels_and_an_activation_reach_a_run_that_is_going() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("results.sqlite");
    let control = Control::default();
    let kept_open = control.keep_open();
    let job = job(&file, (0..3).map(opening).collect(), 1);
    let running = {
        let control = control.clone();
        std::thread::spawn(move || run(job, &control))
    };
    // A connection that the run knows nothing of.
    let mut store = open(&file);
    let wait = |store: &Store, what: &str, happened: &dyn Fn(&Shown) -> bool| {
        wait_until(what, PATIENCE, || happened(&shown(store)));
    };
    let all_by = |number: usize| {
        move |shown: &Shown| {
            shown.answers.len() == 6
                && shown
                    .answers
                    .iter()
                    .all(|row| row.current == (row.model == model(number)))
        }
    };
    wait(&store, "answers by the first model", &all_by(0));
    let activation = Fact::Activation(Activation {
        number: 0,
        model: model(2),
    });
    store
        .enter(&[Change::Enter(activation)], "test", "better")
        .unwrap();
    // Each patient has one current answer at any time.
    let begin = Instant::now();
    loop {
        let now = shown(&store);
        let mut current: BTreeMap<_, usize> = BTreeMap::new();
        for row in &now.answers {
            *current.entry(row.patient.clone()).or_default() += usize::from(row.current);
        }
        assert!(current.values().all(|&count| count == 1), "{current:?}");
        if all_by(2)(&now) {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "waited for the other");
    }
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let stranger = match said(&mut rng, 50) {
        Fact::Blood(mut test) => {
            test.patient = PatientId::new("not seen yet");
            Fact::Blood(test)
        }
        other => panic!("{other:?}"),
    };
    store
        .enter(&[Change::Enter(stranger)], "test", "early")
        .unwrap();
    wait(&store, "a stranger's blood test", &|shown| {
        !shown.others.is_empty()
    });
    drop(kept_open);
    control.stop();
    running.join().unwrap().unwrap();
}
