//! The project's own compact networks; `scripts/zoo.py` is the same in PyTorch.
//!
//! All three are residual, with one block for each of `widths`, each block
//! halving rows and columns:
//!
//! ```text
//! stem    conv 5x5, stride 2 ─ norm ─ relu
//! block i conv 3x3, stride 2 ─ norm ─ relu ─ conv 3x3 ─ norm ─┐
//!         └ conv 1x1, stride 2 ─ norm ────────────────────────┴ add ─ relu
//! ```

use super::{Builder, planar, spatial};
use crate::model::{Graph, ModelSpec, Op};

/// `fibro2d`: each frame by itself; probabilities are averaged over the clip.
pub(super) fn fibro2d(spec: &ModelSpec) -> Result<Graph, String> {
    frame_encoder(spec)?.classify_frames("head", spec)
}

/// `fibro2d_lstm`: each frame by itself, then an LSTM over the frames.
pub(super) fn fibro2d_lstm(spec: &ModelSpec) -> Result<Graph, String> {
    frame_encoder(spec)?.classify_sequence("head", spec)
}

fn frame_encoder(spec: &ModelSpec) -> Result<Builder, String> {
    let mut net = Builder::new(spec);
    net.normed("stem.conv", "stem.norm", planar(spec.widths[0], 5, 2))?
        .relu("stem")?;
    for (number, &channels) in spec.widths.iter().enumerate() {
        let block = format!("blocks.{number}");
        let name = |part: &str| format!("{block}.{part}");
        let input = net.at;
        net.normed(
            &name("shortcut.conv"),
            &name("shortcut.norm"),
            planar(channels, 1, 2),
        )?;
        let shortcut = net.at;
        net.at = input;
        net.normed(&name("conv1"), &name("norm1"), planar(channels, 3, 2))?
            .relu(&block)?;
        net.normed(&name("conv2"), &name("norm2"), planar(channels, 3, 1))?;
        net.join(&block, shortcut)?;
    }
    Ok(net)
}

/// `fibro3d`: convolutions of 3x3x3, *valid* in time.
///
/// Rows and columns are padded, time is not: each convolution shortens the clip by
/// a frame at each end (a block's shortcut crops what its two take), so that no value
/// depends on where the window begins, and overlapping windows share every value that
/// they both cover. Where fewer than three frames are left, kernels are of 1x3x3: that
/// all of `B` blocks are 3x3x3 takes `4 B + 1` frames.
///
/// With `stem_frames` the stem takes so many frames together and goes on by as
/// many, so that the blocks see fewer frames that reach further apart: tissue
/// moves little in one frame's time, and the mean of several has less speckle. The
/// window must then be so many times as long, and windows share values if they
/// begin a multiple of it apart.
pub(super) fn fibro3d(spec: &ModelSpec) -> Result<Graph, String> {
    let together = spec.stem_frames.unwrap_or(1);
    let shortest = 3 * together;
    if spec.input.frames < shortest {
        return Err(format!(
            "input.frames = {} is too few: fibro3d needs at least {shortest}",
            spec.input.frames
        ));
    }
    let mut left = spec.input.frames / together;
    let mut taps = || {
        let taps = if left >= 3 { 3 } else { 1 };
        left -= taps - 1;
        taps
    };
    let halve = [1, 2, 2];
    let mut net = Builder::new(spec);
    let stride = [together, 2, 2];
    let stem = spatial(spec.widths[0], [together, 5, 5], stride, [0, 2, 2]);
    net.normed("stem.conv", "stem.norm", stem)?.relu("stem")?;
    for (number, &channels) in spec.widths.iter().enumerate() {
        let block = format!("blocks.{number}");
        let name = |part: &str| format!("{block}.{part}");
        let over_time = [taps(), taps()];
        let frames = over_time.iter().map(|taps| taps / 2).sum();
        let input = net.at;
        // The shortcut comes first, so that it is there to be added.
        let point = spatial(channels, [1, 1, 1], halve, [0, 0, 0]);
        net.normed(&name("shortcut.conv"), &name("shortcut.norm"), point)?;
        if frames > 0 {
            net.then(name("shortcut crop"), Op::CropTime { frames })?;
        }
        let shortcut = net.at;
        net.at = input;
        let kernel = |time, stride| spatial(channels, [time, 3, 3], stride, [0, 1, 1]);
        let [first, second] = over_time;
        net.normed(&name("conv1"), &name("norm1"), kernel(first, halve))?
            .relu(&block)?;
        net.normed(&name("conv2"), &name("norm2"), kernel(second, [1, 1, 1]))?;
        net.join(&block, shortcut)?;
    }
    net.classify_clip("head", spec)
}
