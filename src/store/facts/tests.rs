use super::*;
use crate::clinical::{Activation, BloodTest, Dated, Day, Exam};
use crate::domain::{ContentHash, Stage};
use crate::store::LogFault;

const TEST: BloodTest = BloodTest {
    age: 50_000,
    ast: 40_000,
    alt: 30_000,
    platelets: 200_000,
    ast_upper_limit: BloodTest::DEFAULT_AST_UPPER_LIMIT,
};

fn open() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("results.sqlite")).unwrap();
    (folder, store)
}

fn patient(name: &str) -> PatientId {
    PatientId::new(name)
}

fn blood(day: Day, platelets: i64) -> Fact {
    Fact::Blood(Dated {
        patient: patient("P"),
        day,
        value: BloodTest { platelets, ..TEST },
    })
}

fn merge(from: &str, into: &str) -> Fact {
    Fact::Merge(patient(from), patient(into))
}

fn enter(store: &mut Store, fact: Fact) -> Result<Effect, FactError> {
    let receipt = store.enter(&[Change::Enter(fact)], "test", "why").unwrap();
    receipt.outcomes.into_iter().next().unwrap()
}

fn withdraw(store: &mut Store, fact: Fact) -> Result<Effect, FactError> {
    let receipt = store
        .enter(&[Change::Withdraw(fact)], "test", "why")
        .unwrap();
    receipt.outcomes.into_iter().next().unwrap()
}

#[test]
fn the_same_fact_twice_changes_nothing_and_another_value_corrects_it() {
    let (_folder, mut store) = open();
    assert_eq!(enter(&mut store, blood(1, 200_000)), Ok(Effect::Logged(1)));
    assert_eq!(enter(&mut store, blood(1, 200_000)), Ok(Effect::Unchanged));
    assert_eq!(enter(&mut store, blood(2, 200_000)), Ok(Effect::Logged(2)));
    assert_eq!(
        enter(&mut store, blood(1, 90_000)),
        Ok(Effect::Corrected(4))
    );
    let rows = store.facts_after(0, 100).unwrap();
    let changes: Vec<_> = rows.iter().map(|row| &row.change).collect();
    assert_eq!(
        changes,
        [
            &Change::Enter(blood(1, 200_000)),
            &Change::Enter(blood(2, 200_000)),
            &Change::Withdraw(blood(1, 200_000)),
            &Change::Enter(blood(1, 90_000)),
        ]
    );
    assert_eq!((rows[3].number, rows[3].actor.as_str()), (4, "test"));
    assert_eq!(rows[3].reason, "why");
    assert_eq!(store.facts_after(3, 100).unwrap(), rows[3..]);
    // A withdrawn fact may come again.
    assert_eq!(
        withdraw(&mut store, blood(2, 200_000)),
        Ok(Effect::Logged(5))
    );
    assert_eq!(
        withdraw(&mut store, blood(2, 200_000)),
        Err(FactError::NotStanding)
    );
    assert_eq!(enter(&mut store, blood(2, 200_000)), Ok(Effect::Logged(6)));
    assert_eq!(store.verify_facts(None).unwrap().faults, []);
}

#[test]
fn what_cannot_be_is_refused_and_the_rest_is_taken() {
    let (_folder, mut store) = open();
    let tomorrow = |days: u64| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        (now.as_secs() / 86_400 + days) as Day
    };
    let exam = |from, until| {
        Fact::Exam(Exam {
            content: ContentHash::of(b"film"),
            from,
            until,
            number: 0,
            patient: patient("P"),
        })
    };
    let model = ModelHash::of(b"stranger");
    let pathology = |name: &str| {
        Fact::Pathology(Dated {
            patient: patient(name),
            day: 0,
            value: Stage::F2,
        })
    };
    let changes = [
        blood(1, -200_000),
        blood(tomorrow(3), 200_000),
        merge("A", "B"),
        merge("B", "A"),
        merge("A", "B"),
        merge("A", "C"),
        merge("D", "D"),
        exam(4, 4),
        Fact::Activation(Activation { number: 0, model }),
        pathology(""),
        pathology("a\nb"),
        exam(4, 9),
    ]
    .map(Change::Enter);
    let receipt = store.enter(&changes, "test", "").unwrap();
    let value = blood_error();
    assert_eq!(
        receipt.outcomes,
        [
            Err(FactError::Value(value)),
            Err(FactError::Future),
            Ok(Effect::Logged(1)),
            Err(FactError::Merge(MergeError::Cycle)),
            Ok(Effect::Unchanged),
            Err(FactError::Merge(MergeError::Taken)),
            Err(FactError::Merge(MergeError::Cycle)),
            Err(FactError::EmptyExam),
            Err(FactError::UnknownModel),
            Err(FactError::Identifier),
            Err(FactError::Identifier),
            Ok(Effect::Logged(2)),
        ]
    );
    assert_eq!(receipt.last, 2);
    assert_eq!(
        withdraw(&mut store, merge("A", "C")),
        Err(FactError::Merge(MergeError::Unknown))
    );
    // What was entered before is known to a later transaction.
    assert_eq!(
        enter(&mut store, merge("B", "A")),
        Err(FactError::Merge(MergeError::Cycle))
    );
    assert_eq!(withdraw(&mut store, merge("A", "B")), Ok(Effect::Logged(3)));
    assert_eq!(enter(&mut store, merge("B", "A")), Ok(Effect::Logged(4)));
    // Said again, it is the same exam, whatever its number.
    assert_eq!(enter(&mut store, exam(4, 9)), Ok(Effect::Unchanged));
}

fn blood_error() -> InvalidValue {
    BloodTest {
        platelets: -1,
        ..TEST
    }
    .checked()
    .unwrap_err()
}

#[test]
fn one_model_is_active_and_activating_it_again_changes_nothing() {
    let (_folder, mut store) = open();
    let models = [b"1", b"2"].map(|name| ModelHash::of(name));
    for hash in models {
        let classes = vec!["F0-F1".parse().unwrap(), "F2-F4".parse().unwrap()];
        store
            .register(&crate::store::StoredModel {
                hash,
                architecture: "none".to_owned(),
                classes,
            })
            .unwrap();
    }
    let activate = |model| Fact::Activation(Activation { number: 0, model });
    assert_eq!(store.active_model().unwrap(), None);
    assert_eq!(
        enter(&mut store, activate(models[0])),
        Ok(Effect::Logged(1))
    );
    assert_eq!(
        enter(&mut store, activate(models[0])),
        Ok(Effect::Unchanged)
    );
    assert_eq!(
        enter(&mut store, activate(models[1])),
        Ok(Effect::Corrected(3))
    );
    assert_eq!(store.active_model().unwrap(), Some(models[1]));
    let last = store.facts_after(2, 1).unwrap().remove(0);
    assert_eq!(
        last.change,
        Change::Enter(Fact::Activation(Activation {
            number: 3,
            model: models[1]
        }))
    );
}

/// A sound log of eight rows, then whatever `tamper` does to it.
fn tampered(tamper: &str) -> Vec<LogFault> {
    let (_folder, mut store) = open();
    for day in 0..8 {
        enter(&mut store, blood(day, 200_000)).unwrap();
    }
    let sound = store.verify_facts(None).unwrap();
    assert_eq!(
        (sound.rows, sound.head.number, sound.faults.len()),
        (8, 8, 0)
    );
    let text = sound.head.to_string();
    assert_eq!(text.parse(), Ok(sound.head.clone()));
    store
        .change(|transaction| {
            for statement in tamper.split(';').filter(|sql| !sql.trim().is_empty()) {
                transaction.read(statement, &[], |_| Ok(()))?;
            }
            Ok(())
        })
        .unwrap();
    store.verify_facts(Some(&sound.head)).unwrap().faults
}

#[test]
fn a_row_that_was_changed_taken_out_moved_or_cut_off_is_found_and_named() {
    assert_eq!(tampered(""), []);
    for (column, value) in [
        ("fact", "replace(fact, '200000', '300000')"),
        ("time_ns", "time_ns + 1"),
        ("actor", "'somebody else'"),
        ("reason", "'another'"),
        ("change", "-1"),
        ("slot", "slot || ' '"),
        ("kind", "'pathology'"),
        ("hash", "'00'"),
    ] {
        let sql = format!("UPDATE facts SET {column} = {value} WHERE number = 5");
        let faults = tampered(&sql);
        assert_eq!(faults[0], LogFault::Changed(5), "{column}");
    }
    assert_eq!(
        tampered("DELETE FROM facts WHERE number IN (3, 4)"),
        [LogFault::Missing { from: 3, to: 4 }]
    );
    assert_eq!(
        tampered("DELETE FROM facts WHERE number = 1"),
        [LogFault::Missing { from: 1, to: 1 }]
    );
    // Two rows in each other's place.
    let moved = tampered(
        "UPDATE facts SET number = 99 WHERE number = 3;
         UPDATE facts SET number = 3 WHERE number = 4;
         UPDATE facts SET number = 4 WHERE number = 99",
    );
    assert_eq!(moved[0], LogFault::Changed(3));
    assert_eq!(
        tampered("DELETE FROM facts WHERE number > 6"),
        [LogFault::CutOff { from: 7, to: 8 }]
    );
    // Somebody who knows of the noted end moves it too: only what was noted
    // elsewhere helps.
    assert_eq!(
        tampered(
            "DELETE FROM facts WHERE number > 6;
             UPDATE facts_head SET number = 6,
                 hash = (SELECT hash FROM facts WHERE number = 6)"
        ),
        [LogFault::CutOff { from: 7, to: 8 }]
    );
    assert_eq!(tampered("DELETE FROM facts_head"), [LogFault::OtherEnd(8)]);
    assert_eq!(
        tampered("DELETE FROM facts"),
        [LogFault::CutOff { from: 1, to: 8 }]
    );
}
