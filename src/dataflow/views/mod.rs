//! Answers that correct themselves: everything known about patients as
//! differential collections, and views that are maintained as facts come, are
//! corrected and are withdrawn.
//!
//! ```text
//! clips ─┬─ deletions ─ exams ─▶ whose clip ─ merges ─▶ answers ─┬─▶ current (active model)
//! models ┘                                                       │
//! labs, elastography ───── merges ─▶ indices, elastography ──────┼─▶ opinions ─┬─▶ agreement, discordance
//! pathology ────────────────────────────── merges ─▶ truth ──────┴─────────────┴─▶ evaluation
//! ```
//!
//! Every value is a whole number, so a view is the same to the last bit in
//! whatever order its facts came. One change costs what it touches: a patient's
//! clips are one tally, and an AUC is a tree of counts ([`crate::clinical::Auc`]), so no view
//! ever walks all patients.
//!
//! What a fact must fulfil before it may enter (a sane blood test, merges
//! without a cycle) is checked by whoever enters it: see
//! [`crate::store::Store::enter`].

mod arrangements;
mod evaluation;
mod fact;
mod graph;
mod opinion;
mod patient;

pub use arrangements::{Arrangements, Part};
pub use fact::ClipFact;
pub use graph::{Views, maintain};
pub use opinion::Opinion;
pub use patient::{PatientAnswer, PatientKey};
