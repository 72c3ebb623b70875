use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// When a frame was acquired, in nanoseconds since the start of its own stream.
///
/// Event time comes from the recording or the scanner, never from the clock of
/// this machine, so that replaying the same bytes gives the same times.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct EventTime(u64);

impl EventTime {
    /// The time `nanoseconds` after the start of the stream.
    pub const fn from_nanos(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// Nanoseconds since the start of the stream.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Seconds since the start of the stream.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// How long after `earlier` this is, or `None` if it lies before it.
    ///
    /// ```
    /// use hepaflow::domain::EventTime;
    /// use std::time::Duration;
    /// let (a, b) = (EventTime::from_nanos(10), EventTime::from_nanos(25));
    /// assert_eq!(b.since(a), Some(Duration::from_nanos(15)));
    /// assert_eq!(a.since(b), None);
    /// ```
    pub fn since(self, earlier: Self) -> Option<Duration> {
        self.0.checked_sub(earlier.0).map(Duration::from_nanos)
    }
}

impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}s", self.as_secs_f64())
    }
}
