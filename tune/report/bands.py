"""The plots of means with a band over seeds: over `x`, and over epochs."""

import math
from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tune.report.drawing import COLOURS, LINES, SOFT, columns_of, panels_of
from tune.results import Entry, Results
from tune.statistics import summary

Band = tuple[list[float], list[float], list[float], list[float]]
"""x, mean, low, high."""


# --- over x ------------------------------------------------------------------------------------------------------

OVER_X = "Mean over seeds, with one standard deviation either way; the baseline across."


def over_x(results: Results, column: str) -> dict[str, Band]:
    """Series -> mean and one standard deviation over x."""
    points: dict[str, list[tuple[float, list[float]]]] = {}
    for arm, options in results.table.arms.items():
        values = results.entries[arm, column].values() if (arm, column) in results.entries else []
        if options.x is not None and values:
            points.setdefault(options.series or "", []).append((options.x, values))
    return {series: _band(sorted(found)) for series, found in points.items()}


def _band(points: list[tuple[float, list[float]]]) -> Band:
    places = [x for x, _ in points]
    summed = [summary(values) for _, values in points]
    means, spreads = [one.mean for one in summed], [one.deviation or 0.0 for one in summed]
    low, high = ([mean + sign * spread for mean, spread in zip(means, spreads, strict=True)] for sign in (-1, 1))
    return places, means, low, high


def draw_over_x(results: Results) -> Figure:
    """Each series a line, each column a panel."""
    figure, panels = panels_of(results, columns_of(results), 4.8, 3.0)
    for column, axis in panels.items():
        for number, (series, band) in enumerate(over_x(results, column).items()):
            _draw(axis, band, COLOURS[number % len(COLOURS)], marker="o", label=series)
        places = sorted({x for xs, *_ in over_x(results, column).values() for x in xs})
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


def _draw(axis: Axes, band: Band, colour: str, marker: str, label: str, line: str = "-", shade: float = 0.15) -> None:
    x, mean, low, high = band
    axis.fill_between(x, low, high, color=colour, alpha=shade, linewidth=0)
    axis.plot(x, mean, color=colour, marker=marker, markersize=4, linewidth=1.5, linestyle=line, label=label)


# --- over epochs -------------------------------------------------------------------------------------------------

OVER_EPOCHS = (
    "On the validation split: mean over seeds, with the range from the lowest to the highest seed; "
    "without the runs that diverged."
)


def over_epochs(entry: Entry) -> Band | None:
    """Over the epochs that every seed has; nothing for an arm that shares another's runs."""
    curves = [dict(figure.curve) for figure in entry.figures.values() if figure.value is not None and figure.curve]
    if entry.same_as is not None or not curves:
        return None
    epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = [[curve[epoch] for curve in curves] for epoch in epochs]
    return (
        epochs,
        [summary(each).mean for each in values],
        [min(each) for each in values],
        [max(each) for each in values],
    )


def draw_over_epochs(results: Results) -> Figure:
    """Each arm a line, each column a panel."""
    figure, panels = panels_of(results, columns_of(results), 4.8, 3.0)
    shade = min(0.15, 0.7 / len(results.table.arms))
    for column, axis in panels.items():
        for arm, (colour, line) in zip(results.table.arms, _looks(results), strict=False):
            entry = results.entries.get((arm, column))
            if entry and (band := over_epochs(entry)):
                _draw(axis, band, colour, marker="", label=results.table.arms[arm].label, line=line, shade=shade)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    lines = {str(line.get_label()): line for axis in panels.values() for line in axis.get_lines()}
    figure.legend(list(lines.values()), list(lines), loc="upper left", bbox_to_anchor=(0.0, 0.0), ncols=3)
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
