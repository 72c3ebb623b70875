//! Commands that this build has not, so that who asks is told how to get them.

use anyhow::anyhow;
use clap::Args;

use super::BadInput;

/// Not in this build: cargo build --release --features train
#[derive(Args)]
pub(super) struct AbsentArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<String>,
}

pub(super) fn run(_: &AbsentArgs) -> anyhow::Result<()> {
    Err(BadInput(anyhow!(
        "this build of hepaflow cannot train: build it with `cargo build --release --features train`"
    ))
    .into())
}
