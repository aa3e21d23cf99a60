"""`mergenet ablate`: trains what is missing of a table, side by side."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import click

from mergenet.cli.place import address_option, device_there, joined
from mergenet.cli.tables import TableOptions, table_options
from mergenet.cli.words import Ended, mirror_to, own_name, runs_words
from mergenet.config import InputError, nearest
from mergenet.training.remote import Away

if TYPE_CHECKING:
    from tune.ablate import Ablation
    from tune.cells import TablePlan


@click.command(short_help="Trains what is missing of a table.")
@table_options
@click.option("--arm", "arms", multiple=True, metavar="ARM", help="This arm alone; may be repeated.")
@click.option("--seed", type=click.IntRange(min=0), multiple=True, help="This seed alone; may be repeated.")
@click.option("--concurrent", type=click.IntRange(min=1), help="Runs at once.  [default: as many as there is room for]")
@address_option
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="torch's, of each run.")
@click.option(
    "--mlflow", default="auto", metavar="URI", help="Where it is mirrored to, or `off`.  [default: SQLite in --runs]"
)
@click.option("--resume", "--continue", "resume", is_flag=True, help="Goes on with runs that stopped before their end.")
@click.option("--dry-run", is_flag=True, help="Says what is there and what would run, and trains nothing.")
def ablate(
    options: TableOptions,
    arms: tuple[str, ...],
    seed: tuple[int, ...],
    concurrent: int | None,
    address: str | None,
    device: str,
    threads: int,
    mlflow: str,
    resume: bool,
    dry_run: bool,
) -> None:
    """Trains every missing cell (arm, learner, seed) of TABLE, a table's name or a YAML file, on what Ray has.

    Cells that have finished before are not trained again, whichever table they were trained for.

    \b
    mergenet ablate table8 --scale smoke
    mergenet ablate table8 --seeds 6
    mergenet ablate table8 --scale paper --data cifar100=PATH --dry-run
    """
    from mergenet.cli.show import print_ablation
    from tune.ablate import Places, find_missing

    options = replace(options, chosen_seeds=seed)
    plan = options.plan()
    _check_arms(arms, plan)
    with joined(address):
        places = Places(options.runs, options.results, device_there(address, device), threads)
        ablation = find_missing(plan, places, options.shows, lambda cell: not arms or cell[0] in arms)
        most = check_room(concurrent, places.device, threads)
        if dry_run:
            print_ablation(ablation, most)
            return
        ablation.check_free(resume, partial(click.echo, err=True))
        again = [word for word in sys.argv[1:] if word not in ("--resume", "--continue")]
        failed = train_cells(ablation, most, mlflow, shlex.join([*own_name(), *again, "--resume"]))
    _print(options, plan)
    if failed:
        raise click.ClickException(
            f"{failed} of {len(ablation.jobs)} runs failed; the others are kept, try again with --resume"
        )


def _check_arms(arms: Sequence[str], plan: "TablePlan") -> None:
    for arm in arms:
        if arm not in plan.arms:
            raise InputError(f"--arm {arm}: {plan.table.name} has no such arm; {nearest(arm, plan.arms)}")


def check_room(concurrent: int | None, device: str, threads: int) -> int:
    """How many runs at once: on a GPU they may share it, processors are not shared."""
    from cluster import session

    room = session.room(device, threads)
    if room < 1 and device == "cuda":
        raise InputError(f"--device cuda: {session.where()} has no GPU; leave it out or say cpu")
    if room < 1:
        raise InputError(f"--threads {threads}: {session.where()} has {session.available(device)} processors")
    if concurrent is not None and device != "cuda" and concurrent > room:
        raise InputError(
            f"--concurrent {concurrent}: {session.where()} has room for {room} runs of {threads} threads each"
        )
    return concurrent or room


def train_cells(ablation: "Ablation", most: int, mlflow: str, again: str) -> int:
    """Trains what is missing, mirrored; how many runs failed.

    Args:
        again: the command that goes on when it was interrupted.
    """
    from cluster.nodes import in_one_line
    from mergenet.cli.progress import ManyRuns
    from tune.ablate import train_missing

    if not ablation.jobs:
        return 0
    teller, finished = ManyRuns(), lambda job: None
    uri = mirror_to(mlflow, ablation.places.runs)
    if uri is not None:
        from tune.table_mirror import TableMirror

        finished = TableMirror(ablation.table, ablation.places.runs, uri, teller.say).send
    try:
        return train_missing(ablation, most, teller, finished)
    except KeyboardInterrupt:
        raise TableEnded("interrupted", again, 130) from None
    except (InputError, Away):
        raise
    except Exception as error:
        raise TableEnded(f"the table failed: {in_one_line(error)}", again, 1) from error


class TableEnded(Ended):
    """A table that stopped before its end: why, and how to go on."""

    def __init__(self, why: str, again: str, code: int) -> None:
        super().__init__(f"{why}; what has finished is kept, go on with: {again}", code)


def _print(options: TableOptions, plan: "TablePlan") -> None:
    from tune.report import markdown

    click.echo(markdown(options.assembled(plan, options.evidence())))
    whole = replace(options, chosen_seeds=())  # a report is of all seeds that are there
    again = shlex.join([*shlex.split(whole.command("report")), *runs_words(options.runs)])
    click.echo(f"\nTo keep it, with plots and a page: {again}")
