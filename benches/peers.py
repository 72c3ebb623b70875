#!/usr/bin/env python3
"""What a clip costs here and in other runtimes: the same weights, the same clips,
the same machine, taking turns. `make bench-peers` sets up the environment and
runs this; it prints the table that README.md shows and writes
benches/results/cpu.json.

Each runtime lives in a process of its own with one thread, warmed up once. Then,
for some rounds, each in turn scores clips for a few seconds. The figure is the
smallest CPU time of a round, in milliseconds a clip, which other work on the
machine disturbs least; medians are in the JSON. Before anything is timed, every
runtime's logits are compared with PyTorch's in f32.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODELS = ["r3d_18", "mc3_18", "r2plus1d_18", "resnet18", "resnet18_lstm", "fibro3d"]
SHAPE = (16, 112, 112)
RUNTIMES = ["hepaflow", "PyTorch eager", "PyTorch compile", "ONNX Runtime", "OpenVINO"]
WIDTHS = dict.fromkeys(["fibro2d", "fibro2d_lstm", "fibro3d"], [16, 32, 64])


def network_of(kind):
    sys.path.insert(0, str(ROOT / "scripts"))
    import torch
    from zoo import build, randomise

    torch.manual_seed(1)
    hidden = 64 if kind.startswith("fibro") else 256
    extra = {"lstm": (hidden, 1)} if kind.endswith("_lstm") else {}
    channels = 1 if kind.startswith("fibro") else 3
    net = build(kind, channels, WIDTHS.get(kind, [64, 128, 256, 512]), 2, **extra)
    randomise(net)
    return net.eval(), channels


# One runtime, in a process of its own: commands come in a line each.
def worker(runtime, kind, precision, batch, folder):
    import numpy as np

    if runtime.startswith("PyTorch"):
        import torch

        torch.set_num_threads(1)
        net, _ = network_of(kind)
        clips = torch.from_numpy(np.load(folder / "clips.npy"))[:batch]
        if precision == "bf16":
            net, clips = net.bfloat16(), clips.bfloat16()
        if "2d" not in kind and not kind.startswith("resnet18"):
            net = net.to(memory_format=torch.channels_last_3d)
            clips = clips.to(memory_format=torch.channels_last_3d)
        if runtime == "PyTorch compile":
            net = torch.compile(net)

        def score():
            with torch.inference_mode():
                return net(clips).float().numpy()

    elif runtime == "ONNX Runtime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(folder / f"{kind}.onnx", options)
        clips = np.load(folder / "clips.npy")[:batch]

        def score():
            return session.run(None, {"clips": clips})[0]

    else:
        import openvino

        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
        settings["INFERENCE_PRECISION_HINT"] = precision
        network = core.read_model(folder / f"{kind}.onnx")
        clips = np.load(folder / "clips.npy")[:batch]
        network.reshape({"clips": clips.shape})
        request = core.compile_model(network, "CPU", settings).create_infer_request()

        def score():
            return next(iter(request.infer({"clips": clips}).values()))

    logits = score()
    np.save(folder / "logits.npy", logits)
    print("ready", flush=True)
    for line in sys.stdin:
        seconds = float(line)
        wall, cpu = [], []
        begin = time.monotonic()
        while time.monotonic() - begin < seconds or len(cpu) < 2:
            clock, process = time.monotonic(), time.process_time()
            score()
            cpu.append((time.process_time() - process) * 1e3 / batch)
            wall.append((time.monotonic() - clock) * 1e3 / batch)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"cpu": cpu, "wall": wall, "peak_bytes": peak}), flush=True)


class Peer:
    def __init__(self, runtime, kind, precision, batch, folder):
        command = [sys.executable, __file__, "--worker", runtime, "--folder", folder]
        command += ["--models", kind, "--precisions", precision, "--batches", str(batch)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        if self.process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"{runtime} cannot run {kind} in {precision}")

    def measure(self, seconds):
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Own:
    def __init__(self, binary, model, precision, batch):
        self.command = [binary, "bench", "--json", "--model", model]
        self.command += ["--precision", precision, "--batch", str(batch)]

    def measure(self, seconds):
        result = subprocess.run(
            [*self.command, "--duration", f"{int(seconds * 1000)}ms"],
            check=True, capture_output=True, text=True,
        )
        report = json.loads(result.stdout)
        peak = report["peak_bytes"]
        return {
            "cpu": [report["cpu_ms"]["min"], report["cpu_ms"]["median"]],
            "wall": [report["wall_ms"]["min"], report["wall_ms"]["median"]],
            "peak_bytes": peak,
        }

    def close(self):
        pass


def prepare(kind, folder, binary, shape=SHAPE):
    """A model directory, its ONNX file, and clips of a shape [T, H, W]; gives
    PyTorch's logits."""
    import numpy as np
    import torch
    from safetensors.torch import load_file, save_file
    from zoo import weights_of

    net, channels = network_of(kind)
    save_file(weights_of(net), folder / "weights.safetensors")
    model = folder / kind
    t, h, w = map(str, shape)
    command = [binary, "model", "import", "--architecture", kind, "--classes", "2"]
    command += ["--weights", folder / "weights.safetensors", "--output", model, "--synthetic"]
    command += ["--frames", t, "--height", h, "--width", w]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([binary, "model", "export", model, "--onnx", folder / f"{kind}.onnx"], check=True)
    clips = torch.randn(8, channels, *shape)
    np.save(folder / "clips.npy", clips.numpy())
    save_file({"clips": clips}, folder / "clips.safetensors")
    with torch.inference_mode():
        expected = net(clips).numpy()

    def own(precision):
        command = [binary, "infer", "--model", model, "--input", folder / "clips.safetensors"]
        command += ["--output", folder / "own.safetensors", "--precision", precision]
        subprocess.run(command, check=True)
        return load_file(folder / "own.safetensors")["logits"].numpy()

    return model, expected, own


def machine():
    """What computes, and its vector instructions that matter here."""
    lines = open("/proc/cpuinfo").read().splitlines()
    of = lambda key: next((line.split(":")[1].strip() for line in lines if line.startswith(key)), "")
    names = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    flags = of("flags").split()
    return of("model name") or platform.processor(), [name for name in names if name in flags]


def difference(found, expected):
    return float(abs(found - expected).max() / abs(expected).max())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--precisions", nargs="+", default=["f32", "bf16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--runtimes", nargs="+", default=RUNTIMES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--hepaflow", default=str(ROOT / "target/release/hepaflow"))
    parser.add_argument("--output", type=Path, default=ROOT / "benches/results/cpu.json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        kind, precision = options.models[0], options.precisions[0]
        worker(options.worker, kind, precision, options.batches[0], options.folder)
        return
    sys.path.insert(0, str(ROOT / "scripts"))

    import numpy as np
    import onnxruntime
    import openvino
    import torch

    versions = {"PyTorch": torch.__version__, "ONNX Runtime": onnxruntime.__version__,
                "OpenVINO": openvino.__version__.split("-")[0]}
    chip, vectors = machine()
    rows = []
    for kind in options.models:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            model, expected, own = prepare(kind, folder, options.hepaflow)
            for precision in options.precisions:
                for batch in options.batches:
                    running, errors, refused = {}, {}, {}
                    for runtime in options.runtimes:
                        if runtime == "ONNX Runtime" and precision != "f32":
                            continue
                        if runtime == "hepaflow":
                            running[runtime] = Own(options.hepaflow, model, precision, batch)
                            errors[runtime] = difference(own(precision), expected)
                            continue
                        try:
                            running[runtime] = Peer(runtime, kind, precision, batch, folder)
                            errors[runtime] = difference(np.load(folder / "logits.npy"), expected[:batch])
                        except RuntimeError as error:
                            refused[runtime] = str(error)
                    rounds = {runtime: [] for runtime in running}
                    for _ in range(options.rounds):
                        for runtime, peer in running.items():
                            rounds[runtime].append(peer.measure(options.seconds))
                    for runtime, peer in running.items():
                        peer.close()
                        cpu = sorted(t for r in rounds[runtime] for t in r["cpu"])
                        wall = sorted(t for r in rounds[runtime] for t in r["wall"])
                        row = {
                            "model": kind, "precision": precision, "batch": batch,
                            "runtime": runtime, "cpu_ms_min": cpu[0],
                            "cpu_ms_median": cpu[len(cpu) // 2], "wall_ms_min": wall[0],
                            "wall_ms_median": wall[len(wall) // 2],
                            "peak_bytes": max(r["peak_bytes"] for r in rounds[runtime]),
                            "logit_difference": errors[runtime],
                        }
                        rows.append(row)
                        print(f"{kind:14} {precision:5} x{batch} {runtime:16} "
                              f"{cpu[0]:9.1f} ms CPU, {wall[0]:9.1f} ms, "
                              f"{row['peak_bytes'] / 1e6:6.0f} MB, logits {errors[runtime]:.1e}",
                              file=sys.stderr, flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    report = {"date": time.strftime("%Y-%m-%d"), "chip": chip, "vectors": vectors,
              "versions": versions, "clip": [3, *SHAPE], "threads": 1, "rows": rows}
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report, options))


def table(report, options):
    """CPU milliseconds a clip, for README.md."""
    names = [name for name in options.runtimes]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [f"{report['date']}, {report['chip']} ({', '.join(report['vectors'])}), one thread; {versions}.", ""]
    lines.append("| CPU ms a clip | | " + " | ".join(names) + " |")
    lines.append("|---|---|" + "---:|" * len(names))
    for kind in options.models:
        for precision in options.precisions:
            for batch in options.batches:
                found = {row["runtime"]: row["cpu_ms_min"] for row in report["rows"]
                         if (row["model"], row["precision"], row["batch"]) == (kind, precision, batch)}
                best = min(found.values())
                cells = [("**%.1f**" if found[name] == best else "%.1f") % found[name]
                         if name in found else "" for name in names]
                lines.append(f"| {kind} | {precision}, batch {batch} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
