//! Ingest against real peers: recordings made by GStreamer's own encoders, DICOM
//! written by dicom-rs, and a real ultrasound cine.
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "support/recordings.rs"]
mod recordings;
#[path = "support/ingest.rs"]
mod support;

#[path = "ingest/dicom.rs"]
mod dicom;
#[path = "ingest/pictures.rs"]
mod pictures;
#[path = "ingest/syntaxes.rs"]
mod syntaxes;

use std::fs;
use std::time::{Duration, Instant};

use hepaflow::dataflow::{WindowShape, Windower};
use hepaflow::domain::{ClipSpan, ContentHash, Crop, FrameSize};
use hepaflow::ingest::{Arrival, IngestError, Media, SourceRequest};
use hepaflow::metrics::DropReason;
use recordings::*;
use support::*;
use tempfile::tempdir;

fn assert_close(got: &[f64], expected: impl Iterator<Item = f64>, tolerance: f64) {
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() <= tolerance, "{got} {expected}");
    }
}

#[test]
fn every_frame_of_a_recording_arrives_once_in_order_and_on_time() {
    let directory = tempdir().unwrap();
    for (name, encode) in [
        ("h264.mp4", MP4),
        ("front.mp4", FAST_START_MP4),
        ("h264.mkv", MKV),
        ("h264.mov", MOV),
        ("h264.ts", TS),
        ("mjpeg.avi", AVI),
    ] {
        let path = record(directory.path(), name, encode, 50);
        let story = read(file(&path));
        story.end.as_ref().unwrap();
        assert_eq!(story.indices(), (0..50).collect::<Vec<_>>(), "{name}");
        // Matroska keeps whole milliseconds.
        assert_close(&story.times_ms(), (0..50).map(|i| f64::from(i) * 40.0), 1.0);
        let header = story.header();
        assert_eq!(header.content, ContentHash::of(&fs::read(&path).unwrap()));
        assert_eq!(header.patient.expose(), "P1");
        assert_eq!(header.study, None);
        assert_eq!(
            header.picture,
            FrameSize {
                height: 240,
                width: 320
            }
        );
        assert_eq!(
            header.crop,
            Crop {
                x: 0,
                y: 0,
                width: 320,
                height: 240
            }
        );
        let interval = header.frame_interval.unwrap();
        assert!(interval.abs_diff(Duration::from_millis(40)) < Duration::from_millis(1));
        for frame in &story.frames {
            assert_eq!(frame.pixels.len(), SIZE.area(), "{name}");
            assert!(!frame.discontinuity, "{name} frame {}", frame.index);
        }
        assert_eq!(story.metrics.received.get(), 50);
        let moved = |pair: &[hepaflow::domain::Frame]| pair[0].pixels != pair[1].pixels;
        assert!(story.frames.windows(2).all(moved), "{name} stands still");
    }
}

#[test]
fn the_same_bytes_give_the_same_pixels_every_time() {
    let directory = tempdir().unwrap();
    for (name, encode) in [("a.mp4", MP4), ("a.avi", AVI)] {
        let path = record(directory.path(), name, encode, 30);
        let (one, two) = (read(file(&path)), read(file(&path)));
        assert_eq!(one.header, two.header);
        assert_eq!(one.frames.len(), two.frames.len());
        for (a, b) in one.frames.iter().zip(&two.frames) {
            assert_eq!((a.index, a.time), (b.index, b.time));
            assert_eq!(a.pixels, b.pixels);
        }
    }
}

#[test]
fn black_is_0_and_white_is_255_however_the_recording_codes_them() {
    let directory = tempdir().unwrap();
    for (pattern, expected) in [("black", 0_u8), ("white", 255)] {
        // H.264 from I420 is limited range, JPEG is full range.
        for (name, encode) in [("a.mp4", MP4), ("a.avi", AVI)] {
            let path = record_pattern(directory.path(), name, pattern, encode, 3);
            let story = read(file(&path));
            for pixel in story.frames[1].pixels.iter() {
                assert!(
                    pixel.abs_diff(expected) <= 2,
                    "{pattern} in {name}: {pixel}"
                );
            }
        }
    }
}

#[test]
fn grey_levels_survive_encoding_in_full_and_limited_range() {
    let directory = tempdir().unwrap();
    // From black to white, as RGB, which leaves no doubt about the range.
    let ramp = "videotestsrc pattern=gradient num-buffers=3 \
        ! video/x-raw,format=RGB,width=320,height=240 \
        ! videoconvert ! video/x-raw,format=GRAY8";
    let expected = read(launch(ramp)).frames[1].pixels.clone();
    assert!(expected.iter().min() < Some(&10) && expected.iter().max() > Some(&245));
    for (name, encode) in [("a.mp4", MP4), ("a.avi", AVI)] {
        let path = record_pattern(directory.path(), name, "gradient", encode, 3);
        let story = read(file(&path));
        let worst = story.frames[1].pixels.iter().zip(expected.iter());
        let worst = worst.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst <= 6, "{name} is off by {worst}");
    }
}

#[test]
fn the_crop_is_cut_before_anything_is_resized() {
    let directory = tempdir().unwrap();
    let path = record(directory.path(), "a.avi", AVI, 2);
    let whole = read(SourceRequest {
        size: FrameSize {
            height: 240,
            width: 320,
        },
        ..file(&path)
    });
    let crop = Crop {
        x: 100,
        y: 50,
        width: 64,
        height: 48,
    };
    let cut = read(SourceRequest {
        crop: Some(crop),
        ..file(&path)
    });
    assert_eq!(cut.header().crop, crop);
    for (row, line) in cut.frames[0].pixels.chunks(64).enumerate() {
        let start = (50 + row) * 320 + 100;
        assert_eq!(line, &whole.frames[0].pixels[start..start + 64]);
    }
}

#[test]
fn sound_beside_the_picture_is_ignored() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("a.avi");
    gst_run(&format!(
        "avimux name=mux ! filesink location={} \
         videotestsrc num-buffers=25 ! video/x-raw,framerate=25/1 ! jpegenc ! mux. \
         audiotestsrc num-buffers=100 ! audioconvert ! audio/x-raw,format=S16LE ! mux.",
        path.display()
    ));
    let story = read(file(&path));
    story.end.as_ref().unwrap();
    assert_eq!(story.frames.len(), 25);
}

#[test]
fn a_launch_line_may_end_in_raw_or_encoded_video_of_any_format() {
    for line in [
        "videotestsrc num-buffers=10 ! video/x-raw,format=I420",
        "videotestsrc num-buffers=10 ! video/x-raw,format=RGB",
        "videotestsrc num-buffers=10 ! video/x-raw,format=NV12 ! x264enc",
        "videotestsrc num-buffers=10 ! jpegenc",
    ] {
        let story = read(launch(line));
        story.end.as_ref().unwrap();
        assert_eq!(story.frames.len(), 10, "{line}");
    }
}

#[test]
fn colour_is_weighed_as_luma_when_it_has_to_be_converted() {
    // Rec. 601: pure green is 0.587 of white.
    let line = "videotestsrc pattern=green num-buffers=2 ! video/x-raw,format=RGB,colorimetry=sRGB";
    let story = read(launch(line));
    let pixel = story.frames[0].pixels[0];
    assert!((145..=153).contains(&pixel), "{pixel}");
}

#[test]
fn a_launch_line_is_new_content_at_every_opening_only_if_it_is_live() {
    let line = launch("videotestsrc num-buffers=2");
    let live = SourceRequest {
        live: true,
        ..line.clone()
    };
    let content = |request: &SourceRequest| read(request.clone()).header().content;
    assert_eq!(content(&line), content(&line));
    assert_ne!(content(&live), content(&live));
}

#[test]
fn a_live_source_drops_its_oldest_frames_and_counts_them() {
    let request = SourceRequest {
        live: true,
        queue: 3,
        ..launch("videotestsrc is-live=true num-buffers=20 ! video/x-raw,framerate=100/1")
    };
    let (stream, metrics) = open(request);
    let deadline = Instant::now() + Duration::from_secs(20);
    while metrics.received.get() < 20 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(
        matches!(next(&stream), Arrival::Opened(_)),
        "the header is never dropped"
    );
    for expected in 17..20 {
        assert!(matches!(next(&stream), Arrival::Frame(frame) if frame.index == expected));
    }
    assert!(matches!(next(&stream), Arrival::Ended(Ok(()))));
    assert_eq!(metrics.dropped(DropReason::QueueFull).get(), 17);
}

#[test]
fn a_live_file_is_replayed_at_its_own_pace() {
    let directory = tempdir().unwrap();
    let path = record(directory.path(), "a.avi", AVI, 20);
    let started = Instant::now();
    let story = read(SourceRequest {
        live: true,
        queue: 30,
        ..file(&path)
    });
    assert_eq!(story.frames.len(), 20);
    // 20 frames at 25 per second.
    assert!(
        started.elapsed() > Duration::from_millis(700),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn a_source_that_is_faster_than_the_model_is_thinned_and_no_gap_is_made() {
    let at_pace = |line: &str| {
        read(SourceRequest {
            pace: Some(Duration::from_millis(40)),
            ..launch(line)
        })
    };
    let sixty = "video/x-raw,width=320,height=240,framerate=60/1";
    let story = at_pace(&format!(
        "videotestsrc pattern=ball num-buffers=60 ! {sixty}"
    ));
    story.end.as_ref().unwrap();
    assert_eq!(story.frames.len(), 25);
    assert_eq!(story.metrics.dropped(DropReason::Pace).get(), 35);
    // The nearest frame or the next to it, and never one twice.
    assert_close(
        &story.times_ms(),
        (0..25).map(|i| f64::from(i) * 40.0),
        10.1,
    );
    // What was left out is not lost: windows of 9 frames, 8 intervals long.
    let windows = |story: &Story| {
        let shape = WindowShape {
            length: 9,
            stride: 1,
            max_gap: None,
        };
        let mut windower = Windower::new(shape, story.header().frame_interval);
        let spans = story.frames.iter().cloned().filter_map(|frame| {
            let (frames, span) = windower.push(frame)?;
            assert_eq!(frames.len(), 9);
            Some(span)
        });
        let spans: Vec<_> = spans.collect();
        (spans, windower.gaps())
    };
    let (spans, gaps) = windows(&story);
    assert_eq!((spans.len(), gaps), (17, 0));
    for span in &spans {
        let seconds = span.end.as_secs_f64() - span.begin.as_secs_f64();
        assert!((seconds - 0.32).abs() < 0.025, "{seconds}");
        assert_eq!(span.weight, ClipSpan::FULL_WEIGHT);
    }
    // Numbers are the recording's own.
    assert_eq!(story.indices().last(), Some(&57));

    // A slower one is taken as it is.
    let slow = "video/x-raw,width=320,height=240,framerate=15/1";
    let story = at_pace(&format!(
        "videotestsrc pattern=ball num-buffers=20 ! {slow}"
    ));
    assert_eq!(story.frames.len(), 20);
    assert_eq!(story.metrics.dropped(DropReason::Pace).get(), 0);
    let interval = story.header().frame_interval.unwrap();
    assert_eq!(interval.as_millis(), 66);
    assert_eq!(windows(&story).1, 0);
}

#[test]
fn dropping_a_stream_stops_it_at_once_and_counts_what_was_left() {
    let directory = tempdir().unwrap();
    let path = record(directory.path(), "a.mp4", MP4, 200);
    let (stream, metrics) = open(SourceRequest {
        queue: 4,
        ..file(&path)
    });
    assert!(matches!(next(&stream), Arrival::Opened(_)));
    assert!(matches!(next(&stream), Arrival::Frame(_)));
    // The reader now waits for room with a frame in its hand.
    std::thread::sleep(Duration::from_millis(200));
    let dropping = Instant::now();
    drop(stream);
    assert!(
        dropping.elapsed() < Duration::from_secs(2),
        "{:?}",
        dropping.elapsed()
    );
    assert_eq!(
        metrics.received.get(),
        1 + metrics.dropped(DropReason::Shutdown).get()
    );
    assert_eq!(metrics.dropped(DropReason::Shutdown).get(), 5);
}

#[test]
fn a_stream_can_be_dropped_before_it_opened() {
    let (stream, metrics) = open(launch("appsrc"));
    let dropping = Instant::now();
    drop(stream);
    assert!(
        dropping.elapsed() < Duration::from_secs(2),
        "{:?}",
        dropping.elapsed()
    );
    assert_eq!(metrics.received.get(), 0);
}

// Bad input: one clear error that names the source.

#[track_caller]
fn says(error: &IngestError, expected: &[&str]) {
    let text = error.to_string();
    assert!(text.starts_with("source `bench`: "), "{text}");
    for part in expected {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = read(file("/nowhere/liver.mp4")).error();
    assert!(matches!(error, IngestError::Missing { .. }), "{error:?}");
    says(&error, &["/nowhere/liver.mp4", "no such file"]);
}

#[test]
fn a_directory_is_no_recording() {
    let directory = tempdir().unwrap();
    let error = read(file(directory.path())).error();
    assert!(matches!(error, IngestError::NotAFile { .. }), "{error:?}");
}

#[test]
fn an_empty_file_is_no_recording() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("empty.mp4");
    fs::write(&path, b"").unwrap();
    let error = read(file(&path)).error();
    assert!(matches!(error, IngestError::Empty { .. }), "{error:?}");
    says(&error, &["empty.mp4", "copy it again"]);
}

#[test]
fn a_text_called_mp4_is_no_recording() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("notes.mp4");
    fs::write(
        &path,
        "Patient resting, fasted since midnight.\n".repeat(99),
    )
    .unwrap();
    let error = read(file(&path)).error();
    assert!(matches!(error, IngestError::NotMedia { .. }), "{error:?}");
    says(&error, &["notes.mp4", "is no video"]);
}

#[test]
fn noise_called_avi_is_no_recording() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("noise.avi");
    let noise = (0_u32..50_000).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8);
    fs::write(&path, noise.collect::<Vec<_>>()).unwrap();
    let error = read(file(&path)).error();
    assert!(matches!(error, IngestError::NotMedia { .. }), "{error:?}");
}

#[test]
fn a_recording_that_is_cut_short_is_refused_as_a_whole() {
    let directory = tempdir().unwrap();
    for (name, encode) in [
        ("a.mp4", MP4),
        ("front.mp4", FAST_START_MP4),
        ("a.mkv", MKV),
        ("a.avi", AVI),
    ] {
        let path = record(directory.path(), name, encode, 50);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() * 6 / 10]).unwrap();
        let story = read(file(&path));
        assert!(story.frames.is_empty(), "{name}");
        let error = story.error();
        assert!(
            matches!(error, IngestError::Truncated { expected, found, .. } if found < expected && expected <= bytes.len() as u64),
            "{name}: {error:?}"
        );
        says(&error, &[name, "cut short"]);
    }
}

#[test]
fn a_recording_of_sound_alone_has_no_video() {
    let directory = tempdir().unwrap();
    let wav = directory.path().join("a.wav");
    gst_run(&format!(
        "audiotestsrc num-buffers=20 ! wavenc ! filesink location={}",
        wav.display()
    ));
    let mkv = directory.path().join("a.mkv");
    gst_run(&format!(
        "audiotestsrc num-buffers=20 ! vorbisenc ! matroskamux ! filesink location={}",
        mkv.display()
    ));
    for path in [wav, mkv] {
        let error = read(file(&path)).error();
        assert!(matches!(error, IngestError::NoVideo { .. }), "{error:?}");
    }
    let error = read(launch("audiotestsrc num-buffers=20")).error();
    assert!(matches!(error, IngestError::NoVideo { .. }), "{error:?}");
}

#[test]
fn a_pipeline_that_never_produces_a_frame_is_given_up() {
    let request = SourceRequest {
        first_frame_timeout: Duration::from_millis(300),
        live: true,
        ..launch("appsrc caps=video/x-raw,format=GRAY8,width=8,height=8,framerate=1/1")
    };
    let error = read(request).error();
    assert!(
        matches!(error, IngestError::NeverStarted { .. }),
        "{error:?}"
    );
    says(&error, &["appsrc", "no frame came within 300ms"]);
}

#[test]
fn a_pipeline_that_ends_without_a_frame_says_so() {
    let error = read(launch("videotestsrc num-buffers=0")).error();
    assert!(matches!(error, IngestError::NoFrames { .. }), "{error:?}");
}

#[test]
fn a_recording_that_stalls_is_given_up_and_keeps_what_it_gave() {
    let request = SourceRequest {
        first_frame_timeout: Duration::from_secs(1),
        ..launch("videotestsrc is-live=true ! video/x-raw,framerate=1/30")
    };
    let story = read(request);
    assert_eq!(story.frames.len(), 1);
    let error = story.error();
    assert!(
        matches!(error, IngestError::Stalled { frames: 1, .. }),
        "{error:?}"
    );
}

#[test]
fn frames_before_an_error_are_kept() {
    let story = read(launch(
        "videotestsrc num-buffers=50 ! identity error-after=11",
    ));
    assert_eq!(story.indices(), (0..10).collect::<Vec<_>>());
    let error = story.error();
    assert!(matches!(error, IngestError::Element { .. }), "{error:?}");
    says(&error, &["identity"]);
}

#[test]
fn a_launch_line_that_is_none_says_what_is_wrong() {
    for (line, complaint) in [
        ("nosuchelement ! videoconvert", "nosuchelement"),
        ("videotestsrc ! fakesink", "fakesink"),
        ("videotestsrc !", ""),
        ("", ""),
    ] {
        let error = read(launch(line)).error();
        assert!(
            matches!(error, IngestError::BadLaunch { .. }),
            "{line}: {error:?}"
        );
        says(&error, &[complaint]);
    }
}

#[test]
fn a_password_in_a_launch_line_is_not_repeated() {
    let line = "rtspsrc location=rtsp://doctor:hunter2@127.0.0.1:9/liver ! fakesink";
    let text = read(launch(line)).error().to_string();
    assert!(
        !text.contains("hunter2") && text.contains("127.0.0.1"),
        "{text}"
    );
}

#[test]
fn a_crop_outside_the_picture_is_refused_and_its_frame_counted() {
    let crop = Crop {
        x: 300,
        y: 0,
        width: 100,
        height: 100,
    };
    let line = "videotestsrc num-buffers=5 ! video/x-raw,width=320,height=240";
    let story = read(SourceRequest {
        crop: Some(crop),
        ..launch(line)
    });
    assert!(story.header.is_none() && story.frames.is_empty());
    assert_eq!(story.metrics.dropped(DropReason::Unreadable).get(), 1);
    let error = story.error();
    says(&error, &["100x100", "(300, 0)", "320x240"]);
}

#[test]
fn a_recording_of_nobody_is_refused() {
    let directory = tempdir().unwrap();
    let path = record(directory.path(), "a.avi", AVI, 2);
    let request = SourceRequest {
        patient: None,
        ..file(&path)
    };
    let error = read(request).error();
    assert!(matches!(error, IngestError::NoPatient { .. }), "{error:?}");
    says(&error, &["a.avi", "`patient`"]);
}

#[test]
fn one_bad_source_leaves_the_others_alone() {
    let directory = tempdir().unwrap();
    let good = record(directory.path(), "good.avi", AVI, 20);
    let (bad_stream, _) = open(file("/nowhere/liver.mp4"));
    let story = read(file(&good));
    assert!(matches!(next(&bad_stream), Arrival::Ended(Err(_))));
    assert_eq!(story.frames.len(), 20);
    assert!(matches!(&file(&good).media, Media::File(path) if path == &good));
}
