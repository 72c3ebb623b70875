//! What a report and its key frames have in common: whose they are, where they
//! are filed, who made them.

use std::time::SystemTime;

use dicom_core::chrono::{DateTime, Local};
use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::{StandardDataDictionary, tags};
use dicom_object::InMemDicomObject;
use sha2::{Digest, Sha256};

use super::item::{empty, text};
use crate::domain::Instance;

/// What must be there, though it may be empty, of the Patient module and the General
/// Study module, PS3.3 sections C.7.1.1 and C.7.2.1.
const MUST_BE: [(Tag, VR); 9] = [
    (tags::STUDY_DATE, VR::DA),
    (tags::STUDY_TIME, VR::TM),
    (tags::ACCESSION_NUMBER, VR::SH),
    (tags::REFERRING_PHYSICIAN_NAME, VR::PN),
    (tags::PATIENT_NAME, VR::PN),
    (tags::PATIENT_ID, VR::LO),
    (tags::PATIENT_BIRTH_DATE, VR::DA),
    (tags::PATIENT_SEX, VR::CS),
    (tags::STUDY_ID, VR::SH),
];

/// One of our instances.
pub(super) struct Filed<'a> {
    pub(super) class: &'static str,
    pub(super) uid: &'a str,
    pub(super) series: &'a str,
    pub(super) series_number: &'a str,
    pub(super) series_description: &'a str,
    pub(super) modality: &'static str,
    pub(super) number: u32,
    /// Our application entity title: it tells installations apart.
    pub(super) station: &'a str,
    /// When what it says came about.
    pub(super) time: SystemTime,
}

impl Filed<'_> {
    /// A data set in the study of `source`, with everything but its content.
    pub(super) fn beside(&self, source: &Instance) -> InMemDicomObject {
        let time: DateTime<Local> = self.time.into();
        let mut object = InMemDicomObject::from_element_iter([
            // Whatever the source was written in, we write UTF-8.
            text(tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 192"),
            text(tags::SOP_CLASS_UID, VR::UI, self.class),
            text(tags::SOP_INSTANCE_UID, VR::UI, self.uid),
            text(tags::STUDY_INSTANCE_UID, VR::UI, source.study.expose()),
            text(tags::SERIES_INSTANCE_UID, VR::UI, self.series),
            text(tags::SERIES_NUMBER, VR::IS, self.series_number),
            text(tags::SERIES_DESCRIPTION, VR::LO, self.series_description),
            text(tags::MODALITY, VR::CS, self.modality),
            text(tags::INSTANCE_NUMBER, VR::IS, &self.number.to_string()),
            text(
                tags::CONTENT_DATE,
                VR::DA,
                &time.format("%Y%m%d").to_string(),
            ),
            text(
                tags::CONTENT_TIME,
                VR::TM,
                &time.format("%H%M%S").to_string(),
            ),
            // Enhanced General Equipment, PS3.3 section C.7.5.2.
            text(tags::MANUFACTURER, VR::LO, "hepaflow"),
            text(tags::MANUFACTURER_MODEL_NAME, VR::LO, "hepaflow"),
            text(tags::DEVICE_SERIAL_NUMBER, VR::LO, self.station),
            text(tags::SOFTWARE_VERSIONS, VR::LO, env!("CARGO_PKG_VERSION")),
        ]);
        for (tag, vr) in MUST_BE {
            object.put(empty(tag, vr));
        }
        for (group, element, value) in &source.repeated {
            let tag = Tag(*group, *element);
            if let Some(entry) = StandardDataDictionary.by_tag(tag) {
                object.put(text(tag, entry.vr().relaxed(), value));
            }
        }
        object
    }
}

/// A UID below 2.25 (PS3.5 section B.2), the same for the same words.
pub(super) fn derived_uid(words: &[&str]) -> String {
    let mut digest = Sha256::new();
    digest.update("hepaflow report");
    for word in words {
        digest.update([0]);
        digest.update(word);
    }
    let digest = digest.finalize();
    let number = digest
        .iter()
        .take(16)
        .fold(0_u128, |number, &byte| number << 8 | u128::from(byte));
    format!("2.25.{number}")
}
