"""A table in MLflow: a parent run for each arm, a child for each seed, nothing twice."""

from pathlib import Path

import pytest

from mergenet.training.reporter import Silent
from mergenet.training.run import execute
from tests.tables import missing, plan, tiny, train
from tune.ablate import Job, Places, find_missing
from tune.assemble import PROTOCOLS
from tune.cells import Cell, plan_table
from tune.store import connect
from tune.table_mirror import TableMirror


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Job]]:
    """The tiny table's runs of one seed."""
    folder = tmp_path_factory.mktemp("trained")
    table = plan(seeds=(0,))
    jobs = list(missing(table, folder).jobs)
    train(table, folder)
    return folder, jobs


def test_arms_are_parents_and_seeds_their_children(trained: tuple[Path, list[Job]], tmp_path: Path) -> None:
    folder, jobs = trained
    uri = f"sqlite:///{tmp_path / 'm.db'}"
    said: list[str] = []
    for _ in range(2):
        mirror = TableMirror(plan(seeds=(0,)), folder / "runs", uri, said.append)
        for job in jobs:
            mirror.send(job)
    assert said == []
    client = connect(uri)
    experiment = client.get_experiment_by_name("tiny-tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = {run.data.tags["mergenet.arm"]: run for run in runs if "mergenet.arm.parent" in run.data.tags}
    children = {run.info.run_name: run for run in runs if "mergenet.cell" in run.data.tags}
    records = [run for run in runs if "mergenet.run" in run.data.tags]
    assert (len(parents), len(children), len(records), len(runs)) == (3, 3, 2, 8)
    assert set(children) == {"vanilla s0", "one-way s0", "frozen s0"}
    for name, run in children.items():
        assert run.data.tags["mlflow.parentRunId"] == parents[name.split()[0]].info.run_id
        assert run.info.status == "FINISHED"
    assert parents["one-way"].data.params["transfers.main.cycle"] == "1"
    assert parents["vanilla"].data.params["transfers.main.enabled"] == "false"

    evidence = missing(plan(seeds=(0,)), folder).evidence
    for arm in ("vanilla", "one-way", "frozen"):
        key = plan(seeds=(0,)).cells()[arm, "target", 0]
        run = evidence[key]
        expected = run.result["learners"][run.learner_of(key)]["test"]["top1"]
        assert children[f"{arm} s0"].data.metrics["target.top1"] == expected
        assert children[f"{arm} s0"].data.tags["mergenet.record"] == run.name


def test_another_protocol_has_runs_of_its_own(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'm.db'}"
    for protocol in ("last", "best"):
        table = plan_table(tiny(), "tiny", (0,), {}, PROTOCOLS[protocol])
        found = find_missing(table, Places(tmp_path / "runs", tmp_path / "results"), wanted=_is_plain)
        for job in found.jobs:
            execute(job.spec, Silent())
            TableMirror(table, tmp_path / "runs", uri, print).send(job)
    client = connect(uri)
    experiment = client.get_experiment_by_name("tiny-tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = [run.data.params["evaluation.weights"] for run in runs if "mergenet.arm.parent" in run.data.tags]
    assert sorted(parents) == ["best", "last"]
    assert len([run for run in runs if "mergenet.cell" in run.data.tags]) == 2


def _is_plain(cell: Cell) -> bool:
    return cell == ("vanilla", "target", 0)


def test_an_mlflow_that_is_away_is_said_once(trained: tuple[Path, list[Job]], tmp_path: Path) -> None:
    folder, jobs = trained
    (tmp_path / "m.db").write_text("no database")
    said: list[str] = []
    mirror = TableMirror(plan(seeds=(0,)), folder / "runs", f"sqlite:///{tmp_path / 'm.db'}", said.append)
    for job in jobs:
        mirror.send(job)
    assert len(said) == 1 and "is away" in said[0] and "mergenet sync" in said[0]
