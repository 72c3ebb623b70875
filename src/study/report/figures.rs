//! The charts of the page.

use maud::{Markup, PreEscaped, html};

use crate::study::chart::{Chart, Series};
use crate::study::evaluation::{Method, MethodKind, Question};
use crate::study::folder::TrainingRecord;
use crate::study::statistics::net_benefit_of_all;

const SIZE: (u32, u32) = (420, 360);

/// A chart with its caption, which is also what a screen reader says.
fn figure(chart: &Chart<'_>, caption: &str) -> Markup {
    html! {
        figure role="img" aria-label=(caption) {
            (PreEscaped(chart.to_svg()))
            figcaption { (caption) }
        }
    }
}

fn unit(x_label: &'static str, y_label: &'static str, series: &[Series]) -> String {
    square(x_label, y_label, series).to_svg()
}

fn square<'a>(x_label: &'a str, y_label: &'a str, series: &'a [Series]) -> Chart<'a> {
    Chart {
        size: SIZE,
        x_label,
        y_label,
        x: 0.0..1.0,
        y: 0.0..1.0,
        series,
    }
}

/// ROC curves of all methods on one question.
pub(super) fn roc(question: &Question) -> Markup {
    let mut series = vec![Series::faint(6, vec![(0.0, 0.0), (1.0, 1.0)])];
    for (colour, method) in question.methods.iter().enumerate() {
        if !method.roc.is_empty() {
            let area = method
                .auc
                .map_or(String::new(), |auc| format!(" {:.2}", auc.value));
            let name = format!("{}{area}", method.label);
            series.push(Series::line(name, colour, method.roc.clone()));
        }
    }
    let caption = format!(
        "{}: ROC curves and areas of all methods; models as the ensemble of their folds",
        super::tables::question_name(question.stage)
    );
    figure(&square("1 - specificity", "sensitivity", &series), &caption)
}

/// Calibration of each method, a chart each: curves would hide each other.
pub(super) fn calibration(question: &Question) -> Markup {
    html! {
        @for (colour, method) in question.methods.iter().enumerate() {
            @if let Some(calibration) = &method.calibration {
                @let bins: Vec<_> = calibration.bins.iter()
                    .map(|bin| (bin.predicted, bin.observed.value)).collect();
                @let lines = {
                    let mut line = Series::line(method.label.clone(), colour, bins);
                    line.has_dots = true;
                    let mut all = vec![Series::faint(6, vec![(0.0, 0.0), (1.0, 1.0)]), line];
                    for bin in &calibration.bins {
                        let ends = vec![(bin.predicted, bin.observed.low), (bin.predicted, bin.observed.high)];
                        all.push(Series::faint(colour, ends));
                    }
                    all
                };
                figure role="img" aria-label=(format!("Calibration of {}", method.label)) {
                    (PreEscaped(unit("predicted", "observed", &lines)))
                    figcaption {
                        (method.label) ": share of cases in groups of equal size, with 95 % intervals"
                        @if calibration.is_mapped { "; score made a probability on training and validation patients" }
                    }
                }
            }
        }
    }
}

/// Net benefit of acting on each method.
pub(super) fn decision(question: &Question) -> Markup {
    let shown = 0.02..0.9;
    let cut = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
        let inside = points.iter().filter(|(x, _)| shown.contains(x));
        inside.map(|&(x, y)| (x, y.max(-0.2))).collect()
    };
    let all: Vec<_> = (2..90)
        .map(|percent| f64::from(percent) / 100.0)
        .map(|x| (x, net_benefit_of_all(question.cases, question.patients, x)))
        .collect();
    let mut series = vec![
        Series::faint(
            6,
            cut(&all).into_iter().filter(|(_, y)| *y > -0.2).collect(),
        ),
        Series::faint(6, vec![(0.0, 0.0), (0.9, 0.0)]),
    ];
    for (colour, method) in question.methods.iter().enumerate() {
        if !method.decision.is_empty() {
            let points = cut(&method.decision);
            series.push(Series::line(method.label.clone(), colour, points));
        }
    }
    let top = question.cases as f64 / question.patients.max(1) as f64;
    let chart = Chart {
        x: 0.0..0.9,
        y: -0.2..(top * 1.15).max(0.1),
        ..square("threshold probability", "net benefit", &series)
    };
    let caption = "Decision curves; faint: acting on everyone, and on no one";
    figure(&chart, caption)
}

/// Losses of every fold of each method.
pub(super) fn training(methods: &[Method], records: &[TrainingRecord]) -> Markup {
    html! {
        @for method in methods.iter().filter(|method| method.kind == MethodKind::Model) {
            @let own: Vec<&TrainingRecord> = records.iter().filter(|r| r.method == method.name).collect();
            @if !own.is_empty() { (losses(&method.label, &own)) }
        }
    }
}

fn losses(label: &str, records: &[&TrainingRecord]) -> Markup {
    let mut series = Vec::new();
    for (position, record) in records.iter().enumerate() {
        let line = |colour, value: fn(&crate::study::folder::EpochRecord) -> f64, name: &str| {
            let points = record
                .epochs
                .iter()
                .map(|e| (e.epoch as f64, value(e)))
                .collect();
            let mut line = Series::line(name, colour, points);
            line.name = (position == 0).then(|| name.to_owned());
            line
        };
        series.push(line(0, |epoch| epoch.train_loss, "training"));
        series.push(line(1, |epoch| epoch.validation_loss, "validation"));
    }
    let last = records.iter().map(|record| record.epochs.len()).max();
    let top = series
        .iter()
        .flat_map(|line| &line.points)
        .map(|point| point.1)
        .filter(|loss| loss.is_finite())
        .fold(0.1, f64::max);
    let chart = Chart {
        x: 1.0..last.unwrap_or(1).max(2) as f64,
        y: 0.0..top * 1.05,
        ..square("epoch", "loss", &series)
    };
    let chosen: Vec<String> = records.iter().map(|r| r.chosen_epoch.to_string()).collect();
    let caption = format!(
        "{label}: loss of each fold; epochs kept: {}",
        chosen.join(", ")
    );
    figure(&chart, &caption)
}
