"""How plots look, and their files: the same bytes every time."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure

INK, SOFT = "#1c1c1c", "#808080"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, which the colour-blind tell apart."""
LINES = ("-", "--", ":")

STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.parse_math": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10.0, "axes.titlelocation": "left"},
    **{"axes.axisbelow": True, "grid.color": SOFT, "grid.alpha": 0.3, "grid.linewidth": 0.6, "axes.grid": True},
    **{"legend.frameon": False, "svg.fonttype": "none", "svg.hashsalt": "mergenet"},
}

WITHOUT_TRACE = {"svg": dict.fromkeys(("Date", "Creator", "Format", "Type")), "png": {"Software": None}}


@dataclass(frozen=True)
class Plot:
    """A plot with its words: `caption` says what its marks are."""

    title: str
    caption: str
    draw: Callable[[], Figure]


def png(plot: Plot) -> bytes:
    """With title and caption, for it stands alone."""
    return _file(plot, "png", alone=True)


def svg(plot: Plot, name: str) -> str:
    """To be set into a page: without title and caption, in the page's own text colour, with ids of its own."""
    text = _file(plot, "svg", alone=False).decode()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)


def _file(plot: Plot, form: str, alone: bool) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = plot.draw()
        if alone:
            figure.suptitle(plot.title, x=0.01, ha="left", fontsize=11, fontweight="bold")
            figure.supxlabel(plot.caption, x=0.01, ha="left", fontsize=8, color=SOFT, wrap=True)
        figure.savefig(buffer, format=form, dpi=160, transparent=not alone, metadata=WITHOUT_TRACE[form])
    return buffer.getvalue()
