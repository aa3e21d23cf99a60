"""The cheapest and the dearest run of a sweep's space, and what successive halving leaves of its epochs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from mergenet.config import InputError
from mergenet.experiment import Experiment
from mergenet.training.plan import Plan
from mergenet.training.spec import RunSpec
from tune.search.plan import SweepPlan
from tune.search.space import Space
from tune.search.sweep import Asha, Floats, Ints, Scheduler, Values, label_of

STARTS = 200
"""Pairs of ports at which a corner that can run is looked for."""


@dataclass(frozen=True)
class Corner:
    """A point of a space.

    Attributes:
        labour: numbers moved over the whole run: parameters x steps of learners, and of adapters x transfers.
    """

    point: Mapping[str, Any]
    spec: RunSpec
    plan: Plan
    labour: int


def corners(plan: SweepPlan) -> tuple[Corner, Corner]:
    """The runs with the least and with the most labour.

    From a point that can run, each path in its turn is set to what makes the least (the most) of it: one end of a
    range, any of a list.

    Raises:
        InputError: nothing of the space can run.
    """
    start = _start(plan)
    return _followed(plan, start, 1), _followed(plan, start, -1)


def _start(plan: SweepPlan) -> Corner:
    pairs = ([(name, *ends) for ends in sorted(pairing.meet)] for name, pairing in plan.pairings.items())
    for together in islice(product(*pairs), STARTS):
        ends: dict[str, str] = {}
        for name, source, target in together:
            ends |= {f"transfers.{name}.from": source, f"transfers.{name}.to": target}
        for point in _varied(plan.space, ends):
            found = _tried(plan, point)
            if found is not None:
                return found
    raise InputError(f"sweep {plan.sweep.name}: no point was found that can run")


def _varied(space: Space, ends: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Everything at its lowest, then with each of the listed values in its turn."""
    yield space.corner(ends)
    for path, dimension in space.dimensions.items():
        if path not in ends:
            yield from (space.corner({**ends, path: value}) for value in _extremes(dimension))


def _followed(plan: SweepPlan, start: Corner, sign: int) -> Corner:
    best = start
    for path, dimension in plan.space.dimensions.items():
        points = (plan.space.corner({**best.point, path: value}) for value in _extremes(dimension))
        found = [corner for point in points if (corner := _tried(plan, point)) is not None]
        best = min([best, *found], key=lambda corner: sign * corner.labour)
    return best


def _extremes(dimension: Ints | Floats | Values) -> list[Any]:
    if isinstance(dimension, Values):
        return [label_of(value) for value in dimension.of]
    step = dimension.step if isinstance(dimension, Ints) else 1
    past = (dimension.high - dimension.low) % step if isinstance(dimension, Ints) else 0
    return [dimension.low, dimension.high - past]


def _tried(plan: SweepPlan, point: Mapping[str, Any]) -> Corner | None:
    """The run at a point; None where it cannot be."""
    try:
        spec, run = plan.trial(point) if plan.meets(point) else (None, None)
    except InputError:
        return None
    return None if spec is None or run is None else Corner(point, spec, run, labour(spec.experiment, run))


def labour(experiment: Experiment, plan: Plan) -> int:
    """Numbers moved over a whole run: what cheap and dear go by before anything is measured."""
    learners = sum(one.parameters * one.steps for one in plan.learners.values())
    adapters = (plan.transfers[name] for name in experiment.enabled_transfers())
    return learners + sum(one.adapter_parameters * one.transfers for one in adapters)


def expected_share(scheduler: Scheduler, epochs: int) -> float:
    """The share of all epochs that trials come to run: 1 but under successive halving.

    All run to the first rung, one in `factor` to the second, one in `factor`^2 to the third, and so on. Asynchronous
    halving lets some more through, for early trials are compared with few.
    """
    if not isinstance(scheduler, Asha):
        return 1.0
    reached, share, before = min(scheduler.grace, epochs), 1.0, 0
    total = 0.0
    while before < epochs:
        total += share * (reached - before)
        before, share = reached, share / scheduler.factor
        reached = min(reached * scheduler.factor, epochs)
    return total / epochs
