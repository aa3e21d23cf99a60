"""Ray Train: the same run as without it, and the same again when a worker is killed on the way."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster import launch as launching
from cluster.launch import launch
from cluster.session import session
from mergenet.config import InputError, as_yaml, merge, parse
from mergenet.experiment import Experiment
from mergenet.training.files import read_json
from mergenet.training.record import Record
from mergenet.training.reporter import Silent
from mergenet.training.run import execute
from mergenet.training.spec import RunSpec
from tests.compare import assert_runs_equal
from tests.conftest import SMALL
from tests.ranks import on_ranks

CHANGE = {"training": {"epochs": 6}, "checkpoint": {"every": 2}, "transfers": {"main": {"span": "cycle"}}}
EXPERIMENT = parse(Experiment, merge(Experiment, SMALL, CHANGE))


@pytest.fixture(scope="module", autouse=True)
def ray_session(only_ray: None) -> Iterator[None]:
    """One Ray for all tests of this file."""
    with session():
        yield


class Listening(Silent):
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.started: list[tuple[int, int]] = []
        self.ticks: list[int] = []
        self.said: list[str] = []

    def start(self, ticks: int, done: int) -> None:
        self.started.append((ticks, done))

    def tick(self, done: int) -> None:
        self.ticks.append(done)

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on two plain gloo ranks, without Ray."""
    folder = tmp_path_factory.mktemp("undisturbed")
    on_ranks(2, train, folder / "ranks", folder / "run")
    return folder / "run"


def train(folder: Path) -> None:
    execute(RunSpec(EXPERIMENT, 0, {}, folder), Silent())


def test_two_workers_end_as_two_ranks_without_ray(tmp_path: Path, undisturbed: Path) -> None:
    heard = Listening()
    launch(RunSpec(EXPERIMENT, 0, {}, tmp_path / "run"), (2,), heard)
    assert_runs_equal(tmp_path / "run", undisturbed)
    assert read_json(tmp_path / "run" / "manifest.json")["world_size"] == 2
    assert heard.started == [(30, 0)] and heard.ticks and len(heard.said) == 1 + 6


def test_a_killed_worker_changes_nothing(tmp_path: Path, undisturbed: Path) -> None:
    folder, heard = tmp_path / "run", Listening()
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(folder, killed))
    killer.start()
    launch(RunSpec(EXPERIMENT, 0, {}, folder), (2,), heard)
    killer.join()
    assert killed, "no worker was killed"
    assert len(heard.started) == 2 and heard.started[1][1] >= 2, "it went on from a checkpoint"
    assert_runs_equal(folder, undisturbed)


def kill_a_worker(folder: Path, killed: list[int]) -> None:
    """Kills one of this process's own training workers once the run has a checkpoint; waits two minutes at most."""
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up:
        if list(folder.glob("checkpoints/tick-*")):
            workers = [child for child in psutil.Process().children(recursive=True) if is_training(child)]
            if workers:
                workers[0].kill()
                killed.append(workers[0].pid)
            return
        time.sleep(0.05)


def is_training(process: psutil.Process) -> bool:
    try:
        return any("TrainWorker" in word for word in process.cmdline())
    except psutil.Error:
        return False


def test_bad_input_that_only_a_worker_sees_comes_back_as_one_line(tmp_path: Path) -> None:
    record = Record(tmp_path / "run")
    with pytest.raises(InputError, match="another process is writing this run"):
        launch(RunSpec(EXPERIMENT, 0, {}, tmp_path / "run"), (2,), Silent())
    record.close()


def test_a_record_that_a_lost_worker_still_writes_hides_not_why_a_run_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("too many failures")

    def train() -> None:
        with pytest.raises(RuntimeError, match="too many failures"):
            launching.train_together(RunSpec(EXPERIMENT, 0, {}, tmp_path / "run"), (2,), Silent())

    monkeypatch.setattr(launching, "_fit", fails)
    record = Record(tmp_path / "run")
    train()
    assert not record.has_result()
    record.close()
    train()
    assert read_json(tmp_path / "run" / "result.json")["reason"] == "RuntimeError: too many failures"


def test_more_workers_than_processors_are_refused_before_ray_waits_for_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--workers 1000: this machine has \d+ processors"):
        launch(RunSpec(EXPERIMENT, 0, {}, tmp_path / "run"), (1000,), Silent())
    assert not (tmp_path / "run").exists()


def test_a_model_of_the_users_own_is_found_by_the_workers_of_a_command(tmp_path: Path) -> None:
    """The command starts a Ray of its own, from the folder in which the user's file lies."""
    (tmp_path / "nets_for_ray.py").write_text(
        "from torch import nn\n\n\n"
        "def flat(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, classes))\n"
    )
    (tmp_path / "small.yaml").write_text(as_yaml(merge(Experiment, SMALL, {})))
    words = ["train", "small.yaml", "learners.source.model=nets_for_ray:flat", "--allow-code", "--workers", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "mergenet", *words], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / "small").iterdir()
    assert read_json(folder / "manifest.json")["world_size"] == 2
    assert read_json(folder / "result.json")["transfers"]["main"]["updates"] == 2
