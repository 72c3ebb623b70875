use std::cell::RefCell;
use std::collections::HashSet;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

use super::model::{ModelConfig, read_models};
use super::section::{Count, Section};
use super::serve::{ServeConfig, read_serve};
use super::sink::{SinkConfig, SinkKind, read_sink};
use super::source::{SourceConfig, SourceKind, read_source};
use super::{ConfigError, Diagnostic, PlaceError, StorePlace};

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
