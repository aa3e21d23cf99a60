"""A learner at work: a model with its task, stream of batches and optimizer."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mergenet import randomness
from mergenet.data.images import Batch, Split, Stream
from mergenet.experiment import LearnerOptions
from mergenet.models import find_model
from mergenet.models.weights import read_weights
from mergenet.optimization import set_rate
from mergenet.tasks import Task
from mergenet.training import ranks
from mergenet.training.factored import factor_layers
from mergenet.training.sums import Sums


class TrainingModule(nn.Module):
    """What DDP wraps: the model with everything that trains with it. Its forward returns the loss."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model = model
        self.task = task

    def forward(self, batch: Batch) -> Tensor:
        """The scalar loss of a batch."""
        return self.task.loss(self.model(batch.images), batch)


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
        stream: its training batches, on the device it trains on.
        validation: held-out samples, maybe none.
        test: the test split.
        steps: its steps in the whole run.
    """

    def __init__(
        self,
        name: str,
        options: LearnerOptions,
        stream: Stream,
        validation: Split,
        test: Split,
        steps: int,
        seed: int,
    ) -> None:
        self.name = name
        self.options = options
        self.task = options.trained_task
        self.stream = stream
        self.validation = validation
        self.test = test
        self.steps = steps
        self.seed = seed
        self.model = build_model(options, stream.data.classes, seed).to(stream.device)
        if options.training.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self._last_parameter = list(self.model.parameters())[-1]
        self.optimizer = options.training.optimizer.build(self.model.parameters())
        self.module: nn.Module = TrainingModule(self.model, self.task).train()
        if options.training.compile:
            self.module.compile(mode=self._compile_mode())
        if ranks.world() > 1:
            self.module = self._distribute(self.module)
        self.sums = Sums()
        self.done = 0
        self.diverged_at: int | None = None
        self.best: dict[str, Any] | None = None

    def _compile_mode(self) -> str | None:
        """On a GPU a pass is one graph to launch and not hundreds of kernels, for which a processor is too slow.

        Graphs use memory again from pass to pass, so a gradient that is added up over several would be lost.
        """
        once = self.options.training.accumulation == 1
        return "reduce-overhead" if self.stream.device.type == "cuda" and once else None

    def _distribute(self, module: nn.Module) -> DistributedDataParallel:
        """`module` in DDP, its gradient buckets laid out for good.

        DDP lays its buckets out anew after the first backward, in the order gradients came. With three ranks
        and more that changes the order of sums, so a resumed run would differ in its first step. One backward
        before the first step, here, settles the layout in a fresh and in a resumed run alike.
        """
        replicas = DistributedDataParallel(module)
        before = {name: buffer.clone() for name, buffer in module.named_buffers()}
        with self.autocast():
            loss = replicas(self._micro_batches(step=0)[0])
        loss.backward()
        replicas.zero_grad()
        for name, buffer in module.named_buffers():
            buffer.copy_(before[name])
        return replicas

    def steps_on(self, tick: int) -> bool:
        """Whether it takes a step on this tick."""
        return self.diverged_at is None and tick % self.options.training.every == 0

    def step(self, tick: int) -> None:
        """Forward, backward, optimizer: one step of learning for itself."""
        if not self.steps_on(tick):
            return
        training = self.options.training
        set_rate(self.optimizer, training.optimizer.lr, training.schedule.multiplier(self.done / self.steps))
        self.optimizer.zero_grad()
        loss, size = self._accumulate_gradient()
        self.stream.prepare(self.done + 1)  # while a GPU is at the gradient, which is waited for next
        if not self._last_gradient_is_finite():
            self.diverged_at = tick
            return
        if training.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), training.clip)
        self.optimizer.step()
        self.sums.add({"loss": loss * size, "count": torch.full_like(loss, size)})
        self.done += 1

    def _accumulate_gradient(self) -> tuple[Tensor, int]:
        """Adds up the gradient of this step's batch part by part; the mean loss of its samples, and their number."""
        parts = self._micro_batches(self.done)
        mean = torch.zeros((), device=self.stream.device)
        for index, part in enumerate(parts):
            torch.manual_seed(self._forward_key(index))
            with self._reduced_after(last=index == len(parts) - 1):
                with self.autocast():
                    loss = self.module(part) / len(parts)
                loss.backward()
            mean += loss.detach()
        return mean, sum(len(part.labels) for part in parts)

    def _micro_batches(self, step: int) -> list[Batch]:
        return self.stream.batch(step).split(self.options.training.accumulation)

    def autocast(self) -> torch.autocast:
        """Forward passes inside run in the learner's precision.

        Entered for one pass at a time: autocast keeps casts of weights until it is left, and would not see
        what a transfer writes.
        """
        bf16 = self.options.training.precision == "bf16"
        return torch.autocast(self.stream.device.type, torch.bfloat16, enabled=bf16)

    def _reduced_after(self, last: bool) -> AbstractContextManager[None]:
        """DDP reduces gradients over the ranks once a step, after the last part of a batch."""
        if last or not isinstance(self.module, DistributedDataParallel):
            return nullcontext()
        return self.module.no_sync()

    def _forward_key(self, micro_batch: int) -> int:
        options = self.options
        return randomness.key(
            "forward", self.seed, options.model, options.copy_number, self.done, micro_batch, ranks.rank()
        )

    def _last_gradient_is_finite(self) -> bool:
        """Whether the last layer's gradient is: a loss that is not finite on any rank reaches it through the mean."""
        gradient = self._last_parameter.grad
        return gradient is None or bool(torch.isfinite(gradient).all())

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
            "optimizer": self.optimizer.state_dict(),
            "sums": self.sums.settle(),
            "done": self.done,
            "diverged_at": self.diverged_at,
            "best": self.best,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sums.restore(state["sums"])
        self.done = state["done"]
        self.diverged_at = state["diverged_at"]
        self.best = state["best"]
