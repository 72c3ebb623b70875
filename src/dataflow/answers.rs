use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use differential_dataflow::consolidation::consolidate;
use differential_dataflow::{AsCollection, VecCollection};
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::{Operator, Probe};
use timely::dataflow::{ProbeHandle, StreamVec};

use super::views::{ClipFact, PatientAnswer, PatientKey, Views};
use super::{Epoch, WriterHandle};
use crate::domain::{ClipPrediction, PatientResult};
use crate::metrics::Metrics;
use crate::store::{Batch, PatientChange, RowChange, ViewRow};

/// The weight of a clip whose picture nobody judged.
const FULL_WEIGHT: u16 = 256;

/// Extension: predictions as facts that may come and go.
pub(super) trait ClipFacts<'scope> {
    fn clip_facts(self) -> VecCollection<'scope, Epoch, ClipFact, isize>;
}

impl<'scope> ClipFacts<'scope> for StreamVec<'scope, Epoch, ClipPrediction> {
    fn clip_facts(self) -> VecCollection<'scope, Epoch, ClipFact, isize> {
        let facts: StreamVec<_, (ClipFact, Epoch, isize)> =
            self.unary(Pipeline, "Clip facts", |_, _| {
                |input, output| {
                    input.for_each(|capability, clips| {
                        let Some(&epoch) = capability.least() else {
                            return;
                        };
                        output
                            .session(&capability)
                            .give_iterator(clips.drain(..).map(|clip| {
                                let fact = ClipFact {
                                    key: clip.key,
                                    patient: clip.patient,
                                    weight: FULL_WEIGHT,
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
pub(super) fn store_views(
    views: Views<'_>,
    stored: StoredViews,
    writer: WriterHandle,
    metrics: Metrics,
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
    let progress = ProbeHandle::new();
    let rows = rows.probe_with(&progress);

    let mut waiting: BTreeMap<Epoch, Vec<(Standing, isize)>> = BTreeMap::new();
    let by_patient = Exchange::new(|(row, _, _): &(Standing, Epoch, isize)| home(row));
    rows.sink(by_patient, "Views", move |(input, frontier)| {
        input.for_each(|_, changes| {
            for (row, epoch, change) in changes.drain(..) {
                waiting.entry(epoch).or_default().push((row, change));
            }
        });
        while let Some(entry) = waiting.first_entry() {
            if frontier.less_equal(entry.key()) {
                break;
            }
            let batch = net_changes(entry.remove(), &metrics);
            if !batch.is_empty() {
                writer.send(batch);
            }
        }
    });
    progress
}

/// Rows of one patient meet on one worker.
fn home(row: &Standing) -> u64 {
    let mut hasher = DefaultHasher::new();
    match row {
        Standing::Answer(result) => result.patient.hash(&mut hasher),
        Standing::Other(ViewRow::Indices(patient, _) | ViewRow::Agreement(patient, _)) => {
            patient.hash(&mut hasher);
        }
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
fn net_changes(mut changes: Vec<(Standing, isize)>, metrics: &Metrics) -> Batch {
    consolidate(&mut changes);
    let mut batch = Batch::default();
    // Sorted, so that what is about the same stands together.
    for about in changes.chunk_by(|(one, _), (other, _)| same_place(one, other)) {
        for (row, change) in about {
            if matches!(row, Standing::Answer(result) if result.current) {
                metrics.patients.add(*change as i64);
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
