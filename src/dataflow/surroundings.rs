use std::collections::VecDeque;

use crate::domain::ClipSpan;

/// A clip's surroundings reach back so many windows' lengths from its last frame.
const REACH: u64 = 8;

/// How far the picture around a clip is to be trusted: the share of frames that the
/// quality gate let through.
///
/// All frames of a clip are fit to be seen, or there would be no clip. But a glimpse
/// between pictures of air says less than a clip in the midst of good ones: a clip
/// weighs that share, in 1/256, and one in whose surroundings less than a quarter of
/// the frames were fit is left out. Where a stream begins, so do its surroundings.
#[derive(Debug)]
pub(super) struct Surroundings {
    reach: u64,
    /// Indices of the frames that were used, the newest last.
    used: VecDeque<u64>,
}

impl Surroundings {
    /// For windows of `length` frames.
    pub(super) fn new(length: usize) -> Self {
        Self {
            reach: REACH * length as u64,
            used: VecDeque::new(),
        }
    }

    /// The frame of this index was used; every frame of the source has one, used or
    /// not. The `skipped` ones before it were not looked at, and are taken for the like.
    pub(super) fn push(&mut self, index: u64, skipped: u32) {
        let skipped = u64::from(skipped).min(self.reach);
        for index in index.saturating_sub(skipped)..=index {
            self.push_one(index);
        }
    }

    fn push_one(&mut self, index: u64) {
        if self.used.back().is_some_and(|&last| last >= index) {
            self.used.clear();
        }
        self.used.push_back(index);
        let is_behind = |&first: &u64| first + self.reach <= index;
        while self.used.front().is_some_and(is_behind) {
            self.used.pop_front();
        }
    }

    /// What a clip weighs that ends with the newest frame.
    pub(super) fn weight(&self) -> u16 {
        let Some(&last) = self.used.back() else {
            return ClipSpan::FULL_WEIGHT;
        };
        let all = self.reach.min(last + 1);
        let used = self.used.len() as u64;
        if 4 * used < all {
            return 0;
        }
        let full = u64::from(ClipSpan::FULL_WEIGHT);
        // Rounded; at most all frames were used.
        ((2 * full * used + all) / (2 * all)) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(length: usize, used: impl IntoIterator<Item = u64>) -> Vec<u16> {
        let mut surroundings = Surroundings::new(length);
        let push = |index| {
            surroundings.push(index, 0);
            surroundings.weight()
        };
        used.into_iter().map(push).collect()
    }

    #[test]
    fn a_stream_without_a_loss_is_trusted_fully_from_its_first_frame() {
        assert!(weights(4, 0..200).iter().all(|&weight| weight == 256));
    }

    #[test]
    fn a_clip_weighs_the_share_of_frames_around_it_and_a_glimpse_nothing() {
        // 32 frames reach back; 10 to 21 are lost.
        let seen = weights(4, (0..10).chain(22..80));
        assert_eq!(seen[9], 256);
        // 11 of 23, 20 of 32, and 32 of 32 again.
        assert_eq!(seen[10], 122);
        assert_eq!(seen[10 + 9], 160);
        assert_eq!(seen[10 + 31], 256);
        // A glimpse of 7 frames in the midst of nothing, then of 8.
        let seen = weights(4, 100..108);
        assert_eq!(seen[..7], [0; 7]);
        assert_eq!(seen[7], 64);
    }

    #[test]
    fn frames_that_were_skipped_are_no_loss() {
        let mut surroundings = Surroundings::new(4);
        // Every third frame of the source, after ten that were lost.
        for index in (10..100).step_by(3) {
            surroundings.push(index, if index == 10 { 0 } else { 2 });
            let lost = 10_u64.saturating_sub(index.saturating_sub(31));
            let all = 32.min(index + 1);
            let expected = (512 * (all - lost) + all) / (2 * all);
            let expected = if 4 * (all - lost) < all { 0 } else { expected };
            assert_eq!(u64::from(surroundings.weight()), expected, "{index}");
        }
    }

    #[test]
    fn a_source_that_begins_anew_is_judged_anew() {
        assert_eq!(weights(4, [90, 91, 0, 1]), [0, 0, 256, 256]);
    }
}
