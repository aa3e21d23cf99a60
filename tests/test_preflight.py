"""What is broken in a cluster is found and named, each check ends, and nothing of it is left behind."""

import io
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from PIL import Image
from ray import cloudpickle
from ray.dashboard import utils as dashboard_utils

from cluster import allreduce, checks, preflight, storage
from cluster import session as way_in
from cluster.checks import Host
from cluster.finding import Finding, good
from cluster.nodes import Failed, Node, alive, ask, in_one_line
from cluster.preflight import Check, Wanted, carry_out
from cluster.session import session
from mergenet import cli
from mergenet.cli.cluster import _look_at_mlflow
from mergenet.config import InputError
from mergenet.data.importer import import_data
from tests.conftest import Outcome
from tests.nodes import nodes_on_loopback
from tune.store import connect

A, B, C = (Node(letter * 8, letter, f"10.0.0.{number}") for number, letter in enumerate("abc", 1))
GONE = Failed("no answer within 30 s")


def lines(out: str) -> dict[str, tuple[str, str]]:
    """Name -> verdict and text of each finding as it was printed; the remedy is part of the text."""
    found: dict[str, tuple[str, str]] = {}
    for line in out.splitlines():
        name, verdict, text = line[:14].strip(), line[14:23].strip(), line[23:].strip()
        if name:
            last, found[name] = name, (verdict, text)
        else:
            found[last] = (found[last][0], f"{found[last][1]} {text}")
    return found


# --- what is judged, without Ray ---------------------------------------------------------------------------------

HERE = {"Python": "3.11.7", "ray": "2.60.0", "code": "0123abcd"}


def test_a_node_with_other_versions_is_named_with_what_differs() -> None:
    assert checks.judge_versions(HERE, {A: HERE, B: HERE}) == good("Python 3.11.7, ray 2.60.0, code 0123abcd")
    other = {**HERE, "ray": "2.59.0", "code": "missing"}
    found = checks.judge_versions(HERE, {A: HERE, B: other, C: GONE})
    assert found.verdict == "bad"
    assert found.text == (
        "c (10.0.0.3): no answer within 30 s; b (10.0.0.2): ray 2.59.0, here 2.60.0, code missing, here 0123abcd"
    )


def test_a_state_api_must_answer_on_every_node_and_for_this_cluster() -> None:
    assert checks.judge_state_api({"1", "2"}, {A: {"1", "2"}, B: {"2", "1", "3"}}) == good("answers on 2 nodes")
    found = checks.judge_state_api({"1", "2"}, {A: {"7"}, B: {"1"}, C: GONE})
    assert found.verdict == "bad"
    a_and_b = "a (10.0.0.1), b (10.0.0.2): it answers for another cluster"
    assert found.text.startswith(f"c (10.0.0.3): no answer within 30 s; {a_and_b}")


def test_two_rays_on_one_machine_are_found() -> None:
    one, same, other = Host("h", "boot", ("x",)), Host("h", "boot", ("x",)), Host("h", "another boot", ("x",))
    assert checks.judge_hosts({A: one, B: other}, one_machine=False) == good("one Ray on 2 machines")
    shared = checks.judge_hosts({A: one, B: same, C: other}, one_machine=False)
    assert (shared.verdict, shared.text) == ("bad", "h: 2 nodes of the cluster run on it")
    assert "--one-machine" in shared.remedy
    assert checks.judge_hosts({A: one, B: same}, one_machine=True).verdict == "good"
    two = checks.judge_hosts({A: Host("h", "boot", ("x", "y"))}, one_machine=True)
    assert (two.verdict, two.text) == ("bad", "a (10.0.0.1): 2 clusters run on it, x, y")


def test_a_second_ray_is_fine_where_each_has_its_share() -> None:
    """As jobs of a scheduler do."""
    there = Host("h", "boot", ("x", "y"), whole=False)
    found = checks.judge_hosts({A: there, B: Host("i", "boot", ("x",))}, one_machine=False)
    assert (found.verdict, found.text[:11]) == ("good", "2 machines,")
    twice = checks.judge_hosts({A: there, B: there}, one_machine=False)
    assert (twice.verdict, twice.text) == ("bad", "h: 2 nodes of the cluster run on it")


def test_clusters_are_found_by_their_processes(tmp_path: Path) -> None:
    (tmp_path / "raylet").symlink_to(Path(sys.executable).resolve())
    there = [
        subprocess.Popen(
            [tmp_path / "raylet", "-c", "print(flush=True); input()", word],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for word in ("--gcs-address=h:1", "--gcs-address=h:2", "--address=h:3")
    ]
    for process in there:
        assert process.stdout is not None
        process.stdout.readline()
    found = checks.clusters_here()
    for process in there:
        process.communicate(b"\n", timeout=30)
    assert {"h:1", "h:2"} <= set(found) and "h:3" not in found


@pytest.mark.parametrize(
    ("asked", "addresses", "own", "verdict"),
    [
        (True, ["10.0.0.1"], False, "good"),
        (False, ["10.0.0.1"], False, "bad"),
        (False, ["127.0.0.2", "10.0.0.1"], False, "bad"),
        (False, ["127.0.0.2", "127.0.0.3"], False, "good"),
        (False, ["::1"], False, "good"),
        (False, ["10.0.0.1"], True, "skipped"),
    ],
)
def test_without_a_token_a_cluster_stays_on_loopback(
    asked: bool, addresses: list[str], own: bool, verdict: str
) -> None:
    found = checks.judge_token(asked, addresses, own)
    assert found.verdict == verdict
    assert ("reaches 10.0.0.1 runs" in found.text) == (verdict == "bad")


def test_a_proxy_does_not_answer_for_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose refusal would read as that of one that asks for a token."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(403)

        def log_message(self, format: str, *arguments: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as proxy, socket.create_server(("127.0.0.1", 0)) as nobody:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        nobody.close()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="head:6379"))
        monkeypatch.setattr(dashboard_utils, "get_address_for_submission_client", lambda address: at)
        found = checks.token([A], own=False)
        proxy.shutdown()
    assert found.verdict == "bad" and "Connection refused" in found.text


def test_a_token_that_nobody_can_be_asked_about_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> bool:
        raise OSError("refused")

    monkeypatch.setattr(checks, "_asks_for_token", away)
    found = checks.token([A], own=False)
    assert (found.verdict, found.remedy) == ("bad", checks.DASHBOARD)
    assert found.text == "cannot be told without the State API: OSError: refused"


def test_storage_is_bad_by_the_name_of_the_node_that_fails() -> None:
    made, seen, removed = {A: [], B: []}, {A: True, B: True}, {A: None, B: None}
    assert storage.judge_storage("/p", made, seen, removed) == good("/p: written, read and removed by 2 nodes")
    for broken, text in (
        (({**made, B: Failed("PermissionError: no")}, seen, removed), "b (10.0.0.2) cannot write: PermissionError: no"),
        ((made, {**seen, B: GONE}, removed), "b (10.0.0.2) cannot read: no answer within 30 s"),
        ((made, {**seen, B: False}, removed), "b (10.0.0.2) cannot see what a (10.0.0.1) wrote in /p"),
        ((made, seen, {**removed, A: GONE}), "a (10.0.0.1) cannot remove: no answer within 30 s"),
    ):
        found = storage.judge_storage("/p", *broken)
        assert (found.verdict, found.text) == ("bad", text)


def test_data_that_differs_is_told_from_what_most_nodes_have() -> None:
    one, two = "1" * 64, "2" * 64
    assert checks.judge_data("fruit", {A: one, B: one}) == good("fruit: digest 11111111 on 2 nodes")
    found = checks.judge_data("fruit", {A: two, B: one, C: one})
    assert found.verdict == "bad"
    assert found.text == "fruit: a (10.0.0.1): digest 22222222; digest 11111111 on 2 nodes"
    assert checks.judge_data("fruit", {A: one, B: GONE}).text == "fruit: b (10.0.0.2): no answer within 30 s"


def test_a_wrong_sum_is_bad_and_the_slowest_rank_counts() -> None:
    right = allreduce.judge_reduced([(True, 0.01), (True, 0.02)], "gloo")
    assert right == good("2 workers on gloo, 839 MB/s for 16 MiB")
    found = allreduce.judge_reduced([(True, 0.01), (False, 0.01)], "nccl")
    assert (found.verdict, found.text) == ("bad", "the sum over 2 workers on nccl is wrong on rank 1")


# --- every check ends --------------------------------------------------------------------------------------------


def look_at(look: Callable[[], Finding], seconds: float = 5.0) -> Finding:
    return carry_out(Check("it", look, "the usual", seconds))


def test_a_check_that_raises_or_hangs_is_bad_with_its_remedy() -> None:
    def raises() -> Finding:
        raise OSError("two\nlines")

    begin = time.monotonic()
    assert look_at(raises) == Finding("it", "bad", "OSError: two lines", "the usual")
    hung = look_at(lambda: time.sleep(60) or good(""), 0.2)
    assert hung == Finding("it", "bad", "no answer within 0.2 s", "the usual")
    assert time.monotonic() - begin < 5
    assert look_at(lambda: good("fine")) == Finding("it", "good", "fine")
    assert look_at(lambda: Finding("", "bad", "x", "its own")).remedy == "its own"


def test_an_error_is_one_line_and_of_bad_input_the_line_alone() -> None:
    assert in_one_line(InputError("data x: no")) == "data x: no"
    assert in_one_line(KeyError()) == "KeyError"
    assert len(in_one_line(ValueError("word " * 100))) < 200


def test_versions_are_asked_by_a_function_that_a_node_without_this_package_can_run(tmp_path: Path) -> None:
    (tmp_path / "look").write_bytes(cloudpickle.dumps(checks.version_probe()))
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('cluster', 'mergenet', 'tune')))\n"
        "from ray import cloudpickle; look = cloudpickle.load(open('look', 'rb')); print(look(('numpy', 'no-such')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert re.search(r"'no-such': 'missing'", done.stdout), done.stderr


# --- MLflow and the command line ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--address", "somewhere"], "--address somewhere: write HOST:PORT"),
        (["--address", "ray://head:10001"], "--address ray://head:10001: write HOST:PORT"),
        (["--address", "head:0"], "--address head:0: write HOST:PORT"),
        (["--data", "digits"], "--data digits: write it as NAME=PATH"),
        (["--mlflow", "ftp://x"], "MLflow at 'ftp://x'"),
        (["--workers", "0"], "Invalid value for '--workers'"),
    ],
)
def test_bad_input_is_one_line_and_starts_nothing(call: Callable[..., Outcome], words: list[str], text: str) -> None:
    code, out, err = call("cluster", "preflight", *words)
    assert (code, out) == (2, "") and err.startswith("mergenet: ") and text in err and err.count("\n") == 1


def test_a_cluster_and_an_mlflow_that_are_not_there_are_bad(call: Callable[..., Outcome], tmp_path: Path) -> None:
    with socket.socket() as nobody:  # bound, and not listening
        nobody.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{nobody.getsockname()[1]}"
        code, out, err = call("cluster", "preflight", "--address", at, "--mlflow", f"http://{at}")
    found = lines(out)
    assert (code, err, list(found)) == (1, "", ["MLflow", "Ray"])
    assert found["MLflow"][0] == "bad" and f"http://{at}: Connection refused -> start it" in found["MLflow"][1]
    assert found["Ray"][0] == "bad" and f"nothing answers at {at}: Connection refused -> start it" in found["Ray"][1]
    assert not list(tmp_path.iterdir())


def test_a_token_that_the_cluster_does_not_take_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ray raises no more than that it is not connected, after it has said why below Python."""

    def refused(address: str) -> None:
        os.write(2, b"gcs_client.cc:210: Unauthenticated: InvalidAuthToken\n")
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setattr(way_in, "_init", refused)
    with socket.create_server(("127.0.0.1", 0)) as head:
        at = f"127.0.0.1:{head.getsockname()[1]}"
        (found,) = preflight.preflight(Wanted(at, {}, "runs", None, "cpu"))
    assert found == Finding("Ray", "bad", "the cluster does not take this token", checks.JOIN)
    os.write(2, b"heard again")
    assert capfd.readouterr().err == "heard again"


def test_mlflow_is_good_once_there_and_bad_when_its_database_is_of_another_version(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    uri = f"sqlite:///{database}"
    assert _look_at_mlflow(None).verdict == "skipped"
    assert _look_at_mlflow(uri).verdict == "skipped" and not database.exists()
    connect(uri)
    assert _look_at_mlflow(uri).verdict == "good"
    other = shutil.copy(database, tmp_path / "other.db")  # MLflow looks once a process at each
    with sqlite3.connect(other) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    found = _look_at_mlflow(f"sqlite:///{other}")
    assert found.verdict == "bad" and f"`mlflow db upgrade sqlite:///{other}`" in found.remedy


# --- one node ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(only_ray: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, Path, bool]:
    """The command on this machine: exit code, output, folder; whether another Ray ran here before."""
    folder = tmp_path_factory.mktemp("alone")
    crowded = bool(checks.clusters_here())
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.chdir(folder)
        for name in ("MERGENET_DATA", "MERGENET_RUNS", "MLFLOW_TRACKING_URI", "MERGENET_MLFLOW"):
            patch.delenv(name, raising=False)
        patch.setenv("COLUMNS", "80")
        patch.setattr(sys, "argv", ["mergenet", "cluster", "preflight", "--workers", "1", "--device", "cpu"])
        with pytest.raises(SystemExit) as end:
            cli.main()
    return int(end.value.code or 0), out.getvalue(), folder, crowded


def test_one_node_is_good_and_nothing_is_left_behind(alone: tuple[int, str, Path, bool]) -> None:
    code, out, folder, crowded = alone
    found = lines(out)
    verdicts = {name: verdict for name, (verdict, _) in found.items()}
    hosts = "bad" if crowded else "good"
    assert verdicts == {
        **{"MLflow": "skipped", "Ray": "good", "versions": "good", "State API": "good", "hosts": hosts},
        **{"token": verdicts["token"], "storage": "good", "all-reduce": "skipped"},
    }
    assert verdicts["token"] in ("good", "skipped")
    assert code == int(crowded)
    assert found["storage"][1] == "runs: written, read and removed by the only node"
    assert max(map(len, out.splitlines())) <= 80
    assert not list(folder.iterdir())


# --- two nodes ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nodes(alone: object) -> Iterator[list[Node]]:
    """A cluster of two nodes with two processors each, which this process has joined."""
    with nodes_on_loopback(2, processors=2, dashboard=True) as cluster, session(address=cluster.address):
        yield alive()


def test_the_command_is_good_on_two_nodes(nodes: list[Node], call: Callable[..., Outcome], tmp_path: Path) -> None:
    import ray

    words = ["--address", ray.get_runtime_context().gcs_address, "--one-machine", "--workers", "2", "--device", "cpu"]
    code, out, err = call("cluster", "preflight", *words, "--storage", str(tmp_path / "runs"))
    found = lines(out)
    bad = {name: text for name, (verdict, text) in found.items() if verdict == "bad"}
    assert err == "" and set(bad) <= {"hosts"}, bad  # another Ray may run here
    assert code == len(bad)
    assert found["Ray"][1].endswith(": 2 nodes, 4 processors")
    assert found["State API"][1] == "answers on 2 nodes"
    assert "removed by 2 nodes" in found["storage"][1]
    assert re.fullmatch(r"2 workers on gloo, [\d,]+ MB/s for 16 MiB", found["all-reduce"][1])
    assert not list(tmp_path.iterdir())


def test_two_nodes_on_one_machine_are_seen(nodes: list[Node]) -> None:
    found = checks.hosts(nodes, one_machine=False)
    assert found.verdict == "bad" and "2 " in found.text


def test_a_node_that_hangs_raises_or_dies_is_named(nodes: list[Node]) -> None:
    def answer() -> str:
        import os

        import ray

        here = ray.util.get_node_ip_address()
        if here == "127.0.0.3":
            time.sleep(60)
        return f"{here} {os.getpid() > 0}"

    begin = time.monotonic()
    one, other = ask(nodes, answer, seconds=3.0).values()
    assert (one, other) == ("127.0.0.2 True", Failed("no answer within 3 s"))
    assert time.monotonic() - begin < 20

    def refuse() -> None:
        raise InputError("data x: no folder")

    assert set(ask(nodes, refuse, seconds=20.0).values()) == {Failed("data x: no folder")}
    died = ask(nodes, lambda: os._exit(1), seconds=20.0).values()
    assert all(isinstance(answer, Failed) and "no answer" not in answer.why for answer in died)


def test_storage_that_a_node_does_not_share_is_bad_and_left_as_it_was(
    nodes: list[Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, seen, remove = storage.write, storage.is_seen, storage.remove

    def of_its_own(place: str) -> str:
        import ray

        return f"{place}/{ray.util.get_node_ip_address()}"

    monkeypatch.setattr(storage, "SEEN_WITHIN_S", 0.3)
    monkeypatch.setattr(storage, "write", lambda place, *rest: write(of_its_own(place), *rest))
    monkeypatch.setattr(storage, "is_seen", lambda place, *rest: seen(of_its_own(place), *rest))
    monkeypatch.setattr(storage, "remove", lambda place, *rest: remove(of_its_own(place), *rest))
    (tmp_path / "127.0.0.2").mkdir()
    (tmp_path / "127.0.0.2" / "kept").touch()
    found = storage.storage_shared(nodes, str(tmp_path))  # the other folder is made, and removed
    assert found.verdict == "bad"
    assert re.search(r"\(127\.0\.0\.3\) cannot see what .*\(127\.0\.0\.2\) wrote", found.text)
    assert [path.name for path in tmp_path.rglob("*")] == ["127.0.0.2", "kept"]


def test_storage_that_cannot_be_written_is_bad(nodes: list[Node], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = storage.storage_shared(nodes, str(tmp_path / "file" / "runs"))
    assert found.verdict == "bad" and "cannot write: NotADirectoryError" in found.text
    found = look_at(lambda: storage.storage_shared(nodes, "nosuch://bucket/x"), 60.0)
    assert found.verdict == "bad" and "cannot write" in found.text and "nosuch" in found.text


def imported(root: Path, colour: int) -> str:
    """A data set of two images a split, all of one colour; its digest."""
    for split in ("train", "test"):
        for name in ("fig", "plum"):
            file = root / "source" / split / name / "0.png"
            file.parent.mkdir(parents=True)
            Image.new("RGB", (8, 8), (colour, 0, 0)).save(file)
    described, _ = import_data("fruit", root / "source", root)
    return described.digest[:8]


def test_data_that_differs_or_lacks_on_a_node_is_bad(
    nodes: list[Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = imported(tmp_path / "127.0.0.2", 1), imported(tmp_path / "127.0.0.3", 2)
    monkeypatch.chdir(tmp_path)
    assert checks.data(nodes, "fruit", "127.0.0.2/fruit") == good(f"fruit: digest {first} on 2 nodes")
    found = checks.data(nodes, "fruit", "nowhere")
    assert found.verdict == "bad" and f"no folder {tmp_path}/nowhere" in found.text

    read = checks._digest

    def of_its_own(name: str, path: str) -> str:
        import ray

        return read(name, path.replace("NODE", ray.util.get_node_ip_address()))

    monkeypatch.setattr(checks, "_digest", of_its_own)
    found = checks.data(nodes, "fruit", "NODE/fruit")
    assert found.verdict == "bad" and first in found.text and f"(127.0.0.3): digest {second}" in found.text
    shutil.rmtree("127.0.0.3/fruit")
    found = checks.data(nodes, "fruit", "NODE/fruit")
    assert found.verdict == "bad" and re.match(r"fruit: \S+ \(127.0.0.3\): [^;]*no [^;]*$", found.text), found.text


def test_more_workers_than_processors_are_bad_at_once(nodes: list[Node]) -> None:
    begin = time.monotonic()
    found = allreduce.all_reduce(2, 5, "cpu")
    assert found.verdict == "bad" and found.text.startswith("5 workers asked, and the cluster has 4 processors")
    assert found.remedy.startswith("--workers 4")
    gpu = allreduce.all_reduce(2, None, "cuda")
    assert gpu.verdict == "bad" and "0 GPUs" in gpu.text
    assert allreduce.all_reduce(2, 1, "cpu").verdict == "skipped"
    assert time.monotonic() - begin < 5


def test_processors_that_are_taken_are_not_waited_for_for_ever(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    @ray.remote(num_cpus=2)
    class Busy:
        def there(self) -> bool:
            return True

    busy = [Busy.remote() for _ in nodes]
    ray.get([one.there.remote() for one in busy], timeout=30)
    monkeypatch.setattr(allreduce, "START_S", 2.0)
    begin = time.monotonic()
    try:
        found = allreduce.all_reduce(2, 2, "cpu")
    finally:
        for one in busy:
            ray.kill(one)
    assert time.monotonic() - begin < 10
    assert (found.verdict, found.text) == (
        "bad",
        "0 of 2 workers started within 2 s; 0 more processors are free",
    )


def test_workers_that_do_not_meet_are_bad_with_the_interface_to_name(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf(allreduce.Rank):
        def reduce(self, *arguments: Any) -> tuple[bool, float]:
            time.sleep(60)
            return True, 1.0

    monkeypatch.setattr(allreduce, "Rank", Deaf)
    monkeypatch.setattr(allreduce, "REDUCE_S", 1.0)
    found = look_at(lambda: allreduce.all_reduce(2, 2, "cpu"), 60.0)
    assert (found.verdict, found.text) == ("bad", "2 workers have not met on gloo within 2 s")
    assert "GLOO_SOCKET_IFNAME" in checks.network("cpu") and "NCCL_SOCKET_IFNAME" in checks.network("cuda")
