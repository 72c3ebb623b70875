//! `hepaflow labels`: what laboratories and pathology found.

use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use serde_json::json;

use super::results::{Place, print};
use super::{BadInput, actor};
use crate::clinical::{BadRow, read_labels};
use crate::store::{Change, Effect};

/// Rows that one transaction takes.
const ROWS_A_COMMIT: usize = 500;

/// Blood tests, elastography and pathology.
#[derive(Args)]
pub(super) struct LabelsArgs {
    #[command(subcommand)]
    command: LabelsCommand,
}

#[derive(Subcommand)]
enum LabelsCommand {
    Import(ImportArgs),
}

/// Takes a CSV table into the store's log, where a run that is going finds it
/// within a second, and the next run otherwise.
///
/// The columns are those of a cohort's cohort.csv: `patient_id`, `age_years`,
/// `ast_u_l`, `alt_u_l`, `platelets_10e9_l`, `swe_kpa`, `stage`; and, where they
/// are known, `date` (or `swe_date`, `stage_date`) as YYYY-MM-DD, `swe_method`
/// (`super_sonic`, `mindray_ste`, `mindray_stq` or `transient`) and
/// `ast_upper_limit_u_l`. Of several values of a patient the latest holds; one
/// with the date of an earlier one corrects it.
///
/// Bad rows are named by line and left out, the others are taken; the exit code
/// is then 2. Importing a table again changes nothing. Patients need not be
/// known yet: their values wait for them.
///
/// Where patients have pseudonyms, give `--pipeline` or `--key`: the table's
/// identifiers become the pseudonyms that the run uses. Pseudonyms stay as they are.
#[derive(Args)]
struct ImportArgs {
    /// The table.
    #[arg(value_name = "FILE.csv")]
    file: PathBuf,
    #[command(flatten)]
    place: Place,
    /// The key of the pseudonyms, where the store holds some and no pipeline file with
    /// `[privacy]` is named.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Why, for the audit log.
    #[arg(long, default_value = "labels import")]
    reason: String,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &LabelsArgs) -> anyhow::Result<()> {
    match &args.command {
        LabelsCommand::Import(args) => import(args),
    }
}

/// What became of a table.
#[derive(Default)]
struct Report {
    taken: usize,
    entered: usize,
    corrected: usize,
    unchanged: usize,
    bad: Vec<BadRow>,
}

fn import(args: &ImportArgs) -> anyhow::Result<()> {
    let named = || args.file.display().to_string();
    let file = File::open(&args.file)
        .with_context(named)
        .map_err(BadInput::new)?;
    let mut labels = read_labels(file, SystemTime::now())
        .with_context(named)
        .map_err(BadInput::new)?;
    if let Some(key) = args.place.pseudonyms(args.key.as_deref())? {
        for row in &mut labels.rows {
            let facts = std::mem::take(&mut row.facts).into_iter();
            row.facts = facts
                .map(|fact| fact.renamed(|patient| key.known(patient)))
                .collect();
        }
    }
    if !labels.unread.is_empty() {
        eprintln!("columns that are not read: {}", labels.unread.join(", "));
    }
    let mut store = args.place.open_or_make()?;
    let known: HashSet<_> = store
        .patient_results()?
        .into_iter()
        .map(|result| result.patient)
        .collect();
    let waiting: HashSet<_> = labels
        .rows
        .iter()
        .filter_map(|row| row.facts.first()?.patient())
        .filter(|&patient| !known.contains(patient))
        .collect();
    let waiting = waiting.len();
    let mut report = Report {
        bad: labels.bad,
        ..Report::default()
    };
    let (actor, mut rows) = (actor(), labels.rows.into_iter());
    loop {
        let rows: Vec<_> = rows.by_ref().take(ROWS_A_COMMIT).collect();
        if rows.is_empty() {
            break;
        }
        let lines: Vec<_> = rows
            .iter()
            .flat_map(|row| row.facts.iter().map(|_| row.line))
            .collect();
        report.taken += rows.len();
        let changes: Vec<_> = rows.into_iter().flat_map(|row| row.facts).collect();
        let changes: Vec<_> = changes.into_iter().map(Change::Enter).collect();
        let receipt = store.enter(&changes, &actor, &args.reason)?;
        for (line, outcome) in lines.into_iter().zip(receipt.outcomes) {
            match outcome {
                Ok(Effect::Logged(_)) => report.entered += 1,
                Ok(Effect::Corrected(_)) => report.corrected += 1,
                Ok(Effect::Unchanged) => report.unchanged += 1,
                Err(error) => report.bad.push(BadRow {
                    line,
                    problem: error.to_string(),
                }),
            }
        }
    }
    report.bad.sort_by_key(|bad| bad.line);
    if args.json {
        let bad = report.bad.iter();
        let bad: Vec<_> = bad
            .map(|bad| json!({ "line": bad.line, "problem": bad.problem }))
            .collect();
        let report = json!({
            "rows_taken": report.taken,
            "values_entered": report.entered,
            "values_corrected": report.corrected,
            "values_unchanged": report.unchanged,
            "patients_without_answer": waiting,
            "bad_rows": bad,
        });
        print(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    } else {
        print(&format!(
            "{} rows taken: {} values entered, {} corrected, {} known already\n",
            report.taken, report.entered, report.corrected, report.unchanged
        ))?;
        if waiting > 0 {
            eprintln!("{waiting} of the patients have no answer yet: their values wait for them");
        }
    }
    if report.bad.is_empty() {
        return Ok(());
    }
    let listed: Vec<_> = report
        .bad
        .iter()
        .map(|bad| format!("line {}: {}", bad.line, bad.problem))
        .collect();
    Err(BadInput::new(anyhow!(
        "{} rows of {} were left out:\n  {}",
        report.bad.len(),
        args.file.display(),
        listed.join("\n  ")
    ))
    .into())
}
