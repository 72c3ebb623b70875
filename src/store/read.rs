//! Parts of the results, for readers who look at a page at a time.

use std::collections::HashMap;

use super::{Store, StoreError, records};
use crate::clinical::{Agreement, Elastography, Indices};
use crate::domain::{PatientId, PatientResult};

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
    /// The elastography that holds, if there is one.
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
            "SELECT {} FROM patient_results WHERE {CURRENT} ORDER BY patient LIMIT $2 OFFSET $3",
            records::ANSWER
        );
        let results = self.read(&sql, &values, records::answer)?;
        let shown = format!(
            "(SELECT patient FROM patient_results WHERE {CURRENT}
              ORDER BY patient LIMIT $2 OFFSET $3)"
        );
        let sql = format!(
            "SELECT {} FROM indices WHERE patient IN {shown}",
            records::INDICES
        );
        let indices = self.read(&sql, &values, records::indices)?;
        let mut indices: HashMap<_, _> = indices.into_iter().collect();
        let sql = format!(
            "SELECT {} FROM agreements
             WHERE model_says <> rater_says AND patient IN {shown}
             ORDER BY patient, rater, target",
            records::AGREEMENT
        );
        let mut discordances: HashMap<PatientId, Vec<Agreement>> = HashMap::new();
        for (patient, agreement) in self.read(&sql, &values, records::agreement)? {
            discordances.entry(patient).or_default().push(agreement);
        }
        let sql = format!(
            "SELECT {} FROM elastographies WHERE patient IN {shown}",
            records::ELASTOGRAPHY
        );
        let elastographies = self.read(&sql, &values, records::elastography)?;
        let mut elastographies: HashMap<_, _> = elastographies.into_iter().collect();
        let summaries = results.into_iter().map(|result| {
            let differing = discordances.remove(&result.patient).unwrap_or_default();
            Summary {
                indices: indices.remove(&result.patient),
                elastography: elastographies.remove(&result.patient),
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
}
