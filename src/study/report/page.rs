//! The page, section by section.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::style::STYLE;
use super::{Report, figures, tables};
use crate::study::cohort::Flow;
use crate::study::evaluation::{Evaluation, Question};

fn not_done(what: &str) -> Markup {
    html! { p.note { (what) ": not done in this study." } }
}

pub(super) fn page(report: &Report) -> Markup {
    let evaluation = &report.evaluation;
    let primary = evaluation.questions.first();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Liver fibrosis from ultrasound video: a comparison" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                @if evaluation.is_synthetic {
                    p.banner { "SYNTHETIC: this cohort was simulated. Nothing here was measured on a person, and nothing here says how well any method would do on patients." }
                }
                h1 { "Liver fibrosis from ultrasound video: models and indices side by side" }
                p.note { "Research software; no medical device and not for clinical decisions. Written by hepaflow " (report.version) "." }
                nav { a href="#cohort" { "Cohort" } a href="#results" { "Results" } a href="#training" { "Training" }
                    a href="#attention" { "Attention" } a href="#ablations" { "Ablations" } a href="#patients" { "Patients" } a href="#methods" { "Methods" } }
                h2 id="cohort" { "Cohort" }
                (flow(evaluation))
                h2 id="results" { "Results on the test patients" }
                p { "Every model is five fold-models; the tables with intervals show their ensemble, the ones with ± their mean and standard deviation. Intervals are 95 %. With this few patients they are wide: a difference inside them is none." }
                @for question in &evaluation.questions { (results(question)) }
                h2 id="training" { "Training" }
                @match (&report.tuning, report.training.is_empty()) {
                    (Some(tuning), _) if !tuning.trials.is_empty() => { h3 { "Grid" } (tables::tuning(tuning)) },
                    _ => (not_done("Tuning")),
                }
                @if report.training.is_empty() { (not_done("Training curves")) }
                @else if let Some(primary) = primary {
                    div.grid { (figures::training(&primary.methods, &report.training)) }
                }
                h2 id="attention" { "Where the models look (Grad-CAM)" }
                (attention(report))
                h2 id="ablations" { "Ablations" }
                @match &report.ablations {
                    Some(records) if !records.is_empty() => {
                        p { "Test AUC for ≥ F2 of the same models when something is taken away from the recordings." }
                        (tables::ablations(records))
                    },
                    _ => (not_done("Ablations")),
                }
                h2 id="patients" { "Discordant patients" }
                p { "Test patients about whom at least one method is wrong at ≥ F2, with its answer and score." }
                (tables::discordant(evaluation))
                h3 { "Subgroups" }
                p.note { "AUC for ≥ F2 where a subgroup has two cases and two controls." }
                (tables::subgroups(evaluation))
                h2 id="methods" { "Methods, as a program knows them" }
                (methods(report))
            }
        }
    }
}

fn flow(evaluation: &Evaluation) -> Markup {
    let flow: &Flow = &evaluation.flow;
    let stages: Vec<String> = flow
        .stages
        .iter()
        .map(|(stage, count)| format!("{stage} {count}"))
        .collect();
    html! {
        ul.flow {
            li { (flow.listed) " patients in cohort.csv" }
            @for (reason, lines) in &flow.excluded { li.out { (lines.len()) " excluded: " (reason) } }
            li { (flow.included) " included" @if flow.videos > 0 { ", " (flow.videos) " recordings" }
                br; (stages.join(", ")) }
            @if !flow.unusable_videos.is_empty() { li.out { (flow.unusable_videos.len()) " recordings left out" } }
            li { @match evaluation.training { Some(count) => { (count) " training, " }, None => {} }
                (evaluation.validation) " validation, " (evaluation.test) " test patients" }
        }
        @if flow.missing.is_empty() { p.note { "No value is missing among those included." } }
        @else { p.note { "Missing among those included: "
            (flow.missing.iter().map(|(column, count)| format!("{column} {count}")).collect::<Vec<_>>().join(", "))
            ". Nothing is imputed: a patient without a value is left out of the index that needs it." } }
    }
}

fn results(question: &Question) -> Markup {
    let id = format!("f{}", question.stage as u8);
    html! {
        h3 id=(id) { (tables::question_name(question.stage)) }
        p.note { (question.patients) " test patients, " (question.cases) " of them cases." }
        (tables::methods(question))
        @if question.methods.iter().any(|method| method.fold_mean.is_some()) { (tables::folds(question)) }
        div.grid { (figures::roc(question)) (figures::decision(question)) }
        h4 { "Confusion matrices at the thresholds" } (tables::confusions(question))
        h4 { "Paired comparisons" } (tables::comparisons(question))
        h4 { "Published cut-offs" } (tables::cutoffs(question))
        h4 { "Calibration" } (tables::calibration(question))
        div.grid { (figures::calibration(question)) }
    }
}

fn attention(report: &Report) -> Markup {
    if report.attention.is_empty() {
        return not_done("Attention maps");
    }
    html! { div.grid { @for (record, picture) in report.attention.iter().zip(&report.pictures) {
        figure {
            @if picture.is_empty() { p.note { "The picture is missing." } }
            @else { img src=(format!("data:image/png;base64,{picture}")) alt=(format!("Attention of {} on {}", record.method, record.patient)); }
            figcaption {
                (record.method) ", " (record.patient) ", " (record.stage)
                @if let Some(share) = record.capsule_share {
                    (format!(": {:.0} % of the attention within 5 mm of the capsule", share * 100.0))
                    @if let Some(area) = record.capsule_area { (format!(", which is {:.0} % of the area", area * 100.0)) }
                }
            }
        }
    } } }
}

/// A setting as people write it: a text without quotes.
fn bare(value: &serde_json::Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// What TRIPOD+AI, STARD-AI and CLAIM 2024 ask for and a program can know.
fn methods(report: &Report) -> Markup {
    let evaluation = &report.evaluation;
    html! { dl {
        dt { "Reference standard" } dd { "METAVIR stage of cohort.csv" }
        dt { "Index tests" } dd { "the models; SWE, FIB-4 and APRI from cohort.csv" }
        dt { "Partition" } dd { "by " (evaluation.partition) ", stratified by stage; no patient is in two parts (checked)" }
        dt { "Split seed" } dd { @match evaluation.split_seed { Some(seed) => (seed), None => "no split was given" } }
        dt { "Clips to patient" } dd { (evaluation.aggregation) " of the clips of a patient" }
        dt { "Thresholds" } dd { "learnt on validation patients (models) or training and validation patients (indices), never on the test" }
        dt { "Intervals" } dd { "AUC: DeLong, and percentile bootstrap over patients within each class, " (evaluation.bootstrap_draws)
            " draws, seed " (evaluation.bootstrap_seed) "; proportions: Wilson (Clopper-Pearson in report.json); macro measures: bootstrap. Where classes do not overlap, DeLong's interval has no width and says nothing." }
        dt { "Tests" } dd { "DeLong and exact McNemar, paired, two-sided, not corrected for their number" }
        dt { "Missing data" } dd { "counted above, not imputed" }
        dt { "Abstentions" } dd { "models answer for every patient with a usable clip; indices abstain in the grey zone of published cut-offs" }
        @if let Some(study) = &report.study {
            dt { "Seed" } dd { (study.seed) } dt { "Version" } dd { (study.version) }
            dt { "Computed on" } dd { (study.device) (format!(", {:.0} s", study.seconds)) }
            dt { "Input" } dd { "at most " (study.clips.frames) " frames of " (study.clips.width) " x " (study.clips.height)
                @match study.clips.frames_per_second { Some(rate) => { " at " (rate) " frames a second" }, None => {} }
                ", a clip every " (study.clips.stride) " frames; grey mean " (format!("{:.3}", study.clips.mean)) ", deviation " (format!("{:.3}", study.clips.std)) }
            @if !study.clips.augmentation.is_empty() { dt { "Changed by chance in training" } dd { (study.clips.augmentation) } }
            @for method in &study.methods { dt { (method.label) } dd { (method.name) ", " (method.parameters) " parameters"
                @for (key, value) in &method.settings { ", " (key) " = " (bare(value)) } } }
            @for note in &study.notes { dt { "Note" } dd { (note) } }
        }
        @for record in &report.training {
            dt { (record.method) " fold " (record.fold) } dd { "SHA-256 " (record.model_hash) ", seed " (record.seed) (format!(", {:.0} s", record.seconds)) }
        }
        @for video in &evaluation.flow.unusable_videos { dt { "Left out" } dd { "videos.csv line " (video.line) ": " (video.reason) } }
    } }
}
