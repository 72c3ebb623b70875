//! What a run tells of itself when it ends.

use std::path::{Path, PathBuf};

use anyhow::anyhow;

use super::found::Findings;
use crate::cli::BadInput;
use crate::cli::results::{patient_rows, print};
use crate::config::{Pipeline, StorePlace};
use crate::dataflow::Outcome;
use crate::domain::ModelHash;
use crate::metrics::Metrics;
use crate::store::Store;

/// The reports of archives; what failed is an error. Of a group, process 0 tells
/// what all know: `is_first`.
pub(super) fn conclude(
    found: Findings,
    outcome: &Outcome,
    is_first: bool,
    tell: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Findings {
        reports,
        mut failures,
        ..
    } = found;
    if !is_first {
        failures.clear();
        for (_, report) in &reports {
            report.leave_skipped();
        }
    }
    for (_, report) in &reports {
        report.write()?;
        eprintln!("{}", report.summary());
    }
    // What an archive holds that cannot be read is told by its report.
    let told = |source: &str| reports.iter().any(|(name, _)| name == source);
    failures.extend(
        outcome
            .failures
            .iter()
            .filter(|failure| !told(&failure.source))
            .map(|failure| failure.error.to_string()),
    );
    tell()?;
    if failures.is_empty() {
        return Ok(());
    }
    let listed = failures.join("\n  ");
    Err(BadInput::new(anyhow!(
        "{} of the streams failed:\n  {listed}",
        failures.len()
    ))
    .into())
}

/// The answers, on stdout.
pub(super) fn answers(
    pipeline: &Pipeline,
    models: &[ModelHash],
    synthetic: bool,
) -> anyhow::Result<()> {
    let store = Store::open_existing(&pipeline.store)?;
    let mut results = store.patient_results()?;
    results.retain(|result| models.contains(&result.model));
    print(&patient_rows(&results, &store.models()?).to_table())?;
    if synthetic {
        eprintln!("The model was made from synthetic data: its answers mean nothing for a person.");
    }
    Ok(())
}

/// What was done, and where it lies, on stderr.
pub(super) fn report(pipeline: &Pipeline, metrics: &Metrics, outcome: &Outcome) {
    let place = match &pipeline.store {
        StorePlace::File(file) => short(file).into(),
        place @ StorePlace::Postgres(_) => place.clone(),
    };
    eprintln!(
        "{} streams read, {} clips scored, {} scored before; results in {place}",
        outcome.streams,
        metrics.predictions.get(),
        metrics.windows_resumed.get(),
    );
    if outcome.duplicates > 0 {
        eprintln!(
            "{} streams had the bytes of another and were left out",
            outcome.duplicates
        );
    }
    eprintln!("See them again: hepaflow results patients --store {place}");
}

/// A file's path as a person would type it: without detours, from here.
fn short(file: &Path) -> PathBuf {
    let whole = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let here = std::env::current_dir().unwrap_or_default();
    whole
        .strip_prefix(here)
        .map(Path::to_owned)
        .unwrap_or(whole)
}
