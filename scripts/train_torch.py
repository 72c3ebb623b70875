#!/usr/bin/env python3
"""Trains a full-size network (r3d_18, mc3_18, r2plus1d_18, resnet18, resnet18_lstm,
or one of the project's own) in PyTorch, on a GPU if there is one, on a cohort
directory, with the patients of a study's split.json; writes weights that
`hepaflow model import` takes in, and prints that command.

    python3 -m venv /tmp/torch
    /tmp/torch/bin/pip install torch torchvision safetensors numpy av pillow
    /tmp/torch/bin/python scripts/train_torch.py --cohort cohort --split study/split.json \\
        --architecture r3d_18 --crop 208,60,224,224 --out r3d.safetensors

Videos only: DICOM is read by hepaflow, not by this script. The validation patients
choose the epoch; the test patients are not looked at.
"""

import argparse
import csv
import json
import random
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional

from zoo import build, weights_of


def frames(path: Path, crop, size) -> torch.Tensor:
    """[T, H, W] grey levels, as the pipeline makes them: luma at full range,
    reduced with Pillow's antialiased bilinear filter."""
    pictures = []
    with av.open(path) as video:
        for frame in video.decode(video=0):
            grey = Image.fromarray(frame.to_ndarray(format="gray"))
            grey = grey.crop(crop) if crop else grey
            pictures.append(np.asarray(grey.resize(size[::-1], Image.Resampling.BILINEAR)))
    return torch.from_numpy(np.stack(pictures))


def load(cohort: Path, patients: set, crop, size) -> list[tuple[torch.Tensor, int]]:
    """Films with whether each is at least F2."""
    stage = {row["patient_id"]: row["stage"] for row in csv.DictReader(open(cohort / "cohort.csv"))}
    rows = csv.DictReader(open(cohort / "videos.csv"))
    rows = [row for row in rows if row["patient_id"] in patients]
    return [
        (frames(cohort / row["path"], crop, size), int(stage[row["patient_id"]] >= "F2"))
        for row in rows
    ]


def clip(film: torch.Tensor, length: int, start: int, channels: int, mean, std) -> torch.Tensor:
    grey = (film[start : start + length].float() / 255 - mean) / std
    return grey[None].expand(channels, -1, -1, -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--split", type=Path, required=True, help="a study's split.json")
    parser.add_argument("--architecture", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--crop", help="left,top,width,height")
    parser.add_argument("--size", type=int, default=112, help="rows and columns")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--widths", default="64,128,256,512")
    parser.add_argument("--hidden", type=int, default=128, help="of an LSTM")
    parser.add_argument("--start", type=Path, help="weights to begin with; what fits is taken")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    random.seed(options.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    crop = None
    if options.crop:
        left, top, width, height = map(int, options.crop.split(","))
        crop = (left, top, left + width, top + height)
    split = json.loads(options.split.read_text())
    size = (options.size, options.size)
    training = load(options.cohort, set(split["train"]), crop, size)
    validation = load(options.cohort, set(split["validation"]), crop, size)
    grey = torch.cat([film.flatten() for film, _ in training]).float() / 255
    mean, std = round(grey.mean().item(), 4), round(grey.std().item(), 4)
    counts = np.bincount([label for _, label in training], minlength=2)
    weights = torch.tensor(len(training) / (2 * counts), dtype=torch.float32, device=device)

    channels = 1 if options.architecture.startswith("fibro") else 3
    widths = [int(width) for width in options.widths.split(",")]
    lstm = (options.hidden, 1) if options.architecture.endswith("_lstm") else None
    network = build(options.architecture, channels, widths, 2, lstm=lstm, frames=options.frames)
    if options.start:
        own = network.state_dict()
        given = load_file(options.start)
        fits = {name: value for name, value in given.items()
                if name in own and own[name].shape == value.shape}
        network.load_state_dict(fits, strict=False)
        print(f"{len(fits)} of {len(own)} tensors taken from {options.start}")
    network.to(device)
    optimiser = torch.optim.AdamW(network.parameters(), options.rate, weight_decay=0.05)
    steps = options.epochs * max(len(training) // options.batch, 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.rate, steps)

    def batch(films, starts):
        clips = [clip(film, options.frames, start, channels, mean, std)
                 for (film, _), start in zip(films, starts)]
        labels = torch.tensor([label for _, label in films], device=device)
        return torch.stack(clips).to(device), labels

    best = float("inf")
    for epoch in range(1, options.epochs + 1):
        network.train()
        random.shuffle(training)
        total = 0.0
        count = max(len(training) // options.batch, 1)
        for number in range(count):
            films = training[number * options.batch : (number + 1) * options.batch]
            starts = [random.randint(0, len(film) - options.frames) for film, _ in films]
            clips, labels = batch(films, starts)
            flip = torch.rand(len(films), device=device) < 0.5
            clips[flip] = clips[flip].flip(-1)
            loss = functional.cross_entropy(network(clips), labels, weights)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() / count
        network.eval()
        with torch.no_grad():
            losses = []
            for film in validation:
                clips, labels = batch([film], [(len(film[0]) - options.frames) // 2])
                losses.append(functional.cross_entropy(network(clips), labels).item())
        found = sum(losses) / len(losses)
        print(f"epoch {epoch}: loss {total:.3f}, validation {found:.3f}", flush=True)
        if found < best:
            best = found
            save_file({k: v.cpu() for k, v in weights_of(network).items()}, options.out)
    print(
        f"hepaflow model import --architecture {options.architecture} --classes 2 "
        f"--weights {options.out} --frames {options.frames} --height {options.size} "
        f"--width {options.size} --mean {mean} --std {std} --output DIR"
    )


if __name__ == "__main__":
    main()
