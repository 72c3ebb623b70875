//! What a run tells its metrics besides what it counts.

use std::time::Duration;

use crate::engine::usage::Nvml;
use crate::metrics::{Metrics, Reference};
use crate::model::Model;

/// How bright the pictures were that the model learned from, for those that come to be
/// held against.
pub(super) fn pictures(metrics: &Metrics, model: &Model) {
    let mean = |values: &[f32]| {
        let sum: f64 = values.iter().copied().map(f64::from).sum();
        sum / values.len() as f64
    };
    let input = &model.spec().input;
    let [level, deviation] = [&input.mean, &input.std].map(|values| mean(values));
    metrics
        .clinical
        .refer(Reference::Brightness, level, deviation);
}

/// Reads how busy the cards are, where there are any, as long as the process lives.
pub(super) fn cards(metrics: &Metrics) -> anyhow::Result<()> {
    let Some(nvml) = Nvml::open() else {
        return Ok(());
    };
    let cards = metrics.cards.clone();
    std::thread::Builder::new()
        .name("cards".to_owned())
        .spawn(move || {
            loop {
                for it in nvml.usage() {
                    cards.set(it.card, it.memory, it.memory_used, it.utilization);
                }
                std::thread::sleep(Duration::from_secs(5));
            }
        })?;
    Ok(())
}
