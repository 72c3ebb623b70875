//! Every transfer syntax and photometric interpretation, against DCMTK's
//! encoders and decoders and GStreamer's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dicom_core::VR;
use dicom_core::value::PrimitiveValue;
use dicom_dictionary_std::{tags, uids};
use dicom_object::{InMemDicomObject, open_file};
use hepaflow::domain::{Crop, FrameSize};
use hepaflow::ingest::{DicomError, IngestError, SourceRequest};
use tempfile::tempdir;

use super::support::*;
use crate::recordings::{gst_run, pydicom};

const ROWS: usize = 29;
const COLUMNS: usize = 38;
const FRAMES: usize = 3;

/// Edges, slopes, flat parts and noise, so that every mode of a coder is met.
fn picture(samples: usize) -> Vec<u8> {
    let mut noise = 12_345_u32;
    let mut pixels = Vec::new();
    for frame in 0..FRAMES {
        for y in 0..ROWS {
            for x in 0..COLUMNS {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let value = match (x / 10 + y / 10 + frame) % 4 {
                    0 => 17,
                    1 => (3 * x + 2 * y) as u8,
                    2 => (noise >> 24) as u8,
                    _ => 200 + u8::from(noise >> 30 == 0),
                };
                pixels.extend((0..samples).map(|sample| value.wrapping_add((sample * 40) as u8)));
            }
        }
    }
    pixels
}

fn cine(photometric: &str) -> InMemDicomObject {
    let samples = if matches!(photometric, "MONOCHROME2" | "PALETTE COLOR") {
        1
    } else {
        3
    };
    let mut object = ultrasound();
    put(
        &mut object,
        tags::PHOTOMETRIC_INTERPRETATION,
        VR::CS,
        photometric,
    );
    put(
        &mut object,
        tags::NUMBER_OF_FRAMES,
        VR::IS,
        FRAMES.to_string(),
    );
    put(&mut object, tags::ROWS, VR::US, ROWS as u16);
    put(&mut object, tags::COLUMNS, VR::US, COLUMNS as u16);
    put(&mut object, tags::SAMPLES_PER_PIXEL, VR::US, samples as u16);
    if samples == 3 {
        put(&mut object, tags::PLANAR_CONFIGURATION, VR::US, 0_u16);
    }
    let mut pixels = picture(samples);
    pixels.resize(pixels.len().next_multiple_of(2), 0);
    put(
        &mut object,
        tags::PIXEL_DATA,
        VR::OB,
        PrimitiveValue::U8(pixels.into()),
    );
    object
}

/// The frames at their own size, whole.
fn frames(path: &Path, height: usize, width: usize) -> Vec<Vec<u8>> {
    let story = read(SourceRequest {
        size: FrameSize { height, width },
        crop: Some(Crop {
            x: 0,
            y: 0,
            width: width as u32,
            height: height as u32,
        }),
        ..file(path)
    });
    story.end.as_ref().unwrap();
    story
        .frames
        .iter()
        .map(|frame| frame.pixels.to_vec())
        .collect()
}

fn dcmtk(tool: &str, options: &str, from: &Path, to: &Path) {
    let output = Command::new(tool)
        .args(options.split_whitespace())
        .args([from, to])
        .output();
    let output = output.expect("Debian's dcmtk is needed");
    assert!(
        output.status.success(),
        "{tool} {options}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn written(directory: &Path, photometric: &str) -> PathBuf {
    let path = directory.join(format!("{}.dcm", photometric.replace(' ', "_")));
    write_dicom(cine(photometric), uids::EXPLICIT_VR_LITTLE_ENDIAN, &path);
    path
}

#[test]
fn lossless_packings_give_the_pixels_of_the_uncompressed_file() {
    let directory = tempdir().unwrap();
    let packed = directory.path().join("packed.dcm");
    for photometric in ["MONOCHROME2", "RGB"] {
        let plain = written(directory.path(), photometric);
        let expected = frames(&plain, ROWS, COLUMNS);
        assert_eq!(expected.len(), FRAMES);
        for (tool, options) in [
            ("dcmcrle", ""),
            ("dcmcrle", "-ot"),
            ("dcmcjpls", "+il"),
            ("dcmcjpls", "+is"),
            ("dcmcjpls", "+in"),
            ("dcmcjpls", "+il -ot +fs 1"),
            ("dcmcjpls", "+il +t1 5 +t2 9 +t3 40 +rs 31"),
        ] {
            dcmtk(tool, options, &plain, &packed);
            assert!(
                frames(&packed, ROWS, COLUMNS) == expected,
                "{photometric} {tool} {options}"
            );
        }
        // Lossy: against DCMTK's own decoder.
        for options in ["+en", "+en +md 7 +is", "+en +md 1 +in"] {
            dcmtk("dcmcjpls", options, &plain, &packed);
            let unpacked = directory.path().join("unpacked.dcm");
            dcmtk("dcmdjpls", "", &packed, &unpacked);
            let expected = frames(&unpacked, ROWS, COLUMNS);
            assert!(
                frames(&packed, ROWS, COLUMNS) == expected,
                "{photometric} {options}"
            );
        }
    }
}

#[test]
fn chroma_is_left_aside_in_ybr_full_of_every_packing() {
    let directory = tempdir().unwrap();
    let plain = written(directory.path(), "YBR_FULL");
    let luma: Vec<_> = picture(3).chunks(3).map(|pixel| pixel[0]).collect();
    let expected: Vec<_> = luma.chunks(ROWS * COLUMNS).map(<[u8]>::to_vec).collect();
    assert_eq!(frames(&plain, ROWS, COLUMNS), expected);
    let packed = directory.path().join("packed.dcm");
    dcmtk("dcmcrle", "", &plain, &packed);
    assert_eq!(frames(&packed, ROWS, COLUMNS), expected);
}

#[test]
fn palettes_are_looked_up_as_dcmtk_does_in_every_packing() {
    let directory = tempdir().unwrap();
    let path = pydicom("examples_palette.dcm");
    let object = open_file(&path).unwrap();
    let side = |tag| object.element(tag).unwrap().to_int::<usize>().unwrap();
    let (height, width) = (side(tags::ROWS), side(tags::COLUMNS));
    let found = frames(&path, height, width);
    let picture = directory.path().join("a.ppm");
    dcmtk("dcmj2pnm", "--write-raw-pnm", &path, &picture);
    let bytes = fs::read(&picture).unwrap();
    let rgb = &bytes[bytes.len() - height * width * 3..];
    let luma = rgb
        .chunks(3)
        .map(|p| 0.299 * f64::from(p[0]) + 0.587 * f64::from(p[1]) + 0.114 * f64::from(p[2]));
    assert!(found[0].iter().any(|&value| value > 100), "nothing to see");
    for (found, expected) in found[0].iter().zip(luma) {
        assert!(
            (f64::from(*found) - expected).abs() <= 1.5,
            "{found} {expected}"
        );
    }
    let packed = directory.path().join("packed.dcm");
    for tool in ["dcmcrle", "dcmcjpls"] {
        dcmtk(tool, "", &path, &packed);
        assert!(frames(&packed, height, width) == found, "{tool}");
    }
}

/// One image per frame in the codestream of `encode`.
fn codestreams(directory: &Path, format: &str, encode: &str) -> Vec<Vec<u8>> {
    let pattern = directory.join("%d.bin");
    gst_run(&format!(
        "videotestsrc num-buffers=3 ! video/x-raw,format={format},width=64,height=48,framerate=25/1 \
         ! {encode} ! multifilesink location={}",
        pattern.display()
    ));
    (0..3)
        .map(|index| fs::read(directory.join(format!("{index}.bin"))).unwrap())
        .collect()
}

#[test]
fn jpeg_2000_is_decoded_in_grey_in_colour_and_in_many_fragments() {
    let directory = tempdir().unwrap();
    for (format, photometric, samples) in [
        ("GRAY8", "MONOCHROME2", 1_u16),
        ("xRGB", "YBR_RCT", 3),
        ("xRGB", "YBR_ICT", 3),
        ("xRGB", "RGB", 3),
    ] {
        let images = codestreams(directory.path(), format, "openjpegenc ! image/x-jpc");
        // What went in, as luma.
        let raw = codestreams(
            directory.path(),
            format,
            "videoconvert ! video/x-raw,format=GRAY8",
        );
        let mut object = ultrasound();
        put(
            &mut object,
            tags::PHOTOMETRIC_INTERPRETATION,
            VR::CS,
            photometric,
        );
        put(&mut object, tags::SAMPLES_PER_PIXEL, VR::US, samples);
        put(&mut object, tags::NUMBER_OF_FRAMES, VR::IS, "3");
        put(&mut object, tags::ROWS, VR::US, 48_u16);
        put(&mut object, tags::COLUMNS, VR::US, 64_u16);
        let fragments = images
            .iter()
            .flat_map(|image| image.chunks(700).map(<[u8]>::to_vec));
        put_fragments(&mut object, Vec::new(), fragments.collect());
        let path = directory.path().join("a.dcm");
        write_dicom(object, uids::JPEG2000_LOSSLESS, &path);
        let found = frames(&path, 48, 64);
        assert_eq!(found.len(), 3, "{photometric}");
        for (found, raw) in found.iter().zip(&raw) {
            let sum: u32 = found
                .iter()
                .zip(raw)
                .map(|(a, b)| u32::from(a.abs_diff(*b)))
                .sum();
            let mean = f64::from(sum) / found.len() as f64;
            assert!(mean < 1.5, "{photometric}: {mean}");
        }
    }
    let path = pydicom("examples_jpeg2k.dcm");
    let found = frames(&path, 480, 640);
    assert!(found[0].iter().any(|&value| value > 100));
}

const X264: &str = "x264enc bframes=2 threads=1 ! h264parse";

#[test]
fn a_video_in_dicom_gives_what_the_video_gives_by_itself() {
    let directory = tempdir().unwrap();
    for (name, encode, syntax) in [
        (
            "mpeg2.ts",
            "mpeg2enc format=3 ! mpegvideoparse ! mpegtsmux",
            uids::MPEG2MPML,
        ),
        ("h264.ts", &format!("{X264} ! mpegtsmux"), uids::MPEG4HP41),
        ("h264.mp4", &format!("{X264} ! mp4mux"), uids::MPEG4HP41),
        (
            "h264.bin",
            &format!("{X264} ! video/x-h264,stream-format=byte-stream"),
            uids::MPEG4HP42STEREO,
        ),
        ("hevc.ts", "x265enc ! h265parse ! mpegtsmux", uids::HEVCMP51),
    ] {
        let path = crate::recordings::record(directory.path(), name, encode, 20);
        let expected = frames(&path, 240, 320);
        let bytes = fs::read(&path).unwrap();
        let mut object = ultrasound();
        put(
            &mut object,
            tags::PHOTOMETRIC_INTERPRETATION,
            VR::CS,
            "YBR_PARTIAL_420",
        );
        put(&mut object, tags::SAMPLES_PER_PIXEL, VR::US, 3_u16);
        // The bitstream wins over all of these.
        put(&mut object, tags::NUMBER_OF_FRAMES, VR::IS, "7");
        put(&mut object, tags::ROWS, VR::US, 480_u16);
        put(&mut object, tags::COLUMNS, VR::US, 640_u16);
        put(&mut object, tags::FRAME_TIME, VR::DS, "100");
        let fragments = bytes.chunks(bytes.len().div_ceil(3).next_multiple_of(2));
        put_fragments(
            &mut object,
            Vec::new(),
            fragments.map(<[u8]>::to_vec).collect(),
        );
        let wrapped = directory.path().join("a.dcm");
        write_dicom(object, syntax, &wrapped);
        let story = read(SourceRequest {
            patient: None,
            ..file(&wrapped)
        });
        story.end.as_ref().unwrap();
        assert_eq!(story.header().patient.expose(), "SECRET-ID");
        assert_eq!(story.frames.len(), expected.len(), "{name}");
        assert!(story.frames.len() >= 18, "{name}: {}", story.frames.len());
        if name != "h264.bin" {
            let times = story.times_ms();
            assert!(
                (times[5] - times[4] - 40.0).abs() < 1.5,
                "{name}: {times:?}"
            );
        }
        assert!(frames(&wrapped, 240, 320) == expected, "{name}");
    }
}

#[test]
fn a_frame_that_is_damaged_is_an_error_in_every_syntax() {
    let directory = tempdir().unwrap();
    let plain = written(directory.path(), "MONOCHROME2");
    for (tool, syntax) in [("dcmcrle", "RLE"), ("dcmcjpls", "JPEG-LS")] {
        let packed = directory.path().join("packed.dcm");
        dcmtk(tool, "", &plain, &packed);
        let mut bytes = fs::read(&packed).unwrap();
        // The head of the second frame: a count of segments, a marker.
        let heads: Vec<_> = bytes
            .windows(8)
            .enumerate()
            .filter(|(_, eight)| eight.starts_with(&[0xFE, 0xFF, 0x00, 0xE0]))
            .map(|(at, _)| at + 8)
            .collect();
        bytes[heads[2]] ^= 0x5A;
        fs::write(&packed, bytes).unwrap();
        let story = read(file(&packed));
        assert_eq!(story.frames.len(), 1, "{syntax}");
        let error = story.error();
        assert!(
            matches!(error, IngestError::Undecodable { .. }),
            "{error:?}"
        );
    }
}

#[test]
fn a_picture_of_absurd_size_is_refused_before_anything_is_allocated() {
    let directory = tempdir().unwrap();
    let mut object = cine("MONOCHROME2");
    put(&mut object, tags::ROWS, VR::US, 65_535_u16);
    put(&mut object, tags::COLUMNS, VR::US, 65_535_u16);
    let path = directory.path().join("a.dcm");
    write_dicom(object, uids::EXPLICIT_VR_LITTLE_ENDIAN, &path);
    let IngestError::Dicom { error, .. } = read(file(&path)).error() else {
        panic!("it was read")
    };
    assert!(
        matches!(*error, DicomError::TooLarge { rows: 65_535, .. }),
        "{error:?}"
    );
}
