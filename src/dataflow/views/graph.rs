use differential_dataflow::difference::Semigroup;
use differential_dataflow::operators::CountTotal;
use differential_dataflow::operators::iterate::Iterate;
use differential_dataflow::{AsCollection, ExchangeData, Hashable, VecCollection};
use timely::dataflow::operators::vec::Map;

use super::evaluation::Outcomes;
use super::opinion::{SCORE_BITS, of_elastography, of_indices, of_model};
use super::patient::Evidence;
use super::{ClipFact, Opinion, Part, PatientAnswer, PatientKey};
use crate::clinical::{
    Agreement, Auc, Confusion, Dated, Day, Deletion, Elastography, Evaluation, Fact, Indices, Rater,
};
use crate::dataflow::Epoch;
use crate::domain::{ModelHash, PatientId, Stage, StageRange};

type Collection<'scope, D> = VecCollection<'scope, Epoch, D, isize>;

/// What is maintained.
#[derive(Clone)]
pub struct Views<'scope> {
    /// One answer a patient and model.
    pub answers: Collection<'scope, (PatientKey, PatientAnswer)>,
    /// Of these, the active model's: replaced as a whole, in one epoch, when
    /// another model is activated.
    pub current: Collection<'scope, (PatientKey, PatientAnswer)>,
    /// FIB-4 and APRI of every patient with a blood test.
    pub indices: Collection<'scope, (PatientId, Indices)>,
    /// Of every patient the elastography of the latest day, of those the stiffest.
    pub elastography: Collection<'scope, (PatientId, Elastography)>,
    /// Models beside indices wherever both say yes or no.
    pub agreement: Collection<'scope, (PatientId, Agreement)>,
    /// The agreements that are none.
    pub discordance: Collection<'scope, (PatientId, Agreement)>,
    /// Every rater against pathology, question by question.
    pub evaluation: Collection<'scope, ((Rater, Stage), Evaluation)>,
    /// What the graph is made of, for [`super::Arrangements::name`].
    pub parts: Vec<Part>,
}

/// Maintains the views of `clips` that were scored, of what `models`' classes
/// mean and of `facts`, each worker holding any share of these. Patients are
/// exchanged between workers.
#[expect(
    clippy::needless_pass_by_value,
    reason = "collections are handed over, as everywhere in differential dataflow"
)]
pub fn maintain<'scope>(
    clips: Collection<'scope, ClipFact>,
    models: Collection<'scope, (ModelHash, Vec<StageRange>)>,
    facts: Collection<'scope, Fact>,
) -> Views<'scope> {
    macro_rules! only {
        ($kind:ident) => {
            facts.clone().flat_map(|fact| match fact {
                Fact::$kind(value) => Some(value),
                _ => None,
            })
        };
    }
    let worker = clips.inner.scope().worker();
    let mut parts = Vec::new();
    let mut built = |name| parts.push((name, worker.peek_identifier()));
    let merges = facts.clone().flat_map(|fact| match fact {
        Fact::Merge(from, into) => Some((from, into)),
        _ => None,
    });
    let deletions = only!(Deletion);
    let identities = Identities::of(merges, deletions.clone());
    built("identities");

    // Whose clip: what an exam says goes before what the recording says.
    let deleted_streams = deletions
        .flat_map(|deletion| match deletion {
            Deletion::Stream(content) => Some(content),
            Deletion::Patient(_) => None,
        })
        .distinct();
    let live = clips
        .map(|clip| (clip.key.content, clip))
        .antijoin(deleted_streams);
    let assigned = live
        .clone()
        .map(|(content, clip)| (content, clip.key))
        .join_map(
            only!(Exam).map(|exam| (exam.content, exam)),
            |_, key, exam| {
                let covers = (exam.from..exam.until).contains(&key.first_frame);
                (*key, covers.then(|| (exam.number, exam.patient.clone())))
            },
        )
        .flat_map(|(key, assignment)| assignment.map(|assignment| (key, assignment)))
        .greatest("Exams");
    let by_key = live.map(|(_, clip)| (clip.key, clip));
    let as_recorded = by_key
        .clone()
        .antijoin(assigned.clone().map(|(key, _)| key));
    let reassigned = by_key.join_map(assigned, |key, clip, (_, patient)| {
        let mut clip = clip.clone();
        clip.patient = patient.clone();
        (*key, clip)
    });
    built("clips");
    let evidence = as_recorded
        .concat(reassigned)
        .inner
        .map(|((key, clip), epoch, change)| {
            let evidence = Evidence::of(&clip, change);
            ((clip.patient, key.model), epoch, evidence)
        })
        .as_collection()
        .count_total()
        .map(|((patient, model), evidence)| (patient, (model, evidence)));
    // Two records of one person: their evidence adds up.
    let answers = identities
        .resolve(evidence)
        .inner
        .map(|((patient, (model, evidence)), epoch, change)| {
            ((patient, model), epoch, evidence.times(change))
        })
        .as_collection()
        .count_total()
        .map(|((patient, model), evidence)| (model, (patient, evidence)))
        .join_map(
            models.distinct(),
            |&model, (patient, evidence), classes: &Vec<_>| {
                ((patient.clone(), model), evidence.answer(classes))
            },
        );

    built("answers");
    let active = only!(Activation)
        .map(|activation| ((), (activation.number, activation.model)))
        .greatest("Activations")
        .map(|((), (_, model))| model);
    let current = answers
        .clone()
        .map(|((patient, model), answer)| (model, (patient, answer)))
        .semijoin(active)
        .map(|(model, (patient, answer))| ((patient, model), answer));

    built("current");
    let indices = identities
        .latest(only!(Blood))
        .map(|(patient, test)| (patient, Indices::of(&test)));
    let elastography = identities.latest(only!(Elastography));
    let truth = identities.latest(only!(Pathology));

    built("values");
    let of_models = answers.clone().flat_map(|((patient, model), answer)| {
        of_model(model, &answer)
            .into_iter()
            .map(move |opinion| (patient.clone(), opinion))
    });
    let of_others = indices
        .clone()
        .flat_map(|(patient, indices)| {
            of_indices(&indices)
                .into_iter()
                .map(move |opinion| (patient.clone(), opinion))
        })
        .concat(elastography.clone().flat_map(|(patient, measured)| {
            of_elastography(&measured)
                .into_iter()
                .map(move |opinion| (patient.clone(), opinion))
        }));

    let agreement = decided(of_models.clone())
        .join_map(
            decided(of_others.clone()),
            |(patient, target), model, other| {
                let agreement = match model.0 {
                    Rater::Model(hash) => Some(Agreement {
                        model: hash,
                        index: other.0,
                        target: *target,
                        model_says: model.1,
                        index_says: other.1,
                    }),
                    _ => None,
                };
                (patient.clone(), agreement)
            },
        )
        .flat_map(|(patient, agreement)| agreement.map(|agreement| (patient, agreement)));
    let discordance = agreement
        .clone()
        .filter(|(_, agreement)| agreement.model_says != agreement.index_says);
    built("agreement");
    let evaluation = evaluate(of_models.concat(of_others), truth);
    built("evaluation");

    Views {
        answers,
        current,
        indices,
        elastography,
        agreement,
        discordance,
        evaluation,
        parts,
    }
}

type Say = (Rater, bool);

fn decided(
    opinions: Collection<'_, (PatientId, Opinion)>,
) -> Collection<'_, ((PatientId, Stage), Say)> {
    opinions.flat_map(|(patient, opinion)| {
        let verdict = opinion.verdict?;
        Some(((patient, opinion.target), (opinion.rater, verdict)))
    })
}

/// Which records exist and who they are.
struct Identities<'scope> {
    /// (record, the record that stands for it), only where these differ.
    aliases: Collection<'scope, (PatientId, PatientId)>,
    deleted: Collection<'scope, PatientId>,
}

impl<'scope> Identities<'scope> {
    fn of(
        merges: Collection<'scope, (PatientId, PatientId)>,
        deletions: Collection<'scope, Deletion>,
    ) -> Self {
        let merges = merges.distinct();
        // Each round follows every chain one record further; chains end,
        // because `Merges` lets no cycle in.
        let aliases = merges.clone().iterate(|scope, aliases| {
            let merges = merges.enter(scope);
            let turned = aliases.map(|(record, stands)| (stands, record));
            let further = turned.clone().join_map(merges.clone(), |_, record, into| {
                (record.clone(), into.clone())
            });
            let ended = turned
                .antijoin(merges.map(|(from, _)| from))
                .map(|(stands, record)| (record, stands));
            further.concat(ended).consolidate()
        });
        let deleted = deletions
            .flat_map(|deletion| match deletion {
                Deletion::Patient(patient) => Some(patient),
                Deletion::Stream(_) => None,
            })
            .distinct();
        Self { aliases, deleted }
    }

    /// Drops what belongs to deleted records and gives the rest to the record
    /// that stands for its own.
    fn resolve<V: ExchangeData>(
        &self,
        values: Collection<'scope, (PatientId, V)>,
    ) -> Collection<'scope, (PatientId, V)> {
        let live = values.antijoin(self.deleted.clone());
        let renamed = live
            .clone()
            .join_map(self.aliases.clone(), |_, value, stands| {
                (stands.clone(), value.clone())
            });
        live.antijoin(self.aliases.clone().map(|(record, _)| record))
            .concat(renamed)
    }

    fn latest<V: ExchangeData>(
        &self,
        values: Collection<'scope, Dated<V>>,
    ) -> Collection<'scope, (PatientId, V)> {
        self.resolve(values.map(|dated| (dated.patient, (dated.day, dated.value))))
            .greatest("Latest")
            .map(|(patient, (_, value)): (_, (Day, V))| (patient, value))
    }
}

/// Extension: of the values of a key the greatest.
trait Greatest {
    fn greatest(self, name: &str) -> Self;
}

impl<K: ExchangeData + Hashable, V: ExchangeData> Greatest for Collection<'_, (K, V)> {
    fn greatest(self, name: &str) -> Self {
        self.reduce_named(name, |_, values, output| {
            // Values come sorted.
            if let Some((value, _)) = values.last() {
                output.push(((*value).clone(), 1));
            }
        })
    }
}

/// Children of a node in the tree of scores.
const FAN_OUT_BITS: u32 = 4;

fn evaluate<'scope>(
    opinions: Collection<'scope, (PatientId, Opinion)>,
    truth: Collection<'scope, (PatientId, Stage)>,
) -> Collection<'scope, ((Rater, Stage), Evaluation)> {
    let judged = opinions.join_map(truth, |_, &opinion, &stage| {
        (opinion, stage >= opinion.target)
    });
    let confusion = judged
        .clone()
        .inner
        .map(|((opinion, truth), epoch, change)| {
            let one = Confusion::of(opinion.verdict, truth, change);
            ((opinion.rater, opinion.target), epoch, one)
        })
        .as_collection()
        .count_total();
    let mut level = judged
        .inner
        .map(|((opinion, truth), epoch, change)| {
            let change = change as i64;
            let one = Outcomes {
                positives: if truth { change } else { 0 },
                negatives: if truth { 0 } else { change },
            };
            ((opinion.rater, opinion.target, opinion.score), epoch, one)
        })
        .as_collection()
        .count_total()
        .map(|(node, outcomes)| (node, Auc::tied(outcomes.positives, outcomes.negatives)));
    for _ in 0..SCORE_BITS / FAN_OUT_BITS {
        level = level
            .map(|((rater, target, range), auc)| {
                ((rater, target, range >> FAN_OUT_BITS), (range, auc))
            })
            .reduce_named("Auc", |_, ranges, output| {
                let mut whole = Auc::default();
                for ((_, auc), _) in ranges {
                    whole.append(auc);
                }
                output.push((whole, 1));
            });
    }
    confusion.join_map(
        level.map(|((rater, target, _), auc)| ((rater, target), auc)),
        |&rater, &confusion, &auc| (rater, Evaluation { confusion, auc }),
    )
}

impl Evidence {
    /// `factor` times this evidence.
    fn times(&self, factor: isize) -> Self {
        let mut sum = Self::default();
        let mut one = self.clone();
        if factor < 0 {
            one.negate();
        }
        for _ in 0..factor.unsigned_abs() {
            sum.plus_equals(&one);
        }
        sum
    }
}
