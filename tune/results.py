"""A table as it came out: the figures of every arm and column by seed, and how they compare."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tune.statistics import Comparison
from tune.table import Table

Protocol = Literal["last", "best", "best-test"]
"""Which weights a figure is of: the last, the best of validation, or, as the paper has it, the best of test."""


@dataclass(frozen=True)
class Figure:
    """What one arm came to in one column with one seed.

    Attributes:
        value: None where the learner diverged.
        run: the record's folder name, HASH8-sSEED.
        folder: where the record lies; None for one of the committed results, whose folder is not here.
        learner: its name in that run.
        command: repeats it.
        curve: (epoch, the metric on the validation split), in their order.
    """

    value: float | None
    run: str
    folder: str | None
    learner: str
    command: str
    curve: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Entry:
    """One arm in one column.

    Attributes:
        figures: seed -> figure, of the runs that have finished.
        paper: what the paper has here.
        trains: whether the arm trains this learner at all.
        same_as: the arm that shares these very figures, because nothing of what was changed reaches this learner.
        comparison: with the baseline, paired by seed; None where there is nothing to compare.
        primary: whether the comparison is one of those the table is made for.
        standing: `best` of its column, `tied` where it cannot be told from the best.
        notes: what a reader must know of it: missing seeds, diverged learners, transfers that stopped, other
            numbers of workers.
    """

    figures: Mapping[int, Figure]
    paper: float | None = None
    trains: bool = True
    same_as: str | None = None
    comparison: Comparison | None = None
    primary: bool = True
    standing: Literal["best", "tied", "other"] = "other"
    notes: tuple[str, ...] = ()

    def values(self) -> list[float]:
        """The figures there are, by seed."""
        return [figure.value for _, figure in sorted(self.figures.items()) if figure.value is not None]


@dataclass(frozen=True)
class Results:
    """A table at a scale, as far as its runs have finished.

    Attributes:
        seeds: those wanted.
        entries: (arm, column) -> entry, for every arm and every measured column.
        held: arm -> numbers held in training: weights of all learners that reach the columns, and of adapters.
        family: how many primary comparisons there are, over which p is adjusted.
        screening: whether so few pairs cannot carry so many comparisons.
        notes: what a reader must know of the whole table: runs that were made differently, missing cells.
        made_with: versions, hardware and such that all runs share, by name.
        command: makes the table.
        effect: a true difference that the reader would like to find, in the columns' unit.
    """

    table: Table
    scale: str
    about: str
    protocol: Protocol
    seeds: tuple[int, ...]
    entries: Mapping[tuple[str, str], Entry]
    held: Mapping[str, int]
    family: int
    screening: bool
    notes: tuple[str, ...]
    made_with: Mapping[str, str]
    command: str
    effect: float | None = None
