//! How a live source is kept: when it counts as lost, and when to try again.
//!
//! A scanner is switched off at night, its cable is pulled, its network has an
//! hour of trouble. None of that ends a live stream: the reader takes down what
//! is left, pauses, and opens it again, for ever. Only what no time can mend (a
//! launch line that is none, a plugin that is not installed) ends it. Called by
//! the reader.

use std::time::{Duration, Instant};

use super::IngestError;
use crate::metrics::Interruption;

/// When a live source counts as lost, and when to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconnect {
    /// A source that has given a frame and then none for this long is lost.
    pub stall: Duration,
    /// The pause before the first attempt to open it again; each attempt that
    /// fails doubles it.
    pub shortest_pause: Duration,
    /// Pauses grow no longer than this.
    pub longest_pause: Duration,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(4),
            shortest_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(10),
        }
    }
}

/// The pauses between attempts.
#[derive(Debug)]
pub(super) struct Backoff {
    policy: Reconnect,
    pause: Duration,
}

impl Backoff {
    pub(super) fn new(policy: Reconnect) -> Self {
        Self {
            policy,
            pause: policy.shortest_pause,
        }
    }

    /// How long to pause after a connection that gave frames for `held`, or
    /// gave none. One that held longer than the pause before it was a real
    /// one, and the pauses begin anew; one that did not might be a source that
    /// dies of being opened.
    pub(super) fn after(&mut self, held: Option<Duration>) -> Duration {
        if held.is_some_and(|held| held > self.pause) {
            self.pause = self.policy.shortest_pause;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(self.policy.longest_pause);
        pause
    }
}

/// What a person is told of an outage: once that it began, once that it is
/// over; every attempt in between is for the debug log.
#[derive(Debug, Default)]
pub(super) struct Outage {
    began: Option<Instant>,
    attempts: u32,
}

impl Outage {
    /// The source is not there.
    pub(super) fn noted(&mut self, source: &str, why: Interruption, detail: &str) {
        self.attempts += 1;
        if self.began.is_none() {
            self.began = Some(Instant::now());
            tracing::warn!(
                source,
                reason = why.as_str(),
                detail,
                "a live source is lost; it is tried again until it is back"
            );
        } else {
            tracing::debug!(source, attempts = self.attempts, detail, "still lost");
        }
    }

    /// The source gives frames.
    pub(super) fn over(&mut self, source: &str) {
        let Some(began) = self.began.take() else {
            return;
        };
        tracing::info!(
            source,
            seconds = began.elapsed().as_secs_f64(),
            attempts = self.attempts,
            "a live source is back"
        );
        self.attempts = 0;
    }
}

/// How the metrics name an interruption.
pub(super) fn interruption(error: &IngestError) -> Interruption {
    match error {
        IngestError::Stalled { .. } => Interruption::Stalled,
        IngestError::NeverStarted { .. } | IngestError::NoFrames { .. } => Interruption::NoFrames,
        _ => Interruption::Failed,
    }
}

/// Whether no time can mend `error`. A source that has given frames before is
/// rightly described, so whatever ails it now may pass.
pub(super) fn is_lasting(error: &IngestError, gave_frames: bool) -> bool {
    match error {
        IngestError::BadLaunch { .. }
        | IngestError::NoPatient { .. }
        | IngestError::Broken { .. } => true,
        IngestError::GStreamer { .. }
        | IngestError::NoDecoder { .. }
        | IngestError::CropOutside { .. } => !gave_frames,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_a_connection_that_held() {
        let mut backoff = Backoff::new(Reconnect {
            stall: Duration::from_secs(1),
            shortest_pause: Duration::from_millis(100),
            longest_pause: Duration::from_millis(500),
        });
        let mut pauses = |held: &[Option<u64>]| -> Vec<u128> {
            held.iter()
                .map(|held| backoff.after(held.map(Duration::from_millis)).as_millis())
                .collect()
        };
        assert_eq!(pauses(&[None; 5]), [100, 200, 400, 500, 500]);
        // It dies of being opened: no reason to be quick.
        assert_eq!(pauses(&[Some(3), Some(500)]), [500, 500]);
        assert_eq!(pauses(&[Some(501), None, Some(1000)]), [100, 200, 100]);
    }
}
