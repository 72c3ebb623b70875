//! The CUDA backend: the plan of the CPU backend, executed by our own kernels.
//!
//! `layers.rs` lays a plan's weights and values out, `network.rs` turns it into
//! launches and runs them through `launch::Card`, which is a card of the driver's
//! (`driver.rs`) or, in tests, the host shim. The kernels of `kernels/` are
//! compiled for the card at hand and kept on disk (`compile.rs`). Nothing here
//! needs a CUDA toolkit to build, nor a driver to start.

use super::Precision;

mod backend;
mod compile;
mod driver;
mod kernels;
mod launch;
mod layers;
mod network;
mod session;
#[cfg(test)]
mod shim;
pub mod suite;
mod weights;

pub(super) use backend::{Backend, Served, Workspace};
pub(super) use network::Clips;
pub(super) use session::{Session, SessionPlan};

/// What can go wrong between here and a card.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// There is no driver, or no card that we can use.
    #[error("{reason}")]
    Unavailable {
        /// Why, and what to do.
        reason: String,
    },
    /// The card has no room for what was asked.
    #[error("the card has no room for {bytes} bytes more")]
    OutOfMemory {
        /// Asked for.
        bytes: usize,
    },
    /// More values than a kernel can count.
    #[error("the clips are too large for the kernels ({value} values along one axis)")]
    TooLarge {
        /// What did not fit.
        value: usize,
    },
    /// The driver refused, or a kernel failed; the card's state is lost.
    #[error("the card failed: {problem}")]
    Launch {
        /// What the driver said.
        problem: String,
    },
    /// Weights that the precision cannot hold.
    #[error("there are weights that {precision} cannot hold; use another precision")]
    Weights {
        /// What was asked for.
        precision: Precision,
    },
    /// A network that the backend cannot lay out.
    #[error("the network cannot be laid out for a card: {problem}")]
    Plan {
        /// What was found.
        problem: &'static str,
    },
    /// The kernels could not be compiled.
    #[error("the kernels could not be compiled for this card: {problem}")]
    Compile {
        /// What the compiler said.
        problem: String,
    },
}
