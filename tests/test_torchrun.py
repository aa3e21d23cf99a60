"""One run where Ray, Optuna and MLflow are not installed: alone, and under torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mergenet.experiment import load_experiment
from mergenet.training.run import execute
from mergenet.training.spec import RunSpec
from tests.compare import assert_runs_equal
from tests.test_resume import StopAt

SMALL_RUN = [
    "digits-cross-structure",
    "training.epochs=1",
    "training.batch_size=256",
    "transfers.main.cycle=2",
    "transfers.main.adapter.lpka.width=16",
]
ABSENT = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {"ray", "optuna", "mlflow"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


@pytest.fixture
def without_ray(tmp_path: Path) -> dict[str, str]:
    """An environment in which Ray, Optuna and MLflow cannot be imported."""
    (tmp_path / "sitecustomize.py").write_text(ABSENT)
    return {**os.environ, "PYTHONPATH": str(tmp_path), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}


def run(environment: dict[str, str], folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], env=environment, cwd=folder, capture_output=True, text=True, timeout=180
    )


def torchrun(*words: str) -> list[str]:
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mergenet", "train", *words]


def test_the_environment_really_lacks_ray(without_ray: dict[str, str], tmp_path: Path) -> None:
    assert "No module named 'ray'" in run(without_ray, tmp_path, "-c", "import ray").stderr


def test_torchrun_trains_on_two_ranks_and_the_same_again_equals_it(without_ray: dict[str, str], tmp_path: Path) -> None:
    folders = []
    for runs in ("one", "other"):
        done = run(without_ray, tmp_path, *torchrun(*SMALL_RUN, "--runs", runs))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Record: ") == 1, "rank 0 alone speaks"
        folders += (tmp_path / runs / "digits-cross-structure").iterdir()
    manifest = json.loads((folders[0] / "manifest.json").read_text())
    assert manifest["world_size"] == 2
    assert_runs_equal(*folders)


def test_ranks_of_torchrun_take_up_what_one_process_began(without_ray: dict[str, str], tmp_path: Path) -> None:
    changes = {"training.batch_size": 256, "checkpoint.every": 2, "training.epochs": 1}
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        execute(RunSpec(load_experiment("digits-cross-structure", changes), 0, {}, folder), StopAt(3))
    done = run(without_ray, tmp_path, *torchrun("--resume", "run"))
    assert done.returncode == 0, done.stderr
    assert "going on from tick 2" in done.stderr
    assert done.stdout.count("Trained by 1 then 2 workers") == 1
    assert json.loads((folder / "result.json").read_text())["world_sizes"] == [1, 2]


def test_workers_are_refused_beside_torchrun(without_ray: dict[str, str], tmp_path: Path) -> None:
    done = run(without_ray, tmp_path, *torchrun(*SMALL_RUN, "--workers", "2"))
    assert done.returncode != 0
    assert "mergenet: --workers 2: torchrun has started 2 processes; leave it out" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_workers_are_refused_without_ray_with_the_reason(without_ray: dict[str, str], tmp_path: Path) -> None:
    done = run(without_ray, tmp_path, "-m", "mergenet", "train", *SMALL_RUN, "--workers", "2")
    assert done.returncode == 2
    assert done.stderr.startswith("mergenet: --workers above 1 needs Ray, which is not installed")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_one_process_trains_without_ray(without_ray: dict[str, str], tmp_path: Path) -> None:
    done = run(without_ray, tmp_path, "-m", "mergenet", "train", *SMALL_RUN)
    assert done.returncode == 0, done.stderr
    assert "Record: runs/digits-cross-structure/" in done.stdout
