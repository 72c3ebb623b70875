#!/usr/bin/env python3
"""Writes tests/goldens/: small networks of every architecture with random
weights and statistics, and what PyTorch answers for random clips; and tests/onnx/:
networks as PyTorch exports them to ONNX. The tests read these and need no PyTorch.

    python3 -m venv /tmp/torch
    /tmp/torch/bin/pip install torch torchvision safetensors numpy onnx
    /tmp/torch/bin/python scripts/make_goldens.py

Made with torch 2.15.0 and torchvision 0.29.2 on the CPU, in f64 rounded to f32,
so that the reference carries no rounding of its own.
"""

import warnings
from pathlib import Path

import torch
from torch import nn
from safetensors.torch import save_file

from zoo import build, randomise, spec_toml, weights_of

GOLDENS = Path(__file__).parent.parent / "tests" / "goldens"
ONNX = GOLDENS.parent / "onnx"
TWO = ["F0-F1", "F2-F4"]
FIVE = ["F0", "F1", "F2", "F3", "F4"]
GREY = [0.3], [0.2]
RGB = [0.43, 0.39, 0.37], [0.22, 0.21, 0.22]


def golden(folder, architecture, widths, classes, shape, batch, norm=GREY, **extra):
    torch.manual_seed(sum(map(ord, folder)))
    network = build(
        architecture, shape[0], widths, len(classes), frames=shape[1], **extra
    ).eval()
    randomise(network)
    clips = torch.randn(batch, *shape)
    with torch.no_grad():
        logits = network.double()(clips.double()).float()
    target = GOLDENS / folder
    target.mkdir(parents=True, exist_ok=True)
    save_file(weights_of(network), target / "weights.safetensors")
    save_file({"clips": clips}, target / "clips.safetensors")
    save_file({"logits": logits}, target / "logits.safetensors")
    maps = {name: grad_cam(network, clips.double(), index)
            for name, index in [("first", 0), ("last", len(classes) - 1)]}
    save_file(maps, target / "attention.safetensors")
    note = "random weights, for tests"
    text = spec_toml(architecture, widths, classes, shape, *norm, note, **extra)
    (target / "model.toml").write_text(text)


def grad_cam(network, clips, index):
    """Grad-CAM [N, T', H', W'] of the last activations that have rows and columns,
    by autograd; frame by frame where the network sees pictures."""
    convolutions = getattr(network, "cnn", network)
    layers = getattr(convolutions, "layers", 0)
    last = getattr(convolutions, f"layer{layers}") if layers else convolutions.blocks
    kept = []
    hook = last.register_forward_hook(lambda module, given, values: kept.append(values))
    logits = network(clips)
    hook.remove()
    # Clips do not see each other: the sum's gradient is that of each.
    (gradients,) = torch.autograd.grad(logits[:, index].sum(), kept[0])
    positions = tuple(range(2, kept[0].dim()))
    alpha = gradients.mean(positions, keepdim=True)
    maps = (alpha * kept[0]).sum(1).relu()
    maps = maps if maps.dim() == 4 else maps.unflatten(0, (len(clips), -1))
    return maps.detach().float().contiguous()


class Memory(nn.Module):
    """Features of each frame, two layers of LSTM, the last state."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 6, (1, 3, 3), (1, 2, 2))
        self.lstm = nn.LSTM(6, 5, num_layers=2)
        self.head = nn.Linear(5, 3)

    def forward(self, clips):
        frames = self.conv(clips).relu().mean((3, 4))
        states, _ = self.lstm(frames.permute(2, 0, 1))
        return self.head(states[-1])


def odd():
    """What the zoo has not: biases, groups, average pooling, layers in an
    order of their own, a softmax at the end."""
    return nn.Sequential(
        nn.Conv3d(2, 8, 3, padding=1, bias=True),
        nn.AvgPool3d(2, padding=1),
        nn.ReLU(),
        nn.BatchNorm3d(8),
        nn.Conv3d(8, 12, (1, 3, 2), stride=(1, 2, 1), groups=4),
        nn.MaxPool3d((1, 2, 2)),
        nn.BatchNorm3d(12, eps=1e-3),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(12, 4),
        nn.Softmax(1),
    )


def pictures():
    """A network on single pictures."""
    return nn.Sequential(
        nn.Conv2d(1, 9, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(9),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(9, 11, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(11, 3),
    )


def onnx_golden(name, network, shape, probabilities=False):
    """`NAME.onnx` and the answers for two clips; a network on pictures is given
    each frame, and its probabilities are averaged."""
    torch.manual_seed(sum(map(ord, name)))
    randomise(network.eval())
    clips = torch.randn(2, *shape)
    pictures = len(shape) == 4 and name == "pictures"
    given = clips[:, :, 0] if pictures else clips
    warnings.simplefilter("ignore")
    torch.onnx.export(
        network, (given,), ONNX / f"{name}.onnx", dynamo=False, opset_version=17,
        input_names=["clips"], dynamic_axes={"clips": {0: "N"}},
    )
    with torch.no_grad():
        network.double()
        if pictures:
            frames = [network(clips[:, :, t].double()).softmax(1) for t in range(shape[1])]
            answer = torch.stack(frames).mean(0).log()
        else:
            answer = network(clips.double())
    # Softmaxes are imported as log-probabilities.
    answer = answer.log() if probabilities else answer
    save_file({"clips": clips, "logits": answer.float()}, ONNX / f"{name}.safetensors")


def main() -> None:
    golden("fibro3d", "fibro3d", [4, 6], TWO, (1, 9, 28, 28), 3)
    # Odd everything: an odd picture, three channels, longer than it must be.
    golden("fibro3d_odd", "fibro3d", [5, 3, 7], FIVE, (3, 14, 37, 23), 2, RGB)
    golden("fibro3d_stem", "fibro3d", [6, 8], TWO, (1, 29, 22, 26), 2, stem_frames=3)
    # Three times four frames: only the first convolution is over time.
    golden("fibro3d_few", "fibro3d", [5, 4], TWO, (1, 13, 22, 26), 2, stem_frames=4)
    golden("fibro2d", "fibro2d", [5, 8], TWO, (1, 3, 29, 30), 2)
    golden("fibro2d_lstm", "fibro2d_lstm", [4, 6], FIVE, (1, 7, 25, 20), 3, lstm=(5, 2))
    four = [4, 6, 5, 8]
    golden("resnet18", "resnet18", four, FIVE, (3, 2, 45, 38), 3, RGB)
    golden("resnet18_lstm", "resnet18_lstm", four, TWO, (1, 5, 33, 40), 2, lstm=(6, 1))
    golden("r3d_18", "r3d_18", four, TWO, (3, 9, 27, 34), 2, RGB)
    golden("r3d_18_deep", "r3d_18", [4, 6], TWO, (1, 5, 21, 18), 1, depths=[3, 1])
    # Wide enough for Winograd's method.
    golden("r3d_18_wide", "r3d_18", [16, 20], TWO, (1, 9, 43, 38), 2, depths=[1, 1])
    golden("resnet18_wide", "resnet18", [17, 24], TWO, (1, 4, 70, 66), 1, depths=[1, 1])
    golden("mc3_18", "mc3_18", four, FIVE, (1, 7, 30, 25), 3)
    golden("r2plus1d_18", "r2plus1d_18", four, TWO, (1, 10, 26, 31), 2)

    ONNX.mkdir(exist_ok=True)
    onnx_golden("clips", build("r3d_18", 3, [4, 6], 2, depths=[1, 1]), (3, 5, 21, 18))
    onnx_golden("pictures", pictures(), (1, 3, 33, 40))
    onnx_golden("memory", Memory(), (1, 6, 11, 13))
    onnx_golden("odd", odd(), (2, 5, 15, 14), probabilities=True)


if __name__ == "__main__":
    main()
