//! NVIDIA cards of this machine: memory and use. Without a card there is no series.

use prometheus::{GaugeVec, IntGaugeVec, Opts, Registry};

use super::clinical::registered;

/// The gauges of the cards.
#[derive(Clone, Debug)]
pub struct CardMetrics {
    memory: IntGaugeVec,
    memory_used: IntGaugeVec,
    utilization: GaugeVec,
}

impl CardMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauges = |name: &str, help: &str| {
            registered(
                registry,
                IntGaugeVec::new(Opts::new(name, help), &["card"])?,
            )
        };
        let busy = Opts::new(
            "hepaflow_gpu_utilization_ratio",
            "Share of the time in which the card computed lately, 0 to 1, for whomever.",
        );
        Ok(Self {
            memory: gauges("hepaflow_gpu_memory_bytes", "Memory that the card has.")?,
            memory_used: gauges(
                "hepaflow_gpu_memory_used_bytes",
                "Memory of the card that is in use, by whomever.",
            )?,
            utilization: registered(registry, GaugeVec::new(busy, &["card"])?)?,
        })
    }

    /// What a card does now; `card` is the driver's number for it.
    pub fn set(&self, card: usize, memory: u64, memory_used: u64, utilization: f64) {
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let card = card.to_string();
        let label = [card.as_str()];
        self.memory.with_label_values(&label).set(bytes(memory));
        self.memory_used
            .with_label_values(&label)
            .set(bytes(memory_used));
        self.utilization.with_label_values(&label).set(utilization);
    }
}
