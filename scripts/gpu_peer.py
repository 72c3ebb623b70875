#!/usr/bin/env python3
"""Times PyTorch on the networks that `hepaflow gpu-suite` left in a folder, adds
what it found to results.json, and both side by side to table.md. Needs PyTorch
with CUDA, and nothing else.

    scripts/gpu_peer.py FOLDER
    scripts/gpu_peer.py FOLDER --check    # no timings, and no card needed

Modes: eager, eager with channels last, torch.compile (max-autotune), and eager
inside a CUDA graph. Inputs are normalised values on the card already. First every
network is held to the logits that hepaflow has of the same weights and clips, in
f32: what computes something else is not timed. torch.compile takes up to a minute
for each network, precision and batch, and comes last: `--seconds` ends it where a
card is lent by the minute, and the table has a dash for what was not reached.
Where a network has an LSTM, cuDNN's is timed alone, too."""

import argparse
import json
import struct
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

BATCHES = (1, 8, 32)
PRECISIONS = {"f16": torch.float16, "bf16": torch.bfloat16}


def read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        values = torch.frombuffer(bytearray(data[begin:end]), dtype=torch.float32)
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def difference(network: "Network", folder: Path, device: str, dtype=torch.float32) -> float:
    """From hepaflow's logits on the CPU, as a part of the largest one."""
    answers = read_safetensors(folder / "answers.safetensors")
    found = network.to(dtype)(answers["clips"].to(device, dtype)).float().cpu()
    expected = answers["logits"]
    return float((found - expected).abs().max() / expected.abs().max())


class Network(nn.Module):
    """The graph, node by node, in PyTorch's own modules."""

    def __init__(self, folder: Path):
        super().__init__()
        graph = json.loads((folder / "graph.json").read_text())
        self.nodes = graph["nodes"]
        self.shape = [graph["input"][key] for key in ("channels", "frames", "height", "width")]
        weights = read_safetensors(folder / "weights.safetensors")
        self.modules_by_node = nn.ModuleDict()
        for number, node in enumerate(self.nodes):
            prefix = node["name"] + "."
            own = {k[len(prefix):]: v for k, v in weights.items() if k.startswith(prefix)}
            module = self.module(node, own)
            if module is not None:
                module.load_state_dict(
                    {k: v.reshape(dict(module.state_dict())[k].shape) for k, v in own.items()},
                    strict=False,
                )
                self.modules_by_node[str(number)] = module

    @staticmethod
    def module(node: dict, own: dict) -> nn.Module | None:
        if node["op"] == "conv":
            weight = own["weight"]
            kernel = tuple(weight.shape[2:])
            if node["planar"]:
                kernel = (1, *kernel)
            return nn.Conv3d(
                weight.shape[1], weight.shape[0], kernel,
                tuple(node["stride"]), tuple(node["padding"]), bias=False,
            )
        if node["op"] == "batch_norm":
            return nn.BatchNorm3d(own["weight"].shape[0], eps=node["epsilon"])
        if node["op"] == "linear":
            return nn.Linear(own["weight"].shape[1], own["weight"].shape[0])
        if node["op"] == "lstm":
            features = own["weight_ih_l0"].shape[1]
            return nn.LSTM(features, node["hidden"], node["layers"], batch_first=True)
        return None

    def lstm(self) -> nn.LSTM | None:
        return next((m for m in self.modules() if isinstance(m, nn.LSTM)), None)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        values = []
        for number, node in enumerate(self.nodes):
            x = values[node["inputs"][0]] if node["inputs"] else clips
            op = node["op"]
            if op == "input":
                y = clips
            elif op in ("conv", "batch_norm"):
                y = self.modules_by_node[str(number)](x)
            elif op == "relu":
                y = torch.relu(x)
            elif op == "add":
                y = x + values[node["inputs"][1]]
            elif op == "crop_time":
                y = x[:, :, node["frames"] : x.shape[2] - node["frames"]]
            elif op == "global_average_pool":
                y = x.mean((2, 3, 4), keepdim=True)
            elif op == "frame_average_pool":
                y = x.mean((3, 4), keepdim=True)
            elif op == "max_pool":
                y = F.max_pool3d(x, node["kernel"], node["stride"], node["padding"])
            elif op == "average_pool":
                y = F.avg_pool3d(x, node["kernel"], node["stride"], node["padding"])
            elif op == "lstm":
                rows = x.flatten(2).transpose(1, 2)
                y = self.modules_by_node[str(number)](rows)[0][:, -1, :, None, None, None]
            elif op == "linear":
                rows = x.flatten(2).transpose(1, 2)
                y = self.modules_by_node[str(number)](rows).transpose(1, 2)[..., None, None]
            elif op == "log_mean_softmax":
                y = x.float().softmax(1).mean(2, keepdim=True).log()
            else:
                raise ValueError(f"unknown operation {op}")
            values.append(y)
        return values[-1].flatten(1)


def milliseconds(call) -> float:
    """Median of five, each many calls in a row."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    call()
    torch.cuda.synchronize()
    repeats = int(min(max(0.03 / (time.perf_counter() - begin), 3), 2000))
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - begin) / repeats * 1e3)
    return sorted(times)[2]


def graphed(network: nn.Module, clips: torch.Tensor):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            network(clips)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        network(clips)
    return graph.replay


MODES = ("eager", "channels_last", "cuda_graph", "compile")


def way(mode: str, network: Network, dtype: torch.dtype, batch: int):
    """The call that runs the network in a mode."""
    clips = torch.randn(batch, *network.shape, device="cuda", dtype=dtype)
    if mode == "eager":
        network.to(memory_format=torch.contiguous_format)
        return lambda: network(clips)
    last = clips.to(memory_format=torch.channels_last_3d)
    wide = network.to(memory_format=torch.channels_last_3d)
    if mode == "channels_last":
        return lambda: wide(last)
    if mode == "cuda_graph":
        return graphed(wide, last)
    torch._dynamo.reset()
    fast = torch.compile(wide, mode="max-autotune")
    return lambda: fast(last)


def recurrence(network: Network, dtype: torch.dtype, batch: int):
    """The call that runs a network's LSTM alone."""
    lstm = network.lstm()
    rows = torch.randn(batch, network.shape[1], lstm.input_size, device="cuda", dtype=dtype)
    return graphed(lstm, rows)


def checked(folder: Path, device: str) -> dict[str, float]:
    """Every network's difference; tells of it, and ends where one is too large."""
    # In f32 as written, not in TF32.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    found = {}
    for graph in sorted(folder.glob("*/graph.json")):
        name = graph.parent.name
        found[name] = difference(Network(graph.parent).eval().to(device), graph.parent, device)
        print(f"{name}: {found[name]:.1e} from hepaflow's logits", flush=True)
    # NaN is not small either.
    wrong = [name for name, far in found.items() if not far < 1e-4]
    if wrong or not found:
        sys.exit(f"gpu_peer: not the networks that hepaflow has: {', '.join(wrong) or folder}")
    return found


def in_16_bits(folder: Path) -> dict[str, dict[str, float]]:
    """The same for types that round: what PyTorch makes of these weights in them."""
    return {
        graph.parent.name: {
            precision: difference(Network(graph.parent).eval().cuda(), graph.parent, "cuda", dtype)
            for precision, dtype in PRECISIONS.items()
        }
        for graph in sorted(folder.glob("*/graph.json"))
    }


def table(ours: list[dict], theirs: list[dict]) -> str:
    titles = [f"PyTorch {mode}" for mode in MODES]
    lines = [f"| network | precision | batch | by | hepaflow ms | clips/s | {' | '.join(titles)} |",
             "|" + "---|" * (6 + len(MODES))]
    for row in ours:
        key = {k: row[k] for k in ("network", "precision", "batch")}
        peers = []
        for mode in MODES:
            found = [r for r in theirs if r["mode"] == mode and all(r[k] == v for k, v in key.items())]
            peers.append(f"{found[0]['milliseconds']:.3f}" if found and "milliseconds" in found[0] else "-")
        cells = [row["network"], row["precision"], str(row["batch"]), row["by"],
                 f"{row['milliseconds']:.3f}", f"{row['clips_per_second']:.0f}"]
        lines.append("| " + " | ".join(cells + peers) + " |")
    return "\n".join(lines) + "\n"


def timings(folder: Path, until: float):
    """Rows of results, those that take long to prepare last."""
    graphs = sorted(folder.glob("*/graph.json"))
    for late in (False, True):
        for graph in graphs:
            for precision, dtype in PRECISIONS.items():
                network = Network(graph.parent).eval().cuda().to(dtype)
                for batch in BATCHES:
                    calls = {mode: (lambda mode=mode: way(mode, network, dtype, batch))
                             for mode in MODES if (mode == "compile") == late}
                    if not late and network.lstm():
                        calls["lstm"] = lambda: recurrence(network, dtype, batch)
                    for mode, make in calls.items():
                        if time.monotonic() > until:
                            return
                        row = {"network": graph.parent.name, "precision": precision,
                               "batch": batch, "mode": mode}
                        try:
                            row["milliseconds"] = milliseconds(make())
                        except Exception as error:  # one mode's failure is a result, too
                            row["error"] = f"{type(error).__name__}: {error}"[:300]
                        yield row


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="what hepaflow gpu-suite wrote")
    parser.add_argument("--check", action="store_true", help="compare logits, and time nothing")
    parser.add_argument("--seconds", type=float, default=float("inf"),
                        help="begin no timing after this many seconds")
    arguments = parser.parse_args()
    folder, until = arguments.folder, time.monotonic() + arguments.seconds
    with torch.inference_mode():
        if arguments.check:
            checked(folder, "cuda" if torch.cuda.is_available() else "cpu")
            return 0
        results = {
            "torch": torch.__version__,
            "cudnn": torch.backends.cudnn.version(),
            "card": torch.cuda.get_device_name(),
            "differences": checked(folder, "cuda"),
            "differences_in_16_bits": in_16_bits(folder),
            "timings": [],
        }
        print(f"PyTorch {results['torch']}, cuDNN {results['cudnn']}, {results['card']}")
        torch.backends.cudnn.benchmark = True
        file = folder / "results.json"
        report = json.loads(file.read_text())
        report["pytorch"] = results
        for row in timings(folder, until):
            print(row, flush=True)
            results["timings"].append(row)
            # Each time: what was measured stays, whatever ends this.
            file.write_text(json.dumps(report, indent=2) + "\n")
            (folder / "table.md").write_text(table(report["timings"], results["timings"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
