//! How much the views hold, as the metrics say.

use std::collections::BTreeMap;

use hepaflow::metrics::Metrics;

/// Updates that the arrangements hold, part by part.
pub(crate) fn sizes(metrics: &Metrics) -> BTreeMap<String, i64> {
    let text = metrics.render().unwrap();
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("hepaflow_arrangement_records"));
    lines
        .map(|line| {
            let (part, size) = line.rsplit_once(' ').unwrap();
            (part.to_owned(), size.parse().unwrap())
        })
        .collect()
}
