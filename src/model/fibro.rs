//! The project's own compact networks; `scripts/zoo.py` is the same in PyTorch.

use super::{Conv, Graph, InputSpec, NodeId, Op, Shape};

/// `fibro3d`: a residual 3D-CNN that is *valid* in time.
///
/// ```text
/// stem    conv 1x5x5, stride (1, 2, 2) ─ norm ─ relu
/// block i conv 3x3x3, stride (1, 2, 2) ─ norm ─ relu ─ conv 3x3x3 ─ norm ─┐
///         └ conv 1x1x1, stride (1, 2, 2) ─ norm ─ crop 2 frames each side ┴ add ─ relu
/// head    mean over time and space ─ linear
/// ```
///
/// Rows and columns are padded, time is not: a block shortens the clip by two
/// frames at each end, so that no value depends on where the window begins, and
/// overlapping windows share every value that they both cover. `B` blocks need
/// at least `4 B + 1` frames.
pub(super) fn fibro3d(
    input: &InputSpec,
    widths: &[usize],
    classes: usize,
) -> Result<Graph, String> {
    let shortest = 4 * widths.len() + 1;
    if input.frames < shortest {
        return Err(format!(
            "input.frames = {} is too few: {} blocks need at least {shortest}",
            input.frames,
            widths.len()
        ));
    }
    let (mut graph, clip) = Graph::input(Shape {
        channels: input.channels,
        extent: [input.frames, input.height, input.width],
    });
    let halve = [1, 2, 2];
    let stem = Conv {
        channels: widths[0],
        kernel: [1, 5, 5],
        stride: halve,
        padding: [0, 2, 2],
    };
    let stem = normed(&mut graph, "stem.conv", "stem.norm", stem, clip)?;
    let mut x = graph.add("stem.relu", Op::Relu, &[stem])?;
    for (number, &channels) in widths.iter().enumerate() {
        let name = |part: &str| format!("blocks.{number}.{part}");
        let taps = |stride| Conv {
            channels,
            kernel: [3, 3, 3],
            stride,
            padding: [0, 1, 1],
        };
        let point = Conv {
            channels,
            kernel: [1, 1, 1],
            stride: halve,
            padding: [0, 0, 0],
        };

        // The shortcut comes first, so that it is there to be added.
        let (conv, norm) = (name("shortcut.conv"), name("shortcut.norm"));
        let shortcut = normed(&mut graph, &conv, &norm, point, x)?;
        let shortcut = graph.add(name("shortcut.crop"), Op::CropTime(2), &[shortcut])?;

        let y = normed(&mut graph, &name("conv1"), &name("norm1"), taps(halve), x)?;
        let y = graph.add(name("relu1"), Op::Relu, &[y])?;
        let y = normed(
            &mut graph,
            &name("conv2"),
            &name("norm2"),
            taps([1, 1, 1]),
            y,
        )?;
        let sum = graph.add(name("add"), Op::Add, &[y, shortcut])?;
        x = graph.add(name("relu2"), Op::Relu, &[sum])?;
    }
    let pooled = graph.add("pool", Op::GlobalAveragePool, &[x])?;
    graph.add("head", Op::Linear(classes), &[pooled])?;
    Ok(graph)
}

fn normed(
    graph: &mut Graph,
    conv: &str,
    norm: &str,
    op: Conv,
    input: NodeId,
) -> Result<NodeId, String> {
    let y = graph.add(conv, Op::Conv(op), &[input])?;
    graph.add(norm, Op::BatchNorm, &[y])
}
