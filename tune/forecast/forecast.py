"""A forecast: what would run, how long it takes, what it needs. Pure data, made of what was counted and measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from mergenet.training.probe import PROBE_S, Probe
from mergenet.training.spec import RunSpec
from tune.forecast.alike import Alike, most_different, nearest
from tune.forecast.cost import Cost, cost_of, tick_s, transfer_s, with_transfers
from tune.forecast.room import Disk, Packing
from tune.forecast.seeds import Seeds

A_PROBE_S = 10.0
"""Seconds below which a probe sees too little: there are as many probes as find so many each."""

Span = tuple[float, float]
"""Seconds, from and to; equal where there is nothing to choose."""


@dataclass(frozen=True)
class Line:
    """Runs that differ in their seed alone.

    Attributes:
        probe: by which they are reckoned.
        like: the run that was measured in their place; None where they were measured themselves.
    """

    run: Alike
    cost: Cost
    probe: Probe
    like: str | None


@dataclass(frozen=True)
class Forecast:
    """What would run.

    Attributes:
        kind: recipe, table or sweep.
        about: what is asked for, and what of it is there, in a line.
        lines: the runs; of a sweep its cheapest and its dearest.
        arms: of a table: arm -> seconds of work; what arms share is divided equally among them.
        runs: how many would run.
        import_s: until a process has imported everything; once a process.
        crowding: by how much a run is slowed down by those beside it; 1 where it has none.
        work_s: of all runs, one after another.
        wall_s: until all have ended, so many at once as `packing` has.
        halved_s: the same where successive halving stops as many as it is to; None without.
        packing, disk, seeds: None where nothing would run, for the first two.
        notes: what a reader must know.
        command: that starts it.
    """

    kind: str
    about: str
    lines: tuple[Line, ...]
    arms: Mapping[str, float]
    runs: int
    import_s: float
    crowding: float
    work_s: Span
    wall_s: Span
    halved_s: Span | None
    packing: Packing | None
    disk: Disk | None
    seeds: Seeds
    notes: tuple[str, ...]
    command: str

    def as_plain(self) -> dict[str, Any]:
        """Plain values for JSON: seconds and bytes."""
        parts = {name: asdict(part) for name in ("packing", "disk") if (part := getattr(self, name)) is not None}
        seeds = {**asdict(self.seeds), "suffice": self.seeds.suffice}
        return {**vars(self), **parts, "seeds": seeds, "lines": [_plain_line(line) for line in self.lines]}


def _plain_line(line: Line) -> dict[str, Any]:
    ticks = [
        {**happening._asdict(), "count": count, "seconds": tick_s(line.probe, happening)}
        for happening, count in line.run.amounts.ticks.items()
    ]
    amounts = line.run.amounts
    return {
        "name": line.run.name,
        "runs": line.run.count,
        "ticks": ticks,
        "samples": dict(amounts.samples),
        "checkpoints": amounts.checkpoints,
        "cost": {**asdict(line.cost), "seconds": line.cost.seconds},
        "probe": line.probe.as_plain(),
        "like": line.like,
    }


# --- measured ------------------------------------------------------------------------------------------------------

Measure = Callable[[RunSpec, float, int], Sequence[Probe]]
"""Measures a run in about so many seconds, so many of it beside each other."""

Tell = Callable[[str], None]
"""Given a line before each probe."""


def measured(runs: Sequence[Alike], seconds: float, measure: Measure, tell: Tell, least: int = 1) -> tuple[Line, ...]:
    """Every run with its cost, by probes that take about so many `seconds` in all.

    Args:
        least: how many are measured whatever time there is.
    """
    if not runs:
        return ()
    chosen = most_different(runs, max(least, int(seconds // A_PROBE_S)))
    each, probes = min(PROBE_S, seconds / len(chosen)), dict[int, Probe]()
    for number, place in enumerate(chosen):
        tell(f"probe {number + 1} of {len(chosen)}: {runs[place].name}, about {each:.0f} s")
        (probes[place],) = measure(runs[place].spec, each, 1)
    return tuple(_line(runs, place, probes) for place in range(len(runs)))


def crowding(lines: Sequence[Line], at_once: int, seconds: float, measure: Measure, tell: Tell) -> float:
    """By how much runs are slowed down by others beside them: the dearest measured run, so many times at once.

    They share memory, caches and what cores have in common; two runs on two processors can take as long as one after
    the other.
    """
    if at_once < 2:
        return 1.0
    line = max((line for line in lines if line.like is None), key=lambda line: line.cost.seconds)
    tell(f"probe of {at_once} beside each other: {line.run.name}, about {seconds:.0f} s")
    beside = measure(line.run.spec, seconds, at_once)
    together = median(cost_of(line.run.amounts, probe).seconds for probe in beside)
    return max(1.0, together / line.cost.seconds)


def _line(runs: Sequence[Alike], place: int, probes: Mapping[int, Probe]) -> Line:
    run = runs[place]
    by = place if place in probes else nearest(run, runs, probes)
    probe, like = probes[by], None if by == place else runs[by].name
    if like is not None and run.transfers() and not runs[by].transfers():
        lenders = {other: seconds for other, one in probes.items() if (seconds := transfer_s(one)) is not None}
        if lenders:
            probe = with_transfers(probe, lenders[nearest(run, runs, lenders)])
    return Line(run, cost_of(run.amounts, probe), probe, like)


def notes_on(lines: Sequence[Line]) -> list[str]:
    """What was not measured as it will run."""
    notes, probes = [], [line.probe for line in lines]
    stand_ins = sorted({name for probe in probes for name in probe.stand_ins})
    if stand_ins:
        notes.append(f"measured from random weights, for theirs are yet to be trained: {', '.join(stand_ins)}")
    diverged = sorted({name for probe in probes for name in probe.diverged})
    if diverged:
        notes.append(f"stopped by numbers that are not finite while it was measured: {', '.join(diverged)}")
    estimated = [line for line in lines if line.like is not None]
    if estimated:
        notes.append(
            f"{len(estimated)} of {len(lines)} kinds of run are reckoned by the measured one that is most like them; "
            "more --seconds measure more"
        )
    return notes


def halved(cost: Cost, share: float) -> Cost:
    """What a trial costs on the average where so large a share of its epochs is run."""
    return replace(cost, ticks_s=cost.ticks_s * share, validation_s=cost.validation_s * share)
