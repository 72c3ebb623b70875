//! A recording as a DICOM cine: Ultrasound Multi-frame Image (PS3.3 A.7), JPEG
//! Baseline, one fragment per frame (PS3.5 A.4).
//!
//! Unique identifiers are derived from seed, patient and clip (PS3.5 B.2, the
//! `2.25` root) and dates are fixed, so that the same recording gives the same
//! bytes. The object says that it was derived by a simulator.

use std::path::Path;

use dicom_core::{DataElement, PrimitiveValue, Tag, VR, value::PixelFragmentSequence};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use sha2::{Digest, Sha256};

use super::{Error, format};
use crate::study::phantom::Recording;
use crate::study::video::Encoder;

/// Paints, encodes and writes `recording`.
pub(super) fn write(recording: &Recording, path: &Path, painted: &dyn Fn()) -> Result<(), Error> {
    let mut encoder = Encoder::to_jpeg(format(recording), path)?;
    let mut painter = recording.painter();
    let mut fragments = Vec::with_capacity(recording.scan().frames);
    for frame in 0..recording.scan().frames {
        let mut jpeg = encoder.encode(painter.paint(frame))?;
        if jpeg.len() % 2 == 1 {
            jpeg.push(0);
        }
        fragments.push(jpeg);
        painted();
    }
    encoder.finish()?;

    let fail = |message: String| Error::Dicom {
        path: path.to_owned(),
        message,
    };
    let instance = uid(recording, "instance");
    let mut object = attributes(recording, &instance);
    object.put(DataElement::new(
        tags::PIXEL_DATA,
        VR::OB,
        PixelFragmentSequence::new(offsets(&fragments), fragments),
    ));
    let meta = FileMetaTableBuilder::new()
        .transfer_syntax(uids::JPEG_BASELINE8_BIT)
        .media_storage_sop_class_uid(uids::ULTRASOUND_MULTI_FRAME_IMAGE_STORAGE)
        .media_storage_sop_instance_uid(instance);
    let file = object
        .with_meta(meta)
        .map_err(|error| fail(error.to_string()))?;
    file.write_to_file(path)
        .map_err(|error| fail(error.to_string()))
}

/// The basic offset table: where each frame's item begins, counted from the
/// first (PS3.5 A.4). Empty when a cine outgrows its 32 bits, as the standard
/// allows.
fn offsets(fragments: &[Vec<u8>]) -> Vec<u32> {
    let mut at = 0_u32;
    let mut offsets = Vec::with_capacity(fragments.len());
    for fragment in fragments {
        offsets.push(at);
        let item = u32::try_from(fragment.len()).ok().map(|length| length + 8);
        match item.and_then(|item| at.checked_add(item)) {
            Some(next) => at = next,
            None => return Vec::new(),
        }
    }
    offsets
}

/// `2.25.` and 128 bits of a digest over what the identifier stands for.
fn uid(recording: &Recording, what: &str) -> String {
    let spec = recording.spec();
    let clip = match what {
        "study" | "series" => String::new(),
        _ => format!("{} {:?}", spec.clip, spec.ablation),
    };
    let name = format!(
        "hepaflow phantom {} {} {clip} {what}",
        spec.seed, spec.patient
    );
    let digest = Sha256::digest(name.as_bytes());
    let number = digest[..16]
        .iter()
        .fold(0_u128, |n, &b| n << 8 | u128::from(b));
    format!("2.25.{number}")
}

/// Everything but the pixels.
fn attributes(recording: &Recording, instance: &str) -> InMemDicomObject {
    let (patient, scan) = (recording.patient(), recording.scan());
    let mut object = InMemDicomObject::new_empty();
    let mut text = |tag: Tag, vr: VR, value: &str| {
        object.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
    };
    text(tags::IMAGE_TYPE, VR::CS, "DERIVED\\PRIMARY");
    text(
        tags::SOP_CLASS_UID,
        VR::UI,
        uids::ULTRASOUND_MULTI_FRAME_IMAGE_STORAGE,
    );
    text(tags::SOP_INSTANCE_UID, VR::UI, instance);
    text(tags::STUDY_DATE, VR::DA, "20000101");
    text(tags::STUDY_TIME, VR::TM, "000000");
    text(tags::ACCESSION_NUMBER, VR::SH, "");
    text(tags::MODALITY, VR::CS, "US");
    text(tags::MANUFACTURER, VR::LO, "hepaflow phantom (SYNTHETIC)");
    text(
        tags::MANUFACTURER_MODEL_NAME,
        VR::LO,
        env!("CARGO_PKG_VERSION"),
    );
    text(tags::REFERRING_PHYSICIAN_NAME, VR::PN, "");
    text(
        tags::DERIVATION_DESCRIPTION,
        VR::ST,
        "Simulated; shows no person.",
    );
    text(
        tags::PATIENT_NAME,
        VR::PN,
        &format!("SYNTHETIC^{}", patient.id()),
    );
    text(tags::PATIENT_ID, VR::LO, &patient.id());
    text(tags::PATIENT_BIRTH_DATE, VR::DA, "");
    text(tags::PATIENT_SEX, VR::CS, patient.sex.letter());
    text(
        tags::PATIENT_AGE,
        VR::AS,
        &format!("{:03.0}Y", patient.age_years),
    );
    text(tags::STUDY_INSTANCE_UID, VR::UI, &uid(recording, "study"));
    text(tags::SERIES_INSTANCE_UID, VR::UI, &uid(recording, "series"));
    text(tags::STUDY_ID, VR::SH, "1");
    text(tags::SERIES_NUMBER, VR::IS, "1");
    text(
        tags::INSTANCE_NUMBER,
        VR::IS,
        &(recording.spec().clip + 1).to_string(),
    );
    text(tags::BODY_PART_EXAMINED, VR::CS, "LIVER");
    text(tags::PATIENT_ORIENTATION, VR::CS, "");
    text(tags::PATIENT_IDENTITY_REMOVED, VR::CS, "YES");
    text(
        tags::DEIDENTIFICATION_METHOD,
        VR::LO,
        "never identified: synthetic",
    );
    text(tags::BURNED_IN_ANNOTATION, VR::CS, "YES");
    text(tags::LOSSY_IMAGE_COMPRESSION, VR::CS, "01");
    text(tags::NUMBER_OF_FRAMES, VR::IS, &scan.frames.to_string());
    text(
        tags::FRAME_TIME,
        VR::DS,
        &format!("{:.6}", 1000.0 / f64::from(scan.frames_per_second)),
    );
    text(tags::CINE_RATE, VR::IS, &scan.frames_per_second.to_string());
    let photometric = if recording.is_colour() {
        "YBR_FULL_422"
    } else {
        "MONOCHROME2"
    };
    text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, photometric);

    let mut number = |tag: Tag, value: u16| {
        object.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
    };
    if recording.is_colour() {
        number(tags::SAMPLES_PER_PIXEL, 3);
        number(tags::PLANAR_CONFIGURATION, 0);
    } else {
        number(tags::SAMPLES_PER_PIXEL, 1);
    }
    number(tags::ROWS, scan.size.height as u16);
    number(tags::COLUMNS, scan.size.width as u16);
    number(tags::BITS_ALLOCATED, 8);
    number(tags::BITS_STORED, 8);
    number(tags::HIGH_BIT, 7);
    number(tags::PIXEL_REPRESENTATION, 0);
    object.put(DataElement::new(
        tags::FRAME_INCREMENT_POINTER,
        VR::AT,
        PrimitiveValue::Tags([tags::FRAME_TIME].as_slice().into()),
    ));
    object.put(DataElement::new(
        tags::SEQUENCE_OF_ULTRASOUND_REGIONS,
        VR::SQ,
        dicom_core::value::DataSetSequence::from(vec![region(recording)]),
    ));
    object
}

/// The 2D tissue region (PS3.3 C.8.5.5.1): its bounds and the size of a pixel.
fn region(recording: &Recording) -> InMemDicomObject {
    let place = recording.placement();
    let bounds = place.bounds;
    let mut region = InMemDicomObject::new_empty();
    let mut put = |tag: Tag, vr: VR, value: PrimitiveValue| {
        region.put(DataElement::new(tag, vr, value));
    };
    let us = |value: u16| PrimitiveValue::from(value);
    let ul = |value: u32| PrimitiveValue::from(value);
    put(tags::REGION_SPATIAL_FORMAT, VR::US, us(1)); // 2D
    put(tags::REGION_DATA_TYPE, VR::US, us(1)); // tissue
    put(tags::REGION_FLAGS, VR::UL, ul(0));
    put(tags::REGION_LOCATION_MIN_X0, VR::UL, ul(bounds.x));
    put(tags::REGION_LOCATION_MIN_Y0, VR::UL, ul(bounds.y));
    put(
        tags::REGION_LOCATION_MAX_X1,
        VR::UL,
        ul(bounds.x + bounds.width - 1),
    );
    put(
        tags::REGION_LOCATION_MAX_Y1,
        VR::UL,
        ul(bounds.y + bounds.height - 1),
    );
    put(tags::PHYSICAL_UNITS_X_DIRECTION, VR::US, us(3)); // cm
    put(tags::PHYSICAL_UNITS_Y_DIRECTION, VR::US, us(3));
    let cm = f64::from(place.mm_per_pixel) / 10.0;
    put(tags::PHYSICAL_DELTA_X, VR::FD, PrimitiveValue::from(cm));
    put(tags::PHYSICAL_DELTA_Y, VR::FD, PrimitiveValue::from(cm));
    let khz = recording.scan().probe.frequency_mhz * 1000.0;
    put(tags::TRANSDUCER_FREQUENCY, VR::UL, ul(khz as u32));
    region
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_by_their_offsets() {
        // Each item has a tag and a length, 8 bytes, before its content.
        let fragments = [vec![0; 10], vec![0; 4], vec![0; 6]];
        assert_eq!(offsets(&fragments), [0, 18, 30]);
    }
}
