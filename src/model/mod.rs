//! Models: a directory on disk, checked and understood.
//!
//! A model directory holds `model.toml` ([`ModelSpec`]: architecture, classes
//! and their meaning, input) and `weights.safetensors` under PyTorch's own
//! names. [`Model::load`] reads both, builds the network as a [`Graph`], and
//! refuses weights that do not fit it, naming every tensor that is missing, too
//! many, misshapen or not finite. Where there is a file of sums, it must be right; a
//! signature over that can be asked for ([`Model::load_signed`]). What executes a graph is the engine, not this
//! room.

mod graph;
mod import;
mod onnx;
mod random;
mod seal;
mod spec;
mod weights;
mod zoo;

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use graph::{Conv, Graph, Lstm, Node, NodeId, Op, Pool, Shape};
pub use import::{ImportError, ImportOptions, import, usual_classes};
pub use onnx::{OnnxError, OnnxOptions, import_onnx, to_onnx};
pub(crate) use random::random_weights;
pub use seal::MANIFEST;
pub(crate) use seal::manifest;
pub use spec::{Architecture, InputSpec, LayerSpec, ModelSpec, ReferenceSpec, pace};
pub use weights::{Tensor, Weights};

use crate::domain::ModelHash;

/// A model directory could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file of the directory could not be read.
    #[error("cannot read {}: {error}; a model directory holds model.toml and weights.safetensors", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// `model.toml` has a mistake.
    #[error("{}: {error}", file.display())]
    Spec {
        /// The file.
        file: PathBuf,
        /// Line, key and what was expected.
        error: Box<toml::de::Error>,
    },
    /// `model.toml` is well formed but describes no possible network.
    #[error("{}: {problem}", file.display())]
    Impossible {
        /// The file.
        file: PathBuf,
        /// Which value, and what is possible.
        problem: String,
    },
    /// The weights are no safetensors file.
    #[error("{} is no whole safetensors file: {problem}; copy or export it again", file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// What the format's reader said.
        problem: String,
    },
    /// The weights are not those of the network that `model.toml` describes.
    #[error("{} does not fit its model.toml:\n  {}", file.display(), faults.join("\n  "))]
    Weights {
        /// The file.
        file: PathBuf,
        /// One line for each tensor.
        faults: Vec<String>,
    },
    /// The directory is not what its sums or their signature say.
    #[error("{}: {problem}; copy the whole model directory again from where it was made", file.display())]
    Seal {
        /// The file that says so, or that is missing.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// A model, ready for an engine.
#[derive(Clone, Debug)]
pub struct Model {
    spec: ModelSpec,
    graph: Graph,
    weights: Weights,
    hash: ModelHash,
}

impl Model {
    /// Reads and checks a model directory.
    ///
    /// # Errors
    /// If a file is missing or malformed, the weights do not fit the
    /// architecture, or a file is not what `SHA256SUMS` says, where that is there.
    pub fn load(directory: &Path) -> Result<Self, ModelError> {
        Self::read(directory, None)
    }

    /// The same, and insists on a signature over `SHA256SUMS` by the Ed25519 key
    /// whose public half is in `key_file`, in PEM.
    ///
    /// # Errors
    /// As for [`Model::load`], or if there is no such signature.
    pub fn load_signed(directory: &Path, key_file: &Path) -> Result<Self, ModelError> {
        Self::read(directory, Some(key_file))
    }

    fn read(directory: &Path, key_file: Option<&Path>) -> Result<Self, ModelError> {
        let toml_file = directory.join("model.toml");
        let weights_file = directory.join("weights.safetensors");
        let read = |file: &Path| {
            std::fs::read(file).map_err(|error| ModelError::Read {
                file: file.to_owned(),
                error,
            })
        };
        let toml_bytes = read(&toml_file)?;
        let weight_bytes = weights::read_file(&weights_file)?;
        let files = [
            ("model.toml", &toml_bytes[..]),
            ("weights.safetensors", &weight_bytes[..]),
        ];
        let manifest = seal::check(directory, &files)?;
        if let Some(key_file) = key_file {
            seal::check_signature(directory, manifest.as_deref(), key_file)?;
        }
        let spec = ModelSpec::parse(&toml_file, &toml_bytes)?;
        let graph = spec.graph().map_err(|problem| ModelError::Impossible {
            file: toml_file,
            problem,
        })?;
        let weights = Weights::read(&weights_file, &weight_bytes, &graph)?;
        // Lengths in between, so that no byte can move from one file to the
        // other and leave the hash as it was.
        let mut digest = Sha256::new();
        for bytes in [&toml_bytes, &weight_bytes] {
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        }
        Ok(Self {
            spec,
            graph,
            weights,
            hash: ModelHash::from_digest(digest),
        })
    }

    /// Identity of the directory's content.
    pub fn hash(&self) -> ModelHash {
        self.hash
    }

    /// What `model.toml` says.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The network.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The network's parameters, by name.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }
}
