"""Forecasts of the three kinds of things that can be started: a recipe, a table, a sweep."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mergenet.data.images import Images
from mergenet.experiment import Experiment
from mergenet.training.amounts import amounts_of
from tune.forecast.alike import Alike
from tune.forecast.corners import Corner, expected_share
from tune.forecast.cost import Timed, wall_s
from tune.forecast.forecast import Forecast, Line, halved, notes_on
from tune.forecast.room import Disk, Packing, disk, most_at_once, packing
from tune.forecast.seeds import Seeds

if TYPE_CHECKING:
    from tune.ablate import Job
    from tune.search.sweep import Scheduler


Slowed = Callable[[int], float]
"""By how much so many runs at once slow each other down."""


@dataclass(frozen=True)
class Place:
    """This machine, and how much of it a run takes.

    Attributes:
        device: cpu or cuda.
        there: processors, or GPUs.
        each: that a run takes of them.
        free_bytes: of memory.
        concurrent: runs at once, if they are to be so many.
        runs: folder of all records.
    """

    device: str
    there: int
    each: int
    free_bytes: int
    concurrent: int | None
    runs: Path

    def check(self) -> None:
        """Raises:
        InputError: there is no room for a run, or not for as many as are asked for.
        """
        most_at_once(self.there, self.each, self.concurrent, self.device == "cuda")

    def packing(self, lines: Sequence[Line]) -> Packing | None:
        """By the run that needs most; None where there is none."""
        if not lines:
            return None
        gpus = [(line.cost.gpu_bytes or 0, line.probe.gpu_total_bytes or 0) for line in lines]
        memory = max(line.cost.memory_bytes for line in lines)
        gpu = max(gpus) if self.device == "cuda" else None
        return packing(self.there, self.each, self.concurrent, memory, self.free_bytes, gpu)

    def disk(self, each: Sequence[int]) -> Disk | None:
        """None where nothing would run."""
        return disk(each, self.runs) if each else None


def _import_s(lines: Sequence[Line]) -> float:
    return max((line.probe.import_s for line in lines), default=0.0)


# --- a recipe ------------------------------------------------------------------------------------------------------


def forecast_recipe(about: str, lines: Sequence[Line], place: Place, seeds: Seeds, command: str) -> Forecast:
    """Runs of one experiment, one after another, each in a process of its own."""
    runs, import_s = sum(line.run.count for line in lines), _import_s(lines)
    work = sum(line.run.count * (import_s + line.cost.seconds) for line in lines)
    return Forecast(
        kind="recipe",
        about=about,
        lines=tuple(lines),
        arms={},
        runs=runs,
        import_s=import_s,
        crowding=1.0,
        work_s=(work, work),
        wall_s=(work, work),
        halved_s=None,
        packing=place.packing(lines),
        disk=place.disk([line.cost.disk_bytes for line in lines for _ in range(line.run.count)]),
        seeds=seeds,
        notes=tuple(notes_on(lines)),
        command=command,
    )


# --- a table -------------------------------------------------------------------------------------------------------


def forecast_table(
    about: str,
    lines: Sequence[Line],
    jobs: "Sequence[Sequence[Job]]",
    place: Place,
    slowed: Slowed,
    seeds: Seeds,
    command: str,
) -> Forecast:
    """The missing runs of a table.

    Args:
        jobs: those of each line.
    """
    packed, import_s = place.packing(lines), _import_s(lines)
    crowding = slowed(min(packed.at_once, sum(map(len, jobs)))) if packed else 1.0
    pairs = [(job, line) for line, group in zip(lines, jobs, strict=True) for job in group]
    pairs.sort(key=lambda pair: pair[0].spec.seed)
    queue = [Timed(line.cost.seconds, job.makes, frozenset(job.needs())) for job, line in pairs]
    work = sum(line.cost.seconds for _, line in pairs)
    wall = import_s + wall_s(queue, packed.at_once, crowding) if packed else 0.0
    arms: dict[str, float] = {}
    for job, line in pairs:
        for arm in job.arms():
            arms[arm] = arms.get(arm, 0.0) + line.cost.seconds / len(job.arms())
    return Forecast(
        kind="table",
        about=about,
        lines=tuple(lines),
        arms=arms,
        runs=len(pairs),
        import_s=import_s,
        crowding=crowding,
        work_s=(work, work),
        wall_s=(wall, wall),
        halved_s=None,
        packing=packed,
        disk=place.disk([line.cost.disk_bytes for _, line in pairs]),
        seeds=seeds,
        notes=tuple(notes_on(lines)),
        command=command,
    )


# --- a sweep -------------------------------------------------------------------------------------------------------


def corner_runs(corners: Mapping[str, Corner], data: Mapping[str, Images]) -> list[Alike]:
    """The runs of corners, by their names; each counts for none, as nobody knows how many trials are like it."""
    return [
        Alike(name, corner.spec, amounts_of(corner.spec.experiment, corner.plan, data), 0)
        for name, corner in corners.items()
    ]


def forecast_sweep(
    about: str,
    lines: Sequence[Line],
    trials: int,
    scheduler: "Scheduler",
    place: Place,
    slowed: Slowed,
    seeds: Seeds,
    command: str,
) -> Forecast:
    """The trials that a sweep lacks, all as cheap as its cheapest run or as dear as its dearest."""
    packed, import_s = place.packing(lines), _import_s(lines)
    at_once = min(packed.at_once, trials) if packed else 1
    crowding = slowed(at_once) if packed else 1.0

    def wall(seconds: float) -> float:
        return import_s + wall_s([Timed(seconds)] * trials, at_once, crowding) if trials else 0.0

    costs = [line.cost for line in lines]
    share = expected_share(scheduler, _epochs(lines[0].run.spec.experiment)) if lines else 1.0
    each, less = [cost.seconds for cost in costs], [halved(cost, share).seconds for cost in costs]
    most = max((cost.disk_bytes for cost in costs), default=0)
    return Forecast(
        kind="sweep",
        about=about,
        lines=tuple(lines),
        arms={},
        runs=trials,
        import_s=import_s,
        crowding=crowding,
        work_s=(trials * min(each, default=0.0), trials * max(each, default=0.0)),
        wall_s=(wall(min(each, default=0.0)), wall(max(each, default=0.0))),
        halved_s=(wall(min(less)), wall(max(less))) if less and share < 1.0 else None,
        packing=packed,
        disk=place.disk([most] * trials),
        seeds=seeds,
        notes=tuple(notes_on(lines)),
        command=command,
    )


def _epochs(experiment: Experiment) -> int:
    return experiment.learners[experiment.clock].training.epochs
