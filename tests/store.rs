//! The store on both of its databases: one suite, run on an SQLite file and on a
//! PostgreSQL server that the test starts.
#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "support/postgres.rs"]
#[allow(dead_code, reason = "other tests need the rest")]
mod postgres_server;

use std::path::Path;

use hepaflow::clinical::{
    Activation, Agreement, BloodTest, Dated, Deletion, Elastography, ElastographyMethod,
    Evaluation, Exam, Fact, Indices, Rater,
};
use hepaflow::config::StorePlace;
use hepaflow::domain::{
    Abstention, ClipKey, ClipPrediction, ClipSpan, ContentHash, EventTime, ModelHash, PatientId,
    PatientResult, Probability, Stage, StudyUid,
};
use hepaflow::store::{
    Assignments, Batch, Cause, Change, Effect, LogFault, Page, PatientChange, RowChange, Store,
    StoreError, StoredModel, ViewRow,
};
use postgres_server::Server;

/// One empty place after the other.
trait Places {
    fn next(&self) -> StorePlace;
    /// Runs a statement behind the store's back.
    fn tamper(&self, place: &StorePlace, sql: &str);
}

struct Files(tempfile::TempDir);

fn file(place: &StorePlace) -> &Path {
    let StorePlace::File(file) = place else {
        panic!("{place} is no file");
    };
    file
}

impl Places for Files {
    fn next(&self) -> StorePlace {
        let name = format!("deep/{}.sqlite", rand::random::<u64>());
        self.0.path().join(name).into()
    }

    fn tamper(&self, place: &StorePlace, sql: &str) {
        let connection = rusqlite::Connection::open(file(place)).unwrap();
        connection.execute_batch(sql).unwrap();
    }
}

impl Places for Server {
    fn next(&self) -> StorePlace {
        let name = format!("results_{}", rand::random::<u64>());
        self.database(&name).parse().unwrap()
    }

    fn tamper(&self, place: &StorePlace, sql: &str) {
        let database = place.to_string();
        let database = database.rsplit('/').next().unwrap();
        self.client(database).batch_execute(sql).unwrap();
    }
}

fn model() -> StoredModel {
    StoredModel {
        hash: ModelHash::of(b"model"),
        architecture: "fibro3d".to_owned(),
        classes: vec!["F0-F1".parse().unwrap(), "F2-F4".parse().unwrap()],
    }
}

fn clip(first_frame: u64) -> ClipPrediction {
    ClipPrediction {
        key: ClipKey {
            content: ContentHash::of(b"film"),
            first_frame,
            model: model().hash,
        },
        span: ClipSpan {
            first_frame,
            last_frame: first_frame + 15,
            begin: EventTime::from_nanos(first_frame * 33),
            end: EventTime::from_nanos((first_frame + 15) * 33),
            gaps_before: 0,
            weight: 200,
        },
        patient: PatientId::new("p'1 ä"),
        study: (first_frame == 0).then(|| StudyUid::new("1.2.3")),
        source: "bed".to_owned(),
        probabilities: [0.25, 0.75]
            .map(|p| Probability::from_f64(p).unwrap())
            .to_vec(),
    }
}

fn answer(patient: &str, clips: u64) -> PatientResult {
    PatientResult {
        patient: PatientId::new(patient),
        model: model().hash,
        current: false,
        clips,
        left_out: 1,
        weight: 256 * clips,
        probabilities: clip(0).probabilities,
        abstention: (clips < 3).then_some(Abstention::ThinEvidence),
    }
}

fn stands(patient: &str, clips: u64) -> PatientChange {
    PatientChange::Stands(answer(patient, clips))
}

fn batch(clips: Vec<ClipPrediction>, patients: Vec<PatientChange>) -> Batch {
    Batch {
        clips,
        patients,
        ..Batch::default()
    }
}

fn open(place: &StorePlace) -> Store {
    let mut store = Store::open(place).unwrap();
    store.register(&model()).unwrap();
    store
}

type Case = (&'static str, fn(&dyn Places));

const SUITE: [Case; 13] = [
    (
        "what a report rests on follows the log, however far it was read before",
        |places| {
            let mut store = open(&places.next());
            let cut = |patient: &str, first_frame: u64| {
                let mut cut = clip(first_frame);
                cut.key.content = ContentHash::of(patient.as_bytes());
                cut.patient = PatientId::new(patient);
                cut
            };
            let [early, late, other] = [("B", 0), ("B", 40), ("A", 7)];
            let all = [early, late, other].map(|(patient, first)| cut(patient, first));
            store.commit(&batch(all.to_vec(), vec![])).unwrap();
            let merge =
                |from: &str, into: &str| Fact::Merge(PatientId::new(from), PatientId::new(into));
            let exam = Fact::Exam(Exam {
                content: all[0].key.content,
                from: 32,
                until: 64,
                number: 0,
                patient: PatientId::new("A"),
            });
            let stream = Fact::Deletion(Deletion::Stream(all[2].key.content));
            let patient = Fact::Deletion(Deletion::Patient(PatientId::new("B")));
            let (enter, withdraw) = (Change::Enter, Change::Withdraw);
            // What is said, and the first frames of the clips that A and B rest on then.
            let steps: [(Vec<Change>, &[u64], &[u64]); 8] = [
                (vec![], &[7], &[0, 40]),
                (vec![enter(merge("A", "B"))], &[], &[0, 7, 40]),
                (vec![withdraw(merge("A", "B"))], &[7], &[0, 40]),
                (vec![enter(exam.clone())], &[7, 40], &[0]),
                (vec![enter(merge("B", "A"))], &[0, 7, 40], &[]),
                (vec![enter(stream.clone())], &[0, 40], &[]),
                (vec![withdraw(stream), enter(patient)], &[7, 40], &[]),
                (vec![withdraw(exam)], &[7], &[]),
            ];
            let mut kept = Assignments::default();
            for (number, (changes, of_a, of_b)) in steps.into_iter().enumerate() {
                let receipt = store.enter(&changes, "anna", "").unwrap();
                assert!(receipt.outcomes.iter().all(Result::is_ok), "step {number}");
                kept.follow(&store).unwrap();
                let mut anew = Assignments::default();
                anew.follow(&store).unwrap();
                for (patient, expected) in [("A", of_a), ("B", of_b)] {
                    for assignments in [&kept, &anew] {
                        let patient = PatientId::new(patient);
                        let found = store.evidence_of(assignments, &patient, model().hash);
                        let found = found.unwrap().into_iter();
                        let mut frames: Vec<_> = found.map(|it| it.key.first_frame).collect();
                        frames.sort_unstable();
                        assert_eq!(frames, expected, "step {number}");
                    }
                }
            }
        },
    ),
    (
        "what was committed is read back, and the same fact twice is one",
        |places| {
            let place = places.next();
            let batch = batch(
                vec![clip(8), clip(0), clip(8)],
                vec![stands("P", 1), stands("P", 2)],
            );
            let mut store = open(&place);
            store.register(&model()).unwrap();
            store.commit(&batch).unwrap();
            store.commit(&batch).unwrap();
            drop(store);
            let store = Store::open_existing(&place).unwrap();
            assert_eq!(store.clip_predictions().unwrap(), [clip(0), clip(8)]);
            assert_eq!(store.patient_results().unwrap(), [answer("P", 2)]);
            assert_eq!(store.finished().unwrap(), [clip(0).key, clip(8).key].into());
            assert_eq!(store.models().unwrap()[&model().hash], model());
        },
    ),
    (
        "more rows than a statement takes are all written",
        |places| {
            let mut store = open(&places.next());
            let clips: Vec<_> = (0..1234).map(clip).collect();
            let patients = (0..321).map(|n| stands(&format!("P{n:03}"), n)).collect();
            store.commit(&batch(clips.clone(), patients)).unwrap();
            let mut stored = store.clip_predictions().unwrap();
            stored.sort_by_key(|clip| clip.key.first_frame);
            assert_eq!(stored, clips);
            assert_eq!(store.patient_results().unwrap().len(), 321);
        },
    ),
    ("rows come in the order of their bytes", |places| {
        let mut store = open(&places.next());
        let names = ["B", "a", "Z", "ä", "_", "10", "9"];
        let patients = names.iter().map(|name| stands(name, 1)).collect();
        store.commit(&batch(vec![], patients)).unwrap();
        let stored = store.patient_results().unwrap();
        let mut sorted = names.map(str::to_owned);
        sorted.sort();
        assert!(stored.iter().map(|r| r.patient.expose()).eq(sorted.iter()));
    }),
    ("a withdrawn answer is gone", |places| {
        let mut store = open(&places.next());
        let gone = PatientChange::Withdrawn(PatientId::new("P"), model().hash);
        store
            .commit(&batch(vec![], vec![stands("P", 1), gone.clone()]))
            .unwrap();
        assert_eq!(store.patient_results().unwrap(), []);
        store
            .commit(&batch(vec![], vec![gone.clone(), stands("P", 1)]))
            .unwrap();
        store.commit(&batch(vec![], vec![gone])).unwrap();
        assert_eq!(store.patient_results().unwrap(), []);
    }),
    ("a batch with one bad row is not written at all", |places| {
        let mut store = open(&places.next());
        let mut foreign = clip(8);
        foreign.key.model = ModelHash::of(b"never registered");
        let error = store.commit(&batch(vec![clip(0), foreign], vec![stands("P", 1)]));
        assert!(
            matches!(error, Err(StoreError::Refused { .. })),
            "{error:?}"
        );
        assert_eq!(store.clip_predictions().unwrap(), []);
        assert_eq!(store.patient_results().unwrap(), []);
        store.commit(&batch(vec![clip(0)], vec![])).unwrap();
    }),
    (
        "processes open a new store at once and write the same rows",
        |places| {
            let place = places.next();
            std::thread::scope(|scope| {
                for turn in 0..4 {
                    let place = &place;
                    scope.spawn(move || {
                        let mut store = open(place);
                        for begin in (0..200).step_by(20) {
                            let mut clips: Vec<_> = (begin..begin + 30).map(clip).collect();
                            clips.rotate_left(turn * 7);
                            let mut patients: Vec<_> =
                                (0..9).map(|n| stands(&format!("P{n}"), begin)).collect();
                            patients.rotate_left(turn);
                            store.commit(&batch(clips, patients)).unwrap();
                        }
                    });
                }
            });
            let store = Store::open_existing(&place).unwrap();
            assert_eq!(store.clip_predictions().unwrap().len(), 210);
            assert_eq!(store.patient_results().unwrap().len(), 9);
        },
    ),
    (
        "a store that is missing, newer, cut short or damaged is refused by name",
        |places| {
            let place = places.next();
            let missing = Store::open_existing(&place).unwrap_err();
            assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");

            let mut store = open(&place);
            store.commit(&batch(vec![clip(0)], vec![])).unwrap();
            places.tamper(&place, "UPDATE clip_predictions SET probabilities = '[1,'");
            let error = store.clip_predictions().unwrap_err();
            assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
            assert!(!error.to_string().contains("p'1"), "{error}");
            drop(store);

            let newer = match &place {
                StorePlace::File(_) => "PRAGMA user_version = 99",
                StorePlace::Postgres(_) => "UPDATE hepaflow_schema SET version = 99",
            };
            places.tamper(&place, newer);
            for error in [Store::open(&place), Store::open_existing(&place)] {
                let error = error.unwrap_err();
                assert!(
                    matches!(error, StoreError::Newer { found: 99, .. }),
                    "{error}"
                );
                assert!(error.to_string().contains("use a newer one"));
            }

            let place = places.next();
            drop(open(&place));
            places.tamper(&place, "DROP TABLE patient_results");
            let error = Store::open(&place).unwrap_err();
            assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("backup"), "{error}");
        },
    ),
    (
        "facts are logged once, corrected, and tampering is found",
        |places| {
            let place = places.next();
            let mut store = open(&place);
            let found = |stage| {
                Change::Enter(Fact::Pathology(Dated {
                    patient: PatientId::new("p'1 ä"),
                    day: 9,
                    value: stage,
                }))
            };
            let active = Change::Enter(Fact::Activation(Activation {
                number: 0,
                model: model().hash,
            }));
            let changes = [found(Stage::F1), found(Stage::F1), active, found(Stage::F3)];
            let receipt = store.enter(&changes, "test", "why").unwrap();
            let effects = [
                Ok(Effect::Logged(1)),
                Ok(Effect::Unchanged),
                Ok(Effect::Logged(2)),
                Ok(Effect::Corrected(4)),
            ];
            assert_eq!(receipt.outcomes, effects);
            // Writers that come at once wait for one another.
            std::thread::scope(|scope| {
                for writer in 0..4 {
                    let place = &place;
                    scope.spawn(move || {
                        let mut store = Store::open(place).unwrap();
                        for day in 0..10 {
                            let fact = Fact::Pathology(Dated {
                                patient: PatientId::new(format!("P{writer}")),
                                day,
                                value: Stage::F2,
                            });
                            let change = [Change::Enter(fact)];
                            store.enter(&change, "test", "at once").unwrap();
                        }
                    });
                }
            });
            let sound = store.verify_facts(None).unwrap();
            assert_eq!((sound.rows, sound.faults), (44, vec![]));
            assert_eq!(store.active_model().unwrap(), Some(model().hash));
            let rows = store.facts_after(3, 1).unwrap();
            assert_eq!((rows[0].number, &rows[0].change), (4, &found(Stage::F3)));
            places.tamper(&place, "UPDATE facts SET actor = 'nobody' WHERE number = 7");
            places.tamper(&place, "DELETE FROM facts WHERE number > 40");
            let tampered = store.verify_facts(None).unwrap();
            let faults = [LogFault::Changed(7), LogFault::CutOff { from: 41, to: 44 }];
            assert_eq!(tampered.faults, faults);
        },
    ),
    (
        "every change of an answer is logged with its cause, and tampering is found",
        |places| {
            let place = places.next();
            let mut store = open(&place);
            let commit = |store: &mut Store, patients, facts| {
                let cause = Cause {
                    facts,
                    beginning: false,
                };
                let batch = Batch {
                    patients,
                    cause,
                    ..Batch::default()
                };
                store.commit(&batch).unwrap();
            };
            commit(&mut store, vec![stands("P", 3), stands("Q", 3)], None);
            // One that stays as it was is no change.
            commit(
                &mut store,
                vec![stands("P", 3), stands("Q", 4)],
                Some((7, 9)),
            );
            let gone = PatientChange::Withdrawn(PatientId::new("Q"), model().hash);
            commit(&mut store, vec![gone.clone()], Some((10, 10)));
            commit(&mut store, vec![gone], Some((11, 11)));
            let rows = store.answers_after(0, 99).unwrap();
            let told: Vec<_> = rows
                .iter()
                .map(|row| {
                    let clips = row.answer.as_ref().map(|answer| answer.clips);
                    (row.number, row.patient.expose(), row.reason.as_str(), clips)
                })
                .collect();
            assert_eq!(
                told,
                [
                    (1, "P", "clips", Some(3)),
                    (2, "Q", "clips", Some(3)),
                    (
                        3,
                        "Q",
                        "facts 7 to 9, or clips that came with them",
                        Some(4)
                    ),
                    (4, "Q", "fact 10, or clips that came with it", None),
                ]
            );
            assert_eq!(rows[2].answer, Some(answer("Q", 4)));
            assert!(rows.iter().all(|row| row.model == model().hash));
            assert_eq!(store.answers_after(3, 99).unwrap(), rows[3..]);

            let sound = store.verify_answers(None).unwrap();
            assert_eq!((sound.rows, sound.faults), (4, vec![]));
            assert_eq!(store.verify_facts(None).unwrap().rows, 0);
            places.tamper(
                &place,
                "UPDATE answer_log SET reason = 'clips' WHERE number = 3",
            );
            let faults = store.verify_answers(None).unwrap().faults;
            assert_eq!(faults, [LogFault::Changed(3)]);
            places.tamper(
                &place,
                "DELETE FROM answer_log WHERE number > 2;
                 UPDATE answer_log_head SET number = 2,
                     hash = (SELECT hash FROM answer_log WHERE number = 2)",
            );
            assert_eq!(store.verify_answers(None).unwrap().faults, []);
            let faults = store.verify_answers(Some(&sound.head)).unwrap().faults;
            assert_eq!(faults, [LogFault::CutOff { from: 3, to: 4 }]);
        },
    ),
    (
        "a summary tells what else is known of its patient",
        |places| {
            let mut store = open(&places.next());
            let current = |patient| {
                PatientChange::Stands(PatientResult {
                    current: true,
                    ..answer(patient, 3)
                })
            };
            let measured = |patient, pascal| {
                let method = ElastographyMethod::MindraySte;
                let measured = Elastography::from_pascal(method, pascal).unwrap();
                RowChange::Stands(ViewRow::Elastography(PatientId::new(patient), measured))
            };
            let batch = Batch {
                patients: vec![current("P"), current("Q")],
                rows: vec![
                    measured("P", 7_000),
                    measured("P", 9_000),
                    measured("R", 5_000),
                ],
                ..Batch::default()
            };
            store.commit(&batch).unwrap();
            let all = Page {
                offset: 0,
                limit: 9,
            };
            let (summaries, total) = store.summaries(all).unwrap();
            let shown: Vec<_> = summaries
                .iter()
                .map(|it| {
                    let stiffness = it.elastography.map(|measured| measured.stiffness);
                    (it.result.patient.expose(), stiffness)
                })
                .collect();
            assert_eq!((shown, total), (vec![("P", Some(9_000)), ("Q", None)], 2));
        },
    ),
    ("rows of views are replaced and withdrawn", |places| {
        let mut store = open(&places.next());
        let patient = PatientId::new("P");
        let blood = |platelets| {
            let test = BloodTest {
                age: 50_000,
                ast: 40_000,
                alt: 30_000,
                platelets,
                ast_upper_limit: BloodTest::DEFAULT_AST_UPPER_LIMIT,
            };
            ViewRow::Indices(patient.clone(), Indices::of(&test))
        };
        let agreement = |index_says| {
            let agreement = Agreement {
                model: model().hash,
                index: Rater::Fib4,
                target: Stage::F3,
                model_says: true,
                index_says,
            };
            ViewRow::Agreement(patient.clone(), agreement)
        };
        let mut evaluation = Evaluation::default();
        evaluation.confusion.undecided = 3;
        evaluation.auc.twice_wins = 5;
        let evaluation = ViewRow::Evaluation(Rater::Model(model().hash), Stage::F4, evaluation);
        let measured = Elastography::from_pascal(ElastographyMethod::Transient, 9_000).unwrap();
        let measured = ViewRow::Elastography(patient.clone(), measured);
        let rows = vec![
            RowChange::Stands(blood(100_000)),
            RowChange::Stands(blood(200_000)),
            RowChange::Stands(agreement(false)),
            RowChange::Stands(agreement(true)),
            RowChange::Stands(evaluation.clone()),
            RowChange::Stands(measured.clone()),
        ];
        let of = |rows| Batch {
            rows,
            ..Batch::default()
        };
        store.commit(&of(rows)).unwrap();
        assert_eq!(
            store.view_rows().unwrap(),
            [
                blood(200_000),
                measured.clone(),
                agreement(true),
                evaluation.clone()
            ]
        );
        let rows = [blood(1_000), measured, agreement(false), evaluation];
        store
            .commit(&of(rows.map(RowChange::Withdrawn).to_vec()))
            .unwrap();
        assert_eq!(store.view_rows().unwrap(), []);
    }),
    ("an answer as it was is not written again", |places| {
        let place = places.next();
        let mut store = open(&place);
        store.commit(&batch(vec![], vec![stands("P", 1)])).unwrap();
        store.commit(&batch(vec![], vec![stands("P", 1)])).unwrap();
        assert_eq!(store.patient_results().unwrap(), [answer("P", 1)]);
        store.commit(&batch(vec![], vec![stands("P", 2)])).unwrap();
        assert_eq!(store.patient_results().unwrap(), [answer("P", 2)]);
    }),
];

fn run_suite(places: &dyn Places) {
    for (name, case) in SUITE {
        println!("{name}");
        case(places);
    }
}

#[test]
fn sqlite_keeps_what_is_committed() {
    run_suite(&Files(tempfile::tempdir().unwrap()));
}

#[test]
fn postgresql_keeps_what_is_committed() {
    run_suite(&Server::start());
}

/// `cargo nextest run --features train --success-output immediate --test store -E
/// 'test(change_of_an_answer_takes)'` prints the figure of docs/cluster.md.
#[test]
fn what_a_change_of_an_answer_takes_in_the_log_is_bounded() {
    const PATIENTS: u64 = 1_000;
    let files = Files(tempfile::tempdir().unwrap());
    let place = files.next();
    let mut store = open(&place);
    let change = |store: &mut Store, clips| {
        let patients = (0..PATIENTS).map(|n| stands(&format!("PAT-{n:08}"), clips));
        store.commit(&batch(vec![], patients.collect())).unwrap();
    };
    let size = |store: Store| {
        // The last connection brings all into the file.
        drop(store);
        std::fs::metadata(file(&place)).unwrap().len()
    };
    change(&mut store, 3);
    let before = size(store);
    let mut store = open(&place);
    let rounds = 10;
    for round in 0..rounds {
        change(&mut store, 4 + round);
    }
    let changes = PATIENTS * rounds;
    assert_eq!(store.verify_answers(None).unwrap().rows, PATIENTS + changes);
    // The answers themselves take no more than before: what grew is the log.
    let bytes = (size(store) - before) / changes;
    println!("{bytes} bytes in SQLite for each change of an answer, of two classes");
    assert!((300..1_000).contains(&bytes), "{bytes}");
}

#[test]
fn a_foreign_or_cut_file_is_refused_by_name() {
    let files = Files(tempfile::tempdir().unwrap());
    let text = files.0.path().join("text");
    std::fs::write(
        &text,
        "not a database, but long enough to be read as one".repeat(99),
    )
    .unwrap();
    let error = Store::open_existing(&text).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");

    let foreign = StorePlace::from(files.0.path().join("foreign"));
    files.tamper(&foreign, "CREATE TABLE recipes (dish TEXT)");
    let error = Store::open(&foreign).unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");

    let place = files.next();
    let mut store = open(&place);
    store
        .commit(&batch((0..999).map(clip).collect(), vec![]))
        .unwrap();
    drop(store);
    let whole = std::fs::metadata(file(&place)).unwrap().len();
    let cut = std::fs::OpenOptions::new()
        .write(true)
        .open(file(&place))
        .unwrap();
    for length in [whole / 2, 5000, 4096, 700, 100] {
        cut.set_len(length).unwrap();
        let error = Store::open(&place).unwrap_err();
        assert!(
            matches!(error, StoreError::Damaged { .. }),
            "{length}: {error}"
        );
        assert!(error.to_string().contains("sqlite"), "{error}");
    }
}

#[test]
fn a_database_that_cannot_be_reached_is_named_without_its_password() {
    let server = Server::start();
    let good = server.database("results");
    let place: StorePlace = good.parse().unwrap();
    drop(open(&place));
    let port = format!(":{}/", server.port());
    for (from, to) in [
        ("s3cret%40here", "wr0ng%40pass"),
        ("/results", "/nothing"),
        (port.as_str(), ":1/"),
        ("/results", "/results?sslmode=require"),
    ] {
        let place: StorePlace = good.replace(from, to).parse().unwrap();
        let error = Store::open(&place).unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
        let said = format!("{error} {error:?}");
        assert!(said.contains("postgres://127.0.0.1"), "{said}");
        assert!(
            !said.contains("s3cret") && !said.contains("wr0ng"),
            "{said}"
        );
    }
}

#[test]
fn a_server_that_restarts_is_waited_for_and_nothing_is_lost() {
    let mut server = Server::start();
    let place: StorePlace = server.database("results").parse().unwrap();
    let mut store = open(&place);
    store
        .commit(&batch(vec![clip(0)], vec![stands("P", 1)]))
        .unwrap();
    server.stop();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            store
                .commit(&batch(vec![clip(1)], vec![stands("P", 2)]))
                .unwrap();
            (
                store.finished().unwrap().len(),
                store.patient_results().unwrap(),
            )
        });
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert!(!waiting.is_finished());
        server.launch(&[]);
        assert_eq!(waiting.join().unwrap(), (2, vec![answer("P", 2)]));
    });
}
