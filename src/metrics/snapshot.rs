//! All counters as plain data, for a display that draws them itself.

use std::collections::BTreeMap;

use prometheus::proto::{Metric, MetricFamily, MetricType};
use serde::Serialize;

use super::Metrics;

/// One counter, gauge or histogram at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Its name.
    pub name: String,
    /// Its labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its value.
    #[serde(flatten)]
    pub value: Value,
}

/// What a sample holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A counter or gauge.
    Number {
        /// The number.
        value: f64,
    },
    /// A histogram.
    Histogram {
        /// Observations.
        count: u64,
        /// Their sum.
        sum: f64,
        /// Upper bounds, and how many observations are no larger.
        buckets: Vec<(f64, u64)>,
    },
}

impl Metrics {
    /// Everything that is counted, as it stands now.
    pub fn snapshot(&self) -> Vec<Sample> {
        let families = self.registry.gather();
        let of_family = |family: &MetricFamily| {
            let (name, kind) = (family.name().to_owned(), family.get_field_type());
            let metrics = family.get_metric().iter();
            let samples = metrics.map(|metric| Sample {
                name: name.clone(),
                labels: labels(metric),
                value: value(metric, kind),
            });
            samples.collect::<Vec<_>>()
        };
        families.iter().flat_map(of_family).collect()
    }
}

fn labels(metric: &Metric) -> BTreeMap<String, String> {
    let labels = metric.get_label().iter();
    let labels = labels.map(|label| (label.name().to_owned(), label.value().to_owned()));
    labels.collect()
}

fn value(metric: &Metric, kind: MetricType) -> Value {
    let number = |value| Value::Number { value };
    match kind {
        MetricType::COUNTER => number(metric.get_counter().get_value()),
        MetricType::HISTOGRAM => {
            let histogram = metric.get_histogram();
            let buckets = histogram.get_bucket().iter();
            Value::Histogram {
                count: histogram.get_sample_count(),
                sum: histogram.get_sample_sum(),
                buckets: buckets
                    .map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()))
                    .collect(),
            }
        }
        _ => number(metric.get_gauge().get_value()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_holds_what_the_exposition_holds() {
        let metrics = Metrics::new().unwrap();
        metrics.source("bed-1").received.inc_by(3);
        metrics.inference.observe(0.01);
        metrics.clips_in_flight.set(2);
        let samples = metrics.snapshot();
        let of = |name: &str| {
            &samples
                .iter()
                .find(|sample| sample.name == name)
                .unwrap()
                .value
        };
        assert_eq!(
            of("hepaflow_frames_received_total"),
            &Value::Number { value: 3.0 }
        );
        assert_eq!(
            of("hepaflow_clips_in_flight"),
            &Value::Number { value: 2.0 }
        );
        let Value::Histogram {
            count,
            sum,
            buckets,
        } = of("hepaflow_inference_seconds")
        else {
            panic!("no histogram");
        };
        assert_eq!((*count, *sum), (1, 0.01));
        assert!(
            buckets
                .iter()
                .any(|(bound, count)| *bound < 0.01 && *count == 0)
        );
        assert!(
            buckets
                .iter()
                .any(|(bound, count)| *bound > 0.01 && *count == 1)
        );
    }
}
