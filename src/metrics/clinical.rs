//! What is counted about answers: how many patients stand where, never which; and
//! what shows that pictures or answers are no longer what the model was made for.

use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntGaugeVec, Opts, Registry, core::Collector,
};

use crate::domain::{Abstention, Spread};

/// Counters of standing answers, and what drift is seen by.
///
/// Drift is a quotient of what is exported here, so that whoever watches chooses
/// over which time: the mean of `hepaflow_input_brightness` or `hepaflow_severity`
/// less its reference's mean, in units of the reference's deviation. The recording
/// rules in `deploy/prometheus` do so.
#[derive(Clone, Debug)]
pub struct ClinicalMetrics {
    answers: IntGaugeVec,
    abstentions: IntGaugeVec,
    comparisons: IntGaugeVec,
    disagreements: IntGaugeVec,
    brightness: HistogramVec,
    severity: HistogramVec,
    reference_mean: GaugeVec,
    reference_deviation: GaugeVec,
    reference_windows: GaugeVec,
}

/// What the model was made for, which drift is measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// Mean grey level of pictures, 0 black to 1 white: as the model directory's
    /// reference says, or else grey levels of what it was trained on.
    Brightness,
    /// What it says of windows, 0 for its first class to 1 for its last: as the model
    /// directory's reference says, or else of those that the store held when the run
    /// began.
    Severity,
}

impl Reference {
    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Brightness => "brightness",
            Self::Severity => "severity",
        }
    }
}

impl ClinicalMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            registered(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
        };
        let tenths = |name: &str, help: &str| {
            let buckets = (1..=10).map(|tenth| f64::from(tenth) / 10.0).collect();
            let options = HistogramOpts::new(name, help).buckets(buckets);
            registered(registry, HistogramVec::new(options, &["source"])?)
        };
        let references = |name: &str, help: &str| {
            registered(registry, GaugeVec::new(Opts::new(name, help), &["of"])?)
        };
        let metrics = Self {
            answers: gauges(
                "hepaflow_answers",
                "Patients whose standing answer is this class.",
                &["class"],
            )?,
            abstentions: gauges(
                "hepaflow_abstentions",
                "Patients about whom nothing is concluded, by reason.",
                &["reason"],
            )?,
            comparisons: gauges(
                "hepaflow_comparisons",
                "Patients about whom both this model and this index say whether it is at \
                 least this stage.",
                &["model", "index", "stage"],
            )?,
            disagreements: gauges(
                "hepaflow_disagreements",
                "Patients about whom they say the opposite.",
                &["model", "index", "stage"],
            )?,
            brightness: tenths(
                "hepaflow_input_brightness",
                "Mean grey level of each window's last picture as the model sees it, 0 \
                 black to 1 white.",
            )?,
            severity: tenths(
                "hepaflow_severity",
                "How severe the model finds each window: the mean place of its classes, 0 \
                 for the first to 1 for the last.",
            )?,
            reference_mean: references(
                "hepaflow_reference_mean",
                "What brightness and severity are measured against: the mean.",
            )?,
            reference_deviation: references(
                "hepaflow_reference_deviation",
                "What brightness and severity are measured against: the standard deviation.",
            )?,
            reference_windows: references(
                "hepaflow_reference_windows",
                "Windows of which these are; absent where they are those of single pixels.",
            )?,
        };
        for reason in Abstention::ALL {
            metrics.abstained(reason, 0);
        }
        Ok(metrics)
    }

    /// So many more patients, or fewer, whose answer is `class`.
    pub fn answered(&self, class: &str, more: i64) {
        self.answers.with_label_values(&[class]).add(more);
    }

    /// So many more patients, or fewer, about whom nothing is concluded.
    pub fn abstained(&self, reason: Abstention, more: i64) {
        let reason = reason.to_string();
        self.abstentions
            .with_label_values(&[reason.as_str()])
            .add(more);
    }

    /// So many more patients, or fewer, about whom `model` and `index` both say
    /// whether it is at least `stage`: the same, or the opposite.
    pub fn compared(&self, [model, index, stage]: [&str; 3], differ: bool, more: i64) {
        let labels = [model, index, stage];
        let disagreements = self.disagreements.with_label_values(&labels);
        self.comparisons.with_label_values(&labels).add(more);
        disagreements.add(if differ { more } else { 0 });
    }

    /// What drift is measured against, and how many windows that was found in, if it
    /// was.
    pub fn refer(&self, reference: Reference, spread: Spread, windows: Option<usize>) {
        let label = [reference.as_str()];
        if let Some(windows) = windows {
            let found = self.reference_windows.with_label_values(&label);
            found.set(windows as f64);
        }
        let mean = self.reference_mean.with_label_values(&label);
        let deviation = self.reference_deviation.with_label_values(&label);
        mean.set(spread.mean);
        deviation.set(spread.deviation);
    }

    pub(super) fn brightness(&self, source: &str) -> Histogram {
        self.brightness.with_label_values(&[source])
    }

    pub(super) fn severity(&self, source: &str) -> Histogram {
        self.severity.with_label_values(&[source])
    }
}

pub(super) fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
