"""`mergenet sweep`: a search over an experiment's options, side by side."""

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mergenet.cli.place import address_option, address_words, device_there, joined
from mergenet.cli.words import Ended, Workers, mirror_to, own_name, read_paths, runs_option
from mergenet.config import InputError
from mergenet.training.files import copied_from, shown

if TYPE_CHECKING:
    from tune.search.plan import Room, Setting, SweepPlan


@click.command(short_help="Searches over an experiment's options.")
@click.argument("sweep", required=False)
@click.argument("overrides", nargs=-1, metavar="[PATH=VALUE]...")
@click.option("--trials", type=click.IntRange(min=1), help="In all.  [default: what the sweep says]")
@click.option(
    "--concurrent", type=click.IntRange(min=1), help="Trials at once.  [default: as many as there is room for]"
)
@click.option(
    "--workers-per-trial",
    "workers",
    type=Workers("trials that are to be compared have one number of workers"),
    metavar="N",
    help="Processes that share each batch.  [default: 1]",
)
@click.option("--resume", metavar="NAME", help="Goes on with the sweep of this name, or in this folder.")
@click.option(
    "--continue", "go_on", is_flag=True, help="Goes on with it where it has begun: for a scheduler that starts anew."
)
@click.option(
    "--confirm", type=click.IntRange(min=1), help="Then trains the best on so many fresh seeds beside no transfer."
)
@address_option
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="[default: auto]")
@click.option("--threads", type=click.IntRange(min=1), help="torch's, of each worker.  [default: 1]")
@click.option("--data", multiple=True, metavar="NAME=PATH", help="Where a data set lies; may be repeated.")
@runs_option
@click.option("--results", default="results", envvar="MERGENET_RESULTS", show_default=True, help="Folder of reports.")
@click.option(
    "--mlflow", default="auto", metavar="URI", help="Where it is mirrored to, or `off`.  [default: SQLite in --runs]"
)
@click.option(
    "--silence",
    type=click.FloatRange(min=1),
    default=1800.0,
    show_default=True,
    help="Seconds without news of any trial after which it gives up.",
)
@click.option("--allow-code", is_flag=True, help="Lets models named package.module:function run.")
@click.option("--dry-run", is_flag=True, help="Says what would be searched and how it fits here, and trains nothing.")
def sweep(
    sweep: str | None,
    overrides: tuple[str, ...],
    trials: int | None,
    concurrent: int | None,
    workers: range | None,
    resume: str | None,
    go_on: bool,
    confirm: int | None,
    address: str | None,
    device: str | None,
    threads: int | None,
    data: tuple[str, ...],
    runs: str,
    results: str,
    mlflow: str,
    silence: float,
    allow_code: bool,
    dry_run: bool,
) -> None:
    """Searches as SWEEP says, a sweep's name or a YAML file, with values overridden by their path.

    \b
    mergenet sweep digits-pairing
    mergenet sweep cifar100-search --data cifar100=PATH --trials 200
    mergenet sweep cifar100-search scale=paper sampler=random --data cifar100=PATH --dry-run
    mergenet sweep --resume digits-pairing
    """
    if resume is not None:
        _refuse_beside_resume(
            {"a sweep": sweep, "--workers-per-trial": workers, "--threads": threads, "--device": device}
        )
    from mergenet.training.copies import fetch_all, runs_here

    folder = fetch_all(runs_here(runs))
    with joined(address):
        if resume is not None:
            plan, room = _plan_again(resume, folder, data, concurrent, allow_code)
        else:
            device = device_there(address, device or "auto")
            setting = _setting(device, workers[0] if workers else 1, threads or 1)
            plan, room = _plan(sweep, overrides, setting, data, folder, concurrent, allow_code)
        if trials is not None:
            plan = plan.with_trials(trials)
        if dry_run:
            from mergenet.cli.show_sweep import print_sweep

            print_sweep(plan, room)
            return
        _run(plan, room, resume is not None or go_on, silence, mlflow, address)
        _print(plan)
        if confirm is not None:
            _confirm(plan, confirm, Path(results), mlflow, address)


def _refuse_beside_resume(given: dict[str, object]) -> None:
    for name, value in given.items():
        if value is not None:
            raise InputError(f"--resume goes on with the sweep as it began; leave {name} out")


def _plan_again(
    named: str, runs: Path, data: tuple[str, ...], concurrent: int | None, allow_code: bool
) -> "tuple[SweepPlan, Room]":
    from tune.search.begin import plan_again
    from tune.search.ledger import find_log, read_log

    log = read_log(find_log(runs, named))
    room = _room(log.setting, concurrent)
    return plan_again(log, read_paths(data), allow_code), room


def _setting(device: str, workers: int, threads: int) -> "Setting":
    from tune.search.plan import Setting

    return Setting(device, workers, threads)


def _plan(
    named: str | None,
    overrides: tuple[str, ...],
    setting: "Setting",
    data: tuple[str, ...],
    runs: Path,
    concurrent: int | None,
    allow_code: bool,
) -> "tuple[SweepPlan, Room]":
    from tune.search.plan import plan_sweep
    from tune.search.sweep import load_sweep, sweeps

    if named is None:
        raise InputError(f"sweep: name a sweep ({', '.join(sweeps())}), a YAML file, or --resume NAME")
    chosen = load_sweep(named, overrides)
    room = _room(setting, concurrent)
    return plan_sweep(chosen, chosen.values(), setting, read_paths(data), runs, allow_code), room


def _room(setting: "Setting", concurrent: int | None) -> "Room":
    from cluster import session
    from tune.search.plan import room_for

    each = 1 if setting.device == "cuda" else setting.threads
    return room_for(setting, session.room(setting.device, setting.threads) * each, concurrent)


# --- running it --------------------------------------------------------------------------------------------------


def _run(plan: "SweepPlan", room: "Room", resume: bool, silence: float, mlflow: str, address: str | None) -> None:
    """Runs what is missing; a sweep that has all of its trials runs none."""
    from mergenet.cli.progress import ManyTrials
    from tune.search.begin import open_ledger
    from tune.search.mirror import Mirror
    from tune.search.run import run_sweep
    from tune.search.watch import Patience, Stuck

    uri = mirror_to(mlflow, plan.runs)
    teller, folder = ManyTrials(), shown(plan.folder)
    ledger = open_ledger(plan, resume, teller.say)
    patience = Patience(plan.sweep.budget.trials, plan.sweep.budget.hours, silence)
    try:
        with Mirror(plan.folder, uri, teller.say) as mirror:
            run_sweep(plan, ledger, room, patience, teller, mirror.told)
    except KeyboardInterrupt:
        raise SweepEnded("interrupted", folder, 130, address) from None
    except Stuck as stuck:
        raise SweepEnded(str(stuck), folder, 1, address) from None
    except InputError:
        raise
    except Exception as error:
        why = (str(error).strip().splitlines() or [""])[-1]
        raise SweepEnded(f"the sweep failed: {type(error).__name__}: {why}", folder, 1, address) from error
    finally:
        ledger.close()


class SweepEnded(Ended):
    """A sweep that stopped before its end: why, and how to go on."""

    def __init__(self, why: str, folder: str, code: int, address: str | None) -> None:
        again = shlex.join([*own_name(), "sweep", "--resume", folder, *address_words(address)])
        super().__init__(f"{why}; nothing is lost, go on with: {again}", code)


# --- after it ------------------------------------------------------------------------------------------------------


def _print(plan: "SweepPlan") -> None:
    """What came of it.

    Raises:
        click.ClickException: not one trial has figures.
    """
    from tune.report.sweep import markdown
    from tune.search.ledger import read_log

    log = read_log(plan.folder)
    click.echo(markdown(log))
    click.echo(f"\nTo keep it, with plots and a page: mergenet report {shown(plan.folder)}")
    trials = log.trials()
    if not any(trial.values for trial in trials):
        why = next((f"; the first: {trial.reason}" for trial in trials if trial.reason), "")
        raise click.ClickException(f"none of {len(trials)} trials finished{why}")


def _confirm(plan: "SweepPlan", seeds: int, results: Path, mlflow: str, address: str | None) -> None:
    """The best trial beside no transfer on seeds after the sweep's own, as a table that is rendered too."""
    from mergenet.cli.ablate import check_room, train_cells
    from mergenet.cli.report import render_table
    from mergenet.cli.tables import TableOptions
    from mergenet.training.copies import fetch_all
    from tune.ablate import Places, find_missing
    from tune.search.confirm import SCALE, best_of, write_confirmation
    from tune.search.ledger import read_log

    fetch_all(plan.runs)
    log, setting, first = read_log(plan.folder), plan.setting, plan.sweep.seed + 1
    written = write_confirmation(log, best_of(log))
    table = str(written) if copied_from(written) else shown(written)
    paths = tuple(f"{name}={path}" for name, path in plan.paths.items())
    fresh = tuple(range(first, first + seeds))
    options = TableOptions(table, SCALE, None, "last", paths, plan.runs, results, fresh)
    places = Places(plan.runs, results, setting.device, setting.threads)
    ablation = find_missing(options.plan(), places, options.shows)
    ablation.check_free(resume=True, say=partial(click.echo, err=True))
    words = ["--resume", shown(plan.folder), "--confirm", str(seeds), *address_words(address)]
    again = shlex.join([*own_name(), "sweep", *words])
    failed = train_cells(ablation, check_room(None, setting.device, setting.threads), mlflow, again)
    render_table(options, effect=None)
    if failed:
        raise click.ClickException(f"{failed} of {len(ablation.jobs)} runs failed; try again with: {again}")
