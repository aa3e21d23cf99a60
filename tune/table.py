"""A table as an object: an experiment, the arms that change it, the columns that are read off, its scales and seeds.

A table is a YAML file and no code. A scale is laid over its experiment, and its arms over both: the same table on other
data and models. What the paper has in its place stands in `paper.yaml`.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from mergenet.config import InputError, Options, about, merge, nearest, parse, read_file
from mergenet.experiment import Experiment, Name, recipe_values
from tune.scale import NOTHING, Changes, Scale, at_scale, shared_scale

TABLES = Path(__file__).parent / "tables"
PAPER = Path(__file__).parent / "paper.yaml"

HELD = "parameters"
"""The metric that no run measures: the numbers held in training, in millions."""

Better = Literal["higher", "lower"]


class Arm(Options):
    """An experiment of the table: its base with something changed.

    Attributes:
        label: in its row; `{learner}` in it stands for that learner's model.
        change: of the table's experiment.
        trained: frozen learner -> `arm.learner`, whose weights at the end of the same seed it is.
        baseline: the arm it is compared with, if not the table's; `none` for a row that stands by itself.
        series, x: of a table that is a curve: which line, and where on it.
    """

    label: str
    change: Changes = Field(default={})
    trained: dict[Name, str] = Field(default={})
    baseline: str | None = None
    series: str | None = None
    x: float | None = None


class Column(Options):
    """What is read off every arm's learner of one name.

    Attributes:
        title: above the column; `{learner}` in it stands for that learner's model.
        better: which way is.
    """

    title: str
    better: Better = "higher"


class TableScale(Scale):
    """A scale as a table has it.

    Attributes:
        arms: arm -> what changes of it at this scale, over its own change.
    """

    arms: dict[Name, Changes] = Field(default={})


class Table(Options):
    """Arms x seeds x columns.

    Attributes:
        experiment: name of the recipe, or path of the file, that is changed; or the experiment itself.
        baseline: the arm that others are compared with.
        columns: `learner.metric` -> what it is; the metric `parameters` is what the arm holds in training.
        primary: `arm learner.metric` of the comparisons that the table is made for, named before it runs; all where
            none is named. The others are exploratory.
        seeds: 0 to one less.
        paper: name in `paper.yaml` of what the paper has.
        scales: name -> what it changes here, over the shared scale of that name where there is one.
        x_title: of the arms' `x`.
    """

    name: Name
    title: str
    experiment: str | dict[str, Any]
    arms: dict[Name, Arm]
    baseline: str
    columns: dict[str, Column]
    primary: list[str] = Field(default=[])
    seeds: PositiveInt = 6
    paper: str | None = None
    scales: dict[Name, TableScale]
    x_title: str | None = None

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        for path, named in [("baseline", self.baseline), *self._baselines()]:
            if named not in self.arms and not (named == "none" and path != "baseline"):
                raise ValueError(f"{path}: no arm '{named}'; {nearest(named, self.arms)}")
        for column in self.columns:
            if not re.fullmatch(r"[\w-]+\.\w+", column):
                raise ValueError(f"columns.{column}: write it as learner.metric")
        for named in self.primary:
            self._check_primary(named)
        self._check_scales()
        for name, arm in self.arms.items():
            for learner, end in arm.trained.items():
                if end.partition(".")[0] not in self.arms or "." not in end:
                    raise ValueError(f"arms.{name}.trained.{learner}: write it as arm.learner, got '{end}'")
        return self

    def _check_scales(self) -> None:
        for scale, changes in self.scales.items():
            for named in changes.arms.keys() - self.arms.keys():
                raise ValueError(f"scales.{scale}.arms: no arm '{named}'; {nearest(named, self.arms)}")

    def _check_primary(self, named: str) -> None:
        arm, _, column = named.partition(" ")
        if arm not in self.arms or column not in self.columns or not self.is_comparison(arm, column):
            example = f"{next(reversed(self.arms))} {next(iter(self.columns))}"
            raise ValueError(f"primary: '{named}' is no arm with a baseline and a measured column, as '{example}' is")

    def is_comparison(self, arm: str, column: str) -> bool:
        """Whether an arm has a baseline in a column that is measured."""
        return self.baseline_of(arm) is not None and not column.endswith(f".{HELD}")

    def _baselines(self) -> list[tuple[str, str]]:
        return [(f"arms.{name}.baseline", arm.baseline) for name, arm in self.arms.items() if arm.baseline is not None]

    def baseline_of(self, arm: str) -> str | None:
        """The arm that `arm` is compared with; None for the baseline itself and for rows that stand by themselves."""
        named = self.arms[arm].baseline or self.baseline
        return None if named in (arm, "none") else named

    def learners_of_columns(self) -> list[str]:
        """The learners whose figures the table shows, each once."""
        return list(dict.fromkeys(column.partition(".")[0] for column in self.columns))

    def scale(self, name: str) -> TableScale:
        """The shared scale of this name with the table's own changes over it.

        Raises:
            InputError: the table has no such scale.
        """
        if name not in self.scales:
            raise InputError(f"--scale {name}: {self.name} has no such scale; {nearest(name, self.scales)}")
        return parse(
            TableScale, merge(TableScale, shared_scale(name), self.scales[name].model_dump(exclude_unset=True))
        )


# --- from files --------------------------------------------------------------------------------------------------


def tables() -> list[str]:
    """Names of the tables that come with the package."""
    return sorted(path.stem for path in TABLES.glob("*.yaml"))


def load_table(what: str) -> Table:
    """A table by its name, or by the path of its YAML file.

    Raises:
        InputError: there is none, or it does not fit.
    """
    is_file = "/" in what or what.endswith((".yaml", ".yml"))
    if not is_file and what not in tables():
        raise InputError(f"no table '{what}'; {nearest(what, tables())} (a file is named by its path)")
    path = Path(what) if is_file else TABLES / f"{what}.yaml"
    with about(f"table {what}"):
        table = parse(Table, read_file(path))
        paper_figures(table)
    return table


def paper_figures(table: Table) -> dict[str, dict[str, float]]:
    """Arm -> column -> the paper's figure, of those arms and columns the paper has.

    Raises:
        InputError: no such table of the paper.
    """
    if table.paper is None:
        return {}
    papers: dict[str, dict[str, dict[str, float]]] = read_file(PAPER)
    if table.paper not in papers:
        raise InputError(f"paper: no table '{table.paper}'; {nearest(table.paper, papers)}")
    rows = papers[table.paper]
    return {arm: rows[arm] for arm in table.arms if arm in rows}


# --- as experiments ----------------------------------------------------------------------------------------------


def experiment_of(table: Table, scale_name: str, arm_name: str, overrides: Changes = NOTHING) -> Experiment:
    """The experiment of an arm at a scale.

    A learner that the arm takes `trained` from another names a file that is not there yet.

    Args:
        overrides: laid over everything else.

    Raises:
        InputError: what does not fit, with the arm it is of.
    """
    scale, arm = table.scale(scale_name), table.arms[arm_name]
    trained = {f"learners.{learner}.weights": f"{end}.safetensors" for learner, end in arm.trained.items()}
    base = table.experiment if isinstance(table.experiment, dict) else recipe_values(table.experiment)
    values = at_scale(base, scale, arm.change, scale.arms.get(arm_name, NOTHING), trained, overrides)
    with about(f"table {table.name}, arm {arm_name}"):
        return parse(Experiment, {**values, "name": f"{table.name}-{scale_name}"})


def with_models(table: Table, scale_name: str) -> Table:
    """The table with the names of its baseline's models where labels and titles ask for them: they differ by scale."""
    experiment = experiment_of(table, scale_name, table.baseline)
    models = {f"{{{name}}}": learner.model for name, learner in experiment.learners.items()}
    arms = {name: arm.model_copy(update={"label": _named(arm.label, models)}) for name, arm in table.arms.items()}
    columns = {
        name: column.model_copy(update={"title": _named(column.title, models)})
        for name, column in table.columns.items()
    }
    return table.model_copy(update={"arms": arms, "columns": columns})


def _named(text: str, models: Mapping[str, str]) -> str:
    for place, model in models.items():
        text = text.replace(place, model)
    return text


def seeds_of(table: Table, scale_name: str, asked: int | None) -> Iterable[int]:
    """The seeds of a table at a scale."""
    return range(asked or table.scale(scale_name).seeds or table.seeds)
