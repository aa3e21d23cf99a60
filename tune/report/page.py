"""A table as one HTML page that needs no other file and no script."""

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tune.report.drawing import Plot, svg
from tune.report.runs import ArmRuns
from tune.report.sheet import OURS, Row, heads, sheet_of
from tune.results import Results

STANDING = {"best": Markup("<strong>{}</strong>"), "tied": Markup("<u>{}</u>"), "other": Markup("{}")}


def html(results: Results, plots: Mapping[str, Plot], folder: Path) -> str:
    """The page.

    Args:
        plots: name -> plot, in their order.
        folder: where the page will lie; runs are linked to from there.
    """
    sheet = sheet_of(results)
    with_runs = {arm.arm for arm in sheet.runs}
    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return pages.get_template("page.html").render(
        results=results,
        sheet=sheet,
        heads=heads(sheet.panels),
        plots=[(plot, Markup(svg(plot, name))) for name, plot in plots.items()],
        titles={column: options.title for column, options in results.table.columns.items()},
        cell=lambda row, head: _cell(row, head, with_runs),
        columns_of=_columns_of,
        link=lambda record: record if "://" in record else quote(os.path.relpath(record, folder)),
    )


def _cell(row: Row, head: str, with_runs: set[str]) -> Markup:
    text = Markup("{}").format(row.cells[head])
    if head != OURS:
        return text
    if row.has_runs and row.arm in with_runs:
        text = Markup('<a href="#runs-{}">{}</a>').format(row.arm, text)
    return STANDING[row.standing].format(text)


def _columns_of(arm: ArmRuns) -> list[str]:
    return list(dict.fromkeys(column for run in arm.runs for column in run.values))
