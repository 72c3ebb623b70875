//! `hepaflow models`: the models that have scored clips, side by side.

use std::collections::BTreeMap;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use serde_json::json;

use super::BadInput;
use super::facts::Why;
use super::results::{Format, Place, Rows, model_name};
use crate::clinical::{Activation, Fact, Rater};
use crate::domain::{ModelHash, PatientResult, Stage, StageRange};
use crate::store::{Change, Store, StoredModel};

/// The models whose answers the store holds.
#[derive(Args)]
pub(super) struct ModelsArgs {
    #[command(subcommand)]
    command: ModelsCommand,
}

#[derive(Subcommand)]
enum ModelsCommand {
    /// Lists the models, and which one is active: its answers are the current ones.
    List(ListArgs),
    /// Makes a model's answers the current ones, each patient's in one step.
    ///
    /// A run that is going follows within a second, otherwise the next one does.
    Activate(ActivateArgs),
    /// Shows two models' answers side by side, patient by patient.
    Compare(CompareArgs),
}

#[derive(Args)]
struct ListArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

#[derive(Args)]
struct ActivateArgs {
    /// The model's hash: the first digits are enough.
    model: String,
    #[command(flatten)]
    why: Why,
}

#[derive(Args)]
struct CompareArgs {
    /// The first model's hash: the first digits are enough.
    one: String,
    /// The second model's.
    other: String,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

pub(super) fn run(args: ModelsArgs) -> anyhow::Result<()> {
    match args.command {
        ModelsCommand::List(args) => args.format.print(&list(&args.place.open()?)?),
        ModelsCommand::Activate(args) => {
            let mut store = args.why.open()?;
            let model = find(&store, &args.model)?.hash;
            let activation = Fact::Activation(Activation { number: 0, model });
            args.why.enter(&mut store, Change::Enter(activation))
        }
        ModelsCommand::Compare(args) => {
            let store = args.place.open()?;
            let models = [find(&store, &args.one)?, find(&store, &args.other)?];
            args.format.print(&compare(&store, &models)?)
        }
    }
}

/// The one model of the store whose hash begins so.
fn find(store: &Store, text: &str) -> anyhow::Result<StoredModel> {
    let models = store.models()?.into_values();
    let mut found: Vec<_> = models
        .filter(|model| model.hash.to_string().starts_with(text))
        .collect();
    match (found.pop(), found.len()) {
        (Some(model), 0) => Ok(model),
        (None, _) => Err(BadInput::new(anyhow!(
            "no model's hash begins with {text}: `hepaflow models list` shows them"
        ))
        .into()),
        (Some(_), others) => Err(BadInput::new(anyhow!(
            "{} models' hashes begin with {text}: give more digits",
            others + 1
        ))
        .into()),
    }
}

fn list(store: &Store) -> anyhow::Result<Rows> {
    let active = store.active_model()?;
    let mut answers: BTreeMap<ModelHash, (u64, u64)> = BTreeMap::new();
    for result in store.patient_results()? {
        let (patients, clips) = answers.entry(result.model).or_default();
        *patients += 1;
        *clips += result.clips;
    }
    let evaluations = store.evaluations()?;
    let mut models: Vec<_> = store.models()?.into_values().collect();
    models.sort_by(|one, other| {
        (&one.architecture, one.hash).cmp(&(&other.architecture, other.hash))
    });
    let rows = models.iter().map(|model| {
        let (patients, clips) = answers.get(&model.hash).copied().unwrap_or_default();
        let significant = evaluations.iter().find_map(|(rater, target, evaluation)| {
            let is_it = *rater == Rater::Model(model.hash) && *target == Stage::F2;
            is_it.then_some(evaluation)
        });
        vec![
            json!(model.hash.short()),
            json!(model.architecture),
            json!(joined(&model.classes)),
            json!(active == Some(model.hash)),
            json!(patients),
            json!(clips),
            json!(significant.and_then(|e| e.confusion.accuracy())),
            json!(significant.and_then(|e| e.auc.area())),
            json!(model.hash.to_string()),
        ]
    });
    Ok(Rows {
        columns: vec![
            "model",
            "architecture",
            "classes",
            "active",
            "patients",
            "clips",
            "accuracy_f2_or_more",
            "auc_f2_or_more",
            "hash",
        ],
        rows: rows.collect(),
        empty: "No model has scored a clip yet.",
    })
}

fn joined(classes: &[StageRange]) -> String {
    let classes: Vec<_> = classes.iter().map(StageRange::to_string).collect();
    classes.join(" ")
}

fn compare(store: &Store, models: &[StoredModel; 2]) -> anyhow::Result<Rows> {
    let mut patients: BTreeMap<_, [Option<PatientResult>; 2]> = BTreeMap::new();
    for result in store.patient_results()? {
        for (position, model) in models.iter().enumerate() {
            if result.model == model.hash {
                let both = patients.entry(result.patient.clone()).or_default();
                both[position] = Some(result.clone());
            }
        }
    }
    let rows = patients.into_iter().map(|(patient, both)| {
        let told = [0, 1].map(|position: usize| {
            let result = both[position].as_ref();
            let classes = &models[position].classes;
            let p = result.and_then(|result| result.at_least(Stage::F2, classes));
            let answer = result
                .filter(|result| result.abstention.is_none())
                .and_then(|result| classes.get(result.likeliest()?));
            (
                answer.map(StageRange::to_string),
                p,
                result.map(|r| r.clips),
            )
        });
        let says = |p: Option<f64>| p.map(|p| p >= 0.5);
        let same = match (says(told[0].1), says(told[1].1)) {
            (Some(one), Some(other)) => json!(one == other),
            _ => json!(null),
        };
        let [(one, p_one, clips_one), (other, p_other, clips_other)] = told;
        vec![
            json!(patient.expose()),
            json!(one),
            json!(other),
            json!(p_one),
            json!(p_other),
            json!(p_one.zip(p_other).map(|(one, other)| other - one)),
            same,
            json!(clips_one),
            json!(clips_other),
        ]
    });
    let rows = rows.collect();
    let stored = store.models()?;
    for (name, model) in [("first", &models[0]), ("second", &models[1])] {
        eprintln!("{name}: {}", model_name(&stored, model.hash));
    }
    Ok(Rows {
        columns: vec![
            "patient",
            "answer_first",
            "answer_second",
            "p_f2_or_more_first",
            "p_f2_or_more_second",
            "difference",
            "same_side_of_half",
            "clips_first",
            "clips_second",
        ],
        rows,
        empty: "Neither model has an answer yet.",
    })
}
