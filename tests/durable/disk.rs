use std::fs;
use std::path::Path;

use super::{hepaflow, pipeline, recording, results, run_to_the_end, starved, text, windows};

/// Whether anything unfinished lies around.
pub(super) fn has_leftovers(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .ends_with(".part")
    })
}

#[test]
fn a_disk_that_is_full_ends_a_run_with_an_error_and_the_next_one_finishes_it() {
    let folder = tempfile::tempdir().unwrap();
    let film = recording(folder.path(), 400);
    pipeline(folder.path(), &[film], "");
    let output = starved(160, "run p.toml", folder.path());
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(
        errors.contains("error: the store ") && errors.contains("results.sqlite"),
        "{errors}"
    );
    assert!(!errors.contains("panicked"), "{errors}");
    let kept = results(folder.path(), "clips").len();
    assert!(kept < windows(&[400]), "{kept}");
    run_to_the_end(folder.path());
    assert_eq!(results(folder.path(), "clips").len(), windows(&[400]));
    assert_eq!(results(folder.path(), "patients").len(), 1);
}

#[test]
fn a_sink_whose_disk_is_full_holds_nothing_up_and_writes_no_half_line() {
    let folder = tempfile::tempdir().unwrap();
    let film = recording(folder.path(), 30);
    let file = folder.path().join("changes.jsonl");
    let sink = "[[sink]]\nname = 'file'\nkind = 'jsonl'\npath = 'changes.jsonl'\n";
    pipeline(folder.path(), &[film], sink);
    // A few bytes are left: less than a line.
    let before = "{}\n".repeat((512 << 10) / 3 - 3);
    fs::write(&file, &before).unwrap();
    let output = starved(512, "run p.toml", folder.path());
    let errors = text(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("wait for sink `file`"), "{errors}");
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
    run_to_the_end(folder.path());
    let after = fs::read_to_string(&file).unwrap();
    let added = after.strip_prefix(&before).unwrap();
    assert!(
        added.contains("\"patient\":\"P0\"") && added.ends_with("}\n"),
        "{added}"
    );
}

#[test]
fn a_report_or_export_that_does_not_fit_leaves_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("archive");
    fs::create_dir(&archive).unwrap();
    recording(&archive, 30);
    for number in 0..4000 {
        fs::write(
            archive.join(format!("a-text-that-is-no-recording-{number}.txt")),
            "x",
        )
        .unwrap();
    }
    let source =
        "[[source]]\nname = 'archive'\nkind = 'archive'\npath = 'archive'\npatient = 'P'\n";
    pipeline(folder.path(), &[], source);
    let report = folder.path().join("archive-report.csv");
    fs::write(&report, "old").unwrap();
    let output = starved(256, "run p.toml", folder.path());
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("cannot write the report"), "{errors}");
    assert_eq!(fs::read(&report).unwrap(), b"old");
    assert!(!has_leftovers(folder.path()));
    run_to_the_end(folder.path());
    assert!(fs::metadata(&report).unwrap().len() > 256 << 10);

    let film = recording(folder.path(), 1000);
    pipeline(folder.path(), &[film], "");
    run_to_the_end(folder.path());
    for format in ["jsonl", "csv", "parquet"] {
        let out = folder.path().join("out");
        fs::write(&out, "old").unwrap();
        let export = format!("results export clips --pipeline p.toml --format {format} --out out");
        let output = starved(64, &export, folder.path());
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{format}: {errors}");
        assert!(errors.contains("cannot write out"), "{errors}");
        assert_eq!(fs::read(&out).unwrap(), b"old");
        assert!(!has_leftovers(folder.path()));
        let args: Vec<_> = export.split(' ').collect();
        assert!(hepaflow(&args, folder.path()).status.success());
        check_export(format, &out, results(folder.path(), "clips").len());
    }
}

#[test]
fn labels_that_do_not_fit_are_entered_by_the_next_import_and_the_log_stays_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut table = "patient_id,stage,date\n".to_owned();
    for number in 0..4000 {
        table += &format!("P{number},F2,2024-05-17\n");
    }
    fs::write(folder.path().join("labels.csv"), table).unwrap();
    let import = "labels import labels.csv --store r.sqlite --json";
    let output = starved(400, import, folder.path());
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(
        errors.contains("r.sqlite") && !errors.contains("panicked"),
        "{errors}"
    );
    let verify = ["audit", "verify", "--store", "r.sqlite", "--json"];
    let rows = || {
        let output = hepaflow(&verify, folder.path());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        found["rows"].as_u64().unwrap()
    };
    let before = rows();
    assert!(before < 4000, "{before}");
    let args: Vec<_> = import.split(' ').collect();
    let output = hepaflow(&args, folder.path());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["values_entered"], 4000 - before);
    assert_eq!(report["values_unchanged"], before);
    assert_eq!(rows(), 4000);
}

#[test]
fn a_key_that_cannot_be_written_whole_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    pipeline(
        folder.path(),
        &[],
        "[[source]]\nname = 'a'\npath = 'a.mp4'\npatient = 'P'\n[privacy]\nkey = 'p.key'\n",
    );
    fs::write(folder.path().join("labels.csv"), "patient_id,stage\nP,F2\n").unwrap();
    let output = starved(
        0,
        "labels import labels.csv --pipeline p.toml",
        folder.path(),
    );
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("p.key"), "{errors}");
    let left: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("p.key"))
        .collect();
    assert_eq!(left, [""; 0]);
}

/// Reads an export back with a reader of its format.
pub(super) fn check_export(format: &str, out: &Path, rows: usize) {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    match format {
        "csv" => assert_eq!(csv::Reader::from_path(out).unwrap().records().count(), rows),
        "jsonl" => {
            let text = fs::read_to_string(out).unwrap();
            let objects: Vec<serde_json::Value> = text
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            assert_eq!(objects.len(), rows);
        }
        _ => {
            let reader = SerializedFileReader::new(fs::File::open(out).unwrap()).unwrap();
            let read: Vec<_> = reader
                .get_row_iter(None)
                .unwrap()
                .map(Result::unwrap)
                .collect();
            assert_eq!(read.len(), rows);
            let columns: Vec<_> = read[0]
                .get_column_iter()
                .map(|(name, _)| name.as_str())
                .collect();
            assert_eq!(columns[0], "patient");
            assert!(columns.contains(&"first_frame"));
        }
    }
}
