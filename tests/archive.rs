//! An archive of good, broken and foreign files ends with a report of each.
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "support/recordings.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod recordings;
#[path = "support/ingest.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use dicom_core::VR;
use dicom_core::value::PrimitiveValue;
use dicom_dictionary_std::{tags, uids};
use recordings::{AVI, gst_run, record};
use support::{put, ultrasound, write_dicom};

/// How many files; `HEPAFLOW_ARCHIVE_FILES=10000` for the long run.
fn files() -> usize {
    let given = std::env::var("HEPAFLOW_ARCHIVE_FILES").ok();
    given.map_or(160, |text| text.parse().unwrap())
}

fn write_pipeline(folder: &Path, source: &str) {
    write_looking(folder, "", source);
}

/// With more keys of `[ingest]`.
fn write_looking(folder: &Path, ingest: &str, source: &str) {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/fibro3d");
    let text = format!(
        "[model]\npath = '{}'\n[serve]\nlisten = '127.0.0.1:0'\n[ingest]\ndecoders = 4\n{ingest}\n\
         [[source]]\nname = 'archive'\nkind = 'archive'\n{source}\n",
        model.display()
    );
    fs::write(folder.join("p.toml"), text).unwrap();
}

fn run(folder: &Path) -> Output {
    Command::new(cargo_bin!("hepaflow"))
        .args(["run", "p.toml"])
        .current_dir(folder)
        .output()
        .unwrap()
}

/// Status and reason of every file, by its name.
fn report(folder: &Path) -> BTreeMap<String, (String, String)> {
    let mut reader = csv::Reader::from_path(folder.join("archive-report.csv")).unwrap();
    let rows = reader.records().map(|row| {
        let row = row.unwrap();
        let name = Path::new(&row[0]).file_name().unwrap().to_str().unwrap();
        (name.to_owned(), (row[1].to_owned(), row[3].to_owned()))
    });
    rows.collect()
}

/// Ten frames of a patient of their own.
fn cine(number: usize) -> dicom_object::InMemDicomObject {
    let mut object = ultrasound();
    put(&mut object, tags::NUMBER_OF_FRAMES, VR::IS, "10");
    put(&mut object, tags::ROWS, VR::US, 16_u16);
    put(&mut object, tags::COLUMNS, VR::US, 16_u16);
    put(&mut object, tags::PATIENT_ID, VR::LO, format!("P{number}"));
    let pixels: Vec<u8> = (0..2560).map(|i| (i * (number + 3) / 11) as u8).collect();
    put(
        &mut object,
        tags::PIXEL_DATA,
        VR::OB,
        PrimitiveValue::U8(pixels.into()),
    );
    object
}

#[test]
fn a_mixed_archive_ends_with_a_report_of_every_file() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("archive");
    fs::create_dir_all(archive.join("deep/deeper")).unwrap();
    let film = record(folder.path(), "film.avi", AVI, 12);
    let film = fs::read(film).unwrap();
    let mut expected = BTreeMap::new();
    for number in 0..files() {
        let place = archive.join(["", "deep", "deep/deeper"][number % 3]);
        // Names say nothing: what is DICOM is known by its content.
        let name = format!("file{number}{}", ["", ".txt", ".dcm", ".avi"][number % 4]);
        let path = place.join(&name);
        let (status, reason) = match number % 8 {
            0..=2 => {
                write_dicom(cine(number), uids::EXPLICIT_VR_LITTLE_ENDIAN, &path);
                ("used", "")
            }
            3 => {
                write_dicom(cine(number), uids::EXPLICIT_VR_LITTLE_ENDIAN, &path);
                let bytes = fs::read(&path).unwrap();
                fs::write(&path, &bytes[..bytes.len() - 700]).unwrap();
                ("failed", "truncated")
            }
            4 => {
                fs::write(&path, format!("report {number}: unremarkable")).unwrap();
                ("skipped", "foreign")
            }
            5 => {
                fs::write(&path, []).unwrap();
                ("skipped", "empty")
            }
            6 => {
                fs::write(&path, &film).unwrap();
                ("skipped", "no_patient")
            }
            _ => {
                let mut object = cine(number);
                object.remove_element(tags::PIXEL_DATA);
                write_dicom(object, uids::EXPLICIT_VR_LITTLE_ENDIAN, &path);
                ("failed", "dicom_no_pixel_data")
            }
        };
        expected.insert(name, (status.to_owned(), reason.to_owned()));
    }
    write_dicom(
        cine(0),
        uids::EXPLICIT_VR_LITTLE_ENDIAN,
        &archive.join("zz_again"),
    );
    // Such small pictures are none to the gate.
    write_looking(folder.path(), "gate = false", "path = 'archive'");
    let output = run(folder.path());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let mut found = report(folder.path());
    // Of two with the same bytes, whichever was first is used.
    let pair = [found.remove("zz_again").unwrap(), found["file0"].clone()];
    assert!(
        pair.contains(&("used".to_owned(), String::new())),
        "{pair:?}"
    );
    assert!(
        pair.contains(&("skipped".to_owned(), "duplicate".to_owned())),
        "{pair:?}"
    );
    found.insert("file0".to_owned(), ("used".to_owned(), String::new()));
    assert_eq!(found, expected);
    let used = expected
        .values()
        .filter(|(status, _)| status == "used")
        .count();
    let total = format!("{} files:", expected.len() + 1);
    assert!(
        said.contains(&total) && said.contains(&format!("{used} used")),
        "{said}"
    );
}

/// Grey noise, so that every picture is another.
fn pictures(folder: &Path, pattern: &str, count: u32) {
    fs::create_dir_all(folder).unwrap();
    gst_run(&format!(
        "videotestsrc pattern=snow num-buffers={count} \
         ! video/x-raw,format=GRAY8,width=160,height=120 ! pngenc snapshot=false \
         ! multifilesink location={}/{pattern}",
        folder.display()
    ));
}

#[test]
fn a_folder_of_numbered_pictures_is_one_row_and_one_recording() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("archive");
    pictures(&archive.join("cine"), "f%02d.png", 12);
    fs::write(archive.join("cine/notes.txt"), "nothing").unwrap();
    pictures(&archive.join("hole"), "%d.png", 12);
    fs::remove_file(archive.join("hole/7.png")).unwrap();
    // Not one recording, but each a picture.
    pictures(&archive.join("stills"), "left%d.png", 1);
    pictures(&archive.join("stills"), "right%d.png", 1);
    fs::write(archive.join("stills/right0.png"), b"GIF89a\x08\0\x08\0").unwrap();
    let write = |path: &str, patient: &str| {
        let source = format!("path = '{path}'\nframes_per_second = 25\n{patient}");
        write_looking(folder.path(), "crop = 'header'\ngate = false", &source);
    };
    let of = |name: &str| {
        let rows = report(folder.path());
        let (status, reason) = rows.get(name).unwrap_or_else(|| panic!("{rows:?}")).clone();
        (status, reason)
    };
    let is = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
    write("archive", "patient = 'P1'");
    let output = run(folder.path());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert_eq!(of("cine"), is("used", ""));
    assert_eq!(of("notes.txt"), is("skipped", "foreign"));
    assert_eq!(of("hole"), is("failed", "no_series"));
    // One picture is no window.
    assert_eq!(of("left0.png"), is("skipped", "no_window"));
    assert_eq!(of("right0.png"), is("failed", "gif"));
    assert_eq!(report(folder.path()).len(), 5);
    // Windows of 9 frames, 8 apart: one.
    assert!(said.contains("1 clips scored"), "{said}");

    write("archive", "");
    run(folder.path());
    assert_eq!(of("cine"), is("skipped", "no_patient"));

    // A manifest gives patients to folders, too.
    fs::write(
        folder.path().join("list.csv"),
        "patient_id,path\nP2,archive/cine\n",
    )
    .unwrap();
    write("list.csv", "");
    fs::remove_file(folder.path().join("results.sqlite")).unwrap();
    let output = run(folder.path());
    assert!(output.status.success());
    assert_eq!(of("cine"), is("used", ""));
    assert!(String::from_utf8_lossy(&output.stdout).contains("P2"));
}

#[test]
fn folders_of_pictures_are_named_by_a_pattern_and_previewed_as_files_are() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    pictures(&folder.join("cines/a"), "f%02d.png", 12);
    // Other noise than in the first.
    pictures(&folder.join("cines/b"), "f%02d.png", 11);
    fs::create_dir(folder.join("cines/none")).unwrap();
    fs::write(folder.join("cines/none/notes.txt"), "nothing").unwrap();
    write_looking(folder, "crop = 'header'\ngate = false", "path = 'cines'");
    let text = fs::read_to_string(folder.join("p.toml")).unwrap();
    let text = text.replace("kind = 'archive'\npath = 'cines'", "path = 'cines/*'")
        + "frames_per_second = 25\npatient = 'P1'\n";
    fs::write(folder.join("p.toml"), text).unwrap();
    let hepaflow = |args: &[&str]| {
        let output = Command::new(cargo_bin!("hepaflow"))
            .args(args)
            .current_dir(folder)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {said}");
        said
    };
    hepaflow(&["check", "p.toml"]);
    let said = hepaflow(&["run", "p.toml"]);
    assert!(
        said.contains("2 streams read, 2 clips scored"),
        "each has one window: {said}"
    );
    hepaflow(&["ingest", "preview", "cines/a", "--out", "seen"]);
    let table = fs::read_to_string(folder.join("seen/frames.csv")).unwrap();
    assert_eq!(table.lines().count(), 13);
    assert!(folder.join("seen/sheet.png").is_file());
}

#[test]
fn a_manifest_gives_patients_to_videos_and_its_bad_rows_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    record(folder.path(), "a.avi", AVI, 12);
    fs::write(
        folder.path().join("list.csv"),
        "patient_id,path\nP1,a.avi\nP2,missing.avi\nonly one\n",
    )
    .unwrap();
    write_pipeline(folder.path(), "path = 'list.csv'");
    let output = run(folder.path());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("P1"));
    let found = report(folder.path());
    let of = |name: &str| (found[name].0.as_str(), found[name].1.as_str());
    assert_eq!(of("missing.avi"), ("skipped", "unreadable"));
    assert_eq!(of("line 4"), ("skipped", "manifest_row"));
    assert!(!said.contains("P1"), "no identifier in a log: {said}");

    fs::write(folder.path().join("list.csv"), "patient,file\nP1,a.avi\n").unwrap();
    let output = run(folder.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("patient_id"));
}
