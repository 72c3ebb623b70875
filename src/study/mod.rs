//! The study: what a model is trained on, judged by and reported with.

pub mod phantom;
