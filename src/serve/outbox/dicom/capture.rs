//! A key frame: a picture of where the network looked, as a Secondary Capture
//! Image (PS3.3 section A.8.1) that names the frame it was painted on.

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::InMemDicomObject;

use super::header::Filed;
use super::item::{Code, code, empty, sequence, sop, text};
use crate::domain::Instance;
use crate::study::Picture;

pub(super) const CLASS: &str = uids::SECONDARY_CAPTURE_IMAGE_STORAGE;

/// The data set of `picture`, which was painted on frame `frame`, counted from 1,
/// of `source`.
pub(super) fn object(
    filed: &Filed<'_>,
    source: &Instance,
    frame: u64,
    picture: Picture,
    description: &str,
) -> InMemDicomObject {
    let mut object = filed.beside(source);
    let short =
        |tag, value: usize| DataElement::new(tag, VR::US, PrimitiveValue::from(value as u16));
    let is_cine = source.frames > 1;
    let frame = frame.to_string();
    let mut origin = sop(
        &source.class,
        &source.uid,
        is_cine.then_some(frame.as_str()),
    );
    let purpose = Code(
        "121322",
        "DCM",
        "Source image for image processing operation",
    );
    origin.put(sequence(
        tags::PURPOSE_OF_REFERENCE_CODE_SEQUENCE,
        vec![code(purpose)],
    ));
    let elements = [
        text(tags::IMAGE_TYPE, VR::CS, "DERIVED\\SECONDARY"),
        // Drawn by a workstation, PS3.3 section C.8.6.1.
        text(tags::CONVERSION_TYPE, VR::CS, "WSD"),
        text(tags::DERIVATION_DESCRIPTION, VR::ST, description),
        sequence(tags::SOURCE_IMAGE_SEQUENCE, vec![origin]),
        empty(tags::PATIENT_ORIENTATION, VR::CS),
        // A liver has no other side; validators want it said.
        empty(tags::LATERALITY, VR::CS),
        // What the scanner wrote into its picture is still in this one.
        text(tags::BURNED_IN_ANNOTATION, VR::CS, "YES"),
        short(tags::SAMPLES_PER_PIXEL, 3),
        text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "RGB"),
        short(tags::PLANAR_CONFIGURATION, 0),
        short(tags::ROWS, picture.height),
        short(tags::COLUMNS, picture.width),
        short(tags::BITS_ALLOCATED, 8),
        short(tags::BITS_STORED, 8),
        short(tags::HIGH_BIT, 7),
        short(tags::PIXEL_REPRESENTATION, 0),
        // Rows and columns are even, and so is their product.
        DataElement::new(
            tags::PIXEL_DATA,
            VR::OB,
            PrimitiveValue::U8(picture.pixels.into()),
        ),
    ];
    for element in elements {
        object.put(element);
    }
    object
}
