//! Which frames a model sees of a source that gives more of them than it has learned
//! from. Called by the reader.

use std::time::Duration;

use crate::domain::EventTime;

/// A source's own interval that differs by less than this share of the model's is
/// the same: nothing is left out of 30 frames a second for 29.97.
const NO_MATTER: f64 = 0.1;

/// Picks one frame for each step of the model's pace: the first one that is not
/// earlier than a quarter of a step before it, because times tremble.
#[derive(Debug)]
pub(super) struct Pace {
    step: u64,
    /// When the next frame is wanted.
    next: Option<u64>,
    last: Option<u64>,
}

impl Pace {
    /// For a model that learned from frames `pace` apart, and a source that says
    /// of itself that its are `interval` apart; `None` if every frame is wanted.
    pub(super) fn of(pace: Option<Duration>, interval: Option<Duration>) -> Option<Self> {
        let pace = pace?;
        let is_faster = |interval: Duration| interval < pace.mul_f64(1.0 - NO_MATTER);
        interval.is_none_or(is_faster).then(|| Self {
            step: u64::try_from(pace.as_nanos()).unwrap_or(u64::MAX).max(1),
            next: None,
            last: None,
        })
    }

    /// Whether a source is so slow that its windows span a longer time than those
    /// that the model has learned from.
    pub(super) fn is_missed(pace: Option<Duration>, interval: Option<Duration>) -> bool {
        pace.zip(interval)
            .is_some_and(|(pace, interval)| interval > pace.mul_f64(1.0 + NO_MATTER))
    }

    /// Whether the model sees the frame of this time; `is_cut` says that it is not
    /// adjacent to the last.
    pub(super) fn takes(&mut self, time: EventTime, is_cut: bool) -> bool {
        let time = time.as_nanos();
        let last = self.last.replace(time);
        let begin = time.saturating_add(self.step);
        let Some(next) = self.next else {
            self.next = Some(begin);
            return true;
        };
        // Where time stands still, there is no pace.
        if is_cut || last == Some(time) {
            self.next = Some(begin);
            return true;
        }
        if time.saturating_add(self.step / 4) < next {
            return false;
        }
        // In step with the clock, unless that has run away; and never two at once.
        let following = next.saturating_add(self.step);
        let soon = time.saturating_add(self.step / 2);
        self.next = Some(if time >= following {
            begin
        } else {
            following.max(soon)
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PACE: Duration = Duration::from_millis(40);

    fn taken(pace: &mut Pace, times: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let times = times.into_iter();
        times
            .filter(|&micros| pace.takes(EventTime::from_nanos(1000 * micros), false))
            .collect()
    }

    fn of(interval_us: Option<u64>) -> Option<Pace> {
        Pace::of(Some(PACE), interval_us.map(Duration::from_micros))
    }

    #[test]
    fn sixty_frames_a_second_become_twenty_five() {
        let mut pace = of(Some(16_667)).unwrap();
        let found = taken(&mut pace, (0..60).map(|i| i * 16_667));
        assert_eq!(found.len(), 25);
        assert_eq!(&found[..5], [0, 33_334, 83_335, 116_669, 150_003]);
    }

    #[test]
    fn fifty_become_every_second_one_though_their_times_tremble() {
        let mut pace = of(Some(20_000)).unwrap();
        let times = (0..100).map(|i| i * 20_000 + (i * 7919) % 3000);
        let found = taken(&mut pace, times.clone());
        assert_eq!(found, times.step_by(2).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_is_left_out_of_a_source_that_is_as_fast_or_slower() {
        for interval in [40_000, 37_000, 66_667] {
            assert!(of(Some(interval)).is_none(), "{interval}");
        }
        assert!(Pace::of(None, Some(PACE)).is_none());
        // It does not say, and turns out to be slow; then it is fast at once.
        let mut pace = of(None).unwrap();
        let slow = (0..30).map(|i| i * 66_667);
        assert_eq!(taken(&mut pace, slow.clone()).len(), 30);
        let after = 29 * 66_667;
        let fast = taken(&mut pace, (1..=30).map(|i| after + i * 10_000));
        assert!((7..=8).contains(&fast.len()), "{fast:?}");
    }

    #[test]
    fn a_source_is_too_slow_by_more_than_a_tenth() {
        let is_missed = |micros| Pace::is_missed(Some(PACE), Some(Duration::from_micros(micros)));
        assert_eq!(
            [20_000, 41_000, 45_000].map(is_missed),
            [false, false, true]
        );
        assert!(!Pace::is_missed(Some(PACE), None));
    }

    #[test]
    fn behind_a_cut_and_where_time_stands_still_a_frame_is_taken() {
        let mut pace = of(None).unwrap();
        let at = |millis: u64| EventTime::from_nanos(1_000_000 * millis);
        assert!(pace.takes(at(0), false));
        assert!(!pace.takes(at(10), false));
        assert!(pace.takes(at(20), true));
        assert!(!pace.takes(at(40), false));
        assert!(pace.takes(at(40), false));
    }

    proptest! {
        #[test]
        fn of_any_source_no_more_is_taken_than_the_pace_allows(
            steps in prop::collection::vec(1_u64..100_000, 1..200),
        ) {
            let times: Vec<u64> = steps
                .iter()
                .scan(0, |time, step| { *time += step; Some(*time) })
                .collect();
            let mut pace = of(None).unwrap();
            let found = taken(&mut pace, times.iter().copied());
            let span = times.last().unwrap() - times[0];
            prop_assert!(found.len() as u64 <= (span + 10_000) / 40_000 + 1);
            // No step is left without a frame where the source has one for each.
            if steps.iter().all(|&step| step <= 40_000) {
                let widest = found.windows(2).map(|pair| pair[1] - pair[0]).max();
                prop_assert!(widest.unwrap_or(0) <= 80_000 + 10_000);
            }
        }
    }
}
