"""A table as Markdown that also reads well as it is, in a terminal."""

import re
import textwrap
from collections.abc import Iterator

from tune.report.sheet import OURS, Panel, Row, Sheet, heads, sheet_of
from tune.results import Results

WIDTH = 100
STANDING = {"best": "**{}**", "tied": "<u>{}</u>", "other": "{}"}


def markdown(results: Results, runs: bool = False) -> str:
    """The table with what is said about it.

    Args:
        runs: with all runs it is made from, and the command that repeats each.
    """
    sheet = sheet_of(results)
    titles = {column: options.title for column, options in results.table.columns.items()}
    return "\n".join([*_table(sheet), *(_runs(sheet, titles) if runs else [])])


def _table(sheet: Sheet) -> Iterator[str]:
    yield from (f"# {_escape(sheet.title)}", "", _paragraph(sheet.about), "", _paragraph(sheet.protocol), "")
    if sheet.warning:
        yield from (_paragraph(f"**{sheet.warning}**"), "")
    for panel in sheet.panels:
        yield from (f"## {_escape(panel.title)}", "", *_panel(panel), "")
    for number, note in enumerate(sheet.notes, start=1):
        yield _paragraph(f"- {superscript(number)} {note}", then="  ")
    yield from (_paragraph(f"- {remark}", then="  ") for remark in sheet.remarks)
    yield from ("", _paragraph(f"Made with {sheet.made_with}:") if sheet.made_with else "Made with:")
    yield from ("", f"    {sheet.command}", "")


def _panel(panel: Panel) -> Iterator[str]:
    """Its rows, padded so that the columns stand beneath each other unrendered too; narrow, without outer lines."""
    names = heads([panel])
    lines = [["arm", *names], *(_cells(row, names) for row in panel.rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(names) + 1)]
    for number, line in enumerate(lines):
        figures = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        yield " | ".join([line[0].ljust(widths[0]), *figures]).rstrip()
        if number == 0:
            yield "|".join([":" + "-" * widths[0], *("-" * (width + 1) + ":" for width in widths[1:])])


def _cells(row: Row, names: list[str]) -> list[str]:
    marks = " ".join(superscript(number) for number in row.notes)
    cells = {name: _escape(text) for name, text in row.cells.items()}
    if OURS in cells:
        cells[OURS] = STANDING[row.standing].format(cells[OURS])
    return [f"{_escape(row.label)} {marks}".strip(), *(cells.get(name, "") for name in names)]


def _runs(sheet: Sheet, titles: dict[str, str]) -> Iterator[str]:
    yield from ("## Runs", "")
    for arm in sheet.runs:
        yield from (f"### {_escape(arm.label)}", "")
        for run in arm.runs:
            values = ", ".join(f"{_escape(titles[column])} {value}" for column, value in run.values.items())
            yield from (f"- seed {run.seed}: {values}; `{run.folder or run.name}`", "", f"      {run.command}", "")


def superscript(number: int) -> str:
    """A note's number as it stands behind a label."""
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _escape(text: str) -> str:
    return re.sub(r"([\\|*<`])", r"\\\1", text)


def _paragraph(text: str, then: str = "") -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=then, break_long_words=False, break_on_hyphens=False)
