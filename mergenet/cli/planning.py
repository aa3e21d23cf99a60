"""What `mergenet plan` asks of each kind of thing: what is missing, what a probe of it says, what that comes to."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import torch

from mergenet.cli.tables import TableOptions
from mergenet.cli.words import own_name, read_paths, runs_words
from mergenet.jobs import Job, prepare
from mergenet.training.amounts import amounts_of
from mergenet.training.files import read_result
from mergenet.training.probe import PROBE_S, Probe, ProbeFailed, probes
from mergenet.training.sizes import exactly
from mergenet.training.spec import RunSpec, data_of
from tune.forecast.alike import Alike, alike
from tune.forecast.forecast import A_PROBE_S, Forecast, Line, crowding, measured
from tune.forecast.kinds import Place, Slowed, corner_runs, forecast_recipe, forecast_sweep, forecast_table
from tune.forecast.seeds import seeds_for, seeds_of

if TYPE_CHECKING:
    from tune.forecast.corners import Corner
    from tune.search.plan import SweepPlan


@dataclass(frozen=True)
class Asked:
    """What was said on the command line; `named` is a name or a file, `seconds` are for all probes together."""

    named: str
    overrides: tuple[str, ...]
    scale: str
    seeds: int | None
    data: tuple[str, ...]
    runs: Path
    results: Path
    device: str
    threads: int
    concurrent: int | None
    workers: int
    seconds: float
    effect: float
    allow_code: bool


def planned(kind: str, asked: Asked) -> Forecast:
    """The forecast of what is a table, a sweep or a recipe, measured now.

    Raises:
        InputError: whatever does not fit.
    """
    forecast = {"table": _table, "sweep": _sweep, "recipe": _recipe}[kind](asked)
    packing = forecast.packing
    if kind != "recipe" and packing and (asked.concurrent or packing.at_once < packing.by_places):
        return replace(forecast, command=f"{forecast.command} --concurrent {packing.at_once}")
    return forecast


# --- what all have in common ---------------------------------------------------------------------------------------


class _Meter:
    """Measures runs within the seconds that were asked for, and says so line by line."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._seconds = asked.seconds / 2 if asked.seconds < 3 * A_PROBE_S else asked.seconds - A_PROBE_S

    def lines(self, runs: list[Alike], least: int = 1) -> tuple[Line, ...]:
        """Each run with its cost, alone."""
        return measured(runs, self._seconds, self._measure, self._tell, least)

    def slowed(self, lines: tuple[Line, ...]) -> Slowed:
        """By how much they slow each other down, in the seconds that are left."""
        left = min(PROBE_S, self._asked.seconds - self._seconds)
        return lambda at_once: crowding(lines, at_once, left, self._measure, self._tell)

    def _measure(self, spec: RunSpec, seconds: float, beside: int) -> list[Probe]:
        gpus = torch.cuda.device_count() if self._asked.device == "cuda" else 1
        try:
            return probes(spec, seconds, self._asked.workers, [number % gpus for number in range(beside)])
        except ProbeFailed as error:
            raise click.ClickException(f"the run cannot be measured: {error}") from None

    def _tell(self, line: str) -> None:
        click.echo(line, err=True)


def _place(asked: Asked) -> Place:
    """This machine, where there is room for what was asked for."""
    from psutil import virtual_memory

    from cluster.session import available

    each = asked.workers * (1 if asked.device == "cuda" else asked.threads)
    there, free = available(asked.device), virtual_memory().available
    place = Place(asked.device, there, each, free, asked.concurrent, asked.runs)
    place.check()
    return place


def _command(asked: Asked, name: str, *words: str) -> str:
    """What starts it, as it was asked for here."""
    said = [*own_name(), name, asked.named, *asked.overrides, *words]
    said += ["--allow-code"] if asked.allow_code else []
    said += ["--threads", str(asked.threads)] if asked.threads > 1 else []
    said += [word for entry in asked.data for word in ("--data", entry)]
    return shlex.join([*said, *runs_words(asked.runs)])


# --- a recipe ------------------------------------------------------------------------------------------------------


def _recipe(asked: Asked) -> Forecast:
    place, jobs = _place(asked), _jobs(asked)
    missing = [job for job in jobs if (read_result(job.spec.folder) or {}).get("status") != "finished"]
    name = jobs[0].spec.experiment.name
    about = f"{name}: {len(jobs) - len(missing)} of {len(jobs)} run{'s'[: len(jobs) - 1]} there"
    words = ["--workers", str(asked.workers)] if asked.workers > 1 else []
    words += ["--seed", str(missing[0].spec.seed)] if missing and missing[0].spec.seed else []
    runs = [_alike(name, missing)] if missing else []
    seeds = seeds_for(len(jobs), 1, asked.effect)
    return forecast_recipe(about, _Meter(asked).lines(runs), place, seeds, _command(asked, "train", *words))


def _jobs(asked: Asked) -> list[Job]:
    """The run of every seed."""
    from mergenet.experiment import load_experiment

    experiment, paths = load_experiment(asked.named, asked.overrides), read_paths(asked.data)
    setting = (exactly(asked.workers), asked.device, asked.threads, asked.allow_code)
    return [prepare(experiment, paths, asked.runs, seed, *setting) for seed in range(asked.seeds or 1)]


def _alike(name: str, jobs: list[Job]) -> Alike:
    spec, plan = jobs[0].spec, jobs[0].plan
    return Alike(name, spec, amounts_of(spec.experiment, plan, data_of(spec.experiment, spec.data)), len(jobs))


# --- a table -------------------------------------------------------------------------------------------------------


def _table(asked: Asked) -> Forecast:
    from tune.ablate import Places, find_missing

    options = TableOptions(asked.named, asked.scale, asked.seeds, "last", asked.data, asked.runs, asked.results)
    place, table = _place(asked), options.plan()
    places = Places(asked.runs, asked.results, asked.device, asked.threads)
    ablation = find_missing(table, places, options.shows)
    seeds = seeds_of(options.assembled(table, ablation.evidence), asked.effect)
    cells, missing, groups = len(table.cells()), len(ablation.missing()), alike(ablation.jobs)
    about = f"{table.table.name} at scale {asked.scale}: {cells - missing} of {cells} cells there"
    words = ["--scale", asked.scale, *(["--seeds", str(asked.seeds)] if asked.seeds else [])]
    words += ["--results", str(asked.results)] if str(asked.results) != "results" else []
    meter = _Meter(asked)
    lines = meter.lines([run for run, _ in groups])
    jobs = [jobs for _, jobs in groups]
    command = _command(asked, "ablate", *words)
    return forecast_table(about, lines, jobs, place, meter.slowed(lines), seeds, command)


# --- a sweep -------------------------------------------------------------------------------------------------------


def _sweep(asked: Asked) -> Forecast:
    from tune.search.plan import Setting, plan_sweep
    from tune.search.sweep import load_sweep

    sweep, place = load_sweep(asked.named, asked.overrides), _place(asked)
    setting = Setting(asked.device, 1, asked.threads)
    searched = plan_sweep(sweep, sweep.values(), setting, read_paths(asked.data), asked.runs, asked.allow_code)
    over = _trials_over(searched)
    left = max(0, sweep.budget.trials - over)
    about = f"{sweep.name}: {over} of {sweep.budget.trials} trials there"
    ends = _ends(searched) if left else {}
    meter = _Meter(asked)
    lines = meter.lines(corner_runs(ends, searched.data), least=len(ends))
    slowed, seeds, command = meter.slowed(lines), seeds_for(6, 1, asked.effect), _command(asked, "sweep")
    return forecast_sweep(about, lines, left, sweep.scheduler, place, slowed, seeds, command)


def _trials_over(plan: "SweepPlan") -> int:
    """Trials that have ended, of a sweep that has begun."""
    from tune.search.ledger import DEFINITION, read_log

    if not (plan.folder / DEFINITION).exists():
        return 0
    return sum(trial.state != "running" for trial in read_log(plan.folder).trials())


def _ends(plan: "SweepPlan") -> dict[str, "Corner"]:
    """The cheapest and the dearest run, by names that say what they are."""
    from tune.forecast.corners import corners

    def named(what: str, corner: "Corner") -> str:
        point = ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in corner.point.items())
        return f"{what}: {point}"

    cheapest, dearest = corners(plan)
    return {named("cheapest", cheapest): cheapest, named("dearest", dearest): dearest}
