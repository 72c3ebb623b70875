use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use differential_dataflow::consolidation::consolidate;
use differential_dataflow::{AsCollection, VecCollection};
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::vec::Map;
use timely::dataflow::operators::{Concat, Operator, Probe};
use timely::dataflow::{ProbeHandle, StreamVec};

use super::census::{Arrivals, Census};
use super::facts::Came;
use super::views::{ClipFact, PatientAnswer, PatientKey, Views};
use super::{Epoch, WriterHandle};
use crate::domain::{ClipPrediction, PatientResult};
use crate::metrics::Metrics;
use crate::store::{Batch, Cause, PatientChange, RowChange, ViewRow};

/// Extension: predictions as facts that may come and go.
pub(super) trait ClipFacts<'scope> {
    /// Notes when they came.
    fn clip_facts(self, arrivals: Arrivals) -> VecCollection<'scope, Epoch, ClipFact, isize>;
}

impl<'scope> ClipFacts<'scope> for StreamVec<'scope, Epoch, ClipPrediction> {
    fn clip_facts(self, arrivals: Arrivals) -> VecCollection<'scope, Epoch, ClipFact, isize> {
        let facts: StreamVec<_, (ClipFact, Epoch, isize)> =
            self.unary(Pipeline, "Clip facts", move |_, _| {
                move |input, output| {
                    input.for_each(|capability, clips| {
                        let Some(&epoch) = capability.least() else {
                            return;
                        };
                        arrivals.came(epoch);
                        output
                            .session(&capability)
                            .give_iterator(clips.drain(..).map(|clip| {
                                let fact = ClipFact {
                                    key: clip.key,
                                    patient: clip.patient,
                                    weight: clip.span.weight,
                                    probabilities: clip.probabilities,
                                };
                                (fact, epoch, 1)
                            }));
                    });
                }
            });
        facts.as_collection()
    }
}

/// A row of the store's views.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
enum Standing {
    Answer(PatientResult),
    Other(ViewRow),
}

fn answer((patient, model): PatientKey, answer: PatientAnswer, current: bool) -> Standing {
    Standing::Answer(PatientResult {
        patient,
        model,
        current,
        clips: answer.used,
        left_out: answer.left_out,
        weight: answer.weight,
        probabilities: answer.probabilities,
        abstention: answer.abstention,
    })
}

/// What is told to the worker that stores a patient's rows.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
enum Told {
    /// A row came, or went.
    Changed(Standing, isize),
    /// Facts of these numbers came; told to every worker.
    Facts { worker: u64, first: u64, last: u64 },
}

/// What was told of one epoch.
#[derive(Default)]
struct Waiting {
    changes: Vec<(Standing, isize)>,
    cause: Cause,
}

/// What the store's views held when the run began.
#[derive(Default)]
pub(super) struct StoredViews {
    pub(super) answers: Vec<PatientResult>,
    pub(super) others: Vec<ViewRow>,
}

impl StoredViews {
    /// As changes at epoch 0 that take every row back. Those that still hold
    /// come again at that epoch and cancel out, so that a run writes only what
    /// differs, and what no longer holds is deleted.
    fn retractions(self) -> impl Iterator<Item = (Standing, Epoch, isize)> {
        let answers = self.answers.into_iter().map(Standing::Answer);
        let others = self.others.into_iter().map(Standing::Other);
        answers.chain(others).map(|row| (row, 0, -1))
    }
}

/// Sends every change of the views to the store once its epoch is over: all of
/// a patient's rows of one epoch in one batch, which is one transaction. What it
/// gives shows which epochs are over.
pub(super) fn store_views<'scope>(
    views: Views<'scope>,
    came: StreamVec<'scope, Epoch, Came>,
    stored: StoredViews,
    writer: WriterHandle,
    (census, arrivals, metrics): (Census, Arrivals, Metrics),
) -> ProbeHandle<Epoch> {
    let scope = views.answers.inner.scope();
    let stored = timely::dataflow::operators::ToStream::to_stream(
        stored.retractions().collect::<Vec<_>>(),
        scope,
    );
    // The active model's answers, and the others: an activation turns both kinds
    // into each other in one epoch.
    let current = views.current;
    let answers = views
        .answers
        .map(|(key, value)| answer(key, value, false))
        .concat(
            current
                .clone()
                .map(|(key, value)| answer(key, value, false))
                .negate(),
        )
        .concat(current.map(|(key, value)| answer(key, value, true)));
    let others = views
        .indices
        .map(|(patient, indices)| ViewRow::Indices(patient, indices))
        .concat(
            views
                .elastography
                .map(|(patient, measured)| ViewRow::Elastography(patient, measured)),
        )
        .concat(
            views
                .agreement
                .map(|(patient, agreement)| ViewRow::Agreement(patient, agreement)),
        )
        .concat(
            views
                .evaluation
                .map(|((rater, target), found)| ViewRow::Evaluation(rater, target, found)),
        )
        .map(Standing::Other);
    let rows = answers.concat(others).concat(stored.as_collection()).inner;
    let rows = rows.map(|(row, epoch, change)| (epoch, Told::Changed(row, change)));
    let workers = scope.peers() as u64;
    let came = came.flat_map(move |(epoch, first, last)| {
        (0..workers).map(move |worker| {
            let facts = Told::Facts {
                worker,
                first,
                last,
            };
            (epoch, facts)
        })
    });

    let mut waiting: BTreeMap<Epoch, Waiting> = BTreeMap::new();
    let by_patient = Exchange::new(|(_, told): &(Epoch, Told)| home(told));
    let progress = ProbeHandle::new();
    rows.concat(came)
        .probe_with(&progress)
        .sink(by_patient, "Views", move |(input, frontier)| {
            input.for_each(|_, told| {
                for (epoch, told) in told.drain(..) {
                    let waiting = waiting.entry(epoch).or_default();
                    match told {
                        Told::Changed(row, change) => waiting.changes.push((row, change)),
                        Told::Facts { first, last, .. } => waiting.cause.extend(&Cause {
                            facts: Some((first, last)),
                            beginning: false,
                        }),
                    }
                }
            });
            arrivals.stand(&metrics, |epoch| !frontier.less_equal(epoch));
            while let Some(entry) = waiting.first_entry() {
                if frontier.less_equal(entry.key()) {
                    break;
                }
                let beginning = *entry.key() == 0;
                let Waiting { changes, mut cause } = entry.remove();
                cause.beginning = beginning;
                let mut batch = net_changes(changes, &census);
                if !batch.is_empty() {
                    batch.cause = cause;
                    writer.send(batch);
                }
            }
        });
    progress
}

/// Rows of one patient meet on one worker.
fn home(told: &Told) -> u64 {
    let row = match told {
        Told::Changed(row, _) => row,
        Told::Facts { worker, .. } => return *worker,
    };
    let mut hasher = DefaultHasher::new();
    match row {
        Standing::Answer(result) => result.patient.hash(&mut hasher),
        Standing::Other(
            ViewRow::Indices(patient, _)
            | ViewRow::Elastography(patient, _)
            | ViewRow::Agreement(patient, _),
        ) => patient.hash(&mut hasher),
        Standing::Other(ViewRow::Evaluation(rater, ..)) => rater.hash(&mut hasher),
    }
    hasher.finish()
}

fn same_place(one: &Standing, other: &Standing) -> bool {
    match (one, other) {
        (Standing::Answer(one), Standing::Answer(other)) => {
            (&one.patient, one.model) == (&other.patient, other.model)
        }
        (Standing::Other(one), Standing::Other(other)) => one.is_about_the_same(other),
        _ => false,
    }
}

/// What stands after all changes of one epoch.
fn net_changes(mut changes: Vec<(Standing, isize)>, census: &Census) -> Batch {
    consolidate(&mut changes);
    let mut batch = Batch::default();
    // Sorted, so that what is about the same stands together.
    for about in changes.chunk_by(|(one, _), (other, _)| same_place(one, other)) {
        for (row, change) in about {
            match row {
                Standing::Answer(result) => census.answer(result, *change as i64),
                Standing::Other(row) => census.row(row, *change as i64),
            }
        }
        let stands = about.iter().find(|(_, change)| *change > 0);
        let Some((row, _)) = stands.or(about.first()) else {
            continue;
        };
        match (row.clone(), stands.is_some()) {
            (Standing::Answer(result), true) => {
                batch.patients.push(PatientChange::Stands(result));
            }
            (Standing::Answer(result), false) => batch
                .patients
                .push(PatientChange::Withdrawn(result.patient, result.model)),
            (Standing::Other(row), true) => batch.rows.push(RowChange::Stands(row)),
            (Standing::Other(row), false) => batch.rows.push(RowChange::Withdrawn(row)),
        }
    }
    batch
}
