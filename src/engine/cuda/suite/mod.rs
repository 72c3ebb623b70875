//! What any card must pass: every kernel against a plain reference in f64, and
//! single instructions against what their manual says.
//!
//! The same cases run through the host shim in tests, under several schedules,
//! and on a card in `hepaflow gpu-suite`.

mod cases;
mod probes;
mod reference;
mod run;

use std::sync::Arc;

use super::CudaError;
use super::launch::{Card, Limits};

pub(super) use cases::{clusters_conform, copies_conform};
pub(super) use probes::products_conform;
pub use run::{
    KernelResult, LayerTiming, NetworkResult, Report, SuiteError, Timing, identify, kernels,
    layer_timings, network, timings,
};

/// Compares a card's answer with a reference: gives the largest difference.
type Check = Box<dyn Fn(&Arc<dyn Card>) -> Result<f64, CudaError> + Send + Sync>;

/// One thing to check.
pub(crate) struct Case {
    pub(crate) name: String,
    /// The largest difference that is allowed.
    pub(crate) tolerance: f64,
    pub(crate) check: Check,
}

/// A card of which few multiprocessors are used, as many as the host shim has: so a few
/// clips are work for all blocks, and the same kernels are chosen here and there.
pub(crate) fn few(limits: Limits) -> Limits {
    Limits {
        multiprocessors: 4,
        ..limits
    }
}

/// All cases, the probes first: where those fail, no other says anything.
pub(crate) fn all() -> Vec<Case> {
    let mut all = probes::cases();
    all.extend(cases::cases());
    all
}

#[cfg(test)]
mod tests;
