"""A run from what a person asked for to its record: prepared, checked, and trained wherever it is to happen."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from mergenet.config import InputError
from mergenet.experiment import Experiment
from mergenet.models import check_code, names_code
from mergenet.training import ranks
from mergenet.training.copies import check_writable, following, record_here
from mergenet.training.export import export_model
from mergenet.training.files import (
    check_free,
    copied_from,
    has_begun,
    read_json,
    read_result,
    shown,
    world_sizes,
)
from mergenet.training.plan import Plan, make_plan
from mergenet.training.record import read_experiment, read_manifest, run_folder
from mergenet.training.reporter import Reporter
from mergenet.training.run import execute
from mergenet.training.sizes import among, as_asked, exactly, sizes_among
from mergenet.training.spec import RunSpec, data_of, locate_data, origins_from_plain


@dataclass(frozen=True)
class Job:
    """A checked run, ready to train.

    Attributes:
        sizes: how many workers it may have, ascending; one number, unless it may change on the way.
        resumed: whether it goes on with a record, whatever state that is in.
    """

    spec: RunSpec
    plan: Plan
    sizes: tuple[int, ...]
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
    workers: range,
    device: str,
    threads: int,
    allow_code: bool,
) -> Job:
    """A run of `experiment`, checked; its folder is named but not made.

    Args:
        workers: how many it may have.

    Raises:
        InputError: whatever does not fit.
    """
    _check_code(experiment, allow_code)
    experiment = _with_absolute_weights(experiment)
    located = locate_data([experiment], paths)
    # of one number planning says more: which learner's batch, and which batch would do
    sizes = tuple(workers)
    if len(sizes) > 1:
        sizes = sizes_among(experiment, workers, f"--workers {as_asked(workers)}")
    data = data_of(experiment, located)
    *_, plan = (make_plan(experiment, seed, data, size) for size in sizes)
    folder = run_folder(runs, experiment.name, plan.hash, seed).absolute()
    spec = RunSpec(experiment, seed, located, folder, device, threads, remote=copied_from(folder))
    return Job(spec, plan, sizes)


def prepare_resume(folder: Path, paths: Mapping[str, str], device: str, workers: range | None, allow_code: bool) -> Job:
    """The recorded run in `folder`, checked to be the one that began there.

    Args:
        workers: how many it may go on with; None for as many as it had last.

    Raises:
        InputError: it is not, or whatever else does not fit.
    """
    experiment, manifest = read_experiment(folder), read_manifest(folder)
    _check_code(experiment, allow_code)
    recorded = {name: entry["path"] for name, entry in manifest["data"].items() if entry["path"]}
    located = locate_data([experiment], {**recorded, **paths})
    origins = origins_from_plain(manifest.get("origins", {}))
    sizes = sizes_among(experiment, workers or exactly(world_sizes(manifest)[-1]), f"--resume {folder}")
    data = data_of(experiment, located)
    *_, plan = (make_plan(experiment, manifest["seed"], data, size, origins) for size in sizes)
    if plan.hash != manifest["hash"]:
        raise InputError(
            f"--resume {folder}: experiment, data, weights or numerics differ from those the run began with"
        )
    folder, seed, threads = folder.absolute(), manifest["seed"], manifest["threads"]
    spec = RunSpec(experiment, seed, located, folder, device, threads, origins, copied_from(folder))
    return Job(spec, plan, sizes, resumed=True)


def _check_code(experiment: Experiment, allow_code: bool) -> None:
    for name, learner in experiment.learners.items():
        check_code(f"learners.{name}.model", learner.model, allow_code)


def _with_absolute_weights(experiment: Experiment) -> Experiment:
    """Weight files by absolute paths: workers may stand in another folder, and a resumed run too."""
    named = {name: Path(one.weights) for name, one in experiment.learners.items() if one.weights is not None}
    return experiment.with_weights({name: str(path.absolute()) for name, path in named.items() if path.exists()})


# --- training ----------------------------------------------------------------------------------------------------


def train(job: Job, mlflow: str, reporter: Reporter, cluster: bool = False) -> bool:
    """Trains `job` to its end, unless its folder holds it finished; whether it did. Every rank calls it.

    Args:
        cluster: on Ray even where it has one worker.

    Raises:
        InputError: the folder holds what must not be touched.
    """
    with ranks.agreeing():
        found = _found(job, reporter.say) if ranks.rank() == 0 else False
    if ranks.from_first(found):
        return False
    with _mirrored(job, mlflow, reporter), _followed(job):
        if cluster or (job.sizes[-1] > 1 and not ranks.launched_by_torchrun()):
            _launch(job, reporter)
        else:
            execute(job.spec, reporter)
    return True


def _found(job: Job, say: Callable[[str], None]) -> bool:
    """Whether the run's folder holds this very run, finished.

    Who goes on with it, as a scheduler does after a node has died, waits for that node's lock to go.

    Raises:
        InputError: it holds what must not be touched, or is kept where nothing can be written.
    """
    spec, folder = job.spec, shown(job.spec.folder)
    check_writable(record_here(spec.folder).parents[1])
    check_free(spec.folder, job.resumed, say)
    if not has_begun(spec.folder):
        return False
    result = read_result(spec.folder)
    finished = result is not None and result["status"] == "finished"
    if job.resumed:
        return finished
    if not finished:
        raise InputError(f"{folder} holds this run unfinished: go on with --resume {folder}, or remove it")
    _check_made_so(job)
    return True


def _check_made_so(job: Job) -> None:
    """Raises:
    InputError: the finished run was made with other workers, threads or device than are asked for.
    """
    begun, folder = read_manifest(job.spec.folder), shown(job.spec.folder)
    wanted: dict[str, tuple[str, tuple[int | str, ...]]] = {
        "world_size": ("--workers", job.sizes),
        "threads": ("--threads", (job.spec.threads,)),
        "device": ("--device", (job.spec.device,)),
    }
    for key, (option, values) in wanted.items():
        if begun[key] not in values:
            raise InputError(
                f"{folder} holds this run finished with {option} {begun[key]}, and this asks for {among(values)}: "
                f"add {option} {begun[key]} to see it, or choose other --runs"
            )


def _followed(job: Job) -> AbstractContextManager[None]:
    """The copy of a record that is kept elsewhere, up to date for who looks at it here."""
    return following(job.spec.folder) if ranks.rank() == 0 else nullcontext()


@contextmanager
def _mirrored(job: Job, mlflow: str, reporter: Reporter) -> Iterator[None]:
    """The record followed by MLflow while it grows, and the trained clock learner sent when it has ended."""
    uri = tracking_uri(mlflow, job.spec.folder.parents[1]) if ranks.rank() == 0 else None
    if uri is None:
        yield
        return
    from tune.follow import mirrored

    with (
        TemporaryDirectory(prefix="mergenet-") as aside,
        mirrored(job.spec.folder, uri, reporter.say, lambda: exported(job.spec.folder, Path(aside), allow_code=True)),
    ):
        yield


def tracking_uri(mlflow: str, runs: Path) -> str | None:
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


def exported(run: Path, aside: Path, allow_code: bool) -> Path | None:
    """The trained clock learner of a finished run as plain weights in a folder in `aside`.

    None where it diverged, or where it would run code of the user's without leave.
    """
    experiment = read_experiment(run)
    clock, result = experiment.clock, read_json(run / "result.json")
    diverged = result["learners"][clock]["diverged_at"] is not None
    if diverged or (names_code(experiment.learners[clock].model) and not allow_code):
        return None
    return export_model(run, aside / clock, program=False, allow_code=allow_code)


def _launch(job: Job, reporter: Reporter) -> None:
    try:
        from cluster.launch import launch
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise InputError(
            "--workers above 1 needs Ray, which is not installed: pip install 'ray[default,train]', "
            "or torchrun --nproc-per-node N -m mergenet train ..."
        ) from None
    launch(job.spec, job.sizes, reporter)
