//! Plain data that every room shares: frames, clips, stages, identifiers, time.
//!
//! Nothing here does I/O, and nothing here knows where a frame came from or
//! what will become of it. The types carry units and meaning so that a frame
//! number cannot be taken for a time or a stream for a patient.

mod clip;
mod frame;
mod hash;
mod ids;
mod instance;
mod prediction;
mod pseudonym;
mod spread;
mod stage;
mod time;

pub use clip::{Clip, ClipKey, ClipSpan};
pub use frame::{Crop, Frame, FrameSize};
pub use hash::{ContentHash, ModelHash, ParseHashError};
pub use ids::{PatientId, StreamId, StudyUid};
pub use instance::Instance;
pub use prediction::{Abstention, ClipPrediction, PatientResult, Probability, severity};
pub use pseudonym::PseudonymKey;
pub use spread::Spread;
pub use stage::{ParseStageError, Stage, StageRange};
pub use time::EventTime;
