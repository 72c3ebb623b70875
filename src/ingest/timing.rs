//! Event time: when a frame was acquired, by the source's own reckoning.
//!
//! Presentation times are mapped to running time (so that edit lists and
//! segments count) and shifted so that the first frame is at zero. Called by
//! the reader.

use std::time::Duration;

use gstreamer as gst;

use crate::domain::EventTime;

/// The clock of one stream.
pub(super) struct Timeline {
    interval: Option<Duration>,
    /// Running time at event time zero; negative where the source's own clock
    /// began anew after the stream did.
    start: Option<i128>,
    last: Option<u64>,
    /// Where the next frame lies, if the source was away until now.
    resumes_at: Option<u64>,
}

impl Timeline {
    pub(super) fn new(interval: Option<Duration>) -> Self {
        Self {
            interval,
            start: None,
            last: None,
            resumes_at: None,
        }
    }

    /// The source was opened again, `away` after its last frame, and its clock
    /// has begun anew. The next frame comes that much later than the last one:
    /// the only clock that both share is ours.
    pub(super) fn resume(&mut self, away: Duration) {
        let away = u64::try_from(away.as_nanos()).unwrap_or(u64::MAX);
        self.resumes_at = self.last.map(|last| last.saturating_add(away.max(1)));
        self.start = None;
    }

    /// The nominal time between frames.
    pub(super) fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// When the frame in `sample` was acquired, and whether what came before it
    /// is not adjacent.
    pub(super) fn stamp(&mut self, sample: &gst::Sample) -> (EventTime, bool) {
        let running = running_time(sample).map(gst::ClockTime::nseconds);
        let flagged = sample
            .buffer()
            .is_some_and(|buffer| buffer.flags().contains(gst::BufferFlags::DISCONT));
        self.place(running, flagged)
    }

    /// The rules, apart from GStreamer:
    /// - without a time, a frame comes one nominal interval after the last;
    ///   if that is unknown as well, time stands still;
    /// - time never runs backwards: where the source says it does, it stands
    ///   still and the frame is marked as a discontinuity;
    /// - every first frame is flagged by GStreamer, and is no discontinuity.
    fn place(&mut self, running: Option<u64>, flagged: bool) -> (EventTime, bool) {
        let running = running.map(i128::from);
        let Some(last) = self.last else {
            self.start = running;
            self.last = Some(0);
            return (EventTime::from_nanos(0), false);
        };
        let resumed = self.resumes_at.take();
        let expected = resumed.unwrap_or_else(|| {
            last.saturating_add(self.interval.map_or(0, |d| d.as_nanos() as u64))
        });
        let told = match (running, self.start) {
            (Some(running), Some(start)) => Some(running - start),
            // The first time that is told sets the clock.
            (Some(running), None) => {
                self.start = Some(running - i128::from(expected));
                None
            }
            (None, _) => None,
        };
        let told = told.unwrap_or_else(|| i128::from(expected));
        let backwards = told < i128::from(last);
        let time = u64::try_from(told).unwrap_or(0).max(last);
        self.last = Some(time);
        (
            EventTime::from_nanos(time),
            flagged || backwards || resumed.is_some(),
        )
    }
}

fn running_time(sample: &gst::Sample) -> Option<gst::ClockTime> {
    let pts = sample.buffer()?.pts()?;
    let segment = sample.segment()?.downcast_ref::<gst::ClockTime>()?;
    segment.to_running_time(pts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(timeline: &mut Timeline, running: Option<u64>) -> (u64, bool) {
        let (time, gap) = timeline.place(running, false);
        (time.as_nanos(), gap)
    }

    #[test]
    fn the_first_frame_is_at_zero_wherever_the_recording_begins() {
        let mut timeline = Timeline::new(None);
        let times = [700, 740, 790].map(|at| nanos(&mut timeline, Some(at)));
        assert_eq!(times, [(0, false), (40, false), (90, false)]);
    }

    #[test]
    fn a_frame_without_a_time_follows_by_the_nominal_interval() {
        let mut timeline = Timeline::new(Some(Duration::from_nanos(40)));
        let times = [Some(100), None, Some(180), None].map(|at| nanos(&mut timeline, at).0);
        assert_eq!(times, [0, 40, 80, 120]);
        let mut untimed = Timeline::new(Some(Duration::from_nanos(40)));
        let times = [None, None, None].map(|at| nanos(&mut untimed, at).0);
        assert_eq!(times, [0, 40, 80]);
    }

    #[test]
    fn time_never_runs_backwards_and_says_where_it_would_have() {
        let mut timeline = Timeline::new(None);
        let times = [100, 140, 90, 150].map(|at| nanos(&mut timeline, Some(at)));
        assert_eq!(times, [(0, false), (40, false), (40, true), (50, false)]);
    }

    #[test]
    fn a_source_that_was_away_goes_on_later_by_our_clock_and_says_so() {
        let mut timeline = Timeline::new(None);
        let first = [100, 140].map(|at| nanos(&mut timeline, Some(at)));
        timeline.resume(Duration::from_micros(1));
        let second = [5, 45].map(|at| nanos(&mut timeline, Some(at)));
        assert_eq!(first, [(0, false), (40, false)]);
        assert_eq!(second, [(1040, true), (1080, false)]);
        timeline.resume(Duration::ZERO);
        assert_eq!(nanos(&mut timeline, None), (1081, true));
    }

    #[test]
    fn the_flag_that_every_stream_begins_with_is_no_gap() {
        let mut timeline = Timeline::new(None);
        assert!(!timeline.place(Some(0), true).1);
        assert!(timeline.place(Some(1), true).1);
        assert!(!timeline.place(Some(2), false).1);
    }
}
