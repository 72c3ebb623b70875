#!/usr/bin/env python3
"""Turns a torchvision model into a model directory, by way of
`hepaflow model import`.

    import_torchvision.py r3d_18 models/r3d --classes 2                # random weights
    import_torchvision.py r3d_18 models/r3d --classes 2 --state my.pt  # your own

`--check` also scores random clips in PyTorch and in hepaflow and prints the
largest difference, relative to the largest logit.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import torch
import torchvision
from safetensors.torch import load_file, save_file

from zoo import mean_over_frames, each_frame, randomise, weights_of

KINDS = {
    "resnet18": torchvision.models.resnet18,
    "r3d_18": torchvision.models.video.r3d_18,
    "mc3_18": torchvision.models.video.mc3_18,
    "r2plus1d_18": torchvision.models.video.r2plus1d_18,
}


def answer(kind: str, network: torch.nn.Module, clips: torch.Tensor) -> torch.Tensor:
    if kind == "resnet18":
        return mean_over_frames(network(each_frame(clips)), clips)
    return network(clips)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("output", type=Path)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--state", type=Path, help="a state dict saved by torch.save")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--hepaflow", default="target/release/hepaflow")
    options = parser.parse_args()

    torch.manual_seed(1)
    network = KINDS[options.kind](weights=None, num_classes=options.classes).eval()
    if options.state:
        network.load_state_dict(torch.load(options.state, weights_only=True))
    else:
        randomise(network)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        save_file(weights_of(network), weights)
        command = [options.hepaflow, "model", "import", "--architecture", options.kind]
        command += ["--classes", str(options.classes), "--weights", weights]
        command += ["--frames", str(options.frames), "--height", str(options.size)]
        command += ["--width", str(options.size), "--output", options.output]
        subprocess.run(command, check=True)
        if not options.check:
            return
        clips = torch.randn(2, 3, options.frames, options.size, options.size)
        files = [Path(folder) / name for name in ("clips.safetensors", "logits.safetensors")]
        save_file({"clips": clips}, files[0])
        command = [options.hepaflow, "infer", "--model", options.output]
        subprocess.run([*command, "--input", files[0], "--output", files[1]], check=True)
        found = load_file(files[1])["logits"]
    with torch.no_grad():
        expected = answer(options.kind, network, clips)
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    print(f"{options.kind}: largest difference {difference:.2e} of the largest logit")


if __name__ == "__main__":
    main()
