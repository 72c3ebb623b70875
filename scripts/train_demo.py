#!/usr/bin/env python3
"""Trains the demonstration model, models/demo, on two SYNTHETIC cohorts: one to
learn from, one of other patients to judge it by. For showing the pipeline at
work, not for judging anybody's liver.

    cargo build --release
    python3 -m venv /tmp/torch
    /tmp/torch/bin/pip install torch torchvision safetensors numpy av pillow
    /tmp/torch/bin/python scripts/train_demo.py --work /tmp/demo-model

About a quarter of an hour on two cores. Made with torch 2.15.0.
"""

import argparse
import csv
import subprocess
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from zoo import Fibro3d, spec_toml, weights_of

ROOT = Path(__file__).parent.parent
WIDTHS = [8, 16, 32]
SHAPE = (1, 16, 112, 112)
CLASSES = ["F0-F1", "F2-F4"]
# Left, top, right, bottom of 640x480: the liver's capsule and what lies below
# it, half a millimetre a pixel; the same as `crop` in pipelines/demo.toml.
CROP = (208, 60, 432, 284)


def cohort(folder: Path, patients: int, seed: int) -> None:
    if not folder.exists():
        options = f"--patients {patients} --seed {seed} --seconds 2.6 --frames-per-second 25"
        options += " --frame-size 640x480 --format mp4 --episodes 0"
        program = ROOT / "target" / "release" / "hepaflow"
        subprocess.run([program, "phantom", *options.split(), "--out", folder], check=True)


def frames(path: Path) -> np.ndarray:
    """[T, H, W] grey levels, as the pipeline makes them: luma at full range,
    reduced with Pillow's antialiased bilinear filter."""
    pictures = []
    with av.open(path) as video:
        for frame in video.decode(video=0):
            grey = Image.fromarray(frame.to_ndarray(format="gray"))
            small = grey.crop(CROP).resize(SHAPE[:1:-1], Image.Resampling.BILINEAR)
            pictures.append(np.asarray(small))
    return np.stack(pictures)


def load(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Films [N, T, H, W] and whether each is at least F2."""
    stage = {row["patient_id"]: row["stage"] for row in csv.DictReader(open(folder / "cohort.csv"))}
    rows = list(csv.DictReader(open(folder / "videos.csv")))
    with ProcessPoolExecutor() as pool:
        films = list(pool.map(frames, [folder / row["path"] for row in rows]))
    length = min(len(film) for film in films)
    labels = [int(stage[row["patient_id"]] >= "F2") for row in rows]
    return torch.from_numpy(np.stack([film[:length] for film in films])), torch.tensor(labels)


def auc(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """By definition: the share of pairs in the right order."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    difference = positive[:, None] - negative[None, :]
    return ((difference > 0).float() + 0.5 * (difference == 0).float()).mean().item()


def clips_of(films: torch.Tensor, starts: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    clips = torch.stack([film[s : s + SHAPE[1]] for film, s in zip(films, starts.tolist())])
    return ((clips.float() / 255 - mean) / std)[:, None]


@torch.no_grad()
def judge(network, films, labels, mean, std) -> float:
    network.eval()
    scores = 0
    starts = range(0, films.shape[1] - SHAPE[1] + 1, 8)
    for start in starts:
        for part in torch.arange(len(films)).split(32):
            clips = clips_of(films[part], torch.full((len(part),), start), mean, std)
            p = network(clips).softmax(1)[:, 1] / len(starts)
            scores = scores + torch.zeros(len(films)).index_add(0, part, p)
    return auc(scores, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the cohorts")
    parser.add_argument("--epochs", type=int, default=24)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    cohort(options.work / "train", 400, 101)
    cohort(options.work / "test", 200, 202)
    films, labels = load(options.work / "train")
    test_films, test_labels = load(options.work / "test")
    mean = round(films.float().mean().item() / 255, 4)
    std = round(films.float().std().item() / 255, 4)

    torch.manual_seed(7)
    network = Fibro3d(SHAPE[0], WIDTHS, len(CLASSES))
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    batch = 16
    steps = options.epochs * (len(films) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, steps)
    for epoch in range(options.epochs):
        network.train()
        total = 0.0
        for part in torch.randperm(len(films)).split(batch)[: len(films) // batch]:
            starts = torch.randint(films.shape[1] - SHAPE[1] + 1, (len(part),))
            clips = clips_of(films[part], starts, mean, std)
            flip = torch.rand(len(part)) < 0.5
            clips[flip] = clips[flip].flip(-1)
            clips = clips * torch.empty(len(part), 1, 1, 1, 1).uniform_(0.85, 1.15)
            loss = functional.cross_entropy(network(clips), labels[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() / (len(films) // batch)
        found = judge(network, test_films, test_labels, mean, std)
        print(f"epoch {epoch + 1}: loss {total:.3f}, AUC on other patients {found:.3f}", flush=True)

    # The last epoch, not the best: choosing by the test cohort would flatter.
    note = (
        f"Demonstration only: trained by scripts/train_demo.py on {len(films)} synthetic patients; "
        f"AUC {found:.2f} on {len(test_films)} other synthetic patients. Not for clinical use."
    )
    target = ROOT / "models" / "demo"
    target.mkdir(parents=True, exist_ok=True)
    save_file(weights_of(network), target / "weights.safetensors")
    toml = spec_toml("fibro3d", WIDTHS, CLASSES, SHAPE, [mean], [std], note)
    (target / "model.toml").write_text(toml)
    sums = ""
    for name in ["model.toml", "weights.safetensors"]:
        sums += f"{sha256((target / name).read_bytes()).hexdigest()}  {name}\n"
    (target / "SHA256SUMS").write_text(sums)


if __name__ == "__main__":
    main()
