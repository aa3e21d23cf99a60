"""One optimizer step: of one learner, or of those that share a weight, together."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mergenet.optimization import set_rate
from mergenet.training import ranks
from mergenet.training.learner import Learner, Part
from mergenet.training.shared import SharedWeight
from mergenet.training.teachers import Seen


class Passes(nn.Module):
    """What DDP wraps: the training modules of learners that step together. Its forward returns their losses."""

    def __init__(self, learners: Sequence[Learner], shared: Sequence[SharedWeight]) -> None:
        super().__init__()
        self.training_modules = nn.ModuleList(learner.module for learner in learners)
        self._learners = learners
        self._shared = shared

    def forward(self, parts: Sequence[Part]) -> list[tuple[Tensor, Seen | None]]:
        """Each learner's scalar loss of its part, and what it gave to those whom it teaches."""
        for weight in self._shared:
            weight.bind()
        given = []
        for module, learner, part in zip(self.training_modules, self._learners, parts, strict=True):
            torch.manual_seed(part.key)
            with learner.autocast():
                given.append(module(part.batch, part.taught, part.epoch))
        return given


class JointStep:
    """Learners that take their steps together, as one training module; mostly there is one.

    Args:
        learners: of equal pace and accumulation.
        shared: the weights that they share with each other.
    """

    def __init__(self, learners: Sequence[Learner], shared: Sequence[SharedWeight]) -> None:
        self.learners = learners
        self.shared = shared
        self.sorted = [(weight, self._holder(weight)) for weight in shared if weight.order == "epoch"]
        self.module: nn.Module = Passes(learners, shared)
        if ranks.world() > 1:
            self.module = self._distribute(self.module)

    def _distribute(self, module: nn.Module) -> DistributedDataParallel:
        """`module` in DDP, its gradient buckets laid out for good.

        DDP lays its buckets out anew after the first backward, in the order gradients came. With three ranks
        and more that changes the order of sums, so a resumed run would differ in its first step. One backward
        before the first step, here, settles the layout in a fresh and in a resumed run alike.
        """
        slices = {id(weight.small.weight) for weight in self.shared}  # which follow from weights that are equal already
        names = [name for name, buffer in module.named_buffers() if id(buffer) in slices]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)
        replicas = DistributedDataParallel(module)
        before = {name: buffer.detach().clone() for name, buffer in module.named_buffers()}
        given = replicas([learner.rehearsal() for learner in self.learners])
        _sum([loss for loss, _ in given]).backward()
        replicas.zero_grad()
        self._settle()
        for name, buffer in module.named_buffers():
            buffer.copy_(before[name])
        return replicas

    def step(self, tick: int) -> None:
        """Forward, backward, optimizer: one step of learning for themselves."""
        for learner in self.learners:
            if any(teacher.diverged() for teacher in learner.teachers()):
                self._diverge(tick)
        if not self.learners[0].steps_on(tick):
            return
        for learner in self.learners:
            training = learner.options.training
            set_rate(
                learner.optimizer, training.optimizer.lr, training.schedule.multiplier(learner.done / learner.steps)
            )
            learner.optimizer.zero_grad()
        self._sort()
        losses = self._accumulate_gradient()
        for learner in self.learners:
            learner.stream.prepare(learner.done + 1)  # while a GPU is at the gradient, which is waited for next
        if not all(learner.gradient_is_finite() for learner in self.learners):
            self._settle()
            self._diverge(tick)
            return
        for learner, loss in zip(self.learners, losses, strict=True):
            learner.take_step(loss)
        self._settle()

    def _accumulate_gradient(self) -> list[Tensor]:
        """Adds up the gradient of this step's batches part by part; the mean loss of each learner's samples."""
        count = self.learners[0].options.training.accumulation
        parts = zip(*(learner.parts() for learner in self.learners), strict=True)
        means = [torch.zeros((), device=learner.stream.device) for learner in self.learners]
        gave: list[list[Seen]] = [[] for _ in self.learners]
        for index, together in enumerate(parts):
            with self._reduced_after(last=index == count - 1):
                given = self.module(together)
                losses = [loss / count for loss, _ in given]
                _sum(losses).backward()
            for mean, loss in zip(means, losses, strict=True):
                mean += loss.detach()
            for seen, (_, fresh) in zip(gave, given, strict=True):
                seen += [] if fresh is None else [fresh.clone()]
        for learner, seen in zip(self.learners, gave, strict=True):
            learner.gave = Seen.joined(seen) if seen else None
        return means

    def _reduced_after(self, last: bool) -> AbstractContextManager[None]:
        """DDP reduces gradients over the ranks once a step, after the last part of a batch."""
        if last or not isinstance(self.module, DistributedDataParallel):
            return nullcontext()
        return self.module.no_sync()

    def _diverge(self, tick: int) -> None:
        """What one of them has lost, all have: they share a weight."""
        for learner in self.learners:
            learner.diverged_at = tick if learner.diverged_at is None else learner.diverged_at

    def _holder(self, weight: SharedWeight) -> Learner:
        """The one that trains the large weight, by whose epochs its channels are sorted."""
        return next(one for one in self.learners if any(own is weight.large for own in one.model.parameters()))

    def _sort(self) -> None:
        for weight, holder in self.sorted:
            if holder.done % holder.stream.steps_per_epoch == 0:
                weight.sort()

    def _settle(self) -> None:
        for weight in self.shared:
            weight.settle()


def _sum(losses: Sequence[Tensor]) -> Tensor:
    """One loss as it is; of several the sum."""
    return losses[0] if len(losses) == 1 else torch.stack(list(losses)).sum()
