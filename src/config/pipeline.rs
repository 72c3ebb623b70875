use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use toml::de::DeTable;

use super::listener::{ListenerSection, read_listener};
use super::model::{ModelConfig, read_models};
use super::section::{Count, FrameRate, Located, Section};
use super::sink::{SinkConfig, SinkKind, read_sink};
use super::tls::read_tls;
use super::{ConfigError, Diagnostic, PlaceError, Role, StorePlace};
use crate::domain::{Crop, PatientId};

/// A pipeline file with every key and its default, for people to read.
pub const DEFAULTS: &str = include_str!("defaults.toml");

/// A pipeline file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The file could not be read.
    #[error("cannot read the pipeline file {}: {error}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file has mistakes.
    #[error(transparent)]
    Mistakes(#[from] ConfigError),
}

/// A pipeline file, understood.
#[derive(Clone, Debug)]
pub struct Pipeline {
    file: PathBuf,
    text: String,
    /// Which model, and what executes it. Its answers are the current ones, unless
    /// another one's were made so.
    pub model: ModelConfig,
    /// Further models that score the same windows.
    pub beside: Vec<ModelConfig>,
    /// How frames become clips.
    pub window: WindowConfig,
    /// How sources are read.
    pub ingest: IngestConfig,
    /// The file with the key of the pseudonyms, if patients are to have some.
    pub privacy_key: Option<PathBuf>,
    /// What is read, at least one.
    pub sources: Vec<SourceConfig>,
    /// Where predictions and results are kept.
    pub store: StorePlace,
    /// Where changes of answers go besides, if anywhere.
    pub sinks: Vec<SinkConfig>,
    /// Where people and programs look on.
    pub serve: ServeConfig,
}

/// `[serve]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeConfig {
    /// Where to listen; a loopback address unless there is TLS and a way to know
    /// people: tokens, or certificates with roles.
    pub listen: SocketAddr,
    /// The file of access tokens; without it, who reaches the loopback address
    /// may look on.
    pub tokens: Option<PathBuf>,
    /// Certificate chain and private key, PEM.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Certificates of authorities: without one by them nobody gets in.
    pub clients: Option<PathBuf>,
    /// What the holders of such certificates are, by the common name in the
    /// certificate's subject.
    pub roles: BTreeMap<String, Role>,
    /// Names by which browsers may call this server, besides its address.
    pub hosts: Vec<String>,
    /// The key of the names that addresses show instead of patients' identifiers, made
    /// on first use; without it, it lies beside the store, or beside the pipeline file
    /// where the store is no file.
    pub names: Option<PathBuf>,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 9464).into(),
            tokens: None,
            tls: None,
            clients: None,
            roles: BTreeMap::new(),
            hosts: Vec::new(),
            names: None,
        }
    }
}

/// `[window]`
#[derive(Clone, Debug)]
pub struct WindowConfig {
    /// Frames from the start of one window to the next, at least one.
    pub stride: usize,
    /// A longer step between two frames is a gap; without it, 2.5 times the
    /// stream's own frame interval.
    pub max_gap: Option<Duration>,
}

/// `[ingest]`
#[derive(Clone, Debug)]
pub struct IngestConfig {
    /// How many recorded files are decoded at once.
    pub decoders: usize,
    /// Frames held between decoder and dataflow, per stream.
    pub queue: usize,
    /// A source that has given no frame by then has failed.
    pub first_frame_timeout: Duration,
    /// A live source that is silent for this long is opened again.
    pub stall_timeout: Duration,
    /// The longest pause between attempts to open a lost live source.
    pub reconnect_pause: Duration,
    /// What a worker that reads DICOM may map, in bytes.
    pub worker_memory: u64,
    /// Find the sector in the picture, where a source has no crop of its own.
    pub find_crop: bool,
    /// Leave out pictures that are not fit to be seen.
    pub gate: bool,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            decoders: cores(),
            queue: 64,
            first_frame_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(4),
            reconnect_pause: Duration::from_secs(10),
            worker_memory: 4096 << 20,
            find_crop: true,
            gate: true,
        }
    }
}

/// `[[source]]`
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// Name in logs and metrics, unique in the file.
    pub name: String,
    /// What to read.
    pub kind: SourceKind,
    /// Whose it is; DICOM files and cohorts may say so themselves.
    pub patient: Option<PatientId>,
    /// Keep the source's own pace and drop the oldest frame when late.
    pub live: bool,
    /// Read it from the start; a source that is not open waits to be opened by
    /// request, or by a change of the pipeline file.
    pub open: bool,
    /// Not before this time; it waits until then.
    pub from: Option<SystemTime>,
    /// No longer than until this time: then it is closed, and waits.
    pub until: Option<SystemTime>,
    /// The part of the picture to look at.
    pub crop: Option<Crop>,
    /// From one frame to the next, of recordings that do not say it themselves:
    /// folders of pictures, cine without times.
    pub frame_interval: Option<Duration>,
    /// In a group of processes, the one that reads it.
    pub process: Option<usize>,
    /// Where in the pipeline file the table stands.
    pub span: std::ops::Range<usize>,
}

impl SourceConfig {
    /// Whether the clock says when it is read.
    pub fn is_timed(&self) -> bool {
        self.from.is_some() || self.until.is_some()
    }

    /// Whether it is to be read at `now`.
    pub fn is_open_at(&self, now: SystemTime) -> bool {
        self.open
            && self.from.is_none_or(|from| from <= now)
            && self.until.is_none_or(|until| now < until)
    }
}

/// What a source reads.
#[derive(Clone, Debug)]
pub enum SourceKind {
    /// One video or DICOM file, a folder of numbered pictures, or a glob of them.
    File(Located<PathBuf>),
    /// A cohort directory: `videos.csv` names patients and files.
    Cohort(Located<PathBuf>),
    /// A GStreamer launch line whose last element gives video.
    Launch(String),
    /// Any number of recordings, good, bad and foreign: a folder and all below
    /// it, a glob, or a CSV file with the columns `patient_id` and `path`.
    Archive {
        /// The folder, glob or CSV file.
        path: Located<PathBuf>,
        /// Where the report of every file is written.
        report: PathBuf,
    },
    /// A DICOM listener to which scanners and archives push.
    Listener(ListenerSection),
}

const SOURCE_KINDS: [&str; 5] = ["file", "cohort", "archive", "launch", "listener"];

impl Pipeline {
    /// Reads and checks a pipeline file.
    ///
    /// # Errors
    /// If it cannot be read, or has mistakes: all of them are reported.
    pub fn load(file: &Path) -> Result<Self, PipelineError> {
        let text = std::fs::read_to_string(file).map_err(|error| PipelineError::Read {
            file: file.to_owned(),
            error,
        })?;
        Ok(Self::parse(file, &text)?)
    }

    /// Checks the text of a pipeline file; `file` is for messages and as the
    /// base of relative paths.
    ///
    /// # Errors
    /// If it has mistakes: all of them are reported.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let (table, syntax) = DeTable::parse_recoverable(text);
        if !syntax.is_empty() {
            // The tables behind a syntax error are guesses: report it alone.
            let diagnostics = syntax
                .iter()
                .map(|error| Diagnostic {
                    key: String::new(),
                    span: error.span().unwrap_or(0..0),
                    message: format!("this is not TOML: {}", error.message()),
                    help: "see `hepaflow check --defaults` for a file with every key".to_owned(),
                })
                .collect();
            return Err(ConfigError::new(file, text, diagnostics));
        }
        let mistakes = RefCell::default();
        // A key missing at the top level is shown at the file's first line.
        let root = Section::new(table.get_ref(), 0..0, "", &mistakes);
        let pipeline = read_pipeline(file, text, &root);
        root.finish();
        let mistakes = mistakes.into_inner();
        match pipeline {
            Some(pipeline) if mistakes.is_empty() => Ok(pipeline),
            _ => Err(ConfigError::new(file, text, mistakes)),
        }
    }

    /// The file's text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// All models, the first one first.
    pub fn models(&self) -> impl Iterator<Item = &ModelConfig> {
        std::iter::once(&self.model).chain(&self.beside)
    }

    /// Looks for what the file names and reports what is not there.
    ///
    /// A run goes on without a missing source; `hepaflow check` does not.
    ///
    /// # Errors
    /// If a model directory, a source's file or a cohort is missing.
    pub fn missing_files(&self) -> Result<(), ConfigError> {
        let mut missing = Vec::new();
        let mut note = |key: String, span: &std::ops::Range<usize>, message: String, help: &str| {
            missing.push(Diagnostic {
                key,
                span: span.clone(),
                message,
                help: help.to_owned(),
            });
        };
        for (position, model) in self.models().enumerate() {
            let table = match self.beside.len() {
                0 => "model".to_owned(),
                _ => format!("model[{position}]"),
            };
            let path = &model.path;
            if !path.value.join("model.toml").is_file() {
                note(
                    format!("{table}.path"),
                    &path.span,
                    format!("{} holds no model.toml", path.value.display()),
                    "a model directory holds model.toml and weights.safetensors; \
                     `hepaflow model import` makes one",
                );
            }
            if let Some(key) = &model.signed_by
                && !key.value.is_file()
            {
                note(
                    format!("{table}.signed_by"),
                    &key.span,
                    format!("no file at {}", key.value.display()),
                    "name the Ed25519 public key, in PEM, of whoever signs the models",
                );
            }
        }
        for (position, source) in self.sources.iter().enumerate() {
            let key = format!("source[{position}].path");
            match &source.kind {
                SourceKind::File(path) | SourceKind::Archive { path, .. } => {
                    if path.value.is_dir() && matches!(source.kind, SourceKind::Archive { .. }) {
                        continue;
                    }
                    let found = glob::glob(&path.value.to_string_lossy())
                        .is_ok_and(|mut paths| paths.any(|path| path.is_ok()));
                    if !found {
                        let message = format!("no file at {}", path.value.display());
                        note(
                            key,
                            &path.span,
                            message,
                            "relative paths begin at the pipeline file's folder",
                        );
                    }
                }
                SourceKind::Cohort(path) if !path.value.join("videos.csv").is_file() => {
                    let message = format!("{} holds no videos.csv", path.value.display());
                    note(
                        key,
                        &path.span,
                        message,
                        "a cohort directory has a videos.csv with the columns patient_id and path",
                    );
                }
                SourceKind::Cohort(_) | SourceKind::Launch(_) | SourceKind::Listener(_) => {}
            }
        }
        for (position, sink) in self.sinks.iter().enumerate() {
            if let SinkKind::Webhook { secret_file, .. } = &sink.kind
                && !secret_file.value.is_file()
            {
                note(
                    format!("sink[{position}].secret_file"),
                    &secret_file.span,
                    format!("no file at {}", secret_file.value.display()),
                    "make one that only this user may read, such as with \
                     `openssl rand -hex 32`, and give the receiver the same",
                );
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(ConfigError::new(&self.file, &self.text, missing))
    }
}

/// `None` only if a mistake was noted.
fn read_pipeline(file: &Path, text: &str, root: &Section<'_>) -> Option<Pipeline> {
    let base = file.parent().unwrap_or(Path::new(""));
    let models = read_models(base, root);
    let window = root.table("window").map_or_else(
        || WindowConfig {
            stride: 8,
            max_gap: None,
        },
        |section| {
            let window = WindowConfig {
                stride: section.or("stride", Count(8)).0,
                max_gap: section.optional("max_gap").map(|gap| gap.value),
            };
            section.finish();
            window
        },
    );
    let mut ingest = IngestConfig::default();
    if let Some(section) = root.table("ingest") {
        ingest.decoders = section.or("decoders", Count(ingest.decoders)).0;
        ingest.queue = section.or("queue", Count(ingest.queue)).0;
        ingest.first_frame_timeout = section.or("first_frame_timeout", ingest.first_frame_timeout);
        ingest.stall_timeout = section.or("stall_timeout", ingest.stall_timeout);
        ingest.reconnect_pause = section.or("reconnect_pause", ingest.reconnect_pause);
        ingest.worker_memory = (section.or("worker_memory_mib", Count(4096)).0 as u64) << 20;
        let crop = section.one_of("crop", &["auto", "header"]);
        ingest.find_crop = crop.is_none_or(|crop| crop == "auto");
        ingest.gate = section.or("gate", ingest.gate);
        section.finish();
    }
    let privacy_key = root.table("privacy").and_then(|section| {
        let key = section.required::<String>("key");
        section.finish();
        Some(base.join(key?.value))
    });
    let sections = root.tables("source");
    if sections.is_empty() {
        root.mistake(
            "source",
            root.span(),
            "there is nothing to read",
            "add a `[[source]]` with `name`, `kind` and `path`",
        );
    }
    let mut names = HashSet::new();
    let sources = sections
        .into_iter()
        .filter_map(|section| read_source(base, section, &mut names))
        .collect();
    let store = root
        .table("store")
        .and_then(|section| read_store(base, section))
        .unwrap_or_else(|| base.join("results.sqlite").into());
    let mut names = HashSet::new();
    let sinks: Vec<_> = root
        .tables("sink")
        .into_iter()
        .filter_map(|section| read_sink(base, section, &mut names))
        .collect();
    let files_reports = |sink: &SinkConfig| matches!(sink.kind, SinkKind::Dicom { .. });
    if root.has("privacy") && sinks.iter().any(files_reports) {
        root.mistake(
            "privacy",
            root.span(),
            "reports under pseudonyms belong into no patient's study",
            "take out `[privacy]`, or the sink of kind \"dicom\"",
        );
    }
    let serve = root.table("serve").map(|section| read_serve(base, section));
    let (model, beside) = models?;
    Some(Pipeline {
        file: file.to_owned(),
        text: text.to_owned(),
        model,
        beside,
        window,
        ingest,
        privacy_key,
        sources,
        store,
        sinks,
        serve: serve.unwrap_or_default(),
    })
}

fn read_source(
    base: &Path,
    section: Section<'_>,
    names: &mut HashSet<String>,
) -> Option<SourceConfig> {
    let name = section.required::<String>("name");
    if let Some(name) = &name
        && !names.insert(name.value.clone())
    {
        section.mistake(
            "name",
            name.span.clone(),
            "another source has this name already",
            "give each source a name of its own: metrics are told apart by it",
        );
    }
    let kind = if section.has("kind") {
        section.one_of("kind", &SOURCE_KINDS)
    } else {
        Some("file")
    };
    let located = |path: Located<String>| Located {
        value: base.join(path.value),
        span: path.span,
    };
    let kind = match kind {
        Some("file") => section
            .required("path")
            .map(|path| SourceKind::File(located(path))),
        Some("cohort") => section
            .required("path")
            .map(|path| SourceKind::Cohort(located(path))),
        Some("archive") => {
            let report = section.or("report", "archive-report.csv".to_owned());
            section.required("path").map(|path| SourceKind::Archive {
                path: located(path),
                report: base.join(report),
            })
        }
        Some("listener") => read_listener(base, &section).map(SourceKind::Listener),
        Some(_) => section
            .required("line")
            .map(|line| SourceKind::Launch(line.value)),
        // The kind is wrong, so which keys belong to it is not known either.
        None => {
            section.allow(&[
                "path", "line", "report", "listen", "ae_title", "allow", "folder",
            ]);
            section.allow(&["associations", "largest_mib", "timeout"]);
            section.allow(&["certificate", "key", "clients"]);
            None
        }
    };
    let patient = section.optional::<String>("patient");
    let live = match &kind {
        // Recordings, read as fast as they can be.
        Some(SourceKind::Listener(_) | SourceKind::Archive { .. }) => false,
        _ => section.or("live", false),
    };
    let (open, from, until) = match &kind {
        Some(SourceKind::Launch(_) | SourceKind::File(_)) | None => (
            section.or("open", true),
            section.optional("from"),
            section.optional::<SystemTime>("until"),
        ),
        Some(_) => (true, None, None),
    };
    if let (Some(from), Some(until)) = (&from, &until)
        && from.value >= until.value
    {
        section.mistake(
            "until",
            until.span.clone(),
            "this is no later than `from`",
            "an exam ends after it begins",
        );
    }
    let crop = section.table("crop").and_then(|crop| {
        let (x, y) = (crop.required("x"), crop.required("y"));
        let (width, height) = (crop.required("width"), crop.required("height"));
        crop.finish();
        let crop = Crop {
            x: x?.value,
            y: y?.value,
            width: width?.value,
            height: height?.value,
        };
        if crop.width == 0 || crop.height == 0 {
            section.mistake(
                "crop",
                section.span(),
                "the crop is empty",
                "width and height are at least 1",
            );
        }
        Some(crop)
    });
    let frame_interval = match &kind {
        // It has times of its own, or sets a rate itself.
        Some(SourceKind::Launch(_)) => None,
        _ => section.optional::<FrameRate>("frames_per_second"),
    };
    let process = section.optional::<u32>("process");
    let span = section.span();
    match (&kind, &patient) {
        (Some(SourceKind::Launch(_)), None) if open => section.mistake(
            "patient",
            section.span(),
            "a launch line does not say whose picture it gives",
            "add `patient = \"...\"`; or `open = false`, until it is known",
        ),
        (Some(SourceKind::Listener(_)), Some(patient)) => section.mistake(
            "patient",
            patient.span.clone(),
            "what is pushed here names its patients itself",
            "leave this key out; DICOM has the Patient ID (0010,0020)",
        ),
        (Some(SourceKind::Cohort(_)), Some(patient)) => section.mistake(
            "patient",
            patient.span.clone(),
            "a cohort names its patients itself",
            "leave this key out; videos.csv has the column patient_id",
        ),
        _ => {}
    }
    section.finish();
    Some(SourceConfig {
        name: name?.value,
        kind: kind?,
        patient: patient.map(|patient| PatientId::new(patient.value)),
        live,
        open,
        from: from.map(|from| from.value),
        until: until.map(|until| until.value),
        crop,
        frame_interval: frame_interval.map(|rate| rate.value.0),
        process: process.map(|process| process.value as usize),
        span,
    })
}

fn read_store(base: &Path, section: Section<'_>) -> Option<StorePlace> {
    let path = section.optional::<String>("path");
    let url = section.optional::<String>("url");
    if let (Some(_), Some(url)) = (&path, &url) {
        section.mistake(
            "url",
            url.span.clone(),
            "results are kept in one place",
            "leave out `path` or `url`",
        );
    }
    let place = match url {
        Some(url) if StorePlace::is_url(&url.value) => {
            let place = url.value.parse::<StorePlace>();
            if let Err(error) = &place {
                section.mistake("url", url.span, "this cannot be read", error.to_string());
            }
            place.ok()
        }
        Some(url) => {
            let error = PlaceError.to_string();
            section.mistake("url", url.span, "this begins otherwise", error);
            None
        }
        None => path.map(|path| base.join(path.value).into()),
    };
    section.finish();
    place
}

fn read_serve(base: &Path, section: Section<'_>) -> ServeConfig {
    let listen = section.optional::<SocketAddr>("listen");
    let tokens = section
        .optional::<String>("tokens")
        .map(|path| base.join(path.value));
    let (tls, clients) = read_tls(base, &section);
    let roles = section.optional::<BTreeMap<String, String>>("roles");
    let hosts = section.or("hosts", Vec::new());
    let names = section
        .optional::<String>("names")
        .map(|path| base.join(path.value));
    let mut known = BTreeMap::new();
    if let Some(roles) = roles {
        for (name, role) in roles.value {
            if let Ok(role) = role.parse() {
                known.insert(name, role);
                continue;
            }
            section.mistake(
                "roles",
                roles.span.clone(),
                format!("\"{role}\" is no role"),
                "expected \"viewer\" (looks) or \"operator\" (acts)",
            );
        }
        if clients.is_none() {
            section.mistake(
                "roles",
                roles.span,
                "nobody vouches for the certificates that bear these names",
                "give `clients`, the authority that signs them, too",
            );
        }
    }
    // Who calls is known by a token, or by a certificate that has a role.
    let is_known = tokens.is_some() || (clients.is_some() && !known.is_empty());
    if let Some(listen) = &listen
        && !listen.value.ip().is_loopback()
        && (!is_known || tls.is_none())
    {
        section.mistake(
            "listen",
            listen.span.clone(),
            "this address can be reached from other machines, and nothing protects it",
            "use a loopback address such as \"127.0.0.1:9464\", or give `certificate` and `key` \
             (TLS) and `tokens` (made by `hepaflow token add`) or `clients` and `roles` \
             (certificates)",
        );
    }
    section.finish();
    let default = ServeConfig::default();
    ServeConfig {
        listen: listen.map_or(default.listen, |listen| listen.value),
        tokens,
        tls,
        clients,
        roles: known,
        hosts,
        names,
    }
}

/// Cores that this process may use, at least one.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        [model]
        path = "m"
        [[source]]
        name = "one"
        path = "a.mp4"
        patient = "p"
    "#;

    fn complaints(text: &str) -> String {
        Pipeline::parse(Path::new("dir/p.toml"), text)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_short_file_is_filled_with_defaults_and_paths_begin_at_its_folder() {
        let pipeline = Pipeline::parse(Path::new("dir/p.toml"), GOOD).unwrap();
        assert_eq!(pipeline.model.path.value, Path::new("dir/m"));
        assert_eq!(
            (pipeline.model.device, pipeline.model.precision),
            ("auto", "f32")
        );
        assert_eq!(pipeline.window.stride, 8);
        assert_eq!(pipeline.store, Path::new("dir/results.sqlite").into());
        assert_eq!(pipeline.serve.listen.to_string(), "127.0.0.1:9464");
        assert_eq!(pipeline.serve.names, None);
        assert!(
            matches!(&pipeline.sources[0].kind, SourceKind::File(p) if p.value == Path::new("dir/a.mp4"))
        );
    }

    #[test]
    fn the_printed_defaults_are_the_defaults() {
        let full = DEFAULTS.replace("# patient = \"...\" ", "patient = \"p\" ");
        let printed = Pipeline::parse(Path::new("dir/p.toml"), &full).unwrap();
        let short = Pipeline::parse(Path::new("dir/p.toml"), GOOD).unwrap();
        let comparable = |p: &Pipeline| {
            format!(
                "{:?} {:?} {:?} {:?} {:?} {:?}",
                (p.model.device, p.model.precision, p.model.threads),
                p.window,
                p.ingest,
                (p.sources[0].live, p.sources[0].crop),
                p.store,
                p.serve.listen
            )
        };
        assert_eq!(comparable(&printed), comparable(&short));
    }

    #[test]
    fn every_mistake_is_reported_at_once_with_its_line_and_the_way_out() {
        insta::assert_snapshot!(complaints(
            r#"[model]
pathh = "m"
device = "gpu"
[window]
stride = 0
[ingest]
first_frame_timeout = "soon"
[[source]]
name = "a"
kind = "vidoe"
path = 3
[[source]]
name = "a"
path = "x.mp4"
crop = { x = 0, y = -1, width = 0 }
[[source]]
name = "b"
kind = "launch"
line = "videotestsrc"
[serve]
listen = "0.0.0.0:80"
[stor]
"#
        ));
    }

    #[test]
    fn an_empty_file_asks_for_model_and_source() {
        insta::assert_snapshot!(complaints(""));
    }

    #[test]
    fn what_is_not_toml_is_shown_where_it_breaks() {
        insta::assert_snapshot!(complaints("[model\npath = 1\n"));
    }

    #[test]
    fn an_exam_lasts_from_one_time_until_another_wherever_the_clock_hangs() {
        let timed = |from: &str, until: &str| {
            GOOD.to_owned() + &format!("from = {from}\nuntil = {until}\n")
        };
        let text = timed("2026-11-26T08:30:00+01:00", "2026-11-26T02:45:30-05:15");
        let pipeline = Pipeline::parse(Path::new("p.toml"), &text).unwrap();
        let source = &pipeline.sources[0];
        let at = |text: &str| humantime::parse_rfc3339(text).unwrap();
        assert_eq!(source.from, Some(at("2026-11-26T07:30:00Z")));
        assert_eq!(source.until, Some(at("2026-11-26T08:00:30Z")));
        for (time, is_open) in [
            ("2026-11-26T07:29:59Z", false),
            ("2026-11-26T07:30:00Z", true),
            ("2026-11-26T08:00:29Z", true),
            ("2026-11-26T08:00:30Z", false),
        ] {
            assert_eq!(source.is_open_at(at(time)), is_open, "{time}");
        }
        for (from, until) in [
            ("2026-11-26T08:30:00", "2026-11-26T09:00:00Z"),
            ("2026-11-26", "2026-11-26T09:00:00Z"),
            ("08:30:00", "2026-11-26T09:00:00Z"),
            ("\"half past eight\"", "2026-11-26T09:00:00Z"),
        ] {
            let text = complaints(&timed(from, until));
            assert!(
                text.contains("source[0].from") && text.contains("offset"),
                "{text}"
            );
        }
        let text = complaints(&timed("2026-11-26T08:30:00Z", "2026-11-26T08:30:00Z"));
        assert!(text.contains("source[0].until"), "{text}");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[\\[\\]a-z=\"{}0-9.\n ]{0,120}") {
            if let Err(error) = Pipeline::parse(Path::new("p.toml"), &text) {
                proptest::prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}
