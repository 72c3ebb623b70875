#!/usr/bin/env python3
"""Writes tests/goldens/: small networks of every architecture with random
weights and statistics, and what PyTorch answers for random clips. The tests read
these and need no PyTorch.

    python3 -m venv /tmp/torch
    /tmp/torch/bin/pip install torch torchvision safetensors numpy
    /tmp/torch/bin/python scripts/make_goldens.py

Made with torch 2.15.0 and torchvision 0.29.2 on the CPU, in f64 rounded to f32,
so that the reference carries no rounding of its own.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from zoo import build, randomise, spec_toml, weights_of

GOLDENS = Path(__file__).parent.parent / "tests" / "goldens"
TWO = ["F0-F1", "F2-F4"]
FIVE = ["F0", "F1", "F2", "F3", "F4"]
GREY = [0.3], [0.2]
RGB = [0.43, 0.39, 0.37], [0.22, 0.21, 0.22]


def golden(folder, architecture, widths, classes, shape, batch, norm=GREY, **extra):
    torch.manual_seed(sum(map(ord, folder)))
    network = build(architecture, shape[0], widths, len(classes), **extra).eval()
    randomise(network)
    clips = torch.randn(batch, *shape)
    with torch.no_grad():
        logits = network.double()(clips.double()).float()
    target = GOLDENS / folder
    target.mkdir(parents=True, exist_ok=True)
    save_file(weights_of(network), target / "weights.safetensors")
    save_file({"clips": clips}, target / "clips.safetensors")
    save_file({"logits": logits}, target / "logits.safetensors")
    note = "random weights, for tests"
    text = spec_toml(architecture, widths, classes, shape, *norm, note, **extra)
    (target / "model.toml").write_text(text)


def main() -> None:
    golden("fibro3d", "fibro3d", [4, 6], TWO, (1, 9, 28, 28), 3)
    # Odd everything: an odd picture, three channels, longer than it must be.
    golden("fibro3d_odd", "fibro3d", [5, 3, 7], FIVE, (3, 14, 37, 23), 2, RGB)
    golden("fibro2d", "fibro2d", [5, 8], TWO, (1, 3, 29, 30), 2)
    golden("fibro2d_lstm", "fibro2d_lstm", [4, 6], FIVE, (1, 7, 25, 20), 3, lstm=(5, 2))
    four = [4, 6, 5, 8]
    golden("resnet18", "resnet18", four, FIVE, (3, 2, 45, 38), 3, RGB)
    golden("resnet18_lstm", "resnet18_lstm", four, TWO, (1, 5, 33, 40), 2, lstm=(6, 1))
    golden("r3d_18", "r3d_18", four, TWO, (3, 9, 27, 34), 2, RGB)
    golden("r3d_18_deep", "r3d_18", [4, 6], TWO, (1, 5, 21, 18), 1, depths=[3, 1])
    golden("mc3_18", "mc3_18", four, FIVE, (1, 7, 30, 25), 3)
    golden("r2plus1d_18", "r2plus1d_18", four, TWO, (1, 10, 26, 31), 2)


if __name__ == "__main__":
    main()
