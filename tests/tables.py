"""A tiny table: five ticks an arm, on digits, run in this process where Ray is not what is tested."""

from functools import cache
from pathlib import Path
from typing import Any

from mergenet.config import merge, parse
from mergenet.training.reporter import Silent
from mergenet.training.run import execute
from tune.ablate import Ablation, Places, find_missing, ready
from tune.cells import TablePlan, plan_table
from tune.table import Table

TINY: dict[str, Any] = {
    "name": "tiny",
    "title": "A tiny table",
    "experiment": "digits-cross-structure",
    "baseline": "vanilla",
    "columns": {"target.top1": {"title": "target"}, "source.loss": {"title": "source", "better": "lower"}},
    "arms": {
        "vanilla": {"label": "none", "change": {"transfers.main.enabled": False}},
        "one-way": {"label": "one way"},
        "frozen": {
            "label": "frozen",
            "change": {"learners.source.frozen": True, "learners.source.task": None},
            "trained": {"source": "vanilla.source"},
        },
    },
    "scales": {
        "tiny": {
            "change": {
                "training": {"epochs": 1, "batch_size": 256},
                "transfers.main.adapter": {"lpka": {"width": 16, "heads": 2, "depth": 1}},
                "transfers.main.cycle": 1,
                "transfers.off.enabled": False,
            }
        }
    },
    "seeds": 2,
}


def tiny(change: dict[str, Any] | None = None) -> Table:
    """The tiny table, changed by a nested map."""
    return parse(Table, merge(Table, TINY, change or {}))


def plan(table: Table | None = None, seeds: tuple[int, ...] = (0, 1)) -> TablePlan:
    """Its plan; that of the table as it stands is made once."""
    return _plan(seeds) if table is None else plan_table(table, "tiny", seeds, {}, {})


@cache
def _plan(seeds: tuple[int, ...]) -> TablePlan:
    return plan_table(tiny(), "tiny", seeds, {}, {})


def missing(plan: TablePlan, folder: Path) -> Ablation:
    """What is there in `folder/runs` and `folder/results`, and what is to do."""
    return find_missing(plan, Places(folder / "runs", folder / "results"))


def train(plan: TablePlan, folder: Path) -> list[Path]:
    """Runs all that is missing, one after another in this process; the folders of the runs."""
    trained = []
    while jobs := missing(plan, folder).jobs:
        ablation = missing(plan, folder)
        folders = {key: one.folder for key, one in ablation.evidence.items() if one.folder is not None}
        for job in ready(jobs, ablation.places, folders):
            execute(job.spec, Silent())
            trained.append(job.spec.folder)
    return trained
