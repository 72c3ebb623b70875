//! `hepaflow pseudonym`: what stands for a patient under a key.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::Args;

use super::BadInput;
use super::results::print;
use crate::config::pseudonym_key;
use crate::domain::{PatientId, PseudonymKey};

/// Print the pseudonyms of patients, one a line, in the order given.
///
/// For whoever may hold the key: to find a patient among answers. Commands that take
/// patients, such as `hepaflow labels import`, know pseudonyms by themselves where they
/// are given the pipeline file or the key. Identifiers come from standard input, one a line, so that none is left in a shell's history.
#[derive(Args)]
#[command(after_long_help = "\
Example:
  hepaflow pseudonym --key hepaflow.key < identifiers.txt")]
pub(super) struct PseudonymArgs {
    /// The key file that the pipeline file names under `[privacy]`.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

/// The key in `file`; a mistyped name does not make a new one.
pub(super) fn existing_key(file: &Path) -> anyhow::Result<PseudonymKey> {
    if !file.exists() {
        return Err(BadInput::new(anyhow!(
            "there is no key file {}; a run with `[privacy]` makes it",
            file.display()
        ))
        .into());
    }
    Ok(pseudonym_key(file).map_err(BadInput::new)?)
}

pub(super) fn run(args: &PseudonymArgs) -> anyhow::Result<()> {
    let key = existing_key(&args.key)?;
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
