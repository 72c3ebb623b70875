//! What a run leaves after each epoch, so that it goes on where it was killed.
//!
//! One safetensors file: parameters, the ones that are kept so far, the optimiser's
//! memory, and in its header the settings, the network and the data that they
//! belong to. It is written beside its place and moved there, so that there is
//! always a whole one. Chance needs no state: each epoch draws from a stream of
//! its own (see [`super::fit`]).

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::{Deserialize, Serialize};

use super::fit::History;
use super::network::{Network, Parameter};
use super::optimiser::Optimiser;
use super::{TrainConfig, TrainError};
use crate::domain::ContentHash;

/// The file's name in the directory of a run.
pub(super) const FILE: &str = "checkpoint.safetensors";
const KEY: &str = "hepaflow";

/// Everything but the tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// `model.toml` of the network.
    pub(super) model: String,
    pub(super) config: TrainConfig,
    /// The films that are learnt from and stopped by.
    pub(super) films: ContentHash,
    pub(super) steps: u64,
    pub(super) history: History,
}

/// A run between two epochs.
pub(super) struct Checkpoint {
    pub(super) state: State,
    pub(super) network: Network,
    pub(super) kept: Vec<Parameter>,
    pub(super) optimiser: Optimiser,
}

impl Checkpoint {
    /// Writes it to `folder`, instead of the one there.
    pub(super) fn save(&self, folder: &Path) -> Result<(), TrainError> {
        let path = folder.join(FILE);
        let bytes = self.serialise().map_err(|error| TrainError::Checkpoint {
            path: path.clone(),
            problem: error.to_string(),
        })?;
        replace(&path, &bytes)
    }

    fn serialise(&self) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let memory = |kind: &str, values: &[Vec<f32>]| {
            let named = values.iter().enumerate().map(|(place, values)| Parameter {
                name: format!("{kind}.{place}"),
                shape: vec![values.len()],
                values: values.clone(),
            });
            named.collect::<Vec<_>>()
        };
        let prefixed = |kind: &str, parameters: &[Parameter]| {
            let named = parameters.iter().map(|parameter| Parameter {
                name: format!("{kind}.{}", parameter.name),
                ..parameter.clone()
            });
            named.collect::<Vec<_>>()
        };
        let all = [
            prefixed("now", self.network.parameters()),
            prefixed("kept", &self.kept),
            memory("first", &self.optimiser.first),
            memory("second", &self.optimiser.second),
        ]
        .concat();
        let tensors = as_bytes(&all);
        let header = HashMap::from([(KEY.to_owned(), serde_json::to_string(&self.state)?)]);
        Ok(safetensors::serialize(views(&tensors)?, Some(header))?)
    }

    /// Fills `fresh`, a run that has not begun, with what `folder` holds of it;
    /// false if it holds nothing.
    pub(super) fn resume(fresh: &mut Self, folder: &Path) -> Result<bool, TrainError> {
        let path = folder.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(TrainError::Read { path, error }),
        };
        let broken = |problem: String| TrainError::Checkpoint {
            path: path.clone(),
            problem,
        };
        let (_, header) =
            SafeTensors::read_metadata(&bytes).map_err(|error| broken(error.to_string()))?;
        let stored = SafeTensors::deserialize(&bytes).map_err(|error| broken(error.to_string()))?;
        let text = header.metadata().as_ref().and_then(|all| all.get(KEY));
        let text = text.ok_or_else(|| broken("its header says nothing of a run".to_owned()))?;
        let state: State = serde_json::from_str(text).map_err(|error| broken(error.to_string()))?;
        let foreign = |what: &'static str| TrainError::Foreign {
            path: path.clone(),
            what,
        };
        if state.model != fresh.state.model {
            return Err(foreign("layers or input (architecture, sizes, classes)"));
        }
        if state.config != fresh.state.config {
            return Err(foreign("settings"));
        }
        if state.films != fresh.state.films {
            return Err(foreign("recordings"));
        }
        let fill = |kind: &str, name: &str, values: &mut Vec<f32>| {
            let name = format!("{kind}.{name}");
            let view = stored
                .tensor(&name)
                .map_err(|error| broken(error.to_string()))?;
            let (numbers, rest) = view.data().as_chunks::<4>();
            if view.dtype() != Dtype::F32 || numbers.len() != values.len() || !rest.is_empty() {
                return Err(broken(format!("{name} has another size")));
            }
            *values = numbers
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect();
            Ok(())
        };
        for parameter in fresh.network.parameters_mut() {
            fill("now", &parameter.name, &mut parameter.values)?;
        }
        for parameter in &mut fresh.kept {
            fill("kept", &parameter.name, &mut parameter.values)?;
        }
        for (place, values) in fresh.optimiser.first.iter_mut().enumerate() {
            fill("first", &place.to_string(), values)?;
        }
        for (place, values) in fresh.optimiser.second.iter_mut().enumerate() {
            fill("second", &place.to_string(), values)?;
        }
        fresh.optimiser.steps = state.steps;
        fresh.state = state;
        Ok(true)
    }
}

/// A tensor as a file holds it: name, shape, bytes.
pub(super) type Stored = (String, Vec<usize>, Vec<u8>);

pub(super) fn as_bytes(parameters: &[Parameter]) -> Vec<Stored> {
    let stored = parameters.iter().map(|parameter| {
        let values = parameter.values.iter();
        let bytes = values.flat_map(|value| value.to_le_bytes()).collect();
        (parameter.name.clone(), parameter.shape.clone(), bytes)
    });
    stored.collect()
}

pub(super) fn views(tensors: &[Stored]) -> Result<Vec<(&str, TensorView<'_>)>, SafeTensorError> {
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes)?;
        Ok((name.as_str(), view))
    });
    views.collect()
}

/// Writes a file so that at any moment the old or the new one is there, whole.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let failed = |error| TrainError::Write {
        path: path.to_owned(),
        error,
    };
    let mut draft = path.as_os_str().to_owned();
    draft.push(".part");
    let draft = PathBuf::from(draft);
    let mut file = File::create(&draft).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&draft, path).map_err(failed)
}
