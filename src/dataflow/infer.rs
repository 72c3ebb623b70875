use std::collections::HashMap;
use std::error::Error;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam::channel::{Receiver, Sender, unbounded};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Operator;

use super::{Control, Credits, Epoch, RunError, Waker, WindowedClip};
use crate::domain::{Clip, ClipKey, ClipPrediction, ModelHash, Probability};
use crate::metrics::Metrics;

/// Scores clips on a thread of its own: an engine, or a stand-in for one.
pub trait Scorer: Send {
    /// One row of class probabilities a clip, `[N][K]`, each row summing to 1.
    ///
    /// # Errors
    /// Whatever keeps the engine from answering; it ends the run.
    fn score(&mut self, clips: &[Clip]) -> Result<Vec<Vec<f64>>, Box<dyn Error + Send + Sync>>;
}

/// The threads that inference runs on, apart from the workers, so that a worker
/// keeps moving frames while networks are evaluated.
#[derive(Debug)]
pub(super) struct InferenceThreads {
    threads: Vec<JoinHandle<()>>,
}

/// A clip to be scored. Queues of these are unbounded as such; [`Credits`]
/// bounds how many there are.
#[derive(Debug)]
pub(super) struct Task {
    number: u64,
    clip: Clip,
    reply: Sender<Scored>,
    waker: Waker,
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
    ) -> std::io::Result<(Self, Sender<Task>)> {
        let (sender, tasks) = unbounded();
        let threads = scorers
            .into_iter()
            .enumerate()
            .map(|(number, scorer)| {
                let (tasks, metrics) = (tasks.clone(), metrics.clone());
                std::thread::Builder::new()
                    .name(format!("infer-{number}"))
                    .spawn(move || score_all(scorer, &tasks, &metrics))
            })
            .collect::<Result<_, _>>()?;
        Ok((Self { threads }, sender))
    }

    /// Waits until they have ended.
    pub(super) fn join(self) -> Result<(), RunError> {
        self.threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| RunError::Panicked("inference")))
    }
}

fn score_all(mut scorer: Box<dyn Scorer>, tasks: &Receiver<Task>, metrics: &Metrics) {
    for Task {
        number,
        clip,
        reply,
        waker,
    } in tasks
    {
        let arrived = clip.frames.last().map(|frame| frame.arrived);
        let timer = metrics.inference.start_timer();
        let scored = scorer.score(std::slice::from_ref(&clip));
        timer.observe_duration();
        let probabilities = scored.map_err(RunError::Engine).and_then(|rows| {
            let row = rows.into_iter().next().unwrap_or_default();
            let row: Option<Vec<_>> = row.into_iter().map(Probability::from_f64).collect();
            row.filter(|row| !row.is_empty())
                .ok_or(RunError::NotANumber)
        });
        // The operator is gone only if the run is being torn down.
        let _ = reply.send(Scored {
            number,
            arrived,
            probabilities,
        });
        waker.wake();
    }
}

/// What inference operators work with; one set for all workers.
#[derive(Clone, Debug)]
pub(super) struct InferContext {
    pub(super) model: ModelHash,
    pub(super) tasks: Sender<Task>,
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
            let mut number = 0_u64;
            move |input, output| {
                waker.clear();
                input.for_each(|capability, clips| {
                    let Some(held) = capability.retain_least(output.output_index()) else {
                        return;
                    };
                    for WindowedClip { clip, span, stream } in clips.drain(..) {
                        number += 1;
                        context.credits.take();
                        context.metrics.clips_in_flight.inc();
                        under_way.insert(number, (held.clone(), span, stream));
                        let (reply, waker) = (reply.clone(), waker.clone());
                        if context
                            .tasks
                            .send(Task {
                                number,
                                clip,
                                reply,
                                waker,
                            })
                            .is_err()
                        {
                            under_way.remove(&number);
                            context.control.fail(RunError::Panicked("inference"));
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
                    let Some((held, span, stream)) = under_way.remove(&number) else {
                        continue;
                    };
                    match probabilities {
                        Ok(probabilities) => {
                            context.metrics.predictions.inc();
                            if let Some(arrived) = arrived {
                                let latency = arrived.elapsed().as_secs_f64();
                                context.metrics.frame_to_prediction.observe(latency);
                            }
                            output.session(&held).give(ClipPrediction {
                                key: ClipKey {
                                    content: stream.content,
                                    first_frame: span.first_frame,
                                    model: context.model,
                                },
                                span,
                                patient: stream.patient.clone(),
                                study: stream.study.clone(),
                                source: stream.source.clone(),
                                probabilities,
                            });
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
