"""A sweep as one HTML page that needs no other file and no script."""

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from tune.report.drawing import Plot, svg
from tune.report.sweep.findings import Findings


def html(findings: Findings, plots: Mapping[str, Plot], folder: Path) -> str:
    """The page.

    Args:
        plots: name -> plot, in their order.
        folder: where the page will lie; records are linked to from there.
    """
    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return pages.get_template("page.html").render(
        findings=findings,
        plots=[(plot, Markup(svg(plot, name))) for name, plot in plots.items()],
        link=lambda record: quote(os.path.relpath(record, folder)),
        with_code=_with_code,
    )


def _with_code(text: str) -> Markup:
    """What stands between backticks is a command."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts)
    )
