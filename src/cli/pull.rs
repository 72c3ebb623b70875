//! `hepaflow pull`: studies out of a PACS, by date, into a listener.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::BadInput;
use crate::config::client_tls;
use crate::domain::{ContentHash, StudyUid};
use crate::ingest::pull::Archive;

/// Have a PACS push its studies of some days to a listener of ours.
///
/// The archive is asked which ultrasound studies it has (C-FIND), and then to
/// push one after the other (C-MOVE) to the title of a running pipeline's
/// listener, which the archive must know with host and port. Studies that were
/// pushed whole are noted by their hash in a file; started again after an
/// interruption, only the others are asked for.
///
/// With --authorities the archive is asked over TLS and in no other way; that what it
/// then pushes is encrypted, too, is a matter of the listener (`certificate` and `key`
/// in the pipeline file) and of the archive's configuration.
#[derive(Args)]
#[command(after_long_help = "\
Examples, beside `hepaflow run pipelines/listener.toml`:
  hepaflow pull --from PACS@pacs.example:104 --to HEPAFLOW --date 20240101-20240131
  hepaflow pull --from PACS@pacs.example:2762 --to HEPAFLOW --date 20240131 \\
    --authorities pacs-ca.pem --certificate ours.pem --key ours.key")]
pub(super) struct PullArgs {
    /// The archive's title, host and port.
    #[arg(long, value_name = "TITLE@HOST:PORT")]
    from: String,
    /// The listener's title, as the archive knows it.
    #[arg(long, value_name = "TITLE")]
    to: String,
    /// Our title when asking.
    #[arg(long = "as", value_name = "TITLE", default_value = "HEPAFLOW")]
    calling: String,
    /// One day, or from one to another.
    #[arg(long, value_name = "YYYYMMDD[-YYYYMMDD]", value_parser = dates)]
    date: String,
    /// Only studies with this modality.
    #[arg(long, default_value = "US")]
    modality: String,
    /// Refuse to begin with more studies than this.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    most: usize,
    /// Where studies are noted that were pushed whole.
    #[arg(long, value_name = "FILE", default_value = "pulled.txt")]
    done: PathBuf,
    /// Give up on an archive that is silent for this long.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "60s")]
    timeout: Duration,
    /// Ask over TLS; the archive's certificate must be for HOST and by one of these,
    /// PEM.
    #[arg(long, value_name = "FILE")]
    authorities: Option<PathBuf>,
    /// Our certificate chain, for an archive that wants one, PEM.
    #[arg(long, value_name = "FILE", requires = "authorities", requires = "key")]
    certificate: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
}

fn dates(text: &str) -> Result<String, String> {
    let is_day = |day: &str| day.len() == 8 && day.bytes().all(|byte| byte.is_ascii_digit());
    let is_right = match text.split_once('-') {
        None => is_day(text),
        Some((from, to)) => is_day(from) && is_day(to) && from <= to,
    };
    if is_right {
        Ok(text.to_owned())
    } else {
        Err("expected 20240131 or 20240101-20240131".to_owned())
    }
}

pub(super) fn run(args: &PullArgs) -> anyhow::Result<()> {
    let from = args.from.split_once('@');
    let (title, address) = from
        .filter(|(title, address)| !title.is_empty() && address.contains(':'))
        .ok_or_else(|| anyhow!("--from {}: expected TITLE@HOST:PORT", args.from))
        .map_err(BadInput)?;
    let own = args.certificate.clone().zip(args.key.clone());
    let tls = args.authorities.as_deref();
    let tls = tls.map(|trusted| client_tls(trusted, own.as_ref()));
    let archive = Archive {
        address: address.to_owned(),
        title: title.to_owned(),
        calling: args.calling.clone(),
        timeout: args.timeout,
        tls: tls.transpose().map_err(BadInput::new)?,
    };
    let mut done = done(&args.done).map_err(BadInput)?;
    let studies = archive
        .find(&args.date, &args.modality, args.most)
        .map_err(BadInput::new)?;
    let total = studies.len();
    let left: Vec<_> = studies
        .into_iter()
        .filter(|study| !done.contains(&mark(study)))
        .collect();
    let bar = ProgressBar::new(left.len() as u64);
    bar.set_style(ProgressStyle::with_template(
        "{bar:30} {pos}/{len} studies  {per_sec}  {eta} left",
    )?);
    let (mut instances, mut incomplete) = (0_u64, 0);
    let before = total - left.len();
    for study in &left {
        let moved = archive.fetch(study, &args.to).map_err(BadInput::new)?;
        instances += u64::from(moved.completed) + u64::from(moved.warnings);
        if moved.failed == 0 {
            note(&args.done, study)?;
            done.insert(mark(study));
        } else {
            incomplete += 1;
            tracing::warn!(failed = moved.failed, "a study was not pushed whole");
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    eprintln!(
        "{total} studies: {} pushed ({instances} instances), {before} pushed before, {incomplete} not whole",
        left.len() - incomplete,
    );
    if incomplete > 0 {
        return Err(BadInput::new(anyhow!(
            "{incomplete} studies were not pushed whole: the listener refused instances, or the archive lacks them; start again to ask once more"
        ))
        .into());
    }
    Ok(())
}

/// A study's mark in the file: not its UID, which leads to a person.
fn mark(study: &StudyUid) -> String {
    ContentHash::of(study.expose().as_bytes()).to_string()
}

fn done(file: &Path) -> anyhow::Result<HashSet<String>> {
    match fs::read_to_string(file) {
        // What a crash cut off is no mark, and its study is asked for again.
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(HashSet::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

fn note(file: &Path, study: &StudyUid) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", file.display());
    let mut options = OpenOptions::new();
    let mut out = options
        .append(true)
        .create(true)
        .open(file)
        .with_context(failed)?;
    writeln!(out, "{}", mark(study)).with_context(failed)?;
    out.sync_data().with_context(failed)
}
