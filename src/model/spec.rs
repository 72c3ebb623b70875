use std::path::Path;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Graph, Lstm, ModelError, Op, zoo};
use crate::domain::{Spread, StageRange};

/// `model.toml`: what a network is, what goes into it and what comes out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// The network's kind, one of those that this program can build.
    pub architecture: Architecture,
    /// Channels of each layer: of the residual blocks, or in ResNets of the
    /// groups of blocks. Not for `layers`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub widths: Vec<usize>,
    /// Blocks in each group of a ResNet; two without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depths: Option<Vec<usize>>,
    /// Frames that the first convolution of `fibro3d` takes together, and goes on
    /// by, 1 to 64; each frame by itself without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stem_frames: Option<usize>,
    /// The memory of a network that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lstm: Option<Lstm>,
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
    /// What it made of recordings that it did not learn from, if that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<ReferenceSpec>,
    /// For `layers`: the network itself; the last layer gives the logits.
    #[serde(default, rename = "layer", skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerSpec>,
}

/// One operation of a network that is written out layer by layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerSpec {
    /// What other layers and the weights call it.
    pub name: String,
    /// Names of the layers that it reads; `input` is the clip.
    pub inputs: Vec<String>,
    /// What it computes.
    #[serde(flatten)]
    pub op: Op,
}

/// Networks that can be built from their name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Architecture {
    /// A compact 2D-CNN; probabilities are averaged over frames.
    #[value(name = "fibro2d")]
    Fibro2d,
    /// The same with an LSTM over the frames.
    #[value(name = "fibro2d_lstm")]
    Fibro2dLstm,
    /// The compact 3D-CNN for streams: residual, and *valid* in time.
    #[value(name = "fibro3d")]
    Fibro3d,
    /// Whatever `[[layer]]` tables say, one operation each.
    #[value(skip)]
    Layers,
    /// torchvision's ResNet-18; probabilities are averaged over frames.
    #[value(name = "resnet18")]
    Resnet18,
    /// torchvision's ResNet-18 on each frame, then an LSTM.
    #[value(name = "resnet18_lstm")]
    Resnet18Lstm,
    /// torchvision's 3D ResNet-18.
    #[serde(rename = "r3d_18")]
    #[value(name = "r3d_18")]
    R3d18,
    /// torchvision's mixed-convolution ResNet-18.
    #[serde(rename = "mc3_18")]
    #[value(name = "mc3_18")]
    Mc318,
    /// torchvision's R(2+1)D-18.
    #[serde(rename = "r2plus1d_18")]
    #[value(name = "r2plus1d_18")]
    R2plus1d18,
}

impl Architecture {
    /// Whether an LSTM follows the frames' features.
    pub const fn has_lstm(self) -> bool {
        matches!(self, Self::Fibro2dLstm | Self::Resnet18Lstm)
    }

    /// Whether it is a ResNet, whose groups have `depths`.
    pub const fn is_resnet(self) -> bool {
        !matches!(
            self,
            Self::Fibro2d | Self::Fibro2dLstm | Self::Fibro3d | Self::Layers
        )
    }
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fibro2d => "fibro2d",
            Self::Fibro2dLstm => "fibro2d_lstm",
            Self::Fibro3d => "fibro3d",
            Self::Layers => "layers",
            Self::Resnet18 => "resnet18",
            Self::Resnet18Lstm => "resnet18_lstm",
            Self::R3d18 => "r3d_18",
            Self::Mc318 => "mc3_18",
            Self::R2plus1d18 => "r2plus1d_18",
        })
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
    /// How many frames a second the network has learned from, 1 to 1000. Sources that
    /// give more are thinned to it; without it, every frame counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames_per_second: Option<f32>,
    /// Rows, `H`.
    pub height: usize,
    /// Columns, `W`.
    pub width: usize,
    /// One mean a channel, as a fraction of white.
    pub mean: Vec<f32>,
    /// One standard deviation a channel, as a fraction of white.
    pub std: Vec<f32>,
}

impl InputSpec {
    /// The time from one frame to the next that the network has learned from.
    pub fn pace(&self) -> Option<Duration> {
        self.frames_per_second.map(pace)
    }
}

/// The time from one frame to the next, of a rate above zero.
pub fn pace(frames_per_second: f32) -> Duration {
    Duration::from_secs_f64(1.0 / f64::from(frames_per_second))
}

/// Pictures and answers at the time a model was made, window by window, of patients
/// whom it did not learn from: what drift is measured against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceSpec {
    /// How many patients.
    pub patients: usize,
    /// How many windows of theirs.
    pub windows: usize,
    /// How severe it found them: see [`severity`](crate::domain::severity). None if it
    /// said the same of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Spread>,
    /// How bright the last picture of each was, 0 black to 1 white. None if all were
    /// alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brightness: Option<Spread>,
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
        if let Some(rate) = input.frames_per_second
            && !(1.0..=1000.0).contains(&rate)
        {
            return Err(format!(
                "input.frames_per_second = {rate} is not possible: expected 1 to 1000"
            ));
        }
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
        if self.architecture == Architecture::Layers {
            if !self.widths.is_empty() {
                return Err("widths: layers bring their own".to_owned());
            }
        } else if !self.layers.is_empty() {
            return Err(format!(
                "layer: {} is built by name; use architecture = \"layers\"",
                self.architecture
            ));
        } else if self.widths.is_empty() || self.widths.len() > 64 {
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
        self.check_extras()?;
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

    fn check_extras(&self) -> Result<(), String> {
        let known = self.reference.iter();
        let mut spreads = known.flat_map(|known| [known.severity, known.brightness]);
        if !spreads.all(|spread| spread.is_none_or(|spread| spread.is_sound())) {
            return Err(
                "reference: mean and deviation must be finite, and deviation above 0".to_owned(),
            );
        }
        let name = self.architecture;
        match &self.depths {
            Some(_) if !name.is_resnet() => {
                return Err(format!(
                    "depths: {name} has one block for each of its widths"
                ));
            }
            Some(depths)
                if depths.len() != self.widths.len()
                    || !depths.iter().all(|depth| (1..=64).contains(depth)) =>
            {
                return Err(
                    "depths: expected one number from 1 to 64 for each of widths".to_owned(),
                );
            }
            _ => {}
        }
        match self.stem_frames {
            Some(_) if name != Architecture::Fibro3d => {
                return Err(format!("stem_frames: {name} has no such thing"));
            }
            Some(frames) if !(1..=64).contains(&frames) => {
                return Err(format!(
                    "stem_frames: {frames} is not possible: expected 1 to 64"
                ));
            }
            _ => {}
        }
        match self.lstm {
            None if name.has_lstm() => Err(format!(
                "lstm is missing: {name} wants lstm = {{ hidden = 128, layers = 1 }}"
            )),
            Some(_) if !name.has_lstm() => Err(format!("lstm: {name} has none")),
            Some(Lstm { hidden, layers })
                if !(1..=4096).contains(&hidden) || !(1..=8).contains(&layers) =>
            {
                Err("lstm: expected hidden from 1 to 4096 and layers from 1 to 8".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Blocks in each group of a ResNet.
    pub(super) fn depths(&self) -> Vec<usize> {
        self.depths
            .clone()
            .unwrap_or_else(|| vec![2; self.widths.len()])
    }

    /// Builds the network.
    ///
    /// # Errors
    /// If the input is too small for it; the text names the value.
    pub fn graph(&self) -> Result<Graph, String> {
        zoo::build(self)
    }
}
