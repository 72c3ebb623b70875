//! What rows of the tables become, and what becomes rows: columns in one order for
//! reading and for writing.

use super::DatabaseFault;
use super::row::{Row, Value, wrong};
use crate::clinical::{Agreement, Elastography, Indices};
use crate::domain::{
    ClipKey, ClipPrediction, ClipSpan, EventTime, PatientId, PatientResult, Probability, StudyUid,
};

/// The columns of [`clip`], as [`of_clip`] fills them.
pub(super) const CLIP: &str = "content, first_frame, model, last_frame, begin_ns, end_ns,
    gaps_before, patient, study, source, probabilities, weight";

pub(super) fn clip(row: &Row<'_>) -> Result<ClipPrediction, DatabaseFault> {
    let first_frame = row.unsigned(1)?;
    let weight = row.unsigned(11)?;
    Ok(ClipPrediction {
        key: ClipKey {
            content: row.parsed(0)?,
            first_frame,
            model: row.parsed(2)?,
        },
        span: ClipSpan {
            first_frame,
            last_frame: row.unsigned(3)?,
            begin: EventTime::from_nanos(row.unsigned(4)?),
            end: EventTime::from_nanos(row.unsigned(5)?),
            gaps_before: row.unsigned(6)?,
            weight: u16::try_from(weight).map_err(|error| wrong(11, error))?,
        },
        patient: PatientId::new(row.text(7)?),
        study: row.optional_text(8)?.map(StudyUid::new),
        source: row.text(9)?,
        probabilities: probabilities(row, 10)?,
    })
}

pub(super) fn of_clip(clip: &ClipPrediction) -> Vec<Value<'_>> {
    vec![
        clip.key.content.to_string().into(),
        clip.key.first_frame.into(),
        clip.key.model.to_string().into(),
        clip.span.last_frame.into(),
        clip.span.begin.as_nanos().into(),
        clip.span.end.as_nanos().into(),
        clip.span.gaps_before.into(),
        clip.patient.expose().into(),
        clip.study.as_ref().map(StudyUid::expose).into(),
        clip.source.as_str().into(),
        raw_json(&clip.probabilities).into(),
        u64::from(clip.span.weight).into(),
    ]
}

/// The columns of [`answer`], as [`of_answer`] fills them.
pub(super) const ANSWER: &str =
    "patient, model, clips, probabilities, left_out, weight, abstention, is_current";

pub(super) fn answer(row: &Row<'_>) -> Result<PatientResult, DatabaseFault> {
    Ok(PatientResult {
        patient: PatientId::new(row.text(0)?),
        model: row.parsed(1)?,
        clips: row.unsigned(2)?,
        probabilities: probabilities(row, 3)?,
        left_out: row.unsigned(4)?,
        weight: row.unsigned(5)?,
        abstention: match row.optional_text(6)? {
            Some(why) => Some(why.parse().map_err(|error| wrong(6, error))?),
            None => None,
        },
        current: row.integer(7)? == 1,
    })
}

pub(super) fn of_answer(result: &PatientResult) -> Vec<Value<'_>> {
    vec![
        result.patient.expose().into(),
        result.model.to_string().into(),
        result.clips.into(),
        raw_json(&result.probabilities).into(),
        result.left_out.into(),
        result.weight.into(),
        result.abstention.map(|why| why.to_string()).into(),
        i64::from(result.current).into(),
    ]
}

/// The columns of [`indices`].
pub(super) const INDICES: &str = "patient, fib4, fib4_class, apri, apri_class";

pub(super) fn indices(row: &Row<'_>) -> Result<(PatientId, Indices), DatabaseFault> {
    let indices = Indices {
        fib4: row.integer(1)?,
        fib4_class: row.parsed(2)?,
        apri: row.integer(3)?,
        apri_class: row.parsed(4)?,
    };
    Ok((PatientId::new(row.text(0)?), indices))
}

/// The columns of [`elastography`].
pub(super) const ELASTOGRAPHY: &str = "patient, method, stiffness";

pub(super) fn elastography(row: &Row<'_>) -> Result<(PatientId, Elastography), DatabaseFault> {
    let measured = Elastography {
        method: row.parsed(1)?,
        stiffness: row.integer(2)?,
    };
    Ok((PatientId::new(row.text(0)?), measured))
}

/// The columns of [`agreement`].
pub(super) const AGREEMENT: &str = "patient, model, rater, target, model_says, rater_says";

pub(super) fn agreement(row: &Row<'_>) -> Result<(PatientId, Agreement), DatabaseFault> {
    let said = |column| match row.integer(column)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(wrong(column, "neither 0 nor 1")),
    };
    let agreement = Agreement {
        model: row.parsed(1)?,
        index: row.parsed(2)?,
        target: row.parsed(3)?,
        model_says: said(4)?,
        index_says: said(5)?,
    };
    Ok((PatientId::new(row.text(0)?), agreement))
}

fn raw_json(probabilities: &[Probability]) -> String {
    let raw: Vec<_> = probabilities.iter().map(|p| p.to_raw()).collect();
    serde_json::Value::from(raw).to_string()
}

fn probabilities(row: &Row<'_>, column: usize) -> Result<Vec<Probability>, DatabaseFault> {
    let raw: Vec<i64> = row.json(column)?;
    Ok(raw.into_iter().map(Probability::from_raw).collect())
}
