//! Labels, merges, deletions and the audit log from the command line.
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::path::Path;
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use hepaflow::domain::{PatientId, PseudonymKey};
use hepaflow::store::Store;
use serde_json::Value;

const TABLE: &str = "patient_id,sex,age_years,ast_u_l,alt_u_l,platelets_10e9_l,swe_kpa,stage,date
Meier^Anna,f,50,40,30,200,7.2,F2,2024-05-17
Huber^Ida,f,50,40,30,-200,7.2,F2,2024-05-17
Wagner^Max,m,61,80,55,120,,,2024-05-18
Wagner^Max,m,61,80,55,120,,,2999-05-18
";

fn hepaflow(folder: &Path, args: &[&str]) -> Output {
    Command::new(cargo_bin!("hepaflow"))
        .current_dir(folder)
        .env("USER", "anna")
        .args(args)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn folder_with_table() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("labs.csv"), TABLE).unwrap();
    folder
}

const IMPORT: [&str; 5] = ["labels", "import", "labs.csv", "--store", "r.sqlite"];

#[test]
fn a_table_is_imported_without_its_bad_rows_and_once_only() {
    let folder = folder_with_table();
    for (turn, (entered, unchanged)) in [(4, 0), (0, 4)].into_iter().enumerate() {
        let output = hepaflow(folder.path(), &[&IMPORT[..], &["--json"]].concat());
        assert_eq!(output.status.code(), Some(2), "bad rows");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["rows_taken"], 2, "{turn}: {report}");
        assert_eq!(report["values_entered"], entered, "{report}");
        assert_eq!(report["values_unchanged"], unchanged, "{report}");
        assert_eq!(report["patients_without_answer"], 2);
        assert_eq!(report["bad_rows"][0]["line"], 3);
        assert_eq!(report["bad_rows"][1]["line"], 5);
        let said = text(&output.stderr);
        assert!(
            said.contains("line 3: platelets must lie above 0"),
            "{said}"
        );
        assert!(said.contains("line 5: date lies in the future"), "{said}");
        assert!(
            !said.contains("Huber") && !said.contains("Wagner"),
            "{said}"
        );
    }
    // A corrected value takes the place of the old one.
    let corrected = TABLE.replace("7.2,F2", "9.9,F2");
    std::fs::write(folder.path().join("labs.csv"), corrected).unwrap();
    let output = hepaflow(folder.path(), &[&IMPORT[..], &["--json"]].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["values_corrected"], 1, "{report}");
}

#[test]
fn merges_and_deletions_are_entered_once_and_a_cycle_is_refused() {
    let folder = folder_with_table();
    hepaflow(folder.path(), &IMPORT);
    let patients = |args: &[&str]| {
        let place = ["--store", "r.sqlite", "--reason", "one person"];
        hepaflow(folder.path(), &[&["patients"][..], args, &place].concat())
    };
    let output = patients(&["merge", "Meier^Anna", "Mayer^Anna"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).starts_with("entered as number 5"));
    let output = patients(&["merge", "Meier^Anna", "Mayer^Anna"]);
    assert!(text(&output.stdout).contains("known already"));
    let output = patients(&["merge", "Mayer^Anna", "Meier^Anna"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(
        said.contains("the other way round") && !said.contains("Anna"),
        "{said}"
    );
    assert_eq!(
        patients(&["unmerge", "Meier^Anna", "Mayer^Anna"])
            .status
            .code(),
        Some(0)
    );
    assert_eq!(patients(&["delete", "Wagner^Max"]).status.code(), Some(0));
    assert_eq!(patients(&["restore", "Wagner^Max"]).status.code(), Some(0));
    let output = patients(&["restore", "Wagner^Max"]);
    assert_eq!(output.status.code(), Some(2), "nothing to restore");

    let output = hepaflow(
        folder.path(),
        &["audit", "show", "--store", "r.sqlite", "--json"],
    );
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(rows.len(), 8);
    assert_eq!(rows[4]["kind"], "merge");
    assert_eq!(rows[4]["actor"], "anna (command line)");
    assert_eq!(rows[4]["reason"], "one person");
    assert_eq!(rows[4]["change"], "entered");
    assert_eq!(rows[5]["change"], "withdrawn");
}

#[test]
fn audit_verify_names_the_row_that_was_tampered_with() {
    let folder = folder_with_table();
    hepaflow(folder.path(), &IMPORT);
    let verify = |more: &[&str]| {
        let args = ["audit", "verify", "--store", "r.sqlite"];
        hepaflow(folder.path(), &[&args[..], more].concat())
    };
    let sound = verify(&[]);
    assert_eq!(sound.status.code(), Some(0), "{}", text(&sound.stderr));
    let said = text(&sound.stdout);
    let end = said.lines().next().unwrap().rsplit(' ').next().unwrap();
    assert_eq!(verify(&["--end", end]).status.code(), Some(0));
    let tamper = |sql: &str| {
        let connection = rusqlite::Connection::open(folder.path().join("r.sqlite")).unwrap();
        connection.execute_batch(sql).unwrap();
    };
    tamper("UPDATE facts SET fact = replace(fact, 'F2', 'F0') WHERE number = 3");
    let tampered = verify(&["--json"]);
    assert_eq!(tampered.status.code(), Some(1));
    assert!(text(&tampered.stderr).contains("row 3 was changed"));
    let found: Value = serde_json::from_slice(&tampered.stdout).unwrap();
    assert_eq!(found["rows"], 4);
    assert_eq!(found["faults"].as_array().unwrap().len(), 1);
    // Cut off by somebody who also moved the end.
    tamper(
        "DELETE FROM facts WHERE number > 2;
         UPDATE facts_head SET number = 2, hash = (SELECT hash FROM facts WHERE number = 2)",
    );
    assert_eq!(verify(&[]).status.code(), Some(0));
    let cut = verify(&["--end", end]);
    assert_eq!(cut.status.code(), Some(1));
    assert!(text(&cut.stderr).contains("rows 3 to 4 at the end are missing"));
}

#[test]
fn patients_are_called_by_their_pseudonyms_where_a_key_is_given() {
    let folder = folder_with_table();
    let key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    let file = folder.path().join("p.key");
    let run = |args: &[&str]| {
        let output = hepaflow(folder.path(), &[args, &["--key", "p.key"]].concat());
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (code, _, said) = run(&IMPORT);
    assert_eq!(code, Some(2));
    assert!(said.contains("there is no key file"), "{said}");
    std::fs::write(&file, key).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, mode).unwrap();
    run(&IMPORT);
    // The same under the identifier and under the pseudonym.
    let key = std::array::from_fn(|at| 0x11 * (at % 16) as u8);
    let [from, into] = ["Meier^Anna", "Mayer^Anna"].map(PatientId::new);
    let pseudonym = PseudonymKey::new(key).patient(&from);
    let place = ["--store", "r.sqlite"];
    for (name, effect) in [(from.expose(), "entered"), (pseudonym.expose(), "known")] {
        let args = ["patients", "merge", name, into.expose()];
        let (_, said, _) = run(&[&args[..], &place].concat());
        assert!(said.starts_with(effect), "{said}");
    }
    let args = ["audit", "show", "--store", "r.sqlite", "--json"];
    let log = text(&hepaflow(folder.path(), &args).stdout);
    assert_eq!(log.matches(pseudonym.expose()).count(), 4, "{log}");
    assert!(!log.contains("Anna") && !log.contains("Max"), "{log}");
}

#[test]
fn what_is_parked_is_shown_and_nothing_is_where_nothing_was() {
    let folder = folder_with_table();
    drop(Store::open(folder.path().join("r.sqlite")).unwrap());
    let outbox = |args: &[&str]| {
        let place = ["--store", "r.sqlite"];
        hepaflow(folder.path(), &[&["outbox"][..], args, &place].concat())
    };
    for what in ["list", "parked"] {
        assert_eq!(text(&outbox(&[what, "--json"]).stdout).trim(), "[]");
    }
    assert_eq!(outbox(&["retry", "his"]).status.code(), Some(0));
    let output = outbox(&["discard", "his", "--event", "ab"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("hepaflow outbox parked"));
}

#[test]
fn a_model_that_never_ran_cannot_be_activated_and_views_are_empty_tables() {
    let folder = folder_with_table();
    drop(Store::open(folder.path().join("r.sqlite")).unwrap());
    let place = ["--store", "r.sqlite"];
    let output = hepaflow(
        folder.path(),
        &[&["models", "activate", "abc"][..], &place].concat(),
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("hepaflow models list"));
    for args in [
        ["models", "list"],
        ["results", "indices"],
        ["results", "agreement"],
        ["results", "discordance"],
        ["results", "evaluation"],
    ] {
        let output = hepaflow(folder.path(), &[&args[..], &place, &["--json"]].concat());
        assert_eq!(
            text(&output.stdout).trim(),
            "[]",
            "{args:?} {}",
            text(&output.stderr)
        );
    }
    let bind = ["exams", "bind", "12ab", "--patient", "P"];
    let output = hepaflow(folder.path(), &[&bind[..], &place].concat());
    assert_eq!(output.status.code(), Some(2));
}
