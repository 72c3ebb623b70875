//! `hepaflow run`: from a pipeline file to one answer per patient.

mod end;
mod found;
mod intake;
mod lanes;
mod listeners;
mod meet;
mod told;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Args;

use super::BadInput;
use super::exams::Exams;
use super::follow::Follower;
use super::group::{self, GroupArgs};
use super::progress::Progress;
use super::share::{self, Part};
use super::side_by_side::{self, Opened};
use crate::config::{Pipeline, StorePlace};
use crate::dataflow::{self, Control, Facts, Job, WindowShape, cluster};
use crate::metrics::Metrics;
use crate::serve::outbox::Outbox;
use crate::serve::{Server, Subject};
use crate::store::Store;
use found::Findings;
pub(super) use found::recordings;
pub(super) use intake::{Intake, opening};
use lanes::Lanes;

/// Runs a pipeline: reads its sources, scores every window, and keeps one
/// answer per patient.
///
/// With -n, -p and --hostfile, several processes run it together: recordings are
/// dealt out among them, and each patient has one answer. All must see the same
/// files and write one store; an end of one is an end of all.
///
/// Windows that an earlier run has scored under the same model are not scored
/// again, so a run that was interrupted is resumed by starting it once more.
/// A source that fails is reported and the others go on; the exit code is then
/// 2. While it runs, metrics are served as the pipeline file's `[serve]` says.
#[derive(Args)]
pub(super) struct RunArgs {
    /// The pipeline file; `hepaflow check --defaults` prints one to begin with.
    #[arg(value_name = "PIPELINE.toml")]
    pipeline: PathBuf,
    /// Timely workers, which move frames and keep answers; inference has
    /// threads of its own, see `[model]` in the pipeline file.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    #[command(flatten)]
    group: GroupArgs,
    /// Which process of the group this one is, from 0.
    #[arg(
        short = 'p',
        long = "process",
        value_name = "INDEX",
        requires = "processes"
    )]
    index: Option<u16>,
    /// End after this time, such as 20s or 5min; what is under way is finished.
    #[arg(long, value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Stay when all sources have ended, for people who look and for streams that
    /// are added by request, until Ctrl-C.
    #[arg(long)]
    stay: bool,
}

pub(super) fn run(args: &RunArgs) -> anyhow::Result<()> {
    let pipeline = Pipeline::load(&args.pipeline).map_err(BadInput::new)?;
    let (opened, others) = side_by_side::open(&pipeline)?;
    let stored: Vec<_> = std::iter::once(&opened)
        .chain(&others)
        .map(Opened::stored)
        .collect();
    let Opened {
        model,
        engine,
        threads,
    } = opened;
    let engine = Arc::new(engine);
    let part = Part::of(&pipeline, args.group.hosts(args.index)?)?;
    let is_first = part.index() == 0;
    let metrics = Metrics::new()?;
    // Every source is listed from the first scrape on.
    pipeline
        .sources
        .iter()
        .for_each(|source| drop(metrics.source(&source.name)));
    watch::pictures(&metrics, &model);
    watch::cards(&metrics)?;
    let intake = Intake::of(&pipeline, &model)?;

    let control = Control::default();
    let stay = args.stay.then(|| control.keep_open());
    end::end_on_signal(&control)?;
    end::end_after(args.duration, &control)?;
    let peers = part.hosts.clone();
    super::exit_on_panic(move |thread| {
        let peer = cluster::peer_of_thread(thread)?;
        Some(peers.as_ref()?.peer(peer).to_string())
    });

    let now = SystemTime::now();
    let mut found = Findings::of(&pipeline, part.index(), now);
    let recordings = std::mem::take(&mut found.recordings);
    let (lasting, timed) = part.by_the_clock(&pipeline, recordings);
    let (all, copies) = share::without_copies(lasting);
    let Some((store, group)) = meet::meet(args, &pipeline, &part, &stored, &all, &control)? else {
        // Nothing was begun that would have to be finished.
        return Ok(());
    };
    // What all processes write for the sinks, the first one delivers.
    let explainer = intake.explainer(&pipeline, &model, &engine);
    let outbox = is_first
        .then(|| {
            Outbox::start(
                &pipeline.store,
                &pipeline.sinks,
                &metrics,
                explainer.as_ref(),
            )
        })
        .transpose()
        .map_err(BadInput::new)?;
    let timed = timed.into_iter().filter(|it| part.has(it.source));
    let spec = model.spec();
    let window = WindowShape {
        length: spec.input.frames,
        stride: pipeline.window.stride,
        max_gap: pipeline.window.max_gap,
    };
    let mine = part.mine(all).into_iter().chain(timed);
    let mut openings: Vec<_> = mine
        .map(|found| found::opening_of(&pipeline, found, &intake, window, &control))
        .collect();
    let listeners =
        listeners::listeners(&pipeline, &part, &intake, &control, &metrics, &mut openings)?;

    let exams = Exams::of(&pipeline, &intake, &control, now, &|source| {
        part.has(source)
    });
    // A group has agreed on what the file said, and stays with it.
    let followed = part.hosts.is_none().then_some(args.pipeline.as_path());
    let follower = Follower::start(&exams, &pipeline, followed)?;
    let of_model = (&model, engine, threads);
    let lanes = Lanes::ready(&pipeline, of_model, others, &metrics, control.live())?;
    let facts = Facts::new(Store::open(&pipeline.store)?);
    let engine = lanes.served.engine.clone();
    let subject = Subject {
        facts: facts.clone(),
        metrics: metrics.clone(),
        control: control.clone(),
        store: pipeline.store.clone(),
        ids: pipeline
            .serve
            .names
            .clone()
            .unwrap_or_else(|| match &pipeline.store {
                StorePlace::File(file) => file.with_extension("ids"),
                StorePlace::Postgres(_) => args.pipeline.with_extension("ids"),
            }),
        model: lanes.served,
        beside: lanes.served_beside,
        pseudonyms: intake.key.clone(),
        sources: pipeline.sources.iter().map(lanes::served).collect(),
        open: {
            let exams = exams.clone();
            Box::new(move |new| exams.bind(new))
        },
        close: Box::new(move |source| exams.close(source)),
    };
    let mut serve = pipeline.serve.clone();
    serve.listen = group::listen(serve.listen, part.index())?;
    let server = Server::start(&serve, subject).map_err(BadInput::new)?;
    tracing::info!(
        model = %model.hash().short(),
        architecture = %spec.architecture,
        engine,
        streams = openings.len(),
        dashboard = server.url(),
        metrics = %format!("{}metrics", server.url()),
        "running"
    );
    // Of a group, one shows how far it is.
    let progress = is_first.then(|| Progress::start(&metrics, openings.len(), args.duration));
    let job = Job {
        decoders: pipeline.ingest.decoders,
        window,
        model: model.hash(),
        reference: spec.reference.clone(),
        scorers: lanes.scorers,
        workers: usize::from(args.workers),
        beside: lanes.beside,
        facts,
        store,
        metrics: metrics.clone(),
        openings,
    };
    let outcome = match group {
        Some(group) => dataflow::run_together(job, &control, group, group::end_group),
        None => dataflow::run(job, &control),
    };
    drop(follower);
    drop(progress);
    drop(stay);
    // Until here, what was pushed while the run ended was still kept.
    drop(listeners);
    if let Some(outbox) = outbox {
        for (sink, left) in outbox.finish() {
            eprintln!("{left} changes wait for sink `{sink}`; the next run delivers them");
        }
    }
    let mut outcome = outcome?;
    if is_first {
        outcome.duplicates += copies;
    }
    told::conclude(found, &outcome, is_first, || {
        if is_first {
            let models: Vec<_> = stored.iter().map(|model| model.hash).collect();
            told::answers(&pipeline, &models, spec.synthetic)?;
        }
        told::report(&pipeline, &metrics, &outcome);
        Ok(())
    })
}
