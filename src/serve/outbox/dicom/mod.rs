//! Answers filed with an archive (a PACS): a structured report in the study that
//! the answer rests on, and pictures of where the network looked.
//!
//! Only the active model's answers are filed, and only those of DICOM recordings:
//! of anything else no archive knows. An answer that changes while its recordings
//! come in is filed once, when it has settled; one that changes later is a new
//! report, which names the one before it as its predecessor. Where an answer rests
//! on several studies, the report lies in the newest and refers to the others.
//!
//! Identifiers are derived from the change's name: a report that is sent twice,
//! after a crash or a lost acknowledgement, is the same instance.

mod capture;
mod explain;
mod header;
mod item;
mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Delivered, Refusal};
use crate::domain::{ClipPrediction, ContentHash, Instance, ModelHash, PatientId, PatientResult};
use crate::engine::Workspace;
use crate::ingest::pull::Archive;
use crate::ingest::push::Outbound;
use crate::store::{
    Assignments, FiledReport, Outgoing, PatientChange, Store, StoreError, StoredModel,
};
pub use explain::Explainer;
use header::{Filed, derived_uid};
use item::Reference;
use report::{Report, Source, Statement};

/// The longest list of frame numbers: a value of VR IS has 16 bits for its length.
/// A longer list is left out, which refers to the whole instance.
const LONGEST_LIST: usize = 65_534;

/// An archive that reports are filed with.
pub(super) struct Filing {
    /// The sink's name.
    name: String,
    archive: Archive,
    key_frames: usize,
    /// How long an answer stays before it is filed.
    settle: Duration,
    explainer: Option<Arc<Explainer>>,
    /// Made when first needed.
    workspace: Option<Workspace>,
    models: HashMap<ModelHash, StoredModel>,
    assignments: Assignments,
}

impl Filing {
    pub(super) fn new(
        name: &str,
        archive: Archive,
        (key_frames, settle): (usize, Duration),
        explainer: Option<Arc<Explainer>>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            archive,
            key_frames,
            settle,
            explainer,
            workspace: None,
            models: HashMap::new(),
            assignments: Assignments::default(),
        }
    }

    /// Whether the change is old enough to be filed.
    pub(super) fn is_settled(&self, outgoing: &Outgoing) -> bool {
        // A clock that was set back settles everything.
        let age = SystemTime::now().duration_since(outgoing.changed);
        !age.is_ok_and(|age| age < self.settle)
    }

    /// Files what the change calls for; nothing, where it calls for nothing.
    pub(super) fn file(
        &mut self,
        store: &mut Store,
        outgoing: &Outgoing,
    ) -> Result<Delivered, Refusal> {
        let refused = |error: StoreError| Refusal(error.to_string());
        let (patient, model) = match &outgoing.change {
            PatientChange::Stands(result) => (result.patient.clone(), result.model),
            PatientChange::Withdrawn(patient, model) => (patient.clone(), *model),
        };
        let filed = store.filed(&self.name, &patient).map_err(refused)?;
        let uid = derived_uid(&["event", &outgoing.event]);
        if filed.as_ref().is_some_and(|filed| filed.uid == uid) {
            return Ok(Delivered::Silent);
        }
        let evidence = match &outgoing.change {
            // The active model's word stands, not this one's.
            PatientChange::Stands(result) if !result.current => return Ok(Delivered::Silent),
            PatientChange::Stands(_) => {
                self.assignments.follow(store).map_err(refused)?;
                Evidence::of(store, &self.assignments, &patient, model).map_err(refused)?
            }
            PatientChange::Withdrawn(..) => {
                let Some(filed) = filed.as_ref().filter(|filed| filed.model == model) else {
                    return Ok(Delivered::Silent);
                };
                Evidence::only(store, filed.content).map_err(refused)?
            }
        };
        let Some((content, beside)) = evidence.newest(&patient) else {
            tracing::debug!(sink = self.name, "an answer rests on no DICOM recording");
            return Ok(Delivered::Silent);
        };
        if !self.models.contains_key(&model) {
            self.models = store.models().map_err(refused)?;
        }
        let Some(stored) = self.models.get(&model).cloned() else {
            return Err(Refusal("the store does not know the answer's model".into()));
        };
        let explainer = self.explainer.clone().filter(|it| it.model == model);
        let station = self.archive.calling.clone();
        let study = beside.study.expose();
        let series = |kind| derived_uid(&[kind, &station, study, &model.to_string()]);
        let number = filed
            .as_ref()
            .map_or(1, |filed| filed.number.saturating_add(1));
        let at = Placed {
            uid: &uid,
            series: series("key frames"),
            station: &station,
            time: outgoing.changed,
        };
        let captures = match (&outgoing.change, &explainer) {
            (PatientChange::Stands(result), Some(explainer)) => {
                self.captures(explainer, &evidence, &beside, (result, &stored), &at)
            }
            _ => Vec::new(),
        };
        let key_frames: Vec<_> = captures
            .iter()
            .map(|capture| Reference {
                study: study.to_owned(),
                series: at.series.clone(),
                class: capture.class.to_owned(),
                uid: capture.uid.clone(),
            })
            .collect();
        let report_series = series("reports");
        let report = Report {
            uid: &uid,
            series: &report_series,
            number,
            station: &station,
            time: outgoing.changed,
            model,
            architecture: &stored.architecture,
            synthetic: explainer.is_some_and(|explainer| explainer.synthetic),
            beside: &beside,
            sources: &evidence.sources(),
            key_frames: &key_frames,
            predecessor: filed.as_ref(),
            statement: match &outgoing.change {
                PatientChange::Stands(result) => Statement::Answer(result, &stored),
                PatientChange::Withdrawn(..) => Statement::Withdrawn,
            },
        };
        let object = report.object();
        // Pictures first: the report refers to them.
        let mut outbound = captures;
        outbound.push(Outbound {
            class: report::CLASS,
            uid: uid.clone(),
            object,
        });
        let pushed = self.archive.push(&outbound);
        pushed.map_err(|error| Refusal(error.to_string()))?;
        let filed = FiledReport {
            study: beside.study.clone(),
            series: report_series,
            uid,
            number,
            model,
            content,
        };
        store
            .note_filed(&self.name, &patient, &filed)
            .map_err(refused)?;
        Ok(Delivered::Told)
    }

    /// Pictures of the clips that speak most for the answer, of those in its
    /// report's study; fewer where a recording cannot be read again.
    fn captures(
        &mut self,
        explainer: &Explainer,
        evidence: &Evidence,
        beside: &Instance,
        (result, model): (&PatientResult, &StoredModel),
        at: &Placed<'_>,
    ) -> Vec<Outbound> {
        let Some(class) = result.likeliest() else {
            return Vec::new();
        };
        let workspace = self
            .workspace
            .get_or_insert_with(|| explainer.engine.workspace());
        let meaning = model.classes.get(class).map(ToString::to_string);
        let meaning = meaning.unwrap_or_default();
        let mut captures = Vec::new();
        for (clip, instance) in evidence.telling(class, &beside.study, self.key_frames) {
            let key_frame = match explainer.key_frame(workspace, clip, instance, class) {
                Ok(key_frame) => key_frame,
                Err(error) => {
                    tracing::warn!(sink = self.name, error, "a report goes without a picture");
                    continue;
                }
            };
            let number = captures.len() as u32 + 1;
            let uid = derived_uid(&["key frame", at.uid, &number.to_string()]);
            let filed = Filed {
                class: capture::CLASS,
                uid: &uid,
                series: &at.series,
                series_number: "9902",
                series_description: "hepaflow: where the network looked",
                modality: "OT",
                number,
                station: at.station,
                time: at.time,
            };
            let frame = key_frame.index + 1;
            let description = format!(
                "Grad-CAM for METAVIR {meaning} by hepaflow {} {} over frame {frame}",
                model.architecture,
                model.hash.short()
            );
            let picture = key_frame.picture;
            captures.push(Outbound {
                class: capture::CLASS,
                object: capture::object(&filed, instance, frame, picture, &description),
                uid,
            });
        }
        captures
    }
}

/// What a report's pictures have in common with it.
struct Placed<'a> {
    uid: &'a str,
    series: String,
    station: &'a str,
    time: SystemTime,
}

/// The clips of an answer and the instances they were cut from.
#[derive(Default)]
struct Evidence {
    instances: BTreeMap<ContentHash, Arc<Instance>>,
    clips: Vec<ClipPrediction>,
}

impl Evidence {
    fn of(
        store: &Store,
        assignments: &Assignments,
        patient: &PatientId,
        model: ModelHash,
    ) -> Result<Self, StoreError> {
        let mut found = Self::default();
        let clips = store.evidence_of(assignments, patient, model)?;
        let contents: BTreeSet<_> = clips.iter().map(|clip| clip.key.content).collect();
        for content in contents {
            if let Some(instance) = store.instance(content)? {
                found.instances.insert(content, Arc::new(instance));
            }
        }
        // Of what is no DICOM instance a report cannot speak.
        let known = |clip: &ClipPrediction| found.instances.contains_key(&clip.key.content);
        found.clips = clips.into_iter().filter(known).collect();
        Ok(found)
    }

    /// One instance without clips.
    fn only(store: &Store, content: ContentHash) -> Result<Self, StoreError> {
        let instance = store.instance(content)?.map(Arc::new);
        Ok(Self {
            instances: instance.into_iter().map(|it| (content, it)).collect(),
            clips: Vec::new(),
        })
    }

    /// An instance of the newest study, if may be of one that the archive knows as
    /// the patient's own.
    fn newest(&self, patient: &PatientId) -> Option<(ContentHash, Arc<Instance>)> {
        let newest = self.instances.iter().max_by_key(|(content, instance)| {
            let own = instance.value(0x0010, 0x0020) == Some(patient.expose());
            let date = instance.value(0x0008, 0x0020);
            let time = instance.value(0x0008, 0x0030);
            (own, date, time, &instance.study, **content)
        });
        newest.map(|(content, instance)| (*content, Arc::clone(instance)))
    }

    fn sources(&self) -> Vec<Source> {
        let source = |(content, instance): (&ContentHash, &Arc<Instance>)| {
            let clips = self.clips.iter();
            let spans = clips
                .filter(|clip| clip.key.content == *content)
                .map(|clip| (clip.span.first_frame, clip.span.last_frame));
            Source {
                instance: Arc::clone(instance),
                frames: frame_list(spans, instance.frames),
            }
        };
        self.instances.iter().map(source).collect()
    }

    /// At most `count` clips of `study` that do not overlap, by what they say for
    /// `class`.
    fn telling(
        &self,
        class: usize,
        study: &crate::domain::StudyUid,
        count: usize,
    ) -> Vec<(&ClipPrediction, &Instance)> {
        let mut ranked: Vec<_> = self
            .clips
            .iter()
            .filter_map(|clip| Some((clip, &**self.instances.get(&clip.key.content)?)))
            .filter(|(_, instance)| instance.study == *study)
            .collect();
        ranked
            .sort_by_key(|(clip, _)| (std::cmp::Reverse(clip.probabilities.get(class)), clip.key));
        let mut chosen: Vec<(&ClipPrediction, &Instance)> = Vec::new();
        for (clip, instance) in ranked {
            if chosen.len() == count {
                break;
            }
            let overlaps = |(other, _): &(&ClipPrediction, &Instance)| {
                other.key.content == clip.key.content
                    && other.span.first_frame <= clip.span.last_frame
                    && clip.span.first_frame <= other.span.last_frame
            };
            if !chosen.iter().any(overlaps) {
                chosen.push((clip, instance));
            }
        }
        chosen
    }
}

/// The frames within `spans`, which count from 0, as Referenced Frame Number
/// counts them, from 1; nothing where these are all of them, or too many to list.
fn frame_list(spans: impl Iterator<Item = (u64, u64)>, frames: u64) -> Option<String> {
    let mut spans: Vec<_> = spans.collect();
    spans.sort_unstable();
    let mut list = String::new();
    let (mut next, mut count) = (0, 0);
    for (first, last) in spans {
        for frame in first.max(next)..=last {
            count += 1;
            if !list.is_empty() {
                list.push('\\');
            }
            list += &(frame + 1).to_string();
            if list.len() > LONGEST_LIST {
                return None;
            }
        }
        next = next.max(last.saturating_add(1));
    }
    (count > 0 && count < frames).then_some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_listed_once_and_from_one_unless_they_are_all() {
        let list = |spans: &[(u64, u64)], frames| frame_list(spans.iter().copied(), frames);
        assert_eq!(list(&[(0, 2), (1, 3)], 9).as_deref(), Some("1\\2\\3\\4"));
        assert_eq!(list(&[(6, 7), (0, 1)], 9).as_deref(), Some("1\\2\\7\\8"));
        assert_eq!(list(&[(0, 2), (3, 8)], 9), None);
        assert_eq!(list(&[], 9), None);
        assert_eq!(list(&[(0, 50_000)], 99_999), None, "too long for a value");
    }
}
