//! ResNet-18 on single frames, as `torchvision.models.resnet18` defines it
//! (He et al., 2015, arXiv 1512.03385), by itself and with an LSTM behind it.

use super::{Builder, planar};
use crate::model::{Graph, ModelSpec, Op, Pool};

/// `resnet18`: torchvision's names from the root on.
pub(super) fn resnet(spec: &ModelSpec) -> Result<Graph, String> {
    encoder(spec, "")?.classify_frames("fc", spec)
}

/// `resnet18_lstm`: torchvision's names under `cnn.`, without its `fc`; then
/// `lstm.` (`torch.nn.LSTM`, `batch_first`) and `fc.` on the last hidden state.
pub(super) fn resnet_lstm(spec: &ModelSpec) -> Result<Graph, String> {
    encoder(spec, "cnn.")?.classify_sequence("fc", spec)
}

fn encoder(spec: &ModelSpec, prefix: &str) -> Result<Builder, String> {
    let mut net = Builder::new(spec);
    let stem = planar(spec.widths[0], 7, 2);
    net.normed(&format!("{prefix}conv1"), &format!("{prefix}bn1"), stem)?
        .relu("stem")?;
    let pool = Pool {
        kernel: [1, 3, 3],
        stride: [1, 2, 2],
        padding: [0, 1, 1],
    };
    net.then("maxpool", Op::MaxPool(pool))?;
    for (number, (&channels, &depth)) in spec.widths.iter().zip(&spec.depths()).enumerate() {
        for index in 0..depth {
            let stride = if number > 0 && index == 0 { 2 } else { 1 };
            let block = format!("{prefix}layer{}.{index}", number + 1);
            let name = |part: &str| format!("{block}.{part}");
            let input = net.at;
            let mut shortcut = input;
            if stride != 1 || net.channels() != channels {
                let point = planar(channels, 1, stride);
                net.normed(&name("downsample.0"), &name("downsample.1"), point)?;
                shortcut = net.at;
                net.at = input;
            }
            net.normed(&name("conv1"), &name("bn1"), planar(channels, 3, stride))?
                .relu(&block)?;
            net.normed(&name("conv2"), &name("bn2"), planar(channels, 3, 1))?;
            net.join(&block, shortcut)?;
        }
    }
    Ok(net)
}
