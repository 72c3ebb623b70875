//! Where one stream stands in its windows, and what it holds: the part of a
//! session that is the same wherever values are computed.

use std::collections::VecDeque;
use std::sync::Arc;

use super::reuse::{Schedule, Stage};

/// A stage that a stream's newest frame makes possible. Streams that are due for
/// the same one can be computed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Due {
    /// Of the schedule's windows.
    pub(super) window: usize,
    /// Of the window's stages.
    pub(super) stage: usize,
}

impl Due {
    /// What is to be done.
    pub(super) fn of(self, schedule: &Schedule) -> &Stage {
        &schedule.windows[self.window][self.stage]
    }
}

/// How far a stream has come.
#[derive(Debug)]
pub(super) struct Course {
    /// Pictures that a later stage may read, the newest last.
    recent: VecDeque<Arc<[u8]>>,
    /// As many as are kept of them.
    most: usize,
    /// Frames since it began.
    frames: u64,
    /// The window that is being computed, and its next stage.
    window: u64,
    stage: usize,
    /// Stages since it began.
    stages: u64,
}

impl Course {
    /// Keeps so many pictures, at least those that the schedule asks for.
    pub(super) fn new(schedule: &Schedule, pictures: usize) -> Self {
        let most = pictures.max(schedule.frames);
        Self {
            recent: VecDeque::with_capacity(most),
            most,
            frames: 0,
            window: 0,
            stage: 0,
            stages: 0,
        }
    }

    /// Forgets the stream.
    pub(super) fn reset(&mut self) {
        self.recent.clear();
        (self.frames, self.window, self.stage, self.stages) = (0, 0, 0, 0);
    }

    /// Pictures that are kept, the newest last.
    pub(super) fn pictures(&self) -> &VecDeque<Arc<[u8]>> {
        &self.recent
    }

    /// The stages that were computed since it began.
    pub(super) fn stages(&self) -> u64 {
        self.stages
    }

    /// The frame of the stream, counted from the beginning, that the next window
    /// begins with.
    fn begin(&self, schedule: &Schedule) -> u64 {
        self.window * schedule.sliding.stride as u64
    }

    /// Frames of the next window that were taken already.
    pub(super) fn overlap(&self, schedule: &Schedule) -> u64 {
        self.frames.saturating_sub(self.begin(schedule))
    }

    /// Takes a picture; says what can be computed now. [`Course::done`] must
    /// follow before the next picture.
    pub(super) fn push(&mut self, schedule: &Schedule, picture: &Arc<[u8]>) -> Option<Due> {
        self.frames += 1;
        // Between windows that are apart.
        let arrived = self.overlap(schedule);
        if arrived == 0 {
            return None;
        }
        if self.recent.len() == self.most {
            self.recent.pop_front();
        }
        self.recent.push_back(Arc::clone(picture));
        let due = Due {
            window: schedule.place(self.window),
            stage: self.stage,
        };
        let stage = schedule.windows[due.window].get(due.stage)?;
        (stage.arrived as u64 == arrived).then_some(due)
    }

    /// The picture of a window's frame, in a stage.
    pub(super) fn picture(&self, stage: &Stage, frame: usize) -> &Arc<[u8]> {
        &self.recent[self.recent.len() - (stage.arrived - frame)]
    }

    /// A stage was computed; true if that was its window's last one.
    pub(super) fn done(&mut self, schedule: &Schedule, due: Due) -> bool {
        self.stages += 1;
        self.stage += 1;
        if self.stage < schedule.windows[due.window].len() {
            return false;
        }
        self.stage = 0;
        self.window += 1;
        true
    }
}

/// Which slices of one step's output are held, place by place.
#[derive(Debug, Default)]
pub(super) struct Slots(Vec<Option<Slice>>);

/// A slice that is held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice {
    /// The stage that computed it.
    pub(super) born: u64,
    /// Which one of that stage's window it was.
    pub(super) slice: usize,
    /// The stage that reads it last.
    pub(super) last: u64,
}

impl Slots {
    /// How many places there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets what is held; the places stay.
    pub(super) fn clear(&mut self) {
        self.0.fill(None);
    }

    /// Where a slice is that an earlier stage computed.
    pub(super) fn find(&self, born: u64, slice: usize) -> usize {
        let held = |held: &Option<Slice>| {
            held.is_some_and(|held| held.born == born && held.slice == slice)
        };
        let place = self.0.iter().position(held);
        // The schedule keeps what it loads.
        place.expect("a slice that was to be held")
    }

    /// Takes a slice in: the first place whose slice is not read any more, or a
    /// new one.
    pub(super) fn put(&mut self, slice: Slice, now: u64) -> usize {
        let free = |held: &Option<Slice>| held.is_none_or(|held| held.last <= now);
        let place = self.0.iter().position(free).unwrap_or_else(|| {
            self.0.push(None);
            self.0.len() - 1
        });
        self.0[place] = Some(slice);
        place
    }
}
