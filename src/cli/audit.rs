//! `hepaflow audit`: who changed what, when and why.

use anyhow::anyhow;
use clap::{Args, Subcommand};
use serde_json::json;

use super::results::{Format, Place, Rows, print};
use crate::store::{LogHead, LoggedChange, Store};

/// The store's log of facts: who entered or withdrew what, when and why.
///
/// Rows are only ever added, and each is bound to the one before it by its hash.
#[derive(Args)]
pub(super) struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Subcommand)]
enum AuditCommand {
    /// Reads the whole log and names every row that was changed, taken out, put
    /// elsewhere or cut off; the exit code is then 1.
    Verify(VerifyArgs),
    /// Shows the log.
    Show(ShowArgs),
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

pub(super) fn run(args: AuditArgs) -> anyhow::Result<()> {
    match args.command {
        AuditCommand::Verify(args) => verify(&args),
        AuditCommand::Show(args) => args.format.print(&show(&args.place.open()?, args.after)?),
    }
}

fn verify(args: &VerifyArgs) -> anyhow::Result<()> {
    let verified = args.place.open()?.verify_facts(args.end.as_ref())?;
    let faults: Vec<_> = verified.faults.iter().map(ToString::to_string).collect();
    if args.json {
        let found = json!({
            "rows": verified.rows,
            "end": verified.head.to_string(),
            "faults": faults,
        });
        print(&(serde_json::to_string_pretty(&found)? + "\n"))?;
    } else if faults.is_empty() {
        print(&format!(
            "{} rows, all as they were written. End: {}\n",
            verified.rows, verified.head
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

fn show(store: &Store, mut after: u64) -> anyhow::Result<Rows> {
    let mut rows = Vec::new();
    loop {
        let more = store.facts_after(after, 4096)?;
        let Some(last) = more.last() else { break };
        after = last.number;
        rows.extend(more.into_iter().map(row));
    }
    Ok(Rows {
        columns: vec![
            "number", "time", "actor", "reason", "change", "kind", "fact",
        ],
        rows,
        empty: "Nothing was entered yet.",
    })
}

fn row(logged: LoggedChange) -> Vec<serde_json::Value> {
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
