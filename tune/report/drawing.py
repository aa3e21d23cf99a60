"""How plots look, and their files: the same bytes every time."""

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tune.results import Results
from tune.table import HELD

INK, SOFT = "#1c1c1c", "#808080"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, which the colour-blind tell apart."""
LINES = ("-", "--", ":")

STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "figure.dpi": 160,
    "text.parse_math": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10.0, "axes.titlelocation": "left"},
    **{"axes.axisbelow": True, "grid.color": SOFT, "grid.alpha": 0.3, "grid.linewidth": 0.6, "axes.grid": True},
    **{"legend.frameon": False, "svg.fonttype": "none", "svg.hashsalt": "mergenet"},
}

WITHOUT_TRACE = {"svg": dict.fromkeys(("Date", "Creator", "Format", "Type")), "png": {"Software": None}}


def columns_of(results: Results) -> list[str]:
    """Those that runs measure."""
    return [column for column in results.table.columns if not column.endswith(f".{HELD}")]


def panels_of(
    results: Results, columns: Sequence[str], width: float, height: float, share: bool = False
) -> tuple[Figure, dict[str, Axes]]:
    """A panel for each of some columns of the table, two beside each other."""
    across = min(2, len(columns))
    down = math.ceil(len(columns) / across)
    figure = Figure(figsize=(max(6.4, width * across), height * down + 0.9), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False, sharey="row" if share else False).flat)
    panels = dict(zip(columns, axes, strict=False))
    for axis in axes[len(columns) :]:
        axis.remove()
    for column, axis in panels.items():
        options = results.table.columns[column]
        axis.set_title(f"{options.title} ({options.better} is better)")
    return figure, panels


@dataclass(frozen=True)
class Plot:
    """A plot with its words: `caption` says what its marks are."""

    title: str
    caption: str
    draw: Callable[[], Figure]


def png(plot: Plot, heading: str) -> bytes:
    """With its words, for it stands alone."""
    return _file(plot, "png", f"{heading}: {plot.title}")


def svg(plot: Plot, name: str) -> str:
    """To be set into a page: without title and caption, in the page's own text colour, with ids of its own."""
    text = _file(plot, "svg", heading="").decode()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)


def _file(plot: Plot, form: str, heading: str) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = plot.draw()
        if heading:
            _say(figure, heading, plot.caption)
        figure.savefig(buffer, format=form, bbox_inches="tight", transparent=not heading, metadata=WITHOUT_TRACE[form])
    return buffer.getvalue()


def _say(figure: Figure, heading: str, caption: str) -> None:
    """Sets words above and below all that is drawn."""
    figure.draw_without_rendering()
    drawn, height = figure.get_tightbbox(), figure.get_figheight()
    figure.text(0.01, (drawn.y1 + 0.1) / height, heading, fontsize=11, fontweight="bold")
    figure.text(0.01, (drawn.y0 - 0.1) / height, caption, va="top", fontsize=8, color=SOFT, wrap=True)
