"""What of a table is missing, the runs that would make it, and the weights that one hands to another."""

import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mergenet.config import InputError
from mergenet.training import files
from mergenet.training.files import lock, read_json
from mergenet.training.trained import read_trained
from tests.tables import missing, plan
from tune.ablate import Places, _handed_on, find_missing
from tune.evidence import write_evidence


def test_only_wanted_cells_are_made_though_others_are_missing(tmp_path: Path) -> None:
    places = Places(tmp_path / "runs", tmp_path / "results", threads=3)
    ablation = find_missing(plan(), places, wanted=lambda cell: cell == ("vanilla", "source", 1))
    (job,) = ablation.jobs
    assert job.cells == (("vanilla", "source", 1),) and job.spec.seed == 1 and job.spec.threads == 3
    assert len(ablation.missing()) == len(plan().cells())


def test_every_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    folders = [job.spec.folder for job in missing(plan(), tmp_path).jobs]
    assert len(set(folders)) == len(folders) == 4


def test_a_run_without_the_figures_that_are_wanted_does_not_count(folder: Path) -> None:
    table, places = plan(seeds=(0,)), Places(folder / "runs", folder / "results")
    assert find_missing(table, places).missing() == []
    assert len(find_missing(table, places, lambda evidence: False).missing()) == len(table.cells())


def test_a_run_that_begins_with_weights_waits_for_them(tmp_path: Path) -> None:
    table = plan(seeds=(0,))
    first, frozen = missing(table, tmp_path).jobs
    assert first.needs() == set() and frozen.needs() == {table.cells()["vanilla", "source", 0]} <= first.makes


def test_kept_results_hold_no_weights_and_a_record_does(folder: Path) -> None:
    table = plan(seeds=(0,))
    found, frozen = missing(table, folder).evidence, table.cells()["frozen", "target", 0]
    source = found[table.cells()["vanilla", "source", 0]]
    write_evidence([source], folder / "results" / "tiny")
    shutil.rmtree(found[frozen].place)
    shutil.rmtree(folder / "runs" / "weights")
    assert [job.cells for job in missing(table, folder).jobs] == [(("frozen", "target", 0),)]
    shutil.rmtree(source.place)
    again, last = missing(table, folder).jobs
    assert missing(table, folder).missing() == [("frozen", "target", 0)]
    assert again.cells == (("vanilla", "source", 0),) and last.needs() <= again.makes


def test_the_weights_that_are_handed_on_are_those_of_the_cell(folder: Path) -> None:
    places = Places(folder / "runs", folder / "results")
    for run in (folder / "runs" / "tiny-tiny").iterdir():
        for learner, key in read_json(run / "manifest.json")["cells"].items():
            places.weights(key).unlink(missing_ok=True)
            assert _handed_on(key, places, run)
            weights, handed = read_trained(run, learner, allow_code=False).weights, load_file(places.weights(key))
            assert handed.keys() == weights.keys()
            assert all(torch.equal(handed[name], value) for name, value in weights.items())


def test_what_has_begun_is_gone_on_with_when_asked_and_never_while_another_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PATIENCE_S", 0.0)
    ablation = missing(plan(seeds=(0,)), tmp_path)
    ablation.check_free(resume=False)
    begun = ablation.jobs[0].spec.folder
    begun.mkdir(parents=True)
    (begun / "manifest.json").write_text(json.dumps({}))
    with pytest.raises(InputError, match=rf"{begun.name} stopped before the end: go on with --resume"):
        ablation.check_free(resume=False)
    ablation.check_free(resume=True)
    with lock(begun), pytest.raises(InputError, match=rf"{begun.name}: another process is writing this run"):
        ablation.check_free(resume=True)


def test_who_goes_on_with_a_table_waits_for_the_lock_of_a_node_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SAID_AFTER_S", 0.1)
    ablation, said = missing(plan(seeds=(0,)), tmp_path), list[str]()
    begun = ablation.jobs[0].spec.folder
    begun.mkdir(parents=True)
    (begun / "manifest.json").write_text(json.dumps({}))
    released = threading.Timer(1.0, lock(begun).close)
    released.start()
    ablation.check_free(resume=True, say=said.append)
    released.join()
    assert said == [f"{begun}: another process is writing it; waiting 120 s for it to let go"]
