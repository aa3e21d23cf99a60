"""`mergenet cluster submit`, `status`, `logs`, `stop`: commands as jobs of a cluster, by Ray Jobs."""

import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from mergenet.cli.ablate import ablate
from mergenet.cli.sweep import sweep
from mergenet.cli.train import train
from mergenet.cli.words import Ended
from mergenet.config import InputError

if TYPE_CHECKING:
    from cluster.jobs import Job, Jobs

Command = TypeVar("Command", bound=Callable[..., Any])

SENT = {"train": train, "sweep": sweep, "ablate": ablate}
"""The commands that a cluster is asked for."""
END_S = 30.0


def _dashboard(command: Command) -> Command:
    return click.option(
        "--address",
        default="http://127.0.0.1:8265",
        envvar="RAY_API_SERVER_ADDRESS",
        show_default=True,
        metavar="http://HOST:PORT",
        help="Of the cluster's dashboard.",
    )(command)


def _jobs(address: str) -> "Jobs":
    from cluster.jobs import Jobs

    return Jobs(address)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="-- train|sweep|ablate ...")
@_dashboard
@click.option("--send", multiple=True, metavar="PATH", help="A file or folder that it needs too; may be repeated.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="A variable for it; may be repeated.")
@click.option("--python", default="python", show_default=True, help="The cluster's, where this project's needs are.")
@click.option("--follow/--no-follow", default=True, show_default=True, help="Prints what it prints until it ends.")
def submit(
    words: tuple[str, ...], address: str, send: tuple[str, ...], env: tuple[str, ...], python: str, follow: bool
) -> int:
    """Runs a command on a cluster, with the code that is here.

    YAML files that the command names are sent along. Ctrl-C leaves the job running. The exit code is the command's.

    \b
    mergenet cluster submit -- train cifar100-cross-structure --workers 4 --runs /mnt/runs --data cifar100=/mnt/cifar100
    mergenet cluster submit --no-follow -- sweep my-sweep.yaml --runs /mnt/runs
    """
    variables = _variables(env)
    _check_words(words, "MERGENET_RUNS" in variables)
    files = [_sent(path) for path in (*send, *_files_named(words))]
    jobs = _jobs(address)
    name = jobs.submit(words, python, variables, files)
    click.echo(f"job {name}", err=True)
    return _follow(jobs, name, address) if follow else 0


@click.command()
@click.argument("job", required=False)
@_dashboard
def status(job: str | None, address: str) -> None:
    """Lists the jobs of a cluster, or says how one of them is."""
    from mergenet.cli.show import print_table

    jobs = _jobs(address)
    there = [jobs.job(job)] if job else jobs.all()
    print_table(("job", "status", "command"), ("begun", "minutes"), [_row(one) for one in there])
    if job and there[0].message:
        click.echo(there[0].message)


@click.command()
@click.argument("job")
@_dashboard
@click.option("--follow", is_flag=True, help="Until it ends; Ctrl-C leaves it running.")
def logs(job: str, address: str, follow: bool) -> int:
    """Prints what a job has printed."""
    jobs = _jobs(address)
    if follow:
        jobs.job(job)  # one that is not there does not go on
        return _follow(jobs, job, address)
    click.echo(jobs.logs(job), nl=False)
    return 0


@click.command()
@click.argument("job")
@_dashboard
def stop(job: str, address: str) -> None:
    """Ends a job as Ctrl-C would: what it has done is kept."""
    jobs = _jobs(address)
    found = jobs.job(job)
    if found.is_over:
        raise InputError(f"job {job} is over: {found.status}")
    jobs.stop(job)
    click.echo(f"job {job}: {_ended(jobs, job).status}")


def _row(job: "Job") -> tuple[str, ...]:
    begun = job.begun.astimezone().strftime("%m-%d %H:%M") if job.begun else "-"
    seconds = ((job.ended or datetime.now(UTC)) - job.begun).total_seconds() if job.begun else 0.0
    return job.name, job.status, job.command, begun, f"{seconds / 60:.1f}"


def _variables(env: Sequence[str]) -> dict[str, str]:
    variables = {}
    for entry in env:
        name, equals, value = entry.partition("=")
        if not equals or not name:
            raise InputError(f"--env {entry}: write it as NAME=VALUE")
        variables[name] = value
    return variables


def _check_words(words: Sequence[str], runs_are_known: bool) -> None:
    """What would be refused there is refused here.

    Raises:
        click.UsageError: not a command that is sent, or not as it is to be written.
        InputError: its records would lie in a folder that is gone when the job is.
    """
    if not words or words[0] not in SENT:
        raise InputError(f"write what is to run after --, as `-- train RECIPE`: one of {', '.join(SENT)}")
    context = SENT[words[0]].make_context(words[0], list(words[1:]))
    said = context.get_parameter_source("runs") is ParameterSource.COMMANDLINE
    runs = str(context.params["runs"])
    if said and not (runs.startswith("/") or "://" in runs):
        raise InputError(f"--runs {runs}: a job's own folder is gone when it ends; name one that all nodes share, by /")
    resumed = str(context.params["resume"]) if words[0] in ("train", "sweep") else ""
    runs_are_known |= resumed.startswith("/") or "://" in resumed
    if not said and not runs_are_known and not context.params["dry_run"]:
        raise InputError(
            f"say where the records lie on the cluster: {words[0]} ... --runs /FOLDER, which all nodes share, or "
            "s3://BUCKET/FOLDER (or --env MERGENET_RUNS=/FOLDER before the --)"
        )


def _files_named(words: Sequence[str]) -> list[str]:
    return [word for word in words if word.endswith((".yaml", ".yml")) and Path(word).is_file()]


def _sent(named: str) -> Path:
    path = Path(named)
    if not path.exists():
        raise InputError(f"--send {named}: there is no such file")
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"{named}: it is sent under this name; go to a folder above it, and name it from there")
    return path


def _follow(jobs: "Jobs", name: str, address: str) -> int:
    """Prints what it prints until it ends; the exit code of its command."""
    where = f" --address {address}" if address != "http://127.0.0.1:8265" else ""
    try:
        for text in jobs.follow(name):
            click.echo(text, nl=False)
        job = _ended(jobs, name)
    except KeyboardInterrupt:
        raise LeftRunning(f"job {name} goes on", name, where, code=130) from None
    except InputError as error:
        raise LeftRunning(f"job {name} cannot be followed any more ({error}), but may go on", name, where) from None
    if not job.is_over:
        raise LeftRunning(f"job {name} says no more, but goes on", name, where)
    if job.status == "SUCCEEDED":
        return 0
    print(f"mergenet: job {name} {job.status}: {job.message}", file=sys.stderr)
    return job.code or 1


def _ended(jobs: "Jobs", name: str) -> "Job":
    """The job when it is over; Ray says so a moment after its last word."""
    end = time.monotonic() + END_S
    while not (job := jobs.job(name)).is_over and time.monotonic() < end:
        time.sleep(0.5)
    return job


class LeftRunning(Ended):
    """Nobody follows a job any more; the job goes on."""

    def __init__(self, why: str, name: str, where: str, code: int = 1) -> None:
        follow = f"mergenet cluster logs {name} --follow{where}"
        super().__init__(f"{why}; see it with `{follow}`, end it with `mergenet cluster stop {name}{where}`", code)
