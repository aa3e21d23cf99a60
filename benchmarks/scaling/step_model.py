"""What a step of training costs at so many workers: a closed form over numbers that were measured or counted.

    step(W) = s(W) * (sum over learners of (fixed + sample * batch / W)  +  transfer / cycle)
            + sum over learners of (all-reduce of its gradient + broadcast of its buffers)
            + broadcasts of a transfer / cycle

The transfer is replicated: every worker generates the whole layer and learns from it, so its time does not shrink with
W; neither does a step's fixed part (the optimizer, the launching of kernels). They are Amdahl's serial part.
s(W) is 1 where each worker has a processor or GPU to itself, and more where several share one (`Place`).

All times in seconds, all sizes in bytes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

BACKWARD = 2 / 3
"""Share of a pass that is backward, during which gradients can be on their way: about twice a forward's operations."""


# --- messages ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Link:
    """Between any two workers.

    Attributes:
        latency_s: of one message, however short.
        bytes_per_s: of a long one; infinite for no cost but the latency.
    """

    latency_s: float
    bytes_per_s: float

    def send_s(self, size: float) -> float:
        """Seconds for one message."""
        return self.latency_s + size / self.bytes_per_s


@dataclass(frozen=True)
class Network:
    """What each kind of message meets: to sum what comes takes longer than to pass it on, where a processor does it."""

    reduce: Link
    broadcast: Link

    @classmethod
    def of(cls, latency_s: float, bytes_per_s: float) -> "Network":
        """Cards that sum as fast as they send."""
        link = Link(latency_s, bytes_per_s)
        return cls(link, link)


def all_reduce_s(workers: int, size: float, link: Link) -> float:
    """Seconds in which a sum of `size` bytes stands on all workers, on a ring.

    2 (W - 1) messages one after the other, each of a W-th part (Thakur, Rabenseifner and Gropp 2005; what gloo does by
    default, and NCCL where messages are long).
    """
    return 2 * (workers - 1) * link.send_s(size / workers)


def broadcast_s(workers: int, size: float, link: Link) -> float:
    """Seconds in which one worker's `size` bytes stand on all: whoever has them passes them on, in turns (gloo)."""
    return math.ceil(math.log2(workers)) * link.send_s(size)


# --- who trains where ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Learner:
    """One learner's step.

    Attributes:
        fixed_s: what does not depend on the batch.
        sample_s: a sample.
        buckets: bytes of each message in which DDP reduces its gradient.
        buffers: bytes of each message in which DDP hands on BatchNorm's statistics, once a step.
    """

    fixed_s: float
    sample_s: float
    buckets: tuple[int, ...] = ()
    buffers: tuple[int, ...] = ()

    def compute_s(self, samples: float) -> float:
        """Of a step on so many samples, on one worker."""
        return self.fixed_s + self.sample_s * samples


@dataclass(frozen=True)
class Trio:
    """Learners and the transfer between them.

    Attributes:
        batch: samples a step, over all workers.
        transfer_s: to read, generate, write and learn once; the same on every worker.
        cycle: steps from one transfer to the next.
        messages: bytes of each broadcast of a transfer: the written layer, whether it moved, the adapter's gradient.
    """

    learners: tuple[Learner, ...]
    batch: int
    transfer_s: float
    cycle: int
    messages: tuple[int, ...] = ()


@dataclass(frozen=True)
class Place:
    """What workers share.

    Attributes:
        cores: processors for all workers together, which also move the bytes between them; None where each worker has
            its own and a network card does that.
        crowding: how much longer a worker takes while another one is busy on another processor of the same machine.
        overlap: share of the backward pass behind which gradients travel; 0 where processors move them.
    """

    cores: int | None = None
    crowding: float = 1.0
    overlap: float = 0.0

    def turns(self, workers: int) -> float:
        """How many workers take turns on a processor."""
        return 1.0 if self.cores is None else max(1.0, workers / self.cores)

    def slowdown(self, workers: int) -> float:
        """How much longer a worker takes than one that is alone."""
        return self.turns(workers) * (self.crowding if workers > 1 else 1.0)


@dataclass(frozen=True)
class Step:
    """Seconds of one step, by what they go into; means over a cycle."""

    shared_s: float
    fixed_s: float
    transfer_s: float
    gradients_s: float
    buffers_s: float
    broadcasts_s: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.computing_s + self.communication_s

    @property
    def computing_s(self) -> float:
        """What a worker does by itself."""
        return self.shared_s + self.fixed_s + self.transfer_s

    @property
    def communication_s(self) -> float:
        """What is not hidden behind computing."""
        return self.gradients_s + self.buffers_s + self.broadcasts_s

    def share(self, part_s: float) -> float:
        """Of the whole step."""
        return part_s / self.seconds


def step(trio: Trio, workers: int, network: Network, place: Place) -> Step:
    """One step at so many workers."""
    slower, turns = place.slowdown(workers), place.turns(workers)
    samples = trio.batch / workers
    return Step(
        shared_s=slower * sum(learner.sample_s * samples for learner in trio.learners),
        fixed_s=slower * sum(learner.fixed_s for learner in trio.learners),
        transfer_s=slower * trio.transfer_s / trio.cycle,
        gradients_s=turns
        * sum(
            exposed_s(learner.buckets, place.overlap * BACKWARD * learner.compute_s(samples), workers, network)
            for learner in trio.learners
        ),
        buffers_s=turns
        * sum(broadcast_s(workers, size, network.broadcast) for one in trio.learners for size in one.buffers),
        broadcasts_s=turns * sum(broadcast_s(workers, size, network.broadcast) for size in trio.messages) / trio.cycle,
    )


def exposed_s(buckets: Sequence[int], behind_s: float, workers: int, network: Network) -> float:
    """Seconds of a gradient's all-reduces that nothing hides.

    They run behind `behind_s` seconds of the backward pass, but for the last one: it holds the first layer's gradient,
    which is there when the pass is over.
    """
    each = [all_reduce_s(workers, size, network.reduce) for size in buckets]
    return max(sum(each) - behind_s, each[-1]) if each else 0.0


def buckets_of(sizes: Sequence[int], first: int = 2**20, most: int = 25 * 2**20) -> tuple[int, ...]:
    """Bytes of DDP's messages: parameters gathered until one is full (torch's defaults: 1 MiB the first, then 25).

    Args:
        sizes: bytes of each parameter, in the order in which gradients come: the last layer's first.
    """
    full: list[int] = []
    current, limit = 0, first
    for size in sizes:
        current += size
        if current >= limit:
            full.append(current)
            current, limit = 0, most
    return (*full, current) if current else tuple(full)


# --- what follows --------------------------------------------------------------------------------------------------


def speedup(trio: Trio, workers: int, network: Network, place: Place) -> float:
    """How many times faster than one worker."""
    return step(trio, 1, network, place).seconds / step(trio, workers, network, place).seconds


def serial_share(trio: Trio) -> float:
    """Share of one worker's step that no worker takes off another: Amdahl's; its inverse bounds the speed-up."""
    alone = step(trio, 1, Network.of(0.0, math.inf), Place())
    return (alone.fixed_s + alone.transfer_s) / alone.seconds


def workers_worth(trio: Trio, network: Network, place: Place, efficiency: float = 0.5, most: int = 1024) -> int:
    """The most workers, in powers of two, of which each does at least `efficiency` of what one alone does."""
    found = 1
    while 2 * found <= most and speedup(trio, 2 * found, network, place) >= efficiency * 2 * found:
        found *= 2
    return found


def with_cycle(trio: Trio, cycle: int) -> Trio:
    """The same with another cycle."""
    return replace(trio, cycle=cycle)


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Intercept and slope by least squares; an intercept below 0 is 0, for it stands for time."""
    mean_x, mean_y = (sum(column) / len(points) for column in zip(*points, strict=True))
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    intercept = mean_y - slope * mean_x
    if intercept < 0:
        return 0.0, sum(x * y for x, y in points) / sum(x * x for x, _ in points)
    return intercept, slope
