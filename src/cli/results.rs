//! `hepaflow results`: what a store holds, for people and for scripts.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;

use super::BadInput;
use super::export::{self, ExportArgs};
use super::pseudonym::existing_key;
use super::views;
use crate::config::{Pipeline, StorePlace, pseudonym_key};
use crate::domain::{
    ClipPrediction, ModelHash, PatientResult, PseudonymKey, Stage, StageRange, StudyUid,
};
use crate::store::{Store, StoredModel};

/// Shows patients' answers, or the clip predictions behind them.
///
/// Results can be read while a pipeline is writing them.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct ResultsArgs {
    #[command(subcommand)]
    export: Option<Export>,
    /// What to show.
    #[arg(required = true)]
    what: Option<What>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

#[derive(Subcommand)]
enum Export {
    Export(ExportArgs),
}

/// How rows are printed.
#[derive(Args)]
pub(super) struct Format {
    /// Print JSON: an array with one object a row.
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print comma-separated values with a header line.
    #[arg(long)]
    csv: bool,
}

impl Format {
    pub(super) fn print(&self, rows: &Rows) -> anyhow::Result<()> {
        print(&if self.json {
            rows.to_json()?
        } else if self.csv {
            rows.to_csv()?
        } else {
            rows.to_table()
        })
    }
}

/// Which store.
#[derive(Args)]
pub(super) struct Place {
    /// The results file or PostgreSQL URL that a pipeline's `[store]` names.
    #[arg(long, value_name = "FILE|URL", conflicts_with = "pipeline")]
    store: Option<StorePlace>,
    /// Take what `[store]` names from this pipeline file.
    #[arg(long, value_name = "PIPELINE.toml", required_unless_present = "store")]
    pipeline: Option<PathBuf>,
}

impl Place {
    /// Opens the store that a run has made.
    pub(super) fn open(&self) -> anyhow::Result<Store> {
        Ok(Store::open_existing(self.named()?).map_err(BadInput::new)?)
    }

    /// Opens the store, which need not be there yet.
    pub(super) fn open_or_make(&self) -> anyhow::Result<Store> {
        Ok(Store::open(self.named()?).map_err(BadInput::new)?)
    }

    /// The key of the pseudonyms under which the store knows patients, if it does:
    /// that in `file`, or the one that the pipeline file names under `[privacy]`.
    pub(super) fn pseudonyms(&self, file: Option<&Path>) -> anyhow::Result<Option<PseudonymKey>> {
        if let Some(file) = file {
            return existing_key(file).map(Some);
        }
        let Some(pipeline) = &self.pipeline else {
            return Ok(None);
        };
        let pipeline = Pipeline::load(pipeline).map_err(BadInput::new)?;
        let key = pipeline.privacy_key.as_deref().map(pseudonym_key);
        Ok(key.transpose().map_err(BadInput::new)?)
    }

    fn named(&self) -> anyhow::Result<StorePlace> {
        Ok(match (&self.store, &self.pipeline) {
            (Some(place), _) => place.clone(),
            (None, Some(pipeline)) => Pipeline::load(pipeline).map_err(BadInput::new)?.store,
            (None, None) => {
                return Err(BadInput::new(anyhow::anyhow!("name --store or --pipeline")).into());
            }
        })
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum What {
    /// One answer per patient and model.
    Patients,
    /// One prediction per clip.
    Clips,
    /// FIB-4 and APRI of every patient with a blood test.
    Indices,
    /// Models beside elastography, FIB-4 and APRI, wherever both say yes or no.
    Agreement,
    /// Of these, the rows where the two differ.
    Discordance,
    /// Every model and index against pathology.
    Evaluation,
}

impl What {
    /// What `store` holds of it.
    pub(super) fn rows(self, store: &Store) -> anyhow::Result<Rows> {
        let models = store.models()?;
        Ok(match self {
            Self::Patients => patient_rows(&store.patient_results()?, &models),
            Self::Clips => clip_rows(&store.clip_predictions()?, &models),
            Self::Indices => views::indices(&store.indices()?),
            Self::Agreement => views::agreements(&store.agreements()?, &models),
            Self::Discordance => {
                let mut rows = store.agreements()?;
                rows.retain(|(_, row)| row.model_says != row.index_says);
                views::agreements(&rows, &models)
            }
            Self::Evaluation => views::evaluations(&store.evaluations()?, &models),
        })
    }
}

pub(super) fn run(args: &ResultsArgs) -> anyhow::Result<()> {
    if let Some(Export::Export(args)) = &args.export {
        return export::run(args);
    }
    let Some(what) = args.what else {
        return Err(BadInput::new(anyhow::anyhow!("say what to show: patients or clips")).into());
    };
    args.format.print(&what.rows(&args.place.open()?)?)
}

/// Writes to stdout; a reader that has gone away (as `head` does) is no error.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to stdout")
        }
        _ => Ok(()),
    }
}

/// Columns and values, before it is known how they shall look.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) columns: Vec<&'static str>,
    pub(super) rows: Vec<Vec<serde_json::Value>>,
    /// What to say where there is none.
    pub(super) empty: &'static str,
}

impl Rows {
    /// One object a row.
    pub(super) fn objects(
        &self,
    ) -> impl Iterator<Item = serde_json::Map<String, serde_json::Value>> {
        let names = || self.columns.iter().map(|&name| name.to_owned());
        self.rows
            .iter()
            .map(move |row| names().zip(row.iter().cloned()).collect())
    }

    fn to_json(&self) -> anyhow::Result<String> {
        let objects: Vec<_> = self.objects().collect();
        Ok(serde_json::to_string_pretty(&objects)? + "\n")
    }

    pub(super) fn to_csv(&self) -> anyhow::Result<String> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(&self.columns)?;
        for row in &self.rows {
            writer.write_record(row.iter().map(exact))?;
        }
        Ok(String::from_utf8(writer.into_inner()?)?)
    }

    /// A table for people: three decimals, numbers to the right.
    pub(super) fn to_table(&self) -> String {
        if self.rows.is_empty() {
            return format!("{}\n", self.empty);
        }
        // A column that says nothing anywhere only takes room.
        let shown: Vec<_> = (0..self.columns.len())
            .filter(|&column| self.rows.iter().any(|row| !row[column].is_null()))
            .collect();
        let mut table = Table::new();
        table.load_preset(presets::UTF8_BORDERS_ONLY);
        table.set_header(shown.iter().map(|&column| heading(self.columns[column])));
        for row in &self.rows {
            table.add_row(shown.iter().map(|&column| rounded(&row[column])));
        }
        let names = shown.iter().map(|&column| self.columns[column]);
        for (column, name) in table.column_iter_mut().zip(names) {
            if !matches!(
                name,
                "patient"
                    | "model"
                    | "answer"
                    | "source"
                    | "study"
                    | "content"
                    | "probabilities"
                    | "abstention"
                    | "rater"
                    | "actor"
                    | "reason"
                    | "kind"
                    | "change"
                    | "fact"
                    | "architecture"
                    | "classes"
                    | "sink"
                    | "event"
                    | "refusal"
            ) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        format!("{table}\n")
    }
}

/// How a column is called in a table for people.
fn heading(name: &str) -> String {
    match name {
        "p_f2_or_more" => "P(≥F2)".to_owned(),
        "p_f3_or_more" => "P(≥F3)".to_owned(),
        "p_f4" => "P(F4)".to_owned(),
        other => other.replace('_', " "),
    }
}

pub(super) fn exact(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn rounded(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Number(number) if number.is_f64() => {
            format!("{:.3}", number.as_f64().unwrap_or_default())
        }
        serde_json::Value::Object(classes) => {
            let each = classes
                .iter()
                .map(|(class, p)| format!("{class} {}", rounded(p)));
            each.collect::<Vec<_>>().join("  ")
        }
        serde_json::Value::Null => "-".to_owned(),
        other => exact(other),
    }
}

pub(super) fn patient_rows(
    results: &[PatientResult],
    models: &HashMap<ModelHash, StoredModel>,
) -> Rows {
    let rows = results.iter().map(|result| {
        let classes = classes(models, result.model);
        let answer = result.likeliest().and_then(|class| classes.get(class));
        let probabilities: Vec<_> = result.probabilities.iter().map(|p| p.to_f64()).collect();
        vec![
            json!(result.patient.expose()),
            json!(answer.map(StageRange::to_string)),
            json!(result.at_least(Stage::F2, classes)),
            json!(result.at_least(Stage::F3, classes)),
            json!(result.at_least(Stage::F4, classes)),
            json!(result.clips),
            named(classes, &probabilities),
            json!(model_name(models, result.model)),
            json!(result.current),
            json!(result.left_out),
            json!(result.weight as f64 / 256.0),
            json!(result.abstention.map(|why| why.to_string())),
        ]
    });
    Rows {
        columns: vec![
            "patient",
            "answer",
            "p_f2_or_more",
            "p_f3_or_more",
            "p_f4",
            "clips",
            "probabilities",
            "model",
            "current",
            "left_out",
            "weight",
            "abstention",
        ],
        rows: rows.collect(),
        empty: "No patient has an answer yet.",
    }
}

fn clip_rows(clips: &[ClipPrediction], models: &HashMap<ModelHash, StoredModel>) -> Rows {
    let rows = clips.iter().map(|clip| {
        let classes = classes(models, clip.key.model);
        let probabilities: Vec<_> = clip.probabilities.iter().map(|p| p.to_f64()).collect();
        vec![
            json!(clip.patient.expose()),
            json!(clip.source),
            json!(clip.study.as_ref().map(StudyUid::expose)),
            json!(clip.key.content.short()),
            json!(clip.span.first_frame),
            json!(clip.span.last_frame),
            json!(clip.span.begin.as_secs_f64()),
            json!(clip.span.end.as_secs_f64()),
            json!(clip.span.gaps_before),
            json!(f64::from(clip.span.weight) / 256.0),
            named(classes, &probabilities),
            json!(model_name(models, clip.key.model)),
        ]
    });
    Rows {
        columns: vec![
            "patient",
            "source",
            "study",
            "content",
            "first_frame",
            "last_frame",
            "begin_seconds",
            "end_seconds",
            "gaps_before",
            "weight",
            "probabilities",
            "model",
        ],
        rows: rows.collect(),
        empty: "No clip has a prediction yet.",
    }
}

fn classes(models: &HashMap<ModelHash, StoredModel>, model: ModelHash) -> &[StageRange] {
    models
        .get(&model)
        .map(|model| model.classes.as_slice())
        .unwrap_or_default()
}

/// `{"F0-F1": 0.2, "F2-F4": 0.8}`
fn named(classes: &[StageRange], probabilities: &[f64]) -> serde_json::Value {
    let pairs = classes.iter().zip(probabilities);
    pairs
        .map(|(class, p)| (class.to_string(), json!(p)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

pub(super) fn model_name(models: &HashMap<ModelHash, StoredModel>, model: ModelHash) -> String {
    let architecture = models
        .get(&model)
        .map_or("unknown", |model| &model.architecture);
    format!("{architecture} {}", model.short())
}
