"""What a table is: every one that comes with the package resolves at every scale, and what does not fit is refused."""

from pathlib import Path
from typing import Any

import pytest

from mergenet.config import InputError, as_yaml, merge, read_file
from mergenet.experiment import load_experiment
from tests.tables import TINY, tiny
from tune.scale import SCALES
from tune.table import (
    HELD,
    PAPER,
    Table,
    experiment_of,
    load_table,
    paper_figures,
    seeds_of,
    tables,
    with_models,
)


@pytest.mark.parametrize("name", tables())
def test_every_arm_of_every_table_is_an_experiment_at_every_scale(name: str) -> None:
    table = load_table(name)
    assert table.name == name
    for scale in table.scales:
        experiments = [experiment_of(table, scale, arm) for arm in table.arms]
        assert {one.name for one in experiments} == {f"{name}-{scale}"}
        plain = [str(one.dump()) for one in experiments]
        assert len(set(plain)) == len(plain), "two arms are the same experiment"


def test_the_tables_that_are_promised_are_there_at_the_scales_that_are_promised() -> None:
    assert {"table1", "table5", "table6", "table8", "figure3"} <= set(tables())
    for name in tables():
        assert {"smoke", "digits", "cifar16", "paper"} <= set(load_table(name).scales)


def test_the_arms_are_what_the_paper_compares() -> None:
    arms = {arm: experiment_of(load_table("table8"), "paper", arm) for arm in load_table("table8").arms}
    adapters = {arm: one.transfers["there"].adapter.dump() for arm, one in arms.items()}
    assert not any(transfer.enabled for transfer in arms["vanilla"].transfers.values())
    assert adapters["individual"]["combinations"] == ["row-row"] and adapters["individual"]["form"] == "paper"
    assert adapters["average"]["mix"] == "average" and adapters["average"]["form"] == "paper"
    assert adapters["mergenet"]["mix"] == "learned" and len(adapters["mergenet"]["combinations"]) == 4
    assert "hidden" in adapters["mlp"]
    self_transfer = load_table("table5")
    ends = [experiment_of(self_transfer, "paper", f"irb{block}").transfers["inner"].target for block in (4, 8, 12, 16)]
    assert ends == ["target.irb4", "target.irb8", "target.irb12", "target.irb16"]
    cycles = [
        [
            transfer.cycle
            for transfer in experiment_of(load_table("figure3"), "paper", f"cycle-{cycle}").transfers.values()
        ]
        for cycle in (1, 2, 4, 8, 16)
    ]
    assert cycles == [[1, 1], [2, 2], [4, 4], [8, 8], [16, 16]]


def test_the_paper_scale_is_the_recipe_itself() -> None:
    recipe = load_experiment("cifar100-both-ways")
    assert experiment_of(load_table("table8"), "paper", "gated").dump() == {**recipe.dump(), "name": "table8-paper"}


def test_figures_of_the_paper_stand_at_arms_and_columns_that_exist() -> None:
    for name in tables():
        table = load_table(name)
        figures = paper_figures(table)
        assert bool(figures) == (table.paper is not None), name
        for arm, row in figures.items():
            assert set(row) <= set(table.columns), (name, arm)
    assert paper_figures(load_table("table8"))["mergenet"] == {"target.top1": 66.51, "source.top1": 69.84}
    assert paper_figures(load_table("table6"))["frozen"] == {f"target.{HELD}": 12.1, "target.top1": 65.92}


def test_every_row_of_the_paper_file_is_a_map_of_figures() -> None:
    for rows in read_file(PAPER).values():
        for row in rows.values():
            assert all(isinstance(value, float) and "." in column for column, value in row.items())


def test_an_arm_wins_over_the_scale_and_the_scale_over_the_recipe() -> None:
    table = tiny({"arms": {"slow": {"label": "slow", "change": {"training.epochs": 7}}}})
    assert experiment_of(table, "tiny", "slow").learners["target"].training.epochs == 7
    assert experiment_of(table, "tiny", "vanilla").learners["target"].training.epochs == 1
    assert experiment_of(table, "tiny", "vanilla", {"training.epochs": 9}).learners["target"].training.epochs == 9


def test_a_scale_changes_models_in_arms_too() -> None:
    arm = experiment_of(load_table("table6"), "digits", "vanilla-source")
    assert arm.learners["target"].model == "resnet18-narrow"
    assert arm.learners["target"].trained_task.data == "digits"


def test_labels_and_titles_name_the_models_that_are_trained() -> None:
    at_digits, at_paper = (with_models(load_table("table6"), scale) for scale in ("digits", "paper"))
    assert at_digits.arms["vanilla-source"].label == "resnet18-narrow alone"
    assert at_paper.arms["vanilla-source"].label == "resnet50-cifar alone"
    titles = with_models(load_table("table8"), "digits").columns
    assert titles["target.top1"].title == "mobilenet_v2-narrow top-1"


def test_a_scale_of_its_own_lies_over_the_shared_one() -> None:
    own = tiny({"scales": {"digits": {"change": {"training": {"epochs": 3}}, "seeds": 4}}})
    scale = own.scale("digits")
    assert scale.change["training"]["epochs"] == 3
    assert scale.models == read_file(SCALES / "digits.yaml")["models"]
    assert list(seeds_of(own, "digits", None)) == [0, 1, 2, 3]
    assert list(seeds_of(own, "digits", 2)) == [0, 1]
    assert list(seeds_of(own, "tiny", None)) == [0, 1]


def test_a_scale_changes_an_arm_of_its_own_over_what_the_arm_says() -> None:
    arms = {"one-way": {"change": {"transfers.main.cycle": 3}}}
    scales = {"tiny": {"arms": {"one-way": {"transfers.main.cycle": 2}}}, "other": {}}
    before, after = tiny({"arms": arms, "scales": {"other": {}}}), tiny({"arms": arms, "scales": scales})
    assert experiment_of(after, "tiny", "one-way").transfers["main"].cycle == 2
    assert experiment_of(after, "tiny", "one-way", {"transfers.main.cycle": 5}).transfers["main"].cycle == 5
    for scale, arm in (("tiny", "vanilla"), ("tiny", "frozen"), ("other", "one-way"), ("other", "vanilla")):
        assert experiment_of(after, scale, arm) == experiment_of(before, scale, arm)
    wrong = tiny({"scales": {"tiny": {"arms": {"one-way": {"transfers.main.cycel": 2}}}}})
    with pytest.raises(InputError, match=r"^table tiny, arm one-way: transfers\.main\.cycel: unknown key"):
        experiment_of(wrong, "tiny", "one-way")


def test_a_table_of_ones_own_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(as_yaml({**TINY, "name": "own"}))
    table = load_table(str(tmp_path / "own.yaml"))
    assert table.name == "own" and list(table.arms) == ["vanilla", "one-way", "frozen"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"baseline": "vanila"}, "baseline: no arm 'vanila'; nearest is 'vanilla'"),
        ({"arms": {"one-way": {"baseline": "frozn"}}}, "arms.one-way.baseline: no arm 'frozn'; nearest is 'frozen'"),
        ({"columns": {"top1": {"title": "x"}}}, "columns.top1: write it as learner.metric"),
        ({"columns": {"target.top1": {"better": "more"}}}, "columns.target.top1.better: "),
        (
            {"primary": ["one-way"]},
            "primary: 'one-way' is no arm with a baseline and a measured column, as 'frozen target.top1' is",
        ),
        ({"primary": ["vanilla target.top1"]}, "primary: 'vanilla target.top1' is no arm with a baseline"),
        (
            {"arms": {"frozen": {"trained": {"source": "nobody.source"}}}},
            "arms.frozen.trained.source: write it as arm.learner, got 'nobody.source'",
        ),
        ({"scales": {"tiny": {"arms": {"frozn": {}}}}}, "scales.tiny.arms: no arm 'frozn'; nearest is 'frozen'"),
        ({"sedes": 3}, "sedes: unknown key; nearest is 'seeds'"),
        ({"arms": {"one-way": {"chnage": {}}}}, "arms.one-way.chnage: unknown key; nearest is 'change'"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(change: dict[str, Any], line: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(as_yaml(merge(Table, TINY, change)))
    with pytest.raises(InputError) as refusal:
        load_table(str(path))
    assert str(refusal.value).startswith(f"table {path}: {line}")


def test_a_change_that_fits_no_experiment_names_its_arm() -> None:
    table = tiny({"arms": {"one-way": {"change": {"transfers.main.cycel": 3}}}})
    with pytest.raises(
        InputError, match=r"^table tiny, arm one-way: transfers\.main\.cycel: unknown key; nearest is 'cycle'$"
    ):
        experiment_of(table, "tiny", "one-way")


def test_unknown_names_have_a_nearest() -> None:
    with pytest.raises(InputError, match=r"^no table 'tabel8'; nearest is 'table8'"):
        load_table("tabel8")
    with pytest.raises(InputError, match=r"^--scale papr: table8 has no such scale; nearest is 'paper'$"):
        load_table("table8").scale("papr")


def test_a_table_that_the_paper_does_not_have_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(as_yaml({**TINY, "paper": "tabel8"}))
    with pytest.raises(InputError, match=r"mine.yaml: paper: no table 'tabel8'; nearest is 'table8'$"):
        load_table(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("trained", "line"),
    [
        ({"source": "vanilla"}, "arms.frozen.trained.source: write it as arm.learner, got 'vanilla'"),
        ({"sorce": "vanilla.source"}, "learners.sorce.model: is missing"),
    ],
)
def test_weights_to_take_that_do_not_fit_are_refused_in_a_line(trained: dict[str, str], line: str) -> None:
    with pytest.raises(InputError, match=line):
        experiment_of(tiny({"arms": {"frozen": {"trained": trained}}}), "tiny", "frozen")


def test_a_learner_that_an_arm_brings_takes_the_scale_and_then_the_users_word() -> None:
    table = load_table("amalgamation")
    flips = {f"learners.{name}.task.classification.augmentation.flip": True for name in ("first", "third")}
    plain, flipped = (experiment_of(table, "digits", "quarters", change) for change in ({}, flips))
    for name in ("first", "third"):
        one, other = (each.learners[name].trained_task for each in (plain, flipped))
        assert one.data == other.data == "digits" and one.augmentation.crop == 0
        assert not one.augmentation.flip and other.augmentation.flip
    assert plain.learners["third"].trained_task.classes == (5, 8)
