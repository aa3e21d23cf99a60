"""What a transfer adds to a step of its source and its target: ResNet50 to MobileNetV2, CIFAR-100's sizes.

    .venv/bin/python benchmarks/step.py [--rounds 7] [--batch 128] [--source MODEL] [--target MODEL] [--pixels 32]
                                        [--device cuda]

In each round a step of the source, a step of the target, and a transfer by each encoding are timed in turn, so
that whatever else the machine does falls on all alike. The ratio at a cycle is (source + target + transfer /
cycle) / (source + target), round by round; the goal is 1.02 at cycle 4 with svd(8). Peak memory is that of a
process of its own for each shape, over two ticks with a transfer before the second; on a GPU what torch held there.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mergenet.config import parse
from mergenet.data.images import Images, Split
from mergenet.experiment import Experiment
from mergenet.training import ranks
from mergenet.training.graph import Graph
from mergenet.training.loop import advance
from mergenet.training.plan import make_plan

ENCODINGS: dict[str, Any] = {"whole": {"whole": {}}, "svd(8)": {"svd": {"rank": 8}}}
CYCLES = (1, 4, 16)
SHAPES = ("no transfer", "whole", "svd(8)", "frozen source, svd(8)")
CLASSES = 100
WARM = 3  # rounds that are not counted: a GPU's first loads its kernels


def noise(options: argparse.Namespace) -> Images:
    """Random pixels of the right size: time and memory do not depend on what is seen."""
    torch.manual_seed(0)
    count = 4 * options.batch
    split = Split(
        torch.randint(0, 256, (count, 3, options.pixels, options.pixels), dtype=torch.uint8),
        torch.randint(0, CLASSES, (count,)),
    )
    return Images(split, split, CLASSES, (0.5,) * 3, (0.25,) * 3)


def make_graph(options: argparse.Namespace, encoding: str | None, frozen: Path | None = None) -> Graph:
    """A trio, or source and target side by side."""
    device = ranks.own_device(options.device)
    task = {"classification": {"data": "noise", "augmentation": {"crop": 4, "flip": True, "rotation": 15}}}
    source: dict[str, Any] = {"model": options.source, "task": task}
    if frozen is not None:
        source = {"model": options.source, "frozen": True, "weights": str(frozen)}
    transfer = {"from": "source.classifier", "to": "target.irb16", "encoding": ENCODINGS.get(encoding or "whole")}
    experiment = {
        "name": "benchmark",
        "learners": {"source": source, "target": {"model": options.target, "task": task}},
        "transfers": {"main": {**transfer, "cycle": 1, "enabled": encoding is not None}},
        "training": {"epochs": 100, "batch_size": options.batch},
        "evaluation": {"validation": 0.0},
    }
    data = {"noise": noise(options)}
    parsed = parse(Experiment, experiment)
    return Graph(parsed, make_plan(parsed, 0, data, 1), data, 0, device)


# --- time --------------------------------------------------------------------------------------------------------


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call, and of what it gave a GPU to do."""
    wait_for_gpu()
    begin = time.perf_counter()
    call()
    wait_for_gpu()
    return time.perf_counter() - begin


def wait_for_gpu() -> None:
    """Returns when a GPU in use has done all that it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def transfer(graph: Graph, step: int) -> None:
    """All that one transfer adds: read, generate, write, learn."""
    one = graph.edges["main"].transfer
    one.read(step)
    one.write()
    one.port.tensors[0].data.add_(1e-6)  # training moves it: from a weight that stands still nothing is learned
    one.learn()


def one_round(graphs: dict[str, Graph], step: int) -> dict[str, float]:
    """Seconds of each part."""
    steps = dict(zip(("source", "target"), next(iter(graphs.values())).steps, strict=True))
    times = {name: seconds(lambda name=name: steps[name].step(step)) for name in steps}
    return times | {name: seconds(lambda graph=graph: transfer(graph, step + 1)) for name, graph in graphs.items()}


def measure_time(options: argparse.Namespace) -> None:
    """Prints seconds of each part and the ratios."""
    graphs = {name: make_graph(options, name) for name in ENCODINGS}
    rounds = [one_round(graphs, step) for step in range(options.rounds + WARM)][WARM:]
    print("seconds, median of", len(rounds), "(from the least to the most)")
    for part in rounds[0]:
        print(f"  {part:<8}{spread([times[part] for times in rounds], '{:.4f}')}")
    print("a trio's step against its source's and its target's:")
    for name in ENCODINGS:
        for cycle in CYCLES:
            ratios = [1 + times[name] / cycle / (times["source"] + times["target"]) for times in rounds]
            print(f"  {name:<8}cycle {cycle:<4}{spread(ratios, '{:.4f}')}")


def spread(values: list[float], form: str) -> str:
    """Median, least and most."""
    middle, least, most = (form.format(value) for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({least} to {most})"


# --- memory ------------------------------------------------------------------------------------------------------


def peak(options: argparse.Namespace, shape: str) -> None:
    """Two ticks of one shape, and what this process needed at most beyond what it needed to begin, in MiB."""
    before = most_resident()
    encoding = None if shape == "no transfer" else shape.rpartition(", ")[2]
    graph = make_graph(options, encoding, Path(options.frozen) if shape.startswith("frozen") else None)
    advance(graph)
    advance(graph)
    on_gpu = torch.cuda.max_memory_allocated() // 1024 if torch.cuda.is_initialized() else 0
    print((on_gpu or most_resident() - before) // 1024)


def most_resident() -> int:
    """The most memory this process has held, in KiB (Linux; getrusage would tell what its parent held)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def measure_memory(options: argparse.Namespace) -> None:
    """Prints the peak of each shape, and its ratio to source and target side by side."""
    print("peak memory of two ticks, MiB:")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "source.safetensors"
        save_file(
            {
                name: value.contiguous()
                for name, value in make_graph(options, None).learners["source"].model.state_dict().items()
            },
            file,
        )
        peaks = {shape: int(in_a_process(shape, str(file))) for shape in SHAPES}
    for shape, mebibytes in peaks.items():
        print(f"  {shape:<22}{mebibytes:>6}   x {mebibytes / max(peaks['no transfer'], 1):.3f}")


def in_a_process(shape: str, file: str) -> str:
    """What this script prints for one shape."""
    words = [sys.executable, __file__, *sys.argv[1:], "--peak", shape, "--frozen", file]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Time, then memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="0: memory alone")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--source", default="resnet50-cifar")
    parser.add_argument("--target", default="mobilenet_v2-cifar")
    parser.add_argument("--pixels", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--frozen", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak is not None:
        peak(options, options.peak)
        return
    threads = f"{options.threads} thread{'s'[: options.threads - 1]}"
    where = torch.cuda.get_device_name() if options.device == "cuda" else threads
    print(f"{options.source} -> {options.target}, batch {options.batch}, {where}, torch {torch.__version__}")
    if options.rounds:
        measure_time(options)
    measure_memory(options)


if __name__ == "__main__":
    main()
