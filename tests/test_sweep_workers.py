"""A sweep whose trials have several workers, each a trainer of Ray's inside of a trial of Tune's."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mergenet.training.files import read_json, read_result
from tests.sweeps import written
from tune.search.ledger import find_logs, read_log

Call = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("only_ray")


@pytest.fixture
def another_ray() -> Iterator[None]:
    """A cluster of somebody else's on this machine."""
    words = "import ray; ray.init('local', num_cpus=1, include_dashboard=False); print('up', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == b"up\n"
        yield
        other.communicate(b"\n", timeout=60)


@pytest.mark.usefixtures("another_ray")
def test_asha_over_trials_of_two_workers_hangs_no_more(call: Call, tmp_path: Path) -> None:
    """A trial starts in the place of one that was stopped, though its workers are a trainer of Ray's inside of it.

    Ray gives the place free once it has seen that the trial is no more, which beside another Ray it did not.
    """
    rates = {"values": {"of": [0.05, 1.0, 0.9]}}
    change = {
        "space": {
            "transfers.main.encoding": {"values": {"of": ["svd"]}},
            "transfers.main.encoding.svd.rank": {"values": {"of": [4]}},
            "transfers.main.cycle": {"values": {"of": [2]}},
            "transfers.main.optimizer.adamw.lr": {"values": {"of": [1e-4]}},
            "learners.target.training.optimizer.sgd.lr": rates,
        },
        "change": {"training.epochs": 3},
        "sampler": "exhaustive",
        "scheduler": {"asha": {"grace": 1, "factor": 2}},
        "budget": {"trials": 3},
    }
    path = written(tmp_path, {**change, "seed": 2})
    code, _, err = call("sweep", path, "--workers-per-trial", "2", "--silence", "120", "--mlflow", "off")
    assert code == 0, err
    log = read_log(*find_logs(tmp_path / "runs"))
    assert log.setting.workers == 2
    first, *others = log.trials()
    assert first.point["learners.target.training.optimizer.sgd.lr"] == 0.05, "the seed says so"
    assert first.state == "finished" and [trial.state for trial in others] == ["stopped", "stopped"]
    for trial in log.trials():
        assert read_json(log.record(trial) / "manifest.json")["world_size"] == 2
        result = read_result(log.record(trial))
        assert result is not None and result["status"] == trial.state
