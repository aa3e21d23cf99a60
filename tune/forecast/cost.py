"""What a run costs: what it does, counted, times what that takes, measured."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from mergenet.training.amounts import Amounts, Happening
from mergenet.training.checkpoint import KEEP
from mergenet.training.probe import Probe, Timing

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


def transfer_s(probe: Probe) -> float | None:
    """What one transfer adds to a tick; None where ticks with one, or without, were not measured."""
    plain = [one for one in probe.ticks if not one.happening.transfers]
    taught = [one for one in probe.ticks if one.happening.transfers]
    if not plain or not taught:
        return None
    most = max(taught, key=lambda one: one.measured)
    added = most.seconds - tick_s(replace(probe, ticks=tuple(plain)), Happening(most.happening.steps))
    return max(0.0, added / len(most.happening.transfers))


def with_transfers(probe: Probe, added_s: float) -> Probe:
    """A probe of a run without transfers, for one like it with a transfer, which adds so many seconds to a tick."""
    lent = [
        Timing(Happening(one.happening.steps, ("lent",), ("lent",)), one.seconds + added_s, 0, one.seconds + added_s)
        for one in probe.ticks
    ]
    return replace(probe, ticks=(*probe.ticks, *lent))


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
        number: its place in the queue.
    """

    seconds: float
    makes: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    number: int = 0


def wall_s(runs: Sequence[Timed], at_once: int, crowding: float = 1.0) -> float:
    """Seconds until the last of them ends, so many at once, in their order, each after what it needs.

    What none of them makes is there already.

    Args:
        crowding: by how much each is slowed down while so many run; fewer slow each other down in proportion.
    """
    left, clock = dict[Timed, float](), 0.0
    waiting = [replace(run, number=number) for number, run in enumerate(runs)]
    while waiting or left:
        for run in _startable(waiting, left, at_once - len(left)):
            waiting.remove(run)
            left[run] = run.seconds
        slower = 1 + (crowding - 1) * (len(left) - 1) / max(at_once - 1, 1)
        step = min(left.values())
        clock += step * slower
        left = {run: seconds - step for run, seconds in left.items() if seconds > step}
    return clock


def _startable(waiting: Sequence[Timed], running: Iterable[Timed], room: int) -> list[Timed]:
    """The first that need nothing that is yet to come."""
    to_come = {name for run in (*waiting, *running) for name in run.makes}
    return [run for run in waiting if not run.needs & to_come][:room]
