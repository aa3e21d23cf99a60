"""The best trial as a table of its own: which it is, and what it is compared with."""

from pathlib import Path

from mergenet.training.files import read_json
from tests.refused import refusal
from tests.sweeps import planned
from tune.cells import plan_table
from tune.search.begin import open_ledger
from tune.search.confirm import SCALE, best_of, write_confirmation
from tune.search.ledger import Log, Trial, asked, ended, read_log
from tune.table import load_table

POINT = {
    "transfers.main.encoding": "svd",
    "transfers.main.encoding.svd.rank": 2,
    "transfers.main.cycle": 3,
    "transfers.main.optimizer.adamw.lr": 1e-3,
}


def log_of(folder: Path, *trials: Trial) -> Log:
    """The tiny sweep with these trials; none really ran."""
    plan = planned(folder)
    ledger = open_ledger(plan, resume=False)
    for trial in trials:
        ledger.note(asked(trial))
        ledger.note(ended(trial))
    ledger.close()
    return read_log(plan.folder)


def test_the_best_has_finished_with_the_best_figure(tmp_path: Path) -> None:
    stopped = Trial(0, POINT, POINT, "a", "stopped", curve=((1, 0.1),))
    worse, best, equal = (
        Trial(n, POINT, POINT, f"run-{n}", "finished", (v,)) for n, v in ((1, 2.0), (2, 1.0), (3, 1.0))
    )
    assert best_of(log_of(tmp_path, stopped, worse, best, equal)).number == 2, "lower is better, of equals the first"


def test_without_a_finished_trial_there_is_nothing_to_confirm(tmp_path: Path) -> None:
    log = log_of(tmp_path, Trial(0, POINT, POINT, "a", "failed", reason="for a test"))
    assert "no trial has finished" in refusal(lambda: best_of(log))


def test_the_table_has_the_trial_beside_no_transfer_and_reads_the_test_split(tmp_path: Path) -> None:
    log = log_of(tmp_path, Trial(0, POINT, POINT, "a", "finished", (1.0,)))
    table = load_table(str(write_confirmation(log, best_of(log))))
    plan = plan_table(table, SCALE, (1, 2), {}, {})
    plain, best = (plan.arms[arm].experiment for arm in ("plain", "best"))
    assert not plain.enabled_transfers() and plain.evaluation.test == best.evaluation.test == "end"
    options = best.transfers["main"].dump()
    assert (options["cycle"], options["encoding"]["svd"]["rank"]) == (3, 2)
    assert plain.learners == best.learners, "they differ in the transfer alone"
    assert plain.learners["target"].training.epochs == 2, "the sweep's changes are in both"
    assert table.columns["target.loss"].better == "lower" and table.baseline == "plain"
    assert read_json(log.folder / "sweep.json")["experiment"]["evaluation"]["test"] == "never", (
        "the sweep's own does not"
    )
