//! The model card of a fold-model: what whoever finds the directory must know before
//! running it. After Mitchell et al., "Model Cards for Model Reporting" (2019).

use std::fmt::Write as _;

use super::{Report, ReportError};
use crate::study::evaluation::{Evaluation, Method, MethodKind};
use crate::study::folder::{MethodRecord, StudyFolder, StudyRecord, TrainingRecord, write};
use crate::study::statistics::Estimate;

/// Writes the card of every fold-model that the study trained, beside its weights.
///
/// # Errors
/// When a record of the study is none, or a file cannot be written.
pub fn write_cards(folder: &StudyFolder, evaluation: &Evaluation) -> Result<(), ReportError> {
    let report = Report::gather(folder, evaluation.clone())?;
    let Some(study) = &report.study else {
        return Ok(());
    };
    for training in &report.training {
        let method = study.methods.iter().find(|one| one.name == training.method);
        let Some(method) = method else { continue };
        let path = folder.card(&training.method, training.fold);
        let text = card(&report, study, method, training);
        write(&path, text.as_bytes()).map_err(|error| ReportError::Write { path, error })?;
    }
    Ok(())
}

fn card(
    report: &Report,
    study: &StudyRecord,
    method: &MethodRecord,
    training: &TrainingRecord,
) -> String {
    let evaluation = &report.evaluation;
    let mut text = format!(
        "# {} ({}), fold {}\n\n",
        method.label, method.name, training.fold
    );
    text += if study.is_synthetic {
        "**Trained and judged on synthetic recordings alone. It knows nothing of anybody's \
         liver.** This is no medical device and not for clinical use.\n\n"
    } else {
        "This is no medical device and not for clinical use.\n\n"
    };
    for note in &study.notes {
        let _ = writeln!(text, "{note}\n");
    }

    let clips = &study.clips;
    text += "## What it is\n\n| | |\n|---|---|\n";
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "| {name} | {value} |");
    };
    row("architecture", method.name.clone());
    row("parameters", method.parameters.to_string());
    // Of networks on moving pictures and on single ones, each takes its own number.
    let frames = method
        .settings
        .get("frames")
        .and_then(serde_json::Value::as_u64);
    let frames = frames.unwrap_or(clips.frames as u64);
    row(
        "input",
        format!(
            "{} frames{} of {} x {} grey levels, mean {:.4} and deviation {:.4} of white",
            frames,
            clips
                .frames_per_second
                .map_or_else(String::new, |rate| format!(" ({rate} a second)")),
            clips.width,
            clips.height,
            clips.mean,
            clips.std
        ),
    );
    row("SHA-256 of the model", format!("`{}`", training.model_hash));
    row(
        "made by",
        format!("hepaflow {}, `hepaflow study`", study.version),
    );

    text += "\n## What it is for\n\n";
    text += "Significant fibrosis (METAVIR F2 and above) from B-mode video of the liver: to try \
             the pipeline, to compare methods, to repeat the study. Not to be used for decisions \
             about people, for other organs, other probes than those it has seen, single \
             pictures, or pictures with measurements or Doppler over the tissue.\n";

    text += "\n## What it learnt from\n\n";
    let _ = writeln!(
        text,
        "A cohort of {}: {}. {} recordings.",
        if study.is_synthetic {
            "phantoms"
        } else {
            "patients"
        },
        study.flow,
        study.flow.videos
    );
    let stages = study.flow.stages.iter();
    let stages: Vec<_> = stages.map(|(stage, n)| format!("{stage}: {n}")).collect();
    let _ = writeln!(text, "Stages: {}.", stages.join(", "));
    let _ = writeln!(
        text,
        "Patients were split by stage, seed {}: {} to learn from in five folds, of which this \
         model did not see fold {}; {} to stop by; {} to judge by, whom no model saw.",
        study.seed,
        evaluation
            .training
            .map_or_else(|| "the others".to_owned(), |n| n.to_string()),
        training.fold,
        evaluation.validation,
        evaluation.test
    );

    text += "\n## How it was trained\n\n";
    let settings = method.settings.iter();
    let settings: Vec<_> = settings
        .map(|(key, value)| match value.as_str() {
            Some(text) => format!("{key} {text}"),
            None => format!("{key} {value}"),
        })
        .collect();
    let _ = writeln!(
        text,
        "{}; seed {}; {} epochs, the weights of epoch {} kept; {:.0} s on {}. Clips begin at frames drawn by chance; changes by chance: {}. The \
         curves are in `curves.svg`.",
        settings.join(", "),
        training.seed,
        training.epochs.len(),
        training.chosen_epoch,
        training.seconds,
        study.device,
        study.clips.augmentation
    );

    text += "\n## How good it is\n\n";
    text += &results(evaluation, training);
    text += "\n## What to mind\n\n";
    let _ = writeln!(
        text,
        "With {} test patients the intervals are wide. Probabilities are not calibrated unless \
         report.html says so. Subgroups, other thresholds and what the model looks at are in \
         report.html.",
        evaluation.test
    );
    text
}

/// The test patients at >= F2: this model, the five together, and the indices.
fn results(evaluation: &Evaluation, training: &TrainingRecord) -> String {
    let Some(question) = evaluation.questions.first() else {
        return "It was not judged.\n".to_owned();
    };
    let mut text = format!(
        "{} test patients, {} of them at {} or above; AUC with DeLong's 95 % interval.\n\n\
         | method | AUC |\n|---|---:|\n",
        question.patients, question.cases, question.stage
    );
    let is_this = |method: &&Method| method.name == training.method;
    if let Some(method) = question.methods.iter().find(is_this) {
        let fold = method.folds.iter().find(|one| one.fold == training.fold);
        if let Some(auc) = fold.and_then(|fold| fold.auc) {
            let _ = writeln!(text, "| this model | {auc:.3} |");
        }
        if let Some((mean, sd)) = method.fold_mean.and_then(|mean| mean.auc) {
            let _ = writeln!(
                text,
                "| mean of the five folds (SD) | {mean:.3} ({sd:.3}) |"
            );
        }
        let _ = writeln!(text, "| the five together | {} |", shown(method.auc));
    }
    for index in &question.methods {
        if index.kind == MethodKind::Index {
            let _ = writeln!(text, "| {} | {} |", index.label, shown(index.auc));
        }
    }
    text
}

fn shown(estimate: Option<Estimate>) -> String {
    estimate.map_or_else(
        || "not known".to_owned(),
        |e| format!("{:.3} ({:.3} to {:.3})", e.value, e.low, e.high),
    )
}
