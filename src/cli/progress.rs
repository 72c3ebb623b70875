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
                let opened = metrics.streams_opened.get();
                let failed = metrics.failures_total();
                let left = match duration {
                    Some(duration) => Some(duration.saturating_sub(begin.elapsed())),
                    // What cannot be read takes its time, too.
                    None => time_left(begin.elapsed(), opened + failed, streams as u64),
                };
                let left = left.map_or(String::new(), |left| {
                    let left = Duration::from_secs(left.as_secs());
                    format!(", {} left", humantime::format_duration(left))
                });
                let line = format!(
                    "{}/{streams} streams opened, {failed} failed, {frames} frames ({rate:.0}/s), {} clips, {} patients{left}",
                    opened,
                    metrics.predictions.get(),
                    metrics.patients.get(),
                );
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

/// What is left of `streams` at the pace of the `opened` ones; `None` while
/// there are too few to tell.
fn time_left(elapsed: Duration, opened: u64, streams: u64) -> Option<Duration> {
    const ENOUGH: u64 = 10;
    let left = streams.checked_sub(opened)?;
    (opened >= ENOUGH).then(|| elapsed.mul_f64(left as f64 / opened as f64))
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
