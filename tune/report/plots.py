"""The plots of a table: paired differences, curves over epochs, figures over `x`."""

import math
import textwrap
from collections.abc import Iterator
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tune.report import remarks
from tune.report.drawing import COLOURS, INK, LINES, SOFT, Plot
from tune.report.numbers import moments
from tune.results import Entry, Results
from tune.statistics import Comparison
from tune.table import HELD

Band = tuple[list[float], list[float], list[float], list[float]]
"""x, mean, low, high."""


def plots_of(results: Results) -> dict[str, Plot]:
    """Name -> plot, of those there is something to draw for."""
    where = f"{results.table.title}, scale {results.scale}"
    plots = {}
    if any(_compared(results, column) for column in _columns(results)):
        plots["intervals"] = Plot(f"Paired differences: {where}", _intervals_say(results), partial(_intervals, results))
    if any(_series(results, column) for column in _columns(results)):
        plots["series"] = Plot(f"{where}", SERIES_SAY, partial(_figure_over_x, results))
    if any(_curve(entry) for entry in results.entries.values()):
        plots["curves"] = Plot(f"Validation over epochs: {where}", CURVES_SAY, partial(_curves, results))
    return plots


def _columns(results: Results) -> list[str]:
    return [column for column in results.table.columns if not column.endswith(f".{HELD}")]


def _panels(results: Results, width: float, height: float, share: bool = False) -> tuple[Figure, dict[str, Axes]]:
    """A panel a column of the table, two beside each other."""
    columns = _columns(results)
    across = min(2, len(columns))
    down = math.ceil(len(columns) / across)
    figure = Figure(figsize=(width * across, height * down + 0.9), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharey="row" if share else False).flat
    panels = {column: axis for column, axis in zip(columns, axes, strict=False)}
    for axis in list(axes)[len(columns) :]:
        axis.remove()
    for column, axis in panels.items():
        options = results.table.columns[column]
        axis.set_title(f"{options.title} ({options.better} is better)")
    return figure, panels


# --- paired differences ------------------------------------------------------------------------------------------


def _compared(results: Results, column: str) -> dict[str, Comparison]:
    found = {}
    for arm in results.table.arms:
        entry = results.entries.get((arm, column))
        if entry and entry.comparison and entry.same_as is None:
            found[arm] = entry.comparison
    return found


def _intervals_say(results: Results) -> str:
    said = "Each seed a dot, their mean with its 95 % interval; right of zero is better."
    if any(_paper_difference(results, arm, column) is not None for arm, column in results.entries):
        mark = "" if results.scale == "paper" else ", at its own scale"
        said += f" Diamonds: the paper's difference, of one figure each{mark}."
    return f"{said} {remarks.warning(results)}".strip()


def _intervals(results: Results) -> Figure:
    arms = [arm for arm in results.table.arms if any(arm in _compared(results, column) for column in _columns(results))]
    figure, panels = _panels(results, 4.8, 0.34 * len(arms) + 0.7, share=True)
    places = {arm: len(arms) - number for number, arm in enumerate(arms)}
    for column, axis in panels.items():
        axis.axvline(0.0, color=INK, linewidth=0.8)
        for arm, comparison in _compared(results, column).items():
            _interval(axis, comparison, places[arm], results.entries[arm, column].primary)
            paper = _paper_difference(results, arm, column)
            if paper is not None:
                axis.plot(paper, places[arm], "D", markersize=5, markerfacecolor="none", color=COLOURS[1])
        axis.set_yticks(list(places.values()), [textwrap.fill(results.table.arms[arm].label, 28) for arm in arms])
        axis.set_ylim(0.4, len(arms) + 0.6)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel(f"difference to {results.table.arms[results.table.baseline].label}")
    return figure


def _interval(axis: Axes, comparison: Comparison, place: float, primary: bool) -> None:
    colour = COLOURS[0] if primary else SOFT
    differences = list(comparison.differences.values())
    axis.plot(differences, [place] * len(differences), "o", color=colour, alpha=0.4, markersize=3.5, markeredgewidth=0)
    if all(map(math.isfinite, comparison.interval)):
        axis.plot(comparison.interval, [place, place], color=colour, linewidth=2, solid_capstyle="butt")
    axis.plot(comparison.mean, place, "|", color=colour, markersize=11, markeredgewidth=2)


def _paper_difference(results: Results, arm: str, column: str) -> float | None:
    """Of the paper's figures, positive where better."""
    comparison = _compared(results, column).get(arm)
    if comparison is None:
        return None
    ours, theirs = results.entries[arm, column].paper, results.entries[comparison.baseline, column].paper
    if ours is None or theirs is None:
        return None
    return ours - theirs if results.table.columns[column].better == "higher" else theirs - ours


# --- over x ------------------------------------------------------------------------------------------------------

SERIES_SAY = "Mean over seeds, with one standard deviation either way; the baseline across."


def _series(results: Results, column: str) -> dict[str, Band]:
    """Series -> mean and one standard deviation over x."""
    points: dict[str, list[tuple[float, list[float]]]] = {}
    for arm, options in results.table.arms.items():
        values = results.entries[arm, column].values() if (arm, column) in results.entries else []
        if options.x is not None and values:
            points.setdefault(options.series or "", []).append((options.x, values))
    return {series: _band(sorted(found)) for series, found in points.items()}


def _band(points: list[tuple[float, list[float]]]) -> Band:
    summed = [moments(values) for _, values in points]
    spreads = [spread or 0.0 for _, spread in summed]
    means = [mean for mean, _ in summed]
    lows = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
    return [x for x, _ in points], means, lows, [mean + spread for mean, spread in zip(means, spreads, strict=True)]


def _figure_over_x(results: Results) -> Figure:
    figure, panels = _panels(results, 6.4, 3.4)
    for column, axis in panels.items():
        for number, (series, band) in enumerate(_series(results, column).items()):
            _draw(axis, band, COLOURS[number % len(COLOURS)], marker="o", label=series)
        places = sorted({x for xs, *_ in _series(results, column).values() for x in xs})
        _across(axis, results, column, places)
        if all(x > 0 and math.log2(x).is_integer() for x in places):
            axis.set_xscale("log", base=2)
        axis.set_xticks(places, [f"{x:g}" for x in places], minor=False)
        axis.set_xlabel(results.table.x_title or "")
        axis.legend()
    return figure


def _across(axis: Axes, results: Results, column: str, places: list[float]) -> None:
    """The baseline, where it has no place of its own on the line."""
    baseline = results.table.baseline
    entry = results.entries.get((baseline, column))
    if results.table.arms[baseline].x is None and entry and entry.values() and places:
        band = _band([(x, entry.values()) for x in (places[0], places[-1])])
        _draw(axis, band, SOFT, marker="", label=results.table.arms[baseline].label)


def _draw(axis: Axes, band: Band, colour: str, marker: str, label: str, line: str = "-") -> None:
    x, mean, low, high = band
    axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.plot(x, mean, color=colour, marker=marker, markersize=4, linewidth=1.5, linestyle=line, label=label)


# --- over epochs -------------------------------------------------------------------------------------------------

CURVES_SAY = (
    "On the validation split: mean over seeds, with the range from the lowest to the highest seed; "
    "without the runs that diverged."
)


def _curve(entry: Entry) -> Band | None:
    """Over the epochs that every seed has; nothing for an arm that shares another's runs."""
    curves = [dict(figure.curve) for figure in entry.figures.values() if figure.value is not None and figure.curve]
    if entry.same_as is not None or not curves:
        return None
    epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = [[curve[epoch] for curve in curves] for epoch in epochs]
    return epochs, [moments(each)[0] for each in values], [min(each) for each in values], [max(each) for each in values]


def _curves(results: Results) -> Figure:
    figure, panels = _panels(results, 6.4, 3.4)
    for column, axis in panels.items():
        for arm, (colour, line) in zip(results.table.arms, _looks(results), strict=False):
            entry = results.entries.get((arm, column))
            if entry and (band := _curve(entry)):
                _draw(axis, band, colour, marker="", label=results.table.arms[arm].label, line=line)
        axis.set_xlabel("epoch")
    lines = {str(line.get_label()): line for axis in panels.values() for line in axis.get_lines()}
    figure.legend(list(lines.values()), list(lines), loc="outside right upper")
    return figure


def _looks(results: Results) -> Iterator[tuple[str, str]]:
    """Colour and line of each arm: the baseline in grey."""
    number = 0
    for arm in results.table.arms:
        if arm == results.table.baseline:
            yield SOFT, "-"
        else:
            yield COLOURS[number % len(COLOURS)], LINES[number // len(COLOURS) % len(LINES)]
            number += 1
