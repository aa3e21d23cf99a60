"""The plot of whole points: each finished trial a line over all parameters."""

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from tune.report.drawing import SOFT
from tune.report.sweep.axes import SHADES, Scale, doublings, scale_of, shading
from tune.report.sweep.names import written
from tune.report.sweep.outcome import Outcome

MISSING = -0.12
"""Where a parameter stands that a trial does not have."""
LETTER, SMALL = 0.064, 6.5
"""Width of a letter of a label in inches, and its size in points."""
Band = tuple[float, float]
"""Left and right end of an axis, between which are its labels."""


def caption(outcome: Outcome) -> str:
    """What the lines are."""
    said = f"Each finished trial a line, coloured by its final {outcome.chief}; the better lie on top."
    return said + (" At the foot (\N{EN DASH}): not part of that trial." if any(_absent(outcome).values()) else "")


def draw(outcome: Outcome) -> Figure:
    """The parameters beside each other, with as much room as their labels need."""
    scales = {path: scale_of(outcome, path) for path in outcome.space.dimensions}
    bands = _bands(list(scales.values()))
    most = max(len(scale.levels) for scale in scales.values())
    figure = Figure(figsize=(bands[-1][1] + 1.6, max(3.6, 0.15 * most + 0.8)), layout="constrained")
    axes = figure.subplots()
    for band, scale, absent in zip(bands, scales.values(), _absent(outcome).values(), strict=True):
        _band(axes, band, scale, absent)
    _lines(axes, outcome, scales, bands)
    _bare(axes, bands, [scale.title for scale in scales.values()], any(_absent(outcome).values()))
    return figure


def _absent(outcome: Outcome) -> dict[str, bool]:
    """Whether a path is not part of some trial."""
    paths = outcome.space.dimensions
    return {path: any(path not in trial.point for trial in outcome.finished) for path in paths}


def _bands(scales: list[Scale]) -> list[Band]:
    """Where each axis stands, in inches."""
    bands, here = [], 0.0
    for scale in scales:
        width = LETTER * max(len(label) for _, label in _ticks(scale)) + 0.12
        bands.append((here, here + width))
        here += width + max(0.6, 0.09 * len(scale.title) - width)
    return bands


def _ticks(scale: Scale) -> list[tuple[float, str]]:
    if scale.levels:
        return [(scale.share(level), label) for level, label in zip(scale.levels, scale.labels, strict=True)]
    return [(scale.share(value), written(value)) for value in _values(scale)]


def _values(scale: Scale) -> list[float]:
    """A few round ones, or the ends and what is between."""
    decades = [10.0**power for power in range(-12, 13) if scale.low <= 10.0**power <= scale.high]
    if scale.log and scale.whole and scale.high <= 4096:
        return [*map(int, doublings(scale.low, scale.high))]
    if scale.log and len(decades) > 2:
        return decades
    steps = [scale.low + (scale.high - scale.low) * part / 4 for part in range(5)]
    values = [scale.low, scale.high] if scale.log else steps
    return list(dict.fromkeys(map(round, values))) if scale.whole else values


def _band(axes: Axes, band: Band, scale: Scale, absent: bool) -> None:
    foot = MISSING if absent else 0.0
    axes.fill_between(band, foot - 0.03, 1.03, color=SOFT, alpha=0.12, linewidth=0)
    labels = [*_ticks(scale), *([(MISSING, "\N{EN DASH}")] if absent else [])]
    for height, label in labels:
        axes.text(sum(band) / 2, height, label, ha="center", va="center", fontsize=SMALL)


def _lines(axes: Axes, outcome: Outcome, scales: dict[str, Scale], bands: list[Band]) -> None:
    final = outcome.final(outcome.chief)
    norm = shading(list(final.values()))
    points = {trial.number: trial.point for trial in outcome.finished}
    for number in sorted(final, key=lambda number: (-outcome.cost(final[number], outcome.chief), number)):
        point = points[number]
        heights = [scale.share(point[path]) if path in point else MISSING for path, scale in scales.items()]
        colour = SHADES(norm(final[number]))
        for here, there, *ends in zip(bands, bands[1:], heights, heights[1:], strict=False):
            axes.plot((here[1], there[0]), ends, color=colour, linewidth=1.1, alpha=0.85, solid_capstyle="butt")
    bar = axes.figure.colorbar(ScalarMappable(norm, SHADES), ax=axes, pad=0.02, aspect=30)
    bar.set_label(f"{outcome.chief} ({outcome.log.sweep.objectives[outcome.chief]} is better)")
    bar.outline.set_visible(False)


def _bare(axes: Axes, bands: list[Band], titles: list[str], absent: bool) -> None:
    """Titles above the axes, and nothing around them."""
    for band, title in zip(bands, titles, strict=True):
        axes.text(sum(band) / 2, 1.06, title, ha="center", va="bottom", fontsize=8.5)
    axes.set_xlim(-0.05, bands[-1][1] + 0.05)
    axes.set_ylim((MISSING if absent else 0.0) - 0.05, 1.12)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
