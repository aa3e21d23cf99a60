"""A trial on a worker: a run like any other, whose figures go to Tune as they come."""

import gc
import json
import math
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from typing_extensions import override

from cluster.side_by_side import Ticks
from mergenet.config import InputError
from mergenet.training.copies import result_of
from mergenet.training.files import wait_until_free
from mergenet.training.place import TakenOver
from mergenet.training.remote import Away
from mergenet.training.run import Stopped, execute
from mergenet.training.spec import RunSpec

EPOCH, VALUE, STATE, REASON = "epoch", "value", "state", "reason"
"""What is reported: the trial's own epoch and its figure; with the last report how it ended, and why."""
AWAY = "away"
"""A state of no trial: the store that its record is kept in is away, or is another's to write now."""


@dataclass(frozen=True)
class Task:
    """What a worker is given.

    Attributes:
        workers: processes that share each batch.
        measured: `learner.metric` that Tune is told.
    """

    spec: RunSpec
    workers: int
    measured: str

    def as_config(self) -> dict[str, str]:
        """As Tune hands it to a worker: one text, for Tune repeats every entry with every report."""
        plain = {"spec": self.spec.as_plain(), "workers": self.workers, "measured": self.measured}
        return {"task": json.dumps(plain)}

    @classmethod
    def from_config(cls, config: Mapping[str, str]) -> "Task":
        """The task that `as_config` gave."""
        plain = json.loads(config["task"])
        return cls(RunSpec.from_plain(plain["spec"]), plain["workers"], plain["measured"])


def work(config: Mapping[str, str], news: Any) -> None:
    """What Tune runs: one process trains here, several on a trainer of Ray's that is started from here.

    A run that finished before is answered from its record. A failure is reported: raised, it would be tried again.
    """
    from ray import tune

    task = Task.from_config(config)
    # one that Tune has given up, and that lives, must not write how this one ended
    task = replace(task, spec=replace(task.spec, owner=secrets.token_hex(8)))
    clock = task.spec.experiment.clock
    epochs = task.spec.experiment.learners[clock].training.epochs
    try:
        state, reason = _outcome(task, ToTune(task, epochs, news))
    except StoppedByTune:
        sys.exit(0)  # Tune's word for a trial that has heard it; one that returns would wait to be asked again
    finally:
        gc.collect()  # this process takes other trials, and a run leaves networks behind that hold each other
    tune.report({EPOCH: epochs, STATE: state, REASON: reason})


class StoppedByTune(Stopped):
    """The scheduler wants no more of this trial."""


class ToTune(Ticks):
    """A reporter that gives Tune the validation figure of every epoch but the last, which comes with the end."""

    def __init__(self, task: Task, epochs: int, news: Any) -> None:
        super().__init__(news, str(task.spec.folder))
        self._learner, _, self._metric = task.measured.partition(".")
        self._alone = task.workers == 1
        self._epochs = epochs

    @override
    def validated(self, epoch: int, measured: Mapping[str, Mapping[str, float]]) -> None:
        from ray import tune

        if self._learner not in measured:
            if self._alone:
                raise Stopped(f"{self._learner} diverged by epoch {epoch}")
            return
        if epoch < self._epochs:
            try:
                tune.report({EPOCH: epoch, VALUE: measured[self._learner][self._metric]})
            except SystemExit:
                raise StoppedByTune(f"by the scheduler of the sweep, at epoch {epoch}") from None


def _outcome(task: Task, reporter: ToTune) -> tuple[str, str | None]:
    """How the run ended, and why it did not finish."""
    if task.spec.remote is None:  # another sweep may be training the very same, and answer for it
        wait_until_free(task.spec.folder, seconds=math.inf)
    result = result_of(task.spec.folder, task.spec.remote)
    if result is not None and result["status"] == "finished":
        return "finished", None
    try:
        _train(task, reporter)
    except StoppedByTune:
        raise
    except Stopped as stopped:
        return "diverged", str(stopped)
    except (Away, TakenOver) as problem:
        return AWAY, str(problem)
    except InputError as error:
        return "failed", str(error)
    except Exception as error:
        return "failed", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return "finished", None


def _train(task: Task, reporter: ToTune) -> None:
    if task.workers == 1:
        execute(task.spec, reporter)
        return
    from cluster.launch import train_together

    train_together(task.spec, (task.workers,), reporter)
