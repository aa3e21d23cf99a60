"""What a transfer costs as its matrices grow: square ones of 256 to 8192, by every encoding.

    .venv/bin/python benchmarks/adapter.py [--sides 256 512 1024 2048 4096 8192] [--rounds 5]

`first` is the first reading, which finds the bases. `adapter` is what the adapter does with the encoded matrices:
forward, backward, update. `transfer` is all of it: read both weights, follow their bases, generate, write, learn.
All encodings of a side are timed in turn, until the rounds or a minute a side are spent. An exponent is the slope of
log time over log (m + n) from one side to the next: 1 is linear; 2 is the number of weights, which nothing that
reads and writes a whole weight can be below.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch

from mergenet.config import parse
from mergenet.method.options import TransferOptions
from mergenet.method.ports import Port
from mergenet.method.sources import Live
from mergenet.method.transfer import Transfer

ENCODINGS: dict[str, dict[str, Any]] = {
    "whole": {"encoding": "whole"},
    "svd(8)": {"encoding": {"svd": {"rank": 8}}},
    "svd(32)": {"encoding": {"svd": {"rank": 32}}},
    "svd(8), exact": {"encoding": {"svd": {"rank": 8}}, "adapter": {"lpka": {"points": 0}}},
}
PARTS = ("first", "adapter", "transfer")
MINUTE = 60.0


def make(side: int, options: dict[str, Any]) -> Transfer:
    """A transfer between two random square matrices."""
    torch.manual_seed(side)
    source, target = (Port(name, name, {name: 0.02 * torch.randn(side, side)}) for name in ("source", "target"))
    parsed = parse(TransferOptions, {"from": "a.b", "to": "c.d", **options})
    return Transfer(parsed, Live(source), target, steps=1000, seed=0)


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def one_round(transfer: Transfer) -> dict[str, float]:
    """Seconds of a transfer, and of its adapter alone, run once more on what was encoded."""
    whole = seconds(lambda: once(transfer))
    transfer.read(4)
    pending = transfer.pending
    assert pending is not None
    x, y = transfer.target_encoder.encode(pending.target), transfer.source_encoder.encode(pending.source)
    return {"adapter": seconds(lambda: generate_and_learn(transfer, x, y)), "transfer": whole}


def once(transfer: Transfer) -> None:
    """A transfer whose weight training then moves: from one that stands still nothing is learned."""
    transfer.read(4)
    transfer.write()
    transfer.port.tensors[0].data.add_(1e-6)
    transfer.learn()


def generate_and_learn(transfer: Transfer, x: torch.Tensor, y: torch.Tensor) -> None:
    """Forward, backward and update on encoded matrices."""
    generated = transfer.adapter(x, y)
    generated.backward(generated.detach())
    transfer.optimizer.step()
    transfer.optimizer.zero_grad()


def measure(side: int, names: list[str], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each part by each encoding."""
    transfers = {name: make(side, ENCODINGS[name]) for name in names}
    times: dict[str, dict[str, list[float]]] = {name: {part: [] for part in PARTS} for name in names}
    for name, transfer in transfers.items():
        times[name]["first"].append(seconds(lambda transfer=transfer: transfer.read(0)))
    begin = time.monotonic()
    for index in range(rounds + 1):
        for name, transfer in transfers.items():
            for part, value in one_round(transfer).items():
                if index > 0:
                    times[name][part].append(value)
        if index > 0 and time.monotonic() - begin > MINUTE:
            break
    return times


def main() -> None:
    """Times every side, then prints seconds and exponents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096, 8192])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    medians: dict[tuple[str, str], dict[int, float]] = {}
    for side in options.sides:
        for name, times in measure(side, list(ENCODINGS), options.rounds).items():
            row = f"{side:>5}  {name:<13}"
            for part, values in times.items():
                middle = medians.setdefault((name, part), {})[side] = statistics.median(values)
                row += f"  {part} {middle:.4f}" + (f" ({min(values):.4f} to {max(values):.4f})" if values[1:] else "")
            print(row, flush=True)
    print("exponent of m + n, from one side to the next:")
    for (name, part), by_side in medians.items():
        slopes = [
            math.log(by_side[after] / by_side[before]) / math.log(after / before) for before, after in pairwise(by_side)
        ]
        print(f"  {name:<14}  {part:<8}" + "".join(f"{slope:7.2f}" for slope in slopes))


if __name__ == "__main__":
    main()
