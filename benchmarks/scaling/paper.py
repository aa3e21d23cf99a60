"""The section `paper`: ResNet50 teaches MobileNetV2 on CIFAR-100; bytes counted, steps measured, clusters computed."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from .measured import Spread, table
from .rank import messages_of, seconds, transfer_once
from .step_model import Learner, Network, Place, Trio, line, serial_share, speedup, step, workers_worth

BATCH, CYCLE = 128, 4
BATCHES = (4, 16, 32)
ENCODINGS = ("svd(8)", "whole")
NETWORKS = {
    "1 Gb/s": Network.of(50e-6, 0.125e9),
    "10 Gb/s": Network.of(50e-6, 1.25e9),
    "100 Gb/s": Network.of(10e-6, 12.5e9),
}
"""Stated, not measured: the line's rate, and the latency of a message through a kernel's sockets, or past it."""

GPU_TICK_S = {"source": 1 / 42, "target": 1 / 51}
"""One H200, fp32, batch 128 (benchmarks/README.md); bf16 takes as long, so a step is the launching of kernels."""
GPU_TRIO, GPU_BOTH = 1 / 22, 1 / 26
"""The same of both with svd(8) at cycle 4 and without: what a transfer adds is four times their difference."""

WORLDS = (1, 2, 4, 8, 16, 32)


def measure(rounds: int) -> dict[str, Any]:
    """Bytes, and seconds of one process on one thread."""
    import torch
    from step import make_graph

    torch.set_num_threads(1)
    found: dict[str, Any] = {"messages": {}, "rounds": []}
    graphs = {batch: make_graph(_options(batch), "svd(8)") for batch in BATCHES}
    for encoding in ENCODINGS:
        found["messages"][encoding] = messages_of(make_graph(_options(BATCHES[0]), encoding))
    for number in range(rounds + 1):
        steps = {
            name: {batch: seconds(lambda one=graph.steps[index]: one.step(0)) for batch, graph in graphs.items()}
            for index, name in enumerate(GPU_TICK_S)
        }
        found["rounds"].append({"steps": steps, "transfer": seconds(lambda: transfer_once(graphs[BATCHES[0]]))})
        print(f"round {number} of {rounds}", flush=True)
    del found["rounds"][0]
    return found


def _options(batch: int) -> argparse.Namespace:
    models = {"source": "resnet50-cifar", "target": "mobilenet_v2-cifar"}
    return argparse.Namespace(batch=batch, pixels=32, device="cpu", **models)


# --- what follows --------------------------------------------------------------------------------------------------


def on_processors(found: Mapping[str, Any], one: Mapping[str, Any]) -> Trio:
    """The trio by one round's seconds."""
    learners = []
    for name, times in one["steps"].items():
        fixed, sample = line([(float(batch), seconds) for batch, seconds in times.items()])
        learners.append(_with_messages(found, name, fixed, sample))
    return Trio(tuple(learners), BATCH, one["transfer"], CYCLE, tuple(found["messages"]["svd(8)"]["transfer"]))


def on_gpus(found: Mapping[str, Any]) -> Trio:
    """The trio on GPUs, where a step of batch 128 is as long as its launching, whatever the batch."""
    learners = tuple(_with_messages(found, name, seconds, 0.0) for name, seconds in GPU_TICK_S.items())
    messages = tuple(found["messages"]["svd(8)"]["transfer"])
    return Trio(learners, BATCH, CYCLE * (GPU_TRIO - GPU_BOTH), CYCLE, messages)


def _with_messages(found: Mapping[str, Any], name: str, fixed: float, sample: float) -> Learner:
    counted = found["messages"]["svd(8)"]["learners"][name]
    return Learner(fixed, sample, tuple(counted["buckets"]), tuple(counted["buffers"]))


def show(found: Mapping[str, Any]) -> dict[str, Any]:
    """Prints bytes, the measured step, and what follows for clusters; what was computed."""
    trios = [on_processors(found, one) for one in found["rounds"]]
    print(f"\nOne process, n = {len(trios)}, median (least to most); bytes as counted:\n")
    table(["", "fixed, s", "a sample, s", "bytes"], _inputs(found, trios))
    share = Spread.of([serial_share(one) for one in trios])
    print(f"\nSerial share {share.shown('{:.1f}', 100)} %.")
    middle = sorted(trios, key=serial_share)[len(trios) // 2]
    places = {"processors": (middle, Place()), "GPUs": (on_gpus(found), Place(overlap=1.0))}
    computed = {
        f"{what}, {name}": [_cell(trio, world, network, place) for world in WORLDS]
        for what, (trio, place) in places.items()
        for name, network in NETWORKS.items()
    }
    worth = {
        f"{what}, {name}": workers_worth(trio, network, place)
        for what, (trio, place) in places.items()
        for name, network in NETWORKS.items()
    }
    print("\nComputed: how many times faster than one worker (communication, % of the step):\n")
    table(
        ["", *(f"{world} workers" for world in WORLDS[1:]), "worth it"],
        [
            [name, *(f"{one['speedup']:.2f} ({one['communication']:.0f})" for one in cells[1:]), worth[name]]
            for name, cells in computed.items()
        ],
    )
    bounds = {what: 1 / serial_share(trio) for what, (trio, _) in places.items()}
    return {"clusters": computed, "worth": worth, "serial share": share.plain(), "most": bounds}


def _inputs(found: Mapping[str, Any], trios: list[Trio]) -> Iterator[list[str]]:
    for index, name in enumerate(GPU_TICK_S):
        learners = [one.learners[index] for one in trios]
        fixed = Spread.of([one.fixed_s for one in learners]).shown("{:.3f}")
        sample = Spread.of([one.sample_s for one in learners]).shown("{:.4f}")
        buckets = learners[0].buckets
        gradient = f"gradient {sum(buckets):,} in {len(buckets)} messages, statistics {sum(learners[0].buffers):,}"
        yield [name, fixed, sample, gradient]
    transfer = Spread.of([one.transfer_s for one in trios]).shown("{:.3f}")
    for encoding, messages in found["messages"].items():
        layer, _, adapter = messages["transfer"]
        took = transfer if encoding == ENCODINGS[0] else ""
        yield [f"transfer, {encoding}", took, "", f"layer {layer:,}, adapter's gradient {adapter:,}"]


def _cell(trio: Trio, workers: int, network: Network, place: Place) -> dict[str, float]:
    one = step(trio, workers, network, place)
    return {
        "workers": workers,
        "speedup": speedup(trio, workers, network, place),
        "communication": 100 * one.share(one.communication_s),
        "broadcasts": 100 * one.share(one.broadcasts_s),
    }
