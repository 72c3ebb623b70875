//! The three video ResNets of Tran et al., 2018 (arXiv 1711.11248), as
//! `torchvision.models.video` defines them: names, strides and padding.

use super::{Builder, spatial};
use crate::model::{Graph, ModelSpec};

/// Which of the three.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `r3d_18`: 3x3x3 throughout.
    R3d,
    /// `mc3_18`: 3x3x3 in the first layer, 1x3x3 behind it.
    Mc3,
    /// `r2plus1d_18`: every 3x3x3 as a 1x3x3 and a 3x1x1.
    R2plus1d,
}

/// `r3d_18`, `mc3_18` or `r2plus1d_18`.
pub(super) fn video_resnet(spec: &ModelSpec, kind: Kind) -> Result<Graph, String> {
    let mut net = Builder::new(spec);
    let first = spec.widths[0];
    if kind == Kind::R2plus1d {
        // torchvision fixes 45 channels between the halves of the stem.
        let across = spatial(45, [1, 7, 7], [1, 2, 2], [0, 3, 3]);
        net.normed("stem.0", "stem.1", across)?.relu("stem.0")?;
        let along = spatial(first, [3, 1, 1], [1, 1, 1], [1, 0, 0]);
        net.normed("stem.3", "stem.4", along)?.relu("stem.3")?;
    } else {
        let stem = spatial(first, [3, 7, 7], [1, 2, 2], [1, 3, 3]);
        net.normed("stem.0", "stem.1", stem)?.relu("stem")?;
    }
    for (number, (&channels, &depth)) in spec.widths.iter().zip(&spec.depths()).enumerate() {
        for index in 0..depth {
            let stride = if number > 0 && index == 0 { 2 } else { 1 };
            let flat = kind == Kind::Mc3 && number > 0;
            block(
                &mut net,
                &format!("layer{}.{index}", number + 1),
                channels,
                stride,
                kind,
                flat,
            )?;
        }
    }
    net.classify_clip("fc", spec)
}

fn block(
    net: &mut Builder,
    block: &str,
    channels: usize,
    stride: usize,
    kind: Kind,
    flat: bool,
) -> Result<(), String> {
    let name = |part: &str| format!("{block}.{part}");
    let input = net.at;
    let inputs = net.channels();
    let mut shortcut = input;
    if stride != 1 || inputs != channels {
        let in_time = if flat { 1 } else { stride };
        let point = spatial(channels, [1, 1, 1], [in_time, stride, stride], [0, 0, 0]);
        net.normed(&name("downsample.0"), &name("downsample.1"), point)?;
        shortcut = net.at;
        net.at = input;
    }
    for (conv, stride) in [("conv1", stride), ("conv2", 1)] {
        if kind == Kind::R2plus1d {
            // As many parameters as the 3x3x3 that the pair stands for; both
            // pairs of a block take the number from the block's input.
            let between = (inputs * channels * 27) / (inputs * 9 + 3 * channels);
            let across = spatial(between, [1, 3, 3], [1, stride, stride], [0, 1, 1]);
            net.normed(
                &name(&format!("{conv}.0.0")),
                &name(&format!("{conv}.0.1")),
                across,
            )?;
            net.relu(&name(conv))?;
            let along = spatial(channels, [3, 1, 1], [stride, 1, 1], [1, 0, 0]);
            net.normed(
                &name(&format!("{conv}.0.3")),
                &name(&format!("{conv}.1")),
                along,
            )?;
        } else {
            let taps = if flat {
                spatial(channels, [1, 3, 3], [1, stride, stride], [0, 1, 1])
            } else {
                spatial(channels, [3, 3, 3], [stride; 3], [1, 1, 1])
            };
            net.normed(
                &name(&format!("{conv}.0")),
                &name(&format!("{conv}.1")),
                taps,
            )?;
        }
        if conv == "conv1" {
            net.relu(block)?;
        }
    }
    net.join(block, shortcut)
}
