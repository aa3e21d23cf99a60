"""Each option of a transfer changes what it says and nothing else: a table, so that a new option is a new row."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn

from mergenet.config import InputError, Neutral, merge
from mergenet.data.images import Images
from mergenet.experiment import Experiment, load_experiment
from mergenet.method.adapter import Lpka, Mlp
from mergenet.method.encoding import Factored, Svd
from mergenet.method.options import TransferOptions
from mergenet.models import MODELS, Model
from mergenet.training.graph import Graph
from mergenet.training.plan import make_plan
from mergenet.training.spec import data_of
from tests.plain import Plain, PlainAdapter
from tests.smooth import SMOOTH
from tests.test_loop import graph_of, run

MakeExperiment = Callable[..., Experiment]
STEPS, CYCLE = 9, 2
HIDDEN = "3"  # a convolution (8, 8, 3, 3) with a bias, a BatchNorm right behind it


def build_normed(classes: int) -> nn.Module:
    """Two convolutions, each before a BatchNorm, and a linear layer for digits of 8 x 8."""
    first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    blocks = (first, nn.BatchNorm2d(8), nn.GELU(), second, nn.BatchNorm2d(8), nn.GELU())
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(512, classes))


NORMED = Model(build_normed, {"classifier": "7"})


@dataclass(frozen=True)
class Row:
    """What is set, and what else must be for it to mean anything."""

    change: dict[str, Any]
    beside: dict[str, Any] = field(default_factory=dict)


def lpka(**options: Any) -> dict[str, Any]:
    return {"adapter": {"lpka": options}}


def svd(**options: Any) -> dict[str, Any]:
    return {"encoding": {"svd": options}}


PAPER = lpka(form="paper")
FACTORS = {"encoding": {"factored": {"attends": "A"}}}

TABLE = {
    "control": Row({"control": "shuffled"}),
    "flattening": Row({"flattening": "kernel"}),
    "bias": Row({"bias": True}),
    "encoding": Row({"encoding": "whole"}),
    "encoding.svd.rank": Row(svd(rank=2)),
    "encoding.svd.iterations": Row(svd(iterations=3)),
    "encoding.svd.attends": Row(svd(attends="B")),
    "encoding.svd.attends: both": Row(svd(attends="both")),
    "encoding.factored.attends": Row({"encoding": {"factored": {"attends": "B"}}}, FACTORS),
    "encoding.factored.attends: both": Row({"encoding": {"factored": {"attends": "both"}}}, FACTORS),
    "adapter": Row({"adapter": "mlp"}),
    "adapter.mlp.hidden": Row({"adapter": {"mlp": {"hidden": 16}}}, {"adapter": "mlp"}),
    "adapter.lpka.form": Row(PAPER),
    "adapter.lpka.mix": Row(lpka(mix="average")),
    "adapter.lpka.mix: free": Row(lpka(mix="free"), PAPER),
    "adapter.lpka.combinations": Row(lpka(combinations=["row-row"])),
    "adapter.lpka.depth": Row(lpka(depth=3)),
    "adapter.lpka.carries": Row(lpka(carries="both")),
    "adapter.lpka.feed_forward": Row(lpka(feed_forward=False)),
    "adapter.lpka.spectral_norm": Row(lpka(spectral_norm=False), PAPER),
    "adapter.lpka.output_norm": Row(lpka(output_norm=False), PAPER),
    "adapter.lpka.heads": Row(lpka(heads=4)),
    "adapter.lpka.width": Row(lpka(width=32)),
    "adapter.lpka.width: tokens": Row(lpka(width="tokens")),
    "adapter.lpka.points": Row(lpka(points=2), lpka(points=0)),
    "adapter.lpka.dropout": Row(lpka(dropout=0.5)),
    "match": Row({"match": "rows"}, PAPER),
    "match: norm": Row({"match": "norm"}, PAPER),
    "match: moments": Row({"match": "moments"}, PAPER),
    "blend": Row({"blend": 0.5}),
    "optimizer_state": Row({"optimizer_state": "reset"}),
    "optimizer_state: rescale": Row({"optimizer_state": "rescale"}),
    "batchnorm": Row({"batchnorm": "reset"}),
    "batchnorm: rescale": Row({"batchnorm": "rescale"}),
    "cycle": Row({"cycle": 3}),
    "start": Row({"start": 0.5}),
    "stop": Row({"stop": 0.5}),
    "span": Row({"span": "cycle"}),
    "update": Row({"update": "loss"}),
    "optimizer": Row({"optimizer": {"sgd": {"lr": 1e-2}}}),
    "schedule": Row({"schedule": "constant"}),
    "clip": Row({"clip": 1e-6}, {"optimizer": {"sgd": {"lr": 1e-2}}}),
    "enabled": Row({"enabled": False}),
}

MEANT_FOR_SEVERAL = {"turn"}  # has no meaning for one transfer alone, and a test of its own below


@pytest.fixture
def trio(small: MakeExperiment, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Experiment]:
    """Two normed networks, the classifier of one into a convolution of the other."""
    monkeypatch.setitem(MODELS, "normed", NORMED)

    def make(*changes: dict[str, Any], **others: Any) -> Experiment:
        learner = {"model": "normed", "task": {"classification": {"data": "digits"}}}
        factored = {"factored": {HIDDEN: {"rank": 4}, "classifier": {"rank": 4}}} if FACTORS in changes else {}
        main: dict[str, Any] = {
            "from": "source.classifier",
            "to": f"target.{HIDDEN}",
            "encoding": {"svd": {"rank": 4}},
            "adapter": {"lpka": {"width": 16, "heads": 2, "depth": 2}},
            "cycle": CYCLE,
            "optimizer": {"adamw": {"lr": 1e-2}},
        }
        for change in changes:
            main = merge(TransferOptions, main, change)
        base = {
            "learners": {"source": {**learner, **factored}, "target": {**learner, "copy": 1, **factored}},
            "transfers": {"main": main},
            "training": {"epochs": 2},
        }
        return small(merge(Experiment, base, others))

    return make


def states(graph: Graph, learner: str) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in graph.learners[learner].model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("name", TABLE)
def test_an_option_changes_the_target_from_the_first_transfer_on_and_nothing_else(
    name: str, trio: Callable[..., Experiment], digits: Images
) -> None:
    row = TABLE[name]
    graphs = [graph_of(trio(*changes), digits) for changes in ((row.beside,), (row.beside, row.change))]
    for _ in range(CYCLE):
        first, second = (states(run(graph, 1), "target") for graph in graphs)
        assert equal(first, second)
    base, changed = (run(graph, STEPS - CYCLE) for graph in graphs)
    assert equal(states(base, "source"), states(changed, "source"))
    assert not equal(states(base, "target"), states(changed, "target"))
    assert all(torch.isfinite(value).all() for value in states(changed, "target").values())


@pytest.mark.parametrize("name", TABLE)
def test_an_option_names_another_cell_of_the_target_and_the_same_of_the_source(
    name: str, trio: Callable[..., Experiment]
) -> None:
    row = TABLE[name]
    base, changed = (make_plan(one, 0, data_of(one, {}), 1) for one in (trio(row.beside), trio(row.beside, row.change)))
    assert base.cells["source"] == changed.cells["source"]
    assert base.cells["target"] != changed.cells["target"] and base.hash != changed.hash


def test_every_option_has_its_row() -> None:
    there = {name.partition(":")[0] for name in TABLE} | MEANT_FOR_SEVERAL
    ends = {"source", "target"}
    families = {"": TransferOptions, "adapter.lpka.": Lpka, "adapter.mlp.": Mlp, "encoding.svd.": Svd}
    families["encoding.factored."] = Factored
    for prefix, options in families.items():
        assert {f"{prefix}{name}" for name in options.model_fields if name not in ends} <= there


def test_every_option_is_in_the_table_of_the_page() -> None:
    page = (Path(__file__).parents[1] / "docs" / "method.md").read_text()
    cells = {word for line in page.splitlines() if line.startswith("|") for word in re.findall("`([^`]+)`", line)}
    for name, options in {
        "": TransferOptions,
        "adapter.lpka.": Lpka,
        "adapter.mlp.": Mlp,
        "encoding.svd.": Svd,
        "encoding.factored.": Factored,
    }.items():
        for field_name, info in options.model_fields.items():
            assert f"{name}{info.alias or field_name}" in cells, f"{name}{field_name}"
            for value in get_args(info.annotation):
                assert not isinstance(value, str) or value in cells, f"{name}{field_name}: {value}"


@pytest.mark.parametrize("options", [TransferOptions, Lpka, Svd])
def test_a_neutral_value_said_aloud_is_the_same_cell(options: type, trio: Callable[..., Experiment]) -> None:
    wrap = {TransferOptions: lambda said: said, Lpka: lambda said: lpka(**said), Svd: lambda said: svd(**said)}[options]
    plain = make_plan(trio(lpka(points=0)), 0, data_of(trio(), {}), 1).cells
    for name, info in options.model_fields.items():  # type: ignore[attr-defined]
        for mark in (mark for mark in info.metadata if isinstance(mark, Neutral)):
            said = trio(lpka(points=0), wrap({name: mark.value}))
            assert make_plan(said, 0, data_of(said, {}), 1).cells == plain, name


# --- turns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [0, 1])
def test_a_later_turn_reads_what_an_earlier_one_wrote_and_the_same_turn_what_was_before(
    turn: int, small: MakeExperiment, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "smooth", SMOOTH)
    learner = {"model": "smooth", "task": {"classification": {"data": "digits"}}}
    shared = {
        "encoding": "whole",
        "adapter": {"lpka": {"width": 16, "heads": 2, "depth": 1}},
        "optimizer": {"adamw": {"lr": 1e-2}},
    }
    transfers = {
        "main": {"from": "source.5", "to": "target.2", "cycle": CYCLE, **shared},
        "back": {"from": "target.2", "to": "source.2", "cycle": CYCLE, "turn": turn, **shared},
    }
    learners = {"source": learner, "target": {**learner, "copy": 1}}
    graph = run(graph_of(small({"learners": learners, "transfers": transfers, "training": {"epochs": 2}}), digits), 10)

    source, target = Plain(digits, 0), Plain(digits, 1)
    there = PlainAdapter("5", "2", (8, 8), (10, 512), 4)
    back = PlainAdapter("2", "2", (8, 8), (8, 8), 4)
    for step in range(10):
        due = step > 0 and step % CYCLE == 0
        if due:
            generated = there.module(target.matrix("2"), source.matrix("5"))
            read = generated.detach() if turn else target.matrix("2")
            target.write("2", generated)
            returned = back.module(source.matrix("2"), read)
            source.write("2", returned)
        source.step(step)
        target.step(step)
        if due:
            there.learn(generated, target.matrix("2"))
            back.learn(returned, source.matrix("2"))
    assert target.has_the_weights_of(graph.learners["target"].model)
    assert source.has_the_weights_of(graph.learners["source"].model)


# --- what makes no sense -----------------------------------------------------------------------------------------

REFUSED = {
    "bias: one a row, and flattening 'kernel' has several": {"bias": True, "flattening": "kernel"},
    "encoding 'factored' reads factors as they are; leave flattening and bias out": {**FACTORS, "bias": True},
    "batchnorm: a factor has no outputs of its own; leave it at 'keep'": {**FACTORS, "batchnorm": "reset"},
    "update 'loss' is the gradient of the one step after": {"update": "loss", "span": "cycle"},
    "adapter.lpka: mix: the gated form weighs each": lpka(mix="free"),
    "adapter.lpka: spectral_norm, output_norm: the gated form has neither": lpka(spectral_norm=False),
    "adapter.lpka: spectral_norm, output_norm: the gated form has neither; leave": lpka(output_norm=False),
    "adapter.lpka: spectral_norm: is that of the feed-forward block, and there is none": lpka(
        form="paper", spectral_norm=False, feed_forward=False
    ),
    "adapter.lpka: carries: one layer has nobody to hand": lpka(carries="both", depth=1),
    "adapter.lpka: heads 256: a width of `tokens` may be 128": lpka(width="tokens", heads=256),
    "encoding.svd.attends: input should be 'longer', 'A', 'B' or 'both', got 'C'": svd(attends="C"),
    "optimizer.sgd: nesterov: is a form of momentum, and there is none; leave it out": {
        "optimizer": {"sgd": {"momentum": 0, "nesterov": True}}
    },
    "blend: input should be less than or equal to 1": {"blend": 1.5},
}


@pytest.mark.parametrize("line", REFUSED)
def test_a_combination_that_makes_no_sense_is_refused_by_a_line_that_says_so(
    line: str, trio: Callable[..., Experiment]
) -> None:
    with pytest.raises(InputError) as refused:
        trio(REFUSED[line])
    assert f"transfers.main.{line}" in str(refused.value) or f"transfers.main: {line}" in str(refused.value)


UNFIT = {
    "transfers.main.flattening: neither end is a kernel above 1 x 1; leave it out": (
        {"flattening": "kernel", "to": "target.classifier"},
        {},
    ),
    "transfers.main.batchnorm: no BatchNorm comes right behind '7'": (
        {"batchnorm": "reset", "to": "target.classifier"},
        {},
    ),
    "transfers.main.from: normed: port 'classifier' is not factored: its learner says so with `factored:": (
        {"encoding": {"factored": {"attends": "B"}}},
        {},
    ),
    "transfers.main.to: normed: port '3' is trained as two factors": (
        {},
        {"learners": {"target": {"factored": {HIDDEN: {"rank": 2}}}}},
    ),
    "learners.target.factored.3.rank: 9 is above 8, the most a 8 x 72 has": (
        {},
        {"learners": {"target": {"factored": {HIDDEN: {"rank": 9}}}}},
    ),
    "learners.target.factored.7: its layer is parametrised already, under another name or by its model": (
        {},
        {"learners": {"target": {"factored": {"classifier": {"rank": 2}, "7": {"rank": 2}}}}},
    ),
    "learners.target.factored.clasifier: no layer with a matrix of that name; nearest is 'classifier'": (
        {},
        {"learners": {"target": {"factored": {"clasifier": {"rank": 2}}}}},
    ),
}


@pytest.mark.parametrize("line", UNFIT)
def test_what_the_networks_do_not_have_is_refused_before_anything_runs(
    line: str, trio: Callable[..., Experiment]
) -> None:
    change, others = UNFIT[line]
    experiment = trio(change, **others)
    with pytest.raises(InputError) as refused:
        make_plan(experiment, 0, data_of(experiment, {}), 1)
    assert str(refused.value).startswith(line)


def test_a_bias_that_is_not_there_is_refused() -> None:
    experiment = load_experiment(
        "digits-cross-structure", {"transfers.main.bias": True, "learners.source.task.classification.data": "digits"}
    )
    with pytest.raises(InputError, match=r"^transfers\.main\.to: mobilenet_v2-narrow: port 'irb16' has no bias; leave"):
        make_plan(experiment, 0, data_of(experiment, {}), 1)


def test_an_optimizer_without_momentum_has_no_state_to_reset(trio: Callable[..., Experiment]) -> None:
    still = {"training": {"optimizer": {"sgd": {"momentum": 0.0}}}}
    with pytest.raises(
        InputError, match=r"^transfers\.main\.optimizer_state: 'target' trains without momentum; leave it out"
    ):
        trio({"optimizer_state": "reset"}, **still)
