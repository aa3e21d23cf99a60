"""Shapes of experiments, each against a loop written by hand for it in plain torch, bit for bit."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mergenet import randomness
from mergenet.data.images import Images, hold_out
from mergenet.experiment import Experiment, load_experiment, recipes
from mergenet.method.adapter import Lpka
from mergenet.models import MODELS
from mergenet.training.graph import Graph
from mergenet.training.plan import make_plan
from mergenet.training.run import data_of
from tests.smooth import SMOOTH
from tests.test_loop import graph_of, run

MakeExperiment = Callable[..., Experiment]
STEPS, CYCLE, BATCH = 10, 2, 256
ADAPTER = {"lpka": {"width": 16, "heads": 2, "depth": 1}}
CLASSIFIER, HIDDEN = "5", "2"  # a linear layer (10, 512) and a 1 x 1 convolution (8, 8)


class Plain:
    """One learner as anyone would write it: SGD with momentum, cosine."""

    def __init__(self, data: Images, copy: int) -> None:
        torch.manual_seed(randomness.key("weights", 0, "smooth", copy))
        self.model = SMOOTH.build(10).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        self.data, self.digest = data, data.digest()
        self.train, _ = hold_out(data.train, 0.1, self.digest)

    def weight(self, name: str) -> Tensor:
        return self.model.get_parameter(f"{name}.weight")

    def matrix(self, name: str) -> Tensor:
        return self.weight(name).detach().clone().flatten(1)

    def write(self, name: str, matrix: Tensor) -> None:
        with torch.no_grad():
            self.weight(name).copy_(matrix.detach().view_as(self.weight(name)))

    def step(self, step: int) -> None:
        epoch, position = divmod(step, len(self.train) // BATCH)
        order = torch.randperm(len(self.train), generator=randomness.generator("order", 0, self.digest, epoch))
        picked = order[position * BATCH : (position + 1) * BATCH]
        self.optimizer.param_groups[0]["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        images = self.data.normalise(self.train.images[picked])
        loss = functional.cross_entropy(self.model(images), self.train.labels[picked])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class PlainAdapter:
    """An adapter with its AdamW, and the vector-Jacobian product written out."""

    def __init__(self, source: str, target: str, x: tuple[int, int], y: tuple[int, int]) -> None:
        torch.manual_seed(randomness.key("adapter", 0, source, target))
        self.module: nn.Module = Lpka(width=16, heads=2, depth=1).build(x, y)
        parameters = list(self.module.parameters())
        matrices = {"params": [p for p in parameters if p.dim() > 1]}
        vectors = {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0}
        self.optimizer = torch.optim.AdamW([matrices, vectors], lr=1e-2, weight_decay=5e-4)
        self.updates, self.total = 0, (STEPS - 1) // CYCLE

    def learn(self, generated: Tensor, moved: Tensor) -> None:
        self.optimizer.zero_grad()
        generated.backward(generated.detach() - moved)
        nn.utils.clip_grad_norm_(self.module.parameters(), 50.0)
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-2 * 0.5 * (1 + math.cos(math.pi * self.updates / self.total))
        self.optimizer.step()
        self.updates += 1


def transfer(source: str, target: str, **change: Any) -> dict[str, Any]:
    main = {"from": source, "to": target, "encoding": "whole", "cycle": CYCLE, "adapter": ADAPTER}
    return {**main, "optimizer": {"adamw": {"lr": 1e-2}}, **change}


@pytest.fixture
def trained(
    small: MakeExperiment, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, nn.Module]]:
    """Trains an experiment of smooth networks and gives back its models by learner."""
    monkeypatch.setitem(MODELS, "smooth", SMOOTH)

    def train(copies: dict[str, int], transfers: dict[str, Any]) -> dict[str, nn.Module]:
        task = {"classification": {"data": "digits"}}
        learners = {name: {"model": "smooth", "copy": copy, "task": task} for name, copy in copies.items()}
        change = {
            "learners": learners,
            "transfers": {"main": {"enabled": False, "to": "target.2"}, **transfers},
            "training": {"epochs": 2},
        }
        graph = run(graph_of(small(change), digits), STEPS)
        return {name: learner.model for name, learner in graph.learners.items()}

    return train


def assert_same(model: nn.Module, plain: Plain) -> None:
    for name, value in model.state_dict().items():
        assert torch.equal(value, plain.model.state_dict()[name]), name


def test_cross_structure(trained: Callable[..., dict[str, nn.Module]], digits: Images) -> None:
    source, target = Plain(digits, 0), Plain(digits, 1)
    adapter = PlainAdapter(CLASSIFIER, HIDDEN, (8, 8), (10, 512))
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
    assert_same(models["source"], source)
    assert_same(models["target"], target)


def test_both_ways_from_one_snapshot(trained: Callable[..., dict[str, nn.Module]], digits: Images) -> None:
    source, target = Plain(digits, 0), Plain(digits, 1)
    there = PlainAdapter(CLASSIFIER, CLASSIFIER, (10, 512), (10, 512))
    back = PlainAdapter(CLASSIFIER, CLASSIFIER, (10, 512), (10, 512))
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
    assert_same(models["source"], source)
    assert_same(models["target"], target)


def test_self_transfer_within_one_model(trained: Callable[..., dict[str, nn.Module]], digits: Images) -> None:
    learner = Plain(digits, 1)
    adapter = PlainAdapter(CLASSIFIER, HIDDEN, (8, 8), (10, 512))
    for step in range(STEPS):
        due = step > 0 and step % CYCLE == 0
        if due:
            generated = adapter.module(learner.matrix(HIDDEN), learner.matrix(CLASSIFIER))
            learner.write(HIDDEN, generated)
        learner.step(step)
        if due:
            adapter.learn(generated, learner.matrix(HIDDEN))
    models = trained({"source": 0, "target": 1}, {"inner": transfer("target.classifier", "target.2")})
    assert_same(models["target"], learner)


def test_one_source_with_two_targets_learned_from_over_the_whole_cycle(
    trained: Callable[..., dict[str, nn.Module]], digits: Images
) -> None:
    source, first, second = (Plain(digits, copy) for copy in range(3))
    adapters = [PlainAdapter(CLASSIFIER, HIDDEN, (8, 8), (10, 512)) for _ in range(2)]
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
        assert_same(models[name], plain)


@pytest.mark.parametrize("recipe", recipes())
def test_every_recipe_takes_two_ticks_of_real_images(recipe: str, cifar100_small: Path) -> None:
    """With the recipe's own models, and a transfer before the second tick."""
    name = next(iter(load_experiment(recipe).transfers))
    small_steps = ["training.batch_size=8", "training.epochs=1", f"transfers.{name}.cycle=1"]
    experiment = load_experiment(recipe, small_steps)
    data = data_of(experiment, {"cifar100": str(cifar100_small)} if recipe.startswith("cifar100") else {})
    graph = Graph(experiment, make_plan(experiment, 0, data, 1), data, 0, torch.device("cpu"))
    run(graph, 2)
    assert graph.edges[name].transfer.updates == 1
    assert all(learner.done == 2 for learner in graph.learners.values())
