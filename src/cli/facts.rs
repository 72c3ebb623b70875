//! `hepaflow patients` and `hepaflow exams`: who is who, and whose is what.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};

use super::results::{Place, print};
use super::{BadInput, actor};
use crate::clinical::{Deletion, Exam, Fact};
use crate::domain::{ContentHash, PatientId};
use crate::store::{Change, Effect, Store};

/// Which store, and why it is changed.
#[derive(Args)]
pub(super) struct Why {
    #[command(flatten)]
    place: Place,
    /// The key of the pseudonyms, where the store holds some and no pipeline file with
    /// `[privacy]` is named: patients are then called by their identifiers.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Why, for the audit log.
    #[arg(long, default_value = "by hand")]
    reason: String,
}

impl Why {
    pub(super) fn open(&self) -> anyhow::Result<Store> {
        self.place.open()
    }

    /// Takes one change into the log, and says what it did.
    pub(super) fn enter(&self, store: &mut Store, change: Change) -> anyhow::Result<()> {
        let change = match self.place.pseudonyms(self.key.as_deref())? {
            Some(key) => change.renamed(|patient| key.known(patient)),
            None => change,
        };
        let receipt = store.enter(&[change], &actor(), &self.reason)?;
        let outcome = receipt.outcomes.into_iter().next();
        let effect = outcome.context("the log gave no answer")?;
        print(&match effect.map_err(BadInput::new)? {
            Effect::Logged(number) => format!("entered as number {number} of the log\n"),
            Effect::Corrected(number) => {
                format!("entered as number {number} of the log, in place of what stood there\n")
            }
            Effect::Unchanged => "known already: nothing is changed\n".to_owned(),
        })
    }
}

/// Says which records are one person, and what must not be used.
///
/// A run that is going follows within a second, otherwise the next one does.
#[derive(Args)]
pub(super) struct PatientsArgs {
    #[command(subcommand)]
    command: PatientsCommand,
}

#[derive(Subcommand)]
enum PatientsCommand {
    /// Says that record FROM is the same person as record INTO: all that is known
    /// of FROM counts for INTO from now on.
    Merge(PairArgs),
    /// Takes a merge back.
    Unmerge(PairArgs),
    /// Takes all clips and values of a record out of every answer. Nothing is
    /// erased: `restore` brings them back.
    Delete(PatientArgs),
    /// Takes a deletion back.
    Restore(PatientArgs),
}

#[derive(Args)]
struct PairArgs {
    /// The record that is merged.
    from: String,
    /// The record that it counts for.
    into: String,
    #[command(flatten)]
    why: Why,
}

#[derive(Args)]
struct PatientArgs {
    /// The record.
    patient: String,
    #[command(flatten)]
    why: Why,
}

pub(super) fn patients(args: PatientsArgs) -> anyhow::Result<()> {
    let merge = |pair: &PairArgs| {
        Fact::Merge(
            PatientId::new(pair.from.as_str()),
            PatientId::new(pair.into.as_str()),
        )
    };
    let deletion =
        |one: &PatientArgs| Fact::Deletion(Deletion::Patient(PatientId::new(one.patient.as_str())));
    let (why, change) = match args.command {
        PatientsCommand::Merge(pair) => {
            let change = Change::Enter(merge(&pair));
            (pair.why, change)
        }
        PatientsCommand::Unmerge(pair) => {
            let change = Change::Withdraw(merge(&pair));
            (pair.why, change)
        }
        PatientsCommand::Delete(one) => {
            let change = Change::Enter(deletion(&one));
            (one.why, change)
        }
        PatientsCommand::Restore(one) => {
            let change = Change::Withdraw(deletion(&one));
            (one.why, change)
        }
    };
    why.enter(&mut why.open()?, change)
}

/// Says whose recordings are, where that is known better than the recordings say.
///
/// A recording is named by its content, as `hepaflow results clips` shows it. A
/// run that is going follows within a second, otherwise the next one does.
#[derive(Args)]
pub(super) struct ExamsArgs {
    #[command(subcommand)]
    command: ExamsCommand,
}

#[derive(Subcommand)]
enum ExamsCommand {
    /// Binds a recording, or a part of it, to a patient. Where two bindings
    /// overlap the later one holds.
    Bind(BindArgs),
    /// Takes a binding back.
    Unbind(BindArgs),
    /// Takes a recording out of every answer. Nothing is erased.
    Delete(ContentArgs),
    /// Takes a deletion back.
    Restore(ContentArgs),
}

#[derive(Args)]
struct BindArgs {
    /// The recording's content: the first digits are enough.
    content: String,
    /// Whose it is.
    #[arg(long)]
    patient: String,
    /// The first frame that is.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// The first frame that no longer is; default: all to the end.
    #[arg(long)]
    until: Option<u64>,
    #[command(flatten)]
    why: Why,
}

#[derive(Args)]
struct ContentArgs {
    /// The recording's content: the first digits are enough.
    content: String,
    #[command(flatten)]
    why: Why,
}

impl BindArgs {
    fn fact(&self, store: &Store) -> anyhow::Result<Fact> {
        Ok(Fact::Exam(Exam {
            content: find_content(store, &self.content)?,
            from: self.from,
            until: self.until.unwrap_or(i64::MAX as u64),
            // The log numbers it.
            number: 0,
            patient: PatientId::new(self.patient.as_str()),
        }))
    }
}

impl ContentArgs {
    fn fact(&self, store: &Store) -> anyhow::Result<Fact> {
        let content = find_content(store, &self.content)?;
        Ok(Fact::Deletion(Deletion::Stream(content)))
    }
}

pub(super) fn exams(args: ExamsArgs) -> anyhow::Result<()> {
    match args.command {
        ExamsCommand::Bind(args) => {
            let mut store = args.why.open()?;
            let fact = args.fact(&store)?;
            args.why.enter(&mut store, Change::Enter(fact))
        }
        ExamsCommand::Unbind(args) => {
            let mut store = args.why.open()?;
            let fact = args.fact(&store)?;
            args.why.enter(&mut store, Change::Withdraw(fact))
        }
        ExamsCommand::Delete(args) => {
            let mut store = args.why.open()?;
            let fact = args.fact(&store)?;
            args.why.enter(&mut store, Change::Enter(fact))
        }
        ExamsCommand::Restore(args) => {
            let mut store = args.why.open()?;
            let fact = args.fact(&store)?;
            args.why.enter(&mut store, Change::Withdraw(fact))
        }
    }
}

/// The one recording of the store whose content begins so.
fn find_content(store: &Store, text: &str) -> anyhow::Result<ContentHash> {
    if let Ok(content) = text.parse() {
        return Ok(content);
    }
    let found = store.contents(text)?;
    match found[..] {
        [content] => Ok(content),
        [] => Err(BadInput::new(anyhow!(
            "no recording's content begins with {text}: `hepaflow results clips` shows them"
        ))
        .into()),
        _ => Err(BadInput::new(anyhow!(
            "{} recordings' contents begin with {text}: give more digits",
            found.len()
        ))
        .into()),
    }
}
