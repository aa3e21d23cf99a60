"""Commands on a cluster that is disturbed: where they write from, whether they go on, and what the fault cost."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from mergenet.config import InputError, as_yaml, merge, parse
from mergenet.experiment import Experiment
from mergenet.training.files import read_json, read_metrics, read_result
from mergenet.training.record import read_experiment
from mergenet.training.reporter import Silent
from mergenet.training.run import execute
from mergenet.training.spec import RunSpec
from tests.conftest import SMALL
from tests.ranks import on_ranks
from tests.sweeps import written

LONG: dict[str, Any] = merge(
    Experiment,
    SMALL,
    {
        "training": {"epochs": 12, "batch_size": 700},
        "checkpoint": {"every": 3},
        "transfers": {"main": {"span": "cycle"}},
    },
)
"""An epoch is one tick, so that the record knows each; and a long one, for each is followed by a validation."""

SWEEP = {
    "change": {"training.epochs": 9, "training.batch_size": 700, "checkpoint.every": 3},
    "budget": {"trials": 3},
}

COSTS = os.environ.get("MERGENET_FAULTS")
"""A file for what faults cost; where one is named, each kind of fault is tried on each kind of cluster."""

STRUCK = 5
"""The tick after which a fault comes; the checkpoint before it was written in the midst of a cycle."""


class Node(Protocol):
    """A machine of a cluster, however it is made."""

    @property
    def first(self) -> psutil.Process:
        """The process below which are all others there."""

    def kill(self) -> None:
        """Ends all of them at once."""


@dataclass(frozen=True)
class Writer:
    """The process that writes a record, and where it is."""

    node: Any
    process: psutil.Process


def wait_until(claim: Callable[[], bool], within: float = 120.0) -> None:
    """Looks until it is so."""
    end = time.monotonic() + within
    while not claim():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.1)


class Command:
    """`mergenet` under way; what it says goes to a file."""

    def __init__(self, process: "subprocess.Popen[str]", said: Path) -> None:
        self.process = process
        self._said = said

    @property
    def said(self) -> str:
        """All of it until now."""
        return self._said.read_text()

    def until(self, claim: Callable[[], bool], within: float = 120.0) -> None:
        """Waits until it is so."""
        end = time.monotonic() + within
        while not claim():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.1)

    def end(self, within: float = 180.0) -> None:
        """Waits until it has ended well."""
        assert self.process.wait(within) == 0, self.said

    def kill(self) -> None:
        """Ends it without a word."""
        self.process.kill()
        self.process.wait(30)


@dataclass
class Cluster:
    """Three nodes of one processor each, and where commands are given.

    Attributes:
        folder: all that nodes share.
        start: a command in it, given words and a file for what it says.
    """

    address: str
    folder: Path
    start: Callable[[Sequence[str], Path], "subprocess.Popen[str]"]
    nodes: list[Any]

    def mergenet(self, *words: str) -> Command:
        """Begins a command on the cluster."""
        said = self.folder / f"said-{time.monotonic_ns()}"
        return Command(self.start([*words, "--address", self.address], said), said)

    def train(self, runs: Path, *words: str) -> tuple[Command, Path]:
        """Begins the long run on two workers; its record, once that is there."""
        runs.mkdir()
        (runs / "long.yaml").write_text(as_yaml(LONG))
        driver = self.mergenet("train", str(runs / "long.yaml"), "--workers", "2", "--runs", str(runs), *words)
        driver.until(lambda: bool(list(runs.glob("small/*/manifest.json"))))
        (record,) = (runs / "small").iterdir()
        return driver, record

    def writer_at(self, tick: int, driver: Command, record: Path) -> Writer:
        """Who writes a record, once so many ticks are done."""
        driver.until(lambda: ticks(record) >= tick)
        writer = self.writer(record)
        assert writer is not None
        return writer

    def writer(self, record: Path) -> Writer | None:
        """Who writes a record now."""
        for node in self.nodes:
            for process in below(node.first, "ray::"):
                if _has_open(process, record / ".lock"):
                    return Writer(node, process)
        return None

    def sweep(self, runs: Path) -> tuple[Command, dict[Path, Writer]]:
        """Begins a sweep of three trials; who writes their records, once each node writes one."""
        runs.mkdir()
        driver = self.mergenet("sweep", written(runs, SWEEP), "--runs", str(runs))
        writers: dict[Path, Writer] = {}

        def all_of_them_at_once() -> bool:
            found = {path.parent: self.writer(path.parent) for path in runs.glob("tiny/*/manifest.json")}
            writers.update({record: writer for record, writer in found.items() if writer is not None})
            return len(found) == len(self.nodes) and None not in found.values()

        driver.until(all_of_them_at_once)
        assert len({id(writer.node) for writer in writers.values()}) == len(self.nodes)
        return driver, writers

    def workers(self) -> list[int]:
        """How many of Ray Train's each node has."""
        return sorted(len(below(node.first, "TrainWorker")) for node in self.nodes)


def train_here(folder: Path) -> Path:
    """The long run on two workers of this machine, without Ray; its record."""
    on_ranks(2, _train, folder / "ranks", folder / "run")
    return folder / "run"


def again_alone(record: Path, folder: Path) -> Path:
    """The same run as a recorded one of one worker, undisturbed."""
    execute(RunSpec(read_experiment(record), read_json(record / "manifest.json")["seed"], {}, folder), Silent())
    return folder


def _train(folder: Path) -> None:
    execute(RunSpec(parse(Experiment, LONG), 0, {}, folder), Silent())


# --- faults ------------------------------------------------------------------------------------------------------


def ticks(record: Path) -> int:
    """How many are done."""
    return max((line["tick"] for line in read_metrics(record)), default=0)


def resumed(record: Path) -> list[int]:
    """The ticks from which it went on."""
    return [entry["tick"] for entry in read_json(record / "manifest.json")["resumed"]]


def strike(record: Path, fault: Callable[[], None], name: str, within: float = 150.0) -> None:
    """Lets `fault` happen to a run that has not been disturbed, and waits until it goes on from a checkpoint.

    What it cost is kept, where there is a file for it.
    """
    begin, done = time.monotonic(), ticks(record)
    fault()
    while not resumed(record):
        assert not _has_finished(record), f"{name}: it ended, and did not go on"
        assert time.monotonic() < begin + within, f"{name}: it did not go on"
        time.sleep(0.1)
    seconds, (tick,) = time.monotonic() - begin, resumed(record)
    assert 0 < tick <= done + 1
    keep_cost(name, seconds, done - tick)


def keep_cost(name: str, seconds: float, wasted: int) -> None:
    """Keeps what a fault cost, where there is a file for it."""
    if COSTS:
        with Path(COSTS).open("a") as file:
            file.write(json.dumps({"fault": name, "seconds": round(seconds, 1), "wasted_ticks": wasted}) + "\n")


def _has_finished(record: Path) -> bool:
    """A worker that loses another one may have said that the run failed; who goes on takes that back."""
    with suppress(InputError):
        result = read_result(record)
        return result is not None and result["status"] == "finished"
    return False


# --- processes ---------------------------------------------------------------------------------------------------


@contextmanager
def paused(process: psutil.Process) -> Iterator[None]:
    """Inside, it does nothing: what is waited for there comes before its next tick."""
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def below(first: psutil.Process, word: str) -> list[psutil.Process]:
    """Those below another that have `word` in their command line."""
    return [process for process in first.children(recursive=True) if word in _command_line(process)]


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


def _has_open(process: psutil.Process, path: Path) -> bool:
    try:
        return any(file.path == str(path) for file in process.open_files())
    except psutil.Error:  # it has just ended
        return False
