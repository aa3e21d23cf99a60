"""A learner at work: a model with its task, stream of batches and optimizer."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mergenet import randomness
from mergenet.data.images import Batch, Split, Stream
from mergenet.experiment import LearnerOptions
from mergenet.method.criterion import Given, Outputs
from mergenet.models import Model, find_model
from mergenet.models.features import Features
from mergenet.models.weights import read_weights
from mergenet.tasks import Task
from mergenet.training import ranks
from mergenet.training.factored import factor_layers
from mergenet.training.lessons import LiveLesson
from mergenet.training.sums import Sums
from mergenet.training.teachers import Seen, Teacher


class TrainingModule(nn.Module):
    """What trains of a learner: the model with everything that trains with it. Its forward returns the loss.

    Args:
        row: that `model` was built by.
        lesson: what it learns by, where that is not its task's own loss.
        gives: layers whose features those want whom it teaches; None where it teaches nobody.
    """

    def __init__(
        self, row: Model, model: nn.Module, task: Task, lesson: LiveLesson | None, gives: Sequence[str] | None
    ) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self.lesson = lesson
        self.layers = None if lesson is None else lesson.layers
        self.gives = gives
        own = [lesson.layer] if lesson is not None and lesson.layer is not None else []
        self.features = Features(row, model, [*own, *(gives or [])])

    def forward(self, batch: Batch, taught: Sequence[Outputs], epoch: int) -> tuple[Tensor, Seen | None]:
        """The scalar loss of a batch, and what the model gave to those whom it teaches."""
        logits = self.model(batch.images)
        features = self.features.take()
        given = None
        if self.gives is not None:
            given = Seen(logits.detach(), {layer: features[layer].detach() for layer in self.gives})
        return self._loss(logits, features, batch, taught, epoch), given

    def _loss(
        self, logits: Tensor, features: Mapping[str, Tensor], batch: Batch, taught: Sequence[Outputs], epoch: int
    ) -> Tensor:
        lesson = self.lesson
        if lesson is None:
            return self.task.loss(logits, batch)
        student = Outputs(logits, None if lesson.layer is None else features[lesson.layer])
        labels = batch.labels if lesson.criterion.labelled else None
        return lesson.criterion.value(Given(student, taught, labels, epoch), self.layers)


class Part(NamedTuple):
    """What a learner is given for a forward pass.

    Attributes:
        key: of the random numbers within it.
        batch: the whole step's, or a part of it.
        taught: what teachers gave of the same samples.
        epoch: counted from 1, where it matters.
    """

    key: int
    batch: Batch
    taught: tuple[Outputs, ...]
    epoch: int


def build_model(options: LearnerOptions, classes: int, seed: int) -> nn.Module:
    """The learner's model, its initial weights keyed by (seed, model, copy) or read from where it starts."""
    with randomness.seeded("weights", seed, options.model, options.copy_number):
        model = find_model(options.model).build(classes)
    if options.weights is not None:
        read_weights(options.model, options.weights).load_into(model)
    factor_layers(model, options)
    return model


class Learner:
    """One learner of a run on this rank.

    Args:
        model: as it begins.
        stream: its training batches, on the device it trains on.
        validation: held-out samples, maybe none.
        test: the test split.
        steps: its steps in the whole run.
        lesson: what it learns by, where that is not its task's own loss.
        gives: layers whose features those want whom it teaches; None where it teaches nobody.
    """

    def __init__(
        self,
        name: str,
        options: LearnerOptions,
        model: nn.Module,
        stream: Stream,
        validation: Split,
        test: Split,
        steps: int,
        seed: int,
        lesson: LiveLesson | None = None,
        gives: Sequence[str] | None = None,
    ) -> None:
        self.name = name
        self.options = options
        self.task = options.trained_task
        self.stream = stream
        self.validation = validation
        self.test = test
        self.steps = steps
        self.seed = seed
        self.lesson = lesson
        self.model = model
        row = find_model(options.model)
        self.module = TrainingModule(row, model, self.task, lesson, gives).train().to(stream.device)
        if options.training.channels_last:
            self.module.to(memory_format=torch.channels_last)
        self._telling = self._telling_parameters()
        self.optimizer = options.training.optimizer.build(self.module.parameters())
        if options.training.compile:
            self.module.compile(mode=self._compile_mode())
        self.sums = Sums()
        self.done = 0
        self.gave: Seen | None = None
        self.diverged_at: int | None = None
        self.best: dict[str, Any] | None = None

    def _telling_parameters(self) -> list[nn.Parameter]:
        """Those whose gradient is not finite once the loss is not, on any rank: it reaches them through the mean.

        The last layer's is there first. A loss of features may pass it by, and goes through the first layer; one of
        layers that train along may pass by the model.
        """
        parameters = list(self.model.parameters())
        if self.lesson is None:
            return parameters[-1:]
        along = [] if self.module.layers is None else list(self.module.layers.parameters())
        return [parameters[-1], parameters[0], *along[:1], *along[1:][-1:]]

    def _compile_mode(self) -> str | None:
        """On a GPU a pass is one graph to launch and not hundreds of kernels, for which a processor is too slow.

        Graphs use memory again from pass to pass, so a gradient that is added up over several would be lost.
        """
        once = self.options.training.accumulation == 1
        return "reduce-overhead" if self.stream.device.type == "cuda" and once else None

    def steps_on(self, tick: int) -> bool:
        """Whether it takes a step on this tick."""
        return self.diverged_at is None and tick % self.options.training.every == 0

    def teachers(self) -> list[Teacher]:
        """Those it learns from."""
        return [] if self.lesson is None else self.lesson.teachers

    def parts(self) -> Iterator[Part]:
        """The batch of this step, cut into as many parts as its gradient is added up over, each when it is wanted."""
        batches = self.stream.batch(self.done).split(self.options.training.accumulation)
        size = len(batches[0].labels)
        for index, batch in enumerate(batches):
            taught = self._taught(batch, slice(index * size, (index + 1) * size))
            yield Part(self._forward_key(index), batch, taught, self._epoch())

    def rehearsal(self) -> Part:
        """The first part of the first step, to try; no teacher has been at it."""
        batch = self.stream.batch(0).split(self.options.training.accumulation)[0]
        with self.autocast():
            taught = tuple(teacher.rehearse(batch) for teacher in self.teachers())
        return Part(self._forward_key(0), batch, taught, 1)

    def _taught(self, batch: Batch, part: slice) -> tuple[Outputs, ...]:
        with self.autocast():
            return tuple(teacher.outputs(batch, part) for teacher in self.teachers())

    def _epoch(self) -> int:
        """Of its own, from 1; where nothing hangs on it always 1, for what is compiled is compiled for a number."""
        warms_up = self.lesson is not None and self.lesson.criterion.warms_up
        return self.done // self.stream.steps_per_epoch + 1 if warms_up else 1

    def take_step(self, loss: Tensor) -> None:
        """The optimizer's step along the gradient that is there.

        Args:
            loss: mean of this step's samples on this rank, for the record.
        """
        training = self.options.training
        if training.clip is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), training.clip)
        self.optimizer.step()
        size = self.stream.batch_size // ranks.world()
        self.sums.add({"loss": loss * size, "count": torch.full_like(loss, size)})
        self.done += 1

    def autocast(self) -> torch.autocast:
        """Forward passes inside run in the learner's precision.

        Entered for one pass at a time: autocast keeps casts of weights until it is left, and would not see
        what a transfer writes.
        """
        bf16 = self.options.training.precision == "bf16"
        return torch.autocast(self.stream.device.type, torch.bfloat16, enabled=bf16)

    def _forward_key(self, micro_batch: int) -> int:
        options = self.options
        return randomness.key(
            "forward", self.seed, options.model, options.copy_number, self.done, micro_batch, ranks.rank()
        )

    def gradient_is_finite(self) -> bool:
        """Whether the gradient of this step is."""
        gradients = [one.grad for one in self._telling if one.grad is not None]
        return all(bool(torch.isfinite(gradient).all()) for gradient in gradients)

    def keep_if_best(self, metrics: Mapping[str, float], tick: int) -> None:
        """Keeps a copy of the weights when the task's selecting metric is the highest so far."""
        score = metrics[self.task.selects]
        if not math.isnan(score) and (self.best is None or score > self.best["score"]):
            weights = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
            self.best = {"score": score, "tick": tick, "weights": weights}

    def take_best(self) -> None:
        """Takes the weights that `keep_if_best` kept."""
        assert self.best is not None
        state = self.model.state_dict()
        with torch.no_grad():
            for name, value in self.best["weights"].items():
                state[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint between two ticks must hold; every rank must call it."""
        return {
            "model": self.model.state_dict(),
            "layers": None if self.module.layers is None else self.module.layers.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sums": self.sums.settle(),
            "done": self.done,
            "diverged_at": self.diverged_at,
            "best": self.best,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        if self.module.layers is not None:
            self.module.layers.load_state_dict(state["layers"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sums.restore(state["sums"])
        self.done = state["done"]
        self.diverged_at = state["diverged_at"]
        self.best = state["best"]
