"""Hosts that share a folder and nothing else: a run on two equals one on one, and goes on when one is lost."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mergenet.training.files import is_being_written
from tests.compare import assert_runs_equal
from tests.faults import (
    COSTS,
    STRUCK,
    Cluster,
    Command,
    again_alone,
    below,
    paused,
    resumed,
    strike,
    train_here,
    wait_until,
)
from tests.hosts import Host, Hosts, head_on, hosts, join, lacking
from tests.mirrors import recorded, sent, sent_if_there

pytestmark = pytest.mark.skipif(lacking() is not None, reason=f"hosts in namespaces: {lacking()}")

also_on_nodes = pytest.mark.skipif(
    not COSTS, reason="done on nodes too; MERGENET_FAULTS=FILE does it here, and keeps what it cost"
)


@pytest.fixture(scope="module")
def plugs(only_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with hosts(tmp_path_factory.mktemp("shared")) as plugs:
        yield plugs


@pytest.fixture(scope="module")
def whole(plugs: Hosts) -> Cluster:
    """A head that takes no work, from where commands are given, and three nodes."""
    head, *nodes = [plugs.plug_in(number) for number in range(1, 5)]
    address = head_on(head)
    join(address, nodes)

    def start(words: Sequence[str], said: Path) -> "subprocess.Popen[str]":
        with said.open("w") as file:
            return head.begin(sys.executable, "-m", "mergenet", *words, folder=plugs.folder, output=file)

    return Cluster(address, plugs.folder, start, nodes)


@pytest.fixture
def cluster(plugs: Hosts, whole: Cluster) -> Cluster:
    """All of it, whatever became of it before."""
    for index, host in enumerate(whole.nodes):
        if not host.first.is_running():
            whole.nodes[index] = plugs.plug_in(index + 2)
        host.mend()
    join(whole.address, [host for host in whole.nodes if not below(host.first, "raylet/raylet")])
    return whole


@pytest.fixture
def runs(cluster: Cluster, request: pytest.FixtureRequest) -> Path:
    """A folder for records in what the hosts share."""
    return cluster.folder / request.node.name


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on two workers of this machine."""
    return train_here(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def store(plugs: Hosts) -> tuple[Host, str, str]:
    """A host with a server of MLflow; how others reach it, and how one does who sees its database."""
    host = plugs.plug_in(9)
    database = f"sqlite:///{plugs.folder / 'mlflow.db'}"
    own = ["--backend-store-uri", database, "--artifacts-destination", str(plugs.folder / "artifacts")]
    words = ["-m", "mlflow", "server", "--host", host.address, "--workers", "1", *own]
    host.begin(sys.executable, *words, folder=plugs.folder, output=subprocess.DEVNULL)
    knock = ["bash", "-c", f": < /dev/tcp/{host.address}/5000"]
    wait_until(lambda: host.begin(*knock, output=subprocess.DEVNULL).wait(10) == 0)
    return host, f"http://{host.address}:5000", database


def test_a_run_on_two_hosts_equals_one_on_one_though_mlflow_was_away(
    cluster: Cluster, store: tuple[Host, str, str], undisturbed: Path, runs: Path
) -> None:
    """Nothing that was recorded lacks in MLflow in the end, by itself."""
    host, uri, database = store
    driver, record = cluster.train(runs, "--mlflow", uri)
    assert cluster.workers() == [0, 1, 1]
    with paused(cluster.writer_at(1, driver, record).process):
        driver.until(lambda: bool(sent_if_there(record, database)))
        host.cut()
    with paused(cluster.writer_at(STRUCK, driver, record).process):
        driver.until(lambda: f"MLflow at {uri} is away" in driver.said)
    host.mend()
    driver.end()
    assert_runs_equal(record, undisturbed)
    assert sent(record, database) == recorded(record)


@pytest.mark.parametrize("fault", ["network cut", "node killed", pytest.param("worker killed", marks=also_on_nodes)])
def test_a_run_goes_on_from_its_checkpoint(cluster: Cluster, undisturbed: Path, runs: Path, fault: str) -> None:
    """What is struck writes the record: the other nodes must find its checkpoints, and the record free."""
    driver, record = cluster.train(runs)
    writer = cluster.writer_at(STRUCK, driver, record)
    faults = {"worker killed": writer.process.kill, "network cut": writer.node.cut, "node killed": writer.node.kill}
    strike(record, faults[fault], f"{fault}, hosts")
    driver.end()
    assert_runs_equal(record, undisturbed)


def test_a_run_whose_driver_is_killed_is_resumed(cluster: Cluster, undisturbed: Path, runs: Path) -> None:
    driver, record = cluster.train(runs)
    cluster.writer_at(STRUCK, driver, record)
    again: list[Command] = []

    def kill_and_begin_again() -> None:
        driver.kill()
        wait_until(lambda: not is_being_written(record))
        again.append(cluster.mergenet("train", "--resume", str(record)))

    strike(record, kill_and_begin_again, "driver killed, hosts")
    again[0].end()
    assert_runs_equal(record, undisturbed)


@also_on_nodes
def test_a_sweep_fills_three_hosts_and_goes_on_without_one(cluster: Cluster, runs: Path, tmp_path: Path) -> None:
    driver, writers = cluster.sweep(runs)
    record, writer = writers.popitem()
    cluster.writer_at(STRUCK, driver, record)
    strike(record, writer.node.kill, "node killed, a trial on hosts")
    driver.end()
    assert len(list(runs.glob("tiny/*/result.json"))) == 3 and not any(map(resumed, writers))
    assert_runs_equal(record, again_alone(record, tmp_path / "alone"))
