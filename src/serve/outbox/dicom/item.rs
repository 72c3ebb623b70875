//! The bricks of a DICOM data set and of a report's tree of content items, PS3.3
//! sections C.17.3 and 8.

use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;

/// A coded concept: value, scheme, meaning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Code<'a>(
    pub(super) &'a str,
    pub(super) &'static str,
    pub(super) &'a str,
);

/// The scheme of codes that no other has: PS3.16 section 8 leaves names that
/// begin with 99 to everybody.
pub(super) const OURS: &str = "99HEPAFLOW";

/// Another instance, as it is referred to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reference {
    pub(super) study: String,
    pub(super) series: String,
    pub(super) class: String,
    pub(super) uid: String,
}

/// How a content item stands to the one above it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Relation {
    Contains,
    ConceptModifier,
    ObservationContext,
}

pub(super) fn text(tag: Tag, vr: VR, value: &str) -> InMemElement {
    DataElement::new(tag, vr, PrimitiveValue::from(value))
}

/// A value that must be there and may be unknown.
pub(super) fn empty(tag: Tag, vr: VR) -> InMemElement {
    DataElement::new(tag, vr, PrimitiveValue::Empty)
}

pub(super) fn sequence(tag: Tag, items: Vec<InMemDicomObject>) -> InMemElement {
    DataElement::new(tag, VR::SQ, DataSetSequence::from(items))
}

pub(super) fn code(Code(value, scheme, meaning): Code<'_>) -> InMemDicomObject {
    InMemDicomObject::from_element_iter([
        text(tags::CODE_VALUE, VR::SH, value),
        text(tags::CODING_SCHEME_DESIGNATOR, VR::SH, scheme),
        text(tags::CODE_MEANING, VR::LO, meaning),
    ])
}

/// What an item refers to: an instance, and of a cine these of its frames.
pub(super) fn sop(class: &str, uid: &str, frames: Option<&str>) -> InMemDicomObject {
    let mut object = InMemDicomObject::from_element_iter([
        text(tags::REFERENCED_SOP_CLASS_UID, VR::UI, class),
        text(tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, uid),
    ]);
    if let Some(frames) = frames {
        object.put(text(tags::REFERENCED_FRAME_NUMBER, VR::IS, frames));
    }
    object
}

fn item(relation: Relation, kind: &str, name: Code<'_>, value: InMemElement) -> InMemDicomObject {
    let relation = match relation {
        Relation::Contains => "CONTAINS",
        Relation::ConceptModifier => "HAS CONCEPT MOD",
        Relation::ObservationContext => "HAS OBS CONTEXT",
    };
    InMemDicomObject::from_element_iter([
        text(tags::RELATIONSHIP_TYPE, VR::CS, relation),
        text(tags::VALUE_TYPE, VR::CS, kind),
        sequence(tags::CONCEPT_NAME_CODE_SEQUENCE, vec![code(name)]),
        value,
    ])
}

pub(super) fn code_item(relation: Relation, name: Code<'_>, value: Code<'_>) -> InMemDicomObject {
    let value = sequence(tags::CONCEPT_CODE_SEQUENCE, vec![code(value)]);
    item(relation, "CODE", name, value)
}

pub(super) fn text_item(relation: Relation, name: Code<'_>, value: &str) -> InMemDicomObject {
    let value = text(tags::TEXT_VALUE, VR::UT, value);
    item(relation, "TEXT", name, value)
}

pub(super) fn uid_item(relation: Relation, name: Code<'_>, value: &str) -> InMemDicomObject {
    item(relation, "UIDREF", name, text(tags::UID, VR::UI, value))
}

pub(super) fn image_item(name: Code<'_>, image: InMemDicomObject) -> InMemDicomObject {
    let value = sequence(tags::REFERENCED_SOP_SEQUENCE, vec![image]);
    item(Relation::Contains, "IMAGE", name, value)
}

/// `value` must be a decimal string, at most 16 characters long.
pub(super) fn number_item(name: Code<'_>, value: &str, unit: Code<'_>) -> InMemDicomObject {
    let measured = InMemDicomObject::from_element_iter([
        sequence(tags::MEASUREMENT_UNITS_CODE_SEQUENCE, vec![code(unit)]),
        text(tags::NUMERIC_VALUE, VR::DS, value),
    ]);
    let value = sequence(tags::MEASURED_VALUE_SEQUENCE, vec![measured]);
    item(Relation::Contains, "NUM", name, value)
}

/// A container within another, by this template of PS3.16 if it follows one.
pub(super) fn container(
    name: Code<'_>,
    template: Option<&str>,
    items: Vec<InMemDicomObject>,
) -> InMemDicomObject {
    let continuity = text(tags::CONTINUITY_OF_CONTENT, VR::CS, "SEPARATE");
    let mut object = item(Relation::Contains, "CONTAINER", name, continuity);
    if let Some(template) = template {
        object.put(content_template(template));
    }
    object.put(sequence(tags::CONTENT_SEQUENCE, items));
    object
}

pub(super) fn content_template(number: &str) -> InMemElement {
    let template = InMemDicomObject::from_element_iter([
        text(tags::MAPPING_RESOURCE, VR::CS, "DCMR"),
        text(tags::TEMPLATE_IDENTIFIER, VR::CS, number),
    ]);
    sequence(tags::CONTENT_TEMPLATE_SEQUENCE, vec![template])
}

/// Instances by study and series: the SOP Instance Reference macro, PS3.3 table
/// C.17-3.
pub(super) fn hierarchy(mut references: Vec<Reference>) -> Vec<InMemDicomObject> {
    references.sort();
    references.dedup();
    let studies = references.chunk_by(|one, other| one.study == other.study);
    let of_study = |study: &[Reference]| {
        let series = study.chunk_by(|one, other| one.series == other.series);
        let of_series = |series: &[Reference]| {
            let sops = series.iter().map(|it| sop(&it.class, &it.uid, None));
            InMemDicomObject::from_element_iter([
                text(tags::SERIES_INSTANCE_UID, VR::UI, &series[0].series),
                sequence(tags::REFERENCED_SOP_SEQUENCE, sops.collect()),
            ])
        };
        InMemDicomObject::from_element_iter([
            text(tags::STUDY_INSTANCE_UID, VR::UI, &study[0].study),
            sequence(
                tags::REFERENCED_SERIES_SEQUENCE,
                series.map(of_series).collect(),
            ),
        ])
    };
    studies.map(of_study).collect()
}
