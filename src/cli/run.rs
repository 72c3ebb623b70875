//! `hepaflow run`: from a pipeline file to one answer per patient.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use clap::Args;

use super::BadInput;
use super::archive::{self, Report};
use super::exams::Exams;
use super::follow::Follower;
use super::group::{self, GroupArgs};
use super::progress::Progress;
use super::results::{patient_rows, print};
use super::scorer::Scoring;
use super::share::{self, Found};
use super::side_by_side::{self, Opened};
use crate::config::{
    IngestConfig, Pipeline, SinkKind, SourceConfig, SourceKind, StorePlace, pseudonym_key,
};
use crate::dataflow::cluster::{self, Hosts, JoinError, Passport};
use crate::dataflow::{
    self, Control, Facts, Feed, Job, KeepOpen, Live, Opening, Outcome, WindowShape,
};
use crate::domain::{ContentHash, Crop, FrameSize, ModelHash, PatientId, PseudonymKey};
use crate::engine::usage::Nvml;
use crate::ingest::listener::{Listener, ListenerConfig, ListenerTls};
use crate::ingest::sandbox::Sandbox;
use crate::ingest::{Arrival, Look, Media, Reconnect, SourceRequest, Stream};
use crate::metrics::{Metrics, Reference};
use crate::model::Model;
use crate::serve::outbox::{Explainer, Outbox};
use crate::serve::{ServedModel, ServedSource, Server, Subject};
use crate::store::Store;

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
    let models: Vec<_> = stored.iter().map(|model| model.hash).collect();
    let Opened {
        model,
        engine,
        threads,
    } = opened;
    let spec = model.spec();

    let hosts = args.group.hosts(args.index)?;
    let index = hosts.as_ref().map_or(0, Hosts::index);
    let owners = match &hosts {
        Some(hosts) => share::owners(&pipeline, hosts)?,
        None => vec![None; pipeline.sources.len()],
    };

    let metrics = Metrics::new()?;
    let size = FrameSize {
        height: spec.input.height,
        width: spec.input.width,
    };
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let sandbox = Sandbox::new(program, pipeline.ingest.worker_memory);
    let key = pipeline.privacy_key.as_deref().map(pseudonym_key);
    let intake = Intake {
        size,
        sandbox,
        key: key.transpose().map_err(BadInput::new)?,
        reports: files_reports(&pipeline),
    };
    let engine = Arc::new(engine);
    let explainer = intake.reports.then(|| {
        Arc::new(Explainer {
            engine: Arc::clone(&engine),
            model: model.hash(),
            synthetic: spec.synthetic,
            size,
            look: look(&pipeline.ingest),
            crops: pipeline.sources.iter().filter_map(cropped).collect(),
            sandbox: intake.sandbox.clone(),
        })
    });
    let mean = |values: &[f32]| {
        let sum: f64 = values.iter().copied().map(f64::from).sum();
        sum / values.len() as f64
    };
    let [level, deviation] = [&spec.input.mean, &spec.input.std].map(|values| mean(values));
    metrics
        .clinical
        .refer(Reference::Brightness, level, deviation);
    watch_cards(&metrics)?;
    // Every source is listed from the first scrape on.
    pipeline
        .sources
        .iter()
        .for_each(|source| drop(metrics.source(&source.name)));

    let control = Control::default();
    let stay = args.stay.then(|| control.keep_open());
    end_on_signal(&control)?;
    end_after(args.duration, &control)?;
    let peers = hosts.clone();
    super::exit_on_panic(move |thread| {
        let peer = cluster::peer_of_thread(thread)?;
        Some(peers.as_ref()?.peer(peer).to_string())
    });

    let now = SystemTime::now();
    let mut found = Findings::of(&pipeline, index, now);
    let (all, copies) = share::without_copies(std::mem::take(&mut found.recordings));
    let open_store = || -> anyhow::Result<Store> {
        let mut store = Store::open(&pipeline.store).map_err(BadInput::new)?;
        for model in &stored {
            store.register(model)?;
        }
        store.deliver_to(Outbox::sinks(&pipeline.sinks));
        Ok(store)
    };
    // The first process makes the tables, if need be, before it meets the others.
    let early = (index == 0).then(open_store).transpose()?;
    let passport = Passport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pipeline: ContentHash::of(pipeline.text().as_bytes()),
        models: models.clone(),
        workers: usize::from(args.workers),
        files: share::files(&all, args.pipeline.parent()),
    };
    let group = hosts
        .as_ref()
        .map(|hosts| cluster::join(hosts, &passport, args.group.wait, &control))
        .transpose();
    let group = match group {
        // Nothing was begun that would have to be finished.
        Err(JoinError::Stopped) => return Ok(()),
        group => group.map_err(group::join_error)?,
    };
    let store = early.map_or_else(open_store, Ok)?;
    // What all processes write for the sinks, the first one delivers.
    let outbox = (index == 0)
        .then(|| {
            let explainer = explainer.as_ref();
            Outbox::start(&pipeline.store, &pipeline.sinks, &metrics, explainer)
        })
        .transpose()
        .map_err(BadInput::new)?;
    let mine = match &hosts {
        Some(hosts) => share::mine(all, &owners, hosts),
        None => all,
    };
    let mut openings: Vec<_> = mine
        .into_iter()
        .map(|found| opening_of(&pipeline, found, &intake, &control))
        .collect();
    let is_mine = |source: usize| {
        owners
            .get(source)
            .copied()
            .flatten()
            .is_none_or(|it| it == index)
    };
    let listeners = listeners(
        &pipeline,
        &is_mine,
        &intake,
        &control,
        &metrics,
        &mut openings,
    )?;

    let exams = Exams::of(&pipeline, &intake, &control, now, &is_mine);
    // A group has agreed on what the file said, and stays with it.
    let followed = hosts.is_none().then_some(args.pipeline.as_path());
    let follower = Follower::start(&exams, &pipeline, followed)?;
    let scoring = Scoring::new(engine, pipeline.window.stride, &metrics, control.live());
    let (mut beside, mut served_beside) = (Vec::new(), Vec::new());
    for Opened {
        model,
        engine,
        threads,
    } in others
    {
        // What these see is not drawn.
        let (engine, unseen) = (Arc::new(engine), Live::default());
        let scoring = Scoring::new(engine, pipeline.window.stride, &metrics, &unseen);
        served_beside.push(served_model(&model, &pipeline, &scoring));
        beside.push((model.hash(), scoring.scorers(threads)?));
    }
    let facts = Facts::new(Store::open(&pipeline.store)?);
    let subject = Subject {
        facts: facts.clone(),
        metrics: metrics.clone(),
        control: control.clone(),
        store: pipeline.store.clone(),
        ids: match &pipeline.store {
            StorePlace::File(file) => file.with_extension("ids"),
            StorePlace::Postgres(_) => args.pipeline.with_extension("ids"),
        },
        model: served_model(&model, &pipeline, &scoring),
        beside: served_beside,
        pseudonyms: intake.key.clone(),
        sources: pipeline.sources.iter().map(served).collect(),
        open: {
            let exams = exams.clone();
            Box::new(move |new| exams.bind(new))
        },
        close: Box::new(move |source| exams.close(source)),
    };
    let mut serve = pipeline.serve.clone();
    serve.listen = group::listen(serve.listen, index)?;
    let server = Server::start(&serve, subject).map_err(BadInput::new)?;
    tracing::info!(
        model = %model.hash().short(),
        architecture = %spec.architecture,
        engine = scoring.engine().description(),
        streams = openings.len(),
        dashboard = server.url(),
        metrics = %format!("{}metrics", server.url()),
        "running"
    );
    // Of a group, one shows how far it is.
    let progress = (index == 0).then(|| Progress::start(&metrics, openings.len(), args.duration));
    let job = Job {
        decoders: pipeline.ingest.decoders,
        window: WindowShape {
            length: spec.input.frames,
            stride: pipeline.window.stride,
            max_gap: pipeline.window.max_gap,
        },
        model: model.hash(),
        scorers: scoring.scorers(threads)?,
        workers: usize::from(args.workers),
        beside,
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
    let Findings {
        reports,
        mut failures,
        ..
    } = found;
    // What all processes know, the first one tells.
    if index == 0 {
        outcome.duplicates += copies;
    } else {
        failures.clear();
        for (_, report) in &reports {
            report.leave_skipped();
        }
    }
    for (_, report) in &reports {
        report.write()?;
        eprintln!("{}", report.summary());
    }
    // What an archive holds that cannot be read is told by its report.
    let told = |source: &str| reports.iter().any(|(name, _)| name == source);
    failures.extend(
        outcome
            .failures
            .iter()
            .filter(|failure| !told(&failure.source))
            .map(|failure| failure.error.to_string()),
    );
    if index == 0 {
        answers(&pipeline, &models, model.spec().synthetic)?;
    }
    report(&pipeline, &metrics, &outcome);
    if failures.is_empty() {
        return Ok(());
    }
    let listed = failures.join("\n  ");
    Err(BadInput::new(anyhow!(
        "{} of the streams failed:\n  {listed}",
        failures.len()
    ))
    .into())
}

/// The answers, on stdout.
fn answers(pipeline: &Pipeline, models: &[ModelHash], synthetic: bool) -> anyhow::Result<()> {
    let store = Store::open_existing(&pipeline.store)?;
    let mut results = store.patient_results()?;
    results.retain(|result| models.contains(&result.model));
    print(&patient_rows(&results, &store.models()?).to_table())?;
    if synthetic {
        eprintln!("The model was made from synthetic data: its answers mean nothing for a person.");
    }
    Ok(())
}

/// What was done, and where it lies, on stderr.
fn report(pipeline: &Pipeline, metrics: &Metrics, outcome: &Outcome) {
    let place = match &pipeline.store {
        StorePlace::File(file) => short(file).into(),
        place @ StorePlace::Postgres(_) => place.clone(),
    };
    eprintln!(
        "{} streams read, {} clips scored, {} scored before; results in {place}",
        outcome.streams,
        metrics.predictions.get(),
        metrics.windows_resumed.get(),
    );
    if outcome.duplicates > 0 {
        eprintln!(
            "{} streams had the bytes of another and were left out",
            outcome.duplicates
        );
    }
    eprintln!("See them again: hepaflow results patients --store {place}");
}

/// A file's path as a person would type it: without detours, from here.
fn short(file: &Path) -> PathBuf {
    let whole = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let here = std::env::current_dir().unwrap_or_default();
    whole
        .strip_prefix(here)
        .map(Path::to_owned)
        .unwrap_or(whole)
}

/// All recordings and scanners that the pipeline names, and what could not be
/// found.
#[derive(Default)]
struct Findings {
    recordings: Vec<Found>,
    failures: Vec<String>,
    /// Of each archive, by the name of its source.
    reports: Vec<(String, Report)>,
}

impl Findings {
    /// Looks for those that are open at `now`; the archives' reports are those of
    /// process `index`.
    fn of(pipeline: &Pipeline, index: usize, now: SystemTime) -> Self {
        let mut findings = Self::default();
        let sources = pipeline.sources.iter().enumerate();
        for (position, source) in sources.filter(|(_, source)| source.is_open_at(now)) {
            if let Err(error) = findings.look(position, source, index) {
                let error = format!("source `{}`: {error:#}", source.name);
                tracing::error!("{error}");
                findings.failures.push(error);
            }
        }
        findings
    }

    fn look(&mut self, position: usize, source: &SourceConfig, index: usize) -> anyhow::Result<()> {
        let found = |(media, patient), report| Found {
            source: position,
            media,
            patient,
            report,
        };
        if let SourceKind::Archive { path, report } = &source.kind {
            let report = share::report_path(report, index);
            let (entries, report) =
                archive::discover(&path.value, source.patient.as_ref(), &report)?;
            self.recordings.extend(entries.into_iter().map(|entry| {
                let media = Media::File(entry.path);
                found((media, entry.patient), Some(report.clone()))
            }));
            self.reports.push((source.name.clone(), report));
        } else {
            let recordings = recordings(source)?.into_iter();
            self.recordings.extend(recordings.map(|it| found(it, None)));
        }
        Ok(())
    }
}

/// The stream of what was found; an archive's report follows it.
fn opening_of(pipeline: &Pipeline, found: Found, intake: &Intake, control: &Control) -> Opening {
    let source = &pipeline.sources[found.source];
    let file = match &found.media {
        Media::File(path) => Some(path.clone()),
        Media::Launch(_) => None,
    };
    let plain = opening(pipeline, source, found.media, found.patient, intake);
    let (Some(report), Some(path)) = (found.report, file) else {
        return plain;
    };
    let control = control.clone();
    Opening {
        source: plain.source,
        live: plain.live,
        open: Box::new(move |wake, counters| {
            let feed = (plain.open)(wake, counters);
            report.follow(path, feed, control)
        }),
    }
}

pub(super) type Recording = (Media, Option<PatientId>);

pub(super) fn recordings(source: &SourceConfig) -> anyhow::Result<Vec<Recording>> {
    let patient = || source.patient.clone();
    match &source.kind {
        SourceKind::Launch(line) => Ok(vec![(Media::Launch(line.clone()), patient())]),
        SourceKind::File(path) if path.value.exists() => {
            Ok(vec![(Media::File(path.value.clone()), patient())])
        }
        SourceKind::File(path) => {
            let pattern = path.value.to_string_lossy();
            let files: Vec<_> = glob::glob(&pattern)
                .with_context(|| format!("{pattern} is no pattern of files"))?
                .filter_map(Result::ok)
                .filter(|path| path.is_file())
                .map(|path| (Media::File(path), patient()))
                .collect();
            if files.is_empty() {
                return Err(anyhow!(
                    "there is no file {pattern}; correct the path in the pipeline file"
                ));
            }
            Ok(files)
        }
        SourceKind::Cohort(directory) => cohort(&directory.value),
        // Found elsewhere: one with a report, the other by and by.
        SourceKind::Archive { .. } | SourceKind::Listener(_) => Ok(Vec::new()),
    }
}

/// Starts those of the pipeline's listeners that `is_mine` says: what they receive
/// becomes a stream of the run, and what an earlier run received becomes one of
/// `openings`.
fn listeners(
    pipeline: &Pipeline,
    is_mine: &dyn Fn(usize) -> bool,
    intake: &Intake,
    control: &Control,
    metrics: &Metrics,
    openings: &mut Vec<Opening>,
) -> anyhow::Result<Vec<(Listener, KeepOpen)>> {
    let mut listeners = Vec::new();
    for (position, source) in pipeline.sources.iter().enumerate() {
        let SourceKind::Listener(section) = &source.kind else {
            continue;
        };
        if !is_mine(position) {
            continue;
        }
        let config = ListenerConfig {
            name: source.name.clone(),
            address: section.listen,
            ae_title: section.ae_title.clone(),
            allow: section.allow.clone(),
            folder: section.folder.clone(),
            associations: section.associations,
            largest: section.largest,
            timeout: section.timeout,
            tls: section.tls.clone().map(|(certificate, key)| ListenerTls {
                certificate,
                key,
                clients: section.clients.clone(),
            }),
        };
        // What was pushed here is ours to move.
        let quarantine = section.folder.join("quarantine");
        let intake = Intake {
            sandbox: intake.sandbox.with_quarantine(quarantine),
            ..intake.clone()
        };
        let on_stored = {
            let (pipeline, source) = (pipeline.clone(), source.clone());
            let (control, intake) = (control.clone(), intake.clone());
            Arc::new(move |path| {
                let media = Media::File(path);
                control.add(opening(&pipeline, &source, media, None, &intake));
            })
        };
        let started = Listener::start(&config, on_stored, metrics.listener(&source.name));
        let (listener, left) = started.map_err(BadInput::new)?;
        openings.extend(
            left.into_iter()
                .map(|path| opening(pipeline, source, Media::File(path), None, &intake)),
        );
        listeners.push((listener, control.keep_open()));
    }
    Ok(listeners)
}

/// `videos.csv` of a cohort directory: columns `patient_id` and `path`.
fn cohort(directory: &Path) -> anyhow::Result<Vec<Recording>> {
    #[derive(serde::Deserialize)]
    struct Video {
        patient_id: String,
        path: PathBuf,
    }
    let file = directory.join("videos.csv");
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_path(&file)
        .with_context(|| format!("cannot read {}", file.display()))?;
    reader
        .deserialize()
        .map(|row| {
            // The error names line and column, not the values.
            let video: Video = row.with_context(|| format!("{}", file.display()))?;
            let media = Media::File(directory.join(video.path));
            Ok((media, Some(PatientId::new(video.patient_id))))
        })
        .collect()
}

/// A model that scores, as people see it.
fn served_model(model: &Model, pipeline: &Pipeline, scoring: &Scoring) -> ServedModel {
    let spec = model.spec();
    ServedModel {
        hash: model.hash(),
        architecture: spec.architecture.to_string(),
        classes: spec.classes.clone(),
        synthetic: spec.synthetic,
        size: FrameSize {
            height: spec.input.height,
            width: spec.input.width,
        },
        window: (spec.input.frames, pipeline.window.stride),
        engine: scoring.engine().description(),
    }
}

/// A source, as people see it.
fn served(source: &SourceConfig) -> ServedSource {
    ServedSource {
        name: source.name.clone(),
        kind: match source.kind {
            SourceKind::File(_) => "file",
            SourceKind::Cohort(_) => "cohort",
            SourceKind::Launch(_) => "launch",
            SourceKind::Archive { .. } => "archive",
            SourceKind::Listener(_) => "listener",
        },
        live: source.live,
    }
}

pub(super) fn opening(
    pipeline: &Pipeline,
    source: &SourceConfig,
    media: Media,
    patient: Option<PatientId>,
    intake: &Intake,
) -> Opening {
    let ingest = &pipeline.ingest;
    // A recording that is replayed ends; a scanner only pauses.
    let is_scanner = source.live && matches!(media, Media::Launch(_));
    let reconnect = is_scanner.then(|| Reconnect {
        stall: ingest.stall_timeout,
        longest_pause: ingest.reconnect_pause,
        ..Reconnect::default()
    });
    let request = SourceRequest {
        name: source.name.clone(),
        media,
        patient,
        crop: source.crop,
        look: look(ingest),
        size: intake.size,
        queue: ingest.queue,
        live: source.live,
        reconnect,
        first_frame_timeout: ingest.first_frame_timeout,
    };
    let Intake {
        sandbox,
        key,
        reports,
        ..
    } = intake.clone();
    Opening {
        source: source.name.clone(),
        live: source.live,
        open: Box::new(move |wake, counters| {
            // A recording that plays live was chosen by hand.
            let stream = if request.live {
                Stream::open(request, wake, counters)
            } else {
                Stream::open_in(sandbox, request, wake, counters)
            };
            Box::new(Discreet {
                stream,
                key,
                reports,
            })
        }),
    }
}

/// What every stream of a run is opened with.
#[derive(Clone)]
pub(super) struct Intake {
    /// The model's input.
    size: FrameSize,
    sandbox: Sandbox,
    /// Of the pseudonyms, if patients are to have some.
    key: Option<PseudonymKey>,
    /// Whether reports are filed, which have to say whom they are about.
    reports: bool,
}

/// A stream that says no more of a patient than the run needs: behind it there are
/// pseudonyms, if there are any, and names only for reports.
struct Discreet {
    stream: Stream,
    key: Option<PseudonymKey>,
    reports: bool,
}

impl Feed for Discreet {
    fn try_next(&self) -> Option<Arrival> {
        let mut arrival = self.stream.try_next()?;
        if let Arrival::Opened(header) = &mut arrival {
            header.instance.take_if(|_| !self.reports);
            if let Some(key) = &self.key {
                header.patient = key.patient(&header.patient);
                header.study = header.study.as_ref().map(|study| key.study(study));
                header.instance = None;
            }
        }
        Some(arrival)
    }
}

fn files_reports(pipeline: &Pipeline) -> bool {
    let mut sinks = pipeline.sinks.iter();
    sinks.any(|sink| matches!(sink.kind, SinkKind::Dicom { .. }))
}

fn look(ingest: &IngestConfig) -> Look {
    Look {
        find: ingest.find_crop,
        gate: ingest.gate,
    }
}

/// The crop that the operator set for a source, with its name.
fn cropped(source: &SourceConfig) -> Option<(String, Crop)> {
    Some((source.name.clone(), source.crop?))
}

/// Reads how busy the cards are, where there are any, as long as the process lives.
fn watch_cards(metrics: &Metrics) -> anyhow::Result<()> {
    let Some(nvml) = Nvml::open() else {
        return Ok(());
    };
    let cards = metrics.cards.clone();
    std::thread::Builder::new()
        .name("cards".to_owned())
        .spawn(move || {
            loop {
                for it in nvml.usage() {
                    cards.set(it.card, it.memory, it.memory_used, it.utilization);
                }
                std::thread::sleep(Duration::from_secs(5));
            }
        })?;
    Ok(())
}

/// The first Ctrl-C or SIGTERM ends the run in order, a second one at once.
fn end_on_signal(control: &Control) -> anyhow::Result<()> {
    let control = control.clone();
    // A run that ends for another reason, such as its group's end, was not asked yet.
    let asked = AtomicBool::new(false);
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("ending: clips under way are finished first; once more ends at once");
        control.stop();
    })
    .context("cannot listen for signals")
}

fn end_after(duration: Option<Duration>, control: &Control) -> anyhow::Result<()> {
    let Some(duration) = duration else {
        return Ok(());
    };
    let control = control.clone();
    // Left to itself: it ends with the process if the run ends before.
    std::thread::Builder::new()
        .name("timer".to_owned())
        .spawn(move || {
            std::thread::sleep(duration);
            control.stop();
        })?;
    Ok(())
}
