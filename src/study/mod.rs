//! The study: what a model is trained on, judged by and reported with.

#[cfg(feature = "train")]
pub mod capsule;
pub mod chart;
pub mod cohort;
pub mod folder;
pub mod predictions;
pub mod split;
pub mod statistics;
#[cfg(feature = "gstreamer")]
pub(crate) mod heat;
#[cfg(feature = "train")]
pub mod protocol;
pub mod phantom;
#[cfg_attr(
    not(feature = "gstreamer"),
    allow(dead_code, reason = "only written with GStreamer")
)]
mod picture;
#[cfg(feature = "train")]
pub mod train;
#[cfg(feature = "gstreamer")]
pub(crate) mod video;

#[cfg(feature = "gstreamer")]
pub(crate) use picture::{Picture, Pixels};
