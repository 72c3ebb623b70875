//! `hepaflow evaluate`: how good predictions are, beside SWE, FIB-4 and APRI.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::BadInput;
use super::results::print;
use crate::study::cohort::Cohort;
use crate::study::evaluation::{Evaluation, Options, evaluate};
use crate::study::folder::StudyFolder;
use crate::study::predictions::{Aggregation, Predictions};
use crate::study::report::write_report;
use crate::study::split::Split;
use crate::study::statistics::{Bootstrap, Estimate};

/// Judge predictions by the stages of a cohort, beside SWE, FIB-4 and APRI, with
/// intervals and paired tests.
///
/// Writes evaluation.json, report.html and report.json to the directory given.
/// Thresholds are learnt on validation and training patients; a patient on two
/// sides is refused.
#[derive(Args)]
#[command(after_long_help = "\
predictions.csv has one row a clip, from any model:
  method,fold,set,patient_id,path,first_frame,p_0,p_1
with set `validation` or `test`, and probabilities of F0-F1 and F2-F4 (or five,
of F0 to F4). A method with several folds is reported as their mean, standard
deviation and ensemble.

Examples:
  hepaflow evaluate --predictions study/predictions.csv --cohort cohort \\
    --split study/split.json --out study
  hepaflow evaluate --predictions mine.csv --cohort cohort --out judged --json")]
pub(super) struct EvaluateArgs {
    /// What was predicted, one row a clip.
    #[arg(long, value_name = "FILE")]
    predictions: PathBuf,
    /// The cohort directory, for its cohort.csv.
    #[arg(long, value_name = "DIR")]
    cohort: PathBuf,
    /// Who trained, validated and tests; predictions are checked against it.
    #[arg(long, value_name = "FILE")]
    split: Option<PathBuf>,
    /// Directory for the results; what else a study left there is reported too.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How clips become a patient: mean, median, max, or top-3 and the like.
    #[arg(long, default_value_t = Aggregation::Mean)]
    aggregation: Aggregation,
    /// Samples of each bootstrap.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    draws: u32,
    /// Seed of the bootstrap.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Print the evaluation as JSON instead of a table.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &EvaluateArgs) -> anyhow::Result<()> {
    let cohort = Cohort::load_facts(&args.cohort).map_err(BadInput::new)?;
    let predictions = Predictions::load(&args.predictions).map_err(BadInput::new)?;
    let split = args.split.as_deref().map(Split::load).transpose();
    let split = split.map_err(BadInput::new)?;
    let options = Options {
        aggregation: args.aggregation,
        bootstrap: Bootstrap {
            draws: args.draws as usize,
            seed: args.seed,
        },
    };
    let evaluation =
        evaluate(&predictions, &cohort, split.as_ref(), options).map_err(BadInput::new)?;
    let folder = StudyFolder::new(&args.out);
    write_report(&folder, &evaluation)
        .with_context(|| format!("the report for {}", args.out.display()))?;
    if args.json {
        return print(&(serde_json::to_string_pretty(&evaluation)? + "\n"));
    }
    let written = format!("written: {}\n", folder.report_html().display());
    print(&(summary(&evaluation) + &written))
}

/// For people: each question, each method, one line.
fn summary(evaluation: &Evaluation) -> String {
    let mut text = String::new();
    if evaluation.is_synthetic {
        text += "SYNTHETIC cohort: this says nothing of patients.\n";
    }
    let show = |value: Option<Estimate>| {
        value.map_or("-".to_owned(), |e| {
            format!("{:.3} ({:.3} to {:.3})", e.value, e.low, e.high)
        })
    };
    for question in &evaluation.questions {
        text += &format!(
            "\n>= {}: {} test patients, {} cases\n  {:<16}{:<26}{:<26}mean of folds\n",
            question.stage, question.patients, question.cases, "", "AUC", "accuracy"
        );
        for method in &question.methods {
            let folds = method.fold_mean.and_then(|mean| mean.auc);
            let folds = folds.map_or(String::new(), |(mean, sd)| format!("{mean:.3} ± {sd:.3}"));
            let accuracy = method.at_threshold.as_ref().and_then(|at| at.accuracy);
            let line = format!(
                "  {:<16}{:<26}{:<26}{folds}",
                method.label,
                show(method.auc),
                show(accuracy)
            );
            text += line.trim_end();
            text.push('\n');
        }
    }
    text
}
