//! Networks that `model.toml` writes out, layer by layer.

use std::collections::BTreeMap;

use crate::model::{Graph, Lstm, ModelSpec, NodeId, Op, Pool, Shape};

/// More layers than any network that this is for.
const MOST_LAYERS: usize = 4096;
/// More values in one layer than a machine holds.
const MOST_VALUES: usize = 1 << 32;

/// `layers`: the `[[layer]]` tables in their order.
pub(super) fn layers(spec: &ModelSpec) -> Result<Graph, String> {
    if spec.layers.is_empty() || spec.layers.len() > MOST_LAYERS {
        return Err(format!(
            "layer: expected 1 to {MOST_LAYERS} tables [[layer]]"
        ));
    }
    let input = &spec.input;
    let (mut graph, id) = Graph::input(Shape {
        channels: input.channels,
        extent: [input.frames, input.height, input.width],
    });
    let mut ids = BTreeMap::from([("input", id)]);
    for layer in &spec.layers {
        let name = &layer.name;
        let inputs: Vec<NodeId> = layer
            .inputs
            .iter()
            .map(|input| {
                let id = ids.get(input.as_str()).copied();
                id.ok_or_else(|| {
                    format!("layer `{name}` reads `{input}`, which no layer before it gives")
                })
            })
            .collect::<Result<_, _>>()?;
        let expected = if layer.op == Op::Add { 2 } else { 1 };
        if inputs.len() != expected {
            return Err(format!(
                "layer `{name}` has {} inputs: expected {expected}",
                inputs.len()
            ));
        }
        check(name, layer.op)?;
        let id = graph.add(name.clone(), layer.op, &inputs)?;
        let shape = graph.node(id).shape;
        let values = [
            shape.channels,
            shape.extent[0],
            shape.extent[1],
            shape.extent[2],
        ]
        .into_iter()
        .try_fold(1_usize, usize::checked_mul);
        if values.is_none_or(|values| values > MOST_VALUES) {
            return Err(format!("layer `{name}` gives {shape}: that is too large"));
        }
        if ids.insert(name, id).is_some() {
            return Err(format!("layer `{name}`: two layers have this name"));
        }
    }
    let last = graph.nodes().last().map(|node| node.shape);
    let wanted = Shape {
        channels: spec.classes.len(),
        extent: [1, 1, 1],
    };
    match last {
        Some(shape) if shape == wanted => Ok(graph),
        shape => Err(format!(
            "the last layer gives {}: expected {wanted}, a logit for each class",
            shape.map_or_else(String::new, |shape| shape.to_string())
        )),
    }
}

/// Numbers that no layer has.
fn check(name: &str, op: Op) -> Result<(), String> {
    let within = |what: &str, values: &[usize], range: std::ops::RangeInclusive<usize>| match values
        .iter()
        .find(|value| !range.contains(*value))
    {
        None => Ok(()),
        Some(value) => Err(format!(
            "layer `{name}`: {what} {value} is not possible: expected {} to {}",
            range.start(),
            range.end()
        )),
    };
    let window = |pool: Pool| {
        within("kernel", &pool.kernel, 1..=256)?;
        within("stride", &pool.stride, 1..=256)?;
        within("padding", &pool.padding, 0..=255)?;
        let inside = pool
            .padding
            .iter()
            .zip(pool.kernel)
            .all(|(padding, kernel)| *padding < kernel);
        if inside {
            Ok(())
        } else {
            Err(format!(
                "layer `{name}`: padding must be smaller than the kernel"
            ))
        }
    };
    match op {
        Op::Conv(conv) => {
            within("channels", &[conv.channels], 1..=65_536)?;
            if conv.planar && (conv.kernel[0], conv.stride[0], conv.padding[0]) != (1, 1, 0) {
                return Err(format!(
                    "layer `{name}`: a planar convolution has one tap in time"
                ));
            }
            window(Pool {
                kernel: conv.kernel,
                stride: conv.stride,
                padding: conv.padding,
            })
        }
        Op::MaxPool(pool) | Op::AveragePool(pool) => window(pool),
        Op::Lstm(Lstm { hidden, layers }) => {
            within("hidden", &[hidden], 1..=65_536)?;
            within("layers", &[layers], 1..=8)
        }
        Op::Linear { features } => within("features", &[features], 1..=65_536),
        Op::Input
        | Op::BatchNorm
        | Op::Relu
        | Op::Add
        | Op::CropTime { .. }
        | Op::GlobalAveragePool
        | Op::FrameAveragePool
        | Op::LogMeanSoftmax => Ok(()),
    }
}
