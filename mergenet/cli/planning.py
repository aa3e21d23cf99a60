"""What `mergenet plan` asks of each kind of thing: what is missing, what a probe of it says, what that comes to."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mergenet.cli.tables import TableOptions
from mergenet.cli.words import own_name, read_paths
from mergenet.jobs import Job, prepare
from mergenet.training.amounts import amounts_of
from mergenet.training.files import read_result
from mergenet.training.probe import Probe, ProbeFailed, probe
from mergenet.training.spec import RunSpec, data_of
from tune.forecast.alike import Alike, alike
from tune.forecast.forecast import Forecast, Line, measured
from tune.forecast.kinds import Place, corner_runs, forecast_recipe, forecast_sweep, forecast_table
from tune.forecast.seeds import Seeds, seeds_for, seeds_of

if TYPE_CHECKING:
    from tune.forecast.corners import Corner
    from tune.search.plan import SweepPlan


@dataclass(frozen=True)
class Asked:
    """What was said on the command line; `named` is a name or a file, `seconds` are for all probes."""

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


# --- measured ------------------------------------------------------------------------------------------------------


def _measured(asked: Asked, runs: "list[Alike]", least: int = 1) -> "tuple[Line, ...]":
    from mergenet.training.probe import ProbeFailed, probe
    from tune.forecast.forecast import measured

    def measure(spec: "RunSpec", seconds: float) -> "Probe":
        try:
            return probe(spec, seconds, asked.workers)
        except ProbeFailed as error:
            raise click.ClickException(f"the run cannot be measured: {error}") from None

    return measured(runs, asked.seconds, measure, lambda line: click.echo(line, err=True), least)


def _place(asked: Asked) -> "Place":
    from psutil import virtual_memory

    from cluster.session import available
    from tune.forecast.kinds import Place

    each = asked.workers * (1 if asked.device == "cuda" else asked.threads)
    there, free = available(asked.device), virtual_memory().available
    place = Place(asked.device, there, each, free, asked.concurrent, asked.runs)
    place.check()
    return place


def _command(asked: Asked, name: str, *words: str) -> str:
    """What starts it, as it was asked for here."""
    said = [*own_name(), name, asked.named, *asked.overrides, *words]
    said += ["--threads", str(asked.threads)] if asked.threads > 1 else []
    said += [word for entry in asked.data for word in ("--data", entry)]
    said += ["--runs", str(asked.runs)] if str(asked.runs) != "runs" else []
    return shlex.join(said)


# --- the three kinds -----------------------------------------------------------------------------------------------


def _recipe(asked: Asked) -> "Forecast":
    from mergenet.experiment import load_experiment
    from mergenet.jobs import prepare
    from mergenet.training.amounts import amounts_of
    from mergenet.training.files import read_result
    from mergenet.training.spec import data_of
    from tune.forecast.alike import Alike
    from tune.forecast.kinds import forecast_recipe
    from tune.forecast.seeds import seeds_for

    experiment, place = load_experiment(asked.named, asked.overrides), _place(asked)
    jobs = [
        prepare(
            experiment,
            read_paths(asked.data),
            asked.runs,
            seed,
            asked.workers,
            asked.device,
            asked.threads,
            asked.allow_code,
        )
        for seed in range(asked.seeds or 1)
    ]
    missing = [job for job in jobs if (read_result(job.spec.folder) or {}).get("status") != "finished"]
    about = f"{experiment.name}: {len(jobs) - len(missing)} of {len(jobs)} runs are there"
    runs = []
    if missing:
        job = missing[0]
        data = data_of(job.spec.experiment, job.spec.data)
        runs = [Alike(experiment.name, job.spec, amounts_of(job.spec.experiment, job.plan, data), len(missing))]
    words = ["--workers", str(asked.workers)] if asked.workers > 1 else []
    words += ["--seed", str(missing[0].spec.seed)] if missing and missing[0].spec.seed else []
    lines = _measured(asked, runs)
    return forecast_recipe(
        about, lines, place, seeds_for(len(jobs), 1, asked.effect), _command(asked, "train", *words)
    )


def _table(asked: Asked) -> "Forecast":
    from tune.ablate import Places, find_missing
    from tune.forecast.alike import alike
    from tune.forecast.kinds import forecast_table
    from tune.forecast.seeds import seeds_of

    options = TableOptions(asked.named, asked.scale, asked.seeds, "last", asked.data, asked.runs, asked.results)
    place, table = _place(asked), options.plan()
    ablation = find_missing(
        table, Places(asked.runs, asked.results, asked.device, asked.threads), options.shows
    )
    seeds = seeds_of(options.assembled(table, ablation.evidence), asked.effect)
    cells, missing, groups = len(table.cells()), len(ablation.missing()), alike(ablation.jobs)
    about = f"{table.table.name} at scale {asked.scale}: {cells - missing} of {cells} cells are there"
    lines = _measured(asked, [run for run, _ in groups])
    words = ["--scale", asked.scale, *(["--seeds", str(asked.seeds)] if asked.seeds else [])]
    words += ["--results", str(asked.results)] if str(asked.results) != "results" else []
    command = _command(asked, "ablate", *words)
    return forecast_table(about, lines, [jobs for _, jobs in groups], place, seeds, command)


def _sweep(asked: Asked) -> "Forecast":
    from tune.forecast.corners import corners
    from tune.forecast.kinds import corner_runs, forecast_sweep
    from tune.forecast.seeds import seeds_for
    from tune.search.ledger import DEFINITION, read_log
    from tune.search.plan import Setting, plan_sweep
    from tune.search.sweep import load_sweep

    sweep, place = load_sweep(asked.named, asked.overrides), _place(asked)
    setting = Setting(asked.device, 1, asked.threads)
    searched = plan_sweep(sweep, sweep.values(), setting, read_paths(asked.data), asked.runs)
    log = read_log(searched.folder) if (searched.folder / DEFINITION).exists() else None
    over = sum(trial.state != "running" for trial in log.trials()) if log else 0
    left = max(0, sweep.budget.trials - over)
    about = f"{sweep.name}: {over} of {sweep.budget.trials} trials are there"
    cheap, dear = corners(searched) if left else (None, None)
    runs = {} if cheap is None or dear is None else {_named("cheapest", cheap): cheap, _named("dearest", dear): dear}
    lines = _measured(asked, corner_runs(runs, searched.data), least=len(runs))
    seeds = seeds_for(6, 1, asked.effect)
    return forecast_sweep(about, lines, left, sweep.scheduler, place, seeds, _command(asked, "sweep"))
