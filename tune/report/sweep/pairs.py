"""The plots of two things at once: which ports meet, and how two objectives trade."""

from collections.abc import Iterator
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tune.report.drawing import COLOURS, SOFT
from tune.report.sweep.axes import SHADES, Scale, dots, figures, legend, scale_of, shading
from tune.report.sweep.outcome import Outcome
from tune.search.sweep import COST

Cells = dict[tuple[str, str], list[float]]
CELL, LETTER = 0.26, 0.075
"""Inches, of a cell and of a letter beside it."""


def caption(outcome: Outcome) -> str:
    """What the cells are."""
    return (
        f"Mean final {outcome.chief} of the finished trials of each pair, and how many they are; the mean, because the "
        "best of many is good by chance. A cross: tried, and none finished. Blank: not tried. Hatched: cannot be "
        "joined. Ports that no trial has are left out."
    )


def transfers(outcome: Outcome) -> Iterator[str]:
    """Those of which both ends are searched, and a trial finished."""
    for transfer in outcome.space.transfers():
        both = all(f"transfers.{transfer}.{end}" in outcome.space.dimensions for end in ("from", "to"))
        if both and any(_cells(outcome, transfer).values()):
            yield transfer


def _cells(outcome: Outcome, transfer: str) -> Cells:
    """(from, to) -> final values, none where no trial of the pair finished."""
    source, target = (f"transfers.{transfer}.{end}" for end in ("from", "to"))
    final, cells = outcome.final(outcome.chief), Cells()
    for trial in outcome.trials:
        if source in trial.point and target in trial.point:
            values = cells.setdefault((trial.point[source], trial.point[target]), [])
            values += [final[trial.number]] if trial.number in final else []
    return cells


def draw_pairs(outcome: Outcome, transfer: str) -> Figure:
    """Sources down, targets across."""
    cells = _cells(outcome, transfer)
    down, across = (scale_of(outcome, f"transfers.{transfer}.{end}") for end in ("from", "to"))
    figure, axes, bar = _panels(across, down)
    means = {pair: fmean(values) for pair, values in cells.items() if values}
    norm = shading(list(means.values()))
    for pair, values in cells.items():
        _cell(axes, (across.at(pair[1]), down.at(pair[0])), len(values), means.get(pair), norm)
    for joined in outcome.log.left_out.get(transfer, ()):
        source, _, target = joined.partition(" -> ")
        if source in down.levels and target in across.levels:
            _hatched(axes, across.at(target), down.at(source))
    _frame(axes, across, down)
    _bar(bar, outcome, norm)
    return figure


def _panels(across: Scale, down: Scale) -> tuple[Figure, Axes, Axes]:
    """Cells of one size, with room for the labels to the left, and to the right the bar of colours."""
    width, height = CELL * len(across.levels), CELL * len(down.levels)
    left, tall = 0.5 + LETTER * max(map(len, down.labels)), max(height, 1.6)
    wide = max(6.4, left + width + 1.0)
    figure = Figure(figsize=(wide, tall))
    axes = figure.add_axes((left / wide, 1.0 - height / tall, width / wide, height / tall))
    bar = figure.add_axes(((left + width + 0.2) / wide, 0.0, 0.15 / wide, 1.0))
    return figure, axes, bar


def _cell(axes: Axes, place: tuple[float, float], count: int, mean: float | None, norm: Normalize) -> None:
    if mean is None:
        axes.plot(*place, "x", color=SOFT, markersize=5)
        return
    red, green, blue, _ = SHADES(norm(mean))
    ink = "#ffffff" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.55 else "#000000"
    axes.add_patch(Rectangle((place[0] - 0.5, place[1] - 0.5), 1, 1, facecolor=(red, green, blue), linewidth=0))
    axes.text(*place, str(count), ha="center", va="center", fontsize=7, color=ink)


def _hatched(axes: Axes, x: float, y: float) -> None:
    looks: dict[str, Any] = {"fill": False, "hatch": "/////", "edgecolor": SOFT, "linewidth": 0, "alpha": 0.6}
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, **looks))


def _frame(axes: Axes, across: Scale, down: Scale) -> None:
    across.set(axes)
    down.set(axes, upright=True)
    axes.set(xlim=(-0.5, len(across.levels) - 0.5), ylim=(len(down.levels) - 0.5, -0.5))
    axes.set_xticks([place + 0.5 for place in range(len(across.levels) - 1)], minor=True)
    axes.set_yticks([place + 0.5 for place in range(len(down.levels) - 1)], minor=True)
    axes.grid(visible=False)
    axes.grid(visible=True, which="minor", linewidth=0.4)
    axes.tick_params(which="both", labelsize=7.5, length=0)
    axes.tick_params(axis="x", labelrotation=90)
    axes.set_xlabel(across.title)
    axes.set_ylabel(down.title)
    axes.spines[:].set_visible(False)


def _bar(axes: Axes, outcome: Outcome, norm: Normalize) -> None:
    bar = axes.figure.colorbar(ScalarMappable(norm, SHADES), cax=axes)
    bar.set_label(f"mean {outcome.chief} ({outcome.log.sweep.objectives[outcome.chief]} is better)")
    bar.outline.set_visible(False)


# --- two objectives ----------------------------------------------------------------------------------------------


FRONT = (
    "Each finished trial at its two final values. The line joins those that no other beats in both, with their "
    "numbers, in steps: between two of them no more than the one is reached. Trials that did not finish have no place "
    "here."
)


def draw_front(outcome: Outcome) -> Figure:
    """The cost of adapters across, where it is one of them; else the first objective."""
    across = COST if COST in outcome.objectives else outcome.objectives[0]
    up = next(objective for objective in outcome.objectives if objective != across)
    x, y = outcome.final(across), outcome.final(up)
    figure = Figure(figsize=(8.0, 4.4), layout="constrained")
    axes = figure.subplots()
    dots(axes, list(x.values()), list(y.values()), "finished")
    _line(axes, outcome, across, sorted((x[trial.number], y[trial.number], trial.number) for trial in outcome.best))
    figures(axes, outcome, across, x.values(), upright=False)
    figures(axes, outcome, up, y.values())
    legend(figure)
    return figure


def _line(axes: Axes, outcome: Outcome, across: str, front: list[tuple[float, float, int]]) -> None:
    """What is reached at no more than this cost, or at no less than this gain."""
    lower = outcome.log.sweep.objectives[across] == "lower"
    x, y, numbers = zip(*front, strict=True)
    axes.step(x, y, where="post" if lower else "pre", color=COLOURS[1], linewidth=1.2)
    axes.plot(x, y, "o", color=COLOURS[1], markersize=6, label="Pareto front")
    for place, height, number in zip(x, y, numbers, strict=True):
        axes.annotate(str(number), (place, height), (4, 4), textcoords="offset points", fontsize=7)
