//! `hepaflow ingest`: what becomes of a recording before a model sees it.

mod preview;
mod sheet;

use clap::{Args, Subcommand};

/// See what becomes of a recording before a model sees it.
#[derive(Args)]
pub(super) struct IngestArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Preview(preview::PreviewArgs),
}

pub(super) fn run(args: &IngestArgs) -> anyhow::Result<()> {
    match &args.command {
        Command::Preview(args) => preview::run(args),
    }
}
