"""Ticks a second on a GPU, where a tick is short and launching its kernels is most of it.

    .venv/bin/python benchmarks/gpu.py [--rounds 5] [--seconds 1] [--batch 128] [--no-compile]

Whole ticks one after the other, as a run has them: source and target alone, both side by side, and both with a
transfer every fourth tick. All rows are built and warmed up first, then timed in turn, round by round. Peak memory is
what torch held at most for a row while it was warmed up.
"""

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from step import noise, wait_for_gpu

from mergenet.config import parse
from mergenet.experiment import Experiment
from mergenet.training import ranks
from mergenet.training.graph import Graph
from mergenet.training.loop import advance
from mergenet.training.plan import make_plan

WARM_TICKS = 12
FORMS = {"trio": "gated", "trio, paper": "paper"}
MANNERS: dict[str, dict[str, Any]] = {
    "fp32, NCHW": {"channels_last": False},
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "fp32, compiled": {"compile": True},
    "bf16, compiled": {"compile": True, "precision": "bf16"},
}
SHAPES = {
    "target": list(MANNERS),
    "source": ["fp32, NCHW", "fp32", "bf16"],
    "both": ["fp32", "bf16"],
    "trio": ["fp32", "bf16"],
    "trio, paper": ["fp32"],
}


@dataclass
class Row:
    """One shape in one manner, warmed up; `peak` in MiB."""

    graph: Graph
    peak: int
    first: float
    rates: list[float]


def make_graph(options: argparse.Namespace, shape: str, manner: str) -> Graph:
    """Source, target, both, or both with a transfer of the given form."""
    task = {"classification": {"data": "noise", "augmentation": {"crop": 4, "flip": True, "rotation": 15}}}
    models = {"source": options.source, "target": options.target}
    learners = {name: {"model": model, "task": task} for name, model in models.items() if shape in (name, "both")}
    transfers: dict[str, Any] = {}
    if shape in FORMS:
        learners = {name: {"model": model, "task": task} for name, model in models.items()}
        transfers["main"] = {
            "from": "source.classifier",
            "to": "target.irb16",
            "adapter": {"lpka": {"form": FORMS[shape]}},
        }
    experiment = {
        "name": "benchmark",
        "learners": learners,
        "transfers": transfers,
        "training": {"epochs": 1000, "batch_size": options.batch, **MANNERS[manner]},
        "evaluation": {"validation": 0.0},
        "clock": "source" if shape == "source" else "target",
    }
    data, parsed = {"noise": noise(options)}, parse(Experiment, experiment)
    return Graph(parsed, make_plan(parsed, 0, data, 1), data, 0, ranks.own_device(options.device))


def warm_up(options: argparse.Namespace, shape: str, manner: str) -> Row:
    """A row after its first ticks, and the seconds of the very first."""
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = held(options)
    graph = make_graph(options, shape, manner)
    begin = time.perf_counter()
    advance(graph)
    wait_for_gpu()
    first = time.perf_counter() - begin
    for _ in range(WARM_TICKS):
        advance(graph)
    wait_for_gpu()
    return Row(graph, (held(options) - before) >> 20, first, [])


def held(options: argparse.Namespace) -> int:
    """Bytes that torch has held on the GPU at most since the peak was last forgotten."""
    return torch.cuda.max_memory_allocated() if options.device == "cuda" else 0


def rate(graph: Graph, seconds: float) -> float:
    """Ticks a second."""
    begin, ticks = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        advance(graph)
        ticks += 1
    wait_for_gpu()
    return ticks / (time.perf_counter() - begin)


def main() -> None:
    """Builds all rows, times them in turn, and prints a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each row in a round")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--source", default="resnet50-cifar")
    parser.add_argument("--target", default="mobilenet_v2-cifar")
    parser.add_argument("--pixels", type=int, default=32)
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    name = torch.cuda.get_device_name() if options.device == "cuda" else "a processor"
    print(f"{options.source} -> {options.target}, batch {options.batch}, {name}, torch {torch.__version__}")
    wanted = [(s, m) for s, manners in SHAPES.items() for m in manners if not (options.no_compile and "compiled" in m)]
    rows = {(shape, manner): warm_up(options, shape, manner) for shape, manner in wanted}
    for _ in range(options.rounds):
        for row in rows.values():
            row.rates.append(rate(row.graph, options.seconds))
    print("ticks a second, median of", options.rounds, "(from the least to the most); MiB at most; first tick")
    for (shape, manner), row in rows.items():
        middle, least, most = statistics.median(row.rates), min(row.rates), max(row.rates)
        print(
            f"  {shape:<12}{manner:<16}{middle:7.1f} ({least:.1f} to {most:.1f})  {row.peak:6} MiB  {row.first:6.1f} s"
        )


if __name__ == "__main__":
    main()
