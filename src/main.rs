//! The `hepaflow` command; see [`hepaflow::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    hepaflow::cli::main()
}
