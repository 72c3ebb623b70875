use super::*;

fn row(fold: usize, set: PatientSet, patient: &str, first_frame: u64, p: f64) -> Prediction {
    Prediction {
        method: "fibro3d".into(),
        fold,
        set,
        patient: PatientId::new(patient),
        path: format!("videos/{patient}.mp4"),
        first_frame,
        probabilities: vec![1.0 - p, p],
    }
}

fn some() -> Predictions {
    let test = PatientSet::Test;
    Predictions {
        classes: usual_classes(2).unwrap(),
        rows: vec![
            row(0, test, "a", 0, 0.25),
            row(0, test, "a", 8, 0.75),
            row(0, test, "b", 0, 1.0),
            row(1, test, "a", 0, 0.75),
            row(1, PatientSet::Validation, "c", 0, 0.1),
        ],
    }
}

#[test]
fn what_is_written_is_read() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("predictions.csv");
    some().save(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("method,fold,set,patient_id,path,first_frame,p_0,p_1\n"));
    let read = Predictions::load(&path).unwrap();
    assert_eq!(read.rows, some().rows);
    assert_eq!(read.methods(), ["fibro3d"]);
    assert_eq!(read.folds("fibro3d"), [0, 1]);
}

#[test]
fn clips_become_patients_and_folds_an_ensemble() {
    let (test, mean) = (PatientSet::Test, Aggregation::Mean);
    let of_fold = |fold, stage| some().patient_scores("fibro3d", fold, test, stage, mean);
    let first = of_fold(0, Stage::F2).unwrap();
    assert_eq!(first.into_values().collect::<Vec<_>>(), [0.5, 1.0]);
    // Two classes cannot tell F3 from F2.
    assert!(of_fold(0, Stage::F3).is_none());
    // `b` was not scored by both.
    let ensemble = some().ensemble_scores("fibro3d", test, Stage::F2, mean);
    assert_eq!(ensemble.unwrap().into_values().collect::<Vec<_>>(), [0.625]);
}

#[test]
fn a_patient_who_decides_and_judges_is_a_leak() {
    let mut leaking = some();
    leaking
        .rows
        .push(row(1, PatientSet::Validation, "b", 0, 0.5));
    assert!(matches!(leaking.check(), Err(PredictionsError::Leak(1))));
}

#[test]
fn every_wrong_line_is_reported() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("predictions.csv");
    let text = "method,fold,set,patient_id,path,first_frame,p_0,p_1\n\
                m,0,test,SECRET,v,0,0.5,0.5\nm,0,test,SECRET,v,0,0.5,0.5\nm,x,test,a,v,0,0.5,0.5\n\
                m,0,train,a,v,0,0.5,0.5\nm,0,test,a,v,0,0.9,0.5\nm,0,test,a,v,0,nan,1\n,0,test,a,v,0,0,1\n\
                m,0,test,a,v,0,0.5\n";
    std::fs::write(&path, text).unwrap();
    let error = Predictions::load(&path).unwrap_err().to_string();
    assert!(error.contains("7 lines are wrong"), "{error}");
    for (line, why) in [
        (3, "scored by this fold-model already"),
        (4, "fold is no whole number"),
        (5, "set must be validation or test"),
        (6, "do not add up to 1"),
        (7, "not between 0 and 1"),
        (8, "method and patient_id must be given"),
        (9, "another number of columns"),
    ] {
        let start = format!("line {line}: ");
        let found = error.lines().find(|l| l.contains(&start)).unwrap();
        assert!(found.contains(why), "{found}");
    }
    assert!(!error.contains("SECRET"));
    std::fs::write(&path, "a,b\n").unwrap();
    assert!(matches!(
        Predictions::load(&path),
        Err(PredictionsError::Header(_))
    ));
    std::fs::write(&path, text.lines().next().unwrap()).unwrap();
    assert!(matches!(
        Predictions::load(&path),
        Err(PredictionsError::Empty(_))
    ));
}

#[test]
fn aggregations_bear_no_clips_and_wrong_names() {
    for text in ["mean", "median", "max", "top-3"] {
        let aggregation: Aggregation = text.parse().unwrap();
        assert_eq!(aggregation.to_string(), text);
        assert_eq!(aggregation.of(&[]).to_bits(), 0.0_f64.to_bits());
        assert_eq!(aggregation.of(&[0.3]).to_bits(), 0.3_f64.to_bits());
    }
    for text in ["", "top-0", "top-x", "mode"] {
        assert!(text.parse::<Aggregation>().is_err(), "{text}");
    }
    assert!((Aggregation::Median.of(&[0.1, 0.9, 0.3]) - 0.3).abs() < 1e-12);
}
