//! `hepaflow audit`: who changed what, when and why.

use std::collections::HashMap;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use serde_json::json;

use super::results::{Format, Place, Rows, model_name, print};
use crate::domain::{ModelHash, Stage, StageRange};
use crate::store::{LogHead, LoggedAnswer, LoggedChange, Store, StoredModel};

/// The store's logs: who entered or withdrew which fact, when and why, and which
/// answers became what by it, or by clips, under which model.
///
/// Rows are only ever added, and each is bound to the one before it by its hash.
#[derive(Args)]
pub(super) struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Subcommand)]
enum AuditCommand {
    /// Reads both logs whole and names every row that was changed, taken out, put
    /// elsewhere or cut off; the exit code is then 1.
    Verify(VerifyArgs),
    /// Shows the log of facts.
    Show(ShowArgs),
    /// Shows the log of answers: every change of an answer, and what it came by.
    Answers(AnswersArgs),
}

#[derive(Args)]
struct VerifyArgs {
    #[command(flatten)]
    place: Place,
    /// The end that an earlier `verify` printed. Whoever can write the store can
    /// cut its log short and move the end that it notes: kept elsewhere, this one
    /// shows it.
    #[arg(long, value_name = "NUMBER:HASH")]
    end: Option<LogHead>,
    /// The same, of the log of answers.
    #[arg(long, value_name = "NUMBER:HASH")]
    answers_end: Option<LogHead>,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ShowArgs {
    #[command(flatten)]
    place: Place,
    /// Leave out the rows up to this number.
    #[arg(long, default_value_t = 0)]
    after: u64,
    #[command(flatten)]
    format: Format,
}

#[derive(Args)]
struct AnswersArgs {
    #[command(flatten)]
    show: ShowArgs,
    /// Only this patient's.
    #[arg(long)]
    patient: Option<String>,
}

pub(super) fn run(args: AuditArgs) -> anyhow::Result<()> {
    match args.command {
        AuditCommand::Verify(args) => verify(&args),
        AuditCommand::Show(args) => args.format.print(&show(&args.place.open()?, args.after)?),
        AuditCommand::Answers(args) => {
            let store = args.show.place.open()?;
            let rows = answers(&store, args.show.after, args.patient.as_deref())?;
            args.show.format.print(&rows)
        }
    }
}

fn verify(args: &VerifyArgs) -> anyhow::Result<()> {
    let store = args.place.open()?;
    let found = [
        ("facts", store.verify_facts(args.end.as_ref())?),
        ("answers", store.verify_answers(args.answers_end.as_ref())?),
    ];
    let faults: Vec<_> = found
        .iter()
        .flat_map(|(log, verified)| verified.faults.iter().map(move |fault| (log, fault)))
        .map(|(log, fault)| format!("{log}: {fault}"))
        .collect();
    let [(_, facts), (_, answers)] = &found;
    if args.json {
        let found = json!({
            "rows": facts.rows,
            "end": facts.head.to_string(),
            "answer_rows": answers.rows,
            "answers_end": answers.head.to_string(),
            "faults": faults,
        });
        print(&(serde_json::to_string_pretty(&found)? + "\n"))?;
    } else if faults.is_empty() {
        print(&format!(
            "{} rows, all as they were written. End: {}\n\
             {} rows of the log of answers, all as they were written. End: {}\n",
            facts.rows, facts.head, answers.rows, answers.head
        ))?;
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(anyhow!(
        "the log is not as it was written:\n  {}",
        faults.join("\n  ")
    ))
}

fn answers(store: &Store, mut after: u64, patient: Option<&str>) -> anyhow::Result<Rows> {
    let models = store.models()?;
    let mut rows = Vec::new();
    loop {
        let more = store.answers_after(after, 4096)?;
        let Some(last) = more.last() else { break };
        after = last.number;
        rows.extend(
            more.iter()
                .filter(|row| patient.is_none_or(|patient| row.patient.expose() == patient))
                .map(|row| answer_row(row, &models)),
        );
    }
    Ok(Rows {
        columns: vec![
            "number",
            "time",
            "actor",
            "reason",
            "change",
            "patient",
            "answer",
            "p_f2_or_more",
            "clips",
            "current",
            "abstention",
            "model",
            "model_hash",
        ],
        rows,
        empty: "No answer has changed yet.",
    })
}

fn answer_row(
    row: &LoggedAnswer,
    models: &HashMap<ModelHash, StoredModel>,
) -> Vec<serde_json::Value> {
    let classes = models
        .get(&row.model)
        .map_or(&[][..], |model| &model.classes);
    let result = row.answer.as_ref();
    let likeliest = result.and_then(|result| classes.get(result.likeliest()?));
    vec![
        json!(row.number),
        json!(humantime::format_rfc3339_millis(row.time).to_string()),
        json!(row.actor),
        json!(row.reason),
        json!(if result.is_some() {
            "stands"
        } else {
            "withdrawn"
        }),
        json!(row.patient.expose()),
        json!(likeliest.map(StageRange::to_string)),
        json!(result.and_then(|result| result.at_least(Stage::F2, classes))),
        json!(result.map(|result| result.clips)),
        json!(result.map(|result| result.current)),
        json!(result.and_then(|result| result.abstention.map(|why| why.to_string()))),
        json!(model_name(models, row.model)),
        json!(row.model.to_string()),
    ]
}

fn show(store: &Store, mut after: u64) -> anyhow::Result<Rows> {
    let mut rows = Vec::new();
    loop {
        let more = store.facts_after(after, 4096)?;
        let Some(last) = more.last() else { break };
        after = last.number;
        rows.extend(more.iter().map(row));
    }
    Ok(Rows {
        columns: vec![
            "number", "time", "actor", "reason", "change", "kind", "fact",
        ],
        rows,
        empty: "Nothing was entered yet.",
    })
}

fn row(logged: &LoggedChange) -> Vec<serde_json::Value> {
    let fact = logged.change.fact();
    let change = if logged.change.difference() > 0 {
        "entered"
    } else {
        "withdrawn"
    };
    let about = serde_json::to_value(fact).unwrap_or_default();
    vec![
        json!(logged.number),
        json!(humantime::format_rfc3339_millis(logged.time).to_string()),
        json!(logged.actor),
        json!(logged.reason),
        json!(change),
        json!(fact.kind()),
        about.get(fact.kind()).cloned().unwrap_or_default(),
    ]
}
