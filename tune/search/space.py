"""The space of a sweep: its paths in an order in which each comes after the option it is part of.

A point is path -> value as the sampler knows it: a number, or the label of one of the listed values. A path through an
option is part of a point only where the point takes that option, so an encoding without a rank has none.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Protocol

from mergenet.config import InputError, choices_along, nearest
from mergenet.experiment import Experiment
from tune.scale import laid_over
from tune.search.sweep import Dimension, Floats, Ints, Values, label_of

END = re.compile(r"transfers\.([\w-]+)\.(from|to)")
Point = Mapping[str, Any]


class Suggests(Protocol):
    """What a point is drawn from: Optuna's trial is one."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number."""

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        """One of the choices."""


@dataclass(frozen=True)
class Space:
    """What points there are.

    Attributes:
        values: the plain experiment that points are laid over.
        dimensions: path -> what it may be; options before what is part of them.
    """

    values: Mapping[str, Any]
    dimensions: Mapping[str, Ints | Floats | Values]

    def draw(self, trial: Suggests) -> dict[str, Any]:
        """A point."""
        point: dict[str, Any] = {}
        for path, dimension in self.dimensions.items():
            if self.takes_part(path, point):
                point[path] = _drawn(trial, path, dimension)
        return point

    def takes_part(self, path: str, point: Point) -> bool:
        """Whether a path is part of a point whose options are chosen."""
        return all(self._option_at(choice, point) in (None, option) for choice, option in self._options[path])

    def _option_at(self, path: str, point: Point) -> str | None:
        """The option that a point, or the experiment below it, takes at a choice; None where it does not say."""
        if path in self.dimensions:
            return _key_of(self._value(path, point[path])) if path in point else "no option"
        return _key_of(_get(self.values, path))

    @cached_property
    def _options(self) -> dict[str, list[tuple[str, str]]]:
        return {path: choices_along(Experiment, path) for path in self.dimensions}

    def changes(self, point: Point) -> dict[str, Any]:
        """A point as changes of the experiment: labels turned into what they stand for, options before their parts."""
        return {path: self._value(path, point[path]) for path in self.dimensions if path in point}

    def _value(self, path: str, known_as: Any) -> Any:
        dimension = self.dimensions[path]
        if not isinstance(dimension, Values):
            return known_as
        return next(value for value in dimension.of if label_of(value) == known_as)

    def experiment(self, point: Point) -> dict[str, Any]:
        """The plain experiment at a point."""
        return laid_over(dict(self.values), self.changes(point).items())

    def corner(self, taken: Point) -> dict[str, Any]:
        """The point with everything at its lowest, or first, but for what is `taken`."""
        return self.draw(_Lowest(taken))

    def transfers(self) -> Iterator[str]:
        """The transfers whose ends are searched."""
        ends = [found for path in self.dimensions if (found := END.fullmatch(path))]
        yield from dict.fromkeys(found[1] for found in ends)

    def ends(self, transfer: str) -> tuple[list[str], list[str]]:
        """What a transfer may read, and what it may write."""

        def ports(key: str) -> list[str]:
            path = f"transfers.{transfer}.{key}"
            dimension = self.dimensions.get(path)
            return list(dimension.of) if isinstance(dimension, Values) else [_get(self.values, path)]

        return ports("from"), ports("to")

    def narrowed(self, transfer: str, sources: list[str], targets: list[str]) -> "Space":
        """The space with fewer ends of a transfer."""
        narrow = dict(self.dimensions)
        for key, ports in (("from", sources), ("to", targets)):
            path = f"transfers.{transfer}.{key}"
            if path in narrow:
                narrow[path] = Values(of=tuple(ports))
        return Space(self.values, narrow)


class _Lowest:
    """Draws what is taken, else the lowest or the first."""

    def __init__(self, taken: Point) -> None:
        self._taken = taken

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return int(self._taken.get(name, low))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self._taken.get(name, low))

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        return self._taken.get(name, choices[0])


def _drawn(trial: Suggests, path: str, dimension: Ints | Floats | Values) -> Any:
    if isinstance(dimension, Ints):
        return trial.suggest_int(path, dimension.low, dimension.high, step=dimension.step, log=dimension.log)
    if isinstance(dimension, Floats):
        return trial.suggest_float(path, dimension.low, dimension.high, log=dimension.log)
    return trial.suggest_categorical(path, [label_of(value) for value in dimension.of])


def _key_of(option: Any) -> str | None:
    """The word of an option that is written as a word or a map of one key, whatever published name stands behind it."""
    if isinstance(option, dict) and len(option) == 1:
        option = str(next(iter(option)))
    return option.partition("/")[0] if isinstance(option, str) else None


def _get(values: Any, path: str) -> Any:
    for word in path.split("."):
        values = values.get(word) if isinstance(values, Mapping) else None
    return values


# --- made ---------------------------------------------------------------------------------------------------------


def make_space(values: Mapping[str, Any], dimensions: Mapping[str, Dimension], ports: Callable[[], list[str]]) -> Space:
    """The space around an experiment, patterns of ports written out.

    Args:
        values: plain, of the experiment.
        ports: gives all `learner.port` of it; called where there are patterns.

    Raises:
        InputError: a pattern no port fits, or a path through an option that the experiment does not take.
    """
    written = {path: _written_out(path, dimension, ports) for path, dimension in dimensions.items()}
    ordered: dict[str, Ints | Floats | Values] = {}
    for path in written:
        for choice, option in choices_along(Experiment, path):
            _check_option(path, choice, option, values, written)
            if choice in written:
                ordered.setdefault(choice, written[choice])
        ordered.setdefault(path, written[path])
    return Space(values, ordered)


def _written_out(path: str, dimension: Any, ports: Callable[[], list[str]]) -> Any:
    if not END.fullmatch(path):
        return dimension
    if not isinstance(dimension, Values) or not all(isinstance(value, str) for value in dimension.of):
        raise InputError(f"space.{path}: ports are listed by their names, as [source.classifier, source.layer4.*]")
    found: dict[str, None] = {}
    for pattern in dimension.of:
        matching = [port for port in ports() if fnmatchcase(port, pattern)] if _is_pattern(pattern) else [pattern]
        if not matching:
            raise InputError(f"space.{path}: no port is like '{pattern}'; {nearest(pattern, ports())}")
        found.update(dict.fromkeys(matching))
    return Values(of=tuple(found))


def _is_pattern(text: str) -> bool:
    return any(mark in text for mark in "*?[")


def _check_option(path: str, choice: str, option: str, values: Mapping[str, Any], written: Mapping[str, Any]) -> None:
    if choice in written:
        dimension = written[choice]
        options = [_key_of(value) for value in dimension.of] if isinstance(dimension, Values) else []
        if option not in options:
            raise InputError(f"space.{path}: space.{choice} has no '{option}'; add it there, or leave this out")
        return
    taken = _key_of(_get(values, choice))
    if taken is not None and taken != option:
        raise InputError(
            f"space.{path}: the experiment takes '{taken}' at {choice}; "
            f"add {choice} to the space, or set it to {option}"
        )
