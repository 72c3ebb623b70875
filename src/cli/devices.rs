//! `hepaflow devices`: what could execute a model here.

use clap::Args;

use super::results::print;
use crate::engine::devices::{self, Cuda};

/// Lists the devices that a model can be executed on.
#[derive(Args)]
pub(super) struct DevicesArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DevicesArgs) -> anyhow::Result<()> {
    let devices = devices::list();
    if args.json {
        return print(&(serde_json::to_string_pretty(&devices)? + "\n"));
    }
    let cpu = &devices.cpu;
    let mut text = format!(
        "cpu   {} threads, {}\n",
        cpu.threads,
        cpu.features.join(" ")
    );
    match &devices.cuda {
        Cuda::Unavailable { reason } => text += &format!("cuda  not available: {reason}\n"),
        Cuda::Available { cards } => {
            for card in cards {
                let (major, minor) = card.compute_capability;
                let gibibytes = card.memory_bytes as f64 / f64::from(1 << 30);
                text += &format!(
                    "cuda:{}  {}, compute capability {major}.{minor}, {gibibytes:.0} GiB\n",
                    card.ordinal, card.name,
                );
            }
        }
    }
    print(&text)
}
