"""A sweep whose driver dies or is interrupted, and that goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.session import session
from mergenet.training.files import is_being_written, read_json, read_result
from tests.compare import assert_runs_equal
from tests.sweeps import written
from tune.search.ledger import Log, find_logs, read_log
from tune.search.mirror import JOURNAL
from tune.store import connect

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", autouse=True)
def ray_session(only_ray: None) -> Iterator[None]:
    """One Ray for what goes on; what is killed has its own."""
    with session():
        yield


SLOW: dict[str, Any] = {
    "change": {"training.epochs": 4, "checkpoint.every": 5},
    "sampler": {"tpe": {"startup": 1}},
    "budget": {"trials": 4},
}


def begin(*arguments: str, folder: Path) -> "subprocess.Popen[str]":
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "mergenet", "sweep", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(claim: Callable[[], bool], process: "subprocess.Popen[str]", within: float = 120.0) -> None:
    """Looks until it is so."""
    end = time.monotonic() + within
    while not claim():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "took too long"
        time.sleep(0.1)


def log_in(folder: Path) -> Log | None:
    """The one sweep there, if it has begun."""
    found = find_logs(folder / "runs")
    return read_log(found[0]) if found else None


def ended(folder: Path) -> int:
    """How many trials have."""
    log = log_in(folder)
    return sum(trial.state != "running" for trial in log.trials()) if log else 0


def running_with_checkpoint(folder: Path) -> bool:
    """Whether a trial is in its midst, past a checkpoint."""
    log = log_in(folder)
    running = [log.record(trial) for trial in log.trials() if trial.state == "running"] if log else []
    return any(list(record.glob("checkpoints/tick-*")) and read_result(record) is None for record in running)


def test_a_killed_sweep_goes_on_as_if_it_had_not_been(call: Call, tmp_path: Path) -> None:
    """TPE, one trial at a time: the same points in the same order, the same weights, everything once."""
    path = written(tmp_path, SLOW)
    whole = tmp_path / "whole"
    code, _, err = call("sweep", path, "--concurrent", "1", "--runs", str(whole / "runs"), "--mlflow", "off")
    assert code == 0, err
    killed = tmp_path / "killed"
    killed.mkdir()
    store = f"sqlite:///{killed / 'm.db'}"
    driver = begin(path, "--concurrent", "1", "--mlflow", store, folder=killed)
    wait_until(lambda: ended(killed) >= 2 and running_with_checkpoint(killed), driver)
    driver.kill()
    driver.wait()
    code, _, err = call("sweep", path, "--concurrent", "1", "--runs", str(killed / "runs"))
    assert code == 2 and "1 trial that did not end: go on with --resume" in err
    again = [path, "--continue", "--concurrent", "1"]
    code, _, err = call("sweep", *again, "--runs", str(killed / "runs"), "--mlflow", store)
    assert code == 0, err
    one, other = log_in(whole), log_in(killed)
    assert one is not None and other is not None
    known = [[(trial.point, trial.run, trial.values, trial.curve) for trial in log.trials()] for log in (one, other)]
    assert known[0] == known[1] and len(known[0]) == 4
    for trial in one.trials():
        assert_runs_equal(one.record(trial), other.record(trial))
    resumed = [read_json(other.record(trial) / "manifest.json")["resumed"] for trial in other.trials()]
    assert sum(map(bool, resumed)) == 1, "the one that was in its midst went on from its checkpoint"
    assert len(list((killed / "runs" / "tiny").glob("*/result.json"))) == 4, "one record a trial"
    assert_mirrored_once(store, other)


def assert_mirrored_once(store: str, log: Log) -> None:
    """A parent, four trials and four records in MLflow, four trials in Optuna's journal, and nothing twice."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    client = connect(store)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    trials = [run for run in runs if "mergenet.trial" in run.data.tags]
    (parent,) = [run for run in runs if "mergenet.sweep" in run.data.tags]
    assert sorted(run.info.run_name for run in trials) == [f"trial {number}" for number in range(4)]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    assert len(runs) == 1 + 4 + 4
    study = optuna.load_study(
        storage=JournalStorage(JournalFileBackend(str(log.folder / JOURNAL))), study_name=log.folder.name
    )
    assert sorted(trial.user_attrs["trial"] for trial in study.trials) == list(range(4))


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(call: Call, tmp_path: Path) -> None:
    path = written(tmp_path, {**SLOW, "sampler": "random", "budget": {"trials": 2}})
    driver = begin(path, "--mlflow", "off", folder=tmp_path)
    wait_until(lambda: running_with_checkpoint(tmp_path), driver)
    driver.send_signal(signal.SIGINT)
    _, err = driver.communicate(timeout=60)
    assert driver.returncode == 130
    log = log_in(tmp_path)
    assert log is not None
    *_, last = err.strip().splitlines()
    assert last.startswith("mergenet: interrupted; nothing is lost, go on with: ")
    assert last.endswith(f"sweep --resume runs/tiny/{log.folder.name}")
    assert "Traceback" not in err
    assert not is_being_written(log.folder)
    code, _, err = call("sweep", "--resume", "tiny", "--mlflow", "off")
    assert code == 0, err
    assert ended(tmp_path) == 2 and len(list((tmp_path / "runs" / "tiny").glob("*/result.json"))) == 2
