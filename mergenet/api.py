"""From Python what the command line does: prepare a run, train it, read what it left.

The doors of a notebook are `load_experiment`, `run`, `resume` and `read_run`, all of them also in `mergenet` itself.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mergenet.config import InputError
from mergenet.experiment import Experiment, load_experiment
from mergenet.models import names_code
from mergenet.training import ranks
from mergenet.training.export import export_model
from mergenet.training.plan import Plan, make_plan
from mergenet.training.record import (
    is_being_written,
    read_experiment,
    read_json,
    read_manifest,
    read_result,
    run_folder,
)
from mergenet.training.reporter import Reporter, Silent, Terminal
from mergenet.training.run import RunSpec, data_of, execute, locate_data
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
        return read_experiment(self.folder)

    @property
    def manifest(self) -> dict[str, Any]:
        """Hashes, versions, hardware: what its figures may depend on."""
        return read_manifest(self.folder)

    @property
    def result(self) -> dict[str, Any] | None:
        """How it ended, with the final figures of each learner; None where it has not."""
        return read_result(self.folder)

    @property
    def figures(self) -> "DataFrame":
        """Every recorded figure: columns run, learner, tick, epoch, split, metric, value."""
        from pandas import DataFrame

        columns = ["run", "learner", "tick", "epoch", "split", "metric", "value"]
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return DataFrame([json.loads(line) for line in lines], columns=columns)

    def model(self, learner: str | None = None, allow_code: bool = False) -> nn.Module:
        """A trained learner of the finished run (the clock's if left out) as a plain module on the CPU, in eval mode.

        Raises:
            InputError: the run has not finished, or the learner is unknown, frozen or diverged.
        """
        return build_trained(read_trained(self.folder, learner, allow_code))


def run(
    experiment: Experiment,
    *,
    seed: int = 0,
    data: Mapping[str, str | Path] | None = None,
    runs: str | Path = "runs",
    workers: int = 1,
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
        runs: folder of all records.
        workers: processes that share each batch, on Ray Train above 1.
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
        job = prepare(experiment, paths, Path(runs), seed, workers, device, threads, allow_code)
        train(job, mlflow, Silent() if quiet else Terminal())
    return Run(job.spec.folder)


def resume(
    folder: str | Path,
    *,
    data: Mapping[str, str | Path] | None = None,
    mlflow: str = "auto",
    allow_code: bool = False,
    quiet: bool = False,
) -> Run:
    """Goes on with the run recorded in `folder`, with the workers, threads and device it began with.

    Raises:
        InputError: no such record, or experiment, data or weights are not those the run began with.
    """
    manifest = read_manifest(Path(folder))
    with ranks.process_group(ranks.own_device(manifest["device"])):
        paths = {name: str(path) for name, path in (data or {}).items()}
        job = prepare_resume(Path(folder), paths, manifest["device"], manifest["world_size"], allow_code)
        train(job, mlflow, Silent() if quiet else Terminal())
    return Run(job.spec.folder)


def read_run(folder: str | Path) -> Run:
    """The record in `folder`.

    Raises:
        InputError: there is none.
    """
    read_manifest(Path(folder))
    return Run(Path(folder))


# --- preparing ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A checked run, ready to train.

    Attributes:
        resumed: whether it goes on with a record, whatever state that is in.
    """

    spec: RunSpec
    plan: Plan
    workers: int
    resumed: bool = False


def resolve_device(device: str) -> str:
    """`auto` as cuda where there is a GPU, else as cpu.

    Raises:
        InputError: cuda where torch finds none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU here; leave it out or say cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def prepare(
    experiment: Experiment,
    paths: Mapping[str, str],
    runs: Path,
    seed: int,
    workers: int,
    device: str,
    threads: int,
    allow_code: bool,
) -> Job:
    """A run of `experiment`, checked; its folder is named but not made.

    Raises:
        InputError: whatever does not fit.
    """
    _check_code(experiment, allow_code)
    experiment = _with_absolute_weights(experiment)
    located = locate_data(experiment, paths)
    plan = make_plan(experiment, seed, data_of(experiment, located), workers)
    folder = run_folder(runs, experiment.name, plan.hash, seed).absolute()
    return Job(RunSpec(experiment, seed, located, folder, device, threads), plan, workers)


def prepare_resume(folder: Path, paths: Mapping[str, str], device: str, workers: int, allow_code: bool) -> Job:
    """The recorded run in `folder`, checked to be the one that began there.

    Raises:
        InputError: it is not, or whatever else does not fit.
    """
    experiment, manifest = read_experiment(folder), read_manifest(folder)
    _check_code(experiment, allow_code)
    recorded = {name: entry["path"] for name, entry in manifest["data"].items() if entry["path"]}
    located = locate_data(experiment, {**recorded, **paths})
    plan = make_plan(experiment, manifest["seed"], data_of(experiment, located), workers)
    if plan.hash != manifest["hash"]:
        raise InputError(
            f"--resume {folder}: experiment, data, weights or numerics differ from those the run began with"
        )
    if workers != manifest["world_size"]:
        raise InputError(f"--resume {folder}: began with --workers {manifest['world_size']}; go on with as many")
    spec = RunSpec(experiment, manifest["seed"], located, folder.absolute(), device, manifest["threads"])
    return Job(spec, plan, workers, resumed=True)


def _check_code(experiment: Experiment, allow_code: bool) -> None:
    for name, learner in experiment.learners.items():
        if names_code(learner.model) and not allow_code:
            raise InputError(
                f"learners.{name}.model: {learner.model} is code of yours that would run here; "
                "allow it with --allow-code (allow_code=True)"
            )


def _with_absolute_weights(experiment: Experiment) -> Experiment:
    """Weight files by absolute paths: workers may stand in another folder, and a resumed run too."""
    learners = {
        name: learner.model_copy(update={"weights": str(Path(learner.weights).absolute())})
        if learner.weights is not None and Path(learner.weights).exists()
        else learner
        for name, learner in experiment.learners.items()
    }
    return experiment.model_copy(update={"learners": learners})


# --- training ----------------------------------------------------------------------------------------------------


def train(job: Job, mlflow: str, reporter: Reporter) -> bool:
    """Trains `job` to its end, unless its folder holds it finished; whether it did. Every rank calls it.

    Raises:
        InputError: the folder holds what must not be touched.
    """
    found = ranks.from_first(_found(job) if ranks.rank() == 0 else None)
    if isinstance(found, str):
        raise InputError(found)
    if found:
        return False
    with _mirrored(job, mlflow, reporter):
        if job.workers > 1 and not ranks.launched_by_torchrun():
            _launch(job, reporter)
        else:
            execute(job.spec, reporter)
    return True


def _found(job: Job) -> bool | str:
    """Whether the run's folder holds this very run, finished; a line where it holds what must not be touched."""
    spec, folder = job.spec, shown(job.spec.folder)
    if not (spec.folder / "manifest.json").exists():
        return False
    result = read_result(spec.folder)
    finished = result is not None and result["status"] == "finished"
    if job.resumed:
        return finished
    if is_being_written(spec.folder):
        return f"{folder}: another process is writing this run"
    if not finished:
        return f"{folder} holds this run unfinished: go on with --resume {folder}, or remove it"
    return _made_otherwise(job) or True


def _made_otherwise(job: Job) -> str | None:
    """A line where the finished run was made with other workers, threads or device than are asked for."""
    begun, folder = read_manifest(job.spec.folder), shown(job.spec.folder)
    wanted = {
        "world_size": ("--workers", job.workers),
        "threads": ("--threads", job.spec.threads),
        "device": ("--device", job.spec.device),
    }
    for key, (option, value) in wanted.items():
        if begun[key] != value:
            return (
                f"{folder} holds this run finished with {option} {begun[key]}, and this asks for {value}: "
                f"add {option} {begun[key]} to see it, or choose other --runs"
            )
    return None


@contextmanager
def _mirrored(job: Job, mlflow: str, reporter: Reporter) -> Iterator[None]:
    """The record followed by MLflow while it grows, and the trained clock learner sent when it has ended."""
    uri = _tracking_uri(mlflow, job.spec.folder.parents[1]) if ranks.rank() == 0 else None
    if uri is None:
        yield
        return
    from tune.follow import mirrored

    with (
        TemporaryDirectory(prefix="mergenet-") as aside,
        mirrored(job.spec.folder, uri, reporter.say, lambda: _exported(job, Path(aside))),
    ):
        yield


def _tracking_uri(mlflow: str, runs: Path) -> str | None:
    """Where the record is mirrored to; None for nowhere.

    Raises:
        InputError: MLflow is asked for by an address, and it is not installed.
    """
    if mlflow == "auto":
        mlflow = os.environ.get("MERGENET_MLFLOW", "auto")
    if mlflow == "off":
        return None
    if find_spec("mlflow") is None:
        if mlflow == "auto":
            return None
        raise InputError(f"--mlflow {mlflow}: MLflow is not installed: pip install mlflow, or say off")
    from tune.store import default_uri

    return (os.environ.get("MLFLOW_TRACKING_URI") or default_uri(runs)) if mlflow == "auto" else mlflow


def _exported(job: Job, aside: Path) -> Path | None:
    """The trained clock learner as plain weights; None where it diverged."""
    folder, clock = job.spec.folder, job.spec.experiment.clock
    if read_json(folder / "result.json")["learners"][clock]["diverged_at"] is not None:
        return None
    return export_model(folder, aside / clock, program=False, allow_code=True)


def _launch(job: Job, reporter: Reporter) -> None:
    try:
        from cluster.launch import launch
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise InputError(
            "--workers above 1 needs Ray, which is not installed: pip install 'ray[train]', "
            "or torchrun --nproc-per-node N -m mergenet train ..."
        ) from None
    launch(job.spec, job.workers, reporter)


def shown(folder: Path) -> str:
    """A path as short as it can be written from here."""
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)
