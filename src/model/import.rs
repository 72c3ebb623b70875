//! From a PyTorch state dict to a model directory.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use super::{Architecture, InputSpec, Lstm, MANIFEST, Model, ModelError, ModelSpec, manifest};
use crate::domain::Stage::{F0, F1, F2, F3, F4};
use crate::domain::{Stage, StageRange};

/// More blocks or layers than this are not counted, and refused behind.
const MOST: usize = 256;

/// What cannot be read off the weights.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// The network's kind.
    pub architecture: Architecture,
    /// What each class means, in order.
    pub classes: Vec<StageRange>,
    /// Frames in a window.
    pub frames: usize,
    /// How many frames a second the network has learned from, if that matters.
    pub frames_per_second: Option<f32>,
    /// Rows of a picture.
    pub height: usize,
    /// Columns of a picture.
    pub width: usize,
    /// One mean a channel, or one for all; 0 without any.
    pub mean: Vec<f32>,
    /// One standard deviation a channel, or one for all; 1 without any.
    pub std: Vec<f32>,
    /// Whether the weights were made without patients' data.
    pub synthetic: bool,
    /// Where the weights come from.
    pub note: String,
}

/// A model could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The weights do not look like the architecture at all.
    #[error("{} does not look like {architecture}: it has no tensor `{tensor}` of rank {rank}", file.display())]
    Foreign {
        /// The weights.
        file: PathBuf,
        /// What was asked for.
        architecture: Architecture,
        /// What gives its size away.
        tensor: String,
        /// Axes that it should have.
        rank: usize,
    },
    /// The directory is in use.
    #[error("{} exists already: name a new directory", .0.display())]
    Exists(PathBuf),
    /// A file could not be written.
    #[error("cannot write {}: {error}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// `model.toml` could not be put into words.
    #[error("cannot write model.toml: {0}")]
    Toml(#[from] toml::ser::Error),
    /// The result is no sound model.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// What a number of classes usually means: two are significant fibrosis or
/// not, three split off cirrhosis, four and five follow METAVIR.
pub fn usual_classes(count: usize) -> Option<Vec<StageRange>> {
    let range = |lowest, highest| StageRange { lowest, highest };
    Some(match count {
        2 => vec![range(F0, F1), range(F2, F4)],
        3 => vec![range(F0, F1), range(F2, F3), range(F4, F4)],
        4 => vec![range(F0, F1), range(F2, F2), range(F3, F3), range(F4, F4)],
        5 => Stage::ALL.map(|stage| range(stage, stage)).to_vec(),
        _ => return None,
    })
}

/// Writes a model directory from weights under PyTorch's names, reading widths,
/// depths, input channels and LSTM sizes off the tensors, and loads it again as
/// a check: what does not fit is reported and nothing is left behind.
///
/// # Errors
/// If the weights are not those of the architecture, or a file cannot be
/// written.
pub fn import(
    weights: &Path,
    directory: &Path,
    options: &ImportOptions,
) -> Result<Model, ImportError> {
    if directory.exists() {
        return Err(ImportError::Exists(directory.to_owned()));
    }
    let bytes = super::weights::read_file(weights)?;
    let stored = SafeTensors::deserialize(&bytes).map_err(|error| ModelError::Format {
        file: weights.to_owned(),
        problem: error.to_string(),
    })?;
    let spec = Reading {
        stored: &stored,
        file: weights,
        options,
    }
    .spec()?;
    write(&spec, &bytes, directory)
}

/// Writes a model directory and loads it as a check; what is not sound leaves
/// nothing behind.
pub(super) fn write(
    spec: &ModelSpec,
    weights: &[u8],
    directory: &Path,
) -> Result<Model, ImportError> {
    if directory.exists() {
        return Err(ImportError::Exists(directory.to_owned()));
    }
    let text = toml::to_string(spec)?;
    // Beside its place until it is known to be sound.
    let mut draft = directory.as_os_str().to_owned();
    draft.push(".part");
    let draft = PathBuf::from(draft);
    let failed = |file: &Path, error| ImportError::Write {
        file: file.to_owned(),
        error,
    };
    let finish = || {
        fs::create_dir_all(&draft).map_err(|error| failed(&draft, error))?;
        let (toml, copy) = (draft.join("model.toml"), draft.join("weights.safetensors"));
        fs::write(&toml, &text).map_err(|error| failed(&toml, error))?;
        fs::write(&copy, weights).map_err(|error| failed(&copy, error))?;
        let sums = manifest(&[
            ("model.toml", text.as_bytes()),
            ("weights.safetensors", weights),
        ]);
        let file = draft.join(MANIFEST);
        fs::write(&file, sums).map_err(|error| failed(&file, error))?;
        let model = Model::load(&draft)?;
        fs::rename(&draft, directory).map_err(|error| failed(directory, error))?;
        Ok(model)
    };
    let result = finish();
    if result.is_err() {
        // Best effort: the error that matters is the first one.
        let _ = fs::remove_dir_all(&draft);
    }
    result
}

/// A state dict being measured.
struct Reading<'a> {
    stored: &'a SafeTensors<'a>,
    file: &'a Path,
    options: &'a ImportOptions,
}

impl Reading<'_> {
    fn spec(&self) -> Result<ModelSpec, ImportError> {
        let options = self.options;
        let kind = options.architecture;
        let (stem, rank) = match kind {
            Architecture::Fibro2d | Architecture::Fibro2dLstm => ("stem.conv.weight", 4),
            Architecture::Fibro3d => ("stem.conv.weight", 5),
            Architecture::Resnet18 => ("conv1.weight", 4),
            Architecture::Resnet18Lstm => ("cnn.conv1.weight", 4),
            // `layers` is never asked for by name.
            Architecture::R3d18
            | Architecture::Mc318
            | Architecture::R2plus1d18
            | Architecture::Layers => ("stem.0.weight", 5),
        };
        let shape = self.shape(stem, rank)?;
        let channels = shape[1];
        let together = (kind == Architecture::Fibro3d).then(|| shape[2]);
        let (widths, depths) = if kind.is_resnet() {
            self.groups()?
        } else {
            (self.blocks(), None)
        };
        let lstm = if kind.has_lstm() {
            Some(self.lstm()?)
        } else {
            None
        };
        let each = |values: &[f32], default: f32| match values {
            [] => vec![default; channels],
            [one] => vec![*one; channels],
            several => several.to_vec(),
        };
        Ok(ModelSpec {
            architecture: kind,
            widths,
            depths,
            stem_frames: together.filter(|&frames| frames > 1),
            lstm,
            layers: Vec::new(),
            reference: None,
            classes: options.classes.clone(),
            synthetic: options.synthetic,
            note: options.note.clone(),
            input: InputSpec {
                channels,
                frames: options.frames,
                frames_per_second: options.frames_per_second,
                height: options.height,
                width: options.width,
                mean: each(&options.mean, 0.0),
                std: each(&options.std, 1.0),
            },
        })
    }

    fn shape(&self, tensor: &str, rank: usize) -> Result<Vec<usize>, ImportError> {
        let shape = self
            .stored
            .tensor(tensor)
            .map(|view| view.shape().to_vec())
            .ok();
        shape
            .filter(|shape| shape.len() == rank)
            .ok_or_else(|| ImportError::Foreign {
                file: self.file.to_owned(),
                architecture: self.options.architecture,
                tensor: tensor.to_owned(),
                rank,
            })
    }

    /// First extent of `tensor`, if it is there.
    fn outputs(&self, tensor: &str) -> Option<usize> {
        self.stored.tensor(tensor).ok()?.shape().first().copied()
    }

    /// Widths of our own networks' blocks.
    fn blocks(&self) -> Vec<usize> {
        (0..)
            .map_while(|block| self.outputs(&format!("blocks.{block}.conv1.weight")))
            .collect()
    }

    /// Widths and depths of a ResNet's groups.
    fn groups(&self) -> Result<(Vec<usize>, Option<Vec<usize>>), ImportError> {
        // The last norm of a block has as many channels as the block.
        let (prefix, norm) = match self.options.architecture {
            Architecture::Resnet18 => ("", "bn2.weight"),
            Architecture::Resnet18Lstm => ("cnn.", "bn2.weight"),
            _ => ("", "conv2.1.weight"),
        };
        let width = |group: usize, block: usize| {
            self.outputs(&format!("{prefix}layer{group}.{block}.{norm}"))
        };
        let widths: Vec<_> = (1..).map_while(|group| width(group, 0)).collect();
        if widths.is_empty() {
            self.shape(&format!("{prefix}layer1.0.{norm}"), 1)?;
        }
        let depths: Vec<_> = (1..=widths.len())
            .map(|group| {
                (0..MOST)
                    .take_while(|&block| width(group, block).is_some())
                    .count()
            })
            .collect();
        let usual = depths.iter().all(|&depth| depth == 2);
        Ok((widths, (!usual).then_some(depths)))
    }

    fn lstm(&self) -> Result<Lstm, ImportError> {
        let hidden = self.shape("lstm.weight_hh_l0", 2)?[1];
        let layers = (0..MOST)
            .take_while(|layer| self.outputs(&format!("lstm.weight_hh_l{layer}")).is_some())
            .count();
        Ok(Lstm { hidden, layers })
    }
}
