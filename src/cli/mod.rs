//! The command line: one file per sub-command, and what they share.
//!
//! Exit codes: 0 done, 2 bad input or configuration, 1 anything else. Results
//! go to stdout or to files, errors to stderr.

#[cfg(not(feature = "train"))]
mod absent;
#[cfg(feature = "gstreamer")]
mod archive;
mod audit;
mod bench;
mod check;
#[cfg(feature = "gstreamer")]
mod decode_worker;
mod devices;
#[cfg(feature = "gstreamer")]
mod doctor;
mod evaluate;
#[cfg(feature = "gstreamer")]
mod exams;
#[cfg(feature = "gstreamer")]
mod explain;
mod export;
mod facts;
#[cfg(feature = "gstreamer")]
mod follow;
mod gpu_suite;
#[cfg(feature = "gstreamer")]
mod group;
mod infer;
#[cfg(feature = "gstreamer")]
mod ingest;
mod labels;
mod log;
mod model;
mod models;
mod numerics;
mod outbox;
#[cfg(feature = "gstreamer")]
mod phantom;
#[cfg(feature = "gstreamer")]
mod progress;
mod pseudonym;
#[cfg(feature = "gstreamer")]
mod pull;
#[cfg(feature = "gstreamer")]
mod recording;
mod results;
#[cfg(feature = "gstreamer")]
mod run;
#[cfg(feature = "gstreamer")]
mod scorer;
#[cfg(feature = "gstreamer")]
mod share;
mod side_by_side;
mod stream_bench;
#[cfg(feature = "train")]
mod study;
#[cfg(feature = "gstreamer")]
mod supervise;
#[cfg(feature = "gstreamer")]
mod token;
#[cfg(feature = "train")]
mod train;
mod views;

use std::fmt::Display;
use std::process::ExitCode;

use anyhow::anyhow;
use clap::{Parser, Subcommand};

use crate::config::ModelConfig;
use crate::engine::EngineOptions;

/// Stages liver fibrosis from ultrasound video, as it streams.
///
/// Research software: no medical device, and not for clinical decisions.
#[derive(Parser)]
#[command(
    name = "hepaflow",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log lines as JSON, one object a line.
    #[arg(long, global = true)]
    log_json: bool,
}

#[derive(Subcommand)]
enum Command {
    #[cfg(feature = "gstreamer")]
    Run(run::RunArgs),
    #[cfg(feature = "gstreamer")]
    Supervise(supervise::SuperviseArgs),
    Check(check::CheckArgs),
    Results(results::ResultsArgs),
    Labels(labels::LabelsArgs),
    Patients(facts::PatientsArgs),
    Exams(facts::ExamsArgs),
    Models(models::ModelsArgs),
    Audit(audit::AuditArgs),
    Outbox(outbox::OutboxArgs),
    #[cfg(feature = "gstreamer")]
    Phantom(phantom::Phantom),
    #[cfg(feature = "gstreamer")]
    Explain(explain::ExplainArgs),
    #[cfg(feature = "train")]
    Train(train::TrainArgs),
    #[cfg(feature = "train")]
    Study(study::StudyArgs),
    #[cfg(not(feature = "train"))]
    Train(absent::AbsentArgs),
    #[cfg(not(feature = "train"))]
    Study(absent::AbsentArgs),
    #[cfg(feature = "gstreamer")]
    Pull(pull::PullArgs),
    #[cfg(feature = "gstreamer")]
    Ingest(ingest::IngestArgs),
    Evaluate(evaluate::EvaluateArgs),
    Infer(infer::InferArgs),
    Model(model::ModelArgs),
    Bench(bench::BenchArgs),
    StreamBench(stream_bench::StreamBenchArgs),
    Pseudonym(pseudonym::PseudonymArgs),
    Devices(devices::DevicesArgs),
    #[cfg(feature = "gstreamer")]
    Doctor(doctor::DoctorArgs),
    #[cfg(feature = "gstreamer")]
    Token(token::TokenArgs),
    GpuSuite(gpu_suite::GpuSuiteArgs),
    #[cfg(feature = "gstreamer")]
    #[command(hide = true)]
    DecodeWorker(decode_worker::WorkerArgs),
}

/// Marks an error as the user's to mend: it ends the process with code 2.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BadInput(#[from] anyhow::Error);

impl BadInput {
    /// Wraps whatever explains itself.
    pub fn new(error: impl Into<anyhow::Error>) -> Self {
        Self(error.into())
    }
}

/// Parses the command line, runs the command, and turns errors into exit codes.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    log::to_stderr(cli.log_json);
    match run(cli.command, cli.log_json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            let bad_input = error.chain().any(<dyn std::error::Error>::is::<BadInput>);
            ExitCode::from(if bad_input { 2 } else { 1 })
        }
    }
}

#[cfg_attr(not(feature = "gstreamer"), allow(unused_variables))]
fn run(command: Command, log_json: bool) -> anyhow::Result<()> {
    match command {
        #[cfg(feature = "gstreamer")]
        Command::Supervise(args) => supervise::run(&args, log_json),
        #[cfg(feature = "gstreamer")]
        Command::Phantom(args) => phantom::run(&args),
        #[cfg(feature = "gstreamer")]
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Results(args) => results::run(&args),
        Command::Labels(args) => labels::run(&args),
        Command::Patients(args) => facts::patients(args),
        Command::Exams(args) => facts::exams(args),
        Command::Models(args) => models::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Outbox(args) => outbox::run(args),
        Command::Model(args) => model::run(args),
        Command::Bench(args) => bench::run(&args),
        Command::StreamBench(args) => stream_bench::run(&args),
        #[cfg(feature = "gstreamer")]
        Command::Explain(args) => explain::run(&args),
        #[cfg(feature = "train")]
        Command::Train(args) => train::run(&args),
        #[cfg(feature = "train")]
        Command::Study(args) => study::run(&args),
        #[cfg(not(feature = "train"))]
        Command::Train(args) | Command::Study(args) => absent::run(&args),
        #[cfg(feature = "gstreamer")]
        Command::Pull(args) => pull::run(&args),
        #[cfg(feature = "gstreamer")]
        Command::Ingest(args) => ingest::run(&args),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::Infer(args) => infer::run(&args),
        Command::Pseudonym(args) => pseudonym::run(&args),
        Command::Devices(args) => devices::run(&args),
        Command::GpuSuite(args) => gpu_suite::run(&args),
        #[cfg(feature = "gstreamer")]
        Command::Doctor(args) => doctor::run(&args),
        #[cfg(feature = "gstreamer")]
        Command::Token(args) => token::run(&args),
        #[cfg(feature = "gstreamer")]
        Command::DecodeWorker(args) => decode_worker::run(&args),
    }
}

/// Who works at this command line, for the audit log.
fn actor() -> String {
    let user = ["USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok());
    format!("{} (command line)", user.as_deref().unwrap_or("somebody"))
}

/// What the pipeline file says of the engine.
fn engine_options(config: &ModelConfig) -> Result<EngineOptions, BadInput> {
    let wrong = |key: &str, error: &dyn Display| BadInput::new(anyhow!("[model] {key}: {error}"));
    Ok(EngineOptions {
        device: config
            .device
            .parse()
            .map_err(|error| wrong("device", &error))?,
        precision: config
            .precision
            .parse()
            .map_err(|error| wrong("precision", &error))?,
    })
}

/// Makes a panic of any thread end the process, after its message.
///
/// Without this, a worker that panics leaves its fellows waiting for ever. In a
/// group, a thread that serves a connection panics when that breaks: then the
/// message names the process at its other end, as `peer` knows it, and the code
/// is 1.
pub fn exit_on_panic(peer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if let Some(peer) = std::thread::current().name().and_then(&peer) {
            tracing::error!("{peer} is gone, its connection broke; the group ends");
            std::process::exit(1);
        }
        report(panic);
        std::process::exit(101);
    }));
}
