use std::collections::HashMap;
use std::error::Error;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, SendError, Sender, unbounded};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Operator;

use super::{Control, Credits, Epoch, RunError, Waker, WindowedClip};
use crate::domain::{Clip, ClipKey, ClipPrediction, Frame, ModelHash, Probability, StreamId};
use crate::metrics::Metrics;

/// Scores clips on a thread of its own: an engine, or a stand-in for one.
pub trait Scorer: Send {
    /// One row of class probabilities a clip, `[N][K]`, each row summing to 1.
    ///
    /// # Errors
    /// Whatever keeps the engine from answering; it ends the run.
    fn score(&mut self, clips: &[Clip]) -> Result<Vec<Vec<f64>>, Box<dyn Error + Send + Sync>>;

    /// Clips, of whatever streams, that are better scored together than one
    /// after the other; 1 where nothing is gained by it.
    fn batch(&self) -> usize {
        1
    }

    /// How long a clip may wait for others to be scored with.
    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    /// Whether a stream's clips cost less if this scorer gets all of them, in
    /// order; then each stream has one thread that scores it.
    fn follows_streams(&self) -> bool {
        false
    }

    /// Frames of live streams, in order, that come again in their clips: what they
    /// make possible can be computed now. They may be told late, or not at all.
    fn look_ahead(&mut self, _frames: &[(StreamId, Frame)]) {}

    /// A stream has ended. Clips of it may still come.
    fn end(&mut self, _stream: StreamId) {}

    /// Nothing has come for a while.
    fn rest(&mut self) {}
}

/// After how long without work a scorer is told so.
const REST: Duration = Duration::from_secs(10);

/// The threads that inference runs on, apart from the workers, so that a worker
/// keeps moving frames while networks are evaluated.
#[derive(Debug)]
pub(super) struct InferenceThreads {
    threads: Vec<JoinHandle<()>>,
}

/// A clip to be scored. Queues of these are unbounded as such; [`Credits`]
/// bounds how many there are.
#[derive(Debug)]
struct Task {
    number: u64,
    clip: Clip,
    reply: Sender<Scored>,
    waker: Waker,
}

/// What an inference thread is told.
#[derive(Debug)]
enum Work {
    Clip(Task),
    Ahead(StreamId, Frame),
    Ended(StreamId),
}

/// Where work is sent: one queue for all threads, or one for each, if a
/// stream is to be scored by one thread.
#[derive(Clone, Debug)]
pub(super) struct Tasks {
    queues: Vec<Sender<Work>>,
    follow: bool,
}

impl Tasks {
    /// Gives the work back if nobody takes it any more.
    fn send(&self, stream: StreamId, work: Work) -> Result<(), SendError<Work>> {
        // Streams are numbered as they open: those of one run spread evenly.
        let queue = stream.0 as usize % self.queues.len().max(1);
        match self.queues.get(queue) {
            Some(queue) => queue.send(work),
            None => Err(SendError(work)),
        }
    }

    /// Whether each stream has one thread.
    pub(super) fn follows(&self) -> bool {
        self.follow
    }

    /// A live stream's frame. Whether anybody takes it, its clip will tell.
    pub(super) fn look_ahead(&self, stream: StreamId, frame: Frame) {
        let _ = self.send(stream, Work::Ahead(stream, frame));
    }

    /// Nothing more will come of a stream.
    pub(super) fn end(&self, stream: StreamId) {
        let _ = self.send(stream, Work::Ended(stream));
    }
}

#[derive(Debug)]
struct Scored {
    number: u64,
    arrived: Option<Instant>,
    probabilities: Result<Vec<Probability>, RunError>,
}

impl InferenceThreads {
    /// Starts one thread a scorer. They end when the last sender is dropped.
    pub(super) fn start(
        scorers: Vec<Box<dyn Scorer>>,
        metrics: &Metrics,
    ) -> std::io::Result<(Self, Tasks)> {
        let follow = scorers.iter().any(|scorer| scorer.follows_streams());
        let queues = if follow { scorers.len() } else { 1 };
        let (senders, queues): (Vec<_>, Vec<_>) = (0..queues).map(|_| unbounded()).unzip();
        let threads = scorers
            .into_iter()
            .zip(queues.iter().cycle())
            .enumerate()
            .map(|(number, (scorer, tasks))| {
                let (tasks, metrics) = (tasks.clone(), metrics.clone());
                std::thread::Builder::new()
                    .name(format!("infer-{number}"))
                    .spawn(move || score_all(scorer, &tasks, &metrics))
            })
            .collect::<Result<_, _>>()?;
        let tasks = Tasks {
            queues: senders,
            follow,
        };
        Ok((Self { threads }, tasks))
    }

    /// Waits until they have ended.
    pub(super) fn join(self) -> Result<(), RunError> {
        self.threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| RunError::Panicked("inference")))
    }
}

fn score_all(mut scorer: Box<dyn Scorer>, work: &Receiver<Work>, metrics: &Metrics) {
    loop {
        let first = match work.recv_timeout(REST) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => {
                scorer.rest();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let batch = gather(first, work, scorer.batch(), scorer.patience());
        let (mut clips, mut askers) = (Vec::new(), Vec::new());
        let (mut ahead, mut ended) = (Vec::new(), Vec::new());
        for work in batch {
            match work {
                Work::Clip(task) => {
                    clips.push(task.clip);
                    askers.push((task.number, task.reply, task.waker));
                }
                Work::Ahead(stream, frame) => ahead.push((stream, frame)),
                Work::Ended(stream) => ended.push(stream),
            }
        }
        if !ahead.is_empty() {
            scorer.look_ahead(&ahead);
        }
        if !clips.is_empty() {
            answer(scorer.as_mut(), &clips, askers, metrics);
        }
        for stream in ended {
            scorer.end(stream);
        }
    }
}

/// Scores clips, and tells those who asked.
fn answer(
    scorer: &mut dyn Scorer,
    clips: &[Clip],
    askers: Vec<(u64, Sender<Scored>, Waker)>,
    metrics: &Metrics,
) {
    for frame in clips.iter().filter_map(|clip| clip.frames.last()) {
        metrics.queue.observe(frame.arrived.elapsed().as_secs_f64());
    }
    let timer = metrics.inference.start_timer();
    let scored = scorer.score(clips);
    timer.observe_duration();
    let (mut rows, mut error) = match scored {
        Ok(rows) => (rows.into_iter(), None),
        Err(error) => (Vec::new().into_iter(), Some(error)),
    };
    for ((number, reply, waker), clip) in askers.into_iter().zip(clips) {
        let probabilities = match error.take() {
            // One error is the error of all.
            Some(cause) => {
                error = Some(cause.to_string().into());
                Err(RunError::Engine(cause))
            }
            None => {
                let row = rows.next().unwrap_or_default();
                let row: Option<Vec<_>> = row.into_iter().map(Probability::from_f64).collect();
                row.filter(|row| !row.is_empty())
                    .ok_or(RunError::NotANumber)
            }
        };
        // The operator is gone only if the run is being torn down.
        let _ = reply.send(Scored {
            number,
            arrived: clip.frames.last().map(|frame| frame.arrived),
            probabilities,
        });
        waker.wake();
    }
}

/// What comes first, and what comes soon after it: at most so many.
fn gather<T>(first: T, tasks: &Receiver<T>, most: usize, wait: Duration) -> Vec<T> {
    let mut batch = vec![first];
    let deadline = Instant::now() + wait;
    while batch.len() < most {
        match tasks.recv_deadline(deadline) {
            Ok(task) => batch.push(task),
            Err(_) => break,
        }
    }
    batch
}

/// What inference operators work with; one set for all workers.
#[derive(Clone, Debug)]
pub(super) struct InferContext {
    /// Every model that scores, with the queues of its threads.
    pub(super) lanes: Vec<(ModelHash, Tasks)>,
    pub(super) credits: Credits,
    pub(super) control: Control,
    pub(super) metrics: Metrics,
}

/// Extension: clips into predictions.
pub(super) trait Infer<'scope> {
    /// Sends every clip to the inference threads and gives out their answers as
    /// they come, holding each clip's capability meanwhile: no answer about a
    /// patient overtakes its evidence.
    fn infer(self, context: InferContext) -> StreamVec<'scope, Epoch, ClipPrediction>;
}

impl<'scope> Infer<'scope> for StreamVec<'scope, Epoch, WindowedClip> {
    fn infer(self, context: InferContext) -> StreamVec<'scope, Epoch, ClipPrediction> {
        let worker = self.scope().worker();
        self.unary(Pipeline, "Infer", move |_, info| {
            let waker = Waker::new(worker.sync_activator_for(info.address.to_vec()));
            let (reply, replies) = unbounded::<Scored>();
            let mut under_way = HashMap::new();
            let mut sources = HashMap::new();
            let mut number = 0_u64;
            move |input, output| {
                waker.clear();
                input.for_each(|capability, clips| {
                    let Some(held) = capability.retain_least(output.output_index()) else {
                        return;
                    };
                    for WindowedClip {
                        clip,
                        span,
                        stream,
                        wanted,
                    } in clips.drain(..)
                    {
                        let lanes = wanted.iter().filter_map(|&lane| context.lanes.get(lane));
                        for (model, tasks) in lanes {
                            number += 1;
                            context.credits.take();
                            context.metrics.clips_in_flight.inc();
                            let about = (held.clone(), *model, clip.stream, span, stream.clone());
                            under_way.insert(number, about);
                            let task = Task {
                                number,
                                clip: clip.clone(),
                                reply: reply.clone(),
                                waker: waker.clone(),
                            };
                            if tasks.send(clip.stream, Work::Clip(task)).is_err() {
                                under_way.remove(&number);
                                context.control.fail(RunError::Panicked("inference"));
                            }
                        }
                    }
                });
                for Scored {
                    number,
                    arrived,
                    probabilities,
                } in replies.try_iter()
                {
                    context.metrics.clips_in_flight.dec();
                    let Some((held, model, id, span, stream)) = under_way.remove(&number) else {
                        continue;
                    };
                    match probabilities {
                        Ok(probabilities) => {
                            context.metrics.predictions.inc();
                            let latency = arrived.map(|arrived| arrived.elapsed().as_secs_f64());
                            if let Some(latency) = latency {
                                context.metrics.frame_to_prediction.observe(latency);
                            }
                            let prediction = ClipPrediction {
                                key: ClipKey {
                                    content: stream.content,
                                    first_frame: span.first_frame,
                                    model,
                                },
                                span,
                                patient: stream.patient.clone(),
                                study: stream.study.clone(),
                                source: stream.source.clone(),
                                probabilities,
                            };
                            // What other models say of the window is not drawn.
                            if context
                                .lanes
                                .first()
                                .is_some_and(|(first, _)| *first == model)
                            {
                                let live = context.control.live();
                                live.predicted(id, span, latency, &prediction.probabilities);
                                if let Some(severity) = prediction.severity() {
                                    let counters = sources
                                        .entry(stream.source.clone())
                                        .or_insert_with(|| context.metrics.source(&stream.source));
                                    counters.severity.observe(severity);
                                }
                            }
                            output.session(&held).give(prediction);
                        }
                        Err(error) => {
                            context.credits.give(1);
                            context.control.fail(error);
                        }
                    }
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_scored_together_as_far_as_that_helps() {
        let (sender, tasks) = unbounded();
        (1..5).for_each(|task| sender.send(task).unwrap());
        let wait = Duration::from_millis(1);
        assert_eq!(gather(0, &tasks, 3, wait), [0, 1, 2]);
        // Nothing else comes: it does not wait for ever.
        assert_eq!(gather(9, &tasks, 4, wait), [9, 3, 4]);
        sender.send(6).unwrap();
        assert_eq!(gather(5, &tasks, 1, wait), [5]);
        // Who has no patience takes what is there.
        sender.send(7).unwrap();
        assert_eq!(gather(5, &tasks, 3, Duration::ZERO), [5, 6, 7]);
        sender.send(8).unwrap();
        drop(sender);
        assert_eq!(gather(5, &tasks, 3, wait), [5, 8]);
    }
}
