//! The report: a Comprehensive 3D SR (PS3.3 section A.35.13) by TID 1500, "Imaging
//! Measurement Report" (PS3.16). One measurement group: fibrosis in the
//! liver, the stage, a probability for each class, which model said so, and which
//! frames of which instances it looked at. It is complete and unverified: a person
//! verifies, not a program.

use std::sync::Arc;
use std::time::SystemTime;

use dicom_core::VR;
use dicom_dictionary_std::{tags, uids};
use dicom_object::InMemDicomObject;

use super::header::{Filed, derived_uid};
use super::item::{
    Code, OURS, Reference, Relation, code, code_item, container, content_template, hierarchy,
    image_item, number_item, sequence, sop, text, text_item, uid_item,
};
use crate::domain::{Abstention, Instance, ModelHash, PatientResult, StageRange};
use crate::store::{FiledReport, StoredModel};

pub(super) const CLASS: &str = uids::COMPREHENSIVE3_DSR_STORAGE;

/// A cine that an answer rests on.
pub(super) struct Source {
    pub(super) instance: Arc<Instance>,
    /// Its frames, as Referenced Frame Number has them; nothing if these are all.
    pub(super) frames: Option<String>,
}

/// What a report says.
pub(super) enum Statement<'a> {
    /// This is the answer.
    Answer(&'a PatientResult, &'a StoredModel),
    /// There is none any more.
    Withdrawn,
}

/// All that goes into a report.
pub(super) struct Report<'a> {
    pub(super) uid: &'a str,
    pub(super) series: &'a str,
    pub(super) number: u32,
    pub(super) station: &'a str,
    pub(super) time: SystemTime,
    pub(super) model: ModelHash,
    pub(super) architecture: &'a str,
    /// Whether the model is known to be made of synthetic data.
    pub(super) synthetic: bool,
    /// Beside which instance it is filed.
    pub(super) beside: &'a Instance,
    pub(super) sources: &'a [Source],
    /// Pictures of where the network looked.
    pub(super) key_frames: &'a [Reference],
    /// The report that this one corrects.
    pub(super) predecessor: Option<&'a FiledReport>,
    pub(super) statement: Statement<'a>,
}

const DEVICE: Code<'_> = Code("121007", "DCM", "Device");
// Fibrosis, in the liver: SNOMED CT codes that PS3.16 lists itself (CID 6335, CID 4).
const FIBROSIS: Code<'_> = Code("112674009", "SCT", "Fibrosis");
const LIVER: Code<'_> = Code("10200004", "SCT", "Liver");
const ENGLISH: Code<'_> = Code("en-US", "RFC5646", "English (United States)");
// CID 6028.
const ULTRASOUND: Code<'_> = Code("16310003", "SCT", "Diagnostic ultrasonography");
const NO_UNITS: Code<'_> = Code("1", "UCUM", "no units");
const CONCLUSION: Code<'_> = Code("CONCLUSION", OURS, "Conclusion");

impl Report<'_> {
    /// The data set.
    pub(super) fn object(&self) -> InMemDicomObject {
        let filed = Filed {
            class: CLASS,
            uid: self.uid,
            series: self.series,
            series_number: "9901",
            series_description: "hepaflow: liver fibrosis",
            modality: "SR",
            number: self.number,
            station: self.station,
            time: self.time,
        };
        let mut object = filed.beside(self.beside);
        let elements = [
            sequence(tags::REFERENCED_PERFORMED_PROCEDURE_STEP_SEQUENCE, vec![]),
            sequence(tags::PERFORMED_PROCEDURE_CODE_SEQUENCE, vec![]),
            text(tags::COMPLETION_FLAG, VR::CS, "COMPLETE"),
            text(tags::VERIFICATION_FLAG, VR::CS, "UNVERIFIED"),
            // The root of the tree.
            text(tags::VALUE_TYPE, VR::CS, "CONTAINER"),
            sequence(
                tags::CONCEPT_NAME_CODE_SEQUENCE,
                vec![code(Code("126000", "DCM", "Imaging Measurement Report"))],
            ),
            text(tags::CONTINUITY_OF_CONTENT, VR::CS, "SEPARATE"),
            content_template("1500"),
            sequence(tags::CONTENT_SEQUENCE, self.content()),
        ];
        for element in elements {
            object.put(element);
        }
        self.refer(&mut object);
        object
    }

    /// Every instance that the tree refers to, PS3.3 section C.17.2.3; and the
    /// predecessor, C.17.2.
    fn refer(&self, object: &mut InMemDicomObject) {
        let here = self.beside.study.expose();
        let sources = self.sources.iter().map(|source| Reference {
            study: source.instance.study.expose().to_owned(),
            series: source.instance.series.clone(),
            class: source.instance.class.clone(),
            uid: source.instance.uid.clone(),
        });
        let (current, other): (Vec<_>, Vec<_>) = sources
            .chain(self.key_frames.iter().cloned())
            .partition(|reference| reference.study == here);
        for (tag, references) in [
            (tags::CURRENT_REQUESTED_PROCEDURE_EVIDENCE_SEQUENCE, current),
            (tags::PERTINENT_OTHER_EVIDENCE_SEQUENCE, other),
        ] {
            if !references.is_empty() {
                object.put(sequence(tag, hierarchy(references)));
            }
        }
        if let Some(predecessor) = self.predecessor {
            let reference = Reference {
                study: predecessor.study.expose().to_owned(),
                series: predecessor.series.clone(),
                class: CLASS.to_owned(),
                uid: predecessor.uid.clone(),
            };
            let tag = tags::PREDECESSOR_DOCUMENTS_SEQUENCE;
            object.put(sequence(tag, hierarchy(vec![reference])));
        }
    }

    fn content(&self) -> Vec<InMemDicomObject> {
        use Relation::{ConceptModifier, ObservationContext};
        let language = Code("121049", "DCM", "Language of Content Item and Descendants");
        let station = derived_uid(&["station", self.station]);
        let group = container(
            Code("125007", "DCM", "Measurement Group"),
            Some("1501"),
            self.group(),
        );
        vec![
            code_item(ConceptModifier, language, ENGLISH),
            // TID 1001 by TID 1004: a device observed.
            code_item(
                ObservationContext,
                Code("121005", "DCM", "Observer Type"),
                DEVICE,
            ),
            uid_item(
                ObservationContext,
                Code("121012", "DCM", "Device Observer UID"),
                &station,
            ),
            text_item(
                ObservationContext,
                Code("121013", "DCM", "Device Observer Name"),
                "hepaflow",
            ),
            code_item(
                ConceptModifier,
                Code("121058", "DCM", "Procedure reported"),
                ULTRASOUND,
            ),
            container(
                Code("126010", "DCM", "Imaging Measurements"),
                None,
                vec![group],
            ),
        ]
    }

    /// TID 1501.
    fn group(&self) -> Vec<InMemDicomObject> {
        use Relation::{ConceptModifier, Contains, ObservationContext};
        let patient = self.beside.value(0x0010, 0x0020).unwrap_or_default();
        let tracking = derived_uid(&["tracking", self.station, patient]);
        let mut items = vec![
            text_item(
                ObservationContext,
                Code("112039", "DCM", "Tracking Identifier"),
                "Liver fibrosis",
            ),
            uid_item(
                ObservationContext,
                Code("112040", "DCM", "Tracking Unique Identifier"),
                &tracking,
            ),
            code_item(Contains, Code("121071", "DCM", "Finding"), FIBROSIS),
            code_item(
                ConceptModifier,
                Code("363698007", "SCT", "Finding Site"),
                LIVER,
            ),
            // TID 4019.
            text_item(
                ConceptModifier,
                Code("111001", "DCM", "Algorithm Name"),
                &format!("hepaflow {}", self.architecture),
            ),
            text_item(
                ConceptModifier,
                Code("111003", "DCM", "Algorithm Version"),
                &self.model.to_string(),
            ),
        ];
        items.extend(self.sources.iter().map(|source| {
            let instance = &source.instance;
            image_item(
                Code("121112", "DCM", "Source of Measurement"),
                sop(&instance.class, &instance.uid, source.frames.as_deref()),
            )
        }));
        match self.statement {
            Statement::Answer(result, model) => items.extend(answer(result, &model.classes)),
            Statement::Withdrawn => items.push(code_item(
                Contains,
                CONCLUSION,
                Code("WITHDRAWN", OURS, "Withdrawn: no evidence is left"),
            )),
        }
        items.extend(self.key_frames.iter().map(|key_frame| {
            image_item(
                Code("121080", "DCM", "Best illustration of finding"),
                sop(&key_frame.class, &key_frame.uid, None),
            )
        }));
        let mut comment = "Computed by research software, which is no medical device; not \
                           verified by a person."
            .to_owned();
        if self.synthetic {
            comment += " The model was made from SYNTHETIC data: this means nothing for a person.";
        }
        let name = Code("121106", "DCM", "Comment");
        items.push(text_item(Contains, name, &comment));
        items
    }
}

fn answer(result: &PatientResult, classes: &[StageRange]) -> Vec<InMemDicomObject> {
    let likeliest = result.likeliest().and_then(|class| classes.get(class));
    let conclusion = match (result.abstention, likeliest) {
        (None, Some(stage)) => {
            let stage = stage.to_string();
            code_item(
                Relation::Contains,
                Code("STAGE", OURS, "METAVIR fibrosis stage"),
                Code(&stage, OURS, &format!("METAVIR {stage}")),
            )
        }
        (Some(Abstention::ClipsDisagree), _) => code_item(
            Relation::Contains,
            CONCLUSION,
            Code("DISAGREE", OURS, "None: the clips disagree"),
        ),
        (Some(Abstention::ThinEvidence), _) | (None, None) => code_item(
            Relation::Contains,
            CONCLUSION,
            Code("THIN", OURS, "None: too few usable clips"),
        ),
    };
    let probabilities = classes.iter().zip(&result.probabilities);
    let probability = probabilities.map(|(stage, p)| {
        number_item(
            Code(
                &format!("P_{stage}"),
                OURS,
                &format!("Probability of METAVIR {stage}"),
            ),
            &format!("{:.6}", p.to_f64()),
            NO_UNITS,
        )
    });
    let clips = [
        ("CLIPS", "Clips evaluated", result.clips),
        ("CLIPS_LEFT_OUT", "Clips left out", result.left_out),
    ];
    let clips = clips.map(|(value, meaning, count)| {
        number_item(
            Code(value, OURS, meaning),
            &count.to_string(),
            Code("{clips}", "UCUM", "clips"),
        )
    });
    [conclusion]
        .into_iter()
        .chain(probability)
        .chain(clips)
        .collect()
}
