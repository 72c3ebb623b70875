//! The tables of the page.

use maud::{Markup, html};

use crate::domain::Stage;
use crate::study::evaluation::{Evaluation, Method, MethodKind, Origin, Question, Threshold};
use crate::study::folder::{AblationRecord, TuningRecord};
use crate::study::statistics::Estimate;

pub(super) fn question_name(stage: Stage) -> &'static str {
    match stage {
        Stage::F3 => "Advanced fibrosis (≥ F3)",
        Stage::F4 => "Cirrhosis (F4)",
        _ => "Significant fibrosis (≥ F2)",
    }
}

/// A value with its interval below; a dash for nothing. On a phone, where a table
/// becomes cards, `title` stands before it.
fn estimate(title: &str, value: Option<Estimate>, scale: f64, digits: usize) -> Markup {
    html! { td data-title=(title) {
        @match value {
            Some(e) => {
                (format!("{:.digits$}", e.value * scale))
                " " small { (format!("{:.digits$} to {:.digits$}", e.low * scale, e.high * scale)) }
            }
            None => "–",
        }
    } }
}

fn percent(title: &str, value: Option<Estimate>) -> Markup {
    estimate(title, value, 100.0, 1)
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.digits$}"))
}

fn p_value(p: Option<f64>) -> String {
    match p {
        Some(p) if p < 0.001 => "< 0.001".to_owned(),
        other => number(other, 3),
    }
}

/// Every method with intervals: models as the ensemble of their folds.
pub(super) fn methods(question: &Question) -> Markup {
    html! { div.wide.cards { table {
        thead { tr {
            th { "Method" } th { "Patients" } th { "AUC" small { "(DeLong)" } } th { "AUC" small { "(bootstrap)" } }
            th { "Accuracy %" } th { "Precision %" small { "(macro)" } } th { "Recall %" small { "(macro)" } }
            th { "F1 %" small { "(macro)" } } th { "Sensitivity %" } th { "Specificity %" }
        } }
        tbody { @for method in &question.methods {
            @let at = method.at_threshold.as_ref();
            tr {
                td { (method.label)
                    @if method.kind == MethodKind::Model { small { "ensemble" @if !method.is_probability { ", ranked by P(≥ F2)" } } }
                }
                td data-title="Patients" { (method.patients) " " @if method.missing > 0 { small { (method.missing) " without a value" } } }
                (estimate("AUC (DeLong)", method.auc, 1.0, 3)) (estimate("AUC (bootstrap)", method.auc_bootstrap, 1.0, 3))
                (percent("Accuracy %", at.and_then(|at| at.accuracy))) (percent("Precision % (macro)", at.and_then(|at| at.precision)))
                (percent("Recall % (macro)", at.and_then(|at| at.recall))) (percent("F1 % (macro)", at.and_then(|at| at.f1)))
                (percent("Sensitivity %", at.and_then(|at| at.sensitivity))) (percent("Specificity %", at.and_then(|at| at.specificity)))
            }
        } }
    } } }
}

/// Mean and deviation over the folds, as the paper reports.
pub(super) fn folds(question: &Question) -> Markup {
    let cell = |value: Option<(f64, f64)>, scale: f64, digits: usize| {
        html! { td { @match value {
            Some((mean, sd)) => (format!("{:.digits$} ± {:.digits$}", mean * scale, sd * scale)),
            None => "–",
        } } }
    };
    html! { div.wide { table {
        thead { tr { th { "Model" } th { "Folds" } th { "AUC" } th { "Accuracy %" } th { "Precision %" }
            th { "Recall %" } th { "F1 %" } th { "Sensitivity %" } th { "Specificity %" } } }
        tbody { @for method in &question.methods { @if let Some(mean) = method.fold_mean { tr {
            td { (method.label) } td { (mean.folds) } (cell(mean.auc, 1.0, 3))
            (cell(mean.accuracy, 100.0, 1)) (cell(mean.precision, 100.0, 1)) (cell(mean.recall, 100.0, 1))
            (cell(mean.f1, 100.0, 1)) (cell(mean.sensitivity, 100.0, 1)) (cell(mean.specificity, 100.0, 1))
        } } } }
    } } }
}

/// Confusion matrices with the thresholds and where those come from.
pub(super) fn confusions(question: &Question) -> Markup {
    html! { div.wide { table {
        thead { tr { th { "Method" } th { "Threshold" } th.text { "Origin" } th { "Cases: yes" } th { "Cases: no" }
            th { "Controls: yes" } th { "Controls: no" } } }
        tbody { @for method in &question.methods { @if let Some(at) = &method.at_threshold { tr {
            @let c = at.confusion;
            td { (method.label) } td { (number(method.threshold.map(|t| t.value), 3)) }
            td.text { (origin(method.threshold)) }
            td { (c.true_positive) } td { (c.false_negative) } td { (c.false_positive) } td { (c.true_negative) }
        } } } }
    } } }
}

fn origin(threshold: Option<Threshold>) -> String {
    threshold.map_or(String::new(), |threshold| match threshold.origin {
        Origin::YoudenOnValidation => {
            format!("Youden, {} validation patients", threshold.learnt_on)
        }
        Origin::YoudenOnTrainingAndValidation => {
            format!(
                "Youden, {} training and validation patients",
                threshold.learnt_on
            )
        }
        Origin::Fixed => "fixed: those to learn from are of one class".to_owned(),
    })
}

pub(super) fn calibration(question: &Question) -> Markup {
    html! { div.wide { table {
        thead { tr { th { "Method" } th { "Brier" } th { "ECE" } th { "Intercept" } th { "Slope" }
            th { "Temperature" } th { "Brier, scaled" } th { "ECE, scaled" } } }
        tbody { @for method in &question.methods { @if let Some(c) = &method.calibration { tr {
            td { (method.label) @if c.is_mapped { small { "through a logistic line" } } }
            td { (number(Some(c.brier), 3)) } td { (number(Some(c.ece), 3)) } td { (number(c.intercept, 2)) }
            td { (number(c.slope, 2)) } td { (number(c.temperature, 2)) }
            td { (number(c.brier_scaled, 3)) } td { (number(c.ece_scaled, 3)) }
        } } } }
    } } }
}

pub(super) fn comparisons(question: &Question) -> Markup {
    let label = |name: &str| -> String {
        let method = question.methods.iter().find(|method| method.name == name);
        method.map_or_else(|| name.to_owned(), |method| method.label.clone())
    };
    html! { div.wide.cards { table {
        thead { tr { th { "Compared" } th { "Patients" } th { "Difference of AUC" small { "(paired bootstrap)" } }
            th { "p" small { "(DeLong)" } } th { "Right alone" } th { "p" small { "(McNemar, exact)" } } } }
        tbody { @for c in &question.comparisons { tr {
            td { (label(&c.first)) " – " (label(&c.second)) } td data-title="Patients" { (c.patients) }
            (estimate("Difference of AUC", c.difference, 1.0, 3))
            td data-title="p (DeLong)" { (p_value(c.delong.and_then(|d| d.p))) }
            td data-title="Right alone" { @if let Some(m) = c.mcnemar { (m.only_first) " / " (m.only_second) } @else { "–" } }
            td data-title="p (McNemar, exact)" { (p_value(c.mcnemar.map(|m| m.p))) }
        } } }
    } } }
}

/// Published cut-offs: rule out, grey zone, rule in.
pub(super) fn cutoffs(question: &Question) -> Markup {
    let with: Vec<(&Method, _)> = question
        .methods
        .iter()
        .filter_map(|method| Some((method, method.cutoffs.as_ref()?)))
        .collect();
    let cell = |(cases, controls): (u64, u64)| html! { td { (cases) " / " (controls) } };
    html! { @if with.is_empty() {
        p.note { "No index has published cut-offs for this question, or the table names no vendor for SWE." }
    } @else { div.wide { table {
        thead { tr { th { "Index" } th.text { "Cut-offs" } th { "Ruled out" } th { "Grey zone" } th { "Ruled in" } th { "No value" } } }
        tbody { @for (method, c) in with { tr {
            td { (method.label) } td.text.wrap { (c.published) }
            (cell(c.ruled_out)) (cell(c.grey)) (cell(c.ruled_in)) (cell(c.unknown))
        } } }
    } } p.note { "Cases / controls. In the grey zone nothing is said: an abstention." } } }
}

/// Test patients whom at least one method has wrong.
pub(super) fn discordant(evaluation: &Evaluation) -> Markup {
    /// A page has an end; all of them are in report.json.
    const SHOWN: usize = 60;
    let Some(question) = evaluation.questions.first() else {
        return html! {};
    };
    html! { div.wide { table {
        thead { tr { th { "Line in cohort.csv" } th { "Stage" } @for m in &question.methods { th { (m.label) } } } }
        tbody { @for patient in evaluation.discordant.iter().take(SHOWN) {
            @let truth = patient.stage >= question.stage;
            tr { td { (patient.line) } td { (patient.stage) }
                @for method in &question.methods {
                    @match patient.opinions.iter().find(|o| o.method == method.name) {
                        Some(o) => td.wrong[o.says_yes != truth] {
                            (if o.says_yes { "yes" } else { "no" }) small { (format!("{:.2}", o.score)) }
                        },
                        None => td { "–" },
                    }
                }
            }
        } }
    } }
    @if evaluation.discordant.len() > SHOWN {
        p.note { (evaluation.discordant.len() - SHOWN) " more are in report.json." }
    } }
}

pub(super) fn subgroups(evaluation: &Evaluation) -> Markup {
    let Some(question) = evaluation.questions.first() else {
        return html! {};
    };
    html! { div.wide { table {
        thead { tr { th { "Subgroup" } th { "Patients" } th { "Cases" } @for m in &question.methods { th { (m.label) } } } }
        tbody { @for group in &evaluation.subgroups { tr {
            td { (group.name) } td { (group.patients) } td { (group.cases) }
            @for result in &group.results { (estimate("AUC", result.auc, 1.0, 2)) }
        } } }
    } } }
}

pub(super) fn tuning(record: &TuningRecord) -> Markup {
    html! { div.wide { table {
        thead { tr { th { "Model" } th.text { "Settings" } th { "AUC of each fold held out" } th { "Mean" } th { "Kept" } } }
        tbody { @for trial in &record.trials { tr {
            td { (trial.method) }
            td.text.wrap { @for (key, value) in &trial.settings { (key) " = " (value) "  " } }
            td { (trial.fold_aucs.iter().map(|auc| number(*auc, 2)).collect::<Vec<_>>().join(", ")) }
            td { (number(trial.mean_auc, 3)) } td { @if trial.chosen { "kept" } }
        } } }
    } } }
}

pub(super) fn ablations(records: &[AblationRecord]) -> Markup {
    let mean = |aucs: &[Option<f64>]| -> Option<f64> {
        let known: Vec<f64> = aucs.iter().copied().collect::<Option<_>>()?;
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    };
    html! { div.wide { table {
        thead { tr { th { "Taken away" } th.text { "Model" } th { "AUC of each fold-model" } th { "Mean" } } }
        tbody { @for record in records { tr {
            td { (record.ablation.replace('_', " ")) } td.text { (record.method) }
            td { (record.fold_aucs.iter().map(|auc| number(*auc, 2)).collect::<Vec<_>>().join(", ")) }
            td { (number(mean(&record.fold_aucs), 3)) }
        } } }
    } } }
}
