#!/usr/bin/env python3
"""What a window of a stream costs: hepaflow, which pays for what is new in it,
beside the fastest other runtimes, which score each window from scratch. The same
weights, the same machine, taking turns. `make bench-stream` sets up the
environment and runs this; it prints the table of benches/README.md, and writes
benches/results/stream.json and two pictures beside it.

Every figure is CPU milliseconds a window on one thread: the median of a round,
and of those the smallest. hepaflow is timed with one stream, and with several whose
windows are due together. hepaflow's windows are compared with whole clips in the
same run, bit by bit, and the peers' logits with PyTorch's in f32.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peers import ROOT, Own, Peer, difference, machine, prepare

MODELS = ["resnet18_lstm", "fibro2d_lstm", "fibro3d"]
# Frames that a network valid in time needs.
LEAST = {"fibro3d": 13}
PEERS = ["PyTorch compile", "OpenVINO"]
PLOTTED = {"hepaflow": "#0b6e4f", "hepaflow, whole clips": "#7fb69e",
           "PyTorch compile": "#c8553d", "OpenVINO": "#4062bb"}


class Streams(Own):
    """hepaflow with sessions: a report for each stride."""

    def __init__(self, binary, model, strides, streams):
        self.command = [binary, "stream-bench", "--json", "--model", model]
        self.command += ["--stride", ",".join(map(str, strides)), "--streams", str(streams)]

    def measure(self, seconds):
        command = [*self.command, "--duration", f"{int(seconds * 1000)}ms"]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(result.stdout)


def measure(kind, frames, strides, options):
    """A row for each stride."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        shape = (frames, options.size, options.size)
        model, expected, _ = prepare(kind, folder, options.hepaflow, shape)
        streams = Streams(options.hepaflow, model, strides, 1)
        many = Streams(options.hepaflow, model, strides, options.streams)
        peers, errors = {}, {}
        for runtime in options.peers:
            peers[runtime] = Peer(runtime, kind, "f32", 1, folder)
            errors[runtime] = difference(np.load(folder / "logits.npy"), expected[:1])
        own, together, others = [], [], {runtime: [] for runtime in peers}
        for _ in range(options.rounds):
            own.append(streams.measure(options.seconds))
            together.append(many.measure(options.seconds))
            for runtime, peer in peers.items():
                others[runtime].append(statistics.median(peer.measure(options.seconds)["cpu"]))
        for peer in peers.values():
            peer.close()
    rows = []
    for number, stride in enumerate(strides):
        reports = [reports[number] for reports in own]
        best = lambda key: min(report[key] for report in reports)
        row = {
            "model": kind, "frames": frames, "stride": stride,
            "shared_ms": best("shared_ms"), "whole_ms": best("whole_ms"),
            "early_ms": best("early_ms"), "streams": options.streams,
            "together_ms": min(reports[number]["shared_ms"] for reports in together),
            "mac_ratio": reports[0]["mac_ratio"],
            "session_bytes": reports[0]["session_bytes"],
            "clip_by_clip": reports[0]["clip_by_clip"],
            "largest_difference": max(reports[number]["largest_difference"]
                                      for reports in own + together),
            "peers_ms": {runtime: min(times) for runtime, times in others.items()},
            "peers_logit_difference": errors,
        }
        rows.append(row)
        print(f"{kind:14} W {frames:2} S {stride:2} {row['shared_ms']:8.2f} ms, whole "
              f"{row['whole_ms']:8.2f} ms, {options.streams} streams "
              f"{row['together_ms']:8.2f} ms, " + ", ".join(f"{runtime} {ms:.2f} ms"
              for runtime, ms in row["peers_ms"].items()), file=sys.stderr, flush=True)
    return rows


def table(report, options):
    lines = [f"| model | W | S | hepaflow | early | {options.streams} streams | whole clip | "
             + " | ".join(options.peers) + " | of the fastest peer | kB a session |",
             "|---|---:|---:|" + "---:|" * (len(options.peers) + 6)]
    for row in report["rows"]:
        peers = row["peers_ms"]
        share = row["shared_ms"] / min(peers.values())
        early = row["shared_ms"] - row["early_ms"]
        cells = [row["model"], row["frames"], row["stride"], f"{row['shared_ms']:.2f}",
                 f"{max(0, early) / row['shared_ms']:.0%}", f"{row['together_ms']:.2f}",
                 f"{row['whole_ms']:.2f}",
                 *(f"{peers[name]:.2f}" for name in options.peers), f"**{share:.2f}**",
                 f"{row['session_bytes'] / 1e3:.0f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def plot(report, axis, fixed, label, file):
    """A panel for each model: cost against the stride, or the window's length."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "hepaflow",
                                "font.family": "sans-serif", "font.size": 9})
    import matplotlib.pyplot as plt

    rows = [row for row in report["rows"] if all(row[key] == value for key, value in fixed.items())]
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure, panels = plt.subplots(1, len(models), figsize=(3.2 * len(models), 2.9), squeeze=False)
    for panel, kind in zip(panels[0], models):
        own = sorted((row for row in rows if row["model"] == kind), key=lambda row: row[axis])
        series = {"hepaflow": [row["shared_ms"] for row in own],
                  "hepaflow, whole clips": [row["whole_ms"] for row in own]}
        for runtime in own[0]["peers_ms"]:
            series[runtime] = [row["peers_ms"][runtime] for row in own]
        places = [row[axis] for row in own]
        for name, values in series.items():
            panel.plot(places, values, marker="o", markersize=3, label=name, color=PLOTTED.get(name))
        panel.set_xscale("log", base=2)
        panel.set_xticks(places, map(str, places))
        panel.set_ylim(bottom=0)
        panel.set_title(kind)
        panel.set_xlabel(label)
        panel.grid(alpha=0.25)
    panels[0][0].set_ylabel("CPU ms a window")
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=len(names), frameon=False)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    figure.savefig(file, metadata={"Date": None, "Creator": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--peers", nargs="+", default=PEERS)
    parser.add_argument("--strides", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--windows", nargs="+", type=int, default=[8, 16, 32],
                        help="lengths that are measured at S = 4")
    parser.add_argument("--streams", type=int, default=8,
                        help="how many are due together, beside one alone")
    parser.add_argument("--size", type=int, default=112, help="rows and columns of a frame")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--hepaflow", default=str(ROOT / "target/release/hepaflow"))
    parser.add_argument("--output", type=Path, default=ROOT / "benches/results/stream.json")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "scripts"))

    import openvino
    import torch

    rows = []
    for kind in options.models:
        for frames in options.windows:
            if frames < LEAST.get(kind, 1):
                continue
            strides = options.strides if frames == 16 else [4]
            rows += measure(kind, frames, [s for s in strides if s <= frames], options)
    chip, vectors = machine()
    report = {"date": time.strftime("%Y-%m-%d"), "chip": chip, "vectors": vectors,
              "versions": {"PyTorch": torch.__version__,
                           "OpenVINO": openvino.__version__.split("-")[0]},
              "frame": [options.size, options.size], "threads": 1, "rows": rows}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    folder = options.output.parent
    plot(report, "stride", {"frames": 16}, "stride S, frames (W = 16)", folder / "stream_stride.svg")
    plot(report, "frames", {"stride": 4}, "window W, frames (S = 4)", folder / "stream_window.svg")
    print(table(report, options))


if __name__ == "__main__":
    main()
