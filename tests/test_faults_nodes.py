"""Nodes of Ray on this machine: a run on two equals one on one, and goes on when one is lost."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.compare import assert_runs_equal
from tests.faults import STRUCK, Cluster, again_alone, strike, train_here
from tests.nodes import address_of, nodes_on_loopback


@dataclass(frozen=True)
class Node:
    """A node of Ray's own `Cluster`."""

    cluster: Any
    made: Any

    @property
    def first(self) -> psutil.Process:
        """The process below which are all that work there."""
        (raylet,) = self.made.all_processes["raylet"]
        return psutil.Process(raylet.process.pid)

    def kill(self) -> None:
        """Ends all of them at once."""
        for process in [self.first, *self.first.children(recursive=True)]:
            process.kill()
        self.cluster.remove_node(self.made, allow_graceful=False)


@pytest.fixture(scope="module")
def whole(only_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Cluster]]:
    """Ray's own, and what the tests do with it."""
    folder = tmp_path_factory.mktemp("shared")

    def start(words: Sequence[str], said: Path) -> "subprocess.Popen[str]":
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        with said.open("w") as file:
            command = [sys.executable, "-m", "mergenet", *words]
            return subprocess.Popen(command, env=environment, stdout=file, stderr=file, text=True)

    with nodes_on_loopback(3, processors=1) as rays:
        nodes = [Node(rays, node) for node in rays.list_all_nodes()]
        yield rays, Cluster(rays.address, folder, start, nodes)


@pytest.fixture
def cluster(whole: tuple[Any, Cluster]) -> Cluster:
    """Three nodes, whatever became of them before."""
    rays, cluster = whole
    for number, node in enumerate(cluster.nodes):
        if node.made not in rays.list_all_nodes():
            made = rays.add_node(node_ip_address=address_of(number), num_cpus=1)
            cluster.nodes[number] = Node(rays, made)
    return cluster


@pytest.fixture
def runs(cluster: Cluster, request: pytest.FixtureRequest) -> Path:
    """A folder for records."""
    return cluster.folder / request.node.name


def test_a_run_on_two_nodes_equals_one_on_one_though_a_worker_is_killed(
    cluster: Cluster, runs: Path, tmp_path: Path
) -> None:
    driver, record = cluster.train(runs)
    assert cluster.workers() == [0, 1, 1]
    strike(record, cluster.writer_at(STRUCK, driver, record).process.kill, "worker killed, nodes")
    driver.end()
    assert_runs_equal(record, train_here(tmp_path))


def test_a_sweep_fills_three_nodes_and_goes_on_without_one(cluster: Cluster, runs: Path, tmp_path: Path) -> None:
    driver, writers = cluster.sweep(runs)
    record = next(record for record, writer in writers.items() if writer.node is not cluster.nodes[0])
    cluster.writer_at(STRUCK, driver, record)
    strike(record, writers[record].node.kill, "node killed, a trial on nodes")
    driver.end()
    assert len(list(runs.glob("tiny/*/result.json"))) == 3
    assert_runs_equal(record, again_alone(record, tmp_path / "alone"))
