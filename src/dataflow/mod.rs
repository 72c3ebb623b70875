//! The graph that carries the work, on timely and differential dataflow.
//!
//! ```text
//!            worker 1                                          │ exchanged by patient
//! feeds ─▶ sources ─▶ windows ─▶ infer ──┬─▶ clip facts ───────┼─▶ views ─▶ changed rows ─┐
//!            ▲ credits            │  ▲   │                     │    ▲                     ▼
//!            │             clips  ▼  │   └─▶ clips ────────────│────│──────────────▶ writer thread
//!            │            inference threads                         │                     │
//!            │            log of facts ─▶ facts ────────────────────┘                     │
//!            └────────────────────── credits given back when a clip is on disk ───────────┘
//! ```
//!
//! Times in the graph are *epochs* (`clock.rs`): they say how far the computation
//! has come, and never enter a result. Nothing in an operator blocks: feeds and
//! inference threads put things into bounded queues and wake the operator
//! through its `Waker`; an idle graph is parked. What bounds memory is
//! `Credits`: a feed is read only while fewer clips than a fixed number are
//! on their way to the disk.
//!
//! Several processes run the graph together as a [`cluster`]: pixels stay where
//! they were decoded, and predictions go to the worker that keeps the patient.
//!
//! A run ends when its feeds have ended, when it is told to ([`Control`]), or
//! when the engine or the store fails; what was committed stays.

mod ahead;
mod answers;
mod census;
mod clock;
pub mod cluster;
mod control;
mod facts;
mod infer;
mod live;
mod run;
mod source;
mod surroundings;
pub mod views;
mod waker;
mod window;
mod writer;

pub use control::{Control, KeepOpen};
pub use facts::Facts;
pub use infer::Scorer;
pub use live::{AttentionWanted, Live, LiveAttention, LivePrediction, LiveStream};
pub use run::{Job, Outcome, RunError, StreamFailure, run, run_together};
pub use source::{Feed, Opening, StreamEvent, StreamInfo, StreamItem};
pub use window::{WindowShape, WindowedClip, Windower, Windows};

use clock::Clock;
use infer::{Infer, InferenceThreads};
use waker::Waker;
use writer::{Credits, WriterHandle};

/// Progress of the computation, in ticks of the `clock.rs` since the run began.
///
/// Epoch 0 holds what the store knew before.
pub type Epoch = u64;
