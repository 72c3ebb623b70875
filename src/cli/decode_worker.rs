//! `hepaflow decode-worker`: the other side of [`crate::ingest::sandbox`].

use clap::Args;

use crate::ingest::sandbox;

/// Reads DICOM files for another hepaflow process; of no use by hand.
#[derive(Args)]
pub(super) struct WorkerArgs {
    /// The most that this process may map, in bytes.
    #[arg(long)]
    memory: u64,
}

pub(super) fn run(args: &WorkerArgs) -> anyhow::Result<()> {
    Ok(sandbox::work(args.memory)?)
}
