//! `hepaflow pseudonym`: what stands for a patient under a key.

use std::io::BufRead;
use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;

use super::BadInput;
use super::results::print;
use crate::config::pseudonym_key;
use crate::domain::PatientId;

/// Print the pseudonyms of patients, one a line, in the order given.
///
/// For whoever may hold the key: to find a patient among answers, or to give
/// laboratory values the pseudonyms that a run with `[privacy]` uses. Identifiers
/// come from standard input, one a line, so that none is left in a shell's history.
#[derive(Args)]
#[command(after_long_help = "\
Example:
  hepaflow pseudonym --key hepaflow.key < identifiers.txt")]
pub(super) struct PseudonymArgs {
    /// The key file that the pipeline file names under `[privacy]`.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

pub(super) fn run(args: &PseudonymArgs) -> anyhow::Result<()> {
    if !args.key.exists() {
        return Err(BadInput::new(anyhow!(
            "there is no key file {}; a run with `[privacy]` makes it",
            args.key.display()
        ))
        .into());
    }
    let key = pseudonym_key(&args.key).map_err(BadInput::new)?;
    let mut text = String::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let identifier = line.trim();
        if !identifier.is_empty() {
            text += key.patient(&PatientId::new(identifier)).expose();
            text.push('\n');
        }
    }
    print(&text)
}
