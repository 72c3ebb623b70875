//! Every place at which a run, an import and an export write to the disk fails once,
//! as on a disk that is full or broken: nothing is half-written, and the next try
//! finishes it. The places are found by watching, not listed here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;

use super::sinks::lines;
use super::{hepaflow, pipeline, recording, results, text};

/// Errors of a disk, as Linux numbers them.
const ERRORS: [(&str, i32); 2] = [("full", 28), ("broken", 5)];

/// The library that fails calls, built from `tests/support/fail_io.c`.
fn library(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/fail_io.c");
    let library = folder.join("fail_io.so");
    let built = Command::new("cc")
        .args(["-O1", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", text(&built.stderr));
    library
}

/// An operation and a file's name: `write`, `results.sqlite-wal`.
type Site = (String, String);

struct Disk<'a> {
    library: &'a Path,
    args: &'a [&'a str],
}

impl Disk<'_> {
    /// Runs the program while calls at `fault`'s site fail from the numbered one on.
    fn run(&self, folder: &Path, fault: Option<(&Site, usize, i32)>) -> (Output, String) {
        let log = folder.with_extension("log");
        fs::remove_file(&log).ok();
        let mut command = Command::new(cargo_bin!("hepaflow"));
        command
            .args(self.args)
            .current_dir(folder)
            .env("LD_PRELOAD", self.library)
            .env("FAIL_IN", folder)
            .env("FAIL_LOG", &log);
        if let Some(((operation, name), from, error)) = fault {
            command
                .env("FAIL_OP", operation)
                .env("FAIL_NAME", name)
                .env("FAIL_FROM", from.to_string())
                .env("FAIL_WITH", error.to_string());
        }
        let output = command.output().unwrap();
        (output, fs::read_to_string(log).unwrap_or_default())
    }
}

/// How often each site was met.
fn sites(log: &str) -> BTreeMap<Site, usize> {
    let mut met = BTreeMap::new();
    for line in log.lines() {
        let (operation, name) = line.split_once(' ').unwrap();
        // Temporary files have names of their own each time: by chance or by process.
        let name = if name.starts_with(".hepaflow-") {
            ".hepaflow-*".to_owned()
        } else {
            let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
            let is_numbered = stem != name && stem.ends_with('.');
            stem.to_owned()
                + if is_numbered {
                    "*"
                } else {
                    &name[stem.len()..]
                }
        };
        *met.entry((operation.to_owned(), name)).or_default() += 1;
    }
    met
}

/// Fails every site of `args` in a copy of `prepared`, and looks at what is left with
/// `check` before and after the next try.
fn fail_everywhere(
    args: &[&str],
    prepare: impl Fn(&Path),
    check_after_fault: impl Fn(&Path, &Output),
    check_at_the_end: impl Fn(&Path),
) -> BTreeSet<Site> {
    let around = tempfile::tempdir().unwrap();
    let library = library(around.path());
    let calm = around.path().join("calm");
    fs::create_dir(&calm).unwrap();
    prepare(&calm);
    let disk = Disk {
        library: &library,
        args,
    };
    let (output, log) = disk.run(&calm, None);
    assert!(output.status.success(), "{}", text(&output.stderr));
    check_at_the_end(&calm);
    let met = sites(&log);
    for (number, (site, count)) in met.iter().enumerate() {
        // At the first call, and in the middle of the work.
        for from in BTreeSet::from([1, count.div_ceil(2)]) {
            let (how, error) = ERRORS[(number + from) % ERRORS.len()];
            let folder = around.path().join(format!("{number}-{from}"));
            fs::create_dir(&folder).unwrap();
            prepare(&folder);
            let (output, log) = disk.run(&folder, Some((site, from, error)));
            let said = text(&output.stderr);
            let place = format!("{site:?} from call {from} of {count} on, {how}:\n{said}");
            assert!(
                from > 1 || log.contains("FAILED"),
                "nothing failed at {place}"
            );
            assert!(!said.contains("panicked"), "{place}");
            assert!(
                matches!(output.status.code(), Some(0..=2)),
                "{:?} at {place}",
                output.status
            );
            check_after_fault(&folder, &output);
            let again = hepaflow(args, &folder);
            assert!(
                again.status.success(),
                "{place}\nand then:\n{}",
                text(&again.stderr)
            );
            check_at_the_end(&folder);
            fs::remove_dir_all(&folder).unwrap();
        }
    }
    met.into_keys().collect()
}

fn contains(sites: &BTreeSet<Site>, expected: &[(&str, &str)]) {
    for (operation, name) in expected {
        let site = ((*operation).to_owned(), (*name).to_owned());
        assert!(sites.contains(&site), "{site:?} is not among {sites:?}");
    }
}

/// Copies the files of `from`.
fn copy(from: &Path, into: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, into.join(path.file_name().unwrap())).unwrap();
    }
}

/// No log of the store has a row changed, missing or cut off.
fn verify(folder: &Path) {
    let verify = ["audit", "verify", "--store", "results.sqlite"];
    let output = hepaflow(&verify, folder);
    assert!(output.status.success(), "{}", text(&output.stdout));
}

#[test]
fn a_run_whose_disk_fails_anywhere_loses_nothing_and_doubles_nothing() {
    let prepared = tempfile::tempdir().unwrap();
    let film = recording(prepared.path(), 60);
    let name = PathBuf::from(film.file_name().unwrap());
    let sink = "[[sink]]\nname = 'file'\nkind = 'jsonl'\npath = 'changes.jsonl'\n";
    pipeline(prepared.path(), &[name], sink);
    let windows = super::windows(&[60]);
    let met = fail_everywhere(
        &["run", "p.toml"],
        |folder| copy(prepared.path(), folder),
        |folder, output| {
            // What says that it was done was done.
            let store = folder.join("results.sqlite");
            if output.status.success() {
                assert_eq!(results(folder, "clips").len(), windows);
            } else if store.metadata().is_ok_and(|it| it.len() > 0) {
                assert!(results(folder, "clips").len() <= windows);
                verify(folder);
            }
            let file = fs::read(folder.join("changes.jsonl")).unwrap_or_default();
            assert!(file.is_empty() || file.ends_with(b"\n"), "half a line");
        },
        |folder| {
            let clips = results(folder, "clips");
            assert_eq!(clips.len(), windows);
            let patients = results(folder, "patients");
            assert_eq!(patients[0]["clips"], windows);
            let told = lines(folder);
            assert_eq!(told.last().unwrap()["clips"], windows);
            verify(folder);
        },
    );
    contains(
        &met,
        &[
            ("open", "results.sqlite"),
            ("write", "results.sqlite-wal"),
            ("sync", "results.sqlite-wal"),
            ("write", "results.sqlite"),
            ("sync", "results.sqlite"),
            ("open", "results.sqlite.file.lock"),
            ("open", "changes.jsonl"),
            ("write", "changes.jsonl"),
            ("sync", "changes.jsonl"),
        ],
    );
}

#[test]
fn an_import_whose_disk_fails_anywhere_enters_a_row_whole_or_not_at_all() {
    let args = [
        "labels",
        "import",
        "labels.csv",
        "--store",
        "results.sqlite",
    ];
    let rows = 1200;
    let facts = |folder: &Path| {
        let verify = ["audit", "verify", "--store", "results.sqlite", "--json"];
        let output = hepaflow(&verify, folder);
        assert!(output.status.success(), "{}", text(&output.stdout));
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        told["rows"].as_u64().unwrap()
    };
    let met = fail_everywhere(
        &args,
        |folder| {
            let mut table = "patient_id,stage,date\n".to_owned();
            for number in 0..rows {
                table += &format!("P{number},F2,2024-05-17\n");
            }
            fs::write(folder.join("labels.csv"), table).unwrap();
        },
        |folder, output| {
            let store = folder.join("results.sqlite");
            if output.status.success() {
                assert_eq!(facts(folder), rows);
            } else if store.metadata().is_ok_and(|it| it.len() > 0) {
                // As many as fit, by the five hundred.
                let entered = facts(folder);
                assert!(entered % 500 == 0 || entered == rows, "{entered}");
            }
        },
        |folder| assert_eq!(facts(folder), rows),
    );
    contains(
        &met,
        &[
            ("write", "results.sqlite-wal"),
            ("sync", "results.sqlite-wal"),
        ],
    );
}

#[test]
fn an_export_whose_disk_fails_anywhere_leaves_the_old_one() {
    let prepared = tempfile::tempdir().unwrap();
    let film = recording(prepared.path(), 20);
    pipeline(prepared.path(), &[film], "");
    super::run_to_the_end(prepared.path());
    for format in ["jsonl", "csv", "parquet"] {
        let export = format!("results export clips --pipeline p.toml --format {format} --out out");
        let args: Vec<_> = export.split(' ').collect();
        let met = fail_everywhere(
            &args,
            |folder| {
                copy(prepared.path(), folder);
                fs::write(folder.join("out"), "old").unwrap();
            },
            |folder, output| {
                // A new one whose folder is not on disk is told as a failure too.
                let out = folder.join("out");
                if output.status.success() || fs::read(&out).unwrap() != b"old" {
                    super::disk::check_export(format, &out, 12);
                }
                assert!(!super::disk::has_leftovers(folder));
            },
            |folder| super::disk::check_export(format, &folder.join("out"), 12),
        );
        contains(
            &met,
            &[
                ("open", ".hepaflow-*"),
                ("write", ".hepaflow-*"),
                ("sync", ".hepaflow-*"),
                ("sync", "."),
            ],
        );
    }
}
