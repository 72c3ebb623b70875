//! Weights that were never trained, for checks and timings.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensorError, serialize};

use super::{Graph, Op};

/// Of what a residual block adds to what came in: small, as in trained networks, so that
/// values do not grow from block to block until an LSTM behind them is at its ends.
const OF_BRANCH: f32 = 0.1;

/// Random weights of usual sizes for every parameter of a graph, as a safetensors file:
/// He's initialisation for matrices, and batch norm that does nothing but at the end of
/// residual branches, which it makes small. The same seed gives the same ones.
///
/// # Errors
/// If the file cannot be put together.
pub(crate) fn random_weights(graph: &Graph, seed: u64) -> Result<Vec<u8>, SafeTensorError> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let nodes = graph.nodes();
    let branches: Vec<String> = nodes
        .iter()
        .filter(|node| matches!(node.op, Op::Add))
        .filter_map(|node| nodes.get(node.inputs.first()?.0))
        .map(|branch| format!("{}.weight", branch.name))
        .collect();
    let mut uniform = || random.random_range(-1.0_f32..1.0);
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = graph
        .parameters()
        .into_iter()
        .map(|(name, shape)| {
            let len: usize = shape.iter().product();
            let fan_in: usize = shape[1..].iter().product();
            let bound = (6.0 / fan_in as f32).sqrt();
            let is_norm = shape.len() == 1 && !name.contains("bias");
            let mut value = || match shape.len() {
                1 if is_norm && name.ends_with("running_mean") => 0.0,
                1 if is_norm && branches.contains(&name) => OF_BRANCH,
                1 if is_norm => 1.0,
                1 => 0.1 * uniform(),
                _ => bound * uniform(),
            };
            let values = (0..len).flat_map(|_| value().to_le_bytes()).collect();
            (name, shape, values)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, values)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), values)?;
        Ok::<_, SafeTensorError>((name, view))
    });
    serialize(views.collect::<Result<Vec<_>, _>>()?, None)
}
