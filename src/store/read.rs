//! Parts of the results, for readers who look at a page at a time.

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use super::facts::{Change, LoggedChange};
use super::row::{Row, wrong};
use super::{DatabaseFault, Store, StoreError};
use crate::clinical::{Agreement, Day, Elastography, Fact, Indices};
use crate::domain::{
    ClipKey, ClipPrediction, ClipSpan, EventTime, ModelHash, PatientId, PatientResult, Probability,
    StudyUid,
};

/// Which rows of a list.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Rows to leave out at the beginning.
    pub offset: u32,
    /// Rows at most.
    pub limit: u32,
}

impl Page {
    /// One row.
    const ONE: Self = Self {
        offset: 0,
        limit: 1,
    };
}

/// A patient's current answer, and what else is known.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The answer.
    pub result: PatientResult,
    /// FIB-4 and APRI, if there is a blood test.
    pub indices: Option<Indices>,
    /// The last elastography, if there is one.
    pub elastography: Option<Elastography>,
    /// Where the model and an index differ.
    pub discordances: Vec<Agreement>,
}

/// The current answers: of all patients, or of one.
const CURRENT: &str = "is_current = 1 AND (patient = $1 OR $1 = '')";

impl Store {
    /// Current answers with what else is known, by patient, and how many there
    /// are in all.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn summaries(&self, page: Page) -> Result<(Vec<Summary>, u64), StoreError> {
        self.summaries_of("", page)
    }

    /// One patient's current answer, if there is one.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn summary(&self, patient: &PatientId) -> Result<Option<Summary>, StoreError> {
        Ok(self.summaries_of(patient.expose(), Page::ONE)?.0.pop())
    }

    /// `patient` is empty for all of them.
    fn summaries_of(&self, patient: &str, page: Page) -> Result<(Vec<Summary>, u64), StoreError> {
        let (limit, offset) = (u64::from(page.limit), u64::from(page.offset));
        let values = [patient.into(), limit.into(), offset.into()];
        let sql = format!(
            "SELECT patient, model, clips, probabilities, left_out, weight, abstention
             FROM patient_results WHERE {CURRENT} ORDER BY patient LIMIT $2 OFFSET $3"
        );
        let results = self.read(&sql, &values, |row| {
            Ok(PatientResult {
                patient: PatientId::new(row.text(0)?),
                model: row.parsed(1)?,
                current: true,
                clips: row.unsigned(2)?,
                left_out: row.unsigned(4)?,
                weight: row.unsigned(5)?,
                probabilities: probabilities(row, 3)?,
                abstention: match row.optional_text(6)? {
                    Some(why) => Some(why.parse().map_err(|error| wrong(6, error))?),
                    None => None,
                },
            })
        })?;
        let shown = format!(
            "(SELECT patient FROM patient_results WHERE {CURRENT}
              ORDER BY patient LIMIT $2 OFFSET $3)"
        );
        let sql = format!(
            "SELECT patient, fib4, fib4_class, apri, apri_class FROM indices
             WHERE patient IN {shown}"
        );
        let indices = self.read(&sql, &values, |row| {
            let indices = Indices {
                fib4: row.integer(1)?,
                fib4_class: row.parsed(2)?,
                apri: row.integer(3)?,
                apri_class: row.parsed(4)?,
            };
            Ok((PatientId::new(row.text(0)?), indices))
        })?;
        let mut indices: HashMap<_, _> = indices.into_iter().collect();
        let sql = format!(
            "SELECT patient, model, rater, target, model_says, rater_says FROM agreements
             WHERE model_says <> rater_says AND patient IN {shown}
             ORDER BY patient, rater, target"
        );
        let mut discordances: HashMap<PatientId, Vec<Agreement>> = HashMap::new();
        for (patient, agreement) in self.read(&sql, &values, |row| {
            let agreement = Agreement {
                model: row.parsed(1)?,
                index: row.parsed(2)?,
                target: row.parsed(3)?,
                model_says: row.integer(4)? == 1,
                index_says: row.integer(5)? == 1,
            };
            Ok((PatientId::new(row.text(0)?), agreement))
        })? {
            discordances.entry(patient).or_default().push(agreement);
        }
        let mut elastographies = self.standing_elastographies()?;
        let summaries = results.into_iter().map(|result| {
            let differing = discordances.remove(&result.patient).unwrap_or_default();
            Summary {
                indices: indices.remove(&result.patient),
                elastography: elastographies
                    .remove(&result.patient)
                    .map(|(_, value)| value),
                discordances: differing
                    .into_iter()
                    .filter(|agreement| agreement.model == result.model)
                    .collect(),
                result,
            }
        });
        let summaries = summaries.collect();
        let sql = format!("SELECT count(*) FROM patient_results WHERE {CURRENT}");
        let count = self.read(&sql, &values[..1], |row| row.unsigned(0))?;
        Ok((summaries, count.first().copied().unwrap_or(0)))
    }

    /// Of every patient the elastography of the latest day, of those on one day
    /// the stiffest.
    fn standing_elastographies(
        &self,
    ) -> Result<HashMap<PatientId, (Day, Elastography)>, StoreError> {
        let sql = "SELECT slot, change, fact FROM facts WHERE kind = 'elastography'
                   ORDER BY number";
        let rows = self.read(sql, &[], |row| {
            Ok((row.text(0)?, row.integer(1)?, row.json::<Fact>(2)?))
        })?;
        let mut slots = HashMap::new();
        for (slot, change, fact) in rows {
            if change == 1 {
                slots.insert(slot, fact);
            } else {
                slots.remove(&slot);
            }
        }
        let mut standing: HashMap<PatientId, (Day, Elastography)> = HashMap::new();
        for fact in slots.into_values() {
            let Fact::Elastography(dated) = fact else {
                continue;
            };
            let new = (dated.day, dated.value);
            let held = standing.entry(dated.patient).or_insert(new);
            let rank = |(day, value): &(Day, Elastography)| (*day, value.stiffness);
            if rank(held) < rank(&new) {
                *held = new;
            }
        }
        Ok(standing)
    }

    /// Everybody of whom there are predictions.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn patients(&self) -> Result<Vec<PatientId>, StoreError> {
        // Answers are by the patient that an exam or a merge makes of it.
        let sql = "SELECT patient FROM patient_results
                   UNION SELECT patient FROM clip_predictions";
        self.read(sql, &[], |row| Ok(PatientId::new(row.text(0)?)))
    }

    /// A patient's clips under `model`, by content and frame, and how many there
    /// are in all.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn clips_of(
        &self,
        patient: &PatientId,
        model: ModelHash,
        page: Page,
    ) -> Result<(Vec<ClipPrediction>, u64), StoreError> {
        let (limit, offset) = (u64::from(page.limit), u64::from(page.offset));
        let values = [
            patient.expose().into(),
            model.to_string().into(),
            limit.into(),
            offset.into(),
        ];
        let sql = "SELECT content, first_frame, model, last_frame, begin_ns, end_ns, gaps_before,
                          study, source, probabilities
                   FROM clip_predictions WHERE patient = $1 AND model = $2
                   ORDER BY content, first_frame LIMIT $3 OFFSET $4";
        let rows = self.read(sql, &values, |row| {
            let first_frame = row.unsigned(1)?;
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
                },
                patient: patient.clone(),
                study: row.optional_text(7)?.map(StudyUid::new),
                source: row.text(8)?,
                probabilities: probabilities(row, 9)?,
            })
        })?;
        let sql = "SELECT count(*) FROM clip_predictions WHERE patient = $1 AND model = $2";
        let count = self.read(sql, &values[..2], |row| row.unsigned(0))?;
        Ok((rows, count.first().copied().unwrap_or(0)))
    }

    /// What was entered and withdrawn of a patient's values, oldest first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn history_of(&self, patient: &PatientId) -> Result<Vec<LoggedChange>, StoreError> {
        let name = serde_json::Value::from(patient.expose()).to_string();
        let about = ["blood", "elastography", "pathology"].map(|kind| format!("{kind}[{name},"));
        let [blood, elastography, pathology] = &about;
        let sql = "SELECT number, time_ns, actor, reason, change, fact FROM facts
                   WHERE substr(slot, 1, $1) = $2 OR substr(slot, 1, $3) = $4
                      OR substr(slot, 1, $5) = $6
                   ORDER BY number";
        let length = |text: &str| text.chars().count() as u64;
        let values = [
            length(blood).into(),
            blood.as_str().into(),
            length(elastography).into(),
            elastography.as_str().into(),
            length(pathology).into(),
            pathology.as_str().into(),
        ];
        self.read(sql, &values, |row| {
            let fact = row.json(5)?;
            Ok(LoggedChange {
                number: row.unsigned(0)?,
                time: UNIX_EPOCH + Duration::from_nanos(row.unsigned(1)?),
                actor: row.text(2)?,
                reason: row.text(3)?,
                change: match row.integer(4)? {
                    1 => Change::Enter(fact),
                    _ => Change::Withdraw(fact),
                },
            })
        })
    }
}

fn probabilities(row: &Row<'_>, column: usize) -> Result<Vec<Probability>, DatabaseFault> {
    let raw: Vec<i64> = row.json(column)?;
    Ok(raw.into_iter().map(Probability::from_raw).collect())
}
