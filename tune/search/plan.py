"""A sweep checked: what of its space can run, and the run that each of its points is."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mergenet.config import InputError, about, digest, nearest, parse
from mergenet.data.images import Images
from mergenet.experiment import Experiment
from mergenet.identity import NUMERICS
from mergenet.models import check_code, named_ports
from mergenet.training.files import copied_from
from mergenet.training.plan import Plan, make_plan
from mergenet.training.record import run_folder
from mergenet.training.spec import RunSpec, data_of, locate_data
from tune.search.space import Point, Space, make_space
from tune.search.sweep import COST, Sweep, Values, label_of

MODEL = re.compile(r"learners\.[\w-]+\.model")


@dataclass(frozen=True)
class Setting:
    """Where and how the trials of a sweep run; a sweep that goes on keeps it.

    Attributes:
        device: cpu or cuda.
        workers: processes that share each batch of a trial.
        threads: torch's, of each worker.
    """

    device: str = "cpu"
    workers: int = 1
    threads: int = 1


@dataclass(frozen=True)
class Pairing:
    """The ends of a transfer that are searched.

    Attributes:
        meet: pairs (from, to) that can be joined.
        left_out: the others, and why.
    """

    meet: frozenset[tuple[str, str]]
    left_out: Mapping[tuple[str, str], str]


@dataclass(frozen=True)
class SweepPlan:
    """A checked sweep.

    Attributes:
        sweep: with its patterns of ports written out.
        values: plain, of the experiment that its points are laid over.
        space: without ports that meet no other.
        paths: of its data sets.
        runs: folder of all records.
        pairings: transfer -> its ends, where they are searched.
    """

    sweep: Sweep
    setting: Setting
    values: Mapping[str, Any]
    space: Space
    paths: Mapping[str, str]
    data: Mapping[str, Images] = field(repr=False)
    runs: Path
    pairings: Mapping[str, Pairing]

    @cached_property
    def hash(self) -> str:
        """Of all that decides which trials come and what they are; not of how many."""
        plain = self.sweep.dump()
        said = {key: plain[key] for key in ("space", "objectives", "sampler", "scheduler", "seed")}
        data = {name: images.digest() for name, images in self.data.items()}
        return digest({"numerics": NUMERICS, "experiment": dict(self.values), "sweep": said, "data": data})

    @property
    def folder(self) -> Path:
        """Where the sweep's own files lie, beside the records of its trials."""
        return (self.runs / self.sweep.name / f"sweep-{self.hash[:8]}").absolute()

    def with_trials(self, trials: int) -> "SweepPlan":
        """The same with so many trials in all."""
        budget = self.sweep.budget.model_copy(update={"trials": trials})
        return replace(self, sweep=self.sweep.model_copy(update={"budget": budget}))

    def trial(self, point: Point) -> tuple[RunSpec, Plan]:
        """The run that a point is.

        Raises:
            InputError: it cannot run.
        """
        experiment = parse(Experiment, self.space.experiment(point))
        plan = make_plan(experiment, self.sweep.seed, self.data, self.setting.workers)
        folder = run_folder(self.runs, experiment.name, plan.hash, self.sweep.seed).absolute()
        setting = self.setting
        spec = RunSpec(experiment, self.sweep.seed, self.paths, folder, setting.device, setting.threads)
        return replace(spec, remote=copied_from(folder)), plan

    def meets(self, point: Point) -> bool:
        """Whether the ends of a point can be joined."""
        return all(
            (point.get(f"transfers.{name}.from", sources[0]), point.get(f"transfers.{name}.to", targets[0]))
            in pairing.meet
            for name, pairing in self.pairings.items()
            for sources, targets in [self.space.ends(name)]
        )


def plan_sweep(
    sweep: Sweep,
    values: Mapping[str, Any],
    setting: Setting,
    paths: Mapping[str, str],
    runs: Path,
    allow_code: bool = False,
) -> SweepPlan:
    """A sweep with all of its pairs of ports checked.

    Args:
        values: plain, of the experiment (`Sweep.values`).
        paths: name of a data set -> where it lies, as the user said.
        allow_code: lets models that are code of the user's own run.

    Raises:
        InputError: whatever does not fit, or a space of which nothing can run.
    """
    with about(f"sweep {sweep.name}"):
        experiment = parse(Experiment, values)
        _check_code(sweep, experiment, allow_code)
        _check_objectives(sweep, experiment)
        located = locate_data([experiment], paths)
        space = make_space(values, sweep.space, lambda: _ports_of(experiment))
        written = sweep.model_copy(update={"space": dict(space.dimensions)})
        plan = SweepPlan(written, setting, values, space, located, data_of(experiment, located), runs, {})
        for transfer in space.transfers():
            plan = _paired(plan, transfer)
        if not plan.pairings:
            plan.trial(plan.space.corner({}))
        return plan


def _check_code(sweep: Sweep, experiment: Experiment, allow_code: bool) -> None:
    for name, learner in experiment.learners.items():
        check_code(f"learners.{name}.model", learner.model, allow_code)
    for path, dimension in sweep.space.items():
        if MODEL.fullmatch(path) and isinstance(dimension, Values):
            for model in dimension.of:
                check_code(f"space.{path}", str(model), allow_code)


def _check_objectives(sweep: Sweep, experiment: Experiment) -> None:
    if not experiment.evaluation.validation:
        raise InputError("evaluation.validation: a sweep chooses by its figures; hold out a share, as 0.1")
    if not experiment.enabled_edges():
        raise InputError("transfers: there is none to search, nor another edge")
    trained = experiment.trained()
    for objective in sweep.objectives:
        learner, _, metric = objective.partition(".")
        if objective == COST:
            continue
        if learner not in trained:
            raise InputError(f"objectives.{objective}: no learner '{learner}' trains; {nearest(learner, trained)}")
        measures = trained[learner].trained_task.measures
        if metric not in measures:
            raise InputError(f"objectives.{objective}: no metric '{metric}'; {nearest(metric, measures)}")


def _ports_of(experiment: Experiment) -> list[str]:
    return [
        f"{learner}.{port}" for learner, options in experiment.learners.items() for port in named_ports(options.model)
    ]


def _paired(plan: SweepPlan, transfer: str) -> SweepPlan:
    """The plan with the pairs of ends of one transfer that can be joined in some way that the space knows."""
    sources, targets = plan.space.ends(transfer)
    reasons = {
        (source, target): _refusal(plan, {f"transfers.{transfer}.from": source, f"transfers.{transfer}.to": target})
        for source in sources
        for target in targets
    }
    meet = frozenset(pair for pair, reason in reasons.items() if reason is None)
    left_out = {pair: reason for pair, reason in reasons.items() if reason is not None}
    if not meet:
        (source, target), reason = next(iter(left_out.items()))
        raise InputError(f"space.transfers.{transfer}: no pair of ports can be joined; {source} -> {target}: {reason}")
    narrow = plan.space.narrowed(
        transfer,
        [source for source in sources if any(source == one for one, _ in meet)],
        [target for target in targets if any(target == one for _, one in meet)],
    )
    return replace(plan, space=narrow, pairings={**plan.pairings, transfer: Pairing(meet, left_out)})


def _refusal(plan: SweepPlan, ends: Point) -> str | None:
    """Why two ends can be joined at no corner of the space; None where they can."""
    refused = None
    for corner in _corners(plan.space, ends):
        try:
            plan.trial(corner)
        except InputError as error:
            refused = refused or str(error)
        else:
            return None
    return refused


def _corners(space: Space, ends: Point) -> Iterator[dict[str, Any]]:
    """Everything at its lowest, then with each of the listed values in its turn."""
    yield space.corner(ends)
    for path, dimension in space.dimensions.items():
        if isinstance(dimension, Values) and path not in ends:
            yield from (space.corner({**ends, path: label_of(value)}) for value in dimension.of[1:])


# --- room -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Room:
    """How many trials run at once, and the arithmetic behind it.

    Attributes:
        gpu: share of one that each worker has; 0 on processors.
    """

    trials: int
    gpu: float
    why: str


def room_for(setting: Setting, there: int, concurrent: int | None) -> Room:
    """How many trials fit at once so that all the workers of each can start: otherwise they would wait for each other.

    Args:
        there: processors, or GPUs.
        concurrent: so many and no more.

    Raises:
        InputError: not one fits, or not as many as are asked for.
    """
    on_gpu = setting.device == "cuda"
    each = setting.workers if on_gpu else setting.workers * setting.threads
    what = "GPUs" if on_gpu else "processors"
    parts = f"{setting.workers} worker{'s'[: setting.workers - 1]}"
    parts += "" if on_gpu else f" x {setting.threads} thread{'s'[: setting.threads - 1]}"
    most = there // each
    if most < 1:
        raise InputError(
            f"a trial of {parts} needs {each} {what}, and there are {there}: take fewer --workers-per-trial"
        )
    if concurrent is not None and concurrent > most:
        if not on_gpu or setting.workers > 1:
            raise InputError(f"--concurrent {concurrent}: {there} {what} have room for {most} trials of {parts} each")
        share = -(-concurrent // there)
        return Room(concurrent, 1 / share, f"{concurrent} trials on {there} {what}: each has 1/{share} of one")
    trials = concurrent or most
    why = f"{parts} = {each} {what} a trial; {there} // {each} = {most} at once"
    return Room(trials, float(on_gpu), why if trials == most else f"{why}, {trials} asked for")
