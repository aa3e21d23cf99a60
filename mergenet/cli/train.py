"""`mergenet train`: one run, in this process, in those torchrun started, or on Ray Train workers.

Everything heavy is imported when the command runs, so `mergenet --help` answers at once.
"""

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergenet.config import InputError

if TYPE_CHECKING:
    from mergenet.training.plan import Plan
    from mergenet.training.run import RunSpec


@click.command()
@click.argument("recipe", required=False)
@click.argument("overrides", nargs=-1, metavar="[PATH=VALUE]...")
@click.option("--workers", type=click.IntRange(min=1), help="Processes that share each batch, on Ray Train above 1.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), help="Of weights, order, augmentation and dropout.  [default: 0]")
@click.option("--data", "data", multiple=True, metavar="NAME=PATH", help="Where a data set lies; may be repeated.")
@click.option("--runs", default="runs", envvar="MERGENET_RUNS", show_default=True, help="Folder of all records.")
@click.option("--resume", metavar="RUN", help="Goes on with the run recorded in this folder.")
@click.option("--threads", type=click.IntRange(min=1), help="torch's threads a process on a CPU.  [default: 1]")
@click.option(
    "--dry-run", is_flag=True, help="Prints the resolved experiment with ports and shapes, and trains nothing."
)
def train(
    recipe: str | None,
    overrides: tuple[str, ...],
    workers: int | None,
    device: str,
    seed: int | None,
    data: tuple[str, ...],
    runs: str,
    resume: str | None,
    threads: int | None,
    dry_run: bool,
) -> None:
    """Trains the experiment RECIPE, a recipe's name or a YAML file, with values overridden by their path.

    \b
    mergenet train digits-cross-structure
    mergenet train digits-cross-structure training.epochs=5 transfers.main.encoding=whole
    mergenet train cifar100-cross-structure --data cifar100=PATH --workers 4
    """
    from mergenet.training import ranks

    if resume is not None:
        _refuse_beside_resume(recipe, seed, threads)
    device = _resolve_device(device, resume)
    with ranks.process_group(ranks.own_device(device)):
        workers = _resolve_workers(workers, resume)
        paths = _read_paths(data)
        if resume is not None:
            spec, plan = _resumed(Path(resume), paths, device, workers)
        else:
            spec, plan = _fresh(recipe, overrides, paths, device, workers, seed or 0, threads or 1, Path(runs))
        if dry_run:
            _print_plan(spec, plan, workers)
        else:
            _run(spec, workers, resumed=resume is not None)


# --- what to run -------------------------------------------------------------------------------------------------


def _resolve_device(device: str, resume: str | None) -> str:
    """The device asked for, that of the run to resume, or a GPU where there is one."""
    import torch

    from mergenet.training.record import read_manifest

    if resume is not None:
        begun = read_manifest(Path(resume))["device"]
        if device not in ("auto", begun):
            raise InputError(f"--device {device}: the run began on {begun}; leave it out")
        device = begun
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU here; leave it out or say cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def _resolve_workers(workers: int | None, resume: str | None) -> int:
    """How many processes share the work: torchrun's, those asked for, those of the run to resume, or one."""
    from mergenet.training import ranks
    from mergenet.training.record import read_manifest

    if ranks.launched_by_torchrun():
        if workers is not None:
            raise InputError(f"--workers {workers}: torchrun has started {ranks.world()} processes; leave it out")
        return ranks.world()
    if workers is None:
        return int(read_manifest(Path(resume))["world_size"]) if resume else 1
    return workers


def _read_paths(data: tuple[str, ...]) -> dict[str, str]:
    paths = {}
    for entry in data:
        name, equals, path = entry.partition("=")
        if not equals or not name or not path:
            raise InputError(f"--data {entry}: write it as NAME=PATH, for example cifar100=data/cifar100")
        paths[name] = path
    return paths


def _refuse_beside_resume(recipe: str | None, seed: int | None, threads: int | None) -> None:
    given = {"a recipe": recipe, "--seed": seed, "--threads": threads}
    for name, value in given.items():
        if value is not None:
            raise InputError(f"--resume goes on with the recorded run as it is; leave {name} out")


def _fresh(
    recipe: str | None,
    overrides: tuple[str, ...],
    paths: dict[str, str],
    device: str,
    workers: int,
    seed: int,
    threads: int,
    runs: Path,
) -> tuple["RunSpec", "Plan"]:
    from mergenet.experiment import load_experiment, recipes
    from mergenet.training.plan import make_plan
    from mergenet.training.record import run_folder
    from mergenet.training.run import RunSpec, data_of

    if recipe is None:
        raise InputError(f"train: name a recipe ({', '.join(recipes())}), a YAML file, or --resume RUN")
    experiment = load_experiment(recipe, overrides)
    plan = make_plan(experiment, seed, data_of(experiment, paths), workers)
    folder = run_folder(runs, experiment.name, plan.hash, seed).absolute()
    return RunSpec(experiment, seed, _absolute(paths), folder, device, threads), plan


def _resumed(folder: Path, paths: dict[str, str], device: str, workers: int) -> tuple["RunSpec", "Plan"]:
    from mergenet.training.plan import make_plan
    from mergenet.training.record import read_experiment, read_manifest
    from mergenet.training.run import RunSpec, data_of

    experiment, manifest = read_experiment(folder), read_manifest(folder)
    recorded = {name: entry["path"] for name, entry in manifest["data"].items() if entry["path"]}
    paths = {**recorded, **paths}
    plan = make_plan(experiment, manifest["seed"], data_of(experiment, paths), workers)
    if plan.hash != manifest["hash"]:
        raise InputError(f"--resume {folder}: experiment, data or numerics differ from those the run began with")
    if workers != manifest["world_size"]:
        raise InputError(f"--resume {folder}: began with --workers {manifest['world_size']}; go on with as many")
    spec = RunSpec(experiment, manifest["seed"], _absolute(paths), folder.absolute(), device, manifest["threads"])
    return spec, plan


def _absolute(paths: dict[str, str]) -> dict[str, str]:
    return {name: str(Path(path).absolute()) for name, path in paths.items()}


# --- running it --------------------------------------------------------------------------------------------------


def _run(spec: "RunSpec", workers: int, resumed: bool) -> None:
    """Trains, unless this run is there already, and shows how it ended."""
    from mergenet.training import ranks

    first = ranks.rank() == 0
    finished = ranks.from_first(_finished_before(spec, workers, resumed) if first else None)
    if isinstance(finished, str):
        raise InputError(finished)
    if not finished:
        _train(spec, workers)
    if first:
        from mergenet.cli.show import print_result

        if finished:
            print(f"This run finished before; to train it again, remove {_shown(spec.folder)}", file=sys.stderr)
        print_result(spec, _shown(spec.folder), again=None if resumed else shlex.join([*_own_name(), *sys.argv[1:]]))


def _finished_before(spec: "RunSpec", workers: int, resumed: bool) -> bool | str:
    """Whether the run's folder holds this very run, finished; a line where it holds what must not be touched."""
    from mergenet.training.record import is_being_written, read_manifest, read_result

    folder = _shown(spec.folder)
    if not (spec.folder / "manifest.json").exists():
        return False
    result = read_result(spec.folder)
    if resumed:
        return result is not None and result["status"] == "finished"
    if is_being_written(spec.folder):
        return f"{folder}: another process is writing this run"
    if result is None or result["status"] != "finished":
        return f"{folder} holds this run unfinished: go on with --resume {folder}, or remove it"
    begun = read_manifest(spec.folder)
    wanted = {
        "world_size": ("--workers", workers),
        "threads": ("--threads", spec.threads),
        "device": ("--device", spec.device),
    }
    for key, (option, value) in wanted.items():
        if begun[key] != value:
            return (
                f"{folder} holds this run finished with {option} {begun[key]}, and this asks for {value}: "
                f"add {option} {begun[key]} to see it, or choose other --runs"
            )
    return True


def _train(spec: "RunSpec", workers: int) -> None:
    from mergenet.training import ranks
    from mergenet.training.reporter import Terminal
    from mergenet.training.run import execute

    try:
        if workers > 1 and not ranks.launched_by_torchrun():
            _launch()(spec, workers, Terminal())
        else:
            execute(spec, Terminal())
    except InputError:
        raise
    except KeyboardInterrupt:
        raise InterruptedRun(spec) from None
    except Exception as error:
        raise FailedRun(spec, error) from error


def _launch() -> Any:
    try:
        from cluster.launch import launch
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise InputError(
            "--workers above 1 needs Ray, which is not installed: pip install 'ray[train]', "
            "or torchrun --nproc-per-node N -m mergenet train ..."
        ) from None
    return launch


class FailedRun(click.ClickException):
    """A run that ended with an error: one line, and where the record tells the rest."""

    exit_code = 1

    def __init__(self, spec: "RunSpec", error: Exception) -> None:
        from mergenet.training import ranks

        reason = (str(error).splitlines() or [""])[0]
        where = f"; {_shown(spec.folder)}/result.json has the traceback" if ranks.rank() == 0 else ""
        super().__init__(f"the run failed: {type(error).__name__}: {reason}{where}")


class InterruptedRun(click.ClickException):
    """A run that was stopped: how to go on."""

    exit_code = 130

    def __init__(self, spec: "RunSpec") -> None:
        resume = shlex.join([*_own_name(), "train", "--resume", _shown(spec.folder)])
        begun = (spec.folder / "manifest.json").exists()
        super().__init__(f"interrupted; go on with: {resume}" if begun else "interrupted before it began")


def _shown(folder: Path) -> str:
    """A path as short as it can be written from here."""
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)


def _own_name() -> list[str]:
    """What to type to run this program again from here."""
    from mergenet.training import ranks

    program = Path(sys.argv[0])
    if ranks.launched_by_torchrun():
        return ["torchrun", "--nproc-per-node", str(ranks.world()), "-m", "mergenet"]
    if program.name == "__main__.py":
        return ["python", "-m", "mergenet"]
    on_path = shutil.which(program.name)
    return [program.name if on_path and Path(on_path).samefile(program) else _shown(program.absolute())]


def _print_plan(spec: "RunSpec", plan: "Plan", workers: int) -> None:
    from mergenet.cli.show import print_plan
    from mergenet.training import ranks

    if ranks.rank() == 0:
        print_plan(spec, plan, workers, _shown(spec.folder))
