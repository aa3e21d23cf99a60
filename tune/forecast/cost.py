"""What a run costs: what it does, counted, times what that takes, measured."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from mergenet.training.amounts import Amounts, Happening
from mergenet.training.checkpoint import KEEP
from mergenet.training.probe import Probe

FIGURE_BYTES = 150
"""Of a line of metrics, with names as long as they come."""


@dataclass(frozen=True)
class Cost:
    """One run.

    Attributes:
        build_s: reading data, building models.
        warm_s: by how much the first ticks are slower than later ones.
        ticks_s: count x median, over all that happens on ticks.
        validation_s: samples x seconds a sample, of validations and the test.
        checkpoints_s: writing them.
        disk_bytes: that it leaves behind.
        memory_bytes, gpu_bytes: that it holds at most, over all of its processes; the GPU's of one process.
    """

    build_s: float
    warm_s: float
    ticks_s: float
    validation_s: float
    checkpoints_s: float
    disk_bytes: int
    memory_bytes: int
    gpu_bytes: int | None

    @property
    def trained_s(self) -> float:
        """From the first tick to the last figure: what a record calls `seconds`."""
        return self.warm_s + self.ticks_s + self.validation_s + self.checkpoints_s

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.build_s + self.trained_s


def tick_s(probe: Probe, happening: Happening) -> float:
    """Seconds of a tick: the median of those on which the same happens, else of those most like it."""
    return min(probe.ticks, key=lambda one: one.happening.distance(happening)).seconds


def cost_of(amounts: Amounts, probe: Probe) -> Cost:
    """A run that does so much, by a probe of itself or of one like it."""
    a_sample = mean(probe.validation_s.values())
    samples_s = (count * probe.validation_s.get(name, a_sample) for name, count in amounts.samples.items())
    kept = min(KEEP, amounts.checkpoints)
    return Cost(
        build_s=probe.build_s,
        warm_s=sum(max(0.0, one.first - one.seconds) for one in probe.ticks),
        ticks_s=sum(count * tick_s(probe, happening) for happening, count in amounts.ticks.items()),
        validation_s=sum(samples_s),
        checkpoints_s=amounts.checkpoints * probe.checkpoint_s,
        disk_bytes=kept * probe.checkpoint_bytes + amounts.figures * FIGURE_BYTES,
        memory_bytes=probe.workers * probe.memory_bytes,
        gpu_bytes=probe.gpu_bytes,
    )


# --- many ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timed:
    """A run in a queue.

    Attributes:
        makes, needs: names of what it hands on, and of what must be there before it starts.
    """

    seconds: float
    makes: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()


def wall_s(runs: Sequence[Timed], at_once: int) -> float:
    """Seconds until the last of them ends, so many at once, in their order, each after what it needs.

    What none of them makes is there already.
    """
    free, made = [0.0] * at_once, dict[str, float]()
    waiting, end = list(runs), 0.0
    while waiting:
        to_come = {name for run in waiting for name in run.makes}
        run = next((one for one in waiting if not one.needs & to_come), waiting[0])
        waiting.remove(run)
        start = max(heapq.heappop(free), *(made.get(name, 0.0) for name in run.needs), 0.0)
        heapq.heappush(free, start + run.seconds)
        made |= dict.fromkeys(run.makes, start + run.seconds)
        end = max(end, start + run.seconds)
    return end
