use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::{Graph, ModelError};

/// A header is no longer than this: that of a large network has some hundred bytes
/// a tensor. The reader has the same limit.
const LONGEST_HEADER: u64 = 100_000_000;

/// Reads a safetensors file, and none whose first bytes already say that it cannot
/// be one: it may be larger than the memory.
pub(super) fn read_file(file: &Path) -> Result<Vec<u8>, ModelError> {
    let unreadable = |error| ModelError::Read {
        file: file.to_owned(),
        error,
    };
    let format = |problem: String| ModelError::Format {
        file: file.to_owned(),
        problem,
    };
    let mut opened = File::open(file).map_err(unreadable)?;
    let length = opened.metadata().map_err(unreadable)?.len();
    let mut first = [0; 8];
    if length < 8 {
        return Err(format(format!("it has {length} bytes")));
    }
    opened.read_exact(&mut first).map_err(unreadable)?;
    let header = u64::from_le_bytes(first);
    if header > LONGEST_HEADER {
        return Err(format(format!(
            "its header claims {header} bytes, and a header has at most {LONGEST_HEADER}"
        )));
    }
    if header > length - 8 {
        return Err(format(format!(
            "its header claims {header} bytes, and the whole file has {length}"
        )));
    }
    let mut bytes = first.to_vec();
    opened.read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// A parameter: its shape, and its values in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Extent of each axis.
    pub shape: Vec<usize>,
    /// The values, as many as the shape says.
    pub values: Vec<f32>,
}

/// All parameters of a network, exactly those that its graph names.
#[derive(Clone, Debug)]
pub struct Weights(BTreeMap<String, Tensor>);

impl Weights {
    /// The parameter called `name`, if the graph has it.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// Checks a safetensors file against a graph.
    pub(super) fn read(file: &Path, bytes: &[u8], graph: &Graph) -> Result<Self, ModelError> {
        // The reader checks every offset and length against the bytes it has.
        let stored = SafeTensors::deserialize(bytes).map_err(|error| ModelError::Format {
            file: file.to_owned(),
            problem: error.to_string(),
        })?;
        let mut faults = Vec::new();
        let mut tensors = BTreeMap::new();
        let expected = graph.parameters();
        for (name, shape) in &expected {
            let Ok(view) = stored.tensor(name) else {
                faults.push(format!(
                    "{name} is missing: expected a tensor of shape {shape:?}"
                ));
                continue;
            };
            if view.shape() != shape {
                faults.push(format!(
                    "{name} has shape {:?}: expected {shape:?}",
                    view.shape()
                ));
                continue;
            }
            match values(&view) {
                None => faults.push(format!(
                    "{name} holds {:?}: expected F32, F16, BF16 or F64",
                    view.dtype()
                )),
                Some(values) if !values.iter().all(|value| value.is_finite()) => {
                    faults.push(format!("{name} holds values that are not finite numbers"));
                }
                Some(values) => {
                    tensors.insert(
                        name.clone(),
                        Tensor {
                            shape: shape.clone(),
                            values,
                        },
                    );
                }
            }
        }
        let known: BTreeSet<_> = expected.iter().map(|(name, _)| name.as_str()).collect();
        let mut names = stored.names();
        names.sort_unstable();
        for name in names {
            // PyTorch counts batches while training; nothing needs it after.
            if !known.contains(name) && !name.ends_with(".num_batches_tracked") {
                faults.push(format!("{name} is not part of the network"));
            }
        }
        if !faults.is_empty() {
            return Err(ModelError::Weights {
                file: file.to_owned(),
                faults,
            });
        }
        Ok(Self(tensors))
    }
}

/// The values as f32; `None` for a type that weights do not have.
fn values(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let bytes = view.data();
    let values = match view.dtype() {
        Dtype::F32 => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|value| f32::from_le_bytes(*value))
            .collect(),
        Dtype::F64 => bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|value| f64::from_le_bytes(*value) as f32)
            .collect(),
        Dtype::F16 => bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|v| f16::from_le_bytes(*v).to_f32())
            .collect(),
        Dtype::BF16 => bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|v| bf16::from_le_bytes(*v).to_f32())
            .collect(),
        _ => return None,
    };
    Some(values)
}
