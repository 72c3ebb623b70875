//! What ends a run before its sources do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;

use crate::dataflow::Control;

/// The first Ctrl-C or SIGTERM ends the run in order, a second one at once.
pub(super) fn end_on_signal(control: &Control) -> anyhow::Result<()> {
    let control = control.clone();
    // A run that ends for another reason, such as its group's end, was not asked yet.
    let asked = AtomicBool::new(false);
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("ending: clips under way are finished first; once more ends at once");
        control.stop();
    })
    .context("cannot listen for signals")
}

/// Ends the run in order after so long.
pub(super) fn end_after(duration: Option<Duration>, control: &Control) -> anyhow::Result<()> {
    let Some(duration) = duration else {
        return Ok(());
    };
    let control = control.clone();
    // Left to itself: it ends with the process if the run ends before.
    std::thread::Builder::new()
        .name("timer".to_owned())
        .spawn(move || {
            std::thread::sleep(duration);
            control.stop();
        })?;
    Ok(())
}
