"""What a loss with a teacher adds to a student's step, side by side in one process.

    .venv/bin/python benchmarks/distill.py [--rounds 7] [--device cuda] [--compile]

ResNet50 teaches MobileNetV2 (`-cifar`), batch 128, 32 x 32: the student alone, then with each loss and a frozen
teacher, which looks at every batch. Whole ticks, all rows in turn, round by round; the ratio of each round's pair.
"""

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from step import noise, wait_for_gpu

from mergenet.config import parse
from mergenet.experiment import Experiment
from mergenet.models import find_model
from mergenet.training import ranks
from mergenet.training.graph import Graph
from mergenet.training.loop import advance
from mergenet.training.plan import make_plan

LOSSES: dict[str, Any] = {
    "tf_kd_reg": "tf_kd_reg",
    "uskd": "uskd",
    "kd": "kd",
    "dkd": "dkd",
    "nkd": "nkd",
    "rkd": "rkd",
    "mgd": {"mgd": {"resize": "bilinear"}},
}
ALONE = ("tf_kd_reg", "uskd")  # without a teacher
WARM_TICKS = 3


def make_graph(options: argparse.Namespace, loss: str | None, weights: Path) -> Graph:
    """The student alone, or with a loss."""
    task = {"classification": {"data": "noise", "augmentation": {"crop": 4, "flip": True, "rotation": 15}}}
    training = {"epochs": 1000, "batch_size": options.batch, "compile": options.compile}
    learners: dict[str, Any] = {"target": {"model": options.target, "task": task}}
    edge: dict[str, Any] = {"to": "target", "loss": LOSSES[loss]} if loss else {}
    if loss and loss not in ALONE:
        learners["teacher"] = {"model": options.source, "frozen": True, "weights": str(weights)}
        edge["from"] = "teacher"
    experiment = {
        "name": "benchmark",
        "learners": learners,
        "distill": {"main": edge} if edge else {},
        "training": training,
        "evaluation": {"validation": 0.0},
    }
    data, parsed = {"noise": noise(options)}, parse(Experiment, experiment)
    return Graph(parsed, make_plan(parsed, 0, data, 1), data, 0, ranks.own_device(options.device))


def seconds(graph: Graph, ticks: int) -> float:
    """Of one tick."""
    wait_for_gpu()
    begin = time.perf_counter()
    for _ in range(ticks):
        advance(graph)
    wait_for_gpu()
    return (time.perf_counter() - begin) / ticks


def main() -> None:
    """Builds all rows, times them in turn, and prints a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--ticks", type=int, default=1, help="of each row in a round")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--source", default="resnet50-cifar")
    parser.add_argument("--target", default="mobilenet_v2-cifar")
    parser.add_argument("--pixels", type=int, default=32)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        weights = Path(folder) / "teacher.safetensors"
        classes = noise(options).classes
        save_file(find_model(options.source).build(classes).state_dict(), weights)
        graphs = {loss: make_graph(options, loss, weights) for loss in (None, *LOSSES)}
        for graph in graphs.values():
            seconds(graph, WARM_TICKS)
        rounds = [
            {loss: seconds(graph, options.ticks) for loss, graph in graphs.items()} for _ in range(options.rounds)
        ]
    alone = [one[None] for one in rounds]
    print(f"{options.target} alone: {1000 * statistics.median(alone):.2f} ms a tick ({options.device})")
    for loss in LOSSES:
        ratios = [one[loss] / one[None] for one in rounds]
        print(f"  {loss:<10} x {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
