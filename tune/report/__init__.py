"""A table's results as Markdown, LaTeX, CSV, Parquet, plots and one HTML page.

`sheet` puts everything that a reader is told into words, once; the formats only set them.
"""

from pathlib import Path

from tune.report import latex, page, tidy
from tune.report.drawing import png
from tune.report.files import write_files
from tune.report.markdown import markdown
from tune.report.plots import plots_of
from tune.results import Results

__all__ = ["markdown", "write_report"]


def write_report(results: Results, folder: Path) -> list[Path]:
    """Writes the report of a table, each file aside and renamed; nothing before all of it is made.

    Returns:
        The files: `table.md`, `table.tex`, `runs.tex`, `table.csv`, `figures.parquet`, a PNG for each plot, and
        `index.html`, which has everything in one page and needs no other file.
    """
    plots = plots_of(results)
    heading = f"{results.table.title} ({results.scale})"
    files = {
        "table.md": markdown(results, runs=True).encode(),
        "table.tex": latex.table(results).encode(),
        "runs.tex": latex.runs(results).encode(),
        "table.csv": tidy.summary(results).encode(),
        "figures.parquet": tidy.parquet(results),
        **{f"{name}.png": png(plot, heading) for name, plot in plots.items()},
        "index.html": page.html(results, plots, folder).encode(),
    }
    return write_files(folder, files)
