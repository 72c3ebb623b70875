//! `hepaflow outbox`: changes of answers on their way out.

use anyhow::anyhow;
use clap::{Args, Subcommand};
use serde_json::json;

use super::BadInput;
use super::results::{Format, Place, Rows, model_name, print};
use crate::store::{Parked, PatientChange, Store};

/// Changes of answers on their way to the pipeline's sinks.
///
/// A sink that is down is tried again for ever. A webhook or an archive that takes
/// changes but refuses one of them, again and again, would hold up all behind it: that
/// one is parked. It is kept, counted in the metric `hepaflow_outbox_parked`, and sent again
/// when you say so; until then later changes of the same answer go on being sent.
#[derive(Args)]
pub(super) struct OutboxArgs {
    #[command(subcommand)]
    command: OutboxCommand,
}

#[derive(Subcommand)]
enum OutboxCommand {
    /// Shows how many changes wait, and how many are parked, by sink.
    List(ShowArgs),
    /// Shows what is parked: since when, and what the sink said.
    ///
    /// An outdated change is one behind which the sink has taken a later one of the
    /// same answer: sent again, it would put the old answer in the new one's place.
    Parked(ShowArgs),
    /// Lets parked changes that are not outdated wait again, in their old places: a run
    /// that is going sends them at once.
    Retry(PickArgs),
    /// Forgets parked changes for good.
    Discard(PickArgs),
}

#[derive(Args)]
struct ShowArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

#[derive(Args)]
struct PickArgs {
    /// The sink's name in the pipeline file.
    sink: String,
    /// Of its parked changes only this one, as `parked` shows it.
    #[arg(long)]
    event: Option<String>,
    #[command(flatten)]
    place: Place,
}

pub(super) fn run(args: OutboxArgs) -> anyhow::Result<()> {
    match args.command {
        OutboxCommand::List(args) => args.format.print(&list(&args.place.open()?)?),
        OutboxCommand::Parked(args) => args.format.print(&parked(&args.place.open()?)?),
        OutboxCommand::Retry(args) => {
            let count = args
                .place
                .open()?
                .unpark(&args.sink, args.event.as_deref())?;
            args.told(count, "wait again")
        }
        OutboxCommand::Discard(args) => {
            let count = args
                .place
                .open()?
                .discard(&args.sink, args.event.as_deref())?;
            args.told(count, "are forgotten")
        }
    }
}

impl PickArgs {
    fn told(&self, count: u64, what: &str) -> anyhow::Result<()> {
        if count == 0 && self.event.is_some() {
            return Err(BadInput::new(anyhow!(
                "sink `{}` has no such parked change, or it is outdated: `hepaflow outbox parked` \
                 shows them",
                self.sink
            ))
            .into());
        }
        print(&format!(
            "{count} parked changes of sink `{}` {what}\n",
            self.sink
        ))
    }
}

fn list(store: &Store) -> anyhow::Result<Rows> {
    let rows = store.waiting()?.into_iter();
    Ok(Rows {
        columns: vec!["sink", "waiting", "parked"],
        rows: rows
            .map(|(sink, waiting, parked)| vec![json!(sink), json!(waiting), json!(parked)])
            .collect(),
        empty: "Nothing waits.",
    })
}

fn parked(store: &Store) -> anyhow::Result<Rows> {
    let models = store.models()?;
    let time = |time| json!(humantime::format_rfc3339_millis(time).to_string());
    let row = |parked: &Parked| {
        let (kind, model) = match &parked.outgoing.change {
            PatientChange::Stands(result) => ("answer", result.model),
            PatientChange::Withdrawn(_, model) => ("withdrawn", *model),
        };
        vec![
            json!(parked.sink),
            json!(parked.outgoing.event),
            json!(parked.outgoing.change.patient().expose()),
            json!(model_name(&models, model)),
            json!(kind),
            time(parked.outgoing.changed),
            time(parked.parked),
            json!(parked.refusal),
            json!(parked.outdated),
        ]
    };
    Ok(Rows {
        columns: vec![
            "sink", "event", "patient", "model", "kind", "changed", "parked", "refusal", "outdated",
        ],
        rows: store.parked()?.iter().map(row).collect(),
        empty: "Nothing is parked.",
    })
}
