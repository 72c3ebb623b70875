use std::fs;

use super::*;

const HEADER: &str = "patient_id,sex,age_years,ast_u_l,alt_u_l,platelets_10e9_l,swe_kpa,stage\n";
const GOOD: &str = "A,F,50,40,30,200,7.1,F2\nB,M,61,20,22,250,5.0,F0\n";

fn directory(cohort: &str, videos: &str) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("cohort.csv"), cohort).unwrap();
    fs::write(place.path().join("videos.csv"), videos).unwrap();
    for name in ["a.mp4", "b.mp4", "c.mp4"] {
        fs::write(place.path().join(name), name).unwrap();
    }
    place
}

fn findings(cohort: &str, videos: &str) -> Vec<String> {
    let place = directory(cohort, videos);
    match Cohort::load(place.path()).unwrap_err() {
        CohortError::Findings { findings, .. } => {
            findings.iter().map(ToString::to_string).collect()
        }
        other => panic!("{other}"),
    }
}

#[test]
fn every_mistake_of_both_tables_is_reported_in_one_go() {
    let cohort = format!(
        "{HEADER}SECRET,X,150,40,30,200,7.1,F2\nSECRET,F,50,40,30,200,7.1,F2\n\
         C,F,fifty,-3,\"7,1\",200000,500,S3\nD,M,,1,2\n"
    );
    let videos = "patient_id,path\nSECRET,a.mp4\nSECRET,a.mp4\nZ,b.mp4\nC,gone.mp4\nC,\n";
    let found = findings(&cohort, videos);
    let expected = [
        "cohort.csv, line 5: 5 values, where the header has 8",
        "cohort.csv, line 2, age_years: age must lie above 0 and below 130 years: check the value and its unit",
        "cohort.csv, line 2, sex: expected F or M",
        "cohort.csv, line 3, patient_id: this patient is in line 2 already",
        "cohort.csv, line 4, age_years: no number: write it plainly, such as 7.1, and leave it empty where unknown",
        "cohort.csv, line 4, ast_u_l: AST must lie above 0 and below 100000 U/L: check the value and its unit",
        "cohort.csv, line 4, alt_u_l: no number: write 7.1, not 7,1",
        "cohort.csv, line 4, platelets_10e9_l: platelets must lie above 0 and below 5000 10^9/L: check the value and its unit",
        "cohort.csv, line 4, stage: expected a METAVIR stage: F0, F1, F2, F3 or F4",
        "cohort.csv, line 4, swe_kpa: stiffness must lie above 0 and below 300 kPa: check the value and its unit",
        "videos.csv, line 3, path: this recording is in line 2 already",
        "videos.csv, line 4, patient_id: cohort.csv has no such patient",
        "videos.csv, line 6, path: every row needs one",
        "videos.csv, line 5, path: there is no such file",
    ];
    assert_eq!(found, expected);
    // A table that is shifted by a column would show who is in it.
    assert!(!found.join("").contains("SECRET"));
}

#[test]
fn a_misspelt_column_is_named_and_a_foreign_one_left_alone() {
    let cohort = "patient_id,sex,age_yaers,ast_u_l,alt_u_l,platelets_10e9_l,swe_kpa,stage,ward\n";
    let found = findings(cohort, "patient_id,path\n");
    assert_eq!(
        found,
        [
            "cohort.csv, line 1, age_years: column 3 of the header looks misspelt",
            "cohort.csv, line 1, age_years: the header has no such column",
        ]
    );
}

#[test]
fn what_is_missing_excludes_no_more_than_it_must() {
    let cohort = format!(
        "\u{feff}{HEADER}{GOOD}C,,44,,31,180,NA,F1\nD,F,50,40,30,200,7.1,\nE,M,50,40,30,200,7.1,F4\n"
    );
    let place = directory(&cohort, "patient_id,path\nA,a.mp4\nB,b.mp4\nC,c.mp4\n");
    let mut cohort = Cohort::load(place.path()).unwrap();
    assert!(!cohort.is_synthetic);
    let flow = cohort.flow.clone();
    assert_eq!((flow.listed, flow.included, flow.videos), (5, 3, 3));
    assert_eq!(flow.excluded[&Exclusion::NoStage], [5]);
    assert_eq!(flow.excluded[&Exclusion::NoVideo], [6]);
    let missing: Vec<_> = flow.missing.iter().map(|(c, n)| (c.as_str(), *n)).collect();
    assert_eq!(missing, [("ast_u_l", 1), ("sex", 1), ("swe_kpa", 1)]);
    let third = &cohort.patients[2].record;
    assert_eq!(
        (third.fib4(), third.apri(), third.stiffness),
        (None, None, None)
    );
    assert_eq!(cohort.patients[0].record.fib4(), Some(1_826));

    let unusable = |line| UnusableVideo {
        line,
        reason: "broken".into(),
    };
    cohort.leave_out(vec![unusable(3)]).unwrap();
    assert_eq!(cohort.flow.excluded[&Exclusion::NoUsableVideo], [3]);
    assert_eq!(cohort.flow.included, 2);
    let nobody = cohort
        .leave_out(vec![unusable(2), unusable(4)])
        .unwrap_err();
    assert!(
        nobody.to_string().ends_with(
            "no patient can be used: 5 listed, 1 excluded: no stage (reference standard missing), \
         1 excluded: no recording, 3 excluded: no usable recording, 0 included"
        ),
        "{nobody}"
    );
    // The flow survives its text.
    let text = serde_json::to_string(&flow).unwrap();
    assert_eq!(serde_json::from_str::<Flow>(&text).unwrap(), flow);
}

#[test]
fn units_of_a_whole_column_are_checked_and_speeds_become_stiffness() {
    let row = |i: usize, swe: f64| format!("P{i},F,50,40,30,200,{swe},F2\n");
    let slow: String = (0..6).map(|i| row(i, 1.2 + 0.1 * i as f64)).collect();
    let found = findings(&format!("{HEADER}{slow}"), "patient_id,path\n");
    assert_eq!(
        found,
        [
            "cohort.csv, line 1, swe_kpa: half of the values lie below 3 kPa: is this m/s? Then the column is swe_m_s"
        ]
    );

    let header = HEADER.replace("swe_kpa", "swe_m_s");
    let place = directory(&format!("{header}{slow}"), "");
    let cohort = Cohort::load_facts(place.path()).unwrap();
    // E = 3 rho v^2: 1.2 m/s is 4.32 kPa.
    assert_eq!(cohort.patients[0].record.stiffness, Some(4_320));
}

#[test]
fn a_vendor_brings_its_cut_offs_and_without_one_there_are_none() {
    use crate::clinical::Verdict;
    let text = "patient_id,sex,age_years,ast_u_l,alt_u_l,platelets_10e9_l,swe_kpa,stage,swe_method,ast_upper_limit_u_l\n\
                A,F,50,40,30,200,8.0,F2,super_sonic,\nB,F,50,40,30,200,8.0,F2,mindray_ste,80\nC,F,50,40,30,200,8.0,F1,,\n";
    let place = directory(text, "");
    let cohort = Cohort::load_facts(place.path()).unwrap();
    let verdicts: Vec<_> = cohort
        .patients
        .iter()
        .map(|p| p.record.swe_verdict(Stage::F2))
        .collect();
    assert_eq!(
        verdicts,
        [Some(Verdict::Likely), Some(Verdict::Unlikely), None]
    );
    let apri: Vec<_> = cohort
        .patients
        .iter()
        .map(|p| p.record.apri().unwrap())
        .collect();
    assert_eq!(apri, [500, 250, 500]);
    let wrong = text.replace("mindray_ste", "mindray");
    let place = directory(&wrong, "");
    let error = Cohort::load_facts(place.path()).unwrap_err().to_string();
    assert!(
        error.contains("line 3, swe_method: expected super_sonic"),
        "{error}"
    );
}

#[test]
fn class_folders_without_patients_are_refused() {
    let place = tempfile::tempdir().unwrap();
    for class in ["F0", "F4"] {
        fs::create_dir(place.path().join(class)).unwrap();
    }
    let error = Cohort::load(place.path()).unwrap_err();
    assert!(matches!(error, CohortError::ClassFolders(_)));
    assert!(error.to_string().contains("without patient identifiers"));
    fs::remove_dir(place.path().join("F0")).unwrap();
    fs::remove_dir(place.path().join("F4")).unwrap();
    assert!(matches!(
        Cohort::load(place.path()),
        Err(CohortError::Read { .. })
    ));
}

#[test]
fn a_phantom_says_that_it_is_one() {
    let place = directory(
        &format!("{HEADER}{GOOD}"),
        "patient_id,path\nA,a.mp4\nB,b.mp4\n",
    );
    fs::write(place.path().join("README.txt"), "SYNTHETIC cohort").unwrap();
    assert!(Cohort::load(place.path()).unwrap().is_synthetic);
}

#[test]
fn semicolons_and_other_encodings_are_explained() {
    let found = findings(&HEADER.replace(',', ";"), "patient_id,path\n");
    assert_eq!(
        found,
        ["cohort.csv, line 1: columns must be separated by commas"]
    );
    let place = directory("", "patient_id,path\n");
    fs::write(place.path().join("cohort.csv"), [0xff, 0xfe, 0x41]).unwrap();
    let error = Cohort::load(place.path()).unwrap_err().to_string();
    assert!(error.contains("this is no UTF-8 text"), "{error}");
}
