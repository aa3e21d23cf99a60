"""Shapes of experiments, each against a loop written by hand for it in plain torch, bit for bit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mergenet.data.images import Batch, Images, Split
from mergenet.experiment import Experiment, load_experiment, recipes
from mergenet.models import MODELS
from mergenet.training.graph import Graph
from mergenet.training.plan import make_plan
from mergenet.training.spec import data_of
from tests.plain import Manner, Plain, PlainAdapter
from tests.smooth import SMOOTH
from tests.test_loop import graph_of, run

MakeExperiment = Callable[..., Experiment]
STEPS, CYCLE = 10, 2
UPDATES = (STEPS - 1) // CYCLE
ADAPTER = {"lpka": {"width": 16, "heads": 2, "depth": 1}}
CLASSIFIER, HIDDEN = "5", "2"  # a linear layer (10, 512) and a 1 x 1 convolution (8, 8)


def transfer(source: str, target: str, **change: Any) -> dict[str, Any]:
    main = {"from": source, "to": target, "encoding": "whole", "cycle": CYCLE, "adapter": ADAPTER}
    return {**main, "optimizer": {"adamw": {"lr": 1e-2}}, **change}


@pytest.fixture
def trained(
    small: MakeExperiment, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, nn.Module]]:
    """Trains an experiment of smooth networks and gives back its models by learner."""
    monkeypatch.setitem(MODELS, "smooth", SMOOTH)

    def train(learners: dict[str, Any], transfers: dict[str, Any], **data: Images) -> dict[str, nn.Module]:
        """`learners` by their copies or by their options; `data` besides the digits."""
        change = {
            "learners": {
                name: options if isinstance(options, dict) else smooth(options) for name, options in learners.items()
            },
            "transfers": {"main": {"enabled": False, "to": "target.2"}, **transfers},
            "training": {"epochs": 2},
        }
        graph = run(graph_of(small(change), digits, **data), STEPS)
        return {name: learner.model for name, learner in graph.learners.items()}

    return train


def smooth(copy: int, data: str = "digits", **training: Any) -> dict[str, Any]:
    return {"model": "smooth", "copy": copy, "task": {"classification": {"data": data}}, "training": training}


def test_cross_structure(trained: Callable[..., dict[str, nn.Module]], digits: Images) -> None:
    source, target = Plain(digits, 0), Plain(digits, 1)
    adapter = PlainAdapter(CLASSIFIER, HIDDEN, (8, 8), (10, 512), UPDATES)
    for step in range(STEPS):
        due = step > 0 and step % CYCLE == 0
        if due:
            generated = adapter.module(target.matrix(HIDDEN), source.matrix(CLASSIFIER))
            target.write(HIDDEN, generated)
        source.step(step)
        target.step(step)
        if due:
            adapter.learn(generated, target.matrix(HIDDEN))
    models = trained({"source": 0, "target": 1}, {"one": transfer("source.classifier", "target.2")})
    assert source.has_the_weights_of(models["source"])
    assert target.has_the_weights_of(models["target"])


def test_both_ways_from_one_snapshot(trained: Callable[..., dict[str, nn.Module]], digits: Images) -> None:
    source, target = Plain(digits, 0), Plain(digits, 1)
    there = PlainAdapter(CLASSIFIER, CLASSIFIER, (10, 512), (10, 512), UPDATES)
    back = PlainAdapter(CLASSIFIER, CLASSIFIER, (10, 512), (10, 512), UPDATES)
    for step in range(STEPS):
        due = step > 0 and step % CYCLE == 0
        if due:
            snapshot = source.matrix(CLASSIFIER), target.matrix(CLASSIFIER)
            to_target, to_source = there.module(snapshot[1], snapshot[0]), back.module(*snapshot)
            target.write(CLASSIFIER, to_target)
            source.write(CLASSIFIER, to_source)
        source.step(step)
        target.step(step)
        if due:
            there.learn(to_target, target.matrix(CLASSIFIER))
            back.learn(to_source, source.matrix(CLASSIFIER))
    both = {
        "there": transfer("source.classifier", "target.classifier"),
        "back": transfer("target.classifier", "source.classifier"),
    }
    models = trained({"source": 0, "target": 1}, both)
    assert source.has_the_weights_of(models["source"])
    assert target.has_the_weights_of(models["target"])


def test_self_transfer_within_one_model(trained: Callable[..., dict[str, nn.Module]], digits: Images) -> None:
    learner = Plain(digits, 1)
    adapter = PlainAdapter(CLASSIFIER, HIDDEN, (8, 8), (10, 512), UPDATES)
    for step in range(STEPS):
        due = step > 0 and step % CYCLE == 0
        if due:
            generated = adapter.module(learner.matrix(HIDDEN), learner.matrix(CLASSIFIER))
            learner.write(HIDDEN, generated)
        learner.step(step)
        if due:
            adapter.learn(generated, learner.matrix(HIDDEN))
    models = trained({"source": 0, "target": 1}, {"inner": transfer("target.classifier", "target.2")})
    assert learner.has_the_weights_of(models["target"])


def test_one_source_with_two_targets_learned_from_over_the_whole_cycle(
    trained: Callable[..., dict[str, nn.Module]], digits: Images
) -> None:
    source, first, second = (Plain(digits, copy) for copy in range(3))
    adapters = [PlainAdapter(CLASSIFIER, HIDDEN, (8, 8), (10, 512), UPDATES) for _ in range(2)]
    inputs: list[tuple[Tensor, Tensor]] = []
    for step in range(STEPS):
        if step > 0 and step % CYCLE == 0:
            inputs = [(target.matrix(HIDDEN), source.matrix(CLASSIFIER)) for target in (first, second)]
            for target, adapter, pair in zip((first, second), adapters, inputs, strict=True):
                target.write(HIDDEN, adapter.module(*pair))
        for learner in (source, first, second):
            learner.step(step)
        if inputs and step % CYCLE == CYCLE - 1:
            for target, adapter, pair in zip((first, second), adapters, inputs, strict=True):
                adapter.learn(adapter.module(*pair), target.matrix(HIDDEN))
    edges = {
        name: transfer("source.classifier", f"{name}.2", span="cycle", cycle=CYCLE) for name in ("target", "other")
    }
    models = trained({"source": 0, "target": 1, "other": 2}, edges)
    for name, plain in (("source", source), ("target", first), ("other", second)):
        assert plain.has_the_weights_of(models[name])


def test_learners_with_data_batches_pace_and_cycle_of_their_own(
    trained: Callable[..., dict[str, nn.Module]], digits: Images, cifar100_small: Path
) -> None:
    """The source takes a step of 100 photographs on every third tick; the target is transferred to on every fourth."""
    photographs = shrunk(data_of(load_experiment("cifar100-self"), {"cifar100": str(cifar100_small)})["cifar100"])
    slow = Manner(batch_size=100, steps=4)
    source, target = Plain(photographs, 0, slow), Plain(digits, 1)
    adapter = PlainAdapter(CLASSIFIER, HIDDEN, (8, 8), (100, 512), updates=2)
    for step in range(STEPS):
        due = step > 0 and step % 4 == 0
        if due:
            generated = adapter.module(target.matrix(HIDDEN), source.matrix(CLASSIFIER))
            target.write(HIDDEN, generated)
        if step % 3 == 0:
            source.step(step // 3)
        target.step(step)
        if due:
            adapter.learn(generated, target.matrix(HIDDEN))
    learners = {"source": smooth(0, "cifar100", batch_size=100, every=3), "target": 1}
    models = trained(learners, {"one": transfer("source.classifier", "target.2", cycle=4)}, cifar100=photographs)
    assert source.has_the_weights_of(models["source"])
    assert target.has_the_weights_of(models["target"])


def test_learners_of_one_data_set_with_batches_of_their_own(
    trained: Callable[..., dict[str, nn.Module]], digits: Images
) -> None:
    source, target = Plain(digits, 0, Manner(batch_size=100)), Plain(digits, 1)
    for step in range(STEPS):
        source.step(step)
        target.step(step)
    models = trained({"source": smooth(0, batch_size=100), "target": 1}, {})
    assert source.has_the_weights_of(models["source"])
    assert target.has_the_weights_of(models["target"])


def test_learners_of_one_data_set_see_it_each_in_its_own_augmentation(small: MakeExperiment, digits: Images) -> None:
    def first_batches(*learners: str) -> list[Batch]:
        flip = {"task": {"classification": {"augmentation": {"flip": True}}}}
        graph = graph_of(small({"learners": dict.fromkeys(learners, flip)}), digits)
        return [graph.learners[name].stream.batch(0) for name in ("source", "target")]

    plain, flipped = first_batches()[0], first_batches("source", "target")[0]
    assert torch.equal(plain.labels, flipped.labels) and not torch.equal(plain.images, flipped.images)
    for found, expected in zip(first_batches("target"), (plain, flipped), strict=True):
        assert torch.equal(found.images, expected.images)


def shrunk(images: Images) -> Images:
    """Every fourth pixel of 32 x 32, so that the network for digits takes them."""
    train, test = (Split(split.images[:, :, ::4, ::4], split.labels) for split in (images.train, images.test))
    return replace(images, train=train, test=test)


def test_a_frozen_source(trained: Callable[..., dict[str, nn.Module]], digits: Images, tmp_path: Path) -> None:
    """Its matrix never moves, and nobody of its name trains."""
    source, target = Plain(digits, 3), Plain(digits, 1)
    save_file(
        {name: value.contiguous() for name, value in source.model.state_dict().items()}, tmp_path / "source.safetensors"
    )
    adapter = PlainAdapter(CLASSIFIER, HIDDEN, (8, 8), (10, 512), UPDATES)
    for step in range(STEPS):
        due = step > 0 and step % CYCLE == 0
        if due:
            generated = adapter.module(target.matrix(HIDDEN), source.matrix(CLASSIFIER))
            target.write(HIDDEN, generated)
        target.step(step)
        if due:
            adapter.learn(generated, target.matrix(HIDDEN))
    frozen = {"model": "smooth", "frozen": True, "weights": str(tmp_path / "source.safetensors"), "task": None}
    models = trained({"source": frozen, "target": 1}, {"one": transfer("source.classifier", "target.2")})
    assert models.keys() == {"target"}
    assert target.has_the_weights_of(models["target"])


@pytest.mark.parametrize("recipe", recipes())
def test_every_recipe_takes_two_ticks_of_real_images(
    recipe: str, cifar100_small: Path, complete: Callable[[str], list[str]]
) -> None:
    """With the recipe's own models, and every transfer before the second tick."""
    names = list(load_experiment(recipe, complete(recipe)).enabled_transfers())
    small_steps = ["training.batch_size=8", "training.epochs=1", *(f"transfers.{name}.cycle=1" for name in names)]
    experiment = load_experiment(recipe, [*complete(recipe), *small_steps])
    data = data_of(experiment, {"cifar100": str(cifar100_small)} if recipe.startswith("cifar100") else {})
    graph = Graph(experiment, make_plan(experiment, 0, data, 1), data, 0, torch.device("cpu"))
    run(graph, 2)
    assert [graph.edges[name].transfer.updates for name in names] == [1] * len(names)
    assert all(learner.done == 2 for learner in graph.learners.values())
