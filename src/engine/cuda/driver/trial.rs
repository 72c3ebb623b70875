//! What of a card does as the kernels rest on, tried when it is first opened.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::{DriverCard, lock};
use crate::engine::cuda::CudaError;
use crate::engine::cuda::launch::{Card, Limits};
use crate::engine::cuda::suite;

/// The first CUDA whose drivers describe memory to the tensor memory accelerator.
const FIRST_WITH_MAPS: i32 = 12000;

/// Whether a card does something as it should.
type Probe = fn(&Arc<dyn Card>) -> Result<bool, CudaError>;

impl DriverCard {
    /// Opens a card, and on Hopper tries its products of whole warpgroups, its clusters and
    /// its tensor memory accelerator: where they do not do what the kernels rest on, the
    /// kernels for older cards compute, or copy. A card is tried once in a process.
    pub(crate) fn open_checked(ordinal: usize) -> Result<Arc<Self>, CudaError> {
        /// What was found, by card.
        static FOUND: Mutex<BTreeMap<usize, Limits>> = Mutex::new(BTreeMap::new());
        // Held while a card is tried: whoever else wants it waits for the answer.
        let mut found = lock(&FOUND);
        if let Some(&limits) = found.get(&ordinal) {
            return Ok(Arc::new(Self::open_within(ordinal, limits)?));
        }
        let card = Self::open_tried(ordinal)?;
        found.insert(ordinal, card.limits);
        Ok(Arc::new(card))
    }

    fn open_tried(ordinal: usize) -> Result<Self, CudaError> {
        let plain = Self::open(ordinal)?;
        if !plain.is_hopper {
            return Ok(plain);
        }
        let mut limits = plain.limits;
        let plain: Arc<dyn Card> = Arc::new(plain);
        let conforms = tried("wgmma", &plain, suite::products_conform);
        drop(plain);
        if !conforms {
            return Self::open(ordinal);
        }
        limits.warpgroups = true;
        // Opened anew each time: a failed probe may have left the context in its error.
        let conforms = |what, limits, probe: Probe| {
            let card: Arc<dyn Card> = Arc::new(Self::open_within(ordinal, limits)?);
            Ok::<_, CudaError>(tried(what, &card, probe))
        };
        let clusters = Limits {
            clusters: true,
            ..limits
        };
        let clusters = conforms("a cluster", clusters, suite::clusters_conform)?;
        let copies = |boxes, pairs| {
            suite::few(Limits {
                tma: true,
                boxes,
                pairs,
                ..limits
            })
        };
        let tma = Self::driver_version() >= FIRST_WITH_MAPS
            && conforms("TMA", copies(false, false), suite::copies_conform)?;
        let boxes = tma && conforms("TMA's boxes", copies(true, false), suite::copies_conform)?;
        let pairs = tma
            && clusters
            && conforms("TMA to pairs", copies(false, true), suite::copies_conform)?;
        let limits = Limits {
            tma,
            boxes,
            clusters,
            pairs,
            ..limits
        };
        Self::open_within(ordinal, limits)
    }
}

/// Whether a card's instructions do what the kernels rest on.
fn tried(what: &str, card: &Arc<dyn Card>, probe: Probe) -> bool {
    match probe(card) {
        Ok(true) => return true,
        Ok(false) => tracing::warn!("{what} does not conform: kernels that do without compute"),
        Err(error) => tracing::warn!(%error, "{what} fails: kernels that do without compute"),
    }
    false
}
