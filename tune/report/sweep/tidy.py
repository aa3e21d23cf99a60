"""The trials as data, one row each, as CSV and as Parquet."""

import csv
import io
from typing import Any

import pyarrow
from pyarrow import parquet as files

from tune.report.sweep.outcome import Outcome
from tune.search.ledger import Trial
from tune.search.sweep import Floats, Ints, label_of


def parquet(outcome: Outcome) -> bytes:
    """Numbers as numbers; a path whose values are of more than one kind as text."""
    buffer = io.BytesIO()
    files.write_table(pyarrow.Table.from_pylist(_rows(outcome), _schema(outcome)), buffer)
    return buffer.getvalue()


def table(outcome: Outcome) -> str:
    """The same rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _schema(outcome).names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in row.items()} for row in _rows(outcome))
    return text.getvalue()


def _schema(outcome: Outcome) -> pyarrow.Schema:
    """`seconds` are of training; `epoch` and `last` the last that is known of the measured objective."""
    return pyarrow.schema(
        [
            *(("sweep", pyarrow.string()), ("number", pyarrow.int64())),
            *((name, pyarrow.string()) for name in ("state", "reason")),
            *((objective, pyarrow.float64()) for objective in outcome.objectives),
            *((path, _type(outcome, path)) for path in outcome.space.dimensions),
            *((name, pyarrow.string()) for name in ("run", "workers")),
            *(("seconds", pyarrow.float64()), ("epoch", pyarrow.int64())),
            *(("last", pyarrow.float64()), ("command", pyarrow.string())),
        ]
    )


def _type(outcome: Outcome, path: str) -> pyarrow.DataType:
    dimension = outcome.space.dimensions[path]
    if isinstance(dimension, Ints | Floats):
        return pyarrow.int64() if isinstance(dimension, Ints) else pyarrow.float64()
    kinds = {type(label_of(value)) for value in dimension.of}
    if kinds == {bool}:
        return pyarrow.bool_()
    if kinds == {int}:
        return pyarrow.int64()
    return pyarrow.float64() if kinds in ({float}, {int, float}) else pyarrow.string()


def _rows(outcome: Outcome) -> list[dict[str, Any]]:
    return [_row(outcome, trial) for trial in outcome.trials]


def _row(outcome: Outcome, trial: Trial) -> dict[str, Any]:
    values = trial.values or (None,) * len(outcome.objectives)
    epoch, last = trial.curve[-1] if trial.curve else (None, None)
    return {
        **{"sweep": outcome.log.sweep.name, "number": trial.number, "state": trial.state, "reason": trial.reason},
        **dict(zip(outcome.objectives, values, strict=True)),
        **{path: _cell(outcome, path, trial.point.get(path)) for path in outcome.space.dimensions},
        **{
            "run": trial.run,
            "workers": outcome.workers.get(trial.number),
            "seconds": trial.seconds,
            "epoch": epoch and int(epoch),
            "last": last,
        },
        "command": outcome.log.command(trial),
    }


def _cell(outcome: Outcome, path: str, value: Any) -> Any:
    is_text = _type(outcome, path) == pyarrow.string()
    return _plain(value) if value is None or not is_text else str(_plain(value))


def _plain(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value
