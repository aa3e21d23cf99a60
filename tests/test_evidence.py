"""Finished runs as evidence: found by their cells, kept without places, and refused when they were changed."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from mergenet.config import InputError
from mergenet.training.files import portable, read_json, seal_of
from tests.tables import missing, plan
from tune.evidence import METRICS, RUNS, find_evidence, write_evidence


def used(folder: Path) -> dict[str, Any]:
    cells = plan(seeds=(0,)).cells()
    found = find_evidence(folder / "runs", folder / "results")
    return {key: found[key] for key in cells.values()}


def check(folder: Path) -> None:
    for evidence in used(folder).values():
        evidence.check()


def test_a_run_that_nobody_touched_passes(folder: Path) -> None:
    check(folder)


def change(path: Path, spoil: Callable[[Any], None]) -> None:
    value = read_json(path)
    spoil(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("result.json", lambda value: value["learners"]["vanilla_target"]["test"].update(top1=99.0)),
        ("result.json", lambda value: value["transfers"]["one-way_main"].update(updates=7)),
        ("manifest.json", lambda value: value["pairing"]["vanilla_target"].update(first_batch="0" * 64)),
        ("manifest.json", lambda value: value["versions"].update(torch="1.0")),
        ("manifest.json", lambda value: value.update(seed=3)),
        ("experiment.json", lambda value: value["learners"]["vanilla_target"]["training"].update(epochs=9)),
    ],
)
def test_a_changed_record_is_refused_by_its_name(folder: Path, name: str, spoil: Callable[[Any], None]) -> None:
    run = used(folder)[plan(seeds=(0,)).cells()["vanilla", "target", 0]].folder
    change(run / name, spoil)
    with pytest.raises(InputError, match=rf"{run.name} was changed after it had finished"):
        check(folder)


def test_a_changed_curve_is_refused(folder: Path) -> None:
    run = used(folder)[plan(seeds=(0,)).cells()["vanilla", "target", 0]].folder
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(lines[1:]) + "\n")
    with pytest.raises(InputError, match="was changed after it had finished"):
        check(folder)


def test_a_record_may_lie_elsewhere(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "runs", tmp_path / "other" / "runs")
    check(tmp_path / "other")


def test_what_is_kept_stands_for_the_runs(folder: Path) -> None:
    before = used(folder)
    write_evidence(before.values(), folder / "results" / "tiny")
    shutil.rmtree(folder / "runs")
    assert missing(plan(seeds=(0,)), folder).missing() == []
    after = used(folder)
    for key, evidence in before.items():
        after[key].check()
        assert after[key].folder is None
        assert after[key].metrics == evidence.metrics
        assert after[key].result == evidence.result


def test_what_is_kept_names_no_place(folder: Path) -> None:
    write_evidence(used(folder).values(), folder / "results" / "tiny")
    text = (folder / "results" / "tiny" / RUNS).read_text()
    assert str(folder) not in text and "/weights/" not in text and ".safetensors" not in text
    assert "cell " + plan(seeds=(0,)).cells()["vanilla", "source", 0] in text


def test_where_data_lie_is_neither_kept_nor_sealed() -> None:
    experiment = {"learners": {"a": {"weights": "/here/a.safetensors"}, "b": {"weights": "IMAGENET1K_V1"}}}
    manifest = {"weights": {"a": "sha"}, "data": {"cifar100": {"digest": "d", "path": "/here/cifar100"}}}
    elsewhere = {**manifest, "data": {"cifar100": {"digest": "d", "path": "/there/cifar100"}}}
    kept_experiment, kept_manifest = portable(experiment, manifest)
    assert kept_manifest["data"] == {"cifar100": {"digest": "d", "path": None}}
    assert kept_experiment["learners"] == {"a": {"weights": "sha"}, "b": {"weights": "IMAGENET1K_V1"}}
    assert seal_of(experiment, manifest, [], {}) == seal_of(experiment, elsewhere, [], {})
    other_data = {**manifest, "data": {"cifar100": {"digest": "e", "path": "/here/cifar100"}}}
    assert seal_of(experiment, manifest, [], {}) != seal_of(experiment, other_data, [], {})


def test_what_was_kept_is_checked_like_a_record(folder: Path) -> None:
    kept = folder / "results" / "tiny"
    write_evidence(used(folder).values(), kept)
    shutil.rmtree(folder / "runs")
    table = parquet.read_table(kept / METRICS)
    values = [value and value + 0.01 for value in table["value"].to_pylist()]
    parquet.write_table(table.set_column(6, "value", [values]), kept / METRICS)
    with pytest.raises(InputError, match=r"results/tiny: run \w+-s0 was changed after it had finished"):
        check(folder)


def test_what_was_kept_before_stays(folder: Path, tmp_path: Path) -> None:
    kept = folder / "results" / "tiny"
    both = list({one.name: one for one in used(folder).values()}.values())
    write_evidence(both[:1], kept)
    write_evidence(both[1:], kept)
    assert set(read_json(kept / RUNS)) == {one.name for one in both}
    shutil.rmtree(folder / "runs")
    check(folder)


def test_a_run_that_was_trained_anew_replaces_what_was_kept_of_it(folder: Path) -> None:
    kept = folder / "results" / "tiny"
    before = next(iter(used(folder).values()))
    write_evidence([before], kept)
    anew = replace(before, result={**before.result, "seconds": 1.0})
    write_evidence([anew], kept)
    assert read_json(kept / RUNS)[before.name]["result"]["seconds"] == 1.0


def test_a_record_comes_before_what_was_kept(folder: Path) -> None:
    write_evidence(used(folder).values(), folder / "results" / "tiny")
    assert all(evidence.folder is not None for evidence in used(folder).values())


def test_broken_files_are_named(folder: Path) -> None:
    kept = folder / "results" / "tiny"
    write_evidence(used(folder).values(), kept)
    shutil.rmtree(folder / "runs")
    (kept / METRICS).write_bytes(b"PAR1")
    with pytest.raises(InputError, match=rf"{METRICS}: cannot be read"):
        check(folder)
    change(kept / RUNS, lambda value: next(iter(value.values())).pop("manifest"))
    with pytest.raises(InputError, match=rf"{RUNS}: broken: run \w+-s0 lacks its experiment, manifest or result"):
        check(folder)


def test_an_unfinished_run_is_no_evidence(folder: Path) -> None:
    table = plan(seeds=(0,))
    run = used(folder)[table.cells()["one-way", "target", 0]].folder
    (run / "result.json").unlink()
    assert set(missing(table, folder).missing()) >= {("one-way", "target", 0)}
    change(run / "manifest.json", lambda value: None)
    (run / "result.json").write_text(json.dumps({"status": "failed", "reason": "x", "traceback": ""}))
    assert ("one-way", "target", 0) in missing(table, folder).missing()


def test_a_seal_that_was_taken_off_is_refused_and_cells_that_were_are_not_there(folder: Path) -> None:
    results = folder / "results"
    write_evidence(used(folder).values(), results / "tiny")
    shutil.rmtree(folder / "runs")
    change(results / "tiny" / RUNS, lambda runs: [run["result"].pop("seal") for run in runs.values()])
    with pytest.raises(InputError, match="was changed after it had finished"):
        check(folder)
    change(results / "tiny" / RUNS, lambda runs: [run["manifest"].pop("cells") for run in runs.values()])
    assert find_evidence(folder / "runs", results) == {}


def test_a_run_without_the_figures_that_are_wanted_stands_before_no_other(folder: Path) -> None:
    key = plan(seeds=(0,)).cells()["vanilla", "target", 0]
    first = find_evidence(folder / "runs", folder / "results")[key]
    write_evidence([first], folder / "results" / "tiny")
    second = find_evidence(folder / "runs", folder / "results", lambda one: one.folder is None)[key]
    assert first.folder is not None and second.folder is None and second.name == first.name
