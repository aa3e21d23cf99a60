"""How a sweep begins, and how one that began goes on."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from mergenet.config import InputError
from mergenet.training.copies import check_writable
from mergenet.training.files import shown, wait_until_free
from mergenet.training.record import surroundings
from tune.search.ledger import Ledger, Log, trials_of
from tune.search.plan import SweepPlan, plan_sweep


def definition_of(plan: SweepPlan) -> dict[str, Any]:
    """What a sweep's folder says of it; `read_log` reads it back."""
    setting = plan.setting
    return {
        "sweep": plan.sweep.dump(),
        "hash": plan.hash,
        "experiment": dict(plan.values),
        "layers": [[path, value] for path, value in plan.sweep.layers()],
        "setting": asdict(setting),
        "data": dict(plan.paths),
        "left_out": {
            transfer: {f"{source} -> {target}": reason for (source, target), reason in pairing.left_out.items()}
            for transfer, pairing in plan.pairings.items()
        },
        "made_with": surroundings(setting.device, setting.threads, setting.workers),
    }


def plan_again(log: Log, paths: Mapping[str, str], allow_code: bool = False) -> SweepPlan:
    """The plan of a sweep that began, checked to be the one it began with.

    Args:
        paths: of data sets that lie elsewhere now.

    Raises:
        InputError: it is not.
    """
    plan = plan_sweep(log.sweep, log.values, log.setting, {**log.paths, **paths}, log.runs, allow_code)
    if plan.folder != log.folder:
        raise InputError(f"{shown(log.folder)}: experiment, data or numerics are not those the sweep began with")
    return plan


def open_ledger(plan: SweepPlan, resume: bool, say: Callable[[str], None] = lambda text: None) -> Ledger:
    """The sweep's files, open for writing and with what it is.

    Who goes on with it waits for another process to let go of it, and `say` is told so.

    Raises:
        InputError: another process writes them, they are of another setting, or they tell of trials that have not
            ended and `resume` is not said.
    """
    check_writable(plan.runs)
    if resume:
        wait_until_free(plan.folder, say)
    ledger = Ledger(plan.folder)
    try:
        _check(ledger, plan, resume)
        layers = ledger.definition()["layers"] if ledger.events else None
        ledger.describe({**definition_of(plan), **({"layers": layers} if layers else {})})
    except BaseException:
        ledger.close()
        raise
    return ledger


def _check(ledger: Ledger, plan: SweepPlan, resume: bool) -> None:
    folder = shown(plan.folder)
    running = [trial for trial in trials_of(ledger.events) if trial.state == "running"]
    if running and not resume:
        count = f"{len(running)} trial{'s'[: len(running) - 1]}"
        raise InputError(f"{folder} has {count} that did not end: go on with --resume {folder}, or remove it")
    if ledger.events and ledger.definition()["setting"] != asdict(plan.setting):
        begun = ledger.definition()["setting"]
        words = f"--workers-per-trial {begun['workers']} --threads {begun['threads']} --device {begun['device']}"
        raise InputError(f"{folder} began with {words}; say so too, or choose other --runs")
