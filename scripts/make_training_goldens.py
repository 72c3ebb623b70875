#!/usr/bin/env python3
"""Writes training.safetensors beside some models of tests/goldens/: what PyTorch
makes of them in six steps of training on their own clips. The tests read these
and need no PyTorch.

    python3 -m venv /tmp/torch
    /tmp/torch/bin/pip install torch torchvision safetensors numpy
    /tmp/torch/bin/python scripts/make_training_goldens.py

Made with torch 2.15.0 on the CPU, in f64 rounded to f32, so that the reference
carries no rounding of its own.
"""

import tomllib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from zoo import build, weights_of

GOLDENS = Path(__file__).parent.parent / "tests" / "goldens"
# resnet18 has max pools, resnet18_lstm a memory behind them.
MODELS = ["fibro2d", "fibro2d_lstm", "fibro3d", "fibro3d_stem", "fibro3d_few"]
MODELS += ["resnet18", "resnet18_lstm", "r3d_18_deep"]
STEPS = 6
RATES = {"sgd": 0.05, "adam": 0.005}
DECAY = 0.01


def trained(folder: Path, spec: dict, rule: str, labels, weights):
    """Losses before each step, and the parameters after the last."""
    lstm = spec.get("lstm")
    lstm = (lstm["hidden"], lstm["layers"]) if lstm else None
    network = build(
        spec["architecture"], spec["input"]["channels"], spec["widths"], len(spec["classes"]),
        depths=spec.get("depths"), lstm=lstm, stem_frames=spec.get("stem_frames", 1),
        frames=spec["input"]["frames"],
    )
    network.load_state_dict(load_file(folder / "weights.safetensors"), strict=False)
    network.double().train()
    clips = load_file(folder / "clips.safetensors")["clips"].double()
    if rule == "sgd":
        optimiser = torch.optim.SGD(
            network.parameters(), RATES[rule], momentum=0.9, weight_decay=DECAY
        )
    else:
        optimiser = torch.optim.AdamW(network.parameters(), RATES[rule], weight_decay=DECAY)
    losses = []
    for _ in range(STEPS):
        loss = functional.cross_entropy(network(clips), labels, weights.double())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses, weights_of(network)


def main() -> None:
    for name in MODELS:
        folder = GOLDENS / name
        spec = tomllib.loads((folder / "model.toml").read_text())
        count = len(load_file(folder / "clips.safetensors")["clips"])
        classes = len(spec["classes"])
        labels = torch.arange(count) % classes
        weights = torch.linspace(0.5, 1.5, classes)
        golden = {"labels": labels.float(), "weights": weights}
        for rule in RATES:
            losses, after = trained(folder, spec, rule, labels, weights)
            golden[f"{rule}.losses"] = torch.tensor(losses)
            if rule == "sgd":
                golden |= {f"sgd.after.{key}": value for key, value in after.items()}
        save_file(golden, folder / "training.safetensors")
        print(name, golden["sgd.losses"].tolist(), golden["adam.losses"].tolist())


if __name__ == "__main__":
    main()
