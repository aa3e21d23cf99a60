"""A sweep's outcome as Markdown, CSV, Parquet, plots and one HTML page.

`findings` puts everything that a reader is told into words, once; the formats only set them.
"""

import warnings
from pathlib import Path

from tune.report.drawing import png
from tune.report.files import write_files
from tune.report.sweep import page, tidy
from tune.report.sweep.findings import findings_of
from tune.report.sweep.markdown import text_of
from tune.report.sweep.outcome import outcome_of
from tune.report.sweep.plots import plots_of
from tune.search.ledger import Log

__all__ = ["markdown", "write_sweep_report"]


def markdown(log: Log) -> str:
    """A sweep's outcome in words; reads well as it is, in a terminal."""
    return text_of(findings_of(outcome_of(log)))


def write_sweep_report(log: Log, folder: Path) -> list[Path]:
    """Writes the report of a sweep, each file aside and renamed; nothing before all of it is made.

    Returns:
        The files: `report.md`, `trials.csv`, `trials.parquet`, a PNG for each plot, and `index.html`, which has
        everything in one page and needs no other file.
    """
    outcome = outcome_of(log)
    findings, plots = findings_of(outcome), plots_of(outcome)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of a title in a script that the font lacks
        files = {
            "report.md": text_of(findings).encode(),
            "trials.csv": tidy.table(outcome).encode(),
            "trials.parquet": tidy.parquet(outcome),
            **{f"{name}.png": png(plot, f"{log.sweep.title} ({log.sweep.name})") for name, plot in plots.items()},
            "index.html": page.html(findings, plots, folder).encode(),
        }
    return write_files(folder, files)
