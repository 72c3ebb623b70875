//! Progress of a run on stderr: a live line on a terminal, a plain line now and
//! then elsewhere. It only reads the run's counters.

use std::io::{self, IsTerminal};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Sender, bounded};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::log::BAR;
use crate::metrics::Metrics;

const REDRAW: Duration = Duration::from_millis(250);
const PLAIN_LINE: Duration = Duration::from_secs(5);

/// Shows how far a run is until it is dropped.
#[derive(Debug)]
pub(super) struct Progress {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts showing; `streams` are to be read, for at most `duration`.
    pub(super) fn start(metrics: &Metrics, streams: usize, duration: Option<Duration>) -> Self {
        let (stop, stopped) = bounded(0);
        let metrics = metrics.clone();
        let show = move || {
            let begin = Instant::now();
            let terminal = io::stderr().is_terminal();
            let bar = BAR.get_or_init(|| {
                let style = ProgressStyle::with_template("{spinner} {elapsed} {msg}");
                ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
                    .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
            });
            let mut last = (begin, 0);
            let mut next_line = begin + PLAIN_LINE;
            let mut rate = 0.0;
            while stopped
                .recv_timeout(REDRAW)
                .is_err_and(|error| error.is_timeout())
            {
                let now = Instant::now();
                let frames = metrics.frames_used_total();
                let seconds = (now - last.0).as_secs_f64();
                // Smoothed over a second or so, so that it can be read.
                rate += 0.25 * ((frames - last.1) as f64 / seconds - rate);
                last = (now, frames);
                let left = match duration {
                    Some(duration) => Some(duration.saturating_sub(begin.elapsed())),
                    None => time_left(begin.elapsed(), metrics.streams_ended.get(), streams as u64),
                };
                let line = line(&metrics, streams, rate, left);
                if terminal {
                    bar.set_message(line);
                    bar.tick();
                } else if now >= next_line {
                    next_line = now + PLAIN_LINE;
                    eprintln!("{line}");
                }
            }
            bar.finish_and_clear();
        };
        let thread = std::thread::Builder::new()
            .name("progress".to_owned())
            .spawn(show);
        // A run without a progress line is still a run.
        Self {
            stop: Some(stop),
            thread: thread.ok(),
        }
    }
}

fn line(metrics: &Metrics, streams: usize, rate: f64, left: Option<Duration>) -> String {
    // Streams that came since are not among those that were to be read.
    let streams = (streams as u64).max(metrics.streams_opened.get());
    let left = left.map_or(String::new(), |left| {
        let left = Duration::from_secs(left.as_secs());
        format!(", {} left", humantime::format_duration(left))
    });
    format!(
        "{}/{streams} streams opened, {} over, {} of them failed, {} frames ({rate:.0}/s), \
         {} clips, {} patients{left}",
        metrics.streams_opened.get(),
        metrics.streams_ended.get(),
        metrics.failures_total(),
        metrics.frames_used_total(),
        metrics.predictions.get(),
        metrics.patients.get(),
    )
}

/// What is left of `streams` at the pace of those that are over; `None` while there
/// are too few to tell.
fn time_left(elapsed: Duration, over: u64, streams: u64) -> Option<Duration> {
    const ENOUGH: u64 = 10;
    let left = streams.checked_sub(over)?;
    (over >= ENOUGH).then(|| elapsed.mul_f64(left as f64 / over as f64))
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_failed_after_it_had_opened_is_over_once() {
        let metrics = Metrics::new().unwrap();
        let failures = metrics.source("archive").failures;
        // Of 40: ten end well, five fail at once, five in the middle.
        metrics.streams_opened.inc_by(15);
        metrics.streams_ended.inc_by(20);
        failures.inc_by(10);
        let line = line(&metrics, 40, 0.0, None);
        assert!(
            line.starts_with("15/40 streams opened, 20 over, 10 of them failed, "),
            "{line}"
        );
        let minute = Duration::from_mins(1);
        let left = |over| time_left(minute, over, 40);
        assert_eq!(
            [left(9), left(20), left(40), left(41)],
            [None, Some(minute), Some(Duration::ZERO), None]
        );
    }
}
