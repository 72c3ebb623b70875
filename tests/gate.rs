//! What the model sees: the crop and the quality gate, judged on the phantom,
//! whose truth is known, and on real pictures. The phantom is synthetic; the
//! rates say how well its interruptions are found, not a scanner's.
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "support/recordings.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod recordings;
#[path = "support/ingest.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use assert_cmd::cargo::cargo_bin;
use dicom_core::VR;
use dicom_core::value::PrimitiveValue;
use dicom_dictionary_std::{tags, uids};
use hepaflow::dataflow::{WindowShape, Windower};
use hepaflow::domain::{Crop, Frame, FrameSize};
use hepaflow::ingest::{Arrival, Look, Seen, SourceRequest, Stream, StreamHeader};
use hepaflow::metrics::{DropReason, Metrics, SourceMetrics};
use hepaflow::study::phantom::{Container, Episode, Recording, RecordingSpec, write_recording};
use recordings::pydicom;
use support::{file, put, ultrasound, write_dicom};
use tempfile::tempdir;

struct Story {
    header: StreamHeader,
    frames: Vec<Frame>,
    seen: Vec<Seen>,
    metrics: SourceMetrics,
}

impl Story {
    fn reasons(&self) -> Vec<Option<DropReason>> {
        self.seen.iter().map(|seen| seen.reason).collect()
    }
}

fn examine(path: &Path) -> Story {
    examine_part(path, None)
}

fn examine_part(path: &Path, crop: Option<Crop>) -> Story {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let watch = {
        let seen = Arc::clone(&seen);
        Arc::new(move |picture| seen.lock().unwrap().push(picture))
    };
    let request = SourceRequest {
        look: Look::default(),
        crop,
        ..file(path)
    };
    let metrics = Metrics::new().unwrap().source("gate");
    let reader = thread::current();
    let wake = Arc::new(move || reader.unpark());
    let stream = Stream::open_watched(request, wake, metrics.clone(), watch);
    let (mut header, mut frames) = (None, Vec::new());
    loop {
        match stream.try_next() {
            Some(Arrival::Opened(opened)) => header = Some(opened),
            Some(Arrival::Frame(frame)) => frames.push(frame),
            Some(Arrival::Ended(end)) => break end.unwrap(),
            None => thread::park_timeout(Duration::from_millis(100)),
        }
    }
    drop(stream);
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    // Every picture is counted once, with the reason that was given.
    let left_out = |reason| seen.iter().filter(|s| s.reason == Some(reason)).count() as u64;
    let mut dropped = 0;
    for reason in DropReason::ALL {
        assert_eq!(metrics.dropped(reason).get(), left_out(reason));
        dropped += left_out(reason);
    }
    assert_eq!(metrics.received.get(), frames.len() as u64 + dropped);
    Story {
        header: header.unwrap(),
        frames,
        seen,
        metrics,
    }
}

fn spec(patient: u32, episode_rate: f32) -> RecordingSpec {
    RecordingSpec {
        frame_size: Some(FrameSize {
            height: 480,
            width: 640,
        }),
        seconds: Some(2.0),
        frames_per_second: Some(25),
        episode_rate,
        ..RecordingSpec::new(11, patient)
    }
}

/// Written as one of the three containers, in turn.
fn written(folder: &Path, recording: &Recording, number: u32) -> PathBuf {
    let container = Container::ALL[number as usize % 3];
    let path = folder.join(format!("{number}.{}", container.extension()));
    write_recording(recording, container, &path, &|| {}).unwrap();
    path
}

/// What must be said of frame `index`.
fn truth(episode: Option<Episode>, index: usize) -> Option<DropReason> {
    match episode? {
        // A picture may be repeated twice: grabbers do that.
        Episode::Freeze { from, to } => (from + 3..to)
            .contains(&index)
            .then_some(DropReason::Freeze),
        Episode::Doppler { from, to } => (from..to).contains(&index).then_some(DropReason::Colour),
        Episode::DualScreen { from } => (from <= index).then_some(DropReason::DualScreen),
    }
}

#[derive(Default, Debug)]
struct Rates {
    /// By the reason that should be given: how often there was one, how often
    /// the picture was left out, and how often for that reason.
    due: BTreeMap<&'static str, [usize; 3]>,
    good: usize,
    false_alarms: BTreeMap<&'static str, usize>,
}

impl Rates {
    fn add(&mut self, episode: Option<Episode>, story: &Story) {
        for (index, found) in story.reasons().into_iter().enumerate() {
            let due = truth(episode, index);
            let repeated = matches!(episode, Some(Episode::Freeze { from, to })
                if (from + 1..to.min(from + 3)).contains(&index));
            // The first picture after another layout is another scene, too.
            let returns = index > 0 && truth(episode, index - 1).is_some();
            match (due, found) {
                (Some(due), found) => {
                    let row = self.due.entry(due.as_str()).or_default();
                    row[0] += 1;
                    row[1] += usize::from(found.is_some());
                    row[2] += usize::from(found == Some(due));
                }
                (None, Some(DropReason::SceneCut)) if returns => {}
                (None, _) if repeated => {}
                (None, found) => {
                    self.good += 1;
                    if let Some(reason) = found {
                        *self.false_alarms.entry(reason.as_str()).or_default() += 1;
                    }
                }
            }
        }
    }
}

#[test]
fn interruptions_are_left_out_and_good_pictures_are_not() {
    let folder = tempdir().unwrap();
    let numbers: Vec<u32> = (1..=30).collect();
    let rates = Mutex::new(Rates::default());
    thread::scope(|scope| {
        for numbers in numbers.chunks(15) {
            let (folder, rates) = (folder.path(), &rates);
            scope.spawn(move || {
                for &number in numbers {
                    let rate = if number % 3 == 0 { 0.0 } else { 1.0 };
                    let recording = Recording::new(&spec(number, rate));
                    let story = examine(&written(folder, &recording, number / 3));
                    rates.lock().unwrap().add(recording.episode(), &story);
                }
            });
        }
    });
    let rates = rates.into_inner().unwrap();
    println!("{rates:#?}");
    for reason in ["freeze", "colour", "dual_screen"] {
        let [due, left_out, rightly] = rates.due[reason];
        assert!(due >= 20, "{reason} is hardly there: {rates:#?}");
        assert!(left_out * 100 >= due * 97, "{reason}: {rates:#?}");
        assert!(rightly * 100 >= due * 95, "{reason}: {rates:#?}");
    }
    let false_alarms: usize = rates.false_alarms.values().sum();
    assert!(false_alarms * 200 <= rates.good, "{rates:#?}");
}

/// Whether the sample of `seen` nearest to the picture's (`x`, `y`) is visible.
fn shows(seen: &Seen, picture: FrameSize, x: f32, y: f32) -> bool {
    let column = (x * seen.size.width as f32 / picture.width as f32) as usize;
    let row = (y * seen.size.height as f32 / picture.height as f32) as usize;
    seen.visible[row.min(seen.size.height - 1) * seen.size.width + column]
}

#[test]
fn the_crop_is_the_sector_with_the_capsule_in_it_and_without_what_is_written() {
    let folder = tempdir().unwrap();
    let (mut capsule, mut on_capsule) = (0, 0);
    for number in 1..=18 {
        let recording = Recording::new(&RecordingSpec {
            seconds: Some(0.2),
            ..spec(number + 100, 0.0)
        });
        let story = examine(&written(folder.path(), &recording, number));
        let (bounds, crop) = (recording.placement().bounds, story.header.crop);
        let seen = story.seen.last().unwrap();
        let picture = story.header.picture;
        // A cell is 8 pixels here. The top matters most, the deepest tissue may
        // be too dark to be told from black.
        let edges = |crop: Crop| {
            let (x, y) = (crop.x as i32, crop.y as i32);
            [x, y, x + crop.width as i32, y + crop.height as i32]
        };
        let ([l, t, r, b], [tl, tt, tr, tb]) = (edges(crop), edges(bounds));
        assert!(
            (l - tl).abs() <= 32 && (r - tr).abs() <= 32,
            "{number}: {crop:?} for {bounds:?}"
        );
        assert!(
            (-32..=8).contains(&(t - tt)),
            "{number}: {crop:?} for {bounds:?}"
        );
        assert!(
            (-80..=32).contains(&(b - tb)),
            "{number}: {crop:?} for {bounds:?}"
        );
        for share in 1..20 {
            let x = bounds.x as f32 + bounds.width as f32 * share as f32 / 20.0;
            let y = recording.capsule_row(x);
            // Where the line lies within the sector.
            let place = recording.placement();
            let (dx, dy) = (
                (x - place.middle_column) * place.mm_per_pixel,
                (y - place.face_row) * place.mm_per_pixel,
            );
            let is_inside = match recording.scan().probe.face {
                hepaflow::study::phantom::Face::Curved {
                    radius_mm,
                    half_angle,
                } => (dx / (radius_mm + dy)).atan().abs() < 0.95 * half_angle,
                hepaflow::study::phantom::Face::Linear { half_width_mm } => {
                    dx.abs() < 0.95 * half_width_mm
                }
            };
            if is_inside {
                capsule += 1;
                on_capsule += usize::from(shows(seen, picture, x, y));
            }
        }
        // The words on top, the settings below on the left, ticks on the right,
        // as far as they lie beside the sector.
        for (x, y) in [(20.0, 12.0), (90.0, 12.0), (600.0, 12.0), (634.0, 300.0)] {
            assert!(!shows(seen, picture, x, y), "{number}: ({x}, {y})");
        }
    }
    println!("the capsule is in view at {on_capsule} of {capsule} places");
    assert!(capsule > 200 && on_capsule * 100 >= capsule * 99);
}

/// A grey cine of these pictures.
fn cine(folder: &Path, pictures: &[Vec<u8>]) -> PathBuf {
    let mut object = ultrasound();
    let frames = pictures.len().to_string();
    put(&mut object, tags::NUMBER_OF_FRAMES, VR::IS, frames);
    put(&mut object, tags::ROWS, VR::US, 480_u16);
    put(&mut object, tags::COLUMNS, VR::US, 640_u16);
    put(
        &mut object,
        tags::PIXEL_DATA,
        VR::OB,
        PrimitiveValue::U8(pictures.concat().into()),
    );
    let path = folder.join("cine.dcm");
    write_dicom(object, uids::EXPLICIT_VR_LITTLE_ENDIAN, &path);
    path
}

fn pictures(number: u32, frames: usize) -> Vec<Vec<u8>> {
    let recording = Recording::new(&spec(number, 0.0));
    let mut painter = recording.painter();
    (0..frames)
        .map(|frame| painter.paint(frame).pixels)
        .collect()
}

/// The near field of `picture` and darkness below, but for the scanner's text.
fn in_air(recording: &Recording, picture: &[u8]) -> Vec<u8> {
    let bounds = recording.placement().bounds;
    let near = (bounds.y + bounds.height / 4) as usize;
    let columns = bounds.x as usize..(bounds.x + bounds.width) as usize;
    let mut picture = picture.to_vec();
    for (row, pixels) in picture.chunks_exact_mut(640).enumerate().skip(near) {
        let last = (bounds.y + bounds.height) as usize;
        if row <= last {
            pixels[columns.clone()].fill(0);
        }
    }
    picture
}

#[test]
fn what_lies_below_the_part_that_is_used_is_no_air() {
    let folder = tempdir().unwrap();
    let path = written(folder.path(), &Recording::new(&spec(101, 0.0)), 0);
    // The capsule and what lies around it: most of the picture is below.
    let capsule = Crop {
        x: 208,
        y: 90,
        width: 224,
        height: 120,
    };
    let story = examine_part(&path, Some(capsule));
    assert!(
        story.reasons().iter().all(Option::is_none),
        "{:?}",
        story.reasons()
    );
}

#[test]
fn air_blank_and_another_scene_are_told_and_no_window_spans_them() {
    let folder = tempdir().unwrap();
    let recording = Recording::new(&spec(101, 0.0));
    let good = pictures(101, 36);
    let other = pictures(104, 12);
    let blank = vec![3_u8; 640 * 480];
    let mut shown = good[..12].to_vec();
    shown.extend(
        good[12..24]
            .iter()
            .map(|picture| in_air(&recording, picture)),
    );
    shown.extend(good[24..].iter().cloned());
    shown.extend(std::iter::repeat_n(blank, 8));
    shown.extend(other);
    let story = examine(&cine(folder.path(), &shown));
    let reasons = story.reasons();
    let names = |range: std::ops::Range<usize>| -> Vec<_> {
        reasons[range]
            .iter()
            .map(|reason| reason.map_or("used", DropReason::as_str))
            .collect()
    };
    assert_eq!(names(0..12), ["used"; 12]);
    assert_eq!(names(12..24), ["probe_in_air"; 12]);
    assert_eq!(names(36..44), ["blank"; 8]);
    assert!(["used", "scene_cut"].contains(&names(24..25)[0]));
    assert_eq!(names(25..36), ["used"; 11]);
    assert_eq!(names(45..56), ["used"; 11]);
    let shape = WindowShape {
        length: 8,
        stride: 1,
        max_gap: None,
    };
    let mut windower = Windower::new(shape, story.header.frame_interval);
    let mut windows = 0;
    for frame in story.frames {
        if let Some((clip, _)) = windower.push(frame) {
            let first = clip[0].index;
            assert!(
                clip.iter()
                    .zip(first..)
                    .all(|(frame, index)| frame.index == index)
            );
            windows += 1;
        }
    }
    assert!(windows >= 12, "{windows}");
    assert_eq!(story.metrics.dropped(DropReason::InAir).get(), 12);
}

#[test]
fn another_scene_without_a_pause_is_cut_from_the_first() {
    let folder = tempdir().unwrap();
    // From a bright picture to a dark one of the same layout.
    let bright = pictures(101, 10);
    let dark: Vec<Vec<u8>> = pictures(101, 20)[10..]
        .iter()
        .map(|picture| picture.iter().map(|grey| grey / 3).collect())
        .collect();
    let story = examine(&cine(folder.path(), &[bright, dark].concat()));
    let reasons = story.reasons();
    assert_eq!(reasons[10], Some(DropReason::SceneCut));
    assert_eq!(reasons.iter().flatten().count(), 1, "{reasons:?}");
}

#[test]
fn real_pictures_are_judged_as_a_person_would() {
    // A B-mode cine: all of it is good, and the menu below is cut away.
    let story = examine(&pydicom("examples_ybr_color.dcm"));
    assert_eq!(story.frames.len(), 30, "{:?}", story.reasons());
    let seen = &story.seen[29];
    let picture = story.header.picture;
    assert!(shows(seen, picture, 165.0, 60.0) && shows(seen, picture, 150.0, 170.0));
    for (x, y) in [(20.0, 10.0), (310.0, 80.0), (150.0, 234.0), (10.0, 120.0)] {
        assert!(!shows(seen, picture, x, y), "({x}, {y})");
    }
    // Power Doppler, and a probe that touches nobody.
    for (name, reason) in [
        ("examples_rgb_color.dcm", DropReason::Colour),
        ("examples_palette.dcm", DropReason::InAir),
    ] {
        assert_eq!(examine(&pydicom(name)).reasons(), [Some(reason)], "{name}");
    }
}

#[test]
fn a_preview_shows_what_is_used_and_why_not() {
    let folder = tempdir().unwrap();
    let recording = (1..60)
        .map(|patient| Recording::new(&spec(patient, 1.0)))
        .find(|recording| matches!(recording.episode(), Some(Episode::Doppler { .. })))
        .unwrap();
    let path = written(folder.path(), &recording, 0);
    let out = folder.path().join("seen");
    let output = Command::new(cargo_bin!("hepaflow"))
        .args(["ingest", "preview"])
        .arg(&path)
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert!(
        said.contains(" used\n") && said.contains(" colour\n"),
        "{said}"
    );
    let table = std::fs::read_to_string(out.join("frames.csv")).unwrap();
    assert_eq!(table.lines().count(), 1 + recording.scan().frames);
    let sheet = std::fs::File::open(out.join("sheet.png")).unwrap();
    let reader = png::Decoder::new(std::io::BufReader::new(sheet));
    let info = reader.read_info().unwrap();
    assert!(info.info().width > 1000 && info.info().height > 250);
    let missing = Command::new(cargo_bin!("hepaflow"))
        .args(["ingest", "preview", "no.mp4", "--out"])
        .arg(&out)
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(2));
}
