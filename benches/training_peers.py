#!/usr/bin/env python3
"""What a step of training costs here and in PyTorch on the CPU: the same networks,
loss, gradients and Adam, a batch of 8 clips of 16 x 64 x 64, taking turns.
`make bench-training` sets up the environment and runs this; it prints the table
that benches/README.md shows and writes benches/results/training.json.

The figure is the median of the steps' wall times, in seconds, over all rounds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from zoo import build, weights_of  # noqa: E402

KINDS = ["fibro2d", "fibro2d_lstm", "fibro3d"]
WIDTHS = [8, 16, 32]
SHAPE = (1, 16, 64, 64)
BATCH = 8


def network_of(kind):
    torch.manual_seed(1)
    lstm = (32, 1) if kind.endswith("_lstm") else None
    return build(kind, SHAPE[0], WIDTHS, 2, lstm=lstm)


def pytorch(kind, seconds, threads):
    torch.set_num_threads(threads)
    network = network_of(kind).train()
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.01)
    clips, labels = torch.randn(BATCH, *SHAPE), torch.arange(BATCH) % 2
    steps = []
    begin = time.monotonic()
    while time.monotonic() - begin < seconds or len(steps) < 4:
        clock = time.monotonic()
        loss = functional.cross_entropy(network(clips), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        steps.append(time.monotonic() - clock)
    return sorted(steps[1:])


def own(binary, model, seconds, threads):
    command = [binary, "bench", "--training", "--json", "--model", model, "--batch", str(BATCH)]
    command += ["--threads", str(threads), "--duration", f"{int(seconds * 1000)}ms"]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(result.stdout)["step_s"]["median"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/hepaflow")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            weights, model = Path(folder) / f"{kind}.safetensors", Path(folder) / kind
            save_file(weights_of(network_of(kind)), weights)
            command = [options.binary, "model", "import", "--architecture", kind]
            command += ["--classes", "2", "--weights", weights, "--output", model, "--synthetic"]
            command += ["--frames", "16", "--height", "64", "--width", "64"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            for threads in (1, 2):
                ours, theirs = [], []
                for _ in range(options.rounds):
                    ours.append(own(options.binary, model, options.seconds, threads))
                    steps = pytorch(kind, options.seconds, threads)
                    theirs.append(steps[len(steps) // 2])
                row = {"network": kind, "threads": threads}
                row["hepaflow_s"] = sorted(ours)[len(ours) // 2]
                row["pytorch_s"] = sorted(theirs)[len(theirs) // 2]
                rows.append(row)
                print(
                    f"{kind:14} {threads} threads: hepaflow {row['hepaflow_s']:.3f} s, "
                    f"PyTorch {row['pytorch_s']:.3f} s a step",
                    flush=True,
                )
    report = {"torch": torch.__version__, "batch": BATCH, "shape": SHAPE, "rows": rows}
    target = ROOT / "benches" / "results" / "training.json"
    target.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
