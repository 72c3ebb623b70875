//! DICOM read in worker processes: the same frames, and no file does harm.
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
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use dicom_core::VR;
use dicom_core::value::PrimitiveValue;
use dicom_dictionary_std::{tags, uids};
use hepaflow::domain::Frame;
use hepaflow::ingest::sandbox::Sandbox;
use hepaflow::ingest::{Arrival, IngestError, SourceRequest, Stream};
use hepaflow::metrics::{DropReason, Metrics, SourceMetrics};
use recordings::pydicom;
use support::{file, put, put_fragments, read, ultrasound, write_dicom};
use tempfile::tempdir;

const MEMORY: u64 = 4 << 30;

fn sandbox() -> Sandbox {
    Sandbox::new(cargo_bin!("hepaflow").to_path_buf(), MEMORY)
}

struct Told {
    frames: Vec<Frame>,
    end: Result<(), IngestError>,
    metrics: SourceMetrics,
}

fn read_in(sandbox: &Sandbox, request: SourceRequest) -> Told {
    let metrics = Metrics::new().unwrap().source("bench");
    let reader = thread::current();
    let wake = Arc::new(move || reader.unpark());
    let stream = Stream::open_in(sandbox.clone(), request, wake, metrics.clone());
    let begin = Instant::now();
    let mut frames = Vec::new();
    let end = loop {
        match stream.try_next() {
            Some(Arrival::Opened(_)) => {}
            Some(Arrival::Frame(frame)) => frames.push(frame),
            Some(Arrival::Ended(end)) => break end,
            None => thread::park_timeout(Duration::from_millis(50)),
        }
        assert!(begin.elapsed() < Duration::from_secs(50), "it hangs");
    };
    drop(stream);
    let dropped: u64 = DropReason::ALL
        .iter()
        .map(|&reason| metrics.dropped(reason).get())
        .sum();
    assert_eq!(metrics.received.get(), frames.len() as u64 + dropped);
    assert_eq!(metrics.up.get(), 0);
    Told {
        frames,
        end,
        metrics,
    }
}

#[test]
fn a_worker_gives_what_this_process_would() {
    let sandbox = sandbox();
    for (name, pace) in [
        ("examples_ybr_color.dcm", None),
        ("examples_ybr_color.dcm", Some(Duration::from_millis(80))),
        ("examples_rgb_color.dcm", None),
        ("examples_jpeg2k.dcm", None),
    ] {
        let request = || SourceRequest {
            patient: None,
            pace,
            ..file(pydicom(name))
        };
        let here = read(request());
        let there = read_in(&sandbox, request());
        there.end.unwrap();
        assert!(there.metrics.received.get() > 0);
        assert_eq!(here.frames.len(), there.frames.len());
        for (here, there) in here.frames.iter().zip(&there.frames) {
            assert_eq!((here.index, here.time), (there.index, there.time));
            assert_eq!(
                (here.discontinuity, here.skipped),
                (there.discontinuity, there.skipped)
            );
            assert!(here.pixels == there.pixels, "{name}");
        }
    }
}

/// A program that does something else than to decode.
fn stand_in(folder: &Path, script: &str) -> Sandbox {
    let program = folder.join("worker.sh");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    Sandbox::new(program, MEMORY)
}

#[test]
fn a_worker_that_dies_babbles_or_hangs_is_one_refused_file() {
    let folder = tempdir().unwrap();
    let cine = pydicom("examples_ybr_color.dcm");
    for (script, how) in [
        ("kill -SEGV $$", "signal 11"),
        ("kill -ABRT $$", "signal 6"),
        ("exit 3", "3"),
        ("head -c 100000 /dev/urandom; exec sleep 0.1", ""),
        ("exec cat", ""),
    ] {
        let broken = stand_in(folder.path(), script);
        let told = read_in(&broken, file(&cine));
        assert!(
            matches!(&told.end, Err(IngestError::Crashed { how: found, .. }) if found.contains(how)),
            "{script}: {:?}",
            told.end
        );
    }
    let asleep = stand_in(folder.path(), "exec sleep 1000");
    let request = SourceRequest {
        first_frame_timeout: Duration::from_millis(100),
        ..file(&cine)
    };
    let told = read_in(&asleep, request);
    assert!(
        matches!(told.end, Err(IngestError::Stalled { .. })),
        "{:?}",
        told.end
    );
    // Too little memory for anything.
    let poor = Sandbox::new(cargo_bin!("hepaflow").to_path_buf(), 48 << 20);
    assert!(read_in(&poor, file(&cine)).end.is_err());
    assert!(read_in(&sandbox(), file(&cine)).end.is_ok());
}

#[test]
fn what_cannot_be_read_is_moved_to_quarantine_with_its_reason() {
    let folder = tempdir().unwrap();
    let cine = folder.path().join("a.dcm");
    let bytes = fs::read(pydicom("examples_ybr_color.dcm")).unwrap();
    fs::write(&cine, &bytes[..bytes.len() / 2]).unwrap();
    let quarantine = folder.path().join("quarantine");
    let sandbox = sandbox().with_quarantine(quarantine.clone());
    let error = read_in(&sandbox, file(&cine)).end.unwrap_err();
    assert_eq!(error.code(), "truncated");
    assert!(!cine.exists());
    assert_eq!(
        fs::read(quarantine.join("a.dcm")).unwrap().len(),
        bytes.len() / 2
    );
    let reason = fs::read_to_string(quarantine.join("a.reason.txt")).unwrap();
    assert!(
        reason.starts_with("truncated\n") && reason.contains("cut short"),
        "{reason}"
    );
    // What is good stays.
    fs::write(&cine, &bytes).unwrap();
    read_in(&sandbox, file(&cine)).end.unwrap();
    assert!(cine.exists());
}

/// A small good file in each syntax.
fn seeds(folder: &Path) -> Vec<PathBuf> {
    let mut object = ultrasound();
    put(&mut object, tags::NUMBER_OF_FRAMES, VR::IS, "3");
    put(&mut object, tags::ROWS, VR::US, 16_u16);
    put(&mut object, tags::COLUMNS, VR::US, 16_u16);
    let pixels: Vec<u8> = (0..768_u32).map(|i| (i * i / 7) as u8).collect();
    put(
        &mut object,
        tags::PIXEL_DATA,
        VR::OB,
        PrimitiveValue::U8(pixels.into()),
    );
    let plain = folder.join("plain.dcm");
    write_dicom(object.clone(), uids::EXPLICIT_VR_LITTLE_ENDIAN, &plain);
    let implicit = folder.join("implicit.dcm");
    write_dicom(object, uids::IMPLICIT_VR_LITTLE_ENDIAN, &implicit);
    let mut seeds = vec![plain.clone(), implicit];
    for (tool, name) in [
        ("dcmcrle", "rle"),
        ("dcmcjpls", "jpegls"),
        ("dcmcjpeg", "jpeg"),
    ] {
        let path = folder.join(format!("{name}.dcm"));
        let options: &[&str] = if tool == "dcmcjpeg" { &["+eb"] } else { &[] };
        let status = Command::new(tool)
            .args(options)
            .args([&plain, &path])
            .status();
        assert!(status.expect("Debian's dcmtk is needed").success());
        seeds.push(path);
    }
    let film = recordings::record(
        folder,
        "film.ts",
        "x264enc threads=1 ! h264parse ! mpegtsmux",
        5,
    );
    let mut object = ultrasound();
    put_fragments(&mut object, Vec::new(), vec![fs::read(film).unwrap()]);
    let video = folder.join("video.dcm");
    write_dicom(object, uids::MPEG4HP41, &video);
    seeds.push(video);
    let palette = folder.join("palette.dcm");
    fs::copy(pydicom("examples_palette.dcm"), &palette).unwrap();
    seeds.push(palette);
    let jpeg_2000 = folder.join("jpeg2k.dcm");
    fs::copy(pydicom("examples_jpeg2k.dcm"), &jpeg_2000).unwrap();
    seeds.push(jpeg_2000);
    seeds
}

/// Truncated, flipped, made absurd, shortened and lengthened.
fn mutated(seed: &[u8], number: u32) -> Vec<u8> {
    let mut state = number.wrapping_mul(2_654_435_761).wrapping_add(99);
    let mut random = |limit: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((u64::from(state) * limit as u64) >> 32) as usize
    };
    let mut bytes = seed.to_vec();
    // Headers are where it matters.
    let limit = if number.is_multiple_of(2) {
        bytes.len().min(1200)
    } else {
        bytes.len()
    };
    match number % 5 {
        0 => bytes.truncate(random(seed.len())),
        1 => (0..=random(8)).for_each(|_| bytes[random(limit)] ^= 1 << random(8)),
        2 => {
            let at = random(limit - 4);
            let absurd = [
                [0xFF; 4],
                [0, 0, 0, 0],
                [0xFF, 0xFF, 0xFF, 0x7F],
                [0xFE, 0xFF, 0xFF, 0xFF],
            ];
            bytes[at..at + 4].copy_from_slice(&absurd[random(4)]);
        }
        3 => {
            let at = random(limit);
            bytes.drain(at..(at + 1 + random(40)).min(seed.len()));
        }
        _ => {
            let at = random(limit);
            let more: Vec<u8> = (0..=random(40)).map(|_| random(256) as u8).collect();
            bytes.splice(at..at, more);
        }
    }
    bytes
}

#[test]
fn a_thousand_damaged_files_are_each_read_or_refused_with_a_reason() {
    const EACH: u32 = 130;
    let folder = tempdir().unwrap();
    let sandbox = sandbox();
    let seeds = seeds(folder.path());
    for seed in &seeds {
        let told = read_in(&sandbox, file(seed));
        assert!(told.end.is_ok(), "{}: {:?}", seed.display(), told.end);
    }
    let jobs: Vec<_> = seeds
        .iter()
        .flat_map(|seed| (0..EACH).map(move |number| (seed, number)))
        .collect();
    assert!(jobs.len() >= 1000);
    let half = jobs.len() / 2;
    let tallies: Vec<_> = thread::scope(|scope| {
        let halves = [&jobs[..half], &jobs[half..]];
        let threads: Vec<_> = halves
            .into_iter()
            .enumerate()
            .map(|(thread, jobs)| {
                let (sandbox, folder) = (&sandbox, folder.path());
                scope.spawn(move || {
                    let mut tally = BTreeMap::<String, u32>::new();
                    let path = folder.join(format!("mutated{thread}.dcm"));
                    for (seed, number) in jobs {
                        let bytes = mutated(&fs::read(seed).unwrap(), *number);
                        fs::write(&path, bytes).unwrap();
                        let request = SourceRequest {
                            first_frame_timeout: Duration::from_secs(2),
                            ..file(&path)
                        };
                        let code = match read_in(sandbox, request).end {
                            Ok(()) => "read".to_owned(),
                            Err(error) => {
                                assert!(!error.to_string().contains("SECRET-ID"));
                                error.code().to_owned()
                            }
                        };
                        assert_ne!(code, "broken", "{} {number}", seed.display());
                        *tally.entry(code).or_default() += 1;
                    }
                    tally
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    println!("{tallies:#?}");
    let of = |code: &str| -> u32 { tallies.iter().filter_map(|tally| tally.get(code)).sum() };
    assert!(of("read") > 100 && of("truncated") > 100, "{tallies:?}");
    // The service is as it was.
    for seed in &seeds {
        assert!(read_in(&sandbox, file(seed)).end.is_ok());
    }
}
