"""The cells of a table: which they are, what their keys are, and what is held to train them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mergenet.config import InputError, about, nearest
from mergenet.experiment import Experiment
from mergenet.identity import upstream
from mergenet.tasks import Task
from mergenet.training.plan import Plan, make_plan, plan_again
from mergenet.training.spec import Origin, data_of, locate_data
from mergenet.wiring import split_end
from tune.scale import Changes
from tune.table import HELD, Table, experiment_of, with_models

Cell = tuple[str, str, int]
"""Arm, learner, seed."""


@dataclass(frozen=True)
class ArmPlan:
    """An arm with all of its seeds.

    Attributes:
        experiment: whose files of `trained` weights have no place yet.
        plan: of any seed; its cells and hash are not those of all.
        keys: seed -> learner that trains -> key of its cell.
        origins: seed -> learner -> what its weights are trained as.
    """

    experiment: Experiment
    plan: Plan
    keys: Mapping[int, Mapping[str, str]]
    origins: Mapping[int, Mapping[str, Origin]]


@dataclass(frozen=True)
class TablePlan:
    """A table at a scale, checked: every arm with the keys of its cells, and where the data lie."""

    table: Table
    scale: str
    seeds: tuple[int, ...]
    arms: Mapping[str, ArmPlan]
    paths: Mapping[str, str]

    def cells(self) -> dict[Cell, str]:
        """Every cell that the columns show, with its key."""
        learners = self.table.learners_of_columns()
        return {
            (arm, learner, seed): plan.keys[seed][learner]
            for arm, plan in self.arms.items()
            for seed in self.seeds
            for learner in learners
            if learner in plan.keys[seed]
        }

    def held(self) -> dict[str, int]:
        """Arm -> numbers held in training for what the columns show: of learners, adapters and layers of losses."""
        return {arm: _held(plan, self.table.learners_of_columns()) for arm, plan in self.arms.items()}


def plan_table(
    table: Table, scale: str, seeds: Iterable[int], paths: Mapping[str, str], overrides: Changes
) -> TablePlan:
    """Every arm of a table, checked as a run would be.

    Args:
        paths: name of a data set -> where it lies, as the user said.
        overrides: dotted path -> value, laid over every arm.

    Raises:
        InputError: whatever does not fit, with the arm it is of.
    """
    seeds = tuple(seeds)
    experiments = {arm: experiment_of(table, scale, arm, overrides) for arm in table.arms}
    located = locate_data(experiments.values(), paths)
    arms: dict[str, ArmPlan] = {}
    for arm in _in_order(table):
        with about(f"table {table.name}, arm {arm}"):
            arms[arm] = _plan_arm(experiments[arm], seeds, located, table.arms[arm].trained, arms)
    _check_columns(table, arms)
    return TablePlan(with_models(table, scale), scale, seeds, {arm: arms[arm] for arm in table.arms}, located)


def _check_columns(table: Table, arms: Mapping[str, ArmPlan]) -> None:
    """Each is measured of a learner that trains in some arm, and in every arm where it does.

    Others would stay empty, whatever ran, or have no figure of an arm that has run.
    """
    tasks: dict[str, dict[str, Task]] = {}
    for name, arm in arms.items():
        for learner, one in arm.experiment.trained().items():
            tasks.setdefault(learner, {})[name] = one.trained_task
    for column in table.columns:
        learner, _, metric = column.partition(".")
        if learner not in tasks:
            raise InputError(
                f"table {table.name}: columns.{column}: no learner '{learner}' trains in any arm; "
                f"{nearest(learner, tasks)}"
            )
        for name, task in tasks[learner].items():
            if metric not in (HELD, *task.measures):
                raise InputError(
                    f"table {table.name}: columns.{column}: {learner} has no metric '{metric}' in arm {name}; "
                    f"{nearest(metric, [HELD, *task.measures])}"
                )


def _in_order(table: Table) -> list[str]:
    """The arms, each after those it takes trained weights from.

    Raises:
        InputError: arms that wait for each other.
    """
    ordered: list[str] = []
    while len(ordered) < len(table.arms):
        ready = [
            name
            for name, arm in table.arms.items()
            if name not in ordered and all(end.partition(".")[0] in ordered for end in arm.trained.values())
        ]
        if not ready:
            waiting = ", ".join(name for name in table.arms if name not in ordered)
            raise InputError(f"table {table.name}: the arms {waiting} take trained weights from each other in a circle")
        ordered += ready
    return ordered


def _plan_arm(
    experiment: Experiment,
    seeds: tuple[int, ...],
    paths: Mapping[str, str],
    trained: Mapping[str, str],
    before: Mapping[str, ArmPlan],
) -> ArmPlan:
    data = data_of(experiment, paths)
    origins = {
        seed: {learner: _origin(experiment, learner, end, seed, before, paths) for learner, end in trained.items()}
        for seed in seeds
    }
    plan = make_plan(experiment, seeds[0], data, 1, origins[seeds[0]])
    keys = {seed: plan_again(plan, experiment, seed, origins[seed]).cells for seed in seeds}
    return ArmPlan(experiment, plan, keys, origins)


def _origin(
    experiment: Experiment, taker: str, end: str, seed: int, before: Mapping[str, ArmPlan], paths: Mapping[str, str]
) -> Origin:
    """What the weights that `arm.learner` ends with, and `taker` begins with, are trained as."""
    arm, learner = split_end(end)
    keys = before[arm].keys[seed]
    if learner not in keys:
        raise InputError(f"trained: no learner '{learner}' trains in arm '{arm}'; there is {', '.join(keys)}")
    giver, model = before[arm].experiment.learners[learner], experiment.learners[taker].model
    if giver.model != model:
        raise InputError(f"trained.{taker}: {end} is a {giver.model}, and {taker} a {model}")
    return Origin(keys[learner], giver.trained_task.images(data_of(before[arm].experiment, paths)).classes)


def _held(plan: ArmPlan, learners: Iterable[str]) -> int:
    reached = {name for learner in learners for name in upstream(plan.experiment, learner)}
    beside = (
        plan.plan.parameters_of(path)
        for path, edge in plan.experiment.enabled_edges().items()
        if any(split_end(end)[0] in reached for end in edge.changes())
    )
    return sum(plan.plan.learners[name].parameters for name in reached) + sum(beside)
