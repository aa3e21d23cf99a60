"""Finished runs as evidence: records in the folder of runs, and those committed with a table's results.

A cell is found by its key, wherever it was trained. What is used is checked against its seal first.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from mergenet.config import InputError
from mergenet.training.files import portable, read_json, read_metrics, read_result, replacing, seal_of, shown

RUNS, METRICS = "runs.json", "metrics.parquet"
"""The files of committed evidence: experiment, manifest and result of each run; and all figures, a row each."""

COLUMNS = pyarrow.schema(
    [
        ("run", pyarrow.string()),
        ("learner", pyarrow.string()),
        ("tick", pyarrow.int64()),
        ("epoch", pyarrow.int64()),
        ("split", pyarrow.string()),
        ("metric", pyarrow.string()),
        ("value", pyarrow.float64()),
    ]
)


@dataclass(frozen=True)
class Evidence:
    """A finished run.

    Attributes:
        name: HASH8-sSEED.
        place: where it was found: its own folder, or that of committed results.
        folder: of its record; None where only the committed results are here.
    """

    name: str
    place: Path
    folder: Path | None
    experiment: Mapping[str, Any]
    manifest: Mapping[str, Any]
    result: Mapping[str, Any]

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Every recorded figure, in the order they were recorded."""
        if self.folder is not None:
            return read_metrics(self.folder)
        try:
            path = (self.place / METRICS).absolute()
            return _metrics_by_run(path, path.stat().st_mtime_ns).get(self.name, [])
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(f"{self.place / METRICS}: cannot be read: {error}") from None

    def learner_of(self, key: str) -> str:
        """The learner whose cell has this key."""
        return learner_of(key, self.manifest)

    def check(self) -> None:
        """Raises:
        InputError: something in it is not as the run left it.
        """
        if seal_of(self.experiment, self.manifest, self.metrics, self.result) != self.result.get("seal"):
            raise InputError(
                f"{shown(self.place.absolute())}: run {self.name} was changed after it had finished (its seal does not "
                "fit); remove it, and its cells are trained again"
            )


def learner_of(key: str, manifest: Mapping[str, Any]) -> str:
    """The learner of a run whose cell has this key."""
    return next(learner for learner, cell in manifest["cells"].items() if cell == key)


@lru_cache(maxsize=4)
def _metrics_by_run(path: Path, changed: int) -> dict[str, list[dict[str, Any]]]:
    """Run -> its figures, of a whole file at once: a look into it for each of many runs takes a minute."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in parquet.read_table(path).to_pylist():
        found.setdefault(row["run"], []).append(row)
    return found


def find_evidence(
    runs: Path, results: Path, shows: Callable[[Evidence], bool] = lambda evidence: True
) -> dict[str, Evidence]:
    """Key of a cell -> the finished run it was trained in; a record that is here comes before a committed one.

    Args:
        shows: whether a run has the figures that are wanted of it; one that lacks them stands before no other.
    """
    found: dict[str, Evidence] = {}
    for evidence in filter(shows, [*_recorded(runs), *_committed(results)]):
        for key in evidence.manifest.get("cells", {}).values():
            found.setdefault(key, evidence)
    return found


def _recorded(runs: Path) -> Iterator[Evidence]:
    for path in sorted(runs.glob("*/*/result.json")):
        folder, result = path.parent, read_result(path.parent)
        if result is not None and "seal" in result:
            experiment, manifest = (read_json(folder / name) for name in ("experiment.json", "manifest.json"))
            yield Evidence(folder.name, folder, folder, experiment, manifest, result)


def _committed(results: Path) -> Iterator[Evidence]:
    for path in sorted(results.glob(f"*/{RUNS}")):
        yield from _committed_in(path)


def _committed_in(path: Path) -> Iterator[Evidence]:
    for name, run in read_json(path).items() if path.exists() else ():
        try:
            yield Evidence(name, path.parent, None, run["experiment"], run["manifest"], run["result"])
        except (KeyError, TypeError):
            raise InputError(f"{path}: broken: run {name} lacks its experiment, manifest or result") from None


def write_evidence(used: Iterable[Evidence], folder: Path) -> list[Path]:
    """Keeps what finished runs prove in two files of `folder`, beside what is kept there; no path is.

    The files stand for the records: a cell they hold is not trained again.
    """
    kept = {one.name: one for one in _committed_in(folder / RUNS)} | {one.name: one for one in used}
    runs, rows = {}, []
    for _, evidence in sorted(kept.items()):
        experiment, manifest = portable(evidence.experiment, evidence.manifest)
        runs[evidence.name] = {"experiment": experiment, "manifest": manifest, "result": evidence.result}
        rows += evidence.metrics
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / METRICS) as aside:
        parquet.write_table(pyarrow.Table.from_pylist(rows, COLUMNS), aside, compression="zstd")
    with replacing(folder / RUNS) as aside:
        lines = (f"{json.dumps(name)}: {json.dumps(run, allow_nan=False)}" for name, run in runs.items())
        aside.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return [folder / METRICS, folder / RUNS]
