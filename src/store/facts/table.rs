//! A table of labels, taken into the log.

use serde::Serialize;

use super::{Change, Effect, Receipt};
use crate::clinical::{BadRow, LabelRow, Labels, RowProblem};

/// Rows that one transaction takes.
const ROWS_A_COMMIT: usize = 500;

/// What became of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Rows that say something.
    #[serde(rename = "rows_taken")]
    pub rows: usize,
    /// Values that nobody had entered.
    #[serde(rename = "values_entered")]
    pub entered: usize,
    /// Values that took the place of others.
    #[serde(rename = "values_corrected")]
    pub corrected: usize,
    /// Values that were known already.
    #[serde(rename = "values_unchanged")]
    pub unchanged: usize,
    /// Rows that are left out, in whole or in part, in their order.
    #[serde(rename = "bad_rows")]
    pub bad: Vec<BadRow>,
}

/// Hands the values to `enter`, some hundred rows at a time: a table is no
/// transaction, since importing it again changes nothing.
///
/// # Errors
/// If `enter` fails; the rows before stand.
pub fn import_labels<E>(
    labels: Labels,
    mut enter: impl FnMut(&[Change]) -> Result<Receipt, E>,
) -> Result<Imported, E> {
    let mut imported = Imported {
        rows: labels.rows.len(),
        bad: labels.bad,
        ..Imported::default()
    };
    let mut rows = labels.rows.into_iter();
    loop {
        let some = rows.by_ref().take(ROWS_A_COMMIT);
        let (lines, changes): (Vec<_>, Vec<_>) = some.flat_map(values).unzip();
        if changes.is_empty() {
            break;
        }
        let receipt = enter(&changes)?;
        for (line, outcome) in lines.into_iter().zip(receipt.outcomes) {
            match outcome {
                Ok(Effect::Logged(_)) => imported.entered += 1,
                Ok(Effect::Corrected(_)) => imported.corrected += 1,
                Ok(Effect::Unchanged) => imported.unchanged += 1,
                Err(error) => imported.bad.push(BadRow {
                    line,
                    problem: RowProblem::Refused(error.to_string()),
                }),
            }
        }
    }
    imported.bad.sort_by_key(|bad| bad.line);
    Ok(imported)
}

fn values(row: LabelRow) -> impl Iterator<Item = (u64, Change)> {
    let line = row.line;
    row.facts
        .into_iter()
        .map(move |fact| (line, Change::Enter(fact)))
}
