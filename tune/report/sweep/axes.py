"""What the plots of a sweep share: where a value stands on an axis, and how a trial is marked."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from tune.report.drawing import COLOURS, SOFT
from tune.report.sweep.names import in_plot, written
from tune.report.sweep.outcome import Outcome
from tune.search.ledger import Trial
from tune.search.space import END
from tune.search.sweep import COST, Ints, Values

SHADES = ListedColormap(matplotlib.colormaps["viridis"]([0.08 + 0.84 * step / 23 for step in range(24)]))
"""Few and no extremes: to be told from white paper and from dark."""

LOST = {"diverged": "x", "failed": "+", "running": "1"}
"""Marks of trials that have no figure."""
FEW = 10
"""Steps of a range."""
WORDS = {
    "finished": "finished",
    "stopped": "stopped early, at its last figure",
    "diverged": "diverged",
    "failed": "failed",
    "running": "still running",
}


# --- where a value stands ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """An axis of one path.

    Attributes:
        labels: of its categories, which stand at 0, 1, ...; none where it is of numbers.
        low, high: its ends, where it is of numbers.
    """

    title: str
    levels: tuple[Any, ...] = ()
    labels: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    whole: bool = False

    @property
    def crowded(self) -> bool:
        """Whether it has so few steps that dots would lie in columns."""
        return self.whole and not self.log and self.high - self.low <= FEW

    def at(self, value: Any) -> float:
        """Where a value stands."""
        return float(self.levels.index(value)) if self.levels else float(value)

    def share(self, value: Any) -> float:
        """Where a value stands between the ends, from 0 to 1."""
        at = self.at(value)
        if self.levels:
            return at / (len(self.levels) - 1) if len(self.levels) > 1 else 0.5
        if self.log:
            return math.log(at / self.low) / math.log(self.high / self.low)
        return (at - self.low) / (self.high - self.low)

    def set(self, axes: Axes, upright: bool = False) -> None:
        """Sets up the x axis, or with `upright` the y axis."""
        axis = axes.yaxis if upright else axes.xaxis
        if self.levels:
            axis.set_ticks(range(len(self.levels)), list(self.labels))
            _limits(axes, upright, -0.6, len(self.levels) - 0.4)
        elif self.log:
            (axes.set_yscale if upright else axes.set_xscale)("log")
            spare = (self.high / self.low) ** 0.05
            _limits(axes, upright, self.low / spare, self.high * spare)
            plain_log(axis, self.low, self.high, self.whole)
        else:
            spare = max(0.05 * (self.high - self.low), 0.25 * self.crowded)
            _limits(axes, upright, self.low - spare, self.high + spare)
            axis.set_major_locator(MaxNLocator(6, integer=self.whole))


def _limits(axes: Axes, upright: bool, low: float, high: float) -> None:
    (axes.set_ylim if upright else axes.set_xlim)(low, high)


def plain_log(axis: Axis, low: float, high: float, whole: bool = False) -> None:
    """Ticks of a logarithm in plain figures: doublings of small whole numbers, else 1, (2, 5,) 10."""
    if whole and high <= 4096:
        axis.set_ticks(doublings(low, high))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        few = high / low < 50
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
        axis.set_major_formatter(EngFormatter(sep="") if low >= 1 else FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def doublings(low: float, high: float) -> list[float]:
    """Powers of two between two whole numbers; the ends too, unless one is near."""
    powers = [2.0**power for power in range(13) if low <= 2**power <= high]
    ends = [end for end in (low, high) if not any(0.8 < end / power < 1.25 for power in powers)]
    return sorted([*powers, *ends])


def scale_of(outcome: Outcome, path: str) -> Scale:
    """Of numbers over all that they may be; of categories those that were tried, in the order of the space."""
    dimension, name = outcome.space.dimensions[path], outcome.names[path]
    if isinstance(dimension, Values):
        return _categories(path, name, outcome.tried(path))
    met = [dimension.low, dimension.high, *outcome.tried(path)]
    whole = isinstance(dimension, Ints)
    return Scale(name, low=min(met), high=max(met), log=dimension.log, whole=whole)


def _categories(path: str, name: str, levels: list[Any]) -> Scale:
    """Ports of one learner do without its name, which stands in the title."""
    labels = [written(level) for level in levels]
    learners = {label.partition(".")[0] for label in labels}
    if END.fullmatch(path) and len(learners) == 1 and all("." in label for label in labels):
        (learner,) = learners
        labels = [label.removeprefix(f"{learner}.") for label in labels]
        name = f"{name}: {learner}"
    return Scale(name, tuple(levels), tuple(map(in_plot, labels)))


def figures(axes: Axes, outcome: Outcome, objective: str, values: Iterable[float], upright: bool = True) -> None:
    """Labels an axis of an objective; the cost of adapters, which spans powers of ten, by its logarithm."""
    axis, found = (axes.yaxis if upright else axes.xaxis), list(values)
    axis.set_label_text(f"{objective} ({outcome.log.sweep.objectives[objective]} is better)")
    if objective == COST and found and min(found) > 0:
        (axes.set_yscale if upright else axes.set_xscale)("log")
        plain_log(axis, min(found), max(found))


def shading(values: Sequence[float]) -> Normalize:
    """From the lowest value to the highest."""
    low, high = min(values), max(values)
    return Normalize(low, high) if low < high else Normalize(low - 0.5, high + 0.5)


def aside(scale: Scale, number: int) -> float:
    """How far a trial's dot is moved so as not to hide others: evenly spread (by the golden ratio), always the same."""
    width = 0.6 if scale.levels else 0.3 if scale.crowded else 0.0
    return (number * 0.6180339887498949 % 1.0 - 0.5) * width


# --- marks ---------------------------------------------------------------------------------------------------------


def dots(axes: Axes, places: Sequence[float], values: Sequence[float], state: str, **more: Any) -> None:
    """Trials with a figure: full where they finished, hollow and grey where they were stopped."""
    looks: dict[str, Any] = {"finished": {"color": COLOURS[0], "linewidths": 0, "alpha": 0.75}}
    looks["stopped"] = {"facecolors": "none", "edgecolors": SOFT, "linewidths": 0.8}
    if places:
        axes.scatter(places, values, s=20, label=WORDS[state], **{**looks[state], **more})


def lost(axes: Axes, places: Sequence[float], state: str) -> None:
    """Trials without a figure: at the foot of the axes."""
    looks: dict[str, Any] = {"color": SOFT, "markersize": 6, "label": WORDS[state]}
    if places:
        axes.plot(places, [0.035] * len(places), LOST[state], transform=axes.get_xaxis_transform(), **looks)


def valued(outcome: Outcome, state: str, objective: str) -> list[tuple[Trial, float]]:
    """The trials of a state that have a figure of an objective."""
    found = [(trial, outcome.value(trial, objective)) for trial in outcome.trials if trial.state == state]
    return [(trial, value) for trial, value in found if value is not None]


def legend(figure: Figure, columns: int = 3) -> None:
    """Of all marks in a figure, once, beneath it."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    states = [word for word in WORDS.values() if word in found]
    labels = [*states, *(label for label in found if label not in states)]
    figure.legend(
        [found[label] for label in labels], labels, loc="upper left", bbox_to_anchor=(0.0, 0.0), ncols=columns
    )
