"""A sweep as Markdown that also reads well as it is, in a terminal."""

import re
import textwrap
from collections.abc import Iterator

from mergenet.training.files import shown
from tune.report.sweep.findings import Findings, Table

WIDTH = 100


def text_of(findings: Findings) -> str:
    """All that is said of a sweep."""
    return "\n".join([*_header(findings), *_best(findings), *_importance(findings), *_others(findings)])


def _header(findings: Findings) -> Iterator[str]:
    yield from (f"# {_escape(findings.title)}", "", _paragraph(_escape(findings.about)), "")
    yield from (_paragraph(f"**{findings.warning}**"), "")
    yield from (_paragraph(f"- {_escape(fact)}", then="  ") for fact in findings.facts)
    yield ""


def _best(findings: Findings) -> Iterator[str]:
    if not findings.best.rows:
        return
    yield from (f"## {findings.best_title}", "", _paragraph(findings.best_note), "", *_table(findings.best), "")
    for one in findings.again:
        yield from (f"- trial {one.number}; `{shown(one.record)}`", "", f"      {one.command}", "")


def _importance(findings: Findings) -> Iterator[str]:
    yield from ("## Importance", "")
    if findings.importance.rows:
        yield from (*_table(findings.importance), "")
    yield from (_paragraph(f"- {note}", then="  ") for note in findings.importance_notes)
    yield ""


def _others(findings: Findings) -> Iterator[str]:
    for ended in findings.ended:
        yield from (f"## {ended.title}", "")
        yield from (_paragraph(f"- {_escape(reason)}: trials {trials}", then="  ") for reason, trials in ended.reasons)
        yield ""
    yield from ("## Searched", "", *_table(findings.space), "")
    if findings.made_with:
        yield from (_paragraph(_escape(findings.made_with)), "")


def _table(table: Table) -> Iterator[str]:
    """Padded so that the columns stand beneath each other unrendered too; narrow, without outer lines."""
    lines = [[_escape(cell) for cell in line] for line in (table.heads, *table.rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(table.heads))]
    for number, line in enumerate(lines):
        yield " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        if number == 0:
            yield "-|-".join("-" * width for width in widths)


def _escape(text: str) -> str:
    """On one line, with nothing in it that Markdown would take for its own."""
    return re.sub(r"([\\|*<`\[\]])", r"\\\1", " ".join(text.split()))


def _paragraph(text: str, then: str = "") -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=then, break_long_words=False, break_on_hyphens=False)
