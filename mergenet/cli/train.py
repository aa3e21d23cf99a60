"""`mergenet train`: one run, in this process, in those torchrun started, or on Ray Train workers.

Everything heavy is imported when the command runs, so `mergenet --help` answers at once.
"""

import shlex
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mergenet.cli.place import address_option, address_words, device_there, joined
from mergenet.cli.words import Workers, own_name, read_paths, runs_option
from mergenet.config import InputError
from mergenet.training.files import has_begun, shown
from mergenet.training.remote import Away

if TYPE_CHECKING:
    from mergenet.experiment import Experiment
    from mergenet.jobs import Job
    from mergenet.training.spec import RunSpec


@click.command(short_help="Trains an experiment and records the run.")
@click.argument("recipe", required=False)
@click.argument("overrides", nargs=-1, metavar="[PATH=VALUE]...")
@click.option(
    "--workers",
    type=Workers(),
    help="Processes that share each batch, on Ray Train above 1. MIN-MAX: as many as there is room for.  [default: 1]",
)
@address_option
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), help="Of weights, order, augmentation and dropout.  [default: 0]")
@click.option("--data", "data", multiple=True, metavar="NAME=PATH", help="Where a data set lies; may be repeated.")
@runs_option
@click.option("--resume", metavar="RUN", help="Goes on with the run recorded in this folder.")
@click.option(
    "--continue",
    "go_on",
    is_flag=True,
    help="Goes on with it where it has begun: for a scheduler that starts anew.",
)
@click.option("--threads", type=click.IntRange(min=1), help="torch's threads a process on a CPU.  [default: 1]")
@click.option(
    "--mlflow",
    default="auto",
    metavar="URI",
    help="Where the record is mirrored to, or `off`.  [default: SQLite in --runs]",
)
@click.option("--allow-code", is_flag=True, help="Lets models named package.module:function run.")
@click.option(
    "--dry-run", is_flag=True, help="Prints the resolved experiment with ports and shapes, and trains nothing."
)
def train(
    recipe: str | None,
    overrides: tuple[str, ...],
    workers: range | None,
    address: str | None,
    device: str,
    seed: int | None,
    data: tuple[str, ...],
    runs: str,
    resume: str | None,
    go_on: bool,
    threads: int | None,
    mlflow: str,
    allow_code: bool,
    dry_run: bool,
) -> None:
    """Trains the experiment RECIPE, a recipe's name or a YAML file, with values overridden by their path.

    \b
    mergenet train digits-cross-structure
    mergenet train digits-cross-structure training.epochs=5 transfers.main.cycle=8
    mergenet train cifar100-cross-structure --data cifar100=PATH --workers 4
    """
    from mergenet import jobs
    from mergenet.training.copies import record_here, runs_here
    from mergenet.training.sizes import exactly

    begun = None
    if resume is not None:
        _refuse_beside_resume(recipe, seed, threads)
        begun = record_here(resume)
    _refuse_two_launchers(address)
    device = _begun_device(device, begun)
    with joined(address), _own_group(address, device):
        device = device_there(address, device)
        workers = _resolve_workers(workers)
        paths = read_paths(data)
        if begun is not None:
            job = jobs.prepare_resume(begun, paths, device, workers, allow_code)
        else:
            experiment = _load(recipe, overrides)
            job = jobs.prepare(
                experiment, paths, runs_here(runs), seed or 0, workers or exactly(1), device, threads or 1, allow_code
            )
            if go_on and has_begun(record_here(job.spec.folder)):
                job = jobs.prepare_resume(job.spec.folder, paths, device, workers, allow_code)
        if dry_run:
            _print_plan(job)
        else:
            _run(job, mlflow, address)


def _refuse_two_launchers(address: str | None) -> None:
    from mergenet.training import ranks

    if address is not None and ranks.launched_by_torchrun():
        raise InputError(f"--address {address} (or RAY_ADDRESS): this process is one of torchrun's; leave one out")


def _own_group(address: str | None, device: str) -> AbstractContextManager[None]:
    """The group that torchrun asks this process to join; those of a cluster's workers are their own."""
    from mergenet import jobs
    from mergenet.training import ranks

    if address is not None:
        return nullcontext()
    return ranks.process_group(ranks.own_device(jobs.resolve_device(device)))


# --- what to run -------------------------------------------------------------------------------------------------


def _begun_device(device: str, begun: Path | None) -> str:
    """The device asked for, or that of the run to resume."""
    from mergenet.training.record import read_manifest

    if begun is None:
        return device
    first: str = read_manifest(begun)["device"]
    if device not in ("auto", first):
        raise InputError(f"--device {device}: the run began on {first}; leave it out")
    return first


def _resolve_workers(workers: range | None) -> range | None:
    """How many processes may share the work: those asked for, or torchrun's, which are there already."""
    from mergenet.training import ranks
    from mergenet.training.sizes import as_asked, exactly

    if not ranks.launched_by_torchrun():
        return workers
    if workers is not None:
        said = f"--workers {as_asked(workers)}"
        raise InputError(f"{said}: torchrun has started {ranks.world()} processes; leave it out")
    return exactly(ranks.world())


def _refuse_beside_resume(recipe: str | None, seed: int | None, threads: int | None) -> None:
    given = {"a recipe": recipe, "--seed": seed, "--threads": threads}
    for name, value in given.items():
        if value is not None:
            raise InputError(f"--resume goes on with the recorded run as it is; leave {name} out")


def _load(recipe: str | None, overrides: tuple[str, ...]) -> "Experiment":
    from mergenet.experiment import load_experiment, recipes

    if recipe is None:
        raise InputError(f"train: name a recipe ({', '.join(recipes())}), a YAML file, or --resume RUN")
    return load_experiment(recipe, overrides)


# --- running it --------------------------------------------------------------------------------------------------


def _run(job: "Job", mlflow: str, address: str | None) -> None:
    """Trains, unless this run is there already, and shows how it ended."""
    from mergenet.training import ranks

    trained = _train(job, mlflow, address)
    if ranks.rank() > 0:
        return
    from mergenet.cli.show import print_result
    from mergenet.training.copies import fetch

    fetch(job.spec.folder)

    folder = shown(job.spec.folder)
    if not trained:
        print(f"This run finished before; to train it again, remove {folder}", file=sys.stderr)
    print_result(job.spec, folder, again=None if job.resumed else shlex.join([*own_name(), *sys.argv[1:]]))


def _train(job: "Job", mlflow: str, address: str | None) -> bool:
    from mergenet import jobs
    from mergenet.training.reporter import Terminal

    try:
        return jobs.train(job, mlflow, Terminal(), cluster=address is not None)
    except (InputError, Away):
        raise
    except KeyboardInterrupt:
        raise InterruptedRun(job, address) from None
    except Exception as error:
        raise FailedRun(job.spec, error) from error


class FailedRun(click.ClickException):
    """A run that ended with an error: one line, and where the record tells the rest."""

    exit_code = 1

    def __init__(self, spec: "RunSpec", error: Exception) -> None:
        from mergenet.training import ranks

        reason = (str(error).splitlines() or [""])[0]
        told = ranks.rank() == 0 and (spec.folder / "result.json").exists()
        where = f"; {shown(spec.folder)}/result.json has the traceback" if told else ""
        super().__init__(f"the run failed: {type(error).__name__}: {reason}{where}")


class InterruptedRun(click.ClickException):
    """A run that was stopped: how to go on."""

    exit_code = 130

    def __init__(self, job: "Job", address: str | None) -> None:
        from mergenet.training.checkpoint import checkpoints

        spec, several = job.spec, [f"--workers={job.sizes[0]}-{job.sizes[-1]}"] if len(job.sizes) > 1 else []
        again = ["train", "--resume", shown(spec.folder), *several, *address_words(address)]
        resume = shlex.join([*own_name(), *again])
        if not has_begun(spec.folder):
            message = "interrupted before it began"
        elif not checkpoints(spec.folder / "checkpoints"):
            every = spec.experiment.checkpoint.every
            message = f"interrupted before the first checkpoint (every {every} ticks); begin anew with: {resume}"
        else:
            message = f"interrupted; go on with: {resume}"
        super().__init__(message)


def _print_plan(job: "Job") -> None:
    from mergenet.cli.show import print_plan
    from mergenet.training import ranks

    if ranks.rank() == 0:
        print_plan(job.spec, job.plan, job.sizes, shown(job.spec.folder))
