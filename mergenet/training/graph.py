"""The experiment's graph at work: live learners, and live transfers bound to the two they join."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from mergenet.data.images import Images, Split, Stream, hold_out
from mergenet.experiment import Experiment, LearnerOptions
from mergenet.method.edges import layer_of
from mergenet.method.layout import Layout
from mergenet.method.options import TransferOptions, by_turn
from mergenet.method.ports import Port, find_port
from mergenet.method.transfer import NotFinite, Transfer
from mergenet.method.upkeep import make_upkeep
from mergenet.models import find_model
from mergenet.training import ranks
from mergenet.training.controls import is_live, source_of
from mergenet.training.frozen import frozen_port
from mergenet.training.joint import JointStep
from mergenet.training.learner import Learner, build_model
from mergenet.training.lessons import LiveLesson, make_lesson
from mergenet.training.plan import Plan
from mergenet.training.record import hash_of
from mergenet.training.shared import share_weight
from mergenet.training.sums import Sums
from mergenet.training.teachers import FrozenTeacher, LiveTeacher, Teacher
from mergenet.wiring import split_end, steps_in_order


class Edge:
    """A transfer between two learners of the run.

    It stops for good when one of them diverges, or at the tick `broken_at`, when it meets matrices that are
    not finite: a broken source does not break its target. The source is None where no learner's training reaches it.
    """

    def __init__(self, name: str, transfer: Transfer, source: Learner | None, target: Learner) -> None:
        self.name = name
        self.transfer = transfer
        self.source = source
        self.target = target
        self.sums = Sums()
        self.broken_at: int | None = None

    def stopped_at(self) -> int | None:
        """The tick at which it stopped for good; None while it goes on."""
        learners = (self.target,) if self.source is None else (self.source, self.target)
        ticks = (self.broken_at, *(learner.diverged_at for learner in learners))
        return min((tick for tick in ticks if tick is not None), default=None)

    def due(self, tick: int) -> bool:
        """Whether it reads and writes before the target's step of this tick."""
        return self.stopped_at() is None and self.target.steps_on(tick) and self.transfer.due(self.target.done)

    def read(self, tick: int) -> None:
        """Copies both matrices."""
        with self._broken_unless_finite(tick):
            self.transfer.read(self.target.done)

    def write(self, tick: int) -> None:
        """Generates and writes the target's weight."""
        if self.stopped_at() is None:
            with self._broken_unless_finite(tick):
                self.transfer.write()

    def learn(self, tick: int) -> None:
        """Updates the adapter when its span ended with the step of this tick."""
        if self.stopped_at() is None and self.target.steps_on(tick) and self.transfer.ends(self.target.done - 1):
            self.transfer.learn()
            figures = {**self.transfer.figures, "count": torch.ones_like(self.transfer.figures["moved"])}
            # equal on all ranks, so one of them counts: a mean must not weigh ticks by the workers there were
            self.sums.add(
                figures if ranks.rank() == 0 else {name: torch.zeros_like(one) for name, one in figures.items()}
            )

    @contextmanager
    def _broken_unless_finite(self, tick: int) -> Iterator[None]:
        try:
            yield
        except NotFinite:
            self.broken_at = tick
            self.transfer.pending = None

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint between two ticks must hold; every rank must call it."""
        return {"transfer": self.transfer.state_dict(), "sums": self.sums.settle(), "broken_at": self.broken_at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.transfer.load_state_dict(state["transfer"])
        self.sums.restore(state["sums"])
        self.broken_at = state["broken_at"]


class Graph:
    """Learners and edges of one run on this rank, and how many ticks are done.

    Attributes:
        drawn: learner that gives up weights of its own for slices -> hash of its weights before it did.
    """

    def __init__(
        self, experiment: Experiment, plan: Plan, data: Mapping[str, Images], seed: int, device: torch.device
    ) -> None:
        self.done = 0
        self.device = device
        samples = _make_samples(experiment, plan, data, seed, device)
        models = {
            name: build_model(options, samples[name][0].data.classes, seed).to(device)
            for name, options in experiment.trained().items()
        }
        self.drawn = {name: hash_of(models[name].state_dict()) for name in _with_slices(experiment)}
        self.shared = {
            name: share_weight(experiment, share, models) for name, share in experiment.enabled_shares().items()
        }
        order = steps_in_order(experiment)
        made: dict[str, Learner] = {}
        self.steps: list[JointStep] = []
        for together in order:
            for name in together:
                options, steps = experiment.learners[name], plan.learners[name].steps
                lesson = _lesson_of(name, experiment, plan, made, seed, device)
                gives = _gives(name, experiment)
                made[name] = Learner(name, options, models[name], *samples[name], steps, seed, lesson, gives)
            between = [
                self.shared[name]
                for name, share in experiment.enabled_shares().items()
                if split_end(share.large)[0] in together
            ]
            self.steps.append(JointStep([made[name] for name in together], between))
        self.learners = {name: made[name] for name in experiment.trained()}
        port_of = cache(partial(self._port, experiment))
        self.edges = {
            name: self._edge(name, options, experiment, port_of, data, seed)
            for name, options in experiment.enabled_transfers().items()
        }
        self.turns = by_turn(self.edges.values(), lambda edge: edge.transfer.options)

    def _edge(
        self,
        name: str,
        options: TransferOptions,
        experiment: Experiment,
        port_of: Callable[[str, Layout], Port],
        data: Mapping[str, Images],
        seed: int,
    ) -> Edge:
        taught_by, target = split_end(options.source)[0], self.learners[split_end(options.target)[0]]
        origin, port = (port_of(end, options.layout) for end in (options.source, options.target))
        source = source_of(options, origin, port, experiment.learners[taught_by], data, seed)
        learner = self.learners.get(taught_by) if is_live(options) else None
        upkeep = make_upkeep(options.optimizer_state, options.batchnorm, target.optimizer, target.model, port)
        transfer = Transfer(options, source, port, target.steps, seed, upkeep)
        return Edge(name, transfer, learner, target)

    def _port(self, experiment: Experiment, end: str, layout: Layout) -> Port:
        learner, port = split_end(end)
        options = experiment.learners[learner]
        if options.frozen:
            return frozen_port(options, port, self.device, layout)
        parameters = dict(self.learners[learner].model.named_parameters())
        return find_port(parameters, port, find_model(options.model).ports, layout)

    def replicated(self) -> dict[str, Tensor]:
        """Everything that must be equal on all ranks, by name."""
        modules: dict[str, nn.Module] = {f"{learner.name}.": learner.model for learner in self.learners.values()}
        modules |= {
            f"{learner.name}'s loss: ": learner.module.layers
            for learner in self.learners.values()
            if learner.module.layers is not None
        }
        modules |= {f"adapter {edge.name}: ": edge.transfer.adapter for edge in self.edges.values()}
        return {
            prefix + name: parameter
            for prefix, module in modules.items()
            for name, parameter in module.named_parameters()
        }

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint between two ticks must hold; every rank must call it."""
        return {
            "done": self.done,
            "learners": {name: learner.state_dict() for name, learner in self.learners.items()},
            "transfers": {name: edge.state_dict() for name, edge in self.edges.items()},
            "shared": {name: weight.state_dict() for name, weight in self.shared.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.done = state["done"]
        for name, learner in self.learners.items():
            learner.load_state_dict(state["learners"][name])
        for name, edge in self.edges.items():
            edge.load_state_dict(state["transfers"][name])
        for name, weight in self.shared.items():
            weight.load_state_dict(state["shared"][name])


def _with_slices(experiment: Experiment) -> set[str]:
    """Learners that give up a weight of their own: what they began with is what they were drawn as."""
    return {split_end(share.small)[0] for share in experiment.enabled_shares().values()}


def _lesson_of(
    name: str, experiment: Experiment, plan: Plan, made: Mapping[str, Learner], seed: int, device: torch.device
) -> LiveLesson | None:
    """What a learner learns by; those that teach it and train are `made`."""
    found = experiment.lesson_of(name)
    if found is None:
        return None
    path, lesson = found
    options, planned = experiment.learners[name], plan.lessons[path]
    teachers = [
        _teacher(experiment, end, layer_of(lesson, end), outputs.logits.shape[1], options, made, device)
        for end, outputs in zip(lesson.teachers, planned.teachers, strict=True)
    ]
    return make_lesson(lesson, planned, options, teachers, seed)


def _teacher(
    experiment: Experiment,
    end: str,
    layer: str | None,
    classes: int,
    student: LearnerOptions,
    made: Mapping[str, Learner],
    device: torch.device,
) -> Teacher:
    name = split_end(end)[0]
    if name in made:
        return LiveTeacher(made[name], layer)
    return FrozenTeacher(experiment.learners[name], classes, layer, device, student.training.compile)


def _gives(name: str, experiment: Experiment) -> list[str] | None:
    """The layers of a learner whose features those want whom it teaches; None where it teaches nobody."""
    ends = [
        layer_of(lesson, end)
        for lesson in experiment.lessons().values()
        for end in lesson.teachers
        if split_end(end)[0] == name
    ]
    return [layer for layer in ends if layer is not None] if ends else None


def _make_samples(
    experiment: Experiment, plan: Plan, data: Mapping[str, Images], seed: int, device: torch.device
) -> dict[str, tuple[Stream, Split, Split]]:
    """Learner -> its stream, validation and test split; learners that see the same batches share them."""
    made: dict[Any, tuple[Stream, Split, Split]] = {}
    samples = {}
    for name, options in experiment.trained().items():
        task, size = options.trained_task, options.training.batch_size
        images, digest = task.images(data), plan.contents.data[task.data]
        key = (images, size, task.augmentation)
        if key not in made:
            train, held = hold_out(images.train, experiment.evaluation.validation, digest)
            part = (ranks.rank(), ranks.world())
            stream = Stream(images, train.near(device), digest, size, task.augmentation, seed, *part, device)
            made[key] = (stream, held.near(device), images.test.near(device))
        samples[name] = made[key]
    return samples
