//! hepaflow stages liver fibrosis from ultrasound video, as it streams.
//!
//! The way of the data, room by room:
//!
//! 1. [`ingest`] decodes recordings and scanners on GStreamer's threads into
//!    grey [`domain::Frame`]s of the model's size, stamped with event time;
//! 2. [`dataflow`] carries them on timely: windows become [`domain::Clip`]s,
//!    and clips go to
//! 3. [`engine`], which executes a network from [`model`] on a CPU or a GPU and
//!    answers with a [`domain::ClipPrediction`];
//! 4. [`dataflow`] again, where differential dataflow keeps one
//!    [`domain::PatientResult`] per patient and model, and corrects it;
//! 5. [`store`] makes both durable, and [`serve`] shows them.
//!
//! [`config`] reads the pipeline file that says which sources and which model;
//! [`cli`] is the face of it all. A room imports only from rooms before it:
//! `domain`, `config`, `metrics`; `clinical`, `model`, `ingest`; `engine`, `store`;
//! `dataflow`; `serve`; `cli`.
//!
//! This is research software and no medical device.

pub mod cli;
pub mod clinical;
pub mod config;
#[cfg(feature = "gstreamer")]
pub mod dataflow;
pub mod domain;
pub mod engine;
#[cfg(feature = "gstreamer")]
pub mod ingest;
pub mod metrics;
pub mod model;
#[cfg(feature = "gstreamer")]
pub mod serve;
pub mod store;
pub mod study;
