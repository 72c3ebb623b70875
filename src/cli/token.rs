//! `hepaflow token`: who may look, and who may act.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::BadInput;
use super::results::print;
use crate::serve::tokens::{Role, Tokens};

/// Makes and takes away the tokens with which people and programs log in.
///
/// A viewer sees everything; an operator may also add, remove and bind streams.
/// The pipeline file names the file of tokens as `tokens` in `[serve]`; a run
/// reads it when it begins. The file holds hashes: a token that is lost is made
/// anew.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  hepaflow token add --file tokens --role viewer screen-1
  hepaflow token list --file tokens
  hepaflow token remove --file tokens screen-1")]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Make a token, and print it this once.
    Add {
        /// The file of tokens; made if it is not there.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        /// What its holder may do.
        #[arg(long, value_enum)]
        role: Role,
        /// Whose it is: one word.
        name: String,
    },
    /// Take a token away.
    Remove {
        /// The file of tokens.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        /// Whose it is.
        name: String,
    },
    /// Show names and roles.
    List {
        /// The file of tokens.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
}

pub(super) fn run(args: &TokenArgs) -> anyhow::Result<()> {
    match &args.what {
        What::Add { file, role, name } => {
            let mut tokens = if file.exists() {
                Tokens::load(file).map_err(BadInput::new)?
            } else {
                Tokens::default()
            };
            let secret = tokens.add(name, *role).map_err(BadInput::new)?;
            tokens.save(file)?;
            eprintln!("This token is shown once; a run that begins from now on knows it:");
            print(&format!("{secret}\n"))
        }
        What::Remove { file, name } => {
            let mut tokens = Tokens::load(file).map_err(BadInput::new)?;
            tokens.remove(name).map_err(BadInput::new)?;
            tokens.save(file)?;
            Ok(())
        }
        What::List { file } => {
            let tokens = Tokens::load(file).map_err(BadInput::new)?;
            let lines = tokens
                .iter()
                .map(|token| format!("{}\t{}\n", token.name, token.role));
            print(&lines.collect::<String>())
        }
    }
}
