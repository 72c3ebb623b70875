//! What medicine already measures: blood indices and elastography.
//!
//! Values are whole thousandths ([`Milli`]), so that a value, its class and
//! everything counted from it are the same on every machine and in any order.
//! Classes are tri-state where the literature gives a lower and an upper
//! cut-off: what lies between decides nothing.

mod cohort;
mod elastography;
mod index;
mod table;

pub use cohort::{COHORT_FILE, CohortTables, PatientRecord, Sex, VIDEOS_FILE, VideoRecord};
pub use elastography::{Elastography, ElastographyMethod, UnknownMethod};
pub use index::{BloodTest, Cutoffs, Etiology, Index, InvalidValue, Verdict};
pub use table::{Finding, Problem};

/// A measured quantity in thousandths of its unit.
pub type Milli = i64;

/// Largest value taken for anything measured, in thousandths: past it lies a
/// wrong unit or a slipped key, and sums stay far from overflow.
pub(crate) const LARGEST: Milli = 1_000_000_000;
