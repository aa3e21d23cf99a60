"""The mirror in MLflow: every point of the record once, however often it is sent and whatever breaks meanwhile."""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from click.testing import CliRunner
from mlflow import MlflowClient
from safetensors.torch import load_file

from mergenet.cli import commands
from mergenet.cli.ui import ui
from mergenet.config import InputError, merge, parse
from mergenet.experiment import Experiment
from mergenet.training.checkpoint import checkpoints
from mergenet.training.files import read_json
from mergenet.training.record import Record
from mergenet.training.reporter import Silent
from mergenet.training.run import execute
from mergenet.training.spec import RunSpec
from tests.conftest import SMALL
from tests.mirrors import mirror_of, recorded, sent, sent_if_there
from tests.refused import refusal
from tune.files import params
from tune.follow import mirrored
from tune.records import Mirror, sync
from tune.store import QUIET, Away, connect, default_uri

CHANGE = {"training": {"epochs": 2}, "learners": {"target": {"training": {"optimizer": {"sgd": {"lr": 0.01}}}}}}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    for name in ("MLFLOW_TRACKING_URI", "MERGENET_RUNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The record of a real run: two epochs, ten ticks."""
    folder = tmp_path_factory.mktemp("original") / "record"
    execute(RunSpec(parse(Experiment, merge(Experiment, SMALL, CHANGE)), 0, {}, folder), Silent())
    return folder


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite store without a run; making one takes seconds, copying it none."""
    runs = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        connect(default_uri(runs))
    return runs / "mlflow.db"


@pytest.fixture
def runs(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of records with an empty store, below the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")
    return tmp_path / "runs"


@pytest.fixture
def record(runs: Path, original: Path) -> Path:
    """A copy of the finished record among the runs."""
    return Path(shutil.copytree(original, runs / "small" / "0123abcd-s0"))


def artifacts(folder: Path, uri: str, path: str | None = None) -> list[str]:
    return sorted(item.path for item in connect(uri).list_artifacts(mirror_of(folder, uri).info.run_id, path))


def wait_until(claim: Callable[[], bool], within: float = 30.0) -> None:
    end = time.monotonic() + within
    while not claim():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.1)


# --- what is sent ------------------------------------------------------------------------------------------------


def test_every_point_of_the_record_is_in_mlflow_and_nothing_twice(record: Path, runs: Path) -> None:
    uri = default_uri(runs)
    first = sync(record, uri)
    assert recorded(record) == sent(record, uri) and len(recorded(record)) == first.points > 20
    before = mirror_of(record, uri)
    second = sync(record, uri)
    assert (second.points, second.run_id, second.status) == (0, first.run_id, "finished")
    assert recorded(record) == sent(record, uri)
    assert mirror_of(record, uri).to_dictionary() == before.to_dictionary()
    assert [path.name for path in runs.parent.iterdir()] == ["runs"]


def test_the_run_says_what_the_record_is(record: Path, runs: Path) -> None:
    uri, manifest = default_uri(runs), read_json(record / "manifest.json")
    sync(record, uri)
    run, tags = mirror_of(record, uri), mirror_of(record, uri).data.tags
    assert (run.info.run_name, run.info.status, tags["mergenet.status"]) == ("0123abcd-s0", "FINISHED", "finished")
    assert tags["mergenet.run"] == f"{manifest['hash']}-s0-1xcpu-t1" and tags["mergenet.folder"] == "0123abcd-s0"
    for key in ("hash", "seed", "commit", "world_size", "device", "threads"):
        assert tags[f"mergenet.{key}"] == str(manifest[key])
    assert {name: tags[f"mergenet.cell.{name}"] for name in manifest["cells"]} == manifest["cells"]
    assert tags["mergenet.data.digits"] == manifest["data"]["digits"]["digest"]
    assert run.info.end_time == (record / "result.json").stat().st_mtime_ns // 1_000_000
    assert run.info.start_time == (record / "experiment.json").stat().st_mtime_ns // 1_000_000
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits", manifest["data"]["digits"]["digest"][:36])
    assert json.loads(data.dataset.profile) == {"digest": manifest["data"]["digits"]["digest"]}
    assert artifacts(record, uri) == ["experiment.json", "manifest.json", "result.json"]
    copy = runs / "mlflow-artifacts" / run.info.run_id / "artifacts" / "result.json"
    assert copy.read_text() == (record / "result.json").read_text()


def test_the_workers_of_a_run_are_those_it_went_on_with_too(record: Path, runs: Path) -> None:
    """The run is found by how it began, and says what it became."""
    uri, path = default_uri(runs), record / "manifest.json"
    sync(record, uri)
    before = mirror_of(record, uri)
    manifest = read_json(path)
    path.write_text(json.dumps({**manifest, "resumed": [{"tick": 3, "world_size": 2, "changed": {}}]}))
    sync(record, uri)
    after = mirror_of(record, uri)
    assert before.info.run_id == after.info.run_id
    tags = [run.data.tags for run in (before, after)]
    assert [one["mergenet.world_size"] for one in tags] == ["1", "1"]
    assert [one["mergenet.world_sizes"] for one in tags] == ["1", "1 then 2"]


def test_params_are_the_experiment_by_dotted_path_with_common_training_once(record: Path, runs: Path) -> None:
    sync(record, default_uri(runs))
    found = mirror_of(record, default_uri(runs)).data.params
    assert found == params(read_json(record / "experiment.json"))
    expected = {
        "name": "small",
        "clock": "target",
        "learners.source.model": "resnet18-narrow",
        "training.epochs": "2",
        "training.schedule.cosine": "{}",
        "training.channels_last": "true",
        "learners.source.training.optimizer.sgd.lr": "0.05",
        "learners.target.training.optimizer.sgd.lr": "0.01",
        "transfers.main.encoding.svd.rank": "4",
        "evaluation.weights": "last",
    }
    assert expected.items() <= found.items()
    assert "learners.target.training.epochs" not in found and "training.optimizer.sgd.lr" not in found


def test_what_is_too_long_for_mlflow_is_cut_and_lists_are_text(
    record: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRUNCATE_LONG_VALUES", "false")  # MLflow would refuse it
    experiment = read_json(record / "experiment.json")
    experiment["learners"]["source"]["model"] = "x" * 7000
    experiment["evaluation"]["at"] = [0.3, 0.6]
    (record / "experiment.json").write_text(json.dumps(experiment))
    sync(record, default_uri(runs))
    sync(record, default_uri(runs))
    found = mirror_of(record, default_uri(runs)).data.params
    assert found["learners.source.model"] == "x" * 6000 and found["evaluation.at"] == "[0.3, 0.6]"


def test_more_points_than_one_request_takes_and_null_ones_not(record: Path, runs: Path) -> None:
    lines = [json.dumps(line_of(tick, None if tick % 7 == 0 else tick / 3)) for tick in range(1, 2501)]
    (record / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert sync(record, default_uri(runs)).points == 2500 - 357
    assert sent(record, default_uri(runs)) == recorded(record)


def test_a_test_split_that_was_measured_often_is_a_curve(runs: Path) -> None:
    folder, change = runs / "small" / "run-s0", {"training": {"epochs": 3}, "evaluation": {"test": "always"}}
    execute(RunSpec(parse(Experiment, merge(Experiment, SMALL, change)), 0, {}, folder), Silent())
    sync(folder, default_uri(runs))
    assert sent(folder, default_uri(runs)) == recorded(folder)
    curve = [point for point in sent(folder, default_uri(runs)) if point[0] == "target/test/top1"]
    assert [tick for _, tick, _ in curve] == [5, 10, 15]
    latest = mirror_of(folder, default_uri(runs)).data.metrics["target/test/top1"]
    assert latest == read_json(folder / "result.json")["learners"]["target"]["test"]["top1"]


def line_of(tick: int, value: float | None) -> dict[str, Any]:
    line = {"run": "x", "learner": "target", "tick": tick, "epoch": 1, "split": "train", "metric": "loss"}
    return {**line, "value": value}


def test_another_seed_is_another_run_and_another_name_another_experiment(record: Path, runs: Path) -> None:
    uri = default_uri(runs)
    sync(record, uri)
    for key, value in (("seed", 1), ("hash", "f" * 64)):
        manifest = read_json(record / "manifest.json")
        (record / "manifest.json").write_text(json.dumps({**manifest, key: value}))
        assert sync(record, uri).points == len(recorded(record))
    experiment = connect(uri).get_experiment_by_name("small")
    assert experiment is not None and len(connect(uri).search_runs([experiment.experiment_id])) == 3


# --- how it stands with the run ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "status"),
    [("finished", "FINISHED"), ("failed", "FAILED"), ("interrupted", "KILLED"), (None, "KILLED")],
)
def test_the_status_is_that_of_the_result(record: Path, runs: Path, result: str | None, status: str) -> None:
    (record / "result.json").unlink()
    if result is not None:
        (record / "result.json").write_text(json.dumps({"status": result}))
    outcome = sync(record, default_uri(runs))
    run = mirror_of(record, default_uri(runs))
    assert (outcome.status, run.info.status) == (result or "killed", status)
    assert ("result.json" in artifacts(record, default_uri(runs))) == (result is not None)


def test_a_run_that_goes_on_is_reopened_and_gets_only_its_new_points(record: Path, runs: Path) -> None:
    """Cut back and half written when it is looked at, then written by someone, then finished."""
    uri, metrics, result = default_uri(runs), record / "metrics.jsonl", (record / "result.json").read_text()
    whole = metrics.read_bytes()
    lines = whole.splitlines(keepends=True)
    metrics.write_bytes(b"".join(lines[:20]) + lines[20][:-9])
    (record / "result.json").write_text('{"status": "failed"}')
    assert (sync(record, uri).points, len(sent(record, uri))) == (20, 20)
    (record / "result.json").unlink()
    writer = Record(record)
    metrics.write_bytes(b"".join(lines[:10]))
    assert sync(record, uri).status == "running" and mirror_of(record, uri).info.status == "RUNNING"
    metrics.write_bytes(whole)
    (record / "result.json").write_text(result)
    writer.close()
    assert sync(record, uri).points == len(lines) - 20
    assert sent(record, uri) == recorded(record) and mirror_of(record, uri).info.status == "FINISHED"
    assert len(mirror_of(record, uri).inputs.dataset_inputs) == 1


def test_a_mirror_that_another_one_has_overtaken_doubles_nothing(record: Path, runs: Path) -> None:
    """Both know what MLflow had when they asked; in between the file is cut back and grows again."""
    uri, metrics = default_uri(runs), record / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    metrics.write_bytes(b"".join(lines[:16]))
    slow = Mirror(record, uri)
    assert slow.send() == 16
    metrics.write_bytes(b"".join(lines[:6]))
    assert slow.send() == 0
    metrics.write_bytes(b"".join(lines[:18]) + lines[18][:-9])
    assert slow.send() == 2
    metrics.write_bytes(b"".join(lines[:22]))
    assert (Mirror(record, uri).send(), slow.send()) == (4, 4)
    assert len(sent(record, uri)) == 22
    metrics.write_bytes(b"".join(lines))
    assert slow.send() == len(lines) - 22 and sent(record, uri) == recorded(record)


# --- while it runs -----------------------------------------------------------------------------------------------


def test_a_run_is_followed_and_ended_with_its_model_and_the_machines_figures(runs: Path) -> None:
    folder, uri, said = runs / "small" / "run-s0", default_uri(runs), list[str]()
    (runs.parent / "model").mkdir()
    (runs.parent / "model" / "weights").write_bytes(b"weights")
    with mirrored(folder, uri, said.append, lambda: runs.parent / "model", every=0.2):
        execute(RunSpec(parse(Experiment, SMALL), 0, {}, folder), Silent())
        wait_until(lambda: sent_if_there(folder, uri) == recorded(folder))
        wait_until(lambda: len(sent(folder, uri, ("system/",))) > 8)
        assert mirror_of(folder, uri).info.status == "RUNNING" and artifacts(folder, uri) == []
    run = mirror_of(folder, uri)
    assert run.info.status == "FINISHED" and sent(folder, uri) == recorded(folder) and said == []
    assert artifacts(folder, uri) == ["experiment.json", "manifest.json", "model", "result.json"]
    assert artifacts(folder, uri, "model") == ["model/weights"]
    assert f"system/{os.uname().nodename}/cpu_utilization_percentage" in run.data.metrics
    assert sorted(path.name for path in runs.parent.iterdir()) == ["model", "runs"]
    before = len(sent(folder, uri, ("system/",)))
    assert sync(folder, uri).points == 0 and len(sent(folder, uri, ("system/",))) == before


def test_artifacts_are_sent_once_and_again_only_when_the_run_ended_otherwise(record: Path, runs: Path) -> None:
    uri, model, asked = default_uri(runs), runs.parent / "model", []
    model.mkdir()
    (model / "weights").write_text("first")

    def give() -> Path:
        asked.append(1)
        return model

    kept = runs / "mlflow-artifacts" / sync(record, uri, give).run_id / "artifacts"
    copies = [kept / "result.json", kept / "model" / "weights"]
    for copy in copies:
        copy.write_text("untouched")
    sync(record, uri, give)
    sync(record, uri)
    assert [copy.read_text() for copy in copies] == ["untouched", "untouched"] and len(asked) == 1
    (model / "weights").write_text("second")
    (record / "result.json").write_text('{"status": "finished", "ticks": 9}')
    sync(record, uri, give)
    assert [copy.read_text() for copy in copies] == ['{"status": "finished", "ticks": 9}', "second"]
    (record / "result.json").write_text('{"status": "failed"}')
    sync(record, uri, lambda: pytest.fail("a run that failed has no model"))


def test_a_store_within_the_record_itself_is_no_deadlock(record: Path, runs: Path) -> None:
    shutil.copy(runs / "mlflow.db", record / "mlflow.db")
    assert sync(record, f"sqlite:///{record / 'mlflow.db'}").points == len(recorded(record))


def test_an_experiment_deleted_in_the_page_comes_back_with_the_next_sync(record: Path, runs: Path) -> None:
    uri = default_uri(runs)
    sync(record, uri)
    connect(uri).delete_experiment(mirror_of(record, uri).info.experiment_id)
    sync(record, uri)
    assert sent(record, uri) == recorded(record)


def test_a_model_that_cannot_be_made_does_not_end_a_run_that_went_well(record: Path, runs: Path) -> None:
    said: list[str] = []

    def fail() -> Path:
        raise InputError("no room for it")

    with mirrored(record, default_uri(runs), said.append, fail):
        pass
    assert said == ["the trained model is not sent to MLflow: no room for it"]
    assert artifacts(record, default_uri(runs)) == ["experiment.json", "manifest.json", "result.json"]


def test_a_password_in_an_address_is_not_shown(record: Path) -> None:
    said: list[str] = []
    uri = "http://someone:secret@127.0.0.1:9"
    with mirrored(record, uri, said.append, every=0.1):
        wait_until(lambda: bool(said))
    assert "http://someone:***@127.0.0.1:9 is away" in said[0] and "secret" not in said[0]


def test_a_run_whose_mlflow_was_away_gets_its_trained_model_by_the_command(record: Path, runs: Path) -> None:
    """`mergenet sync` exports what MLflow lacks: the run's own weights, readable without this package."""
    assert CliRunner().invoke(commands, ["sync", str(record)]).exit_code == 0
    folder = runs / "mlflow-artifacts" / mirror_of(record, default_uri(runs)).info.run_id / "artifacts" / "model"
    state = torch.load(checkpoints(record / "checkpoints")[-1] / "state.pt", weights_only=True)
    weights = load_file(folder / "model.safetensors")
    assert weights.keys() == state["learners"]["target"]["model"].keys()
    assert all(torch.equal(weights[name], value) for name, value in state["learners"]["target"]["model"].items())


def test_a_run_that_was_refused_before_it_began_leaves_no_trace(runs: Path) -> None:
    with pytest.raises(InputError, match="refused"), mirrored(runs / "small" / "x-s0", default_uri(runs), print):
        raise InputError("refused")
    assert connect(default_uri(runs)).get_experiment_by_name("small") is None


DRIVER = """
import sys, time
from pathlib import Path
from tune.follow import mirrored
with mirrored(Path(sys.argv[1]), sys.argv[2], print, every=0.2):
    print("in", flush=True)
    time.sleep(60)
"""


def test_a_killed_drivers_run_is_killed_and_the_next_driver_goes_on_with_it(record: Path, runs: Path) -> None:
    uri, lines = default_uri(runs), (record / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (record / "result.json").unlink()
    (record / "metrics.jsonl").write_bytes(b"".join(lines[:12]))
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(record), uri], env=environment())
    try:
        wait_until(lambda: len(sent_if_there(record, uri)) == 12)
        assert mirror_of(record, uri).info.status == "RUNNING"
    finally:
        driver.kill()
        driver.wait()
    wait_until(lambda: mirror_of(record, uri).info.status == "KILLED")

    def go_on_and_fail() -> None:
        never: Callable[[], None] = lambda: pytest.fail("the model of a run that failed was asked for")  # noqa: E731
        with mirrored(record, uri, print, never, every=0.2):
            wait_until(lambda: mirror_of(record, uri).info.status == "RUNNING")
            (record / "metrics.jsonl").write_bytes(b"".join(lines))
            (record / "result.json").write_text('{"status": "failed"}')
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        go_on_and_fail()
    assert mirror_of(record, uri).info.status == "FAILED" and sent(record, uri) == recorded(record)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}


# --- when MLflow is away -----------------------------------------------------------------------------------------


@contextmanager
def page(runs: Path, port: int) -> Iterator[str]:
    """`mergenet ui` as a user starts it; its store is what others send to."""
    command = [sys.executable, "-m", "mergenet", "ui", "--runs", str(runs), "--port", str(port)]
    server = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored by what a shell runs aside
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline().rstrip() == f"MLflow shows {runs} at http://127.0.0.1:{port}; Ctrl-C ends it"
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGINT)
        assert server.communicate(timeout=30) == ("", "") and server.returncode == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listeners(port: int) -> list[str]:
    """Addresses that listen on the port, as Linux lists them."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return [row[1].split(":")[0] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port]


def test_a_server_that_is_away_comes_and_goes_loses_and_doubles_nothing(
    runs: Path, record: Path, original: Path
) -> None:
    port, said, other = free_port(), list[str](), runs / "small" / "other-s0"
    uri = f"http://127.0.0.1:{port}"
    lines = begin_anew(shutil.copytree(original, other))
    with mirrored(other, uri, said.append, every=0.2):
        wait_until(lambda: said != [])
        with page(runs, port):
            assert listeners(port) == ["0100007F"]
            wait_until(lambda: len(sent_if_there(other, uri)) == 12)
            assert sync(record, uri).points == len(recorded(record)) and sent(record, uri) == recorded(record)
            assert artifacts(record, uri) == ["experiment.json", "manifest.json", "result.json"]
        (other / "metrics.jsonl").write_bytes(b"".join(lines))
        with page(runs, port):
            wait_until(lambda: sent(other, uri) == recorded(other))
    line = (
        f"MLflow at {uri} is away (Connection refused); the record is whole, `mergenet sync runs/small/other-s0 --to "
    )
    assert said == [f"{line}{uri}` sends it later"]
    shutil.copy(original / "result.json", other)
    assert (sync(other, default_uri(runs)).points, mirror_of(other, default_uri(runs)).info.status) == (0, "FINISHED")
    assert sent(other, default_uri(runs)) == recorded(other)


def begin_anew(folder: Path) -> list[bytes]:
    """Makes a record another one that has come to its twelfth line; all its lines."""
    manifest = read_json(folder / "manifest.json")
    hash_of_other = hashlib.sha256(b"other").hexdigest()
    (folder / "manifest.json").write_text(json.dumps({**manifest, "hash": hash_of_other}))
    (folder / "result.json").unlink()
    lines = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_bytes(b"".join(lines[:12]))
    return lines


def test_a_locked_store_is_away_and_a_broken_one_too(record: Path, runs: Path) -> None:
    said: list[str] = []
    holder = sqlite3.connect(runs / "mlflow.db")
    holder.execute("BEGIN IMMEDIATE")
    with mirrored(record, default_uri(runs), said.append):
        pass
    holder.close()
    (runs / "mlflow.db").write_text("no store" * 1000)
    with pytest.raises(Away, match="file is not a database"):
        sync(record, default_uri(runs))
    assert len(said) == 1 and "is away (database is locked); the record is whole" in said[0]


# --- beside others -----------------------------------------------------------------------------------------------


def test_two_syncs_at_once_after_one_that_died_while_making_the_store_make_one_run(record: Path, runs: Path) -> None:
    (runs / "mlflow.db").unlink()
    command = [sys.executable, "-m", "mergenet", "sync"]
    dying = subprocess.Popen(command, env=environment())
    wait_until(lambda: (runs / ".mlflow.db.new").exists())
    dying.kill()
    dying.wait()
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    shown = [f"runs/small/0123abcd-s0  finished, {points} new points\n" for points in (0, len(recorded(record)))]
    assert sorted(outputs) == [(line, "") for line in sorted(shown)]
    assert sent(record, default_uri(runs)) == recorded(record)
    assert sorted(path.name for path in runs.iterdir()) == [".mlflow.db.lock", "mlflow-artifacts", "mlflow.db", "small"]


def test_an_experiment_that_another_run_makes_at_the_same_moment_is_shared(
    record: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = MlflowClient.create_experiment

    def after_another(client: MlflowClient, *arguments: Any) -> str:
        create(client, *arguments)
        return create(client, *arguments)

    monkeypatch.setattr(MlflowClient, "create_experiment", after_another)
    assert sync(record, default_uri(runs)).points == len(recorded(record))


def test_a_record_is_locked_while_it_is_sent(record: Path, runs: Path) -> None:
    """Held up in reading how the run ended, which is a pipe, a sync lets no other one in."""
    pipe = record / "result.json"
    pipe.unlink()
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as threads:
        outcome = threads.submit(sync, record, default_uri(runs))
        writer = os.fdopen(open_when_read(pipe), "w")
        locked = is_locked(record)
        pipe.unlink()
        pipe.write_text('{"status": "finished"}')
        with writer:
            writer.write('{"status": "finished"}')
        assert outcome.result().status == "finished" and locked and not is_locked(record)


def open_when_read(pipe: Path) -> int:
    """A pipe's writing end, as soon as someone waits at the other."""
    end = time.monotonic() + 30.0
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            assert time.monotonic() < end, "nobody reads it"
            time.sleep(0.05)


def is_locked(folder: Path) -> bool:
    with (folder / ".mlflow.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_users_own_mlflow_is_untouched(record: Path, runs: Path) -> None:
    own = f"sqlite:///{runs / 'mlflow.db'}"
    mlflow.set_tracking_uri(own)
    with mlflow.start_run(experiment_id="0") as mine:
        before = dict(os.environ)
        sync(record, own)
        assert dict(os.environ) == before
        active = mlflow.active_run()
        assert active is not None and active.info.run_id == mine.info.run_id
        assert mlflow.get_tracking_uri() == own
    assert mlflow.get_run(mine.info.run_id).data.metrics == {}
    mlflow.set_tracking_uri(None)


# --- refused -----------------------------------------------------------------------------------------------------


def test_without_mlflow_one_line_says_so(record: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune.store.find_spec", lambda name: None)
    line = "MLflow is not installed: pip install 'mlflow>=3.17'"
    assert refusal(lambda: sync(record, default_uri(runs))) == line
    assert refusal(lambda: mirrored(record, default_uri(runs), print).__enter__()) == line


@pytest.mark.parametrize("uri", ["", "runs", "file:///runs", "htp://here:5000", "sqlite://", "sqlite:///:memory:"])
def test_a_uri_that_mlflow_has_no_store_for_is_refused_before_the_run(record: Path, uri: str) -> None:
    line = f"MLflow at '{uri}': write http://HOST:PORT or sqlite:///PATH"
    assert refusal(lambda: sync(record, uri)) == line
    assert refusal(lambda: mirrored(record, uri, print).__enter__()) == line


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["sync", "none"], "none/experiment.json: no such file; a run's folder holds one"),
        (["sync", "runs/small/0123abcd-s0", "runs"], "runs/experiment.json: no such file; a run's folder holds one"),
        (["sync", "--runs", "none"], "none holds no records; name a run's folder, or --runs DIR"),
        (
            ["ui", "--runs", "none"],
            "none holds no mlflow.db yet; `mergenet sync --runs none` makes it from the records",
        ),
    ],
)
def test_a_bad_command_is_one_line_and_sends_nothing(record: Path, runs: Path, arguments: list[str], line: str) -> None:
    outcome = CliRunner().invoke(commands, arguments)
    assert isinstance(outcome.exception, InputError) and str(outcome.exception) == line and outcome.output == ""
    assert connect(default_uri(runs)).get_experiment_by_name("small") is None


def test_a_busy_port_is_refused(runs: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        outcome = CliRunner().invoke(ui, ["--runs", str(runs), "--port", str(port)])
    assert str(outcome.exception) == f"--port {port}: Address already in use; choose another one"


def test_sync_sends_all_there_are_to_where_it_is_told(record: Path, runs: Path, original: Path) -> None:
    shutil.copytree(original, runs / "small" / "other-s0")
    begin_anew(runs / "small" / "other-s0")
    to = default_uri(runs.parent / "elsewhere")
    (runs.parent / "elsewhere").mkdir()
    shutil.copy(runs / "mlflow.db", runs.parent / "elsewhere")
    outcome = CliRunner().invoke(commands, ["sync"], env={"MLFLOW_TRACKING_URI": to})
    assert outcome.output.splitlines() == [
        f"runs/small/0123abcd-s0  finished, {len(recorded(record))} new points",
        "runs/small/other-s0  killed, 12 new points",
    ]
    assert sent(record, to) == recorded(record) and len(sent(runs / "small" / "other-s0", to)) == 12
    assert connect(default_uri(runs)).get_experiment_by_name("small") is None


def test_sync_says_in_one_line_that_mlflow_is_away(record: Path, runs: Path) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    outcome = CliRunner().invoke(commands, ["sync", "--to", uri])
    line = f"Error: MLflow at {uri} is away (Connection refused); runs/small/0123abcd-s0 is not sent\n"
    assert (outcome.exit_code, outcome.output) == (1, line)
