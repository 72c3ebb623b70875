//! The command line: one file per sub-command, and what they share.
//!
//! Exit codes: 0 done, 2 bad input or configuration, 1 anything else. Results
//! go to stdout or to files, errors to stderr.

#[cfg(feature = "gstreamer")]
mod phantom;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "hepaflow",
    version,
    about,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[cfg(feature = "gstreamer")]
    Phantom(phantom::Phantom),
}

/// Marks an error as the user's to mend: it ends the process with code 2.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BadInput(#[from] anyhow::Error);

impl BadInput {
    /// Wraps whatever explains itself.
    pub fn new(error: impl Into<anyhow::Error>) -> Self {
        Self(error.into())
    }
}

/// Parses the command line, runs the command, and turns errors into exit codes.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            let bad_input = error.chain().any(|cause| cause.is::<BadInput>());
            ExitCode::from(if bad_input { 2 } else { 1 })
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        #[cfg(feature = "gstreamer")]
        Command::Phantom(args) => phantom::run(&args),
    }
}
