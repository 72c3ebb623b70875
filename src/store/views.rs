//! The views that a run maintains besides the answers: blood indices, the elastography
//! that holds, who agrees with whom, and everybody against pathology.

use serde::{Deserialize, Serialize};

use super::database::Transaction;
use super::row::Value;
use super::{DatabaseFault, Store, StoreError, records};
use crate::clinical::{Agreement, Auc, Confusion, Elastography, Evaluation, Indices, Rater};
use crate::domain::{PatientId, Stage};

/// A row of a view.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ViewRow {
    /// FIB-4 and APRI of a patient.
    Indices(PatientId, Indices),
    /// A patient's elastography.
    Elastography(PatientId, Elastography),
    /// A model beside an index, about a patient.
    Agreement(PatientId, Agreement),
    /// A rater against pathology, on one question.
    Evaluation(Rater, Stage, Evaluation),
}

impl ViewRow {
    /// Whether `other` would take this row's place.
    pub fn is_about_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Indices(one, _), Self::Indices(other, _))
            | (Self::Elastography(one, _), Self::Elastography(other, _)) => one == other,
            (Self::Agreement(patient, one), Self::Agreement(other_patient, other)) => {
                (patient, one.model, one.index, one.target)
                    == (other_patient, other.model, other.index, other.target)
            }
            (Self::Evaluation(rater, target, _), Self::Evaluation(other, other_target, _)) => {
                (rater, target) == (other, other_target)
            }
            _ => false,
        }
    }

    /// The table, the columns of its key, and those of its value.
    const fn table(
        &self,
    ) -> (
        &'static str,
        &'static [&'static str],
        &'static [&'static str],
    ) {
        match self {
            Self::Indices(..) => (
                "indices",
                &["patient"],
                &["fib4", "fib4_class", "apri", "apri_class"],
            ),
            Self::Elastography(..) => ("elastographies", &["patient"], &["method", "stiffness"]),
            Self::Agreement(..) => (
                "agreements",
                &["patient", "model", "rater", "target"],
                &["model_says", "rater_says"],
            ),
            Self::Evaluation(..) => (
                "evaluations",
                &["rater", "target"],
                &[
                    "true_positive",
                    "false_positive",
                    "true_negative",
                    "false_negative",
                    "undecided",
                    "positives",
                    "negatives",
                    "twice_wins",
                ],
            ),
        }
    }

    /// All columns, the key's first.
    fn values(&self) -> Vec<Value<'_>> {
        match self {
            Self::Indices(patient, indices) => vec![
                patient.expose().into(),
                indices.fib4.into(),
                indices.fib4_class.to_string().into(),
                indices.apri.into(),
                indices.apri_class.to_string().into(),
            ],
            Self::Elastography(patient, measured) => vec![
                patient.expose().into(),
                measured.method.name().into(),
                measured.stiffness.into(),
            ],
            Self::Agreement(patient, agreement) => vec![
                patient.expose().into(),
                agreement.model.to_string().into(),
                agreement.index.to_string().into(),
                agreement.target.to_string().into(),
                i64::from(agreement.model_says).into(),
                i64::from(agreement.index_says).into(),
            ],
            Self::Evaluation(rater, target, Evaluation { confusion, auc }) => vec![
                rater.to_string().into(),
                target.to_string().into(),
                confusion.true_positive.into(),
                confusion.false_positive.into(),
                confusion.true_negative.into(),
                confusion.false_negative.into(),
                confusion.undecided.into(),
                auc.positives.into(),
                auc.negatives.into(),
                auc.twice_wins.into(),
            ],
        }
    }
}

/// How a row of a view changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowChange {
    /// It is so now, whatever stood in its place.
    Stands(ViewRow),
    /// Nothing stands in its place now.
    Withdrawn(ViewRow),
}

impl RowChange {
    pub(super) fn row(&self) -> &ViewRow {
        match self {
            Self::Stands(row) | Self::Withdrawn(row) => row,
        }
    }
}

/// Writes changes of rows, later ones winning.
pub(super) fn write_rows(
    transaction: &mut Transaction<'_>,
    changes: &[RowChange],
) -> Result<(), DatabaseFault> {
    for change in changes {
        let (table, key, columns) = change.row().table();
        let mut values = change.row().values();
        match change {
            RowChange::Stands(_) => {
                let set: Vec<_> = columns
                    .iter()
                    .map(|column| format!("{column} = excluded.{column}"))
                    .collect();
                let end = format!(
                    "ON CONFLICT ({}) DO UPDATE SET {}",
                    key.join(", "),
                    set.join(", ")
                );
                transaction.insert(table, &[values], &end, |_| Ok(()))?;
            }
            RowChange::Withdrawn(_) => {
                values.truncate(key.len());
                let at: Vec<_> = (1..)
                    .zip(key)
                    .map(|(place, column)| format!("{column} = ${place}"))
                    .collect();
                let sql = format!("DELETE FROM {table} WHERE {}", at.join(" AND "));
                transaction.read(&sql, &values, |_| Ok(()))?;
            }
        }
    }
    Ok(())
}

impl Store {
    /// FIB-4 and APRI of every patient with a blood test, by patient.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn indices(&self) -> Result<Vec<(PatientId, Indices)>, StoreError> {
        let sql = format!("SELECT {} FROM indices ORDER BY patient", records::INDICES);
        self.read(&sql, &[], records::indices)
    }

    /// The elastography that holds, by patient.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn elastographies(&self) -> Result<Vec<(PatientId, Elastography)>, StoreError> {
        let sql = format!(
            "SELECT {} FROM elastographies ORDER BY patient",
            records::ELASTOGRAPHY
        );
        self.read(&sql, &[], records::elastography)
    }

    /// Models beside indices, by patient; a discordance is a row where the two
    /// differ.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn agreements(&self) -> Result<Vec<(PatientId, Agreement)>, StoreError> {
        let sql = format!(
            "SELECT {} FROM agreements ORDER BY patient, model, rater, target",
            records::AGREEMENT
        );
        self.read(&sql, &[], records::agreement)
    }

    /// Every rater against pathology, by rater and question.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn evaluations(&self) -> Result<Vec<(Rater, Stage, Evaluation)>, StoreError> {
        let sql = "SELECT rater, target, true_positive, false_positive, true_negative,
                          false_negative, undecided, positives, negatives, twice_wins
                   FROM evaluations ORDER BY rater, target";
        self.read(sql, &[], |row| {
            let evaluation = Evaluation {
                confusion: Confusion {
                    true_positive: row.integer(2)?,
                    false_positive: row.integer(3)?,
                    true_negative: row.integer(4)?,
                    false_negative: row.integer(5)?,
                    undecided: row.integer(6)?,
                },
                auc: Auc {
                    positives: row.integer(7)?,
                    negatives: row.integer(8)?,
                    twice_wins: row.integer(9)?,
                },
            };
            Ok((row.parsed(0)?, row.parsed(1)?, evaluation))
        })
    }

    /// All rows of the views.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn view_rows(&self) -> Result<Vec<ViewRow>, StoreError> {
        let indices = self.indices()?.into_iter();
        let elastographies = self.elastographies()?.into_iter();
        let agreements = self.agreements()?.into_iter();
        let evaluations = self.evaluations()?.into_iter();
        Ok(indices
            .map(|(patient, indices)| ViewRow::Indices(patient, indices))
            .chain(elastographies.map(|(patient, row)| ViewRow::Elastography(patient, row)))
            .chain(agreements.map(|(patient, row)| ViewRow::Agreement(patient, row)))
            .chain(evaluations.map(|(rater, target, row)| ViewRow::Evaluation(rater, target, row)))
            .collect())
    }
}
