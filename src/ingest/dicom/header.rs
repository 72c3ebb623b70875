//! The header of a cine, element by element, with the section of the standard
//! that gives each its meaning. Parsing is dicom-rs's; its input has been
//! walked by [`super::layout`] before.

use std::path::Path;
use std::time::Duration;

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::{InMemDicomObject, OpenFileOptions};

use super::palette::Palette;
use super::{DicomError, Facts, Region, Timing};
use crate::domain::{Crop, Instance, PatientId, StudyUid};

/// Pixels of the largest picture: 8192 x 8192, several times what any scanner
/// gives, and little enough that a hostile size does no harm.
const LARGEST_AREA: u64 = 1 << 26;

/// The Image Pixel module, PS3.3 section C.7.6.3, and Number of Frames.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) rows: u16,
    pub(super) columns: u16,
    pub(super) samples: u16,
    pub(super) bits_allocated: u16,
    pub(super) bits_stored: u16,
    pub(super) photometric: String,
    /// Colour planes one after the other instead of pixel by pixel.
    pub(super) planar: bool,
    pub(super) frames: u64,
    /// What the samples stand for, where they are indices.
    pub(super) palette: Option<Palette>,
}

pub(super) struct Header {
    pub(super) facts: Facts,
    pub(super) timing: Timing,
    pub(super) image: Image,
}

/// Reads everything before the pixel data.
pub(super) fn read(path: &Path) -> Result<Header, DicomError> {
    let object = OpenFileOptions::new()
        .read_until(tags::PIXEL_DATA)
        .open_file(path)
        // The parser's own words may quote a value; ours must not.
        .map_err(|_| DicomError::Header)?;
    let image = image(&object)?;
    let timing = timing(&object, image.frames);
    let regions = tissue(&object, &image);
    let facts = Facts {
        // PS3.3 sections C.7.1.1 and C.7.2.1.
        patient: text(&object, tags::PATIENT_ID).map(PatientId::new),
        study: text(&object, tags::STUDY_INSTANCE_UID).map(StudyUid::new),
        instance: instance(path, &object, image.frames),
        frame_interval: timing.interval(),
        is_dual_screen: is_dual_screen(&regions),
        // The largest: their order in the sequence means nothing.
        tissue: regions.into_iter().max_by_key(|region| area(&region.crop)),
    };
    Ok(Header {
        facts,
        timing,
        image,
    })
}

/// What reports repeat of the Patient module (PS3.3 section C.7.1.1) and of the
/// General Study module (C.7.2.1), where it is there.
const REPEATED: [Tag; 12] = [
    tags::STUDY_DATE,
    tags::STUDY_TIME,
    tags::ACCESSION_NUMBER,
    tags::REFERRING_PHYSICIAN_NAME,
    tags::STUDY_DESCRIPTION,
    tags::PATIENT_NAME,
    tags::PATIENT_ID,
    tags::ISSUER_OF_PATIENT_ID,
    tags::PATIENT_BIRTH_DATE,
    tags::PATIENT_SEX,
    tags::PATIENT_AGE,
    tags::STUDY_ID,
];

/// The instance as a report refers to it; nothing if it lacks an identifier, so
/// that nobody could find it again.
fn instance(path: &Path, object: &InMemDicomObject, frames: u64) -> Option<Instance> {
    let value = |tag: Tag| Some((tag.group(), tag.element(), text(object, tag)?));
    Some(Instance {
        class: text(object, tags::SOP_CLASS_UID)?,
        uid: text(object, tags::SOP_INSTANCE_UID)?,
        series: text(object, tags::SERIES_INSTANCE_UID)?,
        study: text(object, tags::STUDY_INSTANCE_UID).map(StudyUid::new)?,
        frames,
        // Reports are written later, and maybe from another folder.
        file: std::path::absolute(path).ok()?,
        repeated: REPEATED.into_iter().filter_map(value).collect(),
    })
}

fn image(object: &InMemDicomObject) -> Result<Image, DicomError> {
    let required = |tag, name| integer(object, tag).ok_or(DicomError::Lacks(name));
    let rows = required(tags::ROWS, "Rows (0028,0010)")?;
    let columns = required(tags::COLUMNS, "Columns (0028,0011)")?;
    if rows == 0 || columns == 0 {
        return Err(DicomError::NoArea { rows, columns });
    }
    if u64::from(rows) * u64::from(columns) > LARGEST_AREA {
        return Err(DicomError::TooLarge {
            rows,
            columns,
            limit: LARGEST_AREA,
        });
    }
    let photometric = text(object, tags::PHOTOMETRIC_INTERPRETATION)
        .ok_or(DicomError::Lacks("Photometric Interpretation (0028,0004)"))?;
    let palette = if photometric == "PALETTE COLOR" {
        Some(Palette::read(object).ok_or(DicomError::Palette)?)
    } else {
        None
    };
    let bits_allocated = required(tags::BITS_ALLOCATED, "Bits Allocated (0028,0100)")?;
    let claimed: i64 = match object.get(tags::NUMBER_OF_FRAMES) {
        // PS3.3 section C.7.6.6 does not apply to single images.
        None => 1,
        Some(element) => element
            .to_int()
            .map_err(|_| DicomError::Lacks("Number of Frames (0028,0008)"))?,
    };
    let frames = u64::try_from(claimed).unwrap_or(0);
    if frames == 0 {
        return Err(DicomError::Lacks("Number of Frames (0028,0008)"));
    }
    Ok(Image {
        rows,
        columns,
        samples: required(tags::SAMPLES_PER_PIXEL, "Samples per Pixel (0028,0002)")?,
        bits_allocated,
        bits_stored: integer(object, tags::BITS_STORED).unwrap_or(bits_allocated),
        photometric,
        planar: integer::<u16>(object, tags::PLANAR_CONFIGURATION) == Some(1),
        frames,
        palette,
    })
}

/// PS3.3 section C.7.6.6.1.1: the Frame Increment Pointer names the attribute
/// that holds the time. Scanners leave it out, so the Cine module (C.7.6.5) is
/// asked next, then the rate at which the cine is meant to be shown (C.12.1).
fn timing(object: &InMemDicomObject, frames: u64) -> Timing {
    let pointer = object
        .get(tags::FRAME_INCREMENT_POINTER)
        .and_then(|element| element.value().to_tag().ok());
    let vector = || frame_times(object, frames).map(Timing::At);
    let constant = || {
        let milliseconds = number(object, tags::FRAME_TIME)?;
        nanoseconds(milliseconds * 1e6).map(Timing::Every)
    };
    let rate = |tag| nanoseconds(1e9 / number(object, tag)?).map(Timing::Every);
    let pointed = if pointer == Some(tags::FRAME_TIME_VECTOR) {
        vector().or_else(constant)
    } else {
        constant().or_else(vector)
    };
    pointed
        .or_else(|| rate(tags::CINE_RATE))
        .or_else(|| rate(tags::RECOMMENDED_DISPLAY_FRAME_RATE))
        .unwrap_or(Timing::Unknown)
}

/// Frame Time Vector (0018,1065): milliseconds since the frame before, the
/// first of which is zero whatever is written there.
fn frame_times(object: &InMemDicomObject, frames: u64) -> Option<Vec<Duration>> {
    let increments = object.get(tags::FRAME_TIME_VECTOR)?;
    let increments = increments.to_multi_float64().ok()?;
    if increments.len() as u64 != frames {
        return None;
    }
    let mut time = 0.0;
    let mut times = vec![Duration::ZERO];
    for increment in increments.get(1..)? {
        time += Some(increment).filter(|value| value.is_finite() && **value >= 0.0)? * 1e6;
        times.push(Duration::from_nanos(time.round() as u64));
    }
    Some(times)
}

/// A positive time below an hour.
fn nanoseconds(value: f64) -> Option<Duration> {
    (1.0..3.6e12)
        .contains(&value)
        .then(|| Duration::from_nanos(value.round() as u64))
}

/// Sequence of Ultrasound Regions, PS3.3 section C.8.5.5.1: those that are 2D
/// and tissue.
fn tissue(object: &InMemDicomObject, image: &Image) -> Vec<Region> {
    const TWO_DIMENSIONAL: u16 = 1;
    const TISSUE: u16 = 1;
    let regions = object.get(tags::SEQUENCE_OF_ULTRASOUND_REGIONS);
    let regions = regions.and_then(|element| element.items());
    regions
        .unwrap_or_default()
        .iter()
        .filter(|region| integer(region, tags::REGION_SPATIAL_FORMAT) == Some(TWO_DIMENSIONAL))
        .filter(|region| integer(region, tags::REGION_DATA_TYPE) == Some(TISSUE))
        .filter_map(|region| {
            Some(Region {
                crop: bounds(region, image)?,
                mm_per_pixel: mm_per_pixel(region),
            })
        })
        .collect()
}

/// Whether two regions of about one size stand side by side, as the picture
/// itself is judged by the gate; a small one beside a large one is an inset.
fn is_dual_screen(regions: &[Region]) -> bool {
    let beside = |one: &Crop, other: &Crop| {
        let is_apart = one.x + one.width <= other.x || other.x + other.width <= one.x;
        let end = (one.y + one.height).min(other.y + other.height);
        let shared = end.saturating_sub(one.y.max(other.y));
        let (small, large) = (area(one).min(area(other)), area(one).max(area(other)));
        is_apart && 2 * shared >= one.height.min(other.height) && 2 * small >= large
    };
    regions.iter().enumerate().any(|(at, one)| {
        let mut others = regions.iter().skip(at + 1);
        others.any(|other| beside(&one.crop, &other.crop))
    })
}

fn area(crop: &Crop) -> u64 {
    u64::from(crop.width) * u64::from(crop.height)
}

/// The bounds are inclusive; some scanners write the size instead of the last
/// index, so they are clipped to the picture. Bounds further out were drawn for
/// a picture of another size, from which this one was made, and say nothing.
fn bounds(region: &InMemDicomObject, image: &Image) -> Option<Crop> {
    let x: u32 = integer(region, tags::REGION_LOCATION_MIN_X0)?;
    let y: u32 = integer(region, tags::REGION_LOCATION_MIN_Y0)?;
    let last_x: u32 = integer(region, tags::REGION_LOCATION_MAX_X1)?;
    let last_y: u32 = integer(region, tags::REGION_LOCATION_MAX_Y1)?;
    let length = |from: u32, last: u32, limit: u16| {
        let limit = u32::from(limit);
        let last = (last <= limit).then(|| last.min(limit - 1))?;
        last.checked_sub(from).map(|length| length + 1)
    };
    Some(Crop {
        x,
        y,
        width: length(x, last_x, image.columns)?,
        height: length(y, last_y, image.rows)?,
    })
}

fn mm_per_pixel(region: &InMemDicomObject) -> Option<[f64; 2]> {
    const CENTIMETRES: u16 = 3;
    let axis = |unit, delta| {
        let is_length = integer(region, unit) == Some(CENTIMETRES);
        let delta = number(region, delta).filter(|_| is_length)?;
        Some(delta.abs() * 10.0)
    };
    Some([
        axis(tags::PHYSICAL_UNITS_X_DIRECTION, tags::PHYSICAL_DELTA_X)?,
        axis(tags::PHYSICAL_UNITS_Y_DIRECTION, tags::PHYSICAL_DELTA_Y)?,
    ])
}

/// Text without its padding (PS3.5 section 6.2); nothing if only that is there.
fn text(object: &InMemDicomObject, tag: Tag) -> Option<String> {
    let value = object.get(tag)?.to_str().ok()?;
    let value = value.trim_matches(['\0', ' ']);
    (!value.is_empty()).then(|| value.to_owned())
}

fn integer<T>(object: &InMemDicomObject, tag: Tag) -> Option<T>
where
    T: TryFrom<i64>,
{
    let value: i64 = object.get(tag)?.to_int().ok()?;
    T::try_from(value).ok()
}

fn number(object: &InMemDicomObject, tag: Tag) -> Option<f64> {
    let value = object.get(tag)?.to_float64().ok()?;
    value.is_finite().then_some(value)
}
