"""The plot of paired differences."""

import math
import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tune.report import remarks
from tune.report.drawing import COLOURS, INK, SOFT, columns_of, panels_of
from tune.results import Results
from tune.statistics import Comparison


def compared(results: Results, column: str) -> dict[str, Comparison]:
    """Arm -> comparison, of the arms that have one in this column."""
    found = {}
    for arm in results.table.arms:
        entry = results.entries.get((arm, column))
        if entry and entry.comparison and entry.same_as is None:
            found[arm] = entry.comparison
    return found


def caption(results: Results) -> str:
    """What the marks are, and how far to believe them."""
    said = "Mean difference with its 95 % interval, beneath it each seed; right of zero is better."
    if any(entry.comparison and not entry.primary for entry in results.entries.values()):
        said += " Grey: exploratory."
    if any(_paper_difference(results, arm, column) is not None for arm, column in results.entries):
        mark = "" if results.scale == "paper" else ", at its own scale"
        said += f" Diamonds: the paper's difference, of one figure each{mark}."
    return f"{said} {remarks.warning(results)}".strip()


def draw(results: Results) -> Figure:
    """Each arm a row, each column a panel."""
    of_columns = {column: compared(results, column) for column in columns_of(results)}
    found = {column: comparisons for column, comparisons in of_columns.items() if comparisons}
    arms = [arm for arm in results.table.arms if any(arm in comparisons for comparisons in found.values())]
    figure, panels = panels_of(results, list(found), 4.8, 0.45 * len(arms) + 0.7, share=True)
    places = {arm: len(arms) - number for number, arm in enumerate(arms)}
    for column, axis in panels.items():
        axis.axvline(0.0, color=INK, linewidth=0.8)
        for arm, comparison in found[column].items():
            _interval(axis, comparison, places[arm], results.entries[arm, column].primary)
            paper = _paper_difference(results, arm, column)
            if paper is not None:
                axis.plot(paper, places[arm], "D", markersize=5, markerfacecolor="none", color=COLOURS[1])
        axis.set_yticks(list(places.values()), [_arm_label(results, arm) for arm in arms])
        axis.set_ylim(0.4, len(arms) + 0.6)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel(f"difference to {results.table.arms[results.table.baseline].label}")
    return figure


def _arm_label(results: Results, arm: str) -> str:
    label, baseline = results.table.arms[arm].label, results.table.baseline_of(arm)
    if baseline not in (None, results.table.baseline):
        label += f" (to {results.table.arms[baseline].label})"
    return textwrap.fill(label, 28)


def _interval(axis: Axes, comparison: Comparison, place: float, primary: bool) -> None:
    colour = COLOURS[0] if primary else SOFT
    differences = list(comparison.differences.values())
    beneath = [place - 0.25] * len(differences)
    axis.plot(differences, beneath, "o", color=colour, alpha=0.5, markersize=4, markeredgewidth=0)
    if all(map(math.isfinite, comparison.interval)):
        axis.plot(comparison.interval, [place, place], color=colour, linewidth=2, solid_capstyle="butt")
    axis.plot(comparison.mean, place, "|", color=colour, markersize=11, markeredgewidth=2)


def _paper_difference(results: Results, arm: str, column: str) -> float | None:
    """Of the paper's figures, positive where better."""
    comparison = compared(results, column).get(arm)
    if comparison is None:
        return None
    ours, theirs = results.entries[arm, column].paper, results.entries[comparison.baseline, column].paper
    if ours is None or theirs is None:
        return None
    return ours - theirs if results.table.columns[column].better == "higher" else theirs - ours
