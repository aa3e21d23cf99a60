"""A table as LaTeX, for a document with booktabs, and its runs for an appendix."""

from collections.abc import Iterator

from tune.report.sheet import OURS, Panel, Row, Sheet, heads, sheet_of
from tune.results import Results

STANDING = {"best": r"\textbf{{{}}}", "tied": r"\underline{{{}}}", "other": "{}"}

ESCAPES = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
    **{"±": r"$\pm$", "\N{MINUS SIGN}": "$-$", "\N{EN DASH}": "--", "\N{DAGGER}": r"\dag{}"},
    **{"\N{MULTIPLICATION SIGN}": r"$\times$", "\N{RIGHTWARDS ARROW}": r"$\to$"},
}

CODE = {character: rf"{{\char{ord(character)}}}" for character in "&%$#_{}\\~^"}
CODE |= {"'": r"\textquotesingle{}", "`": r"\textasciigrave{}"}
"""As they stand in a typewriter font: straight quotes, and the others in their places."""

HEADER = """\
% {about}
% Made with: {command}
% In the preamble:  \\usepackage{{booktabs}}   In the text:  \\input{{table}}
% What each figure comes from:  \\input{{runs}}
"""


def table(results: Results) -> str:
    """A floating table that stands by itself: its caption says scale, protocol, n and how to read it."""
    sheet = sheet_of(results)
    about = " ".join(sheet.about.split())  # a second line of a comment would be set
    return HEADER.format(about=about, command=sheet.command) + "\n".join(_table(sheet, results)) + "\n"


def runs(results: Results) -> str:
    """The runs of every arm with the commands that repeat them."""
    sheet = sheet_of(results)
    lines = [rf"% The runs of {results.table.name} at scale {results.scale}. In the text:  \input{{runs}}"]
    for arm in sheet.runs:
        lines += [rf"\paragraph{{{escape(arm.label)}}}", r"\begin{description}\footnotesize\raggedright\frenchspacing"]
        for run in arm.runs:
            values = [f"{results.table.columns[column].title} {value}" for column, value in run.values.items()]
            lines.append(rf"  \item[seed {run.seed}] {escape(', '.join(values))}; {_code(run.folder or run.name)} \\")
            lines.append(f"    {_code(run.command)}")
        lines.append(r"\end{description}")
    return "\n".join(lines if sheet.runs else [*lines, escape(sheet.warning)]) + "\n"


def escape(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(ESCAPES.get(character, character) for character in text)


def _table(sheet: Sheet, results: Results) -> Iterator[str]:
    names = heads(sheet.panels)
    yield from (r"\begin{table}", r"  \centering", rf"  \caption{{{_caption(sheet)}}}")
    yield from (
        rf"  \label{{tab:{results.table.name}-{results.scale}}}",
        r"  \par\smallskip\footnotesize\setlength{\tabcolsep}{3pt}",
    )
    yield from (rf"  \begin{{tabular}}{{@{{}}l{'r' * len(names)}@{{}}}}", r"    \toprule")
    yield f"    arm & {' & '.join(map(escape, names))} \\\\"
    for panel in sheet.panels:
        yield from (r"    \midrule", *_panel(panel, names))
    yield from (r"    \bottomrule", r"  \end{tabular}")
    yield rf"  \par\smallskip\parbox{{\linewidth}}{{\footnotesize {' '.join(_below(sheet))}}}"
    yield r"\end{table}"


def _caption(sheet: Sheet) -> str:
    warning = [rf"\textbf{{{escape(sheet.warning)}}}"] if sheet.warning else []
    return " ".join([f"{escape(sheet.title)}.", escape(sheet.about), escape(sheet.protocol), *warning])


def _below(sheet: Sheet) -> Iterator[str]:
    for number, note in enumerate(sheet.notes, start=1):
        yield f"$^{{{number}}}$ {escape(note)}."
    yield from map(escape, sheet.remarks)
    if sheet.made_with:
        yield escape(f"Made with {sheet.made_with}.")


def _panel(panel: Panel, names: list[str]) -> Iterator[str]:
    yield rf"    \multicolumn{{{len(names) + 1}}}{{@{{}}l@{{}}}}{{\emph{{{escape(panel.title)}}}}} \\"
    for row in panel.rows:
        yield f"    {' & '.join(_cells(row, names))} \\\\"


def _cells(row: Row, names: list[str]) -> list[str]:
    cells = {name: escape(text) for name, text in row.cells.items()}
    if OURS in cells:
        cells[OURS] = STANDING[row.standing].format(cells[OURS])
    marks = rf"$^{{{','.join(map(str, row.notes))}}}$" if row.notes else ""
    guard = "{}" if row.label[:1] in ("[", "*") else ""  # which the end of the line before would take for its own
    return [guard + escape(row.label) + marks, *(cells.get(name, "") for name in names)]


def _code(text: str) -> str:
    """Typewriter text that may break where paths and overrides do."""
    places = {**CODE, **{character: rf"{character}\allowbreak{{}}" for character in "./=,:-"}}
    return rf"{{\ttfamily {''.join(places.get(character, character) for character in text)}}}"
