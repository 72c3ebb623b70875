//! A model directory out of a network that has learnt enough, with what it makes of
//! patients whom it did not learn from: what a run holds its pictures and answers
//! against.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::TrainError;
use super::checkpoint;
use super::film::Film;
use super::network::Network;
use crate::domain::{Frame, Spread, severity};
use crate::model::{MANIFEST, Model, ModelSpec, ReferenceSpec, manifest};

/// Writes a model directory, its reference measured on `validation`, and takes the
/// checkpoint away: the run is over.
///
/// # Errors
/// If a file cannot be written, or what was written cannot be loaded.
pub fn publish(
    network: &Network,
    validation: &[&Film],
    folder: &Path,
) -> Result<Model, TrainError> {
    let weights = folder.join("weights.safetensors");
    let bytes = network
        .to_safetensors()
        .map_err(|error| TrainError::Checkpoint {
            path: weights.clone(),
            problem: error.to_string(),
        })?;
    fs::create_dir_all(folder).map_err(|error| TrainError::Write {
        path: folder.to_owned(),
        error,
    })?;
    checkpoint::replace(&weights, &bytes)?;
    let spec = toml::to_string(&ModelSpec {
        reference: Some(reference(network, validation)),
        ..network.spec().clone()
    })?;
    checkpoint::replace(&folder.join("model.toml"), spec.as_bytes())?;
    let sums = manifest(&[
        ("model.toml", spec.as_bytes()),
        ("weights.safetensors", &bytes),
    ]);
    checkpoint::replace(&folder.join(MANIFEST), sums.as_bytes())?;
    let model = Model::load(folder)?;
    // It may never have been there.
    let _ = fs::remove_file(folder.join(checkpoint::FILE));
    Ok(model)
}

/// What the network makes of films, window after window without overlap.
fn reference(network: &Network, films: &[&Film]) -> ReferenceSpec {
    let frames = network.spec().input.frames;
    let (mut severities, mut levels) = (Vec::new(), Vec::new());
    for film in films {
        let places = film.windows(frames, frames);
        for place in &places {
            let last = film.clip(place + frames - 1, 1).frames;
            levels.extend(last.first().and_then(Frame::brightness));
        }
        let scored = network.probabilities(film, &places).into_iter();
        severities.extend(scored.filter_map(|p| severity(p.into_iter())));
    }
    let patients: BTreeSet<_> = films.iter().map(|film| &film.patient).collect();
    ReferenceSpec {
        patients: patients.len(),
        windows: severities.len(),
        severity: Spread::of(&severities),
        brightness: Spread::of(&levels),
    }
}
