//! The study: what a model is trained on, judged by and reported with.
//!
//! [`cohort`] says who is in it, [`split`] who trains and who judges,
//! [`predictions`] what was said of whom, [`evaluation`] how good that is, with
//! [`statistics`], and [`report`] shows it; [`folder`] is where all of it lies.
//! With the feature `train`, `train` makes a model of recordings, and `protocol` all
//! of a study's.

#[cfg(feature = "train")]
pub mod capsule;
pub mod chart;
pub mod cohort;
pub mod evaluation;
pub mod folder;
#[cfg(feature = "gstreamer")]
pub(crate) mod heat;
pub mod phantom;
#[cfg_attr(
    not(feature = "gstreamer"),
    allow(dead_code, reason = "only written with GStreamer")
)]
mod picture;
pub mod predictions;
#[cfg(feature = "train")]
pub mod protocol;
pub mod report;
pub mod split;
pub mod statistics;
#[cfg(feature = "train")]
pub mod train;
#[cfg(feature = "gstreamer")]
pub(crate) mod video;

#[cfg(feature = "gstreamer")]
pub(crate) use picture::{Picture, Pixels};
