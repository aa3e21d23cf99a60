"""How a learner takes a step: precision, accumulation, clipping, compilation, each against plain torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn import functional

from mergenet import randomness
from mergenet.config import InputError, identity, parse
from mergenet.data import load_data
from mergenet.data.images import Images
from mergenet.experiment import Experiment, Training
from mergenet.identity import Contents, run_hash
from mergenet.models import MODELS, Model
from mergenet.training import ranks
from mergenet.training.evaluation import evaluate
from mergenet.training.graph import Graph
from mergenet.training.loop import advance
from mergenet.training.plan import make_plan
from tests.conftest import SMALL
from tests.plain import Manner, Plain, PlainAdapter
from tests.ranks import on_ranks
from tests.smooth import SMOOTH
from tests.test_loop import graph_of, run

MakeExperiment = Callable[..., Experiment]
STEPS = 6


@pytest.fixture(autouse=True)
def smooth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "smooth", SMOOTH)


def one(training: dict[str, Any], transfers: dict[str, Any] | None = None, model: str = "smooth") -> Experiment:
    """A learner on digits, ten ticks, with whatever transfers."""
    task = {"classification": {"data": "digits"}}
    plain = {**SMALL["training"], "epochs": 2, **training}
    learners = {"target": {"model": model, "task": task}}
    return parse(Experiment, {"name": "one", "learners": learners, "transfers": transfers or {}, "training": plain})


@pytest.mark.parametrize(
    ("training", "manner"),
    [
        ({}, Manner()),
        ({"accumulation": 4}, Manner(parts=4)),
        ({"clip": 0.1}, Manner(clip=0.1)),
        ({"precision": "bf16"}, Manner(bf16=True)),
        ({"precision": "bf16", "accumulation": 2, "clip": 0.1}, Manner(bf16=True, parts=2, clip=0.1)),
    ],
    ids=["plain", "accumulation", "clip", "bf16", "all"],
)
def test_a_step_equals_plain_torch_bit_for_bit(training: dict[str, Any], manner: Manner, digits: Images) -> None:
    plain = Plain(digits, 0, manner)
    for step in range(STEPS):
        plain.step(step)
    graph = run(graph_of(one(training), digits), STEPS)
    assert plain.has_the_weights_of(graph.learners["target"].model)


def test_each_of_these_ways_of_stepping_shows(digits: Images) -> None:
    """What the test above compares is not one and the same."""
    ways: list[dict[str, Any]] = [{}, {"accumulation": 4}, {"clip": 0.1}, {"precision": "bf16"}]
    ends = [run(graph_of(one(way), digits), STEPS).learners["target"].model[5].weight for way in ways]  # type: ignore[index]
    for index, end in enumerate(ends):
        assert not any(torch.equal(end, other) for other in ends[index + 1 :])
    assert torch.allclose(ends[0], ends[1], atol=1e-6), "parts of a batch add up to the batch"
    assert torch.allclose(ends[0], ends[3], atol=1e-2), "bf16 is near fp32"


def test_under_bf16_a_transfer_is_seen_by_the_next_forward_pass(digits: Images) -> None:
    """Autocast would keep a cast of the weight from before the write if it were entered once for all."""
    plain = Plain(digits, 0, Manner(bf16=True))
    adapter = PlainAdapter("5", "2", (8, 8), (10, 512), updates=4)
    for step in range(STEPS):
        due = step > 0 and step % 2 == 0
        if due:
            generated = adapter.module(plain.matrix("2"), plain.matrix("5"))
            plain.write("2", generated)
        plain.step(step)
        if due:
            adapter.learn(generated, plain.matrix("2"))
    graph = run(graph_of(one({"precision": "bf16"}, {"inner": INNER}), digits), STEPS)
    assert plain.has_the_weights_of(graph.learners["target"].model)


INNER = {
    "from": "target.classifier",
    "to": "target.2",
    "encoding": "whole",
    "cycle": 2,
    "adapter": {"lpka": {"width": 16, "heads": 2, "depth": 1}},
    "optimizer": {"adamw": {"lr": 1e-2}},
}


def test_bf16_keeps_weights_optimizer_and_adapter_in_fp32(digits: Images) -> None:
    outputs: list[torch.dtype] = []
    graph = graph_of(one({"precision": "bf16"}, {"inner": INNER}), digits)
    learner = graph.learners["target"]
    learner.model.register_forward_hook(lambda module, inputs, output: outputs.append(output.dtype))
    run(graph, STEPS)
    metrics = evaluate(learner, learner.validation)
    assert set(outputs) == {torch.bfloat16}, "forward passes of training and evaluation"
    kept = [*tensors(graph.state_dict()), *(p.grad for p in learner.model.parameters() if p.grad is not None)]
    assert kept and not any(tensor.dtype in (torch.bfloat16, torch.float16) for tensor in kept)
    assert metrics["loss"] > 0


def tensors(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [tensor for value in values for tensor in tensors(value)]


def test_two_ranks_that_accumulate_reduce_the_gradient_once(tmp_path: Path, digits: Images) -> None:
    experiment = one({"accumulation": 2, "clip": 0.1})
    first, second = on_ranks(2, trained_weights, tmp_path, experiment)
    alone = run(graph_of(one({"clip": 0.1}), digits), STEPS).learners["target"].model.state_dict()
    for name, weight in alone.items():
        assert torch.equal(first["weights"][name], second["weights"][name]), name
        assert torch.allclose(first["weights"][name], weight, atol=1e-6), name
    assert first["reductions"] == STEPS


def trained_weights(experiment: Experiment) -> dict[str, Any]:
    MODELS["smooth"] = SMOOTH
    data = load_data({"digits"}, {})
    graph = Graph(experiment, make_plan(experiment, 0, data, ranks.world()), data, 0, torch.device("cpu"))
    reductions: list[int] = []

    def count(state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        reductions.append(1)
        return allreduce_hook(None, bucket)  # type: ignore[arg-type]

    graph.steps[-1].module.register_comm_hook(None, count)  # type: ignore[operator]
    run(graph, STEPS)
    return {"weights": graph.learners["target"].model.state_dict(), "reductions": len(reductions)}


DROPPING = Model(lambda classes: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, classes)), {})


def gradient_of_dropping(experiment: Experiment) -> Tensor:
    """That of the linear layer's weight after one tick."""
    MODELS["dropping"] = DROPPING
    data = load_data({"digits"}, {})
    graph = Graph(experiment, make_plan(experiment, 0, data, ranks.world()), data, 0, torch.device("cpu"))
    advance(graph)
    gradient = graph.learners["target"].model.get_parameter("2.weight").grad
    assert gradient is not None
    return gradient


@pytest.mark.parametrize("world", [1, 2])
def test_each_part_of_a_batch_drops_by_its_own_key(world: int, tmp_path: Path, digits: Images) -> None:
    """Two parts on one rank, or one on each of two: with one key the same pixels would be dropped in both."""
    torch.manual_seed(randomness.key("weights", 0, "dropping", 0))
    model = DROPPING.build(10)
    for index, (images, labels) in enumerate(Plain(digits, 0, Manner(parts=2)).parts(0)):
        part = (index, 0) if world == 1 else (0, index)
        torch.manual_seed(randomness.key("forward", 0, "dropping", 0, 0, *part))
        (functional.cross_entropy(model(images), labels) / 2).backward()
    experiment = one({"accumulation": 2 // world}, model="dropping")
    for gradient in on_ranks(world, gradient_of_dropping, tmp_path, experiment):
        torch.testing.assert_close(gradient, model.get_parameter("2.weight").grad)


def test_a_compiled_step_is_the_same_step(digits: Images) -> None:
    torch.compiler.reset()
    eager, compiled = (run(graph_of(one(way), digits), 3).learners["target"].model for way in ({}, {"compile": True}))
    assert eager.state_dict().keys() == compiled.state_dict().keys(), "names stay plain"
    for name, weight in eager.state_dict().items():
        assert torch.allclose(weight, compiled.state_dict()[name], atol=1e-5), name
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0, "something was compiled"


def test_a_batch_that_does_not_divide_into_its_parts_is_refused(small: MakeExperiment, digits: Images) -> None:
    experiment = small({"training": {"accumulation": 3}})
    with pytest.raises(InputError) as caught:
        make_plan(experiment, 0, {"digits": digits}, 2)
    assert str(caught.value) == (
        "learners.source.training.accumulation: a batch of 256 does not divide by 2 workers of 3 parts each, 252 does"
    )


@pytest.mark.parametrize("field", ["precision", "accumulation", "clip", "compile"])
def test_a_field_at_its_neutral_value_leaves_every_hash_as_it_was(small: MakeExperiment, field: str) -> None:
    other = {"precision": "bf16", "accumulation": 2, "clip": 1.0, "compile": True}[field]
    contents = Contents({"digits": "pixels"})
    assert field not in identity(Training())
    assert identity(Training(**{field: other}))[field] == other
    assert run_hash(small(), contents) != run_hash(small({"training": {field: other}}), contents)


def test_the_loss_is_that_of_the_whole_batch_however_it_is_cut(digits: Images) -> None:
    losses = []
    for way in ({}, {"accumulation": 4}):
        graph = run(graph_of(one(way), digits), 1)
        sums = graph.learners["target"].sums.take()
        losses.append(sums["loss"] / sums["count"])
        assert sums["count"] == 256
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_merging_a_precision_for_one_learner_leaves_the_others(small: MakeExperiment) -> None:
    experiment = small({"learners": {"source": {"training": {"precision": "bf16"}}}})
    assert experiment.learners["source"].training.precision == "bf16"
    assert experiment.learners["target"].training.precision == "fp32"
