use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Graph, ModelError, fibro};
use crate::domain::StageRange;

/// `model.toml`: what a network is, what goes into it and what comes out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// The network's kind, one of those that this program can build.
    pub architecture: Architecture,
    /// Channels of each residual block, in order: how wide and how deep.
    pub widths: Vec<usize>,
    /// What each output class means, in order.
    pub classes: Vec<StageRange>,
    /// True if the weights were made without patients' data, so that answers
    /// mean nothing for a person.
    pub synthetic: bool,
    /// Where the weights come from, for people to read.
    #[serde(default)]
    pub note: String,
    /// What goes in.
    pub input: InputSpec,
}

/// Networks that can be built from their name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// The compact 3D-CNN for streams: residual, and *valid* in time.
    Fibro3d,
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fibro3d => f.write_str("fibro3d"),
        }
    }
}

/// What goes into a network: `[C, T, H, W]`, normalised as
/// `(grey / 255 - mean) / std` channel by channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// Channels, `C`; the same grey picture goes into each.
    pub channels: usize,
    /// Frames in a window, `T`.
    pub frames: usize,
    /// Rows, `H`.
    pub height: usize,
    /// Columns, `W`.
    pub width: usize,
    /// One mean a channel, as a fraction of white.
    pub mean: Vec<f32>,
    /// One standard deviation a channel, as a fraction of white.
    pub std: Vec<f32>,
}

impl ModelSpec {
    pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Self, ModelError> {
        let impossible = |problem: String| ModelError::Impossible {
            file: file.to_owned(),
            problem,
        };
        let text = std::str::from_utf8(bytes)
            .map_err(|error| impossible(format!("is not UTF-8 text: {error}")))?;
        let spec: Self = toml::from_str(text).map_err(|error| ModelError::Spec {
            file: file.to_owned(),
            error: Box::new(error),
        })?;
        spec.check().map_err(impossible)?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), String> {
        let input = &self.input;
        let within = |name: &str, value: usize, limit: usize| {
            if (1..=limit).contains(&value) {
                return Ok(());
            }
            Err(format!(
                "input.{name} = {value} is not possible: expected 1 to {limit}"
            ))
        };
        within("channels", input.channels, 16)?;
        within("frames", input.frames, 1024)?;
        within("height", input.height, 4096)?;
        within("width", input.width, 4096)?;
        if self.classes.len() < 2 {
            return Err("classes: a model tells at least two classes apart".to_owned());
        }
        if !self
            .classes
            .windows(2)
            .all(|pair| pair[0].highest < pair[1].lowest)
        {
            return Err("classes: ranges of stages must rise and not overlap".to_owned());
        }
        if self.widths.is_empty() || self.widths.len() > 64 {
            return Err("widths: expected 1 to 64 numbers, one a block".to_owned());
        }
        if let Some(width) = self
            .widths
            .iter()
            .find(|width| !(1..=4096).contains(*width))
        {
            return Err(format!(
                "widths: {width} is not possible: expected 1 to 4096"
            ));
        }
        for (name, values) in [("mean", &input.mean), ("std", &input.std)] {
            if values.len() != input.channels {
                return Err(format!(
                    "input.{name} has {} values: expected one a channel, {}",
                    values.len(),
                    input.channels
                ));
            }
        }
        let sane = |std: &f32| std.is_finite() && *std > 0.0;
        if !input.std.iter().all(sane) || !input.mean.iter().all(|mean| mean.is_finite()) {
            return Err("input: mean and std must be finite, and std above 0".to_owned());
        }
        Ok(())
    }

    /// Builds the network.
    pub(super) fn graph(&self) -> Result<Graph, String> {
        match self.architecture {
            Architecture::Fibro3d => fibro::fibro3d(&self.input, &self.widths, self.classes.len()),
        }
    }
}
