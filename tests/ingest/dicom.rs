//! DICOM cines: real ones, ones written by dicom-rs, and hostile ones.

use crate::recordings::pydicom;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dicom_core::value::{DataSetSequence, PrimitiveValue};
use dicom_core::{DataElement, Length, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{InMemDicomObject, open_file};
use dicom_pixeldata::PixelDecoder;
use hepaflow::domain::{Crop, FrameSize, PatientId};
use hepaflow::ingest::{DicomError, IngestError, Look, SourceRequest};
use hepaflow::metrics::DropReason;
use tempfile::tempdir;

use super::support::*;

const CINE: &str = "examples_ybr_color.dcm";
const EXPLICIT: &str = uids::EXPLICIT_VR_LITTLE_ENDIAN;
const IMPLICIT: &str = uids::IMPLICIT_VR_LITTLE_ENDIAN;

/// A request that leaves the patient to the header.
fn anonymous(path: &Path, size: FrameSize) -> SourceRequest {
    SourceRequest {
        patient: None,
        size,
        ..file(path)
    }
}

const TINY: FrameSize = FrameSize {
    height: 4,
    width: 6,
};

/// Writes `object` uncompressed and reads it back at its own size of 4 x 6.
fn through_ingest(object: InMemDicomObject, transfer_syntax: &str) -> Story {
    let directory = tempdir().unwrap();
    let path = directory.path().join("a.dcm");
    write_dicom(object, transfer_syntax, &path);
    read(anonymous(&path, TINY))
}

#[track_caller]
fn dicom_error(story: Story) -> DicomError {
    match story.error() {
        error @ IngestError::Dicom { .. } => {
            let text = error.to_string();
            assert!(text.starts_with("source `bench`: "), "{text}");
            assert!(!text.contains("SECRET-ID"), "{text}");
            let IngestError::Dicom { error, .. } = error else {
                unreachable!()
            };
            (*error).clone()
        }
        other => panic!("{other:?}"),
    }
}

/// Luma by Rec. 601 of what another decoder makes of frame `index`.
fn reference(path: &Path, index: u32) -> Vec<u8> {
    let object = open_file(path).unwrap();
    let decoded = object.decode_pixel_data_frame(index).unwrap();
    let rgb = decoded.to_vec_frame::<u8>(0).unwrap();
    let luma =
        |p: &[u8]| 0.299 * f64::from(p[0]) + 0.587 * f64::from(p[1]) + 0.114 * f64::from(p[2]);
    rgb.chunks(3).map(|p| luma(p).round() as u8).collect()
}

/// Mean and largest difference.
fn difference(a: &[u8], b: &[u8]) -> (f64, u8) {
    assert_eq!(a.len(), b.len());
    let differences = || a.iter().zip(b).map(|(a, b)| a.abs_diff(*b));
    let sum: f64 = differences().map(f64::from).sum();
    (sum / a.len() as f64, differences().max().unwrap())
}

#[test]
fn a_real_ultrasound_cine_is_read_to_the_last_frame() {
    let path = pydicom(CINE);
    let whole = Crop {
        x: 0,
        y: 0,
        width: 320,
        height: 240,
    };
    let size = FrameSize {
        height: 240,
        width: 320,
    };
    let story = read(SourceRequest {
        crop: Some(whole),
        ..anonymous(&path, size)
    });
    story.end.as_ref().unwrap();
    assert_eq!(story.indices(), (0..30).collect::<Vec<_>>());
    for (index, time) in story.times_ms().iter().enumerate() {
        assert!(
            (time - index as f64 * 33.333).abs() < 1e-3,
            "{index}: {time}"
        );
    }
    let header = story.header();
    assert_eq!(header.picture, size);
    assert_eq!(header.frame_interval, Some(Duration::from_micros(33_333)));
    let object = open_file(&path).unwrap();
    let text = |tag| {
        object
            .element(tag)
            .unwrap()
            .to_str()
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!(header.patient.expose(), text(tags::PATIENT_ID));
    let study = header.study.as_ref().unwrap().expose();
    assert_eq!(study, text(tags::STUDY_INSTANCE_UID).trim_end_matches('\0'));
    for index in [0, 7, 29] {
        let frame = &story.frames[index as usize];
        let (mean, worst) = difference(&frame.pixels, &reference(&path, index));
        // Two JPEG decoders, and luma by way of RGB and back.
        assert!(mean < 0.6 && worst <= 12, "frame {index}: {mean} {worst}");
    }
}

#[test]
fn a_real_uncompressed_colour_image_is_read_as_its_luma() {
    let path = pydicom("examples_rgb_color.dcm");
    let object = open_file(&path).unwrap();
    let side = |tag| object.element(tag).unwrap().to_int::<usize>().unwrap();
    let size = FrameSize {
        height: side(tags::ROWS),
        width: side(tags::COLUMNS),
    };
    let crop = Crop {
        x: 0,
        y: 0,
        width: size.width as u32,
        height: size.height as u32,
    };
    let story = read(SourceRequest {
        crop: Some(crop),
        patient: Some(PatientId::new("P1")),
        ..anonymous(&path, size)
    });
    story.end.as_ref().unwrap();
    assert_eq!(story.frames.len(), 1);
    let (mean, worst) = difference(&story.frames[0].pixels, &reference(&path, 0));
    assert!(mean < 0.6 && worst <= 2, "{mean} {worst}");
}

/// The real cine, its JPEG images split over fragments.
fn split_cine(path: &Path, with_table: bool) {
    let object = open_file(pydicom(CINE)).unwrap();
    let frames = object
        .element(tags::PIXEL_DATA)
        .unwrap()
        .fragments()
        .unwrap();
    let frames = frames.to_vec();
    let mut offsets = Vec::new();
    let mut fragments = Vec::new();
    let mut at = 0;
    for frame in frames {
        offsets.push(at);
        let half = frame.len() / 4 * 2;
        for part in [&frame[..half], &frame[half..]] {
            at += part.len() as u32 + 8;
            fragments.push(part.to_vec());
        }
    }
    let mut object = object.into_inner();
    put_fragments(
        &mut object,
        if with_table { offsets } else { Vec::new() },
        fragments,
    );
    write_dicom(object, uids::JPEG_BASELINE8_BIT, path);
}

#[test]
fn frames_split_over_fragments_are_put_together_with_and_without_an_offset_table() {
    let directory = tempdir().unwrap();
    let whole = read(anonymous(&pydicom(CINE), SIZE));
    for with_table in [true, false] {
        let path = directory.path().join("split.dcm");
        split_cine(&path, with_table);
        let split = read(anonymous(&path, SIZE));
        split.end.as_ref().unwrap();
        assert_eq!(split.frames.len(), 30);
        for (a, b) in whole.frames.iter().zip(&split.frames) {
            assert_eq!(a.pixels, b.pixels, "frame {}", a.index);
            assert_eq!(a.time, b.time);
        }
    }
}

#[test]
fn a_jpeg_frame_that_cannot_be_decoded_is_an_error_and_not_a_silent_loss() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("broken.dcm");
    let object = open_file(pydicom(CINE)).unwrap();
    let fragments = object
        .element(tags::PIXEL_DATA)
        .unwrap()
        .fragments()
        .unwrap();
    let mut fragments = fragments.to_vec();
    // Only the start marker of the tenth image survives.
    fragments[9][2..].fill(0);
    let mut object = object.into_inner();
    put_fragments(&mut object, Vec::new(), fragments);
    write_dicom(object, uids::JPEG_BASELINE8_BIT, &path);
    let story = read(anonymous(&path, SIZE));
    assert_eq!(story.indices(), (0..9).collect::<Vec<_>>());
    let error = story.error();
    let IngestError::Undecodable { detail, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(detail, "frame 9: it is no JPEG image");
}

#[test]
fn grey_pixels_arrive_as_they_were_written() {
    let expected: Vec<u8> = (0..24).map(|value| value * 10).collect();
    for transfer_syntax in [EXPLICIT, IMPLICIT] {
        let story = through_ingest(ultrasound(), transfer_syntax);
        story.end.as_ref().unwrap();
        assert_eq!(&*story.frames[0].pixels, expected);
        let header = story.header();
        assert_eq!(header.patient.expose(), "SECRET-ID");
        assert_eq!(header.study.as_ref().unwrap().expose(), "2.25.2");
        assert_eq!(header.frame_interval, Some(Duration::from_millis(40)));
    }
}

#[test]
fn every_way_to_lay_out_colour_gives_the_same_luma() {
    let y = |at: usize| (at * 10) as u8;
    let (cb, cr) = (90, 170);
    let pixelwise: Vec<u8> = (0..24).flat_map(|at| [y(at), cb, cr]).collect();
    let planar: Vec<u8> = (0..24).map(y).chain([cb; 24]).chain([cr; 24]).collect();
    let pairs: Vec<u8> = (0..12)
        .flat_map(|p| [y(2 * p), y(2 * p + 1), cb, cr])
        .collect();
    let grey_rgb: Vec<u8> = (0..24).flat_map(|at| [y(at); 3]).collect();
    let planar_rgb: Vec<u8> = (0..72).map(|at| y(at % 24)).collect();
    let expected: Vec<u8> = (0..24).map(y).collect();
    for (photometric, planes, pixels) in [
        ("YBR_FULL", 0_u16, pixelwise),
        ("YBR_FULL", 1, planar),
        ("YBR_FULL_422", 0, pairs),
        ("RGB", 0, grey_rgb),
        ("RGB", 1, planar_rgb),
    ] {
        let mut object = ultrasound();
        put(
            &mut object,
            tags::PHOTOMETRIC_INTERPRETATION,
            VR::CS,
            photometric,
        );
        put(&mut object, tags::SAMPLES_PER_PIXEL, VR::US, 3_u16);
        put(&mut object, tags::PLANAR_CONFIGURATION, VR::US, planes);
        put(
            &mut object,
            tags::PIXEL_DATA,
            VR::OB,
            PrimitiveValue::U8(pixels.into()),
        );
        let story = through_ingest(object, EXPLICIT);
        story.end.as_ref().unwrap();
        let (_, worst) = difference(&story.frames[0].pixels, &expected);
        // YBR is taken as it is; RGB is converted.
        let allowed = u8::from(photometric == "RGB");
        assert!(worst <= allowed, "{photometric} {planes}: {worst}");
    }
}

/// Two frames more than in [`ultrasound`].
fn three_frames() -> InMemDicomObject {
    let mut object = ultrasound();
    put(&mut object, tags::NUMBER_OF_FRAMES, VR::IS, "3");
    let pixels: Vec<u8> = (0..72).collect();
    put(
        &mut object,
        tags::PIXEL_DATA,
        VR::OB,
        PrimitiveValue::U8(pixels.into()),
    );
    object.remove_element(tags::FRAME_TIME);
    object
}

type Write<'a> = &'a dyn Fn(&mut InMemDicomObject);

#[test]
fn times_follow_the_header_wherever_it_keeps_them() {
    let vector = |object: &mut InMemDicomObject, value: &str| {
        let value = PrimitiveValue::Strs(value.split('\\').map(str::to_owned).collect());
        put(object, tags::FRAME_TIME_VECTOR, VR::DS, value);
    };
    let cases: [(&str, Write<'_>, [f64; 3], Option<u64>); 6] = [
        (
            "a frame time",
            &|object| put(object, tags::FRAME_TIME, VR::DS, "20.5"),
            [0.0, 20.5, 41.0],
            Some(20_500),
        ),
        (
            "a vector that is pointed to wins over a frame time",
            &|object| {
                put(object, tags::FRAME_TIME, VR::DS, "20.5");
                vector(object, "0\\10\\30");
                let pointer = PrimitiveValue::Tags([tags::FRAME_TIME_VECTOR].as_slice().into());
                put(object, tags::FRAME_INCREMENT_POINTER, VR::AT, pointer);
            },
            [0.0, 10.0, 40.0],
            None,
        ),
        (
            "an even vector is an interval",
            &|object| vector(object, "0\\25\\25"),
            [0.0, 25.0, 50.0],
            Some(25_000),
        ),
        (
            "a cine rate",
            &|object| put(object, tags::CINE_RATE, VR::IS, "50"),
            [0.0, 20.0, 40.0],
            Some(20_000),
        ),
        (
            "a display rate",
            &|object| put(object, tags::RECOMMENDED_DISPLAY_FRAME_RATE, VR::IS, "10"),
            [0.0, 100.0, 200.0],
            Some(100_000),
        ),
        (
            "nothing usable",
            &|object| {
                put(object, tags::FRAME_TIME, VR::DS, "0");
                vector(object, "0\\1");
            },
            [0.0, 0.0, 0.0],
            None,
        ),
    ];
    for (what, write, expected, interval) in cases {
        let mut object = three_frames();
        write(&mut object);
        let story = through_ingest(object, EXPLICIT);
        story.end.as_ref().unwrap();
        for (got, expected) in story.times_ms().iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{what}: {got} {expected}");
        }
        assert_eq!(
            story.header().frame_interval,
            interval.map(Duration::from_micros),
            "{what}"
        );
    }
}

#[test]
fn a_cine_without_times_takes_those_it_is_given_and_another_keeps_its_own() {
    for (frame_time, step) in [(None, 50.0), (Some("20.5"), 20.5)] {
        let directory = tempdir().unwrap();
        let path = directory.path().join("a.dcm");
        let mut object = three_frames();
        if let Some(time) = frame_time {
            put(&mut object, tags::FRAME_TIME, VR::DS, time);
        }
        write_dicom(object, EXPLICIT, &path);
        let story = read(SourceRequest {
            frame_interval: Some(Duration::from_millis(50)),
            ..anonymous(&path, TINY)
        });
        story.end.as_ref().unwrap();
        let times = story.times_ms();
        for (got, place) in times.iter().zip(0..) {
            assert!((got - step * f64::from(place)).abs() < 1e-6, "{times:?}");
        }
        let interval = story.header().frame_interval.unwrap();
        assert!((interval.as_secs_f64() * 1e3 - step).abs() < 1e-6);
    }
}

fn region(spatial_format: u16, data_type: u16, bounds: [u32; 4]) -> InMemDicomObject {
    let mut region = InMemDicomObject::new_empty();
    put(
        &mut region,
        tags::REGION_SPATIAL_FORMAT,
        VR::US,
        spatial_format,
    );
    put(&mut region, tags::REGION_DATA_TYPE, VR::US, data_type);
    for (tag, bound) in [
        tags::REGION_LOCATION_MIN_X0,
        tags::REGION_LOCATION_MIN_Y0,
        tags::REGION_LOCATION_MAX_X1,
        tags::REGION_LOCATION_MAX_Y1,
    ]
    .into_iter()
    .zip(bounds)
    {
        put(&mut region, tag, VR::UL, bound);
    }
    region
}

fn put_regions(object: &mut InMemDicomObject, regions: Vec<InMemDicomObject>) {
    object.put(DataElement::new(
        tags::SEQUENCE_OF_ULTRASOUND_REGIONS,
        VR::SQ,
        DataSetSequence::new(regions, Length::UNDEFINED),
    ));
}

#[test]
fn the_2d_tissue_region_is_the_crop_wherever_it_stands_in_the_header() {
    let mut object = ultrasound();
    let regions = vec![
        region(2, 1, [0, 0, 5, 3]),
        region(1, 2, [0, 0, 5, 3]),
        region(1, 1, [1, 1, 4, 4]),
        // Drawn for a larger picture.
        region(1, 1, [0, 1, 40, 9]),
        region(1, 1, [1, 1, 1, 1]),
    ];
    put_regions(&mut object, regions);
    for transfer_syntax in [EXPLICIT, IMPLICIT] {
        let story = through_ingest(object.clone(), transfer_syntax);
        let crop = Crop {
            x: 1,
            y: 1,
            width: 4,
            height: 3,
        };
        assert_eq!(story.header().crop, crop);
    }
    let directory = tempdir().unwrap();
    let path = directory.path().join("a.dcm");
    write_dicom(object, EXPLICIT, &path);
    let mine = Crop {
        x: 0,
        y: 0,
        width: 2,
        height: 2,
    };
    let story = read(SourceRequest {
        crop: Some(mine),
        ..anonymous(&path, TINY)
    });
    assert_eq!(story.header().crop, mine, "the operator's crop wins");
}

#[test]
fn two_tissue_regions_side_by_side_are_a_dual_screen_unless_the_operator_chose() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("a.dcm");
    let gated = |regions: Vec<[u32; 4]>, crop: Option<Crop>| {
        let mut object = ultrasound();
        let regions = regions.into_iter().map(|bounds| region(1, 1, bounds));
        put_regions(&mut object, regions.collect());
        write_dicom(object, EXPLICIT, &path);
        let look = Look {
            find: false,
            gate: true,
        };
        let story = read(SourceRequest {
            look,
            crop,
            ..anonymous(&path, TINY)
        });
        story.metrics.dropped(DropReason::DualScreen).get()
    };
    let (left, right) = ([0, 0, 2, 3], [3, 0, 5, 3]);
    assert_eq!(gated(vec![left, right], None), 1);
    let operators = Crop {
        x: 0,
        y: 0,
        width: 3,
        height: 4,
    };
    assert_eq!(gated(vec![left, right], Some(operators)), 0);
    // One alone, one above the other, one within the other, and an inset.
    for regions in [
        vec![left],
        vec![[0, 0, 5, 1], [0, 2, 5, 3]],
        vec![[0, 0, 5, 3], right],
        vec![[0, 0, 4, 3], [5, 0, 5, 0]],
    ] {
        assert_eq!(gated(regions.clone(), None), 0, "{regions:?}");
    }
}

#[test]
fn a_patient_in_the_request_wins_and_none_at_all_is_an_error() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("a.dcm");
    write_dicom(ultrasound(), EXPLICIT, &path);
    let story = read(SourceRequest {
        size: TINY,
        ..file(&path)
    });
    assert_eq!(story.header().patient.expose(), "P1");
    for nobody in ["", "  "] {
        let mut object = ultrasound();
        put(&mut object, tags::PATIENT_ID, VR::LO, nobody);
        let error = through_ingest(object, EXPLICIT).error();
        assert!(matches!(error, IngestError::NoPatient { .. }), "{error:?}");
    }
}

#[test]
fn an_object_without_pixels_is_no_cine() {
    let mut object = ultrasound();
    object.remove_element(tags::PIXEL_DATA);
    let error = dicom_error(through_ingest(object, EXPLICIT));
    assert!(matches!(error, DicomError::NoPixelData), "{error:?}");
}

#[test]
fn a_picture_without_rows_is_refused() {
    let mut object = ultrasound();
    put(&mut object, tags::ROWS, VR::US, 0_u16);
    let error = dicom_error(through_ingest(object, EXPLICIT));
    assert!(
        matches!(
            error,
            DicomError::NoArea {
                rows: 0,
                columns: 6
            }
        ),
        "{error:?}"
    );
}

#[test]
fn a_frame_count_that_the_pixels_do_not_bear_out_is_refused() {
    for (claim, claimed) in [("2", 2), ("2147483647", 2_147_483_647)] {
        let mut object = ultrasound();
        put(&mut object, tags::NUMBER_OF_FRAMES, VR::IS, claim);
        let error = dicom_error(through_ingest(object, EXPLICIT));
        let expected =
            matches!(error, DicomError::FrameCount { claimed: c, found: 1 } if c == claimed);
        assert!(expected, "{error:?}");
    }
    for claim in ["0", "-3", "many"] {
        let mut object = ultrasound();
        put(&mut object, tags::NUMBER_OF_FRAMES, VR::IS, claim);
        let error = dicom_error(through_ingest(object, EXPLICIT));
        assert!(matches!(error, DicomError::Lacks(_)), "{claim}: {error:?}");
    }
    let mut object = open_file(pydicom(CINE)).unwrap().into_inner();
    put(&mut object, tags::NUMBER_OF_FRAMES, VR::IS, "31");
    let error = dicom_error(through_ingest(object, uids::JPEG_BASELINE8_BIT));
    assert!(
        matches!(
            error,
            DicomError::FrameCount {
                claimed: 31,
                found: 30
            }
        ),
        "{error:?}"
    );
}

#[test]
fn codings_that_are_not_supported_are_named() {
    let error = dicom_error(through_ingest(
        ultrasound(),
        uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    ));
    assert!(
        matches!(&error, DicomError::TransferSyntax(uid) if uid == "1.2.840.10008.1.2.1.99"),
        "{error:?}"
    );
    let mut object = ultrasound();
    put(
        &mut object,
        tags::PHOTOMETRIC_INTERPRETATION,
        VR::CS,
        "PALETTE COLOR",
    );
    let error = dicom_error(through_ingest(object, EXPLICIT));
    assert!(matches!(error, DicomError::Palette), "{error:?}");
    let mut object = ultrasound();
    put(
        &mut object,
        tags::PHOTOMETRIC_INTERPRETATION,
        VR::CS,
        "MONOCHROME1",
    );
    let error = dicom_error(through_ingest(object, EXPLICIT));
    assert!(error.to_string().contains("MONOCHROME1"), "{error}");
    let mut object = ultrasound();
    put(&mut object, tags::BITS_ALLOCATED, VR::US, 16_u16);
    let error = dicom_error(through_ingest(object, EXPLICIT));
    assert!(
        matches!(error, DicomError::BitDepth { allocated: 16, .. }),
        "{error:?}"
    );
}

#[test]
fn a_dicom_file_cut_anywhere_is_an_error_and_never_a_crash() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("a.dcm");
    let mut object = ultrasound();
    put_regions(&mut object, vec![region(1, 1, [0, 0, 5, 3])]);
    write_dicom(object, EXPLICIT, &path);
    let bytes = fs::read(&path).unwrap();
    for length in (1..bytes.len()).step_by(7) {
        fs::write(&path, &bytes[..length]).unwrap();
        let story = read(anonymous(&path, TINY));
        assert!(story.end.is_err(), "cut to {length} of {}", bytes.len());
    }
}

/// A DICOM file of `depth` sequences, each in an item of the one before.
fn nested(path: PathBuf, depth: usize, transfer_syntax: &str) -> PathBuf {
    let mut bytes = vec![0; 128];
    bytes.extend(b"DICM");
    bytes.extend([2, 0, 0x10, 0]);
    bytes.extend(b"UI");
    let padded = format!(
        "{transfer_syntax:\0<width$}",
        width = transfer_syntax.len().next_multiple_of(2)
    );
    bytes.extend((padded.len() as u16).to_le_bytes());
    bytes.extend(padded.as_bytes());
    for _ in 0..depth {
        bytes.extend([0x18, 0, 0x11, 0x60]);
        if transfer_syntax == EXPLICIT {
            bytes.extend(b"SQ\0\0");
        }
        bytes.extend([0xFF; 4]);
        bytes.extend([0xFE, 0xFF, 0, 0xE0, 0xFF, 0xFF, 0xFF, 0xFF]);
    }
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn sequences_nested_to_the_depth_of_a_stack_overflow_are_refused() {
    let directory = tempdir().unwrap();
    for transfer_syntax in [EXPLICIT, IMPLICIT] {
        let path = nested(directory.path().join("deep.dcm"), 100_000, transfer_syntax);
        let error = dicom_error(read(file(path)));
        assert!(matches!(error, DicomError::TooDeep { .. }), "{error:?}");
    }
}

#[test]
fn a_launch_line_may_name_the_dicom_element() {
    let cine = pydicom(CINE);
    let story = read(launch(&format!("dicomsrc location={}", cine.display())));
    story.end.as_ref().unwrap();
    assert_eq!(story.frames.len(), 30);
    let error = read(launch("dicomsrc location=/nowhere/a.dcm")).error();
    assert!(error.to_string().contains("No such file"), "{error}");
}
