"""A sweep in MLflow, a parent run with a child for each trial; and in a journal that optuna-dashboard opens.

Both follow from the ledger and the records. What is sent to MLflow is found by tags: sent twice, it is there once.
"""

import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from mergenet.config import in_line, parse
from mergenet.experiment import Experiment
from mergenet.training.copies import fetch
from mergenet.training.files import has_begun, is_being_written, read_result, replacing
from tune.files import milliseconds, params
from tune.records import LONGEST, sync
from tune.search.ledger import DEFINITION, Log, Trial, read_log
from tune.search.memory import directions_of, frozen
from tune.store import (
    Away,
    alone,
    artifacts_beside,
    connect,
    find_experiment,
    find_run,
    reaching,
    reason,
    without_password,
)

if TYPE_CHECKING:
    import optuna
    from mlflow import MlflowClient
    from mlflow.entities import Run

JOURNAL = "optuna.journal"
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "diverged": "FAILED", "failed": "FAILED"}


# --- MLflow --------------------------------------------------------------------------------------------------------


def sync_sweep(folder: Path, uri: str) -> int:
    """Brings MLflow up to the sweep in `folder`, whose records it has already; how many trials that are.

    Raises:
        InputError: no sweep lies there.
        Away: MLflow cannot be reached now.
    """
    log = read_log(folder)
    ended = [trial for trial in log.trials() if trial.state != "running"]
    with reaching(), alone(folder / ".mlflow.lock"):
        sent = _Sent(log, uri)
        for trial in ended:
            sent.add(trial)
    return len(ended)


class _Sent:
    """A sweep's runs in MLflow, for one process at a time."""

    def __init__(self, log: Log, uri: str) -> None:
        self._log = log
        self._client: MlflowClient = connect(uri)
        self._experiment = find_experiment(self._client, log.sweep.name, artifacts_beside(uri))
        self._parent = self._find_parent()

    def _find_parent(self) -> str:
        from mlflow.entities import Param

        log, name = self._log, self._log.folder.name
        begun = milliseconds(log.folder / DEFINITION)
        run = find_run(self._client, self._experiment, "mergenet.sweep", {"mergenet.sweep": name}, begun, name)
        wanted = params(parse(Experiment, log.values).dump()) | _described(log)
        new = [Param(key, value[:LONGEST]) for key, value in wanted.items() if key not in run.data.params]
        self._client.log_batch(run.info.run_id, params=new, synchronous=True)
        self._client.set_terminated(run.info.run_id, "FINISHED")
        return str(run.info.run_id)

    def add(self, trial: Trial) -> None:
        """A trial that has ended, unless it is there."""
        from mlflow.entities import Metric, Param
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

        log = self._log
        tags = {
            **{"mergenet.trial": f"{log.folder.name} {trial.number}", MLFLOW_PARENT_RUN_ID: self._parent},
            **{"mergenet.record": trial.run, "mergenet.state": trial.state, "mergenet.reason": trial.reason or ""},
        }
        run = self._find(trial, tags)
        if run.info.status == STATUS[trial.state]:
            return
        begun = run.info.start_time
        measured = log.sweep.measured
        points = [
            Metric(f"validation/{measured}", value, begun + int(epoch), int(epoch)) for epoch, value in trial.curve
        ]
        points += [
            Metric(key, value, begun, 0) for key, value in zip(log.sweep.objectives, trial.values or (), strict=False)
        ]
        point = [Param(path, in_line(value)[:LONGEST]) for path, value in trial.point.items()]
        self._client.log_batch(run.info.run_id, metrics=points, params=point, synchronous=True)
        self._client.set_terminated(run.info.run_id, STATUS[trial.state], begun + round(1000 * (trial.seconds or 0)))

    def _find(self, trial: Trial, tags: Mapping[str, str]) -> "Run":
        begun = round(1000 * (trial.began or 0)) or milliseconds(self._log.folder / DEFINITION)
        name = f"trial {trial.number}"
        return find_run(self._client, self._experiment, "mergenet.trial", tags, begun, name)


def _described(log: Log) -> dict[str, str]:
    """The search itself, beside the experiment's own params."""
    plain = log.sweep.dump()
    space = {f"space.{path}": in_line(dimension) for path, dimension in plain["space"].items()}
    return space | {f"sweep.{key}": in_line(plain[key]) for key in ("objectives", "sampler", "scheduler", "seed")}


# --- Optuna --------------------------------------------------------------------------------------------------------


class Journal:
    """A study on disk that holds the sweep's ended trials, made anew from its log; what comes later is added."""

    def __init__(self, log: Log) -> None:
        self._log = log
        with replacing(log.folder / JOURNAL) as aside:
            self._study = _study_in(aside, log)
            for trial in log.trials():
                self.add(trial)
        self._study = _study_in(log.folder / JOURNAL, log)

    def add(self, trial: Trial) -> None:
        """A trial that has ended."""
        if trial.state != "running":
            self._study.add_trial(frozen(self._log.sweep, self._log.space, trial))


def _study_in(path: Path, log: Log) -> "optuna.Study":
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # journals and names of objectives are called experimental
        storage = JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(
            storage=storage, study_name=log.folder.name, directions=directions_of(log.sweep), load_if_exists=True
        )
        if not study.metric_names:
            study.set_metric_names(list(log.sweep.objectives))
    return study


# --- both, beside the sweep ----------------------------------------------------------------------------------------


class Mirror:
    """Keeps both up to a sweep while it runs, in a thread: neither is waited for, and neither can end it.

    Args:
        uri: of MLflow; None for none.
        say: takes a line for the user.
    """

    def __init__(self, folder: Path, uri: str | None, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._uri = uri
        self._say = say
        self._said = False
        self._held: list[Trial] = []
        self._journal: Journal | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mirror")

    def __enter__(self) -> Self:
        self._journal = Journal(read_log(self._folder))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for trial in self._held if kind is None else ():  # by now their workers have let go
            self._thread.submit(self._attempt, trial)
        self._thread.shutdown(wait=True, cancel_futures=kind is not None or self._said)

    def told(self, trial: Trial) -> None:
        """A trial has ended."""
        self._thread.submit(self._keep, trial)
        self._thread.submit(self._attempt, trial)

    def _keep(self, trial: Trial) -> None:
        assert self._journal is not None, "entered"
        self._journal.add(trial)

    def _attempt(self, trial: Trial) -> None:
        try:
            if self._uri is not None and not self._said:  # who was away once is waited for no more
                self._send(trial, self._uri)
        except Away as error:
            self._once(
                f"MLflow at {without_password(self._uri or '')} is away ({error}); `mergenet sync` sends it later"
            )
        except Exception as error:
            self._once(f"trial {trial.number} is not mirrored: {reason(error)}; `mergenet sync` tries again")

    def _send(self, trial: Trial, uri: str) -> None:
        log = read_log(self._folder)
        record = log.record(trial)
        fetch(record)
        if has_begun(record):
            sync(record, uri)
            if is_being_written(record) or read_result(record) is None:
                self._held.append(trial)
        with reaching(), alone(self._folder / ".mlflow.lock"):
            _Sent(log, uri).add(trial)

    def _once(self, text: str) -> None:
        if not self._said:
            self._say(text)
        self._said = True
