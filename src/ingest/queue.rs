//! The bounded queue between a stream's reader and the worker that takes from it.
//!
//! One reader pushes, one worker pops and never waits. Written for ingest
//! rather than taken from a channel because a stream needs three things at
//! once: its header first and its end last whatever is dropped between, the
//! *oldest* frame dropped when a live source runs ahead, and an exact count of
//! what was left when it is closed.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::{Arrival, IngestError, StreamHeader};
use crate::domain::Frame;

#[derive(Default)]
struct State {
    opened: Option<StreamHeader>,
    frames: VecDeque<Frame>,
    ended: Option<Result<(), IngestError>>,
    closed: bool,
}

/// Nobody will take what was pushed.
#[derive(Debug)]
pub(super) struct Closed;

pub(super) struct Queue {
    state: Mutex<State>,
    room: Condvar,
    capacity: usize,
}

impl Queue {
    /// A queue for `capacity` frames, at least one.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::default(),
            room: Condvar::new(),
            capacity: capacity.max(1),
        }
    }

    pub(super) fn open(&self, header: StreamHeader) -> Result<(), Closed> {
        let mut state = self.lock();
        if state.closed {
            return Err(Closed);
        }
        state.opened = Some(header);
        Ok(())
    }

    /// Pushes when there is room; waits for it until the queue is closed.
    pub(super) fn push_waiting(&self, frame: Frame) -> Result<(), Closed> {
        let state = self.lock();
        let full = |state: &mut State| !state.closed && state.frames.len() >= self.capacity;
        let mut state = self
            .room
            .wait_while(state, full)
            .unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(Closed);
        }
        state.frames.push_back(frame);
        Ok(())
    }

    /// Pushes at once, and gives back the frame that made room.
    pub(super) fn push_replacing(&self, frame: Frame) -> Result<Option<Frame>, Closed> {
        let mut state = self.lock();
        if state.closed {
            return Err(Closed);
        }
        let oldest = if state.frames.len() >= self.capacity {
            state.frames.pop_front()
        } else {
            None
        };
        state.frames.push_back(frame);
        Ok(oldest)
    }

    pub(super) fn end(&self, result: Result<(), IngestError>) {
        self.lock().ended = Some(result);
    }

    pub(super) fn pop(&self) -> Option<Arrival> {
        let mut state = self.lock();
        if let Some(header) = state.opened.take() {
            return Some(Arrival::Opened(header));
        }
        if let Some(frame) = state.frames.pop_front() {
            drop(state);
            self.room.notify_one();
            return Some(Arrival::Frame(frame));
        }
        state.ended.take().map(Arrival::Ended)
    }

    /// Refuses everything from now on, and says how many frames were left.
    pub(super) fn close(&self) -> usize {
        let mut state = self.lock();
        state.closed = true;
        let left = std::mem::take(&mut state.frames);
        drop(state);
        self.room.notify_all();
        left.len()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that could panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::domain::{ContentHash, Crop, EventTime, FrameSize, PatientId};

    fn frame(index: u64) -> Frame {
        Frame {
            index,
            time: EventTime::from_nanos(index),
            arrived: Instant::now(),
            discontinuity: false,
            skipped: 0,
            pixels: Arc::from([0; 4]),
        }
    }

    fn header() -> StreamHeader {
        StreamHeader {
            content: ContentHash::of(b""),
            patient: PatientId::new("nobody"),
            study: None,
            instance: None,
            frame_interval: None,
            picture: FrameSize {
                height: 2,
                width: 2,
            },
            crop: Crop {
                x: 0,
                y: 0,
                width: 2,
                height: 2,
            },
        }
    }

    fn indices(queue: &Queue) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop())
            .filter_map(|arrival| match arrival {
                Arrival::Frame(frame) => Some(frame.index),
                Arrival::Opened(_) | Arrival::Ended(_) => None,
            })
            .collect()
    }

    #[test]
    fn a_live_source_loses_its_oldest_frames_but_never_its_header_or_end() {
        let queue = Queue::new(2);
        queue.open(header()).unwrap();
        let dropped: Vec<_> = (0..5)
            .filter_map(|index| queue.push_replacing(frame(index)).unwrap())
            .map(|frame| frame.index)
            .collect();
        queue.end(Ok(()));
        assert_eq!(dropped, [0, 1, 2]);
        assert!(matches!(queue.pop(), Some(Arrival::Opened(_))));
        assert!(matches!(queue.pop(), Some(Arrival::Frame(frame)) if frame.index == 3));
        assert!(matches!(queue.pop(), Some(Arrival::Frame(frame)) if frame.index == 4));
        assert!(matches!(queue.pop(), Some(Arrival::Ended(Ok(())))));
        assert!(queue.pop().is_none());
    }

    #[test]
    fn an_archive_waits_for_room_and_loses_nothing() {
        let queue = Queue::new(1);
        let taken = thread::scope(|scope| {
            scope.spawn(|| (0..50).for_each(|index| queue.push_waiting(frame(index)).unwrap()));
            let mut taken = Vec::new();
            while taken.len() < 50 {
                taken.extend(indices(&queue));
                thread::yield_now();
            }
            taken
        });
        assert_eq!(taken, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn closing_frees_a_reader_that_waits_for_room() {
        let queue = Queue::new(1);
        queue.push_waiting(frame(0)).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.push_waiting(frame(1)));
            thread::sleep(Duration::from_millis(20));
            assert_eq!(queue.close(), 1);
            assert!(waiting.join().unwrap().is_err());
        });
        assert!(queue.push_replacing(frame(2)).is_err());
        assert!(queue.pop().is_none());
    }
}
