"""A sweep in MLflow and in Optuna's journal: what the ledger says, once."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tests.sweeps import lived, planned
from tests.test_mlflow import free_port
from tune.search.begin import open_ledger
from tune.search.ledger import Log, read_log
from tune.search.mirror import JOURNAL, Journal, Mirror, sync_sweep
from tune.store import QUIET, Away, connect


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process speaks to MLflow as the command does."""
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep of twelve trials that ended in every way; none really ran."""
    folder = tmp_path_factory.mktemp("sweep")
    plan = planned(folder)
    ledger = open_ledger(plan, resume=False)
    for event in lived(plan.sweep, plan.space, 12):
        ledger.note(event)
    ledger.close()
    return folder


@pytest.fixture
def log(original: Path, tmp_path: Path) -> Log:
    """A copy of it, to spoil."""
    (folder,) = (shutil.copytree(original, tmp_path / "copy") / "runs" / "tiny").glob("sweep-*")
    return read_log(folder)


def mirrored(uri: str) -> dict[str, Any]:
    """Name -> run of the sweep in MLflow."""
    client = connect(uri)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    named = {run.info.run_name: run for run in runs}
    assert len(named) == len(runs), "nothing is there twice"
    return named


def test_a_sweep_is_a_parent_with_a_child_for_each_trial_sent_once(log: Log, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'm.db'}"
    assert [sync_sweep(log.folder, uri) for _ in range(2)] == [12, 12]
    runs = mirrored(uri)
    parent = runs.pop(log.folder.name)
    assert parent.data.params["space.transfers.main.cycle"] == '{"int": {"low": 1, "high": 4, "step": 1, "log": false}}'
    assert parent.data.params["training.epochs"] == "2" and parent.data.params["sweep.sampler"] == '{"random": {}}'
    assert set(runs) == {f"trial {number}" for number in range(12)}
    status = {"finished": "FINISHED", "stopped": "KILLED", "diverged": "FAILED", "failed": "FAILED"}
    for trial in log.trials():
        run = runs[f"trial {trial.number}"]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.status == status[trial.state] and run.data.tags["mergenet.state"] == trial.state
        assert run.data.params["transfers.main.cycle"] == str(trial.point["transfers.main.cycle"])
        assert run.data.metrics.get("target.loss") == (trial.values[0] if trial.values else None)
        history = connect(uri).get_metric_history(run.info.run_id, "validation/target.loss")
        assert [(point.step, point.value) for point in history] == list(trial.curve)


SYNC = "import sys; from pathlib import Path; from tune.search.mirror import sync_sweep; sync_sweep(Path({!r}), {!r})"


def test_two_that_write_at_once_double_nothing(log: Log, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'm.db'}"
    command = [sys.executable, "-c", SYNC.format(str(log.folder), uri)]
    both = [subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert len(mirrored(uri)) == 13


def test_a_store_that_is_away_is_said_once_and_stops_nothing(log: Log) -> None:
    uri, said = f"http://127.0.0.1:{free_port()}", []
    with Mirror(log.folder, uri, said.append) as mirror:
        for trial in log.trials():
            mirror.told(trial)
    assert len(said) == 1 and "is away" in said[0] and "`mergenet sync` sends it later" in said[0]
    with pytest.raises(Away):
        sync_sweep(log.folder, uri)
    assert len(study_of(log).trials) == 24, "the journal does not wait for MLflow"


def study_of(log: Log) -> optuna.Study:
    """What optuna-dashboard opens."""
    storage = JournalStorage(JournalFileBackend(str(log.folder / JOURNAL)))
    return optuna.load_study(storage=storage, study_name=log.folder.name)


def test_the_journal_is_the_sweep_as_optuna_has_it(log: Log) -> None:
    Journal(log)
    study = study_of(log)
    assert study.metric_names == ["target.loss"] and [one.name for one in study.directions] == ["MINIMIZE"]
    states = {
        "finished": TrialState.COMPLETE,
        "stopped": TrialState.PRUNED,
        "diverged": TrialState.PRUNED,
        "failed": TrialState.FAIL,
    }
    for trial, kept in zip(log.trials(), study.trials, strict=True):
        assert (kept.user_attrs["trial"], kept.user_attrs["run"]) == (trial.number, trial.run)
        assert kept.state == states[trial.state] and kept.params == dict(trial.point)
        if trial.values is not None:
            assert kept.values == list(trial.values)
    assert (
        study.best_trial.user_attrs["trial"]
        == min(
            (trial for trial in log.trials() if trial.values is not None), key=lambda trial: trial.values or ()
        ).number
    )


def test_a_journal_that_a_death_left_in_pieces_is_made_anew(log: Log) -> None:
    (log.folder / JOURNAL).write_text('{"op_code": 0, "worker_id"')
    Journal(log)
    Journal(log)
    assert len(study_of(log).trials) == 12
