#!/usr/bin/env python3
"""Writes tests/goldens/: small networks with random weights and statistics, and
what PyTorch answers for random clips. The tests read these and need no PyTorch.

    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch safetensors numpy
    /tmp/torch/bin/python scripts/make_goldens.py

Made with torch 2.15.0 on the CPU, in f64 rounded to f32, so that the reference
carries no rounding of its own; another version gives the same to 1e-6.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from zoo import Fibro3d, spec_toml

GOLDENS = Path(__file__).parent.parent / "tests" / "goldens"


def randomise(network: torch.nn.Module) -> None:
    """Random weights of a useful size, and statistics that are not 0 and 1."""
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0.0, 0.3)
        elif "norm" in name and name.endswith("weight"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("weight"):
            fan_in = tensor[0].numel()
            tensor.normal_(0.0, (2.0 / fan_in) ** 0.5)


def golden(folder, widths, classes, shape, batch, seed, mean, std):
    torch.manual_seed(seed)
    network = Fibro3d(shape[0], widths, len(classes)).eval()
    randomise(network)
    clips = torch.randn(batch, *shape)
    with torch.no_grad():
        logits = network.double()(clips.double()).float()
    target = GOLDENS / folder
    target.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.float().contiguous()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    save_file(weights, target / "weights.safetensors")
    save_file({"clips": clips}, target / "clips.safetensors")
    save_file({"logits": logits}, target / "logits.safetensors")
    note = "random weights, for tests"
    (target / "model.toml").write_text(
        spec_toml("fibro3d", widths, classes, shape, mean, std, note)
    )


def main() -> None:
    two = ["F0-F1", "F2-F4"]
    five = ["F0", "F1", "F2", "F3", "F4"]
    golden("fibro3d", [4, 6], two, (1, 9, 28, 28), 3, 1, [0.3], [0.2])
    # Odd everything: an odd picture, three channels, longer than it must be.
    rgb = [0.43, 0.39, 0.37], [0.22, 0.21, 0.22]
    golden("fibro3d_odd", [5, 3, 7], five, (3, 14, 37, 23), 2, 2, *rgb)


if __name__ == "__main__":
    main()
