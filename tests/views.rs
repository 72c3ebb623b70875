//! The maintained views against recomputing everything from scratch, in plain
//! Rust, after every step of a long run of random facts, corrections, merges
//! and withdrawals.
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::rc::Rc;

use differential_dataflow::input::{Input, InputSession};
use hepaflow::clinical::{Fact, Merges};
use hepaflow::dataflow::Epoch;
use hepaflow::dataflow::views::{Arrangements, maintain};
use hepaflow::metrics::Metrics;
use oracle::{Facts, Known, Rows, State, fact, from_scratch};
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;
use sizes::sizes;

#[path = "support/oracle.rs"]
mod oracle;
#[path = "support/sizes.rs"]
mod sizes;

/// Random changes to `facts`, as one epoch sees them.
fn change(rng: &mut ChaCha8Rng, facts: &mut Facts, merges: &mut Merges) -> Vec<(Known, isize)> {
    let mut changes = Vec::new();
    for _ in 0..rng.random_range(1..6) {
        if rng.random_bool(0.4) && !facts.is_empty() {
            let withdrawn = facts.iter().choose(rng).unwrap().clone();
            if let Known::Fact(Fact::Merge(from, into)) = &withdrawn {
                merges.withdraw(from, into).unwrap();
            }
            facts.remove(&withdrawn);
            changes.push((withdrawn, -1));
            continue;
        }
        let entered = fact(rng);
        if let Known::Fact(Fact::Merge(from, into)) = &entered
            && merges.enter(from, into).is_err()
        {
            continue;
        }
        if let Known::Clip(clip) = &entered {
            // One window has one prediction: entering another corrects it.
            let before = facts
                .iter()
                .find(|fact| matches!(fact, Known::Clip(other) if other.key == clip.key))
                .cloned();
            if let Some(before) = before {
                facts.remove(&before);
                changes.push((before, -1));
            }
        }
        if facts.insert(entered.clone()) {
            changes.push((entered, 1));
        }
    }
    changes
}

type Shared<D> = Rc<RefCell<BTreeMap<D, isize>>>;

fn rows<D: Ord + Clone + Debug>(shared: &Shared<D>) -> Rows<D> {
    let mut held = shared.borrow_mut();
    held.retain(|_, count| *count != 0);
    assert!(held.values().all(|&count| count == 1), "a row stands twice");
    held.keys().cloned().collect()
}

fn follow(seed: u64, epochs: Epoch) -> (usize, State) {
    timely::execute_directly(move |worker| {
        macro_rules! watch {
            ($view:expr, $probe:expr) => {{
                let shared: Shared<_> = Rc::default();
                let held = Rc::clone(&shared);
                $view
                    .inspect(move |(row, _, change)| {
                        *held.borrow_mut().entry(row.clone()).or_default() += *change;
                    })
                    .probe_with($probe);
                shared
            }};
        }
        let probe = timely::dataflow::ProbeHandle::new();
        let (mut inputs, held) = worker.dataflow::<Epoch, _, _>(|scope| {
            let (clips, clip_facts) = scope.new_collection();
            let (models, classes) = scope.new_collection();
            let (facts, changes) = scope.new_collection();
            let views = maintain(clip_facts, classes, changes);
            let held = (
                watch!(views.answers, &probe),
                watch!(views.current, &probe),
                watch!(views.indices, &probe),
                watch!(views.elastography, &probe),
                watch!(views.agreement, &probe),
                watch!(views.discordance, &probe),
                watch!(views.evaluation, &probe),
            );
            ((clips, models, facts), held)
        });
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut facts, mut merges) = (Facts::new(), Merges::default());
        let (mut changed, mut last) = (0, State::default());
        for epoch in 1..=epochs {
            for (fact, by) in change(&mut rng, &mut facts, &mut merges) {
                changed += 1;
                match fact {
                    Known::Clip(clip) => inputs.0.update(clip, by),
                    Known::Model(model, classes) => inputs.1.update((model, classes), by),
                    Known::Fact(fact) => inputs.2.update(fact, by),
                }
            }
            inputs.0.advance_to(epoch);
            inputs.0.flush();
            inputs.1.advance_to(epoch);
            inputs.1.flush();
            inputs.2.advance_to(epoch);
            inputs.2.flush();
            while probe.less_than(&epoch) {
                worker.step();
            }
            last = State {
                answers: rows(&held.0),
                current: rows(&held.1),
                indices: rows(&held.2),
                elastography: rows(&held.3),
                agreement: rows(&held.4),
                discordance: rows(&held.5),
                evaluation: rows(&held.6),
            };
            let expected = from_scratch(&facts);
            assert_eq!(last.answers, expected.answers, "seed {seed}, epoch {epoch}");
            assert_eq!(last, expected, "seed {seed}, epoch {epoch}");
        }
        (changed, last)
    })
}

/// Rows that a test puts into a graph, or takes out.
type Session<D> = InputSession<Epoch, D, isize>;

#[test]
fn after_every_random_correction_the_views_are_what_recomputing_gives() {
    let epochs = std::env::var("HEPAFLOW_CORRECTION_EPOCHS")
        .map_or(250, |text| text.parse().expect("a whole number"));
    let mut seen = State::default();
    let mut changed = 0;
    for seed in 0..4 {
        let (changes, state) = follow(seed, epochs);
        changed += changes;
        seen.current.extend(state.current);
        seen.discordance.extend(state.discordance);
        seen.evaluation.extend(state.evaluation);
    }
    // The comparison means nothing over empty views.
    assert!(changed > 1_000, "{changed} changes");
    assert!(!seen.current.is_empty() && !seen.discordance.is_empty());
    assert!(seen.evaluation.iter().any(|(_, e)| e.auc.area().is_some()));
}

#[test]
fn arrangements_stay_as_small_as_what_they_hold_however_often_it_is_corrected() {
    let metrics = Metrics::new().unwrap();
    let counted = metrics.clone();
    timely::execute_directly(move |worker| {
        let arrangements = Arrangements::follow(worker, &counted);
        let probe = timely::dataflow::ProbeHandle::new();
        let mut inputs = worker.dataflow::<Epoch, _, _>(|scope| {
            let (clips, clip_facts) = scope.new_collection();
            let (models, classes) = scope.new_collection();
            let (facts, changes) = scope.new_collection();
            let views = maintain(clip_facts, classes, changes);
            arrangements.name(&views.parts);
            views.answers.probe_with(&probe);
            views.current.probe_with(&probe);
            views.discordance.probe_with(&probe);
            views.evaluation.probe_with(&probe);
            (clips, models, facts)
        });
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut facts = Facts::new();
        let mut merges = Merges::default();
        let mut epoch = 0;
        let mut settle = |inputs: &mut (_, _, _), changes: Vec<(Known, isize)>| {
            let (clips, models, facts): &mut (Session<_>, Session<_>, Session<_>) = inputs;
            for (known, by) in changes {
                match known {
                    Known::Clip(clip) => clips.update(clip, by),
                    Known::Model(model, classes) => models.update((model, classes), by),
                    Known::Fact(fact) => facts.update(fact, by),
                }
            }
            epoch += 1;
            clips.advance_to(epoch);
            clips.flush();
            models.advance_to(epoch);
            models.flush();
            facts.advance_to(epoch);
            facts.flush();
            worker.step_while(|| probe.less_than(&epoch));
        };
        for _ in 0..300 {
            let changes = change(&mut rng, &mut facts, &mut merges);
            settle(&mut inputs, changes);
        }
        let before = sizes(&counted);
        assert_eq!(before.len(), 7, "{before:?}");
        assert!(before.values().all(|&size| size > 0), "{before:?}");
        // Everything is withdrawn and entered again, one thing after the other.
        let all: Vec<_> = facts.iter().cloned().collect();
        let mut corrections = 0;
        while corrections < 3_000 {
            for known in &all {
                // A merge that is taken back for a moment is no cycle.
                settle(&mut inputs, vec![(known.clone(), -1)]);
                settle(&mut inputs, vec![(known.clone(), 1)]);
                corrections += 2;
            }
        }
        let after = sizes(&counted);
        let sum = |sizes: &BTreeMap<_, i64>| sizes.values().sum::<i64>();
        assert!(
            sum(&after) < 3 * sum(&before) + 500,
            "{before:?}, and after {corrections} corrections {after:?}"
        );
    });
    // What is dropped is counted no more.
    assert!(sizes(&metrics).values().all(|&size| size == 0));
}
