"""The figures as data: one row a cell and seed as Parquet, one row a cell as CSV."""

import csv
import io
import math
from collections.abc import Iterator
from typing import Any

import pyarrow
from pyarrow import parquet as files

from tune import statistics
from tune.results import Entry, Figure, Results
from tune.table import HELD

SCHEMA = pyarrow.schema(
    [
        *((name, pyarrow.string()) for name in ("table", "scale", "protocol", "arm", "label", "learner", "metric")),
        *(("better", pyarrow.string()), ("seed", pyarrow.int64()), ("state", pyarrow.string())),
        *(("value", pyarrow.float64()), ("baseline", pyarrow.string()), ("difference", pyarrow.float64())),
        *((name, pyarrow.string()) for name in ("same_as", "run", "run_learner", "folder", "command")),
    ]
)
"""`state`: finished, diverged (without a value) or missing (without a run). `difference`: positive is better.
`learner` is the one of the column, `run_learner` its name in the run."""


def parquet(results: Results) -> bytes:
    """One row an arm, measured column and seed, for every seed wanted or run."""
    rows = [row for arm, column, entry in _measured(results) for row in _seeds(results, arm, column, entry)]
    buffer = io.BytesIO()
    files.write_table(pyarrow.Table.from_pylist(rows, SCHEMA), buffer)
    return buffer.getvalue()


def summary(results: Results) -> str:
    """One row an arm and column, as CSV: what the table shows, and what it leaves out."""
    rows = [_summary(results, arm, column) for column in results.table.columns for arm in results.table.arms]
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _measured(results: Results) -> Iterator[tuple[str, str, Entry]]:
    for column in results.table.columns:
        for arm in results.table.arms:
            if not column.endswith(f".{HELD}") and (arm, column) in results.entries:
                yield arm, column, results.entries[arm, column]


def _names(results: Results, arm: str, column: str) -> dict[str, str]:
    learner, _, metric = column.partition(".")
    return {
        **{"table": results.table.name, "scale": results.scale, "protocol": results.protocol},
        **{"arm": arm, "label": results.table.arms[arm].label, "learner": learner, "metric": metric},
        "better": results.table.columns[column].better,
    }


def _seeds(results: Results, arm: str, column: str, entry: Entry) -> Iterator[dict[str, Any]]:
    compared = entry.comparison
    for seed in sorted({*results.seeds, *entry.figures}):
        yield {
            **_names(results, arm, column),
            "seed": seed,
            **_figure(entry.figures.get(seed)),
            "baseline": compared.baseline if compared else None,
            "difference": compared.differences.get(seed) if compared else None,
            "same_as": entry.same_as,
        }


def _figure(figure: Figure | None) -> dict[str, Any]:
    if figure is None:
        return {"state": "missing"}
    return {
        "state": "diverged" if figure.value is None else "finished",
        **{"value": figure.value, "run": figure.run, "run_learner": figure.learner},
        **{"folder": figure.folder, "command": figure.command},
    }


def _summary(results: Results, arm: str, column: str) -> dict[str, Any]:
    entry = results.entries.get((arm, column), Entry(figures={}))
    values, compared = entry.values(), entry.comparison
    if column.endswith(f".{HELD}") and arm in results.held:
        values = [results.held[arm] / 1e6]
    found = statistics.summary(values) if values else None
    return {
        **_names(results, arm, column),
        **{
            "n": len(entry.values()),
            "mean": found and found.mean,
            "std": found and found.deviation,
            "standing": entry.standing,
        },
        **{"same_as": entry.same_as, "baseline": compared and compared.baseline},
        "pairs": compared and len(compared.differences),
        "difference": compared and compared.mean,
        "low": compared and compared.interval[0],
        "high": compared and compared.interval[1],
        "interval": compared and compared.method,
        "p": compared and compared.p,
        "p_holm": compared and compared.adjusted,
        "primary": compared and entry.primary,
        "improvement": compared and compared.improvement,
        **{"paper": entry.paper, "notes": "; ".join(entry.notes)},
    }


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.8g}" if math.isfinite(value) else None
    return value
