use super::*;
use proptest::prelude::*;

fn patients(stages: &[(Stage, usize)]) -> Vec<(PatientId, Stage)> {
    let mut patients = Vec::new();
    for &(stage, count) in stages {
        for _ in 0..count {
            patients.push((PatientId::new(format!("p{:04}", patients.len())), stage));
        }
    }
    patients
}

/// The cohort of the paper, with stages in the phantom's shares.
fn paper() -> Vec<(PatientId, Stage)> {
    use Stage::{F0, F1, F2, F3, F4};
    patients(&[(F0, 13), (F1, 39), (F2, 25), (F3, 15), (F4, 18)])
}

#[test]
fn a_hundred_and_ten_patients_become_77_16_and_17() {
    let split = Split::draw(&paper(), 7).unwrap();
    let sizes = [split.train.len(), split.validation.len(), split.test.len()];
    assert_eq!(sizes, [77, 16, 17]);
    let folds: Vec<_> = split.folds.iter().map(Vec::len).collect();
    assert_eq!(folds, [16, 16, 15, 15, 15]);
    for fold in 0..FOLDS {
        let training = split.training_of(fold);
        assert_eq!(training.len(), 77 - split.folds[fold].len());
        assert!(
            !training
                .iter()
                .any(|patient| split.folds[fold].contains(patient))
        );
    }
}

#[test]
fn a_split_depends_on_the_seed_and_not_on_the_order() {
    let mut cohort = paper();
    let split = Split::draw(&cohort, 7).unwrap();
    cohort.reverse();
    assert_eq!(Split::draw(&cohort, 7).unwrap(), split);
    assert_ne!(Split::draw(&cohort, 8).unwrap().test, split.test);
}

#[test]
fn what_cannot_be_split_is_refused() {
    use Stage::{F0, F1, F2, F4};
    let draw = |stages: &[(Stage, usize)]| Split::draw(&patients(stages), 1).unwrap_err();
    assert!(matches!(
        draw(&[(F0, 40), (F1, 20)]),
        SplitError::OneClass(60)
    ));
    assert!(matches!(draw(&[(F2, 4)]), SplitError::OneClass(4)));
    assert!(matches!(
        draw(&[(F0, 3), (F4, 3)]),
        SplitError::TooFew {
            patients: 4,
            folds: 5
        }
    ));
    assert!(matches!(
        draw(&[(F0, 50), (F4, 1)]),
        SplitError::OneSided {
            part: "training",
            ..
        } | SplitError::OneSided {
            part: "validation",
            ..
        }
    ));
}

#[test]
fn a_patient_in_two_parts_is_refused_on_loading_too() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("split.json");
    let split = Split::draw(&paper(), 7).unwrap();
    split.save(&path).unwrap();
    assert_eq!(Split::load(&path).unwrap(), split);

    let mut leaking = split.clone();
    leaking.test.push(leaking.train[3].clone());
    leaking.save(&path).unwrap();
    let error = Split::load(&path).unwrap_err();
    assert_eq!(
        error.to_string(),
        "1 patients are in training and in test: a patient may be in one only"
    );

    let mut leaking = split.clone();
    let twice = leaking.folds[0][0].clone();
    leaking.folds[4].push(twice);
    assert!(matches!(
        leaking.check(),
        Err(SplitError::Overlap { count: 1, .. })
    ));

    let mut twice = split.clone();
    twice.test.push(twice.test[0].clone());
    assert!(matches!(twice.check(), Err(SplitError::Overlap { .. })));

    let mut short = split.clone();
    short.folds.pop();
    assert!(matches!(short.check(), Err(SplitError::FoldsDiffer)));

    std::fs::write(&path, "{}").unwrap();
    assert!(matches!(Split::load(&path), Err(SplitError::Format { .. })));
    assert!(matches!(
        split.check_against(&paper()[1..]),
        Err(SplitError::Strangers { count: 1 })
    ));
}

proptest! {
    /// Sizes are those of the largest remainder, nobody is lost or doubled, and
    /// every stage is divided to within one patient of its share.
    #[test]
    fn every_stage_is_divided_by_the_shares(counts in proptest::collection::vec(0_usize..60, 5), seed: u64) {
        let stages: Vec<_> = Stage::ALL.into_iter().zip(counts.iter().copied()).collect();
        let cohort = patients(&stages);
        let Ok(split) = Split::draw(&cohort, seed) else { return Ok(()) };
        split.check().unwrap();
        split.check_against(&cohort).unwrap();
        let parts = [&split.train, &split.validation, &split.test];
        let total: usize = parts.iter().map(|part| part.len()).sum();
        prop_assert_eq!(total, cohort.len());
        let stage_of: BTreeMap<_, _> = cohort.iter().cloned().collect();
        for ((part, share), size) in parts.iter().zip(SHARES).zip(largest_remainder(cohort.len())) {
            prop_assert_eq!(part.len(), size);
            prop_assert!((size as f64 - share * cohort.len() as f64).abs() < 1.0);
            for &(stage, count) in &stages {
                let have = part.iter().filter(|patient| stage_of[patient] == stage).count();
                prop_assert!((have as f64 - share * count as f64).abs() < 1.0 + 1e-6, "{stage}: {have} of {count}");
            }
        }
        for stage in Stage::ALL {
            let of_fold = split.folds.iter().map(|fold| fold.iter().filter(|patient| stage_of[patient] == stage).count());
            let of_fold: Vec<_> = of_fold.collect();
            prop_assert!(of_fold.iter().max().unwrap() - of_fold.iter().min().unwrap() <= 1);
        }
    }
}
