"""Cells of a table: their keys are those of the arms alone, and arms that share a run come out as they would alone."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mergenet.config import InputError
from mergenet.experiment import load_experiment
from mergenet.models import find_model
from mergenet.training.plan import make_plan
from mergenet.training.reporter import Silent
from mergenet.training.run import execute
from mergenet.training.spec import RunSpec, data_of, locate_data
from mergenet.training.trained import read_trained
from tests.tables import missing, plan, tiny, train
from tune.ablate import Job, Places, find_missing
from tune.assemble import PROTOCOLS
from tune.cells import TablePlan, plan_table
from tune.groups import Group, group_cells
from tune.table import load_table


def test_a_cell_has_the_key_of_its_arm_alone() -> None:
    table = plan()
    for arm in ("vanilla", "one-way"):
        experiment = table.arms[arm].experiment
        for seed in (0, 1):
            alone = make_plan(experiment, seed, data_of(experiment, {}), 1).cells
            assert {learner: table.cells()[arm, learner, seed] for learner in ("target", "source")} == {
                learner: alone[learner] for learner in ("target", "source")
            }


def test_a_changed_arm_has_other_keys_and_the_others_keep_theirs() -> None:
    before = plan().cells()
    after = plan(tiny({"arms": {"one-way": {"change": {"transfers.main.cycle": 2}}}})).cells()
    changed = {cell for cell, key in before.items() if after[cell] != key}
    assert changed == {("one-way", "target", 0), ("one-way", "target", 1)}  # its source is out of the transfer's reach


def test_an_arm_more_changes_no_key() -> None:
    before = plan().cells()
    after = plan(tiny({"arms": {"more": {"label": "more", "change": {"training.epochs": 2}}}})).cells()
    assert {cell: after[cell] for cell in before} == before


def test_what_a_change_does_not_reach_is_the_same_cell() -> None:
    cells = plan().cells()
    assert cells["vanilla", "source", 0] == cells["one-way", "source", 0]
    assert cells["vanilla", "target", 0] != cells["one-way", "target", 0]
    assert ("frozen", "source", 0) not in cells


def test_a_frozen_source_is_known_by_the_cell_it_was_trained_as() -> None:
    table = plan()
    assert table.arms["frozen"].origins[1]["source"].cell == table.cells()["vanilla", "source", 1]
    longer = plan(tiny({"arms": {"vanilla": {"change": {"learners.source.training.every": 2}}}})).cells()
    assert longer["frozen", "target", 0] != table.cells()["frozen", "target", 0]


def test_the_keys_of_a_seed_are_the_same_whichever_others_are_asked_for() -> None:
    both = plan().cells()
    assert plan(seeds=(1,)).cells() == {cell: key for cell, key in both.items() if cell[2] == 1}
    assert len(set(both.values())) == len(both) - 2  # `one-way` has the source of `vanilla`, for each seed


def test_arms_may_stand_in_any_order() -> None:
    table = tiny()
    turned = table.model_copy(update={"arms": dict(reversed(table.arms.items()))})
    assert plan(turned).cells() == plan().cells()
    assert list(plan(turned).arms) == ["frozen", "one-way", "vanilla"]


def test_a_protocol_reaches_every_arm_and_its_cells_where_it_changes_what_they_become() -> None:
    before = plan(seeds=(0,)).cells()
    best, best_test = (plan_table(tiny(), "tiny", (0,), {}, PROTOCOLS[name]) for name in ("best", "best-test"))
    assert {one.experiment.evaluation.weights for one in best.arms.values()} == {"best"}
    assert not set(best.cells().values()) & set(before.values())
    assert {one.experiment.evaluation.test for one in best_test.arms.values()} == {"always"}
    assert best_test.cells() == before  # what is only looked at changes nothing


def test_data_are_looked_for_where_the_user_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=str(tmp_path)):
        plan_table(load_table("table8"), "paper", (0,), {"cifar100": str(tmp_path)}, {})


def test_arms_that_take_weights_from_each_other_are_refused() -> None:
    circle = {"vanilla": {"trained": {"source": "frozen.source"}}}
    with pytest.raises(InputError, match=r"^table tiny: the arms vanilla, frozen take trained weights from each other"):
        plan(tiny({"arms": circle}))
    with pytest.raises(
        InputError, match=r"^table tiny, arm frozen: trained: no learner 'sorce' trains in arm 'vanilla'"
    ):
        plan(tiny({"arms": {"frozen": {"trained": {"source": "vanilla.sorce"}}}}))


def test_weights_of_another_model_than_takes_them_are_refused() -> None:
    with pytest.raises(InputError, match=r"trained.source: vanilla.target is a mobilenet_v2-narrow, and source a resn"):
        plan(tiny({"arms": {"frozen": {"trained": {"source": "vanilla.target"}}}}))


def test_a_column_of_a_learner_that_trains_nowhere_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"columns.trget.top1: no learner 'trget' trains in any arm; nearest is 'targe"
    ):
        plan(tiny({"columns": {"trget.top1": {"title": "x"}}}))


def test_a_column_is_measured_in_every_arm_where_its_learner_trains() -> None:
    columns = {"columns": {"source.part2": {"title": "x"}}}
    cut = {"change": {"learners.source.task.classification.parts": [5]}}
    both = {"arms": {"vanilla": {"change": {"transfers.main.enabled": False, **cut["change"]}}, "one-way": cut}}
    assert plan(tiny({**columns, **both}), seeds=(0,))
    for arm, other in (("vanilla", "one-way"), ("one-way", "vanilla")):
        with pytest.raises(InputError, match=f"columns.source.part2: source has no metric 'part2' in arm {other}; "):
            plan(tiny({**columns, "arms": {arm: both["arms"][arm]}}), seeds=(0,))


def test_a_frozen_source_has_the_classes_that_it_was_trained_on() -> None:
    some = {"transfers.main.enabled": False, "learners.source.task.classification.classes": [3, 8]}
    table = plan(tiny({"arms": {"vanilla": {"change": some}}}), seeds=(0,))
    assert table.arms["frozen"].origins[0]["source"].classes == 5
    assert plan(seeds=(0,)).arms["frozen"].origins[0]["source"].classes == 10


def test_arms_may_read_other_data_than_each_other(tmp_path: Path) -> None:
    table = plan(seeds=(0,))
    digits = table.arms["vanilla"].experiment
    other = load_experiment(digits.dump(), {
        f"learners.{name}.task.classification.data": "cifar100" for name in digits.learners
    })  # fmt: skip
    assert locate_data([digits, other], {"cifar100": str(tmp_path)}) == {"cifar100": str(tmp_path)}
    with pytest.raises(InputError, match=r"^--data mnist: this experiment reads cifar100, digits and not mnist$"):
        locate_data([digits, other], {"cifar100": str(tmp_path), "mnist": str(tmp_path)})


def test_what_is_held_counts_learners_that_reach_the_columns_and_adapters() -> None:
    table = plan()
    held, arms = table.held(), table.arms
    sizes = {name: learner.parameters for name, learner in arms["one-way"].plan.learners.items()}
    adapter = arms["one-way"].plan.transfers["main"].adapter_parameters
    classifier = 10 * 128  # the port that is read of the frozen source
    assert held["vanilla"] == sizes["source"] + sizes["target"]
    assert held["one-way"] == sizes["source"] + sizes["target"] + adapter
    assert held["frozen"] == classifier + sizes["target"] + adapter


def test_arms_of_one_source_train_in_one_run() -> None:
    table = plan(seeds=(0,))
    groups = group_cells(table, table.cells())
    assert [group.cells for group in groups] == [
        (("vanilla", "target", 0), ("vanilla", "source", 0), ("one-way", "target", 0)),
        (("frozen", "target", 0),),
    ]
    shared = groups[0].experiment
    assert list(shared.learners) == ["vanilla_source", "vanilla_target", "one-way_target"]
    assert [(one.source, one.target) for one in shared.transfers.values()] == [
        ("vanilla_source.classifier", "one-way_target.irb16")
    ]


def test_only_what_is_missing_and_what_it_needs_trains() -> None:
    table = plan(seeds=(0,))
    (group,) = group_cells(table, [("one-way", "target", 0)])
    assert list(group.experiment.learners) == ["source", "target"]  # and not `plain`, which teaches nobody
    assert table.cells()["one-way", "target", 0] in group.plan.cells.values()
    (group,) = group_cells(table, [("vanilla", "source", 0)])
    assert list(group.experiment.learners) == ["source"] and group.experiment.clock == "source"


def test_every_run_makes_the_cells_of_its_own_seed() -> None:
    table = plan()
    groups = group_cells(table, table.cells())
    assert sorted(cell for group in groups for cell in group.cells) == sorted(
        cell
        for cell in table.cells()
        if cell[:2] != ("one-way", "source")  # that of `vanilla`
    )
    for group in groups:
        assert {table.cells()[cell] for cell in group.cells} <= set(group.plan.cells.values())
        assert {cell[2] for cell in group.cells} == {group.seed}
        anew = make_plan(group.experiment, group.seed, data_of(group.experiment, {}), 1, group.origins)
        assert group.plan.hash == anew.hash
        for origin in group.origins.values():
            assert origin.cell == table.cells()["vanilla", "source", group.seed]


def test_arms_that_do_not_go_together_train_alone() -> None:
    table = plan(tiny({"arms": {"one-way": {"change": {"evaluation.weights": "best"}}}}), seeds=(0,))
    runs = [group.cells for group in group_cells(table, [cell for cell in table.cells() if cell[0] != "frozen"])]
    assert len(runs) == 2
    longer = tiny({"arms": {"one-way": {"change": {"learners.target.training": {"epochs": 2}, "training.epochs": 2}}}})
    assert len(group_cells(plan(longer, seeds=(0,)), [("vanilla", "target", 0), ("one-way", "target", 0)])) == 2


def test_an_arm_in_company_ends_with_the_weights_it_ends_with_alone(tmp_path: Path) -> None:
    table = plan(seeds=(0,))
    train(table, tmp_path / "together")
    together = next((tmp_path / "together" / "runs" / "tiny-tiny").glob("*"), None)
    assert together is not None
    for arm, learners in {"vanilla": ("target", "source"), "one-way": ("target",)}.items():
        folder = tmp_path / arm
        execute(RunSpec(table.arms[arm].experiment, 0, {}, folder), Silent())
        for learner in learners:
            alone = read_trained(folder, learner, allow_code=False)
            run, name = _where(tmp_path / "together", table.cells()[arm, learner, 0])
            company = read_trained(run, name, allow_code=False)
            assert alone.result["learners"][learner]["test"] == company.result["learners"][name]["test"]
            assert all(torch.equal(value, company.weights[key]) for key, value in alone.weights.items())


def _where(folder: Path, key: str) -> tuple[Path, str]:
    evidence = missing(plan(seeds=(0,)), folder).evidence[key]
    assert evidence.folder is not None
    return evidence.folder, evidence.learner_of(key)


@pytest.mark.parametrize("training", [{"batch_size": 128}, {"every": 2}])
def test_a_learner_whose_steps_another_counts_trains_beside_it(training: dict[str, int]) -> None:
    paced = tiny({"columns": {"source.top1": {"title": "source"}}, "baseline": "paced", "arms": {"paced": {
        "label": "paced", "change": {"learners.source.training": training, "transfers.main.enabled": False},
    }}})  # fmt: skip
    table = plan(paced, seeds=(0,))
    (group,) = group_cells(table, [("paced", "source", 0)])
    assert table.cells()["paced", "source", 0] in group.plan.cells.values()
    assert list(group.experiment.learners) == ["source", "target"]


def test_weights_are_handed_on_by_a_learner_whose_steps_another_counts(tmp_path: Path) -> None:
    paced = {"label": "paced", "change": {"learners.source.training.batch_size": 128}}
    taking = {"trained": {"source": "paced.source"}}
    table = plan(tiny({"arms": {"paced": paced, "frozen": taking}}), seeds=(0,))
    ablation = find_missing(
        table, Places(tmp_path / "runs", tmp_path / "results"), wanted=lambda cell: cell[0] == "frozen"
    )
    (giving, frozen) = ablation.jobs
    assert frozen.needs() <= giving.makes


def test_weights_whose_checkpoint_is_broken_are_trained_again(tmp_path: Path) -> None:
    table = plan(seeds=(0,))
    places = Places(tmp_path / "runs", tmp_path / "results")
    (first,) = find_missing(table, places, wanted=lambda cell: cell == ("vanilla", "source", 0)).jobs
    execute(first.spec, Silent())
    (frozen,) = find_missing(table, places, wanted=lambda cell: cell[0] == "frozen").jobs
    assert frozen.needs() == {table.cells()["vanilla", "source", 0]}
    for state in first.spec.folder.glob("checkpoints/*/state.pt"):
        state.write_bytes(b"broken")
    again = find_missing(table, places, wanted=lambda cell: cell[0] == "frozen").jobs
    assert frozen.needs() <= set().union(*(job.makes for job in again))


def test_columns_that_no_run_would_fill_are_refused_before_it() -> None:
    with pytest.raises(
        InputError, match=r"^table tiny: columns\.target\.top2: target has no metric 'top2' in arm vanilla; nearest is"
    ):
        plan(tiny({"columns": {"target.top2": {"title": "x"}}}))


# --- losses with teachers and shared weights ---------------------------------------------------------------------

OFF = {"transfers.main.enabled": False}
BY_FROZEN = {
    "learners.teacher": {"model": "resnet18-narrow", "frozen": True},
    "distill.main": {"from": "teacher", "to": "target", "loss": "kd"},
}
TEACHING: dict[str, Any] = {
    "distilled": {"label": "KD", "change": {**OFF, **BY_FROZEN}, "trained": {"teacher": "vanilla.source"}},
    "both": {"label": "KD and one way", "change": BY_FROZEN, "trained": {"teacher": "vanilla.source"}},
    "beside": {
        "label": "the teacher trains",
        "change": {**OFF, "distill.main": {"from": "source", "to": "target", "loss": {"mgd": {"resize": "bilinear"}}}},
    },
    "copied": {
        "label": "from its own copy",
        "change": {**OFF, **BY_FROZEN, "learners.teacher.model": "mobilenet_v2-narrow"},
        "trained": {"teacher": "distilled.target"},
    },
    "copied-both": {
        "label": "from its own copy and one way",
        "change": {**BY_FROZEN, "learners.teacher.model": "mobilenet_v2-narrow"},
        "trained": {"teacher": "distilled.target"},
    },
    "shared": {
        "label": "a shared weight",
        "change": {**OFF, "share.main": {"from": "source.conv1", "to": "target.features.0.0"}},
    },
}


def teaching(*arms: str) -> TablePlan:
    """The tiny table with these arms more."""
    change = {"arms": {name: TEACHING[name] for name in arms}}
    table = tiny(change)
    kept = {name: arm for name, arm in table.arms.items() if name in ("vanilla", "one-way", *arms)}
    return plan(table.model_copy(update={"arms": kept}), seeds=(0,))


def in_turn(groups: Iterable[Group | Job]) -> list[Group | Job]:
    """Those that can start one after another, each when all is there that it begins with."""
    waiting, done, made = list(groups), list[Group | Job](), set[str]()
    while ready := [group for group in waiting if group.needs() <= made]:
        done += ready
        made |= {key for group in ready for key in (group.makes if isinstance(group, Job) else makes(group))}
        waiting = [group for group in waiting if not any(group is one for one in ready)]
    return done


def makes(group: Group) -> set[str]:
    return set(group.plan.cells.values())


def test_an_arm_that_needs_what_another_trains_is_never_in_its_run() -> None:
    table = teaching(*TEACHING)
    runs = group_cells(table, table.cells())
    of = {arm: number for number, group in enumerate(runs) for arm, learner, _ in group.cells if learner == "target"}
    assert of["vanilla"] == of["one-way"] == of["beside"]
    assert of["both"] == of["copied-both"]
    apart = ("vanilla", "distilled", "both", "copied", "shared")
    assert len({of[arm] for arm in apart}) == len(apart) == len(runs)
    assert len(in_turn(runs)) == len(runs)
    for group in runs:
        assert {table.cells()[cell] for cell in group.cells} <= makes(group)
    vanilla, both = table.cells()["vanilla", "source", 0], runs[of["both"]]
    assert vanilla in both.needs() and vanilla in makes(both)


def test_arms_are_renamed_in_every_family_of_edges() -> None:
    table = teaching("beside", "shared", "distilled")
    whole = [cell for cell in table.cells() if cell[0] in ("vanilla", "one-way", "beside")]
    (together,) = group_cells(table, whole)
    assert list(together.experiment.distill) == ["beside_main"]
    lesson = together.experiment.distill["beside_main"]
    assert (lesson.teacher, lesson.student) == ("vanilla_source", "beside_target")
    (alone,) = group_cells(table, [("shared", "target", 0)])
    assert alone.experiment.share["main"].large == "source.conv1" and set(alone.experiment.learners) == {
        "source",
        "target",
    }


@pytest.mark.parametrize("wanted", [None, "target"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("arm", ["distilled", "both", "copied", "copied-both"])
def test_whatever_of_a_table_is_asked_for_there_is_a_run_to_begin_with(
    tmp_path: Path, arm: str, turned: bool, wanted: str | None
) -> None:
    """Also where the arm itself trains what its teacher's teacher is."""
    table = teaching("distilled", "both", "copied", "copied-both")
    table = replace(table, arms=dict(reversed(table.arms.items()))) if turned else table
    places = Places(tmp_path / "runs", tmp_path / "results")
    jobs = find_missing(table, places, wanted=lambda cell: cell[0] == arm and wanted in (None, cell[1])).jobs
    assert len(in_turn(jobs)) == len(jobs) >= 2
    assert table.cells()[arm, "target", 0] in set().union(*(job.makes for job in jobs))


def test_arms_with_teachers_end_in_company_with_the_weights_they_end_with_alone(tmp_path: Path) -> None:
    table = teaching("distilled", "beside")
    folder = tmp_path / "together"
    trained = train(table, folder)
    assert len(trained) == 2
    ablation = missing(table, folder)
    assert ablation.missing() == []
    execute(RunSpec(table.arms["beside"].experiment, 0, {}, tmp_path / "beside"), Silent())
    alone = read_trained(tmp_path / "beside", "target", allow_code=False)
    key = table.cells()["beside", "target", 0]
    evidence = ablation.evidence[key]
    assert evidence.folder is not None
    company = read_trained(evidence.folder, evidence.learner_of(key), allow_code=False)
    assert all(torch.equal(value, company.weights[name]) for name, value in alone.weights.items())


def test_what_is_held_counts_whole_teachers_layers_of_losses_and_slices_once() -> None:
    table = teaching("distilled", "beside", "shared")
    held = table.held()
    source, target = (table.arms["vanilla"].plan.learners[name].parameters for name in ("source", "target"))
    file = sum(value.numel() for value in find_model("resnet18-narrow").build(10).state_dict().values())
    assert held["distilled"] - source - target in (source, file)
    assert held["beside"] == source + target + 1280 * 128 + 128 + 2 * (128 * 128 * 9 + 128)
    assert held["shared"] == source + target - 16 * 3 * 9
