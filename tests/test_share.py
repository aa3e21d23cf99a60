"""Weights that two learners share, at work: against a loop written by hand, stopped and gone on, and what ends them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mergenet.data.images import Images
from mergenet.experiment import Experiment
from mergenet.models import MODELS
from mergenet.training.evaluation import evaluate
from mergenet.training.graph import Graph
from mergenet.training.plan import make_plan
from tests.compare import assert_runs_equal, final_state
from tests.plain import Plain
from tests.smooth import BROAD, SMOOTH
from tests.teaching import experiment, learner
from tests.test_loop import graph_of, run, weights
from tests.test_resume import run as run_in

STEPS = 10
LAYER = "2"  # a convolution 1 x 1, (16, 16) of the large network and (8, 8) of the small one


@pytest.fixture(autouse=True)
def networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "smooth", SMOOTH)
    monkeypatch.setitem(MODELS, "broad", BROAD)


def sharing(order: str = "stands", large: Mapping[str, Any] | None = None, **rest: Any) -> Experiment:
    learners = {"large": learner(0, "broad", **(large or {})), "target": learner(1)}
    share = {"main": {"from": "large.2", "to": "target.2", "order": order}}
    return experiment(learners, share=share, **rest)


def shared(graph: Graph) -> tuple[Tensor, Tensor]:
    """Both weights as they stand."""
    return tuple(graph.learners[name].model.state_dict()[f"{LAYER}.weight"] for name in ("large", "target"))  # type: ignore[return-value]


def by_norm(weight: Tensor, dim: int) -> Tensor:
    """Eight channels, the one of the largest L1 norm first."""
    norms = weight.detach().abs().sum(dim=[other for other in range(4) if other != dim])
    return norms.argsort(descending=True, stable=True)[:8]


class PlainPair:
    """Two learners and the slice, one step along both losses."""

    def __init__(self, digits: Images, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.order = order
        self.small = Plain(digits, 1)
        with monkeypatch.context() as patch:  # the keys of the other model's weights
            patch.setattr("tests.plain.SMOOTH", BROAD)
            patch.setattr(
                "mergenet.randomness.key", lambda *parts: KEY(*("broad" if p == "smooth" else p for p in parts))
            )
            self.large = Plain(digits, 0)
        small = [value for name, value in self.small.model.named_parameters() if name != f"{LAYER}.weight"]
        self.small.optimizer = torch.optim.SGD(small, lr=0.05, momentum=0.9, weight_decay=5e-4)
        self.sort()

    def sort(self) -> None:
        weight = self.large.weight(LAYER)
        stands = (torch.arange(8), torch.arange(8))
        self.orders = stands if self.order == "stands" else (by_norm(weight, 0), by_norm(weight, 1))

    def slice(self) -> Tensor:
        outputs, inputs = self.orders
        return self.large.weight(LAYER)[outputs][:, inputs]

    def step(self, step: int) -> None:
        if self.order == "epoch" and step % 5 == 0:
            self.sort()
        losses = []
        for plain, own in ((self.large, {}), (self.small, {f"{LAYER}.weight": self.slice()})):
            plain.optimizer.param_groups[0]["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * step / STEPS))
            plain.optimizer.zero_grad()
            ((images, labels),) = plain.parts(step)
            logits = torch.func.functional_call(plain.model, own, images)
            losses.append(functional.cross_entropy(logits, labels))
        torch.stack(losses).sum().backward()
        for plain in (self.large, self.small):
            plain.optimizer.step()


def _key() -> Any:
    from mergenet import randomness

    return randomness.key


KEY = _key()


@pytest.mark.parametrize("order", ["stands", "start", "epoch"])
def test_both_losses_reach_the_large_weight_in_one_step(
    digits: Images, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = PlainPair(digits, order, monkeypatch)
    graph = graph_of(sharing(order), digits)
    assert torch.equal(shared(graph)[1], pair.slice())
    for step in range(STEPS):
        pair.step(step)
        run(graph, 1)
        assert torch.equal(shared(graph)[1], pair.slice())
    assert pair.large.has_the_weights_of(graph.learners["large"].model)
    mine, found = pair.small.model.state_dict(), graph.learners["target"].model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in mine.items() if name != f"{LAYER}.weight")


def test_a_batch_in_parts_adds_up_to_the_same_step(digits: Images) -> None:
    whole, parts = (run(graph_of(sharing(training={"accumulation": count}), digits), STEPS) for count in (1, 4))
    for name in ("large", "target"):
        torch.testing.assert_close(weights(parts, name), weights(whole, name), rtol=1e-3, atol=1e-5)


def test_a_disabled_share_leaves_both_as_they_are_alone(digits: Images) -> None:
    plain = sharing().model_copy(update={"share": {}})
    off = experiment(
        {"large": learner(0, "broad"), "target": learner(1)},
        share={"main": {"from": "large.2", "to": "target.2", "enabled": False}},
    )
    graphs = [run(graph_of(one, digits), 3) for one in (plain, off, sharing())]
    for name in ("large", "target"):
        assert torch.equal(weights(graphs[0], name), weights(graphs[1], name))
        assert not torch.equal(weights(graphs[0], name), weights(graphs[2], name))


def test_a_slice_is_held_once(digits: Images) -> None:
    plan = make_plan(sharing(), 0, {"digits": digits}, 1)
    alone = make_plan(experiment({"target": learner(1)}), 0, {"digits": digits}, 1)
    assert plan.learners["target"].parameters == alone.learners["target"].parameters - 64
    assert plan.learners["target"].steps == alone.learners["target"].steps
    trained = dict(graph_of(sharing(), digits).learners["target"].model.named_parameters())
    assert sum(one.numel() for one in trained.values()) == plan.learners["target"].parameters


def test_several_slices_of_one_weight(digits: Images) -> None:
    learners = {"large": learner(0, "broad"), "target": learner(1), "third": learner(2)}
    share = {name: {"from": "large.2", "to": f"{name}.2", "order": "stands"} for name in ("target", "third")}
    graph = run(graph_of(experiment(learners, share=share), digits), 3)
    large, small = shared(graph)
    assert torch.equal(small, large[:8, :8])
    assert torch.equal(graph.learners["third"].model.state_dict()["2.weight"], small)
    alone = run(graph_of(sharing(), digits), 3)
    assert not torch.equal(shared(alone)[0], large)


def test_the_two_are_measured_between_steps_as_if_they_were_not(digits: Images) -> None:
    straight, measured = (graph_of(sharing("epoch"), digits) for _ in range(2))
    run(measured, 2)
    for name in ("large", "target"):
        evaluate(measured.learners[name], measured.learners[name].validation)
    run(straight, 6), run(measured, 4)
    for name in ("large", "target"):
        assert torch.equal(weights(straight, name), weights(measured, name))


def test_a_transfer_into_the_large_weight_reaches_the_slice(digits: Images) -> None:
    """Both see what is written before the step, and it is the slice that is kept after it."""
    adapter = {"lpka": {"width": 16, "heads": 2, "depth": 1}}
    transfers = {
        "main": {"from": "large.classifier", "to": "large.2", "encoding": "whole", "cycle": 1, "adapter": adapter}
    }
    graph = run(graph_of(sharing(transfers=transfers), digits), 4)
    large, small = shared(graph)
    assert graph.edges["main"].transfer.updates == 3
    assert torch.equal(small, large[:8, :8])


@pytest.mark.parametrize("wild", ["large", "target"])
def test_what_one_has_lost_both_have_and_their_student(digits: Images, wild: str) -> None:
    learners = {"large": learner(0, "broad"), "target": learner(1), "other": learner(2), "pupil": learner(3)}
    learners[wild]["training"]["optimizer"] = {"sgd": {"lr": 1e30}}
    share = {"main": {"from": "large.2", "to": "target.2"}}
    lesson = {"main": {"from": "large", "to": "pupil", "loss": "kd"}}
    graph = run(graph_of(experiment(learners, share=share, distill=lesson), digits), 5)
    ends = {name: one.diverged_at for name, one in graph.learners.items()}
    assert ends["large"] == ends["target"] == ends["pupil"] is not None
    assert ends["other"] is None and graph.learners["other"].done == 5
    assert graph.learners["large"].done == graph.learners["target"].done == ends["large"]
    assert not graph.learners["target"].model.get_submodule(LAYER).weight.requires_grad


@pytest.mark.parametrize("order", ["start", "epoch"])
def test_stopped_and_gone_on_with_it_ends_as_if_it_never_was(tmp_path: Path, order: str) -> None:
    one = sharing(order, checkpoint={"every": 1})
    whole = run_in(one, tmp_path / "whole")
    stopped = run_in(one, tmp_path / "stopped", stops=(2, 5, 8))
    assert_runs_equal(whole, stopped)
    outputs, inputs = final_state(whole)["shared"]["main"]["orders"]
    assert sorted(outputs.tolist()) == sorted(inputs.tolist()) == list(range(16))


def test_a_shared_weight_with_a_loss_of_another_teacher(digits: Images) -> None:
    learners = {"large": learner(0, "broad"), "target": learner(1), "teacher": learner(2)}
    share = {"main": {"from": "large.2", "to": "target.2"}}
    lesson = {"main": {"from": "teacher", "to": "target", "loss": "kd"}}
    plain, taught = (
        run(graph_of(experiment(learners, share=share, **more), digits), 3) for more in ({}, {"distill": lesson})
    )
    assert torch.equal(weights(plain, "teacher"), weights(taught, "teacher"))
    for name in ("large", "target"):
        assert not torch.equal(weights(plain, name), weights(taught, name))


def test_channels_are_sorted_by_the_epochs_of_the_larger_learner(digits: Images) -> None:
    """Whoever is named first: the two may have batches of different size."""
    share = {"main": {"from": "large.2", "to": "target.2", "order": "epoch"}}
    learners = {"large": learner(0, "broad", batch_size=512), "target": learner(1)}
    turned = dict(reversed(learners.items()))
    one, other = (run(graph_of(experiment(each, share=share), digits), 6) for each in (learners, turned))
    for name in learners:
        assert torch.equal(weights(one, name), weights(other, name))
