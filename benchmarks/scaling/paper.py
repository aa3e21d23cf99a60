"""The section `paper`: ResNet50 teaches MobileNetV2 on CIFAR-100; bytes counted, steps measured, clusters computed."""

import argparse
import math
from collections.abc import Mapping
from typing import Any

from .measured import Spread
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
    print("\nbytes, counted:")
    for encoding, messages in found["messages"].items():
        for name, one in messages["learners"].items() if encoding == ENCODINGS[0] else ():
            gradient = f"gradient {sum(one['buckets']):,} in {len(one['buckets'])} messages"
            print(f"  {name}: {gradient}, buffers {sum(one['buffers']):,}")
        layer, _, adapter = messages["transfer"]
        print(f"  {encoding}, a transfer: the layer {layer:,}, the adapter's gradient {adapter:,}")
    trios = [on_processors(found, one) for one in found["rounds"]]
    n = len(trios)
    for index, name in enumerate(("source", "target")):
        fixed = Spread.of([one.learners[index].fixed_s for one in trios]).shown("{:.3f}")
        sample = Spread.of([one.learners[index].sample_s for one in trios]).shown("{:.4f}")
        print(f"  {name}: fixed {fixed} s, a sample {sample} s")
    print(f"  transfer {Spread.of([one.transfer_s for one in trios]).shown('{:.3f}')} s; n = {n}")
    share = Spread.of([serial_share(one) for one in trios])
    print(f"  serial share {share.shown('{:.2f}', 100)} %, so a speed-up of at most {1 / share.median:.0f}")
    computed: dict[str, Any] = {"serial": share.plain()}
    middle = sorted(trios, key=serial_share)[n // 2]
    places = {"processors": (middle, Place()), "GPUs": (on_gpus(found), Place(overlap=1.0))}
    for what, (trio, place) in places.items():
        print(
            f"\n{what}, computed: speed-up over one (communication, per cent of the step; broadcasts of the transfer)"
        )
        for name, network in NETWORKS.items():
            cells = []
            for world in WORLDS:
                one = step(trio, world, network, place)
                shares = [100 * one.share(part) for part in (one.communication_s, one.broadcasts_s)]
                cells.append({"workers": world, "speedup": speedup(trio, world, network, place), "shares": shares})
            text = "  ".join(
                f"{c['workers']}: {c['speedup']:.2f} ({c['shares'][0]:.0f}; {c['shares'][1]:.1f})" for c in cells
            )
            worth = workers_worth(trio, network, place)
            print(f"  {name:<9}{text}  worth {worth}")
            computed[f"{what}, {name}"] = {"cells": cells, "worth": worth}
    ideal = {what: 1 / serial_share(trio) for what, (trio, _) in places.items()}
    print("\nspeed-up at any number of workers on a network that costs nothing, at most:", ideal)
    return computed | {"most": {what: bound if math.isfinite(bound) else None for what, bound in ideal.items()}}
