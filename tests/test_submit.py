"""Commands as jobs of a cluster: what is refused before it is sent, and what really runs there."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import jobs
from mergenet.cli import cluster_jobs
from mergenet.config import InputError, as_yaml
from mergenet.training.files import read_json, read_result
from tests.conftest import SMALL, Outcome
from tests.nodes import nodes_on_loopback
from tests.refused import refusal

Call = Callable[..., Outcome]


# --- refused where it is typed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "write what is to run after --"),
        (["report", "table8"], "one of train, sweep, ablate"),
        (["train", "digits-cross-structure", "--worker", "2"], "No such option '--worker'"),
        (["train", "digits-cross-structure", "--workers", "none"], "'none': write a number from 1 on"),
        (["train", "digits-cross-structure"], "say where the records lie on the cluster: train ... --runs /FOLDER"),
        (["ablate", "table8", "--runs", "runs"], "--runs runs: a job's own folder is gone when it ends"),
    ],
)
def test_what_would_be_refused_there_is_refused_here(call: Call, words: list[str], said: str) -> None:
    code, _, err = call("cluster", "submit", "--address", "http://127.0.0.1:1", "--", *words)
    assert code == 2 and said in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--env", "MERGENET_RUNS"], "--env MERGENET_RUNS: write it as NAME=VALUE"),
        (["--send", "nowhere"], "--send nowhere: there is no such file"),
        (["--address", "ray://head:10001"], "--address ray://head:10001: write the dashboard's"),
        (["--address", "http://127.0.0.1:1"], "no Ray dashboard answers at http://127.0.0.1:1"),
        (["--address", "127.0.0.1:1"], "no Ray dashboard answers at http://127.0.0.1:1"),
    ],
)
def test_options_that_cannot_be_are_refused_in_a_line(call: Call, options: list[str], said: str) -> None:
    words = ["train", "digits-cross-structure", "--runs", "/mnt/runs"]
    code, _, err = call("cluster", "submit", *options, "--", *words)
    assert code == 2 and said in err and len(err.splitlines()) == 1


def test_records_are_known_to_lie_where_what_is_gone_on_with_does(call: Call) -> None:
    for words in (["train", "--resume", "/mnt/runs/a/b-s0"], ["sweep", "--resume", "s3://lab/runs/a/sweep-b"]):
        code, _, err = call("cluster", "submit", "--address", "http://127.0.0.1:1", "--", *words)
        assert code == 2 and "no Ray dashboard answers" in err


def test_a_file_that_cannot_be_sent_is_no_fault_of_the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "unpack_wheel", lambda folder: None)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "gone").symlink_to("nowhere")
    said = refusal(lambda: jobs._packed(tmp_path / "job", [Path("lists")]))
    assert said.startswith("--send lists: Error: ") and "No such file or directory" in said


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (
            "the cluster refuses: closed",
            "job j cannot be followed any more (the cluster refuses: closed), but may go on",
        ),
        (None, "job j says no more, but goes on"),
    ],
)
def test_a_job_that_cannot_be_followed_any_more_goes_on(
    monkeypatch: pytest.MonkeyPatch, lost: str | None, said: str
) -> None:
    class Cut:
        def follow(self, name: str) -> Iterator[str]:
            yield "its first words"
            if lost is not None:
                raise InputError(lost)

        def job(self, name: str) -> jobs.Job:
            return jobs.Job(name, "RUNNING", "train", None, None, None, "")

    monkeypatch.setattr(cluster_jobs, "END_S", 0.0)
    with pytest.raises(cluster_jobs.LeftRunning) as left:
        cluster_jobs._follow(Cut(), "j", "http://head:8265")  # type: ignore[arg-type]
    assert left.value.exit_code == 1
    assert left.value.message == (
        f"{said}; see it with `mergenet cluster logs j --follow --address http://head:8265`, "
        "end it with `mergenet cluster stop j --address http://head:8265`"
    )


def test_a_file_travels_under_the_name_that_the_command_says(call: Call, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(as_yaml(SMALL))
    words = ["train", str(tmp_path / "small.yaml"), "--runs", "/mnt/runs"]
    code, _, err = call("cluster", "submit", "--address", "http://127.0.0.1:1", "--", *words)
    assert code == 2 and "small.yaml: it is sent under this name; go to a folder above it" in err


@pytest.mark.parametrize("command", ["status", "logs", "stop"])
def test_without_a_cluster_there_are_no_jobs(call: Call, command: str) -> None:
    job = [] if command == "status" else ["some-job"]
    code, _, err = call("cluster", command, *job, "--address", "http://127.0.0.1:1")
    assert code == 2 and "no Ray dashboard answers" in err and len(err.splitlines()) == 1


# --- on a cluster ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dashboard(only_ray: None) -> Iterator[str]:
    """Of a cluster of one node with two processors, which this process has not joined.

    One node, because those of one machine share the folder in which Ray lays a job out, and take it from each other.
    """
    with nodes_on_loopback(1, processors=2, dashboard=True) as cluster:
        yield f"http://{cluster.head_node.webui_url}"


@pytest.fixture
def submit(call: Call, dashboard: str, tmp_path: Path) -> Callable[..., Outcome]:
    """Sends a command to it, with the small experiment beside it as `small.yaml`."""
    (tmp_path / "small.yaml").write_text(as_yaml(SMALL))

    def sent(*words: str, options: tuple[str, ...] = ()) -> Outcome:
        there = ["--address", dashboard, "--python", sys.executable, *options]
        return call("cluster", "submit", *there, "--", *words, "--mlflow", "off")

    return sent


def name_in(err: str) -> str:
    """Of the job that was begun."""
    (line,) = (line for line in err.splitlines() if line.startswith("job "))
    return line.removeprefix("job ")


def wait_for(claim: Callable[[], bool], seconds: float = 120.0) -> None:
    """Until it is so."""
    end = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.2)


def test_a_job_runs_on_the_cluster_and_ends_as_its_command_does(
    submit: Callable[..., Outcome], call: Call, dashboard: str, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    code, out, err = submit("train", "small.yaml", "--workers", "2", "--runs", str(runs))
    assert code == 0, err + out
    assert "one seed: too few to tell" in out, "what it prints is printed here"
    (record,) = runs.glob("small/*-s0")
    result = read_result(record)
    assert result is not None and result["status"] == "finished"
    assert read_json(record / "manifest.json")["world_size"] == 2

    job = name_in(err)
    code, out, _ = call("cluster", "logs", job, "--address", dashboard)
    assert code == 0 and str(record) in out
    code, out, _ = call("cluster", "status", "--address", dashboard)
    assert code == 0 and job in out and "SUCCEEDED" in out and "train small.yaml" in out


def test_what_is_refused_there_comes_back_with_its_exit_code(submit: Callable[..., Outcome], tmp_path: Path) -> None:
    code, out, err = submit("train", "small.yaml", "--workers", "4", "--runs", str(tmp_path / "runs"))
    assert (code, "--workers 4: this machine has 2 processors" in out) == (2, True), err
    assert "FAILED" in err
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_leaves_the_job_running_and_stop_ends_it(
    submit: Callable[..., Outcome], call: Call, dashboard: str, tmp_path: Path
) -> None:
    runs, change = tmp_path / "runs", ["training.epochs=2000", "checkpoint.every=5"]
    code, _, err = submit("train", "small.yaml", *change, "--runs", str(runs), options=("--no-follow",))
    assert code == 0
    job = name_in(err)
    words = ["cluster", "logs", job, "--follow", "--address", dashboard]
    follower = subprocess.Popen(
        [sys.executable, "-m", "mergenet", *words],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: bool(list(runs.glob("small/*/checkpoints/tick-*"))))
        follower.send_signal(signal.SIGTERM)
        _, said = follower.communicate(timeout=60)
    finally:
        follower.kill()
    assert follower.returncode == 130
    assert said.startswith(f"mergenet: job {job} goes on; see it with `mergenet cluster logs {job} --follow")

    code, out, _ = call("cluster", "status", job, "--address", dashboard)
    assert code == 0 and "RUNNING" in out
    code, out, _ = call("cluster", "stop", job, "--address", dashboard)
    assert (code, out.strip()) == (0, f"job {job}: STOPPED")
    (record,) = runs.glob("small/*-s0")
    wait_for(lambda: read_result(record) is not None)
    result = read_result(record)
    assert result is not None and result["status"] == "interrupted", result
    code, _, err = call("cluster", "stop", job, "--address", dashboard)
    assert code == 2 and "is over: STOPPED" in err


def test_a_job_that_is_not_there_is_named(call: Call, dashboard: str) -> None:
    code, _, err = call("cluster", "logs", "no-such-job", "--address", dashboard)
    assert code == 2 and "has no job no-such-job" in err and len(err.splitlines()) == 1
