"""The plots of one parameter at a time."""

from collections.abc import Iterable
from math import ceil
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tune.report.drawing import COLOURS
from tune.report.sweep.axes import Scale, aside, dots, figures, legend, scale_of, valued
from tune.report.sweep.outcome import Outcome

SLICES = (
    "Each trial a dot in every panel of a parameter that it has: full finished, hollow and grey stopped early, at its "
    "last figure. Where they would hide each other they are moved aside a little. The other parameters vary along, so "
    "a panel shows no effect of its parameter alone."
)
CURVES = (
    "Dots as in 'parameter by parameter'. The line is the median of the finished trials at each value, or, where those "
    "are few, in equal parts of the range. The other parameters vary along."
)
WIDE = 3
"""Panels beside each other; one of many categories is as wide as two or three."""
PARTS, EACH = 8, 4
"""Parts of a range at most, and how many trials each has on average at least."""
TURNED = frozenset({"rank", "cycle", "depth"})
"""What the paper turned by hand."""


def draw(outcome: Outcome) -> Figure:
    """Each parameter a panel."""
    scales = {path: scale_of(outcome, path) for path in drawn(outcome)}
    rows = list(_packed(scales))
    heights = [_height(scales[path] for path, *_ in row) for row in rows]
    figure = Figure(figsize=(11.0, sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(rows), WIDE, height_ratios=heights)
    for number, row in enumerate(rows):
        for path, first, width in row:
            axes = figure.add_subplot(grid[number, first : first + width])
            _panel(axes, outcome, path, scales[path])
            figures(axes, outcome, outcome.chief, ()) if first == 0 else axes.tick_params(labelleft=False)
    _same_heights(figure.axes)
    legend(figure)
    return figure


def drawn(outcome: Outcome) -> list[str]:
    """The parameters of which a trial with a figure has a value."""
    met = [trial for state in ("finished", "stopped") for trial, _ in valued(outcome, state, outcome.chief)]
    return [path for path in outcome.space.dimensions if any(path in trial.point for trial in met)]


def curved(outcome: Outcome) -> list[str]:
    """Rank, cycle and depth of any transfer, where they are of numbers."""
    return [path for path in drawn(outcome) if path.rsplit(".", 1)[-1] in TURNED and not scale_of(outcome, path).levels]


def draw_curves(outcome: Outcome) -> Figure:
    """Each of these a panel, three beside each other."""
    paths = curved(outcome)
    across = min(WIDE, len(paths))
    down = ceil(len(paths) / across)
    figure = Figure(figsize=(max(6.4, 3.7 * across), 3.2 * down), layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False, sharey=True).flat)
    for axes in panels[len(paths) :]:
        axes.remove()
    for number, (path, axes) in enumerate(zip(paths, panels, strict=False)):
        scale = scale_of(outcome, path)
        _panel(axes, outcome, path, scale)
        _medians(axes, outcome, path, scale)
        if number % across == 0:
            figures(axes, outcome, outcome.chief, ())
    legend(figure)
    return figure


def _packed(scales: dict[str, Scale]) -> Iterable[list[tuple[str, int, int]]]:
    """Rows of (path, first column, width), in the order of the space."""
    row: list[tuple[str, int, int]] = []
    for path, scale in scales.items():
        width = min(WIDE, max(1, ceil(len(scale.levels) / 12)))
        first = row[-1][1] + row[-1][2] if row else 0
        if first + width > WIDE:
            yield _filled(row)
            row, first = [], 0
        row.append((path, first, width))
    yield _filled(row)


def _filled(row: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """With the last of many categories as wide as there is room."""
    path, first, width = row[-1]
    return [*row[:-1], (path, first, WIDE - first if width > 1 else width)]


def _height(scales: Iterable[Scale]) -> float:
    """Of a row in inches, with what its upright labels need."""
    return 2.5 + 0.06 * max((max(map(len, scale.labels)) for scale in scales if _upright(scale)), default=0)


def _upright(scale: Scale) -> bool:
    return sum(map(len, scale.labels)) > 34 or len(scale.labels) > 8


def _panel(axes: Axes, outcome: Outcome, path: str, scale: Scale) -> None:
    for state in ("stopped", "finished"):
        found = [(trial, value) for trial, value in valued(outcome, state, outcome.chief) if path in trial.point]
        places = [scale.at(trial.point[path]) + aside(scale, trial.number) for trial, _ in found]
        dots(axes, places, [value for _, value in found], state)
    scale.set(axes)
    if _upright(scale):
        axes.tick_params(axis="x", labelrotation=90, labelsize=7)
    axes.set_xlabel(scale.title)


def _same_heights(panels: list[Axes]) -> None:
    lows, highs = zip(*(axes.get_ylim() for axes in panels), strict=True)
    for axes in panels:
        axes.set_ylim(min(lows), max(highs))


def _medians(axes: Axes, outcome: Outcome, path: str, scale: Scale) -> None:
    met: dict[float, list[tuple[float, float]]] = {}
    finished = [pair for pair in valued(outcome, "finished", outcome.chief) if path in pair[0].point]
    parts = _parts({trial.point[path] for trial, _ in finished}, len(finished))
    for trial, value in finished:
        place = scale.at(trial.point[path])
        met.setdefault(_part(scale, place, parts) if parts else place, []).append((place, value))
    if len(met) > 1:
        line = sorted(tuple(map(median, zip(*found, strict=True))) for found in met.values())
        axes.plot(*zip(*line, strict=True), ".-", color=COLOURS[1], linewidth=1.6, label="median of the finished")


def _parts(values: set[float], count: int) -> int:
    """How many parts of the range have enough trials; 0 where each value has."""
    return 0 if count >= EACH * len(values) else min(PARTS, max(1, count // EACH))


def _part(scale: Scale, place: float, parts: int) -> float:
    """The number of the part of the range in which a place is."""
    return min(parts - 1, int(parts * scale.share(place)))
