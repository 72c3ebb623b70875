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
use crate::clinical::read_labels;
use crate::store::import_labels;

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

fn import(args: &ImportArgs) -> anyhow::Result<()> {
    let named = || args.file.display().to_string();
    let file = File::open(&args.file)
        .with_context(named)
        .map_err(BadInput::new)?;
    let mut labels = read_labels(file, SystemTime::now())
        .with_context(named)
        .map_err(BadInput::new)?;
    if let Some(key) = args.place.pseudonyms(args.key.as_deref())? {
        labels = labels.renamed(|patient| key.known(patient));
    }
    if !labels.unread.is_empty() {
        eprintln!("columns that are not read: {}", labels.unread.join(", "));
    }
    let mut store = args.place.open_or_make()?;
    let results = store.patient_results()?.into_iter();
    let known: HashSet<_> = results.map(|result| result.patient).collect();
    let mut waiting = labels.patients();
    waiting.retain(|&patient| !known.contains(patient));
    let waiting = waiting.len();
    let actor = actor();
    let imported = import_labels(labels, |changes| store.enter(changes, &actor, &args.reason))?;
    if args.json {
        let mut report = json!(imported);
        report["patients_without_answer"] = waiting.into();
        print(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    } else {
        print(&format!(
            "{} rows taken: {} values entered, {} corrected, {} known already\n",
            imported.rows, imported.entered, imported.corrected, imported.unchanged
        ))?;
        if waiting > 0 {
            eprintln!("{waiting} of the patients have no answer yet: their values wait for them");
        }
    }
    if imported.bad.is_empty() {
        return Ok(());
    }
    let bad = imported.bad.iter();
    let listed: Vec<_> = bad
        .map(|bad| format!("line {}: {}", bad.line, bad.problem))
        .collect();
    Err(BadInput::new(anyhow!(
        "{} rows of {} were left out:\n  {}",
        imported.bad.len(),
        args.file.display(),
        listed.join("\n  ")
    ))
    .into())
}
