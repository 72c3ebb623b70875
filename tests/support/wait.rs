//! Waiting for something that another program or thread does.
#![allow(dead_code, reason = "each test uses a part")]

use std::thread;
use std::time::{Duration, Instant};

/// Between looks.
const PAUSE: Duration = Duration::from_millis(20);

/// What `found` gives, asked until it gives something or `patience` is over, which
/// fails the test.
#[track_caller]
pub(crate) fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut found: impl FnMut() -> Option<T>,
) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(begin.elapsed() < patience, "waited in vain for {what}");
        thread::sleep(PAUSE);
    }
}

/// Returns once `is_so`; fails the test when `patience` is over.
#[track_caller]
pub(crate) fn wait_until(what: &str, patience: Duration, mut is_so: impl FnMut() -> bool) {
    wait_for(what, patience, || is_so().then_some(()));
}
