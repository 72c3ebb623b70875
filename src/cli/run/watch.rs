//! What a run tells its metrics besides what it counts.

use std::time::Duration;

use crate::domain::Spread;
use crate::engine::usage::Nvml;
use crate::metrics::{Metrics, Reference};
use crate::model::Model;

/// Where the model does not say how bright pictures were when it was made, those that
/// come are held against the grey levels that it learned from, which lie farther apart
/// than whole pictures do.
pub(super) fn pictures(metrics: &Metrics, model: &Model) {
    let mean = |values: &[f32]| {
        let sum: f64 = values.iter().copied().map(f64::from).sum();
        sum / values.len() as f64
    };
    let spec = model.spec();
    let known = spec.reference.as_ref().and_then(|known| known.brightness);
    if known.is_none() {
        let spread = Spread {
            mean: mean(&spec.input.mean),
            deviation: mean(&spec.input.std),
        };
        metrics.clinical.refer(Reference::Brightness, spread, None);
    }
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
