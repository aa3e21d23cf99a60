"""Scales: an experiment on other data, models and lengths. A scale is a file; tables and sweeps use it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from mergenet.config import Options, merge, nest, read_file
from mergenet.experiment import Experiment

SCALES = Path(__file__).parent / "scales"

Changes = dict[str, Any]
"""Dotted path in an experiment -> value."""

NOTHING: Changes = {}


class Scale(Options):
    """What to lay over an experiment.

    Attributes:
        about: what it is good for, in a sentence.
        models: of the experiment -> of this scale.
        learners: changes of every learner that has a task.
        change: of the experiment.
        seeds: instead of a table's.
    """

    about: str = ""
    models: dict[str, str] = Field(default={})
    learners: Changes = Field(default={})
    change: Changes = Field(default={})
    seeds: PositiveInt | None = None


def scales() -> list[str]:
    """Names of the shared scales."""
    return sorted(path.stem for path in SCALES.glob("*.yaml"))


def shared_scale(name: str) -> dict[str, Any]:
    """The plain values of a shared scale; none where there is no such."""
    path = SCALES / f"{name}.yaml"
    return read_file(path) if path.exists() else {}


Layers = list[tuple[str, Any]]
"""Changes in the order in which they are laid over each other."""


def at_scale(values: dict[str, Any], scale: Scale, *changes: Changes) -> dict[str, Any]:
    """The plain values of an experiment at a scale, then changed."""
    return laid_over(values, layers_of(values, scale, *changes))


def layers_of(values: dict[str, Any], scale: Scale, *changes: Changes) -> Layers:
    """What `at_scale` lays over an experiment; models are swapped last, so in changes too.

    A learner that the first of the changes brings is changed by the scale right behind it.
    """
    first, *others = changes or (NOTHING,)
    with_task = [name for name, learner in laid_over(values, first.items())["learners"].items() if learner.get("task")]
    scaled = [(f"learners.{name}.{path}", value) for name in with_task for path, value in scale.learners.items()]
    new = [pair for pair in scaled if pair[0].split(".")[1] not in values["learners"]]
    layers = [*scale.change.items(), *(pair for pair in scaled if pair not in new), *first.items(), *new]
    layers += [pair for change in others for pair in change.items()]
    models = {name: learner.get("model") for name, learner in laid_over(values, layers)["learners"].items()}
    swapped = {name: scale.models[model] for name, model in models.items() if model in scale.models}
    return layers + [(f"learners.{name}.model", model) for name, model in swapped.items()]


def laid_over(values: dict[str, Any], layers: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The plain values of an experiment with others laid over them by their paths."""
    for path, value in layers:
        values = merge(Experiment, values, nest(path, value))
    return values
