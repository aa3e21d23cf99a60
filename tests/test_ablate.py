"""`mergenet ablate` and `mergenet report` on real Ray: only what is missing trains, whatever died before."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.session import session
from mergenet.config import as_yaml
from mergenet.training.files import has_begun, read_json, read_result
from tests.tables import TINY, missing, plan

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", autouse=True)
def ray_session(only_ray: None) -> Iterator[None]:
    """One Ray for all tests of this file."""
    with session():
        yield


@pytest.fixture
def table(tmp_path: Path) -> str:
    """The tiny table as a file."""
    (tmp_path / "tiny.yaml").write_text(as_yaml(TINY))
    return "./tiny.yaml"


def finished(folder: Path) -> dict[str, int]:
    """Run -> when its result was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/result.json")}


def test_a_table_is_trained_once_and_reported(table: str, call: Call, tmp_path: Path) -> None:
    code, out, err = call("ablate", table, "--scale", "tiny")
    assert code == 0, err
    assert "4 of 4" in err and "one way |" in out
    assert missing(plan(), tmp_path).missing() == []
    before = finished(tmp_path)
    assert len(before) == 4  # of each seed: the two arms of one source in one run, and the frozen one

    code, out, err = call("ablate", table, "--scale", "tiny")
    assert code == 0 and finished(tmp_path) == before and "runs to train" not in err and "one way |" in out

    frozen = read_result(next(path.parent for path in tmp_path.glob("runs/*/*/manifest.json") if _is_frozen(path)))
    assert frozen is not None and next(iter(frozen["transfers"].values()))["updates"] > 0

    code, out, err = call("report", table, "--scale", "tiny", "--seeds", "2")
    assert code == 0, err
    (again,) = {
        line for line in _lines(tmp_path / "results" / "tiny-tiny" / "table.md") if "--arm frozen --seed 1" in line
    }
    code, out, err = call(*shlex.split(again)[1:], "--dry-run")  # the command that repeats a cell, as it is printed
    assert code == 0 and "2 runs would train" in " ".join(out.split()), err
    written = {path.name for path in (tmp_path / "results" / "tiny-tiny").iterdir()}
    assert {"table.md", "table.tex", "table.csv", "figures.parquet", "index.html", "intervals.png"} <= written
    assert {"runs.json", "metrics.parquet"} <= written

    (tmp_path / "runs").rename(tmp_path / "gone")  # what was kept counts as finished
    code, out, err = call("ablate", table, "--scale", "tiny")
    assert code == 0 and not (tmp_path / "runs").exists() and "one way |" in out

    more = {**TINY, "arms": {**TINY["arms"], "rare": {"label": "rare", "change": {"transfers.main.cycle": 2}}}}
    (tmp_path / "tiny.yaml").write_text(as_yaml(more))
    code, out, err = call("ablate", table, "--scale", "tiny", "--seed", "1", "--dry-run")
    assert code == 0 and "6 of 7 cells are there; 1 run would train" in " ".join(out.split())
    assert not (tmp_path / "runs").exists()


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text().splitlines()]


def _is_frozen(manifest: Path) -> bool:
    return bool(read_json(manifest)["origins"])


def test_a_killed_table_goes_on_where_it_was(table: str, call: Call, tmp_path: Path) -> None:
    slower = {**TINY["scales"]["tiny"]["change"], "training.epochs": 8, "checkpoint.every": 5}
    values = {**TINY, "scales": {"tiny": {"change": slower}}}
    (tmp_path / "tiny.yaml").write_text(as_yaml(values))
    arguments = ["ablate", table, "--scale", "tiny", "--seed", "0", "--arm", "vanilla", "--arm", "one-way"]
    driver = subprocess.Popen(
        [sys.executable, "-m", "mergenet", *arguments],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])},
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("runs/*/*/checkpoints/*/state.pt")):
            assert time.monotonic() < deadline and driver.poll() is None
            time.sleep(0.2)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    (run,) = [path.parent for path in tmp_path.glob("runs/*/*/manifest.json")]
    assert has_begun(run) and read_result(run) is None
    _wait_until_free(run)

    code, _, err = call(*arguments)
    assert code == 2 and "stopped before the end: go on with --resume" in err
    code, out, err = call(*arguments, "--resume")
    assert code == 0, err
    assert out.rstrip().endswith(f"mergenet report {table} --scale tiny")  # which has no --seed
    assert [entry["tick"] >= 5 for entry in read_json(run / "manifest.json")["resumed"]] == [True]
    result = read_result(run)
    assert result is not None and result["status"] == "finished"


def _wait_until_free(run: Path) -> None:
    """Ray's workers end a moment after their driver."""
    from mergenet.training.files import is_being_written

    deadline = time.monotonic() + 60
    while is_being_written(run):
        assert time.monotonic() < deadline
        time.sleep(0.2)


TERMINATED = """
import os, signal, time
from cluster.session import session

def stop(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, stop)
try:
    with session():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
except KeyboardInterrupt:
    print("stopped as told")
"""


def test_a_request_to_terminate_is_ours_to_answer_beside_ray() -> None:
    ended = subprocess.run([sys.executable, "-c", TERMINATED], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, "stopped as told")


def test_what_fails_beside_the_runs_is_a_line_that_says_how_to_go_on(
    table: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> int:
        raise RuntimeError("no node of Ray's starts\nand here is why")

    monkeypatch.setattr("tune.ablate.train_missing", fail)
    code, _, err = call("ablate", table, "--scale", "tiny")
    assert code == 1
    last = err.splitlines()[-1]
    assert last.startswith(
        "mergenet: the table failed: RuntimeError: no node of Ray's starts and here is why; what has"
    )
    assert last.endswith("--resume") and "Traceback" not in err


def test_a_run_that_fails_stops_no_other_and_is_told(table: str, call: Call, tmp_path: Path) -> None:
    (job, *_) = missing(plan(), tmp_path).jobs
    broken = tmp_path / "runs" / "tiny-tiny" / job.spec.folder.name
    broken.parent.mkdir(parents=True)
    broken.write_text("a file where the record should lie")
    code, out, err = call("ablate", table, "--scale", "tiny", "--seed", "0", "--seed", "1")
    assert code == 1
    assert "FAILED" in err and "2 of 4 runs failed; the others are kept, try again with --resume" in err
    assert "begins with weights of a run that failed" in err
    assert "one way |" in out and len(finished(tmp_path)) == 2
    broken.unlink()
    code, out, err = call("ablate", table, "--scale", "tiny", "--resume")
    assert code == 0 and len(finished(tmp_path)) == 4


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["ablate", "tabel8"], "no table 'tabel8'; nearest is 'table8'"),
        (["ablate", "table8", "--scale", "digit"], "--scale digit: table8 has no such scale; nearest is 'digits'"),
        (["ablate", "table8", "--arm", "mpl"], "--arm mpl: table8 has no such arm; nearest is 'mlp'"),
        (["ablate", "table8", "--seeds", "2", "--seed", "1"], "--seed names seeds and --seeds counts them"),
        (["ablate", "table8", "--scale", "paper"], "data cifar100: needs its folder"),
        (["report", "table8", "--scale", "smoke", "--data", "digts=x"], "--data digts: "),
        (["ablate", "table8", "--scale", "smoke", "--concurrent", "999"], "--concurrent 999: this machine has room"),
        (["ablate", "table8", "--scale", "smoke", "--threads", "999"], "--threads 999: this machine has"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_is_written(
    arguments: list[str], line: str, call: Call, tmp_path: Path
) -> None:
    code, out, err = call(*arguments)
    assert code == 2 and out == ""
    (said,) = err.strip().splitlines()
    assert said.startswith(f"mergenet: {line}") or line in said
    assert list(tmp_path.iterdir()) == []
