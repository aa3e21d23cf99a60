"""A sweep as an object: an experiment, the space around it, what is sought, and how.

A sweep is a YAML file and no code. Its space speaks in the experiment's own paths.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mergenet.config import (
    Choice,
    InputError,
    Listed,
    Options,
    about,
    merge,
    nearest,
    parse,
    read_file,
    read_override,
)
from mergenet.experiment import Experiment, Name, recipe_values
from tune.scale import Changes, Layers, Scale, laid_over, layers_of, scales, shared_scale

SWEEPS = Path(__file__).parents[1] / "sweeps"
COST = "adapter.parameters"
"""The objective that no run measures: the numbers in all adapters."""


# --- what is searched --------------------------------------------------------------------------------------------


class Ints(Options):
    """Whole numbers from `low` to `high`, both among them; by their logarithm where `log`."""

    low: int
    high: int
    step: PositiveInt = 1
    log: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        _check_range(self.low, self.high, self.log)
        if self.log and self.step > 1:
            raise ValueError("step: goes with steps of equal size; leave log or step out")
        return self


class Floats(Options):
    """Numbers from `low` to `high`; by their logarithm where `log`."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        _check_range(self.low, self.high, self.log)
        return self


def _check_range(low: float, high: float, log: bool) -> None:
    if low >= high:
        raise ValueError(f"low {low} is not below high {high}")
    if log and low <= 0:
        raise ValueError(f"low {low}: a logarithm needs numbers above 0")


class Values(Options):
    """One of these. At a transfer's `from` or `to` they are ports, and may be patterns: `source.layer4.*`."""

    of: Annotated[Listed[Any], Field(min_length=1)]

    @model_validator(mode="after")
    def _differ(self) -> Self:
        labels = [label_of(value) for value in self.of]
        twice = [label for label in labels if labels.count(label) > 1]
        if twice:
            raise ValueError(f"{twice[0]} stands there twice")
        return self


def label_of(value: Any) -> Any:
    """What stands for a value in records and plots: itself where it is plain, else its options in a line."""
    if not isinstance(value, dict | list):
        return value
    if isinstance(value, list):
        return f"[{', '.join(str(label_of(one)) for one in value)}]"
    return ", ".join(f"{key} {label_of(one)}".strip() if one != {} else str(key) for key, one in value.items())


Dimension = Annotated[
    Ints | Floats | Values,
    Choice(int=Ints, float=Floats, values=Values),
    BeforeValidator(lambda value: {"values": {"of": value}} if isinstance(value, list | tuple) else value),
]
"""What one path of the experiment may be; a plain list is `values`."""


# --- how -----------------------------------------------------------------------------------------------------------


class Tpe(Options):
    """Optuna's tree-structured Parzen estimator, multivariate, by groups of parameters that go together.

    `startup` random trials come first.
    """

    startup: NonNegativeInt = 10


class Random(Options):
    """Independent draws: what importance is best measured on."""


class Qmc(Options):
    """A scrambled Sobol sequence over numbers, random values of the rest: covers a space more evenly than chance."""


class Nsga2(Options):
    """A genetic algorithm for two objectives, in generations of `population` trials."""

    population: Annotated[int, Field(ge=2)] = 16


class Exhaustive(Options):
    """Every point once, in random order; the space must be finite."""


Sampler = Annotated[
    Tpe | Random | Qmc | Nsga2 | Exhaustive,
    Choice(tpe=Tpe, random=Random, qmc=Qmc, nsga2=Nsga2, exhaustive=Exhaustive),
]


class ToTheEnd(Options):
    """Every trial runs to its end."""


class Asha(Options):
    """Asynchronous successive halving (Li et al. 2020): of the trials that get to a rung one in `factor` goes on.

    Rungs are at `grace`, `grace` x `factor`, ... epochs of the trial's own. A trial stopped so has no final figure.
    """

    grace: PositiveInt = 1
    factor: Annotated[int, Field(ge=2)] = 3


Scheduler = Annotated[ToTheEnd | Asha, Choice(none=ToTheEnd, asha=Asha)]


class Budget(Options):
    """When it is enough: so many trials, or hours, whichever comes first."""

    trials: PositiveInt = 30
    hours: PositiveFloat | None = None


class Sweep(Options):
    """A search around an experiment.

    Attributes:
        experiment: name of the recipe, or path of the file, that is changed.
        scale: the shared scale that is laid over it; none for the recipe as it is.
        change: of the experiment, for every trial.
        space: dotted path in the experiment -> what it may be. A path through an option (`...encoding.svd.rank`)
            takes part where that option is taken.
        objectives: `learner.metric` on validation, or `adapter.parameters` -> which way is better; one or two.
        seed: of every trial's run, so that they are paired, and of the sampler.
    """

    name: Name
    title: str
    experiment: str
    scale: str | None = None
    change: Changes = Field(default={})
    space: Annotated[dict[str, Dimension], Field(min_length=1)]
    objectives: Annotated[dict[str, Literal["higher", "lower"]], Field(min_length=1, max_length=2)]
    sampler: Sampler = Tpe()
    scheduler: Scheduler = ToTheEnd()
    budget: Budget = Budget()
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.scale is not None and self.scale not in scales():
            raise ValueError(f"scale: no scale '{self.scale}'; {nearest(self.scale, scales())}")
        for objective in self.objectives:
            if not re.fullmatch(r"[\w-]+\.\w+", objective):
                raise ValueError(f"objectives.{objective}: write it as learner.metric, or {COST}")
        if set(self.objectives) == {COST}:
            raise ValueError(f"objectives: {COST} alone needs no training; add a metric, as target.top1")
        if isinstance(self.sampler, Nsga2) and len(self.objectives) < 2:
            raise ValueError("sampler: nsga2 weighs two objectives against each other; add one, or take tpe")
        if isinstance(self.sampler, Exhaustive):
            for path, dimension in self.space.items():
                if isinstance(dimension, Floats):
                    raise ValueError(f"space.{path}: has no end of values for sampler 'exhaustive'; list some")
        return self

    @property
    def measured(self) -> str:
        """The objective by which trials are stopped early: the first that is measured."""
        return next(objective for objective in self.objectives if objective != COST)

    def layers(self) -> Layers:
        """What is laid over the experiment: the scale, the changes, and that no test split is read.

        Raises:
            InputError: no such recipe or file.
        """
        scale = parse(Scale, shared_scale(self.scale)) if self.scale else Scale()
        always = {"name": self.name, "evaluation.test": "never"}
        return layers_of(recipe_values(self.experiment), scale, self.change, always)

    def values(self) -> dict[str, Any]:
        """The plain values of the experiment that is searched around.

        Raises:
            InputError: no such recipe or file.
        """
        return laid_over(recipe_values(self.experiment), self.layers())


# --- from files --------------------------------------------------------------------------------------------------


def sweeps() -> list[str]:
    """Names of the sweeps that come with the package."""
    return sorted(path.stem for path in SWEEPS.glob("*.yaml"))


def holds_sweep(named: str) -> bool:
    """Whether this is the path of a file that says what a sweep is: it has a space."""
    path = Path(named)
    return path.is_file() and "space" in read_file(path)


def load_sweep(what: str, overrides: Iterable[str] = ()) -> Sweep:
    """A sweep by its name, or by the path of its YAML file, with overrides laid over it.

    Args:
        overrides: `path=value`, of the sweep itself (`budget.trials=9`, `space.transfers.main.cycle=[1, 4]`) or of its
            experiment (`training.epochs=3`).

    Raises:
        InputError: there is none, or it does not fit.
    """
    is_file = "/" in what or what.endswith((".yaml", ".yml"))
    if not is_file and what not in sweeps():
        raise InputError(f"no sweep '{what}'; {nearest(what, sweeps())} (a file is named by its path)")
    values = read_file(Path(what) if is_file else SWEEPS / f"{what}.yaml")
    for text in overrides:
        values = _overridden(values, text)
    with about(f"sweep {what}"):
        return parse(Sweep, values)


def _overridden(values: dict[str, Any], text: str) -> dict[str, Any]:
    nested = read_override(text)
    path, _, _ = text.partition("=")
    first, _, rest = path.partition(".")
    if first in ("space", "change") and rest:  # their keys are paths themselves
        return {**values, first: {**(values.get(first) or {}), rest: _at(nested, path)}}
    if text.startswith("objectives="):  # which are sought is said whole
        return {**values, **nested}
    if first in Sweep.model_fields and first != "name":
        laid: dict[str, Any] = merge(Sweep, values, nested)
        return laid
    if first in Experiment.model_fields and first != "name":
        return {**values, "change": {**(values.get("change") or {}), path: _at(nested, path)}}
    known = [*Sweep.model_fields, *Experiment.model_fields]
    raise InputError(f"override '{text}': neither the sweep nor its experiment has '{first}'; {nearest(first, known)}")


def _at(nested: Any, path: str) -> Any:
    """The value that `nest` put at a path."""
    for word in path.split("."):
        nested = nested[word]
    return nested
