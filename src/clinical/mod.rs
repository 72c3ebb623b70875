//! What medicine already measures (blood indices, elastography), the facts that
//! are entered about patients, and how raters compare with each other and with
//! pathology.
//!
//! Values are whole thousandths ([`Milli`]), so that a value, its class and
//! everything counted from it are the same on every machine and in any order.
//! Classes are tri-state where the literature gives a lower and an upper
//! cut-off: what lies between decides nothing.

mod cohort;
mod elastography;
mod evaluation;
mod fact;
mod index;
mod labels;
mod rating;
mod row_problem;
mod sheet;

pub use cohort::{COHORT_FILE, CohortTables, PatientRecord, Sex, VIDEOS_FILE, VideoRecord};
pub use elastography::{Elastography, ElastographyMethod, UnknownMethod};
pub use evaluation::{Auc, Confusion, Evaluation};
pub use fact::{Activation, Dated, Day, Deletion, Exam, Fact, MergeError, Merges};
pub use index::{BloodTest, Cutoffs, Etiology, Index, InvalidValue, Verdict};
pub(crate) use labels::latest_day;
pub use labels::{BadRow, LabelRow, Labels, LabelsError, parse_day, read_labels, show_day};
pub use rating::{Agreement, Indices, Rater, TARGETS};
pub use row_problem::RowProblem;
pub use sheet::{Finding, Problem};

/// A measured quantity in thousandths of its unit.
pub type Milli = i64;

/// Largest value taken for anything measured, in thousandths: past it lies a
/// wrong unit or a slipped key, and sums stay far from overflow.
pub(crate) const LARGEST: Milli = 1_000_000_000;
