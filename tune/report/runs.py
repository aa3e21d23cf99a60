"""The runs behind a table, by arm."""

from collections.abc import Iterator
from dataclasses import dataclass

from tune.results import Figure, Results


@dataclass(frozen=True)
class Run:
    """A run of an arm.

    Attributes:
        name: its record's folder name.
        folder: where the record lies; None where it is not here.
        command: repeats it.
        values: column -> what came out, as text.
    """

    seed: int
    name: str
    folder: str | None
    command: str
    values: dict[str, str]


@dataclass(frozen=True)
class ArmRuns:
    """All runs that an arm's row is made from, by seed."""

    arm: str
    label: str
    runs: tuple[Run, ...]


def runs_of(results: Results) -> Iterator[ArmRuns]:
    """Of every arm that has any."""
    for arm, options in results.table.arms.items():
        runs: dict[tuple[int, str], Run] = {}
        for column in results.table.columns:
            entry = results.entries.get((arm, column))
            for seed, figure in sorted(entry.figures.items()) if entry else []:
                run = runs.setdefault((seed, figure.run), _run(seed, figure))
                run.values[column] = "diverged" if figure.value is None else f"{figure.value:.2f}"
        if runs:
            yield ArmRuns(arm, options.label, tuple(runs[key] for key in sorted(runs)))


def _run(seed: int, figure: Figure) -> Run:
    return Run(seed, figure.run, figure.folder, figure.command, {})
