//! Log lines on stderr, beside a progress line if there is one.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use indicatif::ProgressBar;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The line that log lines have to step around.
pub(super) static BAR: OnceLock<ProgressBar> = OnceLock::new();

/// `HEPAFLOW_LOG` chooses what is logged, as in `HEPAFLOW_LOG=debug`.
pub(super) fn to_stderr(json: bool) {
    let filter = EnvFilter::try_from_env("HEPAFLOW_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let logger = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(Stderr);
    if json {
        logger.json().init();
    } else {
        logger.init();
    }
}

/// Stderr, above the progress line if there is one.
#[derive(Clone, Copy, Debug)]
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match BAR.get() {
            Some(bar) => bar.suspend(|| io::stderr().write(bytes)),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl MakeWriter<'_> for Stderr {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}
