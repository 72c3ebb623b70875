//! Waiting for something that another program does.

use std::thread;
use std::time::{Duration, Instant};

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
        thread::sleep(Duration::from_millis(100));
    }
}
