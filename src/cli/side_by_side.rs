//! The models of a pipeline file, opened: one, or several on the same windows.

use anyhow::anyhow;

use super::{BadInput, engine_options};
use crate::config::{ModelConfig, Pipeline};
use crate::engine::Engine;
use crate::model::Model;
#[cfg(feature = "gstreamer")]
use crate::store::StoredModel;

/// A model with what executes it.
pub(super) struct Opened {
    pub(super) model: Model,
    pub(super) engine: Engine,
    #[cfg(feature = "gstreamer")]
    pub(super) threads: usize,
}

impl Opened {
    fn open(config: &ModelConfig) -> anyhow::Result<Self> {
        let directory = &config.path.value;
        let model = match &config.signed_by {
            Some(key) => Model::load_signed(directory, &key.value),
            None => Model::load(directory),
        };
        let model = model.map_err(BadInput::new)?;
        let engine = Engine::open(&model, engine_options(config)?).map_err(BadInput::new)?;
        Ok(Self {
            model,
            engine,
            #[cfg(feature = "gstreamer")]
            threads: config.threads,
        })
    }

    /// As the store remembers it.
    #[cfg(feature = "gstreamer")]
    pub(super) fn stored(&self) -> StoredModel {
        let spec = self.model.spec();
        StoredModel {
            hash: self.model.hash(),
            architecture: spec.architecture.to_string(),
            classes: spec.classes.clone(),
        }
    }

    /// One line about it.
    pub(super) fn description(&self) -> String {
        let spec = self.model.spec();
        let classes: Vec<_> = spec.classes.iter().map(ToString::to_string).collect();
        format!(
            "{} {} on {}: {} frames of {}x{}, classes {}",
            spec.architecture,
            self.model.hash().short(),
            self.engine.description(),
            spec.input.frames,
            spec.input.height,
            spec.input.width,
            classes.join(", "),
        )
    }
}

/// Opens the models of a pipeline: the first one, and those beside it.
///
/// # Errors
/// If one cannot be used, two are the same, or they do not take the same windows.
pub(super) fn open(pipeline: &Pipeline) -> anyhow::Result<(Opened, Vec<Opened>)> {
    let first = Opened::open(&pipeline.model)?;
    let mut beside: Vec<Opened> = Vec::new();
    for config in &pipeline.beside {
        let next = Opened::open(config)?;
        let path = config.path.value.display();
        let known = || std::iter::once(&first).chain(&beside);
        if known().any(|other| other.model.hash() == next.model.hash()) {
            return Err(BadInput::new(anyhow!(
                "[[model]] {path}: another model of this file has the same content; leave one of \
                 the two out"
            ))
            .into());
        }
        let window = |opened: &Opened| {
            let input = &opened.model.spec().input;
            (input.frames, input.height, input.width)
        };
        let rate = |opened: &Opened| {
            let rate = opened.model.spec().input.frames_per_second;
            rate.map_or("any number".to_owned(), |rate| rate.to_string())
        };
        let (its_rate, rate) = (rate(&next), rate(&first));
        if its_rate != rate {
            return Err(BadInput::new(anyhow!(
                "[[model]] {path}: it has learned from {its_rate} of frames a second, the first \
                 model from {rate}; models side by side see the same windows: give this one a \
                 pipeline file of its own, with the same store"
            ))
            .into());
        }
        let (frames, height, width) = window(&first);
        let (its_frames, its_height, its_width) = window(&next);
        if window(&first) != window(&next) {
            return Err(BadInput::new(anyhow!(
                "[[model]] {path}: it takes {its_frames} frames of {its_height}x{its_width}, the \
                 first model {frames} of {height}x{width}; models side by side see the same \
                 windows: give this one a pipeline file of its own, with the same store"
            ))
            .into());
        }
        beside.push(next);
    }
    Ok((first, beside))
}
