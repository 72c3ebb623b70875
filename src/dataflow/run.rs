use std::error::Error;
use std::mem;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use differential_dataflow::AsCollection;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::{Concat, Operator, ToStream};
use timely::dataflow::{ProbeHandle, Scope};
use timely::worker::Worker;

use super::ahead::LookAhead;
use super::answers::{ClipFacts, StoredViews, store_views};
use super::census::{Arrivals, Census};
use super::cluster::{self, Claims, Group, Lost, Peer, Post, Pulse, Watch};
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
use crate::model::ReferenceSpec;
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
    /// What that model's pictures and answers are measured against; without it, its
    /// answers are measured against those that the store holds.
    pub reference: Option<ReferenceSpec>,
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
    /// Another process of the group failed, and with it the group.
    #[error("{0} failed, and with it the group; its own log says why")]
    Peer(Peer),
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
    execute(job, control, None)
}

/// Runs the graph together with the other processes of `group`, each with its
/// share of the streams: an end of one is an end of all.
///
/// `on_lost` is called, from a thread of its own, when a process of the group is
/// stopped, cut off or stuck; it should end this process, since the workers may
/// wait for ever.
///
/// # Errors
/// As for [`run`], or if another process failed.
///
/// # Panics
/// As for [`run`]; threads of timely's panic when a connection breaks, see
/// [`cluster::peer_of_thread`].
pub fn run_together(
    job: Job,
    control: &Control,
    group: Group,
    on_lost: impl FnOnce(&Lost) + Send + 'static,
) -> Result<Outcome, RunError> {
    execute(job, control, Some((group, Box::new(on_lost))))
}

/// A group, and what is done when one of it is lost.
type Together = (Group, Box<dyn FnOnce(&Lost) + Send>);

fn execute(job: Job, control: &Control, group: Option<Together>) -> Result<Outcome, RunError> {
    // Of several processes, the first takes up what is known: facts, models, clips
    // and rows go on from there to the workers that keep them.
    let is_first = group
        .as_ref()
        .is_none_or(|(group, _)| group.hosts().index() == 0);
    let finished = Arc::new(job.store.finished()?);
    let lanes: Vec<_> = std::iter::once((job.model, job.scorers))
        .chain(job.beside)
        .collect();
    let models: Vec<_> = lanes.iter().map(|(model, _)| *model).collect();
    let models_known = job.store.models()?;
    let census = Census::new(&models_known, &job.metrics);
    let severity_is_known = job
        .reference
        .as_ref()
        .is_some_and(|it| it.severity.is_some());
    if let Some(reference) = &job.reference {
        census.refer(reference);
    }
    let known = if is_first {
        job.facts.activate_one_of(&models)?;
        let clips = job.store.clip_predictions()?;
        let answers = job.store.patient_results()?;
        let others = job.store.view_rows()?;
        for answer in &answers {
            census.answer(answer, 1);
        }
        for row in &others {
            census.row(row, 1);
        }
        if !severity_is_known {
            census.look_back(&clips, job.model);
        }
        Some(Known {
            clips,
            models: models_known.into_values().collect(),
            views: StoredViews { answers, others },
        })
    } else {
        None
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
    let (following, follower) = is_first
        .then(|| job.facts.follow(control.clone()))
        .transpose()?
        .unzip();
    let (writer, writer_thread) = WriterHandle::start(
        job.store,
        credits.clone(),
        control.clone(),
        job.metrics.clone(),
    )?;
    let outcome = Arc::new(Mutex::new(Outcome::default()));
    let workers = job.workers.max(1);
    let reading = Arc::new(AtomicUsize::new(workers));
    let watch = group.as_ref().map(|(group, _)| {
        let pulse = Arc::new(Pulse::new(workers));
        Arc::new(Watch::new(group.hosts().clone(), pulse))
    });
    let post = watch.as_ref().map(|watch| {
        Arc::new(Post::new(
            workers,
            control.clone(),
            clock.clone(),
            writer.clone(),
            Arc::clone(&reading),
            Arc::clone(watch),
        ))
    });

    let plan = Plan {
        known: Mutex::new(known.zip(following)),
        source: SourceContext {
            intake: Arc::new(Intake::new(job.openings, workers, job.decoders)),
            claims: post
                .clone()
                .map_or_else(|| Claims::Alone(Arc::default()), Claims::Group),
            clock,
            control: control.clone(),
            credits: credits.clone(),
            metrics: job.metrics.clone(),
            outcome: Arc::clone(&outcome),
            writer: writer.clone(),
            reading,
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
        census,
        metrics: job.metrics,
    };
    let metrics = plan.metrics.clone();
    let work = move |worker: &mut Worker| {
        let arrangements = Arrangements::follow(worker, &plan.metrics);
        match &post {
            Some(post) => post.work(worker, |scope| plan.build(scope, &arrangements)),
            None => drop(worker.dataflow(|scope| plan.build(scope, &arrangements))),
        }
    };
    let (guards, _held) = match (group, watch) {
        (Some((mut group, on_lost)), Some(watch)) => {
            let (builders, guard) = cluster::allocators(&mut group, workers, &metrics)?;
            let lookout = watch.start(control.clone(), on_lost)?;
            let config = timely::WorkerConfig::default();
            let guards = timely::execute::execute_from(builders, guard, config, work);
            (guards, Some((group, lookout)))
        }
        _ if workers == 1 => (timely::execute(timely::Config::thread(), work), None),
        _ => (
            timely::execute(timely::Config::process(workers), work),
            None,
        ),
    };
    // The plan is dropped with the last worker, and with it every sender: the
    // threads find their queues closed, finish what is in them, and end.
    for worker in guards.map_err(RunError::Timely)?.join() {
        worker.map_err(|_| RunError::Panicked("worker"))?;
    }
    threads.into_iter().try_for_each(InferenceThreads::join)?;
    if let Some(follower) = follower {
        follower.join().map_err(|_| RunError::Panicked("facts"))?;
    }
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
    census: Census,
    metrics: Metrics,
}

impl Plan {
    /// Gives what shows how far the answers have come.
    fn build(&self, scope: Scope<'_, Epoch>, arrangements: &Arrangements) -> ProbeHandle<Epoch> {
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
        let arrivals = Arrivals::default();
        let clips = predictions
            .concat(known.clips.to_stream(scope))
            .clip_facts(arrivals.clone());
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
            (self.census.clone(), arrivals, self.metrics.clone()),
        )
    }
}
