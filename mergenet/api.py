"""From Python what the command line does: train a run, go on with it, read what it left.

The doors of a notebook are `load_experiment`, `run`, `resume` and `read_run`, all of them also in `mergenet` itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from mergenet.config import InputError
from mergenet.experiment import Experiment, load_experiment
from mergenet.jobs import prepare, prepare_resume, resolve_device, train
from mergenet.training import ranks
from mergenet.training.copies import fetch, record_here, runs_here
from mergenet.training.export import export_model
from mergenet.training.files import read_metrics, read_result
from mergenet.training.record import read_experiment, read_manifest
from mergenet.training.reporter import Silent, Terminal
from mergenet.training.trained import build_trained, read_trained

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Run", "export_model", "load_experiment", "read_run", "resume", "run"]


@dataclass(frozen=True)
class Run:
    """What a run left behind, read from its folder."""

    folder: Path

    @property
    def experiment(self) -> Experiment:
        """The resolved experiment."""
        return read_experiment(self._fetched())

    @property
    def manifest(self) -> dict[str, Any]:
        """Hashes, versions, hardware: what its figures may depend on."""
        return read_manifest(self._fetched())

    @property
    def result(self) -> dict[str, Any] | None:
        """How it ended, with the final figures of each learner; None where it has not."""
        return read_result(self._fetched())

    @property
    def figures(self) -> "DataFrame":
        """Every recorded figure: columns run, learner, tick, epoch, split, metric, value."""
        from pandas import DataFrame

        columns = ["run", "learner", "tick", "epoch", "split", "metric", "value"]
        return DataFrame(read_metrics(self._fetched()), columns=columns)

    def model(self, learner: str | None = None, allow_code: bool = False) -> nn.Module:
        """A trained learner of the finished run (the clock's if left out) as a plain module on the CPU, in eval mode.

        Raises:
            InputError: the run has not finished, or the learner is unknown, frozen or diverged.
        """
        return build_trained(read_trained(self._fetched(), learner, allow_code))

    def _fetched(self) -> Path:
        """Its folder, up to date where it is a copy."""
        fetch(self.folder)
        return self.folder


def run(
    experiment: Experiment,
    *,
    seed: int = 0,
    data: Mapping[str, str | Path] | None = None,
    runs: str | Path = "runs",
    workers: int | tuple[int, int] = 1,
    device: str = "auto",
    threads: int = 1,
    mlflow: str = "auto",
    allow_code: bool = False,
    quiet: bool = False,
) -> Run:
    """Trains `experiment` and gives back its record; a run that has finished before is not trained again.

    Args:
        experiment: from `load_experiment`.
        seed: of weights, order, augmentation and dropout.
        data: name of a data set -> its folder; what is left out is looked for in `$MERGENET_DATA` (else `data`).
        runs: folder of all records, or the URI of one in an object store.
        workers: processes that share each batch, on Ray Train above 1; (MIN, MAX) where their number may change.
        device: auto (a GPU where there is one), cpu or cuda.
        threads: torch's a process on a CPU; another number may round differently.
        mlflow: where the record is mirrored to: a tracking URI, `off`, or `auto` (`$MERGENET_MLFLOW`, else
            `$MLFLOW_TRACKING_URI`, else SQLite in `runs`, where MLflow is installed).
        allow_code: whether models named `package.module:function` may run.
        quiet: no progress on standard error.

    Raises:
        InputError: whatever does not fit, in one line, before anything is written.
    """
    device = resolve_device(device)
    with ranks.process_group(ranks.own_device(device)):
        paths = {name: str(path) for name, path in (data or {}).items()}
        job = prepare(experiment, paths, runs_here(runs), seed, _range(workers), device, threads, allow_code)
        train(job, mlflow, Silent() if quiet else Terminal())
    return Run(job.spec.folder)


def resume(
    folder: str | Path,
    *,
    data: Mapping[str, str | Path] | None = None,
    workers: int | tuple[int, int] | None = None,
    mlflow: str = "auto",
    allow_code: bool = False,
    quiet: bool = False,
) -> Run:
    """Goes on with the run recorded in `folder` (or at this URI), with the threads and device it began with.

    Args:
        workers: None for as many as it had last; with another number the run is marked.

    Raises:
        InputError: no such record, or experiment, data or weights are not those the run began with.
    """
    folder = record_here(folder)
    manifest = read_manifest(folder)
    with ranks.process_group(ranks.own_device(manifest["device"])):
        paths = {name: str(path) for name, path in (data or {}).items()}
        wanted = None if workers is None else _range(workers)
        job = prepare_resume(folder, paths, manifest["device"], wanted, allow_code)
        train(job, mlflow, Silent() if quiet else Terminal())
    return Run(job.spec.folder)


def _range(workers: int | tuple[int, int]) -> range:
    least, most = (workers, workers) if isinstance(workers, int) else workers
    if not 1 <= least <= most:
        raise InputError(f"workers={workers}: a number from 1 on, or (MIN, MAX) of two of them")
    return range(least, most + 1)


def read_run(folder: str | Path) -> Run:
    """The record in `folder`, or at this URI.

    Raises:
        InputError: there is none.
    """
    folder = record_here(folder)
    read_manifest(folder)
    return Run(folder)
