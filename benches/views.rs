//! What one correction costs, by how many patients there are.
//!
//! For 10^3 to 10^6 patients, each with three clips, a blood test and every
//! tenth with pathology: withdraws one blood test and enters its correction,
//! and measures the time until every view stands again, on one worker.
//!
//! `cargo bench --bench views`; with `-- --quick` for 10^3 and 10^4 only.

use std::time::{Duration, Instant};

use differential_dataflow::input::{Input, InputSession};
use hepaflow::clinical::{Activation, BloodTest, Dated, Fact};
use hepaflow::dataflow::Epoch;
use hepaflow::dataflow::views::{ClipFact, maintain};
use hepaflow::domain::{
    ClipKey, ContentHash, ModelHash, PatientId, Probability, Stage, StageRange,
};

const CORRECTIONS: u64 = 2_000;

fn main() {
    // `cargo test --benches` runs this too: then only that it works matters.
    let args: Vec<_> = std::env::args().collect();
    let quick = args.iter().any(|arg| arg == "--quick" || arg == "--test")
        || !args.contains(&"--bench".to_owned());
    println!("patients   p50        p99        largest");
    for patients in [1_000, 10_000, 100_000, 1_000_000] {
        if quick && patients > 10_000 {
            break;
        }
        let mut times = corrections(patients);
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        println!(
            "{patients:>8}   {:>7.1?}   {:>7.1?}   {:>7.1?}",
            at(50),
            at(99),
            at(100)
        );
    }
}

fn blood(number: u64, version: u64) -> Fact {
    let test = BloodTest {
        age: 30_000 + (number % 40_000) as i64,
        ast: 20_000 + ((number * 7 + version * 977) % 90_000) as i64,
        alt: 30_000,
        platelets: 100_000 + (number % 150_000) as i64,
        ast_upper_limit: BloodTest::DEFAULT_AST_UPPER_LIMIT,
    };
    Fact::Blood(Dated {
        patient: patient(number),
        day: 1,
        value: test,
    })
}

fn patient(number: u64) -> PatientId {
    PatientId::new(number.to_string())
}

/// What enters, at one epoch.
struct Inputs {
    clips: InputSession<Epoch, ClipFact, isize>,
    models: InputSession<Epoch, (ModelHash, Vec<StageRange>), isize>,
    facts: InputSession<Epoch, Fact, isize>,
}

impl Inputs {
    fn advance_to(&mut self, epoch: Epoch) {
        self.clips.advance_to(epoch);
        self.clips.flush();
        self.models.advance_to(epoch);
        self.models.flush();
        self.facts.advance_to(epoch);
        self.facts.flush();
    }
}

fn corrections(patients: u64) -> Vec<Duration> {
    timely::execute_directly(move |worker| {
        let probe = timely::dataflow::ProbeHandle::new();
        let mut inputs = worker.dataflow::<Epoch, _, _>(|scope| {
            let (clips, clip_facts) = scope.new_collection();
            let (models, classes) = scope.new_collection();
            let (facts, changes) = scope.new_collection();
            let inputs = Inputs {
                clips,
                models,
                facts,
            };
            let views = maintain(clip_facts, classes, changes);
            views.current.probe_with(&probe);
            views.discordance.probe_with(&probe);
            views.evaluation.probe_with(&probe);
            inputs
        });
        let model = ModelHash::of(b"model");
        let classes = ["F0-F1", "F2-F4"].iter().filter_map(|c| c.parse().ok());
        inputs.models.insert((model, classes.collect()));
        inputs
            .facts
            .update(Fact::Activation(Activation { number: 1, model }), 1);
        let mut epoch = 0;
        for number in 0..patients {
            let content = ContentHash::of(&number.to_le_bytes());
            for clip in 0..3 {
                let significant = ((number * 37 + clip * 11) % 1_000) as f64 / 1e3;
                let fact = ClipFact {
                    key: ClipKey {
                        content,
                        first_frame: clip * 16,
                        model,
                    },
                    patient: patient(number),
                    weight: 256,
                    probabilities: [1.0 - significant, significant]
                        .into_iter()
                        .filter_map(Probability::from_f64)
                        .collect(),
                };
                inputs.clips.insert(fact);
            }
            inputs.facts.update(blood(number, 0), 1);
            if number % 10 == 0 {
                let found = Dated {
                    patient: patient(number),
                    day: 1,
                    value: Stage::ALL[(number / 10 % 5) as usize],
                };
                inputs.facts.update(Fact::Pathology(found), 1);
            }
            if number % 10_000 == 9_999 {
                epoch += 1;
                inputs.advance_to(epoch);
                worker.step_while(|| probe.less_than(&epoch));
            }
        }
        let mut settle = |inputs: &mut Inputs| {
            epoch += 1;
            inputs.advance_to(epoch);
            worker.step_while(|| probe.less_than(&epoch));
        };
        settle(&mut inputs);
        (0..CORRECTIONS)
            .map(|version| {
                // Every tenth patient has pathology: correct one of those, so
                // that the evaluation moves too.
                let number = version * 7_919 * 10 % patients;
                let before = version / (patients / 10).max(1);
                inputs.facts.update(blood(number, before), -1);
                inputs.facts.update(blood(number, before + 1), 1);
                let begin = Instant::now();
                settle(&mut inputs);
                begin.elapsed()
            })
            .collect()
    })
}
