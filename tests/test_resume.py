"""A run stopped anywhere and taken up again equals one that was never stopped, bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mergenet.experiment import Experiment
from mergenet.training.files import read_json
from mergenet.training.reporter import Silent
from mergenet.training.run import execute
from mergenet.training.spec import RunSpec
from tests.compare import assert_runs_equal, final_state

MakeExperiment = Callable[..., Experiment]


class StopAt(Silent):
    """Stops the run, as Ctrl-C does, after a tick."""

    def __init__(self, tick: int) -> None:
        self._tick = tick

    def tick(self, done: int) -> None:
        if done == self._tick:
            raise KeyboardInterrupt


def run(experiment: Experiment, folder: Path, stops: tuple[int, ...] = ()) -> Path:
    """Trains in `folder`, stopped after each of `stops` and taken up again."""
    spec = RunSpec(experiment, 0, {}, folder)
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            execute(spec, StopAt(stop))
    execute(spec, Silent())
    return folder


CASES: dict[str, dict[str, Any]] = {
    "step": {},
    "cycle": {"transfers": {"main": {"span": "cycle", "cycle": 4, "encoding": "whole"}}},
    "paper": {
        "transfers": {
            "main": {"span": "cycle", "cycle": 3, "adapter": {"lpka": {"form": "paper", "dropout": 0.2}}},
        },
        "evaluation": {"weights": "best"},
    },
    "test always": {"evaluation": {"test": "always"}},
    "slow source": {"learners": {"source": {"training": {"every": 2, "batch_size": 100}}}},
}


@pytest.mark.parametrize("case", CASES)
def test_stopped_at_any_tick_it_ends_as_if_it_never_was(small: MakeExperiment, tmp_path: Path, case: str) -> None:
    """Checkpoints every tick, stops within cycles and epochs (five ticks an epoch, ten in all)."""
    common = {"training": {"epochs": 2}, "checkpoint": {"every": 1}}
    faster = {"transfers": {"main": {"optimizer": {"adamw": {"lr": 1e-2}}}}}
    change = {**common, **CASES[case]}
    change["transfers"] = {"main": {**faster["transfers"]["main"], **change.get("transfers", {}).get("main", {})}}
    experiment = small(change)
    whole = run(experiment, tmp_path / "whole")
    stopped = run(experiment, tmp_path / "stopped", stops=(1, 4, 5, 7, 9, 10))
    assert_runs_equal(whole, stopped)
    resumed = read_json(stopped / "manifest.json")["resumed"]
    assert [entry["tick"] for entry in resumed] == [1, 4, 5, 7, 9, 10]
    assert final_state(whole)["transfers"]["main"]["transfer"]["updates"] >= 2


def test_it_goes_on_from_the_last_checkpoint_and_not_from_where_it_stopped(
    small: MakeExperiment, tmp_path: Path
) -> None:
    experiment = small({"training": {"epochs": 2}, "checkpoint": {"every": 4}})
    whole = run(experiment, tmp_path / "whole")
    stopped = run(experiment, tmp_path / "stopped", stops=(7, 9))
    assert_runs_equal(whole, stopped)


def test_a_broken_checkpoint_is_named_and_the_one_before_used(small: MakeExperiment, tmp_path: Path) -> None:
    experiment = small({"training": {"epochs": 2}, "checkpoint": {"every": 2}})
    whole = run(experiment, tmp_path / "whole")
    spec = RunSpec(experiment, 0, {}, tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        execute(spec, StopAt(7))
    broken = spec.folder / "checkpoints" / "tick-00000006" / "state.pt"
    broken.write_bytes(broken.read_bytes()[:-100])

    class Listening(Silent):
        said: list[str] = []

        def say(self, text: str) -> None:
            self.said.append(text)

    execute(spec, Listening())
    assert any(str(broken.parent) in line and "checksum" in line for line in Listening.said)
    assert_runs_equal(whole, spec.folder)
