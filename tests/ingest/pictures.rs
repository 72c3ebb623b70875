//! Still pictures: a numbered folder of them is a recording, one alone a frame.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hepaflow::ingest::{IngestError, SourceRequest};
use tempfile::tempdir;

use super::recordings::gst_run;
use super::support::*;

const RAW: &str = "video/x-raw,format=RGB,width=320,height=240,framerate=25/1";

/// `count` pictures of a ball that moves, named by `pattern` from the number `first`.
fn pictures(folder: &Path, pattern: &str, encode: &str, first: u32, count: u32) {
    fs::create_dir_all(folder).unwrap();
    let location = folder.to_str().unwrap().replace('%', "%%");
    gst_run(&format!(
        "videotestsrc pattern=ball num-buffers={count} ! {RAW} ! {encode} \
         ! multifilesink location=\"{location}/{pattern}\" index={first}"
    ));
}

const PNG: &str = "pngenc snapshot=false";
const JPEG: &str = "videoconvert ! jpegenc quality=95";

fn folder(path: impl Into<PathBuf>) -> SourceRequest {
    SourceRequest {
        frame_interval: Some(Duration::from_millis(40)),
        ..file(path)
    }
}

#[test]
fn numbered_pictures_in_a_folder_are_one_recording() {
    let directory = tempdir().unwrap();
    let raw = read(launch(&format!(
        "videotestsrc pattern=ball num-buffers=12 ! {RAW}"
    )));
    for (name, pattern, encode, first) in [
        // Viewers that do not pad: 10 comes after 9, whatever the alphabet says.
        ("png", "7T_%d.png", PNG, 95),
        ("50% of it, jpeg", "%04d_small.jpg", JPEG, 0),
    ] {
        let path = directory.path().join(name);
        pictures(&path, pattern, encode, first, 12);
        // What else lies there does not matter.
        fs::write(path.join("Thumbs.db"), "none of them").unwrap();
        let story = read(folder(&path));
        story.end.as_ref().unwrap();
        assert_eq!(story.indices(), (0..12).collect::<Vec<_>>(), "{name}");
        for (time, place) in story.times_ms().iter().zip(0..) {
            assert!((time - 40.0 * f64::from(place)).abs() < 0.01, "{name}");
        }
        let header = story.header();
        assert_eq!(header.frame_interval, Some(Duration::from_millis(40)));
        assert_eq!((header.picture.width, header.picture.height), (320, 240));
        // As without the detour, up to what JPEG loses.
        let allowed = if encode == PNG { 0 } else { 6 };
        for (frame, raw) in story.frames.iter().zip(&raw.frames) {
            assert!(!frame.discontinuity, "{name} frame {}", frame.index);
            let pixels = frame.pixels.iter().zip(raw.pixels.iter());
            let worst = pixels.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(worst <= allowed, "{name} frame {}: {worst}", frame.index);
        }
        let moved = |pair: &[hepaflow::domain::Frame]| pair[0].pixels != pair[1].pixels;
        assert!(story.frames.windows(2).all(moved), "{name} stands still");
    }
}

#[test]
fn a_series_is_known_by_its_pictures_and_not_by_their_names() {
    let directory = tempdir().unwrap();
    let content = |name: &str, pattern: &str, first: u32| {
        let path = directory.path().join(name);
        pictures(&path, pattern, PNG, first, 4);
        read(folder(path)).header().content
    };
    let content = (content("a", "a%02d.png", 0), content("b", "b%d.png", 7));
    assert_eq!(content.0, content.1);
    fs::copy(
        directory.path().join("b/b7.png"),
        directory.path().join("b/b8.png"),
    )
    .unwrap();
    let other = read(folder(directory.path().join("b"))).header().content;
    assert_ne!(content.0, other);
}

#[test]
fn a_picture_of_another_size_is_no_neighbour() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("a");
    pictures(&path, "%d.png", PNG, 0, 6);
    let small = "video/x-raw,format=RGB,width=160,height=120";
    gst_run(&format!(
        "videotestsrc num-buffers=1 ! {small} ! pngenc ! filesink location={}",
        path.join("3.png").display()
    ));
    let story = read(folder(&path));
    story.end.as_ref().unwrap();
    let cuts: Vec<_> = story.frames.iter().map(|it| it.discontinuity).collect();
    assert_eq!(cuts, [false, false, false, true, true, false]);
}

#[test]
fn a_series_with_a_hole_or_a_stranger_is_refused_as_a_whole() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("a");
    pictures(&path, "%d.png", PNG, 0, 6);
    let refused = |expected: &str| {
        let story = read(folder(&path));
        assert!(story.frames.is_empty());
        let error = story.error();
        assert!(matches!(error, IngestError::NoSeries { .. }), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    fs::rename(path.join("3.png"), path.join("cover.png")).unwrap();
    refused("`cover.png` has no number");
    fs::remove_file(path.join("cover.png")).unwrap();
    refused("`3.png` is missing before `4.png`");
    // A decoder would fill up what is missing.
    let bytes = fs::read(path.join("2.png")).unwrap();
    fs::write(path.join("3.png"), &bytes[..bytes.len() / 2]).unwrap();
    refused("`3.png` breaks off");
}

#[test]
fn a_damaged_picture_is_named_and_those_before_it_are_kept() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("a");
    pictures(&path, "f%03d.png", PNG, 0, 8);
    let damaged = path.join("f005.png");
    let mut bytes = fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 40].fill(0x55);
    fs::write(&damaged, bytes).unwrap();
    let story = read(folder(&path));
    assert_eq!(story.frames.len(), 5);
    let error = story.error();
    assert!(
        matches!(error, IngestError::Undecodable { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("`f005.png`"), "{error}");
}

#[test]
fn pictures_need_to_be_told_how_fast_they_follow_each_other() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("a");
    pictures(&path, "%d.png", PNG, 0, 3);
    let error = read(file(&path)).error();
    assert!(
        matches!(error, IngestError::NoFrameRate { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("`frames_per_second`"), "{error}");
}

#[test]
fn a_picture_alone_is_one_frame_if_it_is_whole() {
    let directory = tempdir().unwrap();
    for (name, encode) in [("%d.png", PNG), ("%d.jpg", JPEG)] {
        pictures(directory.path(), name, encode, 1, 1);
        let path = directory.path().join(name.replace("%d", "1"));
        let story = read(file(&path));
        story.end.as_ref().unwrap();
        assert_eq!(story.frames.len(), 1, "{name}");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() * 2 / 3]).unwrap();
        let error = read(file(&path)).error();
        assert!(error.to_string().contains("breaks off"), "{error}");
    }
}

#[test]
fn a_gif_is_refused_by_its_name() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("liver.avi");
    fs::write(&path, b"GIF89a\x08\0\x08\0\0\0\0;").unwrap();
    let error = read(file(&path)).error();
    assert!(matches!(error, IngestError::Gif { .. }), "{error:?}");
    assert!(error.to_string().contains("MP4 or AVI"), "{error}");
}
