"""Sweeps on real Ray: every trial is one run and one record, whatever becomes of it."""

import json
import os
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from cluster import launch as launching
from cluster.session import session
from mergenet.config import as_yaml
from mergenet.training import files
from mergenet.training.files import read_json, read_result
from mergenet.training.place import TakenOver
from mergenet.training.remote import Away
from mergenet.training.reporter import Silent
from mergenet.training.run import execute
from mergenet.training.spec import RunSpec
from tests.compare import assert_equal, final_state
from tests.sweeps import planned, tiny, written
from tune.search import trial as trial_module
from tune.search.begin import open_ledger
from tune.search.ledger import Log, Trial, find_log, read_log
from tune.search.plan import Room, Setting, SweepPlan
from tune.search.run import run_sweep
from tune.search.trial import AWAY, Task, _outcome
from tune.search.watch import Patience, Stuck

Call = Callable[..., tuple[int, str, str]]
CYCLE = "transfers.main.cycle"


@pytest.fixture(scope="module", autouse=True)
def ray_session(only_ray: None) -> Iterator[None]:
    """One Ray for all tests of this file."""
    with session():
        yield


class Noting:
    """Notes what a sweep tells."""

    def __init__(self) -> None:
        self.over: list[Trial] = []
        self.said: list[str] = []

    def begin(self, total: int, done: int) -> None:
        self.begun = (total, done)

    def ticked(self, run: str, ticks: int) -> None:
        return

    def ended(self, trial: Trial) -> None:
        self.over.append(trial)

    def say(self, text: str) -> None:
        self.said.append(text)

    def stop(self) -> None:
        return


def swept(plan: SweepPlan, trials: int, concurrent: int = 2, resume: bool = False, **patience: float) -> Noting:
    """The sweep run so far."""
    noting, ledger = Noting(), open_ledger(plan, resume)
    try:
        run_sweep(plan, ledger, Room(concurrent, 0.0, ""), Patience(trials, **patience), noting, lambda trial: None)
    finally:
        ledger.close()
    return noting


def log_of(runs: Path) -> Log:
    """The one sweep there is."""
    return read_log(find_log(runs, "tiny"))


def records(runs: Path) -> dict[str, int]:
    """Finished run of the sweep -> when its result was written."""
    found = {path.parent: read_result(path.parent) for path in (runs / "tiny").glob("*/result.json")}
    return {
        folder.name: (folder / "result.json").stat().st_mtime_ns
        for folder, result in found.items()
        if result is not None and result["status"] == "finished"
    }


# --- as it should be ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """A folder with the tiny sweep of six trials."""
    folder = tmp_path_factory.mktemp("six")
    noting = swept(planned(folder), trials=6)
    assert noting.begun == (6, 0) and len(noting.over) == 6 and noting.said == []
    return folder


def test_every_trial_is_one_finished_record_with_its_own_figures(six: Path) -> None:
    log = log_of(six / "runs")
    trials = log.trials()
    assert [trial.number for trial in trials] == list(range(6))
    assert {trial.state for trial in trials} == {"finished"}
    assert records(six / "runs").keys() == {trial.run for trial in trials}, "one record a trial"
    for trial in trials:
        ended = read_json(log.record(trial) / "result.json")["learners"]["target"]
        assert trial.values == (ended["validation"]["loss"],)
        assert "test" not in ended, "the test split is not read"
        assert [epoch for epoch, _ in trial.curve] == [1, 2]
        options = read_json(log.record(trial) / "experiment.json")["transfers"]["main"]
        assert options["cycle"] == trial.point[CYCLE]


def test_trials_of_a_sweep_are_paired(six: Path) -> None:
    log = log_of(six / "runs")
    pairing = [read_json(log.record(trial) / "manifest.json")["pairing"] for trial in log.trials()]
    assert all(one == pairing[0] for one in pairing), "same initial weights, same batches"


def test_a_trial_repeated_by_its_command_is_the_same_bit_for_bit(six: Path, call: Call) -> None:
    log = log_of(six / "runs")
    trial = next(trial for trial in log.trials() if "transfers.main.encoding.svd.rank" in trial.point)
    program, *arguments = shlex.split(log.command(trial))
    assert program == "mergenet"
    code, _, err = call(*arguments, "--runs", "again")
    assert code == 0, err
    again = Path("again") / "tiny" / trial.run
    assert_equal(final_state(again)["learners"], final_state(log.record(trial))["learners"])


def test_a_sweep_that_is_all_there_runs_nothing_and_one_that_grows_what_is_new(six: Path, tmp_path: Path) -> None:
    shutil.copytree(six, tmp_path / "copy")
    folder = tmp_path / "copy"
    before = records(folder / "runs")
    plan = planned(folder, {"experiment": str(six / "small.yaml")})
    assert swept(plan, trials=6).over == []
    assert [trial.number for trial in swept(plan, trials=8).over] in ([6, 7], [7, 6])
    after = records(folder / "runs")
    assert len(after) == 8 and before.items() <= after.items()


def test_a_trial_that_finished_unheard_is_answered_from_its_record(six: Path, tmp_path: Path) -> None:
    shutil.copytree(six, tmp_path / "copy")
    folder = tmp_path / "copy"
    before, whole = records(folder / "runs"), log_of(folder / "runs").trials()
    events = next((folder / "runs" / "tiny").glob("sweep-*")) / "trials.jsonl"
    lines = events.read_text().splitlines()
    heard = [line for line in lines if json.loads(line)["event"] != "ended" or json.loads(line)["trial"] not in (2, 5)]
    events.write_text("\n".join(heard) + "\n")
    noting = swept(planned(folder, {"experiment": str(six / "small.yaml")}), trials=6, resume=True)
    assert sorted(trial.number for trial in noting.over) == [2, 5]
    assert records(folder / "runs") == before, "nothing was trained again"
    again = log_of(folder / "runs").trials()
    assert [(trial.point, trial.values, trial.curve) for trial in again] == [
        (trial.point, trial.values, trial.curve) for trial in whole
    ]


# --- as it may be ------------------------------------------------------------------------------------------------


def listed(*values: Any) -> dict[str, Any]:
    """One of these."""
    return {"values": {"of": list(values)}}


def test_a_trial_that_fails_and_one_that_diverges_stop_no_other(tmp_path: Path) -> None:
    rates = {"space": {"learners.target.training.optimizer.sgd.lr": listed(0.05, 1e30)}}
    plan = planned(tmp_path, {**rates, "sampler": "random"})
    events = swept_points(plan, 4)
    broken = plan.folder.parent / events[0].run
    broken.parent.mkdir(parents=True)
    broken.write_text("a file where the record should lie")
    noting = swept(plan, trials=4, resume=True)
    assert len(noting.over) == 4
    first, *others = log_of(tmp_path / "runs").trials()
    assert first.state == "failed" and first.reason is not None and "cannot be written" in first.reason
    diverging = [trial for trial in others if trial.point["learners.target.training.optimizer.sgd.lr"] > 1]
    assert diverging and all(trial.state == "diverged" and trial.values is None for trial in diverging)
    assert all("target diverged" in (trial.reason or "") for trial in diverging)
    assert {trial.state for trial in others if trial not in diverging} == {"finished"}


def test_a_trial_has_diverged_when_a_learner_of_any_objective_has(tmp_path: Path) -> None:
    """What is measured early may be another's."""
    change = {
        "space": {"learners.source.training.optimizer.sgd.lr": listed(1e30)},
        "objectives": {"source.loss": "lower"},
        "change": {"training.epochs": 1},
    }
    swept(planned(tmp_path, change), trials=1)
    (trial,) = log_of(tmp_path / "runs").trials()
    assert list(log_of(tmp_path / "runs").sweep.objectives) == ["target.loss", "source.loss"]
    assert trial.state == "diverged" and trial.values is None
    assert (trial.reason or "").startswith("source diverged at tick ")


def swept_points(plan: SweepPlan, trials: int) -> list[Trial]:
    """The trials that the sweep will begin with, drawn as it will draw them."""
    from tune.search.memory import Memory

    memory, found = Memory(plan.sweep, plan.space), []
    while len(found) < trials:
        _, point = memory.draw()
        spec, _ = plan.trial(point)
        found.append(Trial(len(found), point, {}, spec.folder.name))
    return found


def test_a_space_of_few_points_ends_when_each_was_tried_once(tmp_path: Path) -> None:
    space = {
        "transfers.main.encoding": listed("whole"),
        CYCLE: listed(1, 2, 3),
        "transfers.main.optimizer.adamw.lr": listed(1e-4),
    }
    sweep = tiny(tmp_path, {"sampler": "random", "change": {"training.epochs": 1}})
    few = sweep.model_copy(
        update={
            "space": {path: type(sweep).model_validate({**sweep.dump(), "space": space}).space[path] for path in space}
        }
    )
    from tune.search.plan import plan_sweep

    plan = plan_sweep(few, few.values(), Setting(), {}, tmp_path / "runs")
    noting = swept(plan, trials=9)
    trials = log_of(tmp_path / "runs").trials()
    assert sorted(trial.point[CYCLE] for trial in trials) == [1, 2, 3]
    assert {trial.state for trial in trials} == {"finished"}
    assert len(noting.said) == 1 and "the space has no more to give" in noting.said[0]
    reasons = {event["reason"] for event in log_of(tmp_path / "runs").events if event["event"] == "refused"}
    assert reasons and all(reason.startswith("the same as trial") for reason in reasons)


def test_a_trial_whose_worker_is_killed_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"change": {"training.epochs": 6}})
    killed: list[int] = []
    killer = threading.Thread(target=_kill_a_worker_in_its_midst, args=(tmp_path / "runs", killed))
    killer.start()
    swept(plan, trials=2, concurrent=1)
    killer.join()
    assert len(killed) == 1
    log = log_of(tmp_path / "runs")
    assert [trial.state for trial in log.trials()] == ["finished", "finished"]
    resumed = [read_json(log.record(trial) / "manifest.json")["resumed"] for trial in log.trials()]
    assert [len(times) for times in resumed] == [1, 0] and resumed[0][0]["tick"] % 5 == 0
    assert [epoch for epoch, _ in log.trials()[0].curve] == list(range(1, 7)), "no figure is lost or doubled"


def _kill_a_worker_in_its_midst(runs: Path, killed: list[int]) -> None:
    end = time.monotonic() + 120
    while not killed and time.monotonic() < end:
        if list(runs.glob("tiny/*/checkpoints/tick-*")):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if "ImplicitFunc" in " ".join(process.cmdline()):
                        process.kill()
                        killed.append(process.pid)
        time.sleep(0.05)


def test_points_that_cannot_run_are_refused_before_a_trial_starts(tmp_path: Path) -> None:
    change = {
        "space": {
            "transfers.main.to": listed("target.irb1", "target.irb16"),
            "transfers.main.encoding": listed("svd"),
            "transfers.main.encoding.svd.rank": {"int": {"low": 7, "high": 12, "log": False}},
        },
        "change": {"training.epochs": 1},
    }
    swept(planned(tmp_path, change), trials=6)
    log = log_of(tmp_path / "runs")
    assert {trial.state for trial in log.trials()} == {"finished"} and len(log.trials()) == 6
    reasons = [event["reason"] for event in log.events if event["event"] == "refused"]
    assert any("is above 8, the most a 8 x 16 matrix has" in reason for reason in reasons)


def test_asha_stops_the_worse_early_and_says_so_in_ledger_and_record(tmp_path: Path) -> None:
    change = {
        "space": {"learners.target.training.optimizer.sgd.lr": listed(0.05, 1.0)},
        "scheduler": {"asha": {"grace": 1, "factor": 2}},
        "change": {"training.epochs": 3},
    }
    swept(planned(tmp_path, change), trials=5, concurrent=1)
    log = log_of(tmp_path / "runs")
    stopped = [trial for trial in log.trials() if trial.state == "stopped"]
    assert stopped and all(trial.values is None for trial in stopped)
    for trial in stopped:
        assert trial.reason == f"by the scheduler, at epoch {len(trial.curve)}" and 1 <= len(trial.curve) < 3
        result = read_result(log.record(trial))
        assert result is not None and result["status"] == "stopped" and "scheduler" in result["reason"]
    best = min(trial.values for trial in log.trials() if trial.values is not None)
    assert len({trial.state for trial in log.trials()}) == 2 and best[0] < min(trial.curve[-1][1] for trial in stopped)


def test_a_sweep_that_cannot_move_says_what_is_known(tmp_path: Path) -> None:
    plan = planned(tmp_path, setting=Setting(threads=64))
    with pytest.raises(
        Stuck, match=r"no trial has moved for [34567] s \(1 pending; free are [\d.]+ of [\d.]+ processors"
    ):
        swept(plan, trials=2, concurrent=1, silence_s=3.0)
    assert [trial.state for trial in log_of(tmp_path / "runs").trials()] == ["running"], "it can go on"


def test_hours_that_are_over_end_a_sweep_which_can_go_on(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"change": {"training.epochs": 1}})
    early = swept(plan, trials=3, hours=1e-9)
    assert len(early.over) < 3
    late = swept(plan, trials=3, resume=True)
    assert len(early.over) + len(late.over) == 3 and len(records(tmp_path / "runs")) == 3


def test_two_sweeps_that_meet_at_the_same_point_share_its_record(six: Path, tmp_path: Path) -> None:
    shutil.copytree(six, tmp_path / "copy")
    folder = tmp_path / "copy"
    before = records(folder / "runs")
    other = planned(folder, {"experiment": str(six / "small.yaml"), "objectives": {"target.top1": "higher"}})
    assert other.folder != find_log(folder / "runs", "tiny")
    swept(other, trials=6)
    assert {trial.run for trial in read_log(other.folder).trials()} == before.keys(), "the same random points"
    assert records(folder / "runs") == before


def test_a_trial_that_another_sweep_trains_now_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record has one writer; who comes second is answered from it, longer though it takes than for a lost lock."""
    monkeypatch.setattr(files, "PATIENCE_S", 0.0)
    plan = planned(tmp_path)
    spec, _ = plan.trial(swept_points(plan, 1)[0].point)
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Silent):
        def tick(self, done: int) -> None:
            begun.set()
            go_on.wait(60)

    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(execute, spec, Slow())
        try:
            assert begun.wait(60)
            trial = pool.submit(_outcome, Task(spec, 1, "target.loss"), Silent())  # type: ignore[arg-type]
            assert not wait([trial], timeout=1.0).done
        finally:
            go_on.set()
        assert trial.result(60) == ("finished", None)
        other.result(60)


@pytest.mark.parametrize("problem", [Away("the store is away"), TakenOver("another process writes it now")])
@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_store_cannot_do_now_is_no_failure_of_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception, workers: int
) -> None:
    """It ends the sweep, and is tried again when that goes on."""

    def refuse(*arguments: object) -> None:
        raise problem

    def fit(spec: RunSpec, *arguments: object) -> None:
        """What a worker comes to, and what its driver makes of it."""
        launching._raise_refused(launching._work({"spec": spec.as_plain(), "news": SimpleNamespace(put=list)}))

    monkeypatch.setattr(trial_module, "execute", refuse)
    monkeypatch.setattr(launching, "execute", refuse)
    monkeypatch.setattr(launching, "_fit", fit)
    plan = planned(tmp_path)
    spec, _ = plan.trial(swept_points(plan, 1)[0].point)
    assert _outcome(Task(spec, workers, "target.loss"), Silent()) == (AWAY, str(problem))  # type: ignore[arg-type]


def test_ctrl_c_in_the_last_trial_of_a_space_is_no_end(tmp_path: Path) -> None:
    """Nothing new is found then, which is how an exhausted space ends."""
    change = {
        "space": {
            "transfers.main.encoding": listed("svd"),
            "transfers.main.encoding.svd.rank": listed(4),
            CYCLE: listed(2),
            "transfers.main.optimizer.adamw.lr": listed(1e-4),
        },
        "sampler": "random",
        "change": {"training.epochs": 40},
    }
    plan, process = planned(tmp_path, change), os.getpid()

    def interrupt() -> None:
        end = time.monotonic() + 120
        while not over.is_set() and time.monotonic() < end:
            if list((tmp_path / "runs").glob("tiny/*/checkpoints/tick-*")):
                os.kill(process, signal.SIGINT)
                return
            time.sleep(0.05)

    watcher, over = threading.Thread(target=interrupt), threading.Event()
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        swept(plan, trials=3)
    over.set()
    watcher.join()
    assert [trial.state for trial in log_of(tmp_path / "runs").trials()] == ["running"]


# --- the command -------------------------------------------------------------------------------------------------


def test_the_command_runs_reports_confirms_and_mirrors(call: Call, tmp_path: Path) -> None:
    path = written(tmp_path, {"change": {"training.epochs": 1}})
    code, out, err = call("sweep", path, "--trials", "3", "--mlflow", f"sqlite:///{tmp_path / 'm.db'}")
    assert code == 0, err
    assert "3 trials to run; starting Ray" in err and "3 of 3  trial " in err
    assert "Best trials" in out and "mergenet report runs/tiny/sweep-" in out
    code, out, err = call("sweep", "--resume", "tiny", "--confirm", "1", "--mlflow", "off")
    assert code == 0, err
    assert "no transfer |" in out and "Screening" in out
    confirmed = {path.parent.name for path in tmp_path.glob("runs/tiny-*-confirm/*/result.json")}
    assert {name.rpartition("-")[2] for name in confirmed} == {"s1"}, "a seed that chose nothing"
    (result,) = tmp_path.glob("results/tiny-*-confirm/table.md")
    assert "at scale confirm. n = 1 seed." in result.read_text()
    code, out, _ = call("report", "tiny")
    assert code == 0
    (page,) = tmp_path.glob("results/tiny-????????/index.html")
    assert page.stat().st_size > 1000
    code, out, _ = call("sync", "--to", f"sqlite:///{tmp_path / 'm.db'}")
    assert code == 0 and "3 trials" in out


def test_a_sweep_of_which_no_trial_finished_has_failed(call: Call, tmp_path: Path) -> None:
    path = written(tmp_path, {"space": {"learners.target.training.optimizer.sgd.lr": listed(1e30)}})
    code, out, err = call("sweep", path, "--trials", "2", "--confirm", "2")
    assert code == 1 and "diverged" in out
    assert err.splitlines()[-1].startswith("mergenet: none of 2 trials finished; the first: target diverged")


def test_a_dry_run_says_all_and_writes_nothing(call: Call, tmp_path: Path) -> None:
    path = written(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = call("sweep", path, "--dry-run", "--workers-per-trial", "2", "transfers.main.cycle=1")
    assert code == 0, err
    assert "2 workers x 1 thread = 2 processors a trial; " in out and "at once" in out
    assert "transfers.main.encoding.svd.rank" in out and "1 to 8, by its logarithm" in out
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["sweep"], "sweep: name a sweep (cifar100-search, digits-pairing), a YAML file, or --resume NAME"),
        (["sweep", "digits-paring"], "no sweep 'digits-paring'; nearest is 'digits-pairing'"),
        (["sweep", "digits-pairing", "training.epoch=3"], "training.epoch: unknown key; nearest is 'epochs'"),
        (["sweep", "digits-pairing", "--workers-per-trial", "99"], "take fewer --workers-per-trial"),
        (["sweep", "digits-pairing", "--concurrent", "99"], "--concurrent 99: "),
        (["sweep", "--resume", "digits-pairing"], "holds no sweep 'digits-pairing'"),
        (["sweep", "digits-pairing", "--resume", "x"], "goes on with the sweep as it began; leave a sweep out"),
        (["sweep", "cifar100-search"], "data cifar100: needs its folder"),
        (["sweep", "digits-pairing", "--mlflow", "file:x"], "MLflow at 'file:x': write http://HOST:PORT"),
        (["report", "digits-pairing"], "holds no sweep 'digits-pairing'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_a_line_and_nothing_is_written(
    arguments: list[str], line: str, call: Call, tmp_path: Path
) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    (said,) = err.strip().splitlines()
    assert line in said
    assert list(tmp_path.iterdir()) == []


def test_the_environment_is_left_as_it_was(six: Path) -> None:
    assert not [name for name in os.environ if name.startswith("TUNE_")]
    assert as_yaml(tiny(six).dump())
