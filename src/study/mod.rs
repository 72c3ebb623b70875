//! The study: what a model is trained on, judged by and reported with.

pub mod phantom;
#[cfg_attr(
    not(feature = "gstreamer"),
    allow(dead_code, reason = "only written with GStreamer")
)]
mod picture;
#[cfg(feature = "gstreamer")]
pub(crate) mod video;

#[cfg(feature = "gstreamer")]
pub(crate) use picture::{Picture, Pixels};
