use std::error::Error;
use std::mem;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use differential_dataflow::AsCollection;
use timely::dataflow::Scope;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::{Concat, Operator, ToStream};

use super::ahead::LookAhead;
use super::answers::{ClipFacts, StoredViews, store_views};
use super::control::lock;
use super::facts::{Following, facts};
use super::infer::InferContext;
use super::source::{Intake, SourceContext, sources};
use super::views::Arrangements;
use super::{
    Clock, Control, Credits, Epoch, Facts, Infer, InferenceThreads, Opening, Scorer, WindowShape,
    Windows, WriterHandle, views,
};
use crate::domain::{ClipPrediction, ModelHash};
use crate::ingest::IngestError;
use crate::metrics::Metrics;
use crate::store::{Batch, Store, StoreError, StoredModel};

/// Clips under way for each inference thread, from window to disk: enough that
/// a thread never waits for a commit.
const CLIPS_A_THREAD: usize = 32;

/// Everything a run needs, already opened.
pub struct Job {
    /// The streams to read.
    pub openings: Vec<Opening>,
    /// How many recorded streams are read at once, over all workers.
    pub decoders: usize,
    /// How frames become clips.
    pub window: WindowShape,
    /// The model that the scorers evaluate. Its answers become the current ones
    /// unless those of another model of this run are.
    pub model: ModelHash,
    /// One inference thread each.
    pub scorers: Vec<Box<dyn Scorer>>,
    /// Further models that score the same windows, with their scorers.
    pub beside: Vec<(ModelHash, Vec<Box<dyn Scorer>>)>,
    /// Timely workers, at least one.
    pub workers: usize,
    /// Where results go, and what was done before.
    pub store: Store,
    /// Where facts come in, over a connection of its own to the same store.
    pub facts: Facts,
    /// What is counted.
    pub metrics: Metrics,
}

/// How a run went.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Streams that gave at least one frame.
    pub streams: usize,
    /// Streams left out because another had the same bytes.
    pub duplicates: usize,
    /// Streams that ended with an error, in the order in which they did.
    pub failures: Vec<StreamFailure>,
}

/// A stream that ended with an error; the others went on.
#[derive(Debug)]
pub struct StreamFailure {
    /// The source's name in the pipeline file.
    pub source: String,
    /// What went wrong.
    pub error: IngestError,
}

/// A run could not go on. What was committed before stays.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The engine failed on a clip.
    #[error("inference failed: {0}")]
    Engine(Box<dyn Error + Send + Sync>),
    /// The engine answered with something that is no probability.
    #[error("the model answered with a value that is not a number: check its weights")]
    NotANumber,
    /// Results could not be stored or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The dataflow could not be started.
    #[error("cannot start the dataflow: {0}")]
    Timely(String),
    /// A thread panicked; its message is above.
    #[error("a thread panicked ({0})")]
    Panicked(&'static str),
}

/// Runs the graph until its streams have ended or `control` stops it.
///
/// # Errors
/// If the engine or the store fails, or the graph cannot be started. A failed
/// stream is no error here: see [`Outcome::failures`].
///
/// # Panics
/// A panic of a timely worker makes its fellows wait for ever; a process that
/// calls this should therefore exit on any panic, as the command line does.
pub fn run(job: Job, control: &Control) -> Result<Outcome, RunError> {
    let finished = Arc::new(job.store.finished()?);
    let lanes: Vec<_> = std::iter::once((job.model, job.scorers))
        .chain(job.beside)
        .collect();
    let models: Vec<_> = lanes.iter().map(|(model, _)| *model).collect();
    job.facts.activate_one_of(&models)?;
    let answers = job.store.patient_results()?;
    let current = answers.iter().filter(|answer| answer.current).count();
    job.metrics.patients.set(current as i64);
    let known = Known {
        clips: job.store.clip_predictions()?,
        models: job.store.models()?.into_values().collect(),
        views: StoredViews {
            answers,
            others: job.store.view_rows()?,
        },
    };

    let threads: usize = lanes.iter().map(|(_, scorers)| scorers.len()).sum();
    let credits = Credits::new(CLIPS_A_THREAD * threads.max(1));
    let (clock, ticker) = Clock::start(control.clone())?;
    let mut threads = Vec::new();
    let mut queues = Vec::new();
    for (model, scorers) in lanes {
        let (started, tasks) = InferenceThreads::start(scorers, &job.metrics)?;
        threads.push(started);
        queues.push((model, tasks));
    }
    let (following, follower) = job.facts.follow(control.clone())?;
    let (writer, writer_thread) = WriterHandle::start(
        job.store,
        credits.clone(),
        control.clone(),
        job.metrics.clone(),
    )?;
    let outcome = Arc::new(Mutex::new(Outcome::default()));
    let workers = job.workers.max(1);

    let plan = Plan {
        known: Mutex::new(Some((known, following))),
        source: SourceContext {
            intake: Arc::new(Intake::new(job.openings, workers, job.decoders)),
            clock,
            control: control.clone(),
            credits: credits.clone(),
            metrics: job.metrics.clone(),
            outcome: Arc::clone(&outcome),
            writer: writer.clone(),
            reading: Arc::new(AtomicUsize::new(workers)),
        },
        infer: InferContext {
            lanes: queues,
            credits,
            control: control.clone(),
            metrics: job.metrics.clone(),
        },
        writer,
        finished,
        window: job.window,
        metrics: job.metrics,
    };
    let config = match workers {
        1 => timely::Config::thread(),
        _ => timely::Config::process(workers),
    };
    let guards = timely::execute(config, move |worker| {
        let arrangements = Arrangements::follow(worker, &plan.metrics);
        worker.dataflow(|scope| plan.build(scope, &arrangements));
    })
    .map_err(RunError::Timely)?;
    // The plan is dropped with the last worker, and with it every sender: the
    // threads find their queues closed, finish what is in them, and end.
    for worker in guards.join() {
        worker.map_err(|_| RunError::Panicked("worker"))?;
    }
    threads.into_iter().try_for_each(InferenceThreads::join)?;
    follower.join().map_err(|_| RunError::Panicked("facts"))?;
    writer_thread
        .join()
        .map_err(|_| RunError::Panicked("store"))?;
    ticker.join().map_err(|_| RunError::Panicked("clock"))?;
    match control.take_failure() {
        Some(error) => Err(error),
        None => Ok(mem::take(&mut *lock(&outcome))),
    }
}

/// What the store knew when the run began.
#[derive(Default)]
struct Known {
    clips: Vec<ClipPrediction>,
    models: Vec<StoredModel>,
    views: StoredViews,
}

/// What every worker builds its part of the graph from.
struct Plan {
    /// Worker 0 takes it.
    known: Mutex<Option<(Known, Following)>>,
    source: SourceContext,
    infer: InferContext,
    writer: WriterHandle,
    finished: Arc<std::collections::HashSet<crate::domain::ClipKey>>,
    window: WindowShape,
    metrics: Metrics,
}

impl Plan {
    fn build(&self, scope: Scope<'_, Epoch>, arrangements: &Arrangements) {
        let frames = sources(scope, self.source.clone());
        for (_, tasks) in &self.infer.lanes {
            frames.clone().look_ahead(tasks.clone());
        }
        let predictions = frames
            .windows(
                self.window,
                self.infer.lanes.iter().map(|(model, _)| *model).collect(),
                Arc::clone(&self.finished),
                self.metrics.clone(),
            )
            .infer(self.infer.clone());

        let writer = self.writer.clone();
        predictions
            .clone()
            .sink(Pipeline, "Clips", move |(input, _)| {
                input.for_each(|_, clips| {
                    writer.send(Batch {
                        clips: mem::take(clips),
                        ..Batch::default()
                    });
                });
            });

        // One worker of all, whatever the number of processes.
        let (known, following) = (scope.index() == 0)
            .then(|| lock(&self.known).take())
            .flatten()
            .unzip();
        let known = known.unwrap_or_default();
        let clips = predictions
            .concat(known.clips.to_stream(scope))
            .clip_facts();
        let models = known.models.into_iter();
        let models = models.map(|model| ((model.hash, model.classes), 0, 1));
        let models = models.collect::<Vec<_>>().to_stream(scope).as_collection();
        let (facts, came) = facts(scope, following, &self.source);
        let views = views::maintain(clips, models, facts);
        arrangements.name(&views.parts);
        store_views(
            views,
            came,
            known.views,
            self.writer.clone(),
            self.metrics.clone(),
        );
    }
}
