//! `hepaflow phantom` from outside: the directory it leaves, and what it
//! refuses. With `--ignored`, how well simple features tell significant
//! fibrosis on a larger cohort, and how long a frame takes.
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use assert_cmd::Command;
use dicom_dictionary_std::tags;
use hepaflow::domain::{FrameSize, Stage};
use hepaflow::study::phantom::{Ablation, Recording, RecordingSpec, record};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use rayon::prelude::*;

fn phantom(out: &Path, more: &[&str]) -> Command {
    let mut command = Command::cargo_bin("hepaflow").unwrap();
    command.args(["phantom", "--patients", "3", "--seconds", "0.2"]);
    command.args(["--frames-per-second", "20", "--frame-size", "160x120"]);
    command.arg("--out").arg(out).args(more);
    command
}

/// Every file below `directory` by its relative path.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            let below = files(&path).into_iter();
            found.extend(below.map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            found.insert(name, fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn the_same_seed_gives_the_same_bytes_whatever_the_number_of_jobs() {
    let place = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|name| place.path().join(name));
    phantom(&one, &["--jobs", "1"]).assert().success();
    // Containers that stored the time would differ now.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    phantom(&two, &["--jobs", "3"]).assert().success();
    let (one, two) = (files(&one), files(&two));
    let names: Vec<_> = one.keys().map(String::as_str).collect();
    let expected = [
        "README.txt",
        "cohort.csv",
        "phantom.csv",
        "phantom.json",
        "videos.csv",
        "videos/PH-0001-1.mp4",
        "videos/PH-0002-1.avi",
        "videos/PH-0003-1.dcm",
    ];
    assert_eq!(names, expected);
    for name in names {
        assert!(one[name] == two[name], "{name} differs");
    }
    assert!(String::from_utf8_lossy(&one["README.txt"]).starts_with("SYNTHETIC"));
    let table = String::from_utf8_lossy(&one["cohort.csv"]);
    let header = "patient_id,sex,age_years,ast_u_l,alt_u_l,platelets_10e9_l,swe_kpa,stage";
    assert_eq!(table.lines().next(), Some(header));
    assert_eq!(table.lines().count(), 4);
    // Nothing is left beside the cohorts.
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
}

#[test]
fn a_directory_with_something_in_it_is_refused_unless_forced() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("notes.txt"), "mine").unwrap();
    fs::write(place.path().join("cohort.csv"), "old").unwrap();
    let refused = phantom(place.path(), &[]).assert().code(2);
    refused.stderr(contains("is not empty").and(contains("--force")));
    let kept = fs::read_to_string(place.path().join("cohort.csv")).unwrap();
    assert_eq!(kept, "old");

    phantom(place.path(), &["--force"]).assert().success();
    let now = files(place.path());
    assert_eq!(now["notes.txt"], b"mine");
    assert!(now["cohort.csv"].starts_with(b"patient_id"));
}

#[test]
fn impossible_cohorts_are_refused_before_anything_is_written() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    for more in [
        ["--patients", "0"],
        ["--seconds", "0"],
        ["--seconds", "NaN"],
        ["--sweep-seconds", "0"],
        ["--frame-size", "161x120"],
        ["--frame-size", "9000x9000"],
        ["--frames-per-second", "0"],
        ["--episodes", "1.5"],
        ["--jobs", "0"],
    ] {
        let mut command = Command::cargo_bin("hepaflow").unwrap();
        command.arg("phantom").arg("--out").arg(&out).args(more);
        command.assert().code(2);
        assert!(!out.exists(), "{more:?}");
    }
}

#[test]
fn a_dicom_cine_says_what_it_is() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("cine.dcm");
    let spec = RecordingSpec {
        frame_size: Some(FrameSize {
            height: 120,
            width: 160,
        }),
        seconds: Some(0.2),
        frames_per_second: Some(25),
        scatterers: 5_000,
        ..RecordingSpec::new(7, 12)
    };
    record(&spec, &path).unwrap();
    let object = dicom_object::open_file(&path).unwrap();
    let text = |tag| object.element(tag).unwrap().to_str().unwrap().into_owned();
    let meta = object.meta();
    assert_eq!(meta.transfer_syntax(), "1.2.840.10008.1.2.4.50");
    assert_eq!(text(tags::SOP_CLASS_UID), "1.2.840.10008.5.1.4.1.1.3.1");
    assert_eq!(text(tags::PATIENT_ID), "PH-0012");
    assert_eq!(text(tags::NUMBER_OF_FRAMES), "5");
    assert_eq!(text(tags::FRAME_TIME), "40.000000");
    assert!(text(tags::STUDY_INSTANCE_UID).starts_with("2.25."));
    assert!(text(tags::MANUFACTURER).contains("SYNTHETIC"));
    let regions = object
        .element(tags::SEQUENCE_OF_ULTRASOUND_REGIONS)
        .unwrap();
    let region = &regions.items().unwrap()[0];
    let delta = region.element(tags::PHYSICAL_DELTA_X).unwrap().to_float64();
    let expected = f64::from(Recording::new(&spec).placement().mm_per_pixel) / 10.0;
    assert!((delta.unwrap() - expected).abs() < 1e-9);
    let pixels = object.element(tags::PIXEL_DATA).unwrap();
    let fragments = pixels.value().fragments().unwrap();
    assert_eq!(fragments.len(), 5);
    assert!(fragments.iter().all(|jpeg| jpeg.starts_with(&[0xff, 0xd8])));
}

/// Depth of the capsule's echo along each beam, in samples from where it rests:
/// the brightest path across the beams that bends by at most two samples from
/// one to the next, with its smooth course taken out.
fn capsule_line(grey: &[u8], samples: usize, rest: &[f32]) -> Vec<f64> {
    const REACH: usize = 28;
    const STATES: usize = 2 * REACH + 1;
    let lines = 20..140;
    // Brightness of every place near the capsule, over 3 beams by 5 samples.
    let bright = |line: usize, state: usize| -> i64 {
        let middle = rest[line] as usize + state - REACH;
        let beams = line - 1..=line + 1;
        let sums = beams.map(|beam| {
            let around = &grey[beam * samples + middle - 2..][..5];
            around.iter().map(|&level| i64::from(level)).sum::<i64>()
        });
        sums.sum()
    };
    let mut best = [0_i64; STATES];
    let mut came_from = Vec::new();
    for line in lines.clone() {
        let mut next = [0; STATES];
        let mut from = [0; STATES];
        for state in 0..STATES {
            let near = state.saturating_sub(2)..=(state + 2).min(STATES - 1);
            let cost = |before: usize| best[before] - 60 * before.abs_diff(state) as i64;
            let before = near.max_by_key(|&before| cost(before)).unwrap_or(state);
            next[state] = cost(before) + bright(line, state);
            from[state] = before;
        }
        best = next;
        came_from.push(from);
    }
    let mut state = (0..STATES)
        .max_by_key(|&state| best[state])
        .unwrap_or(REACH);
    let mut path: Vec<f64> = lines
        .rev()
        .zip(came_from.iter().rev())
        .map(|(line, from)| {
            let depth = (rest[line] as usize + state) as f64 - REACH as f64;
            state = from[state];
            depth - f64::from(rest[line])
        })
        .collect();
    path.reverse();
    detrended(&path)
}

/// Takes out the best parabola.
fn detrended(values: &[f64]) -> Vec<f64> {
    let n = values.len() as f64;
    let xs: Vec<f64> = (0..values.len())
        .map(|i| 2.0 * (i as f64 + 0.5) / n - 1.0)
        .collect();
    // Legendre polynomials are all but orthogonal on so many points.
    let basis: [fn(f64) -> f64; 3] = [|_| 1.0, |x| x, |x| 0.5 * (3.0 * x * x - 1.0)];
    let mut left = values.to_vec();
    for (degree, p) in basis.iter().enumerate() {
        let scale = (2 * degree + 1) as f64 / n;
        let c: f64 = xs.iter().zip(&left).map(|(x, v)| p(*x) * v).sum::<f64>() * scale;
        left.iter_mut().zip(&xs).for_each(|(v, x)| *v -= c * p(*x));
    }
    left
}

fn rms(values: &[f64]) -> f64 {
    (values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64).sqrt()
}

/// Roughness of the capsule in one frame, and of what is left of it in many
/// once the mean over time, which holds the ripple, is taken out.
fn features(seed: u64, patient: u32, ablation: Ablation) -> (Stage, [f64; 2]) {
    let spec = RecordingSpec {
        seconds: Some(4.0),
        frames_per_second: Some(20),
        ablation,
        ..RecordingSpec::new(seed, patient)
    };
    let recording = Recording::new(&spec);
    let samples = recording.scan().probe.samples();
    let rest = recording.capsule_samples();
    let mut painter = recording.painter();
    let lines: Vec<Vec<f64>> = (0..80)
        .step_by(4)
        .map(|frame| capsule_line(painter.beam_space(frame), samples, &rest))
        .collect();
    let count = lines.len() as f64;
    let mean: Vec<f64> = (0..lines[0].len())
        .map(|i| lines.iter().map(|line| line[i]).sum::<f64>() / count)
        .collect();
    let moving = lines
        .iter()
        .flat_map(|line| line.iter().zip(&mean).map(|(v, m)| v - m));
    let moving: Vec<f64> = moving.collect();
    (recording.patient().stage, [rms(&lines[10]), rms(&moving)])
}

fn auc(rows: &[(Stage, [f64; 2])], feature: usize) -> f64 {
    let side = |diseased| {
        let side = rows
            .iter()
            .filter(move |(stage, _)| (*stage >= Stage::F2) == diseased);
        side.map(move |(_, values)| values[feature])
    };
    let pairs = (side(true).count() * side(false).count()) as f64;
    side(true)
        .map(|d| side(false).filter(|h| d > *h).count())
        .sum::<usize>() as f64
        / pairs
}

#[test]
#[ignore = "400 recordings: about 40 s on two cores"]
fn many_frames_tell_significant_fibrosis_better_than_one() {
    let cohort = |ablation| -> Vec<_> {
        let patients = (1..=200_u32).into_par_iter();
        patients
            .map(|patient| features(21, patient, ablation))
            .collect()
    };
    let whole = cohort(Ablation::None);
    let (one, many) = (auc(&whole, 0), auc(&whole, 1));
    println!("AUC at >= F2: one frame {one:.3}, over time {many:.3}");
    let plain = cohort(Ablation::RippleOff);
    println!(
        "ripple off: one frame {:.3}, over time {:.3}",
        auc(&plain, 0),
        auc(&plain, 1)
    );
    // Standard error with 200 patients: about 0.038 and 0.025.
    assert!((0.66..0.80).contains(&one), "{one}");
    assert!((0.78..0.90).contains(&many), "{many}");
    assert!(auc(&plain, 0) > one + 0.03);
}

#[test]
#[ignore = "a measurement, to be run alone and in release"]
fn a_frame_takes_a_few_milliseconds() {
    let spec = RecordingSpec {
        frame_size: Some(FrameSize {
            height: 600,
            width: 800,
        }),
        ..RecordingSpec::new(7, 1)
    };
    let start = Instant::now();
    let recording = Recording::new(&spec);
    println!(
        "body and tables: {:.0} ms",
        start.elapsed().as_secs_f64() * 1e3
    );
    let mut painter = recording.painter();
    let start = Instant::now();
    for frame in 0..100 {
        painter.beam_space(frame);
    }
    println!(
        "beam space: {:.2} ms a frame",
        start.elapsed().as_secs_f64() * 10.0
    );
    let start = Instant::now();
    for frame in 0..100 {
        painter.paint(frame);
    }
    let ms = start.elapsed().as_secs_f64() * 10.0;
    println!("painted, 800x600: {ms:.2} ms a frame");
    assert!(ms < 40.0, "{ms}");
}
