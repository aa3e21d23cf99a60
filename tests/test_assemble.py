"""From finished runs to a table: each figure is where it belongs, pairs are pairs, and what differs is said."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mergenet.config import InputError
from mergenet.training.files import seal_of
from tests.tables import plan, tiny
from tune.assemble import assemble, shows
from tune.cells import Cell, TablePlan
from tune.evidence import Evidence
from tune.report import markdown
from tune.results import Protocol, Results
from tune.table import HELD

HERE = Path("results")
TOP1 = {"vanilla": (50.0, 60.0, 55.0), "one-way": (52.0, 61.0, 58.0), "frozen": (49.0, 63.0, 57.0)}
"""By seed, of the target."""


def made(table: TablePlan, cell: Cell, top1: float, **manifest: Any) -> Evidence:
    """A finished run of one learner, `L`, that never took place."""
    _, _, seed = cell
    experiment = {
        "learners": {"L": {}},
        "transfers": {"t": {"from": "x.y", "to": "L.z"}},
        "evaluation": {"test": "always"},
    }
    described = {
        "cells": {"L": table.cells()[cell]},
        "data": {},
        "pairing": {"L": {"initial_weights": f"w{seed}", "first_batch": f"b{seed}"}},
        "versions": {"torch": "2.15.0", "torchvision": "0.29.2"},
        "hardware": {"gpu": None, "machine": "x86_64"},
        "device": "cpu",
        "threads": 1,
        "world_size": 1,
        "commit": "abcdef0123",
        "resumed": [],
        **manifest,
    }
    metrics = [
        {
            "run": "r",
            "learner": "L",
            "tick": 5 * epoch,
            "epoch": epoch,
            "split": split,
            "metric": metric,
            "value": value,
        }
        for split, values in (("validation", (10.0, top1 + 1.0)), ("test", (top1 + 7.0, top1)))
        for epoch, value in enumerate(values, start=1)
        for metric in ("top1", "loss")
    ]
    learner = {"steps": 10, "diverged_at": None, "test": {"top1": top1, "loss": 100.0 - top1}}
    result = {
        "status": "finished",
        "ticks": 10,
        "learners": {"L": learner},
        "transfers": {"t": {"updates": 3, "stopped_at": None}},
    }
    result["seal"] = seal_of(experiment, described, metrics, result)
    evidence = Evidence(f"{table.cells()[cell][:8]}-s{seed}", HERE, None, experiment, described, result)
    vars(evidence)["metrics"] = metrics  # as if they had been read
    return evidence


def sealed(evidence: Evidence) -> Evidence:
    evidence.result["seal"] = seal_of(evidence.experiment, evidence.manifest, evidence.metrics, evidence.result)
    return evidence


def all_made(table: TablePlan) -> dict[str, Evidence]:
    return {
        key: made(table, cell, TOP1[cell[0]][cell[2]] if cell[1] == "target" else 70.0 + cell[2])
        for cell, key in table.cells().items()
    }


def results(table: TablePlan, evidence: dict[str, Evidence], protocol: Protocol = "last") -> Results:
    return assemble(table, evidence, protocol, "mergenet ablate tiny --seeds 3", "mergenet ablate tiny")


@pytest.fixture
def table() -> TablePlan:
    return plan(seeds=(0, 1, 2))


def test_figures_stand_at_their_arm_column_and_seed(table: TablePlan) -> None:
    made = results(table, all_made(table))
    for arm, values in TOP1.items():
        figures = made.entries[arm, "target.top1"].figures
        assert {seed: figure.value for seed, figure in figures.items()} == dict(enumerate(values))
        assert figures[1].curve == ((1, 10.0), (2, values[1] + 1.0))
        assert figures[1].command == (f"mergenet ablate tiny --arm {arm} --seed 1 --runs again --results again")
    losses = made.entries["vanilla", "source.loss"].values()
    assert losses == [30.0, 29.0, 28.0]
    frozen = made.entries["frozen", "source.loss"]
    assert frozen.figures == {} and not frozen.trains and made.entries["frozen", "target.top1"].trains


def test_an_arm_is_compared_with_its_baseline_pair_by_pair(table: TablePlan) -> None:
    made = results(table, all_made(table))
    comparison = made.entries["one-way", "target.top1"].comparison
    assert comparison is not None and comparison.baseline == "vanilla"
    assert comparison.differences == {0: 2.0, 1: 1.0, 2: 3.0}
    assert comparison.mean == 2.0
    assert made.entries["vanilla", "target.top1"].comparison is None
    assert made.family == 2 and made.screening


def test_an_arm_may_name_its_own_baseline_or_none() -> None:
    own = plan(tiny({"arms": {"frozen": {"baseline": "one-way"}, "one-way": {"baseline": "none"}}}), (0, 1, 2))
    made = results(own, all_made(own))
    comparison = made.entries["frozen", "target.top1"].comparison
    assert comparison is not None and comparison.differences == {0: -3.0, 1: 2.0, 2: -1.0}
    assert made.entries["one-way", "target.top1"].comparison is None
    assert made.entries["one-way", "target.top1"].standing == "other"  # stands by itself, also among the best
    evidence = all_made(own)
    unpaired = evidence[own.cells()["one-way", "target", 1]]
    unpaired.manifest["pairing"]["L"]["first_batch"] = "other"
    sealed(unpaired)
    with pytest.raises(InputError, match="arms frozen and one-way are not paired in seed 1"):
        results(own, evidence)


def test_what_no_change_reaches_is_shown_as_the_arm_it_is_of_and_not_compared(table: TablePlan) -> None:
    entry = results(table, all_made(table)).entries["one-way", "source.loss"]
    assert entry.same_as == "vanilla" and entry.comparison is None
    assert entry.values() == [30.0, 29.0, 28.0]


def test_only_what_the_table_is_made_for_is_adjusted() -> None:
    named = plan(tiny({"primary": ["one-way target.top1"]}), (0, 1, 2))
    made = results(named, all_made(named))
    primary, exploratory = (made.entries[arm, "target.top1"] for arm in ("one-way", "frozen"))
    assert made.family == 1
    assert primary.primary and primary.comparison is not None and primary.comparison.adjusted is not None
    assert not exploratory.primary and exploratory.comparison is not None and exploratory.comparison.adjusted is None


def test_the_best_mean_is_best_and_the_others_are_told_apart_by_pairs() -> None:
    six = plan(seeds=tuple(range(6)))
    top1 = {
        "vanilla": [50.0] * 6,
        "one-way": [52.0, 52.1, 52.2, 52.3, 52.4, 52.5],
        "frozen": [51.0, 53, 51, 53, 51, 53],
    }
    evidence = {
        key: made(six, cell, top1[cell[0]][cell[2]] if cell[1] == "target" else 70.0)
        for cell, key in six.cells().items()
    }
    assembled = results(six, evidence)
    standing = {arm: assembled.entries[arm, "target.top1"].standing for arm in top1}
    # one-way is above vanilla in all six pairs, p = 2 / 64; frozen in three of six
    assert standing == {"one-way": "best", "frozen": "tied", "vanilla": "other"}
    assert assembled.entries["vanilla", "source.loss"].standing == "best"
    assert assembled.entries["one-way", "source.loss"].standing == "best"  # the same cells
    assert assembled.family == 2 and assembled.screening  # six pairs carry one comparison, not two


def test_an_arm_is_tied_from_a_p_of_a_twentieth_on() -> None:
    six = plan(seeds=tuple(range(6)))
    below = [1.0, 1.0, 1.0, 1.0, 1.0, -0.01]  # under the best: p = 4 / 64
    evidence = {
        key: made(six, cell, {"one-way": 52.0, "frozen": 52.0 - below[cell[2]]}.get(cell[0], 50.0))
        for cell, key in six.cells().items()
    }
    entries = results(six, evidence).entries
    assert entries["one-way", "target.top1"].standing == "best"
    assert entries["frozen", "target.top1"].standing == "tied"


def test_the_papers_figures_stand_at_their_arms() -> None:
    named = plan(
        tiny({"paper": "table8", "arms": {"mergenet": {"label": "m", "change": {"training.epochs": 2}}}}), (0,)
    )
    papers = {arm: results(named, {}).entries[arm, "target.top1"].paper for arm in ("one-way", "mergenet")}
    assert papers == {"one-way": None, "mergenet": 66.51}


def test_with_too_few_pairs_nothing_is_told_apart(table: TablePlan) -> None:
    assembled = results(table, all_made(table))
    assert {assembled.entries[arm, "target.top1"].standing for arm in TOP1} == {"best", "tied"}


def test_unequal_pairs_stop_a_report_and_are_named(table: TablePlan) -> None:
    for what in ("initial_weights", "first_batch"):
        evidence = all_made(table)
        key = table.cells()["one-way", "target", 1]
        evidence[key].manifest["pairing"]["L"][what] = "other"
        sealed(evidence[key])
        with pytest.raises(InputError) as refusal:
            results(table, evidence)
        words = what.replace("_", " ")
        assert str(refusal.value).startswith(
            f"table tiny: arms one-way and vanilla are not paired in seed 1: target has {words} other in "
        )
        assert f"({key[:8]}-s1)" in str(refusal.value)


def test_a_changed_record_stops_a_report(table: TablePlan) -> None:
    evidence = all_made(table)
    key = table.cells()["frozen", "target", 2]
    evidence[key].result["learners"]["L"]["test"]["top1"] = 99.0
    with pytest.raises(InputError, match=rf"{key[:8]}-s2 was changed after it had finished"):
        results(table, evidence)


def test_a_changed_record_stops_a_report_beside_a_sound_one_of_the_same_name(table: TablePlan) -> None:
    evidence = all_made(table)
    spoiled, sound = (table.cells()["frozen", "target", seed] for seed in (0, 2))
    evidence[spoiled].result["learners"]["L"]["test"]["top1"] = 99.0
    evidence[sound] = replace(evidence[sound], name=evidence[spoiled].name, place=Path("elsewhere"))
    vars(evidence[sound])["metrics"] = made(table, ("frozen", "target", 2), 57.0).metrics
    with pytest.raises(InputError, match="was changed after it had finished"):
        results(table, evidence)


def test_missing_cells_are_said_and_pairs_are_those_there_are(table: TablePlan) -> None:
    evidence = all_made(table)
    del evidence[table.cells()["one-way", "target", 1]]
    made = results(table, evidence)
    entry = made.entries["one-way", "target.top1"]
    assert entry.comparison is not None and entry.comparison.differences == {0: 2.0, 2: 3.0}
    assert any("1 of 15 cells" in note for note in made.notes)
    assert entry.standing == "other"  # best of what, with a seed less than the others?
    assert made.family == 2  # as many as are planned, though fewer are there


def test_a_family_is_what_is_planned_and_screening_goes_by_the_fewest_pairs() -> None:
    eight = plan(seeds=tuple(range(8)))
    evidence = {key: made(eight, cell, 50.0 + cell[2]) for cell, key in eight.cells().items()}
    assert not results(eight, evidence).screening  # eight pairs carry two comparisons
    for seed in (1, 2, 3):
        del evidence[eight.cells()["frozen", "target", seed]]
    assert results(eight, evidence).screening  # five do not, for any
    assert results(eight, {}).family == 2 and results(eight, {}).screening


def test_an_empty_table_is_a_table(table: TablePlan) -> None:
    made = results(table, {})
    assert all(not entry.figures for entry in made.entries.values())
    assert any("15 of 15 cells" in note for note in made.notes)


def test_a_diverged_learner_has_no_figure_and_is_named(table: TablePlan) -> None:
    evidence = all_made(table)
    one = evidence[table.cells()["one-way", "target", 2]]
    one.result["learners"]["L"] = {"steps": 10, "diverged_at": 4}
    sealed(one)
    entry = results(table, evidence).entries["one-way", "target.top1"]
    assert entry.figures[2].value is None and entry.values() == [52.0, 61.0]
    assert entry.notes == ("diverged in seed 2",)
    assert entry.comparison is not None and set(entry.comparison.differences) == {0, 1}


def test_a_transfer_that_stopped_is_named(table: TablePlan) -> None:
    evidence = all_made(table)
    for seed in (0, 2):
        one = evidence[table.cells()["frozen", "target", seed]]
        one.result["transfers"]["t"]["stopped_at"] = 4
        sealed(one)
    into_another = evidence[table.cells()["one-way", "target", 0]]
    into_another.experiment["transfers"]["t"]["to"] = "other.z"
    into_another.result["transfers"]["t"]["stopped_at"] = 4
    sealed(into_another)
    diverged = evidence[table.cells()["one-way", "target", 1]]
    diverged.result["learners"]["L"] = {"steps": 10, "diverged_at": 4}
    diverged.result["transfers"]["t"]["stopped_at"] = 4  # with the learner itself
    sealed(diverged)
    entries = results(table, evidence).entries
    assert entries["frozen", "target.top1"].notes == ("a transfer stopped before the end in seeds 0, 2",)
    assert entries["one-way", "target.top1"].notes == ("diverged in seed 1",)


@pytest.mark.parametrize(
    ("manifest", "note"),
    [
        (
            {"versions": {"torch": "2.11.0", "torchvision": "0.29.2"}},
            "mixed runs: torch 2.15.0 (11 runs), 2.11.0 (1 run)",
        ),
        (
            {"device": "cuda", "hardware": {"gpu": "G", "machine": "x"}},
            "mixed runs: device cpu (11 runs), cuda (1 run)",
        ),
        ({"threads": 2}, "mixed runs: threads 1 (11 runs), 2 (1 run)"),
        ({"world_size": 4}, "mixed runs: world size 1 (11 runs), 4 (1 run)"),
        (
            {"world_size": 2, "resumed": [{"tick": 3, "world_size": 1, "changed": {}}]},
            "mixed runs: world size 1 (11 runs), 2 then 1 (1 run)",
        ),
        (
            {"resumed": [{"tick": 3, "changed": {"threads": 4}}]},
            "gone on with in other surroundings than they began in: ",
        ),
    ],
)
def test_runs_that_were_made_differently_are_marked(table: TablePlan, manifest: dict[str, Any], note: str) -> None:
    evidence = all_made(table)
    assert results(table, evidence).notes == ()
    assert results(table, evidence).made_with["torch"] == "2.15.0"
    cell = ("frozen", "target", 0)
    evidence[table.cells()[cell]] = made(table, cell, 49.0, **manifest)
    assert any(said.startswith(note) for said in results(table, evidence).notes)


def test_cells_whose_workers_changed_or_are_not_those_of_most_are_marked_beside_their_figures(table: TablePlan) -> None:
    """As a diverged cell is: in the arm's row, by seed; the others are not."""
    evidence, keys = all_made(table), table.cells()
    shrunk = {"world_size": 1, "resumed": [{"tick": 3, "world_size": 4, "changed": {}}]}
    back = {"world_size": 1, "resumed": [{"tick": tick, "world_size": 4 // tick, "changed": {}} for tick in (2, 4)]}
    restored = {"world_size": 1, "resumed": [{"tick": 0, "world_size": 1, "changed": {}}]}
    for arm, seed, manifest in (
        ("frozen", 0, {"world_size": 2}),
        ("frozen", 2, {"world_size": 2}),
        ("frozen", 1, shrunk),
        ("one-way", 1, back),
        ("vanilla", 0, restored),
    ):
        key = keys[arm, "target", seed]
        evidence[key] = made(table, (arm, "target", seed), TOP1[arm][seed], **manifest)
    found = results(table, evidence)
    notes = {arm: found.entries[arm, "target.top1"].notes for arm in TOP1}
    assert notes == {
        "vanilla": (),
        "one-way": ("trained by 1 then 2 then 1 workers in seed 1",),
        "frozen": ("trained by 2 workers in seeds 0, 2", "trained by 1 then 4 workers in seed 1"),
    }
    assert not any(said.startswith("gone on with") for said in found.notes)
    shown = markdown(found)
    assert all(note in " ".join(shown.split()) for of in notes.values() for note in of)


def test_where_no_run_kept_its_workers_all_are_marked(table: TablePlan) -> None:
    changed = {"resumed": [{"tick": 3, "world_size": 2, "changed": {}}]}
    evidence = {
        key: made(table, cell, TOP1[cell[0]][cell[2]] if cell[1] == "target" else 70.0, **changed)
        for cell, key in table.cells().items()
    }
    found = results(table, evidence)
    assert found.made_with["world size"] == "1 then 2"
    assert found.entries["vanilla", "target.top1"].notes == ("trained by 1 then 2 workers in seeds 0, 1, 2",)


def test_the_best_test_epoch_is_read_where_it_is_asked_for(table: TablePlan) -> None:
    evidence = all_made(table)
    best = results(table, evidence, "best-test")
    assert best.entries["one-way", "target.top1"].values() == [59.0, 68.0, 65.0]
    assert best.protocol == "best-test"
    losses = best.entries["vanilla", "source.loss"].values()  # of the epoch that is best in top-1, lower ones or not
    assert losses == [77.0, 78.0, 79.0]
    one = next(iter(evidence.values()))
    assert shows(one, "best-test") and shows(one, "last")
    one.experiment["evaluation"].clear()
    assert not shows(one, "best-test") and shows(one, "last")


def test_figures_of_others_in_the_run_are_not_taken(table: TablePlan) -> None:
    evidence = all_made(table)
    for one in evidence.values():
        one.metrics.extend([{**line, "learner": "other", "value": 99.0} for line in one.metrics])
        sealed(one)
    entry = results(table, evidence, "best-test").entries["one-way", "target.top1"]
    assert entry.values() == [59.0, 68.0, 65.0]
    assert entry.figures[1].curve == ((1, 10.0), (2, 62.0))


def test_where_lower_is_better_a_lower_figure_improves() -> None:
    held = plan(tiny({"columns": {"target.loss": {"title": "loss", "better": "lower"}}}), tuple(range(6)))
    losses = {"vanilla": 3.0, "one-way": 2.0, "frozen": 4.0}
    evidence = {
        key: made(held, cell, 100.0 - losses[cell[0]] if cell[1] == "target" else 70.0)
        for cell, key in held.cells().items()
    }
    entries = results(held, evidence).entries
    standing = {arm: entries[arm, "target.loss"].standing for arm in losses}
    assert standing == {"one-way": "best", "vanilla": "other", "frozen": "other"}
    chances = {
        arm: comparison.improvement
        for arm in ("one-way", "frozen")
        if (comparison := entries[arm, "target.loss"].comparison) is not None
    }
    assert chances == {"one-way": 1.0, "frozen": 0.0}


def test_the_parameters_column_has_the_papers_figure_and_no_runs() -> None:
    held = plan(tiny({"columns": {f"target.{HELD}": {"title": "held", "better": "lower"}}}), (0,))
    made = results(held, {})
    assert made.entries["vanilla", f"target.{HELD}"].figures == {}
    assert made.held == held.held() and made.held["one-way"] > made.held["vanilla"]
