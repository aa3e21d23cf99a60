"""What a report says of a table, in words that every format shares."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from tune.report import remarks
from tune.report.numbers import UNKNOWN, decimals, interval, mean_and_spread, millions, probability
from tune.report.runs import ArmRuns, runs_of
from tune.results import Entry, Results
from tune.statistics import summary
from tune.table import HELD

OURS, COUNT, DIFFERENCE, P, PAPER = "ours", "n", "difference [95 %]", "p", "paper"


@dataclass(frozen=True)
class Row:
    """An arm in a column.

    Attributes:
        notes: numbers of the sheet's notes that are about it.
        cells: head -> text, where there is something to say.
    """

    arm: str
    label: str
    notes: tuple[int, ...]
    cells: Mapping[str, str]
    standing: Literal["best", "tied", "other"]
    has_runs: bool


@dataclass(frozen=True)
class Panel:
    """A column of the table, with its arms beneath each other."""

    column: str
    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Sheet:
    """A report in words.

    Attributes:
        about: name, scale and seeds, and what the scale is good for.
        protocol: which weights the figures are of.
        warning: what stands before anything is read; empty where there is nothing to warn of.
        notes: of single rows, numbered from 1.
        remarks: how to read the table.
        made_with: versions and such, and `command` that makes the table.
    """

    title: str
    about: str
    protocol: str
    warning: str
    panels: tuple[Panel, ...]
    notes: tuple[str, ...]
    remarks: tuple[str, ...]
    made_with: str
    command: str
    runs: tuple[ArmRuns, ...]


def sheet_of(results: Results) -> Sheet:
    """Everything a report says of `results`."""
    said = dict.fromkeys(note for entry in _in_order(results) for note in _notes(results, entry))
    numbers = {note: number for number, note in enumerate(said, start=1)}
    return Sheet(
        title=results.table.title,
        about=remarks.about(results),
        protocol=remarks.PROTOCOLS[results.protocol],
        warning=remarks.warning(results),
        panels=tuple(_panel(results, column, numbers) for column in results.table.columns),
        notes=tuple(said),
        remarks=tuple(remarks.remarks(results)),
        made_with=", ".join(f"{name} {value}" for name, value in results.made_with.items()),
        command=results.command,
        runs=tuple(runs_of(results)),
    )


def heads(panels: Iterable[Panel]) -> list[str]:
    """Of those that a table of these panels has, in their order: the paper last."""
    order = (OURS, COUNT, DIFFERENCE, P)
    found = {head for panel in panels for row in panel.rows for head in row.cells}
    return [head for head in order if head in found] + sorted(found.difference(order))


def _in_order(results: Results) -> list[Entry]:
    table = results.table
    keys = [(arm, column) for column in table.columns for arm in table.arms]
    return [results.entries[key] for key in keys if key in results.entries]


def _panel(results: Results, column: str, numbers: Mapping[str, int]) -> Panel:
    options = results.table.columns[column]
    rows = tuple(_row(results, arm, column, numbers) for arm in results.table.arms)
    return Panel(column, f"{options.title} ({options.better} is better)", rows)


def _row(results: Results, arm: str, column: str, numbers: Mapping[str, int]) -> Row:
    entry = results.entries.get((arm, column), Entry(figures={}))
    if column.endswith(f".{HELD}"):
        cells = {OURS: millions(results.held[arm]) if arm in results.held else UNKNOWN}
    else:
        digits = _digits(results, column)
        cells = {OURS: _figure(entry, digits), COUNT: _count(results, entry, column)}
        cells |= {DIFFERENCE: _difference(results, arm, entry, digits), P: _p(entry)}
    if entry.paper is not None:
        cells[PAPER + remarks.paper_mark(results)] = _paper(entry.paper, column) + remarks.paper_mark(results)
    shown = {head: text for head, text in cells.items() if text}
    notes = tuple(numbers[note] for note in _notes(results, entry))
    has_runs = bool(entry.figures) or arm in results.held
    return Row(arm, results.table.arms[arm].label, notes, shown, entry.standing, has_runs)


def _notes(results: Results, entry: Entry) -> list[str]:
    """What is to be known of the row, with what it is compared with if that is not what the others are."""
    if entry.comparison is None or entry.comparison.baseline == results.table.baseline:
        return list(entry.notes)
    return [f"compared with {results.table.arms[entry.comparison.baseline].label}", *entry.notes]


def _digits(results: Results, column: str) -> int:
    found = [summary(entry.values()) for key, entry in results.entries.items() if key[1] == column and entry.values()]
    return decimals(one.deviation for one in found if one.deviation is not None)


def _figure(entry: Entry, digits: int) -> str:
    if values := entry.values():
        return mean_and_spread(values, digits)
    if not entry.trains:
        return "-"
    return "diverged" if entry.figures else "no run yet"


def _count(results: Results, entry: Entry, column: str) -> str:
    """How many figures there are, in a column that has not everywhere those of all seeds."""
    counts = {len(results.entries[key].values()) for key in results.entries if key[1] == column}
    return str(len(entry.values())) if counts - {0, len(results.seeds)} and entry.values() else ""


def _difference(results: Results, arm: str, entry: Entry, digits: int) -> str:
    if entry.same_as is not None:
        return f"as {results.table.arms[entry.same_as].label}"
    if entry.comparison is None:
        return "baseline" if arm == results.table.baseline else ""
    compared = entry.comparison
    return interval(compared.mean, compared.interval, digits)


def _p(entry: Entry) -> str:
    if entry.same_as is not None or entry.comparison is None:
        return ""
    if not entry.primary:
        return "exploratory"
    return UNKNOWN if entry.comparison.adjusted is None else probability(entry.comparison.adjusted)


def _paper(figure: float, column: str) -> str:
    return str(figure) if column.endswith(f".{HELD}") else f"{figure:.2f}"
