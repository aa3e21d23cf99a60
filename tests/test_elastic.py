"""Workers that follow the cluster: a node is lost and comes back, and the run goes on, over numbers that divide."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import elastic
from cluster.elastic import SizesPolicy
from cluster.launch import launch
from cluster.session import session
from mergenet.config import InputError, merge, parse
from mergenet.experiment import Experiment
from mergenet.training.checkpoint import checkpoints
from mergenet.training.files import has_begun, read_json
from mergenet.training.reporter import Silent
from mergenet.training.spec import RunSpec
from tests.conftest import SMALL

# --- how many ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rooms", "dead", "workers"),
    [
        ([4], (), 4),
        ([9], (), 4),
        ([3], (), 2),
        ([1, 2], (), 2),
        ([2, 2], (), 4),
        ([2, 2], (1,), 2),
        ([0, 1], (), 1),
        ([0, 1], (1,), 0),
        ([], (), 0),
    ],
)
def test_there_are_as_many_as_divide_and_have_room_on_nodes_that_live(
    rooms: list[int], dead: tuple[int, ...], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.train import ScalingConfig

    nodes = [{"NodeID": str(number), "Alive": number not in dead} for number in range(len(rooms))]
    monkeypatch.setattr(elastic.ray, "nodes", lambda: nodes)
    policy = SizesPolicy(ScalingConfig(num_workers=(1, 4)), (1, 2, 4))
    assert (
        policy._count_possible_workers({str(node): {"CPU": float(room)} for node, room in enumerate(rooms)}) == workers
    )


# --- a node that goes and comes ----------------------------------------------------------------------------------

QUICKLY = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}
"""A head with these is told within seconds that a node is gone."""

HELD = """
import json, time
from pathlib import Path
from torch import nn

RUN = Path({run!r})


def waits():
    manifest = RUN / "manifest.json"
    resumed = json.loads(manifest.read_text())["resumed"] if manifest.exists() else []
    kept = max((int(path.name[5:]) for path in RUN.glob("checkpoints/tick-*")), default=0)
    return len(resumed) < 2 and kept > (resumed[-1]["tick"] if resumed else 0)


class Held(nn.Sequential):
    rehearsed = False  # the first pass lays out DDP's buckets, before the run has gone on

    def forward(self, images):
        end = time.monotonic() + 240
        while self.rehearsed and waits() and time.monotonic() < end:
            time.sleep(0.05)
        self.rehearsed = True
        return super().forward(images)


def held(classes):
    return Held(nn.Flatten(), nn.Linear(192, classes))
"""
"""A network that holds its run after the first checkpoint, until it has gone on twice."""


@pytest.fixture
def nodes(only_ray: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A head with one processor, to which nodes with one more are added; this process has joined it."""
    from ray.cluster_utils import Cluster

    own = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])}
    for name, value in {**QUICKLY, **own}.items():
        monkeypatch.setenv(name, value)  # nodes give it to their workers
    monkeypatch.setattr(elastic, "LOOK_EVERY_S", 2.0)
    cluster = Cluster()
    try:
        cluster.add_node(node_ip_address="127.0.0.2", num_cpus=1, include_dashboard=False)
        with session(address=cluster.address):
            yield cluster
    finally:
        cluster.shutdown()


class Listening(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def wait_until(true: Callable[[], bool], what: str, running: threading.Thread) -> None:
    end = time.monotonic() + 180
    while not true():
        assert running.is_alive(), f"it ended before {what}"
        assert time.monotonic() < end, what
        time.sleep(0.1)


def test_a_lost_node_leaves_fewer_workers_and_one_that_comes_makes_more(nodes: Any, tmp_path: Path) -> None:
    folder, heard = tmp_path / "run", Listening()
    (tmp_path / "held_by_a_test.py").write_text(HELD.format(run=str(folder)))
    held = {"model": "held_by_a_test:held"}
    change = {
        "learners": {"source": held, "target": {**held, "copy": 1}},
        "transfers": {"main": {"to": "target.1"}},
        "training": {"epochs": 4},
        "checkpoint": {"every": 2},
    }
    spec = RunSpec(parse(Experiment, merge(Experiment, SMALL, change)), 0, {}, folder)

    def resumed() -> list[dict[str, Any]]:
        return read_json(folder / "manifest.json")["resumed"] if has_begun(folder) else []

    def kept() -> int:
        return max((int(path.name[5:]) for path in checkpoints(folder / "checkpoints")), default=0)

    other = nodes.add_node(node_ip_address="127.0.0.3", num_cpus=1)
    run = threading.Thread(target=launch, args=(spec, (1, 2), heard), daemon=True)
    run.start()
    wait_until(lambda: kept() > 0, "two workers have kept something", run)
    nodes.remove_node(other, allow_graceful=False)
    wait_until(lambda: len(resumed()) == 1 and kept() > resumed()[0]["tick"], "one worker has kept something", run)
    nodes.add_node(node_ip_address="127.0.0.3", num_cpus=1)
    wait_until(lambda: len(resumed()) == 2, "it has gone on with two", run)
    run.join(120)
    result = read_json(folder / "result.json")
    assert (result["status"], result["ticks"], result["world_sizes"]) == ("finished", 20, [2, 1, 2])
    assert [entry["world_size"] for entry in resumed()] == [1, 2]
    assert heard.said[0] == "starting 1 or 2 workers on Ray"
    for sizes in ("2 then 1", "2 then 1 then 2"):
        assert f"trained by {sizes} workers now: its record says so, and tables mark it" in heard.said


def test_fewer_than_the_least_are_refused_before_ray_waits_for_them(tmp_path: Path) -> None:
    spec = RunSpec(parse(Experiment, SMALL), 0, {}, tmp_path / "run")
    with pytest.raises(InputError, match=r"--workers 1000: this machine has \d+ processors"):
        launch(spec, (1000, 2000), Silent())
    assert not (tmp_path / "run").exists()
