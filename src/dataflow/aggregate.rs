use std::collections::BTreeMap;

use differential_dataflow::AsCollection;
use differential_dataflow::difference::{IsZero, Semigroup};
use differential_dataflow::operators::CountTotal;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Operator;

use super::{Epoch, WriterHandle};
use crate::domain::{ClipPrediction, ModelHash, PatientId, PatientResult, Tally};
use crate::metrics::Metrics;
use crate::store::{Batch, PatientChange};

// The tally of clips is the *difference* type: differential adds and retracts
// tallies as others add and retract counts, so that a mean over a patient's
// clips costs one addition a clip, whatever their number.
impl IsZero for Tally {
    fn is_zero(&self) -> bool {
        Self::is_zero(self)
    }
}

impl Semigroup for Tally {
    fn plus_equals(&mut self, other: &Self) {
        self.add(other);
    }
}

/// Evidence for one patient under one model.
pub type Answer = ((PatientId, ModelHash), Tally);

/// Extension: predictions into one standing answer per patient and model.
pub trait StandingAnswers<'scope> {
    /// Maintains the tally of every patient, exchanged between workers by
    /// patient and model. A changed answer is a retraction (-1) and a new row
    /// (+1) at the same epoch.
    fn standing_answers(self) -> StreamVec<'scope, Epoch, (Answer, Epoch, isize)>;
}

impl<'scope> StandingAnswers<'scope> for StreamVec<'scope, Epoch, ClipPrediction> {
    fn standing_answers(self) -> StreamVec<'scope, Epoch, (Answer, Epoch, isize)> {
        let tallies: StreamVec<_, ((PatientId, ModelHash), Epoch, Tally)> =
            self.unary(Pipeline, "Tally", |_, _| {
                |input, output| {
                    input.for_each(|capability, clips| {
                        let Some(&epoch) = capability.least() else {
                            return;
                        };
                        output
                            .session(&capability)
                            .give_iterator(clips.drain(..).map(|clip| {
                                let tally = Tally::of(&clip.probabilities);
                                ((clip.patient, clip.key.model), epoch, tally)
                            }));
                    });
                }
            });
        tallies.as_collection().count_total().inner
    }
}

/// Sends every answer to the store once all evidence of its epoch is in.
pub(super) fn store_answers(
    answers: StreamVec<'_, Epoch, (Answer, Epoch, isize)>,
    writer: WriterHandle,
    metrics: Metrics,
) {
    let mut waiting: BTreeMap<Epoch, Vec<(Answer, isize)>> = BTreeMap::new();
    answers.sink(Pipeline, "Patients", move |(input, frontier)| {
        input.for_each(|_, changes| {
            for (answer, epoch, change) in changes.drain(..) {
                waiting.entry(epoch).or_default().push((answer, change));
            }
        });
        while let Some(entry) = waiting.first_entry() {
            if frontier.less_equal(entry.key()) {
                break;
            }
            let changes = entry.remove();
            metrics
                .patients
                .add(changes.iter().map(|(_, change)| *change as i64).sum());
            let patients = net_changes(changes);
            writer.send(Batch {
                clips: Vec::new(),
                patients,
            });
        }
    });
}

/// What stands after all changes of one epoch.
fn net_changes(changes: Vec<(Answer, isize)>) -> Vec<PatientChange> {
    let mut standing: BTreeMap<(PatientId, ModelHash), Option<Tally>> = BTreeMap::new();
    for ((key, tally), change) in changes {
        let slot = standing.entry(key).or_default();
        if change > 0 {
            *slot = Some(tally);
        }
    }
    standing
        .into_iter()
        .map(|((patient, model), tally)| match tally {
            Some(tally) => PatientChange::Stands(PatientResult {
                patient,
                model,
                clips: tally.clips().unsigned_abs(),
                probabilities: tally.means(),
            }),
            None => PatientChange::Withdrawn(patient, model),
        })
        .collect()
}
