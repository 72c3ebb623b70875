//! Parts of the results, for readers who look at a page at a time.

use rusqlite::{Row, ToSql, params};

use super::{Store, StoreError, parsed, probabilities, unsigned};
use crate::domain::{
    ClipKey, ClipPrediction, ClipSpan, EventTime, ModelHash, PatientId, PatientResult, StudyUid,
};

/// Which rows of a list.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Rows to leave out at the beginning.
    pub offset: u32,
    /// Rows at most.
    pub limit: u32,
}

impl Store {
    /// Standing answers under `model`, by patient, and how many there are in all.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn answers(
        &self,
        model: ModelHash,
        page: Page,
    ) -> Result<(Vec<PatientResult>, u64), StoreError> {
        let model = model.to_string();
        let sql = "SELECT patient, model, clips, probabilities FROM patient_results
                   WHERE model = ?1 ORDER BY patient LIMIT ?2 OFFSET ?3";
        let rows = self.rows_of(sql, params![model, page.limit, page.offset], |row| {
            Ok(PatientResult {
                patient: PatientId::new(row.get::<_, String>(0)?),
                model: parsed(row, 1)?,
                clips: unsigned(row, 2)?,
                probabilities: probabilities(row, 3)?,
            })
        })?;
        let sql = "SELECT count(*) FROM patient_results WHERE model = ?1";
        let count = self.rows_of(sql, params![model], |row| unsigned(row, 0))?;
        Ok((rows, count.first().copied().unwrap_or(0)))
    }

    /// A patient's standing answer under `model`, if there is one.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn answer(
        &self,
        patient: &PatientId,
        model: ModelHash,
    ) -> Result<Option<PatientResult>, StoreError> {
        let sql = "SELECT clips, probabilities FROM patient_results
                   WHERE patient = ?1 AND model = ?2";
        let mut rows = self.rows_of(sql, params![patient.expose(), model.to_string()], |row| {
            Ok(PatientResult {
                patient: patient.clone(),
                model,
                clips: unsigned(row, 0)?,
                probabilities: probabilities(row, 1)?,
            })
        })?;
        Ok(rows.pop())
    }

    /// Everybody of whom there are predictions.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn patients(&self) -> Result<Vec<PatientId>, StoreError> {
        let sql = "SELECT DISTINCT patient FROM clip_predictions";
        self.rows_of(sql, [].as_slice(), |row| {
            Ok(PatientId::new(row.get::<_, String>(0)?))
        })
    }

    /// A patient's clips under `model`, by content and frame, and how many there
    /// are in all.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn clips_of(
        &self,
        patient: &PatientId,
        model: ModelHash,
        page: Page,
    ) -> Result<(Vec<ClipPrediction>, u64), StoreError> {
        let (name, model) = (patient.expose(), model.to_string());
        let sql = "SELECT content, first_frame, model, last_frame, begin_ns, end_ns, gaps_before,
                          study, source, probabilities
                   FROM clip_predictions WHERE patient = ?1 AND model = ?2
                   ORDER BY content, first_frame LIMIT ?3 OFFSET ?4";
        let rows = self.rows_of(sql, params![name, model, page.limit, page.offset], |row| {
            let first_frame = unsigned(row, 1)?;
            Ok(ClipPrediction {
                key: ClipKey {
                    content: parsed(row, 0)?,
                    first_frame,
                    model: parsed(row, 2)?,
                },
                span: ClipSpan {
                    first_frame,
                    last_frame: unsigned(row, 3)?,
                    begin: EventTime::from_nanos(unsigned(row, 4)?),
                    end: EventTime::from_nanos(unsigned(row, 5)?),
                    gaps_before: unsigned(row, 6)?,
                },
                patient: patient.clone(),
                study: row.get::<_, Option<String>>(7)?.map(StudyUid::new),
                source: row.get(8)?,
                probabilities: probabilities(row, 9)?,
            })
        })?;
        let sql = "SELECT count(*) FROM clip_predictions WHERE patient = ?1 AND model = ?2";
        let count = self.rows_of(sql, params![name, model], |row| unsigned(row, 0))?;
        Ok((rows, count.first().copied().unwrap_or(0)))
    }

    fn rows_of<T>(
        &self,
        sql: &str,
        values: &[&dyn ToSql],
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let fail = |error| self.sqlite(error);
        let mut statement = self.connection.prepare_cached(sql).map_err(fail)?;
        let rows = statement.query_map(values, read).map_err(fail)?;
        rows.collect::<Result<_, _>>().map_err(fail)
    }
}
