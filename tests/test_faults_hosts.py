"""Hosts that share a folder, or a store, and nothing else: a run on two equals one on one, and outlives one of them."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mergenet.config import as_yaml
from mergenet.training.files import is_being_written, read_json
from tests.compare import assert_runs_equal
from tests.conftest import SMALL
from tests.faults import (
    COSTS,
    LONG,
    STRUCK,
    SWEEP,
    Cluster,
    Command,
    again_alone,
    below,
    keep_cost,
    paused,
    resumed,
    strike,
    ticks,
    train_here,
    wait_until,
)
from tests.hosts import STORE, STORE_PORT, Host, Hosts, head_on, hosts, join, lacking
from tests.mirrors import recorded, sent, sent_if_there
from tests.store import BUCKET
from tests.sweeps import written
from tune.search.ledger import read_log

pytestmark = pytest.mark.skipif(lacking() is not None, reason=f"hosts in namespaces: {lacking()}")

also_on_nodes = pytest.mark.skipif(
    not COSTS, reason="done on nodes too; MERGENET_FAULTS=FILE does it here, and keeps what it cost"
)


@pytest.fixture(scope="module")
def plugs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Their Rays are alone in their networks, whatever runs beside."""
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


def answers(host: Host, port: int) -> None:
    """Waits until a server there does."""
    knock = ["bash", "-c", f": < /dev/tcp/{host.address}/{port}"]
    wait_until(lambda: host.begin(*knock, output=subprocess.DEVNULL).wait(10) == 0)


@pytest.fixture(scope="module")
def mlflow(plugs: Hosts) -> tuple[Host, str, str]:
    """A host with a server of MLflow; how others reach it, and how one does who sees its database."""
    host = plugs.plug_in(9)
    database = f"sqlite:///{plugs.folder / 'mlflow.db'}"
    own = ["--backend-store-uri", database, "--artifacts-destination", str(plugs.folder / "artifacts")]
    words = ["-m", "mlflow", "server", "--host", host.address, "--workers", "1", *own]
    host.begin(sys.executable, *words, folder=plugs.folder, output=subprocess.DEVNULL)
    answers(host, 5000)
    return host, f"http://{host.address}:5000", database


def test_a_run_on_two_hosts_equals_one_on_one_though_mlflow_was_away(
    cluster: Cluster, mlflow: tuple[Host, str, str], undisturbed: Path, runs: Path
) -> None:
    """Nothing that was recorded lacks in MLflow in the end, by itself."""
    host, uri, database = mlflow
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


# --- without a shared folder -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(plugs: Hosts) -> Host:
    """A host with an object store."""
    host = plugs.plug_in(STORE)
    host.begin(sys.executable, "-m", "tests.store", host.address, str(STORE_PORT), output=subprocess.DEVNULL)
    answers(host, STORE_PORT)
    return host


def copied(store: Host, uri: str, folder: Path) -> Path:
    """A record, as the store has it in the end."""
    copying = store.begin(sys.executable, "-m", "tests.store", uri, str(folder))
    said, _ = copying.communicate(timeout=60)
    assert copying.returncode == 0, said
    return folder


def ticks_at(host: Host) -> int:
    """The tick to which a run has come in the host's own temporary folder."""
    records = Path(f"/proc/{host.first.pid}/root/tmp").glob("mergenet-run-*/*")
    return max(map(ticks, records), default=0)


def trained_at(nodes: Sequence[Host], tick: int) -> list[Host]:
    """The hosts whose runs have come to a tick."""
    return [host for host in nodes if ticks_at(host) >= tick]


def test_a_run_on_hosts_that_share_no_folder_goes_on_from_the_store(
    cluster: Cluster, store: Host, undisturbed: Path, runs: Path
) -> None:
    runs.mkdir()
    (runs / "long.yaml").write_text(as_yaml(LONG))
    uri = f"s3://{BUCKET}/train"
    driver = cluster.mergenet("train", str(runs / "long.yaml"), "--workers", "2", "--runs", uri)
    driver.until(lambda: bool(trained_at(cluster.nodes, STRUCK)))
    (writer,) = trained_at(cluster.nodes, STRUCK)
    begin, done = time.monotonic(), ticks_at(writer)
    writer.kill()
    driver.until(lambda: "going on from tick" in driver.said)
    seconds = time.monotonic() - begin
    driver.end()
    (went_on,) = map(int, re.findall(r"going on from tick (\d+)", driver.said))
    assert 3 <= went_on <= done + 1
    keep_cost("node killed, records in a store", seconds, done - went_on)
    (record,) = set(re.findall(rf"{uri}/small/[0-9a-f]+-s0", driver.said))
    assert_runs_equal(copied(store, record, runs / "copy"), undisturbed)


def test_a_job_and_its_code_travel_to_hosts_that_share_no_folder(cluster: Cluster, store: Host, runs: Path) -> None:
    """The code that a host has is a checkout, whose commit a record would name; what was sent is none."""
    runs.mkdir()
    (runs / "small.yaml").write_text(as_yaml(SMALL))
    uri = f"s3://{BUCKET}/job"
    words = ["train", f"{runs.name}/small.yaml", "--workers", "2", "--runs", uri]
    driver = cluster.mergenet("cluster", "submit", "--python", sys.executable, "--", *words)
    driver.end()
    (record,) = set(re.findall(rf"{uri}/small/[0-9a-f]+-s0", driver.said))
    manifest = read_json(copied(store, record, runs / "copy") / "manifest.json")
    assert (manifest["world_size"], manifest["commit"]) == (2, None)


def test_a_sweep_on_hosts_that_share_no_folder_is_in_the_store(cluster: Cluster, store: Host, runs: Path) -> None:
    runs.mkdir()
    uri = f"s3://{BUCKET}/sweep"
    driver = cluster.mergenet("sweep", written(runs, SWEEP), "--runs", uri)
    hosts_at_work: set[str] = set()

    def all_of_them() -> bool:
        hosts_at_work.update(host.name for host in trained_at(cluster.nodes, 1))
        return len(hosts_at_work) == len(cluster.nodes)

    driver.until(all_of_them)
    driver.end()
    (folder,) = set(re.findall(rf"{uri}/tiny/sweep-[0-9a-f]+", driver.said))
    log = read_log(copied(store, folder, runs / "copy"))
    assert [trial.state for trial in log.trials()] == ["finished"] * 3
    for trial in log.trials():
        record = copied(store, f"{uri}/tiny/{trial.run}", runs / trial.run)
        assert read_json(record / "result.json")["learners"]["target"]["validation"]["loss"] in (trial.values or ())


# --- a sweep -------------------------------------------------------------------------------------------------------


@also_on_nodes
def test_a_sweep_fills_three_hosts_and_goes_on_without_one(cluster: Cluster, runs: Path, tmp_path: Path) -> None:
    driver, writers = cluster.sweep(runs)
    record, writer = writers.popitem()
    cluster.writer_at(STRUCK, driver, record)
    strike(record, writer.node.kill, "node killed, a trial on hosts")
    driver.end()
    assert len(list(runs.glob("tiny/*/result.json"))) == 3 and not any(map(resumed, writers))
    assert_runs_equal(record, again_alone(record, tmp_path / "alone"))
