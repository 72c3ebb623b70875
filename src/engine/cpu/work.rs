//! Which frames of a value are computed, and from which frames of another.

use std::ops::Range;

pub(super) use crate::engine::window::TimeWindow;

/// One output frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameJob {
    /// The input frame under the first tap that lies inside the clip.
    pub(super) input: usize,
    /// The output frame, and that of the residual.
    pub(super) output: usize,
}

/// Output frames whose kernels reach over the same end of the clip: only the
/// taps that lie inside are multiplied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FrameClass {
    pub(super) taps: Range<usize>,
    pub(super) frames: Vec<FrameJob>,
}

impl FrameClass {
    /// The clip and the frame of this number, where several clips are computed: clip by
    /// clip.
    pub(super) fn frame(&self, number: usize) -> (usize, FrameJob) {
        let frames = self.frames.len();
        (number / frames, self.frames[number % frames])
    }
}

/// Output frames to be computed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    classes: Vec<FrameClass>,
    count: usize,
    /// The first input frame that is read, and the one behind the last.
    reads: (usize, usize),
}

impl Work {
    /// All output frames of a clip.
    pub(super) fn whole(window: TimeWindow, inputs: usize, outputs: usize) -> Self {
        let mut work = Self::default();
        (0..outputs).for_each(|frame| work.push(window, inputs, frame));
        work
    }

    /// Some output frames of a clip, in rising order: those that read far apart
    /// are works apart, so that nothing is done about the input between them.
    pub(super) fn some(
        window: TimeWindow,
        inputs: usize,
        frames: impl IntoIterator<Item = usize>,
    ) -> Vec<Self> {
        let mut works: Vec<Self> = Vec::new();
        for frame in frames {
            let taps = window.taps(frame, inputs);
            let begin = window.input(frame, taps.start);
            match works.last_mut() {
                Some(work) if begin <= work.reads.1 => work.push(window, inputs, frame),
                _ => {
                    let mut work = Self::default();
                    work.push(window, inputs, frame);
                    works.push(work);
                }
            }
        }
        works
    }

    /// Adds an output frame.
    fn push(&mut self, window: TimeWindow, inputs: usize, frame: usize) {
        let taps = window.taps(frame, inputs);
        let job = FrameJob {
            input: window.input(frame, taps.start),
            output: frame,
        };
        if !taps.is_empty() {
            let (begin, end) = (job.input, job.input + taps.len());
            self.reads = match self.reads {
                (0, 0) => (begin, end),
                (first, last) => (first.min(begin), last.max(end)),
            };
        }
        self.count += 1;
        match self.classes.iter_mut().find(|class| class.taps == taps) {
            Some(class) => class.frames.push(job),
            None => self.classes.push(FrameClass {
                taps,
                frames: vec![job],
            }),
        }
    }

    pub(super) fn classes(&self) -> &[FrameClass] {
        &self.classes
    }

    /// Output frames in all.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// All input frames that are read lie herein.
    pub(super) fn reads(&self) -> Range<usize> {
        self.reads.0..self.reads.1
    }

    /// Every output frame, with its taps.
    pub(super) fn jobs(&self) -> impl Iterator<Item = (&Range<usize>, &FrameJob)> {
        self.classes
            .iter()
            .flat_map(|class| class.frames.iter().map(|job| (&class.taps, job)))
    }
}

/// Some work in several clips at once, whose values lie evenly apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch<'a> {
    pub(super) work: &'a Work,
    pub(super) clips: usize,
    /// From one clip's values to the next one's: in the input, the residual and the
    /// output alike.
    pub(super) pitch: usize,
}

impl<'a> Batch<'a> {
    /// Of one clip.
    pub(super) fn of_one(work: &'a Work) -> Self {
        let (clips, pitch) = (1, 0);
        Self { work, clips, pitch }
    }

    /// Output frames of all clips.
    pub(super) fn count(&self) -> usize {
        self.clips * self.work.count()
    }

    /// Input frames of all clips, if each has those that lie where it reads.
    pub(super) fn reads(&self) -> usize {
        self.clips * self.work.reads().len()
    }

    /// Output frames of one class, in all clips.
    pub(super) fn frames_of(&self, class: &FrameClass) -> usize {
        self.clips * class.frames.len()
    }

    /// The clip and the frame of this number: class by class, and then clip by clip.
    pub(super) fn frame(&self, mut number: usize) -> Option<(usize, FrameJob)> {
        for class in &self.work.classes {
            let frames = self.frames_of(class);
            if number < frames {
                return Some(class.frame(number));
            }
            number -= frames;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_a_batch_come_class_by_class_and_clip_by_clip() {
        let window = TimeWindow {
            kernel: 3,
            stride: 1,
            padding: 1,
        };
        let work = Work::whole(window, 4, 4);
        let batch = Batch {
            work: &work,
            clips: 2,
            pitch: 100,
        };
        let frames: Vec<_> = (0..).map_while(|number| batch.frame(number)).collect();
        let frames: Vec<_> = frames.iter().map(|(clip, it)| (*clip, it.output)).collect();
        let (first, inside, last) = ([0], [1, 2], [3]);
        let classes = [first.as_slice(), &inside, &last];
        let expected = classes.iter().flat_map(|frames| {
            (0..2).flat_map(|clip| frames.iter().map(move |frame| (clip, *frame)))
        });
        assert_eq!(frames, expected.collect::<Vec<_>>());
        assert_eq!((batch.count(), batch.reads()), (8, 8));
    }

    #[test]
    fn taps_outside_the_clip_are_left_out() {
        let window = TimeWindow {
            kernel: 3,
            stride: 2,
            padding: 1,
        };
        let work = Work::whole(window, 5, 3);
        let found: Vec<_> = work
            .jobs()
            .map(|(taps, job)| (taps.clone(), job.input, job.output))
            .collect();
        assert_eq!(found, [(1..3, 0, 0), (0..3, 1, 1), (0..2, 3, 2)]);
        assert_eq!(work.reads(), 0..5);
    }
}
