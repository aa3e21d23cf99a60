"""What came of a sweep: which trials count, which are best, and the space they are points of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mergenet.training.files import in_turn, read_json, world_sizes
from tune.report.sweep.names import short_names
from tune.search.ledger import Log, State, Trial
from tune.search.space import Space
from tune.search.sweep import Values, label_of

MOST = 10
"""Of the best trials."""


@dataclass(frozen=True)
class Outcome:
    """A sweep's trials in its space.

    Attributes:
        trials: all that were asked for, by number.
        names: path -> its short name.
        workers: number of a trial whose record is here -> how many workers trained it, in words.
    """

    log: Log
    trials: tuple[Trial, ...]
    space: Space
    names: Mapping[str, str]
    workers: Mapping[int, str]

    @property
    def objectives(self) -> list[str]:
        """By their names."""
        return list(self.log.sweep.objectives)

    @property
    def chief(self) -> str:
        """The objective that is measured over epochs, by which plots are coloured."""
        return self.log.sweep.measured

    def of(self, state: State) -> list[Trial]:
        """The trials of a state."""
        return [trial for trial in self.trials if trial.state == state]

    @cached_property
    def finished(self) -> list[Trial]:
        """The trials that have final values: no claim is made of others."""
        return [trial for trial in self.of("finished") if trial.values is not None]

    @cached_property
    def other_workers(self) -> dict[int, str]:
        """The trials that were not trained by as many workers as the sweep gives a trial, from first to last tick."""
        usual = str(self.log.setting.workers)
        return {number: workers for number, workers in self.workers.items() if workers != usual}

    def value(self, trial: Trial, objective: str) -> float | None:
        """The final value of a finished trial, else the last on its curve, where there is one of this objective."""
        if trial.values is not None and trial.state == "finished":
            return trial.values[self.objectives.index(objective)]
        if trial.curve and trial.state == "stopped" and objective == self.chief:
            return trial.curve[-1][1]
        return None

    def final(self, objective: str) -> dict[int, float]:
        """Number -> value of each finished trial."""
        place = self.objectives.index(objective)
        return {trial.number: trial.values[place] for trial in self.finished if trial.values is not None}

    def cost(self, value: float, objective: str) -> float:
        """A value turned so that lower is better."""
        return -value if self.log.sweep.objectives[objective] == "higher" else value

    @cached_property
    def best(self) -> list[Trial]:
        """The best finished trials, best first; with two objectives all that no other beats in both."""
        costs = {trial.number: self._costs(trial) for trial in self.finished}
        ranked = sorted(self.finished, key=lambda trial: (costs[trial.number], trial.number))
        if len(self.objectives) == 1:
            return ranked[:MOST]
        return [trial for trial in ranked if not any(_beats(one, costs[trial.number]) for one in costs.values())]

    def _costs(self, trial: Trial) -> tuple[float, ...]:
        values = trial.values or ()
        return tuple(self.cost(value, objective) for value, objective in zip(values, self.objectives, strict=True))

    def tried(self, path: str) -> list[Any]:
        """The values of a path that some trial has, in the order of the space."""
        found = list(dict.fromkeys(trial.point[path] for trial in self.trials if path in trial.point))
        dimension = self.space.dimensions[path]
        if not isinstance(dimension, Values):
            return sorted(found)
        places = {label: place for place, label in enumerate(map(label_of, dimension.of))}
        return sorted(found, key=lambda label: places.get(label, len(places)))


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Nowhere worse, and not the same."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def outcome_of(log: Log) -> Outcome:
    """What came of a sweep so far."""
    space = log.space
    trials = tuple(log.trials())
    return Outcome(log, trials, space, short_names(space.dimensions), _workers(log, trials))


def _workers(log: Log, trials: Iterable[Trial]) -> dict[int, str]:
    manifests = {trial.number: log.record(trial) / "manifest.json" for trial in trials}
    return {number: in_turn(world_sizes(read_json(path))) for number, path in manifests.items() if path.exists()}
