"""A transfer: read both matrices, generate, write into the target, learn from where training moved it.

Every call stands at an optimizer step boundary. `read` of all transfers of one turn comes before `write`
of any, so that two directions see the same moment. Steps are the target's own, counted from 0.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mergenet import randomness
from mergenet.method.matching import match_scale
from mergenet.method.options import TransferOptions
from mergenet.method.ports import Port
from mergenet.method.replicas import allfrom_first_rank, from_first_rank, moved_on_first_rank
from mergenet.method.sources import Source
from mergenet.method.upkeep import Upkeep
from mergenet.optimization import set_rate


class NotFinite(ArithmeticError):
    """What a transfer read or generated is not finite; nothing was written."""


@dataclass
class Pending:
    """A transfer that has been read and waits for `learn`: inputs only, so that it can be checkpointed.

    `generated` is the weight (m, n) with its graph, for a span of one step, which never leaves a tick.
    `memory` holds the adapter's buffers (power iteration vectors) as they were before generating.
    """

    step: int
    target: Tensor
    source: Tensor
    memory: dict[str, Tensor]
    generated: Tensor | None = None


class Transfer:
    """One transfer at work.

    Args:
        options: what it does.
        source: where it reads, of shape (p, q).
        port: the target's weight, of shape (m, n).
        steps: the target's steps in the whole run; None where that is not known, and no share of it matters.
        seed: the run's seed; with the ports' paths it keys the adapter's initial weights and dropout.
        upkeep: what else remembers the target's weight.

    Raises:
        InputError: a rank above what a matrix has.
    """

    def __init__(
        self,
        options: TransferOptions,
        source: Source,
        port: Port,
        steps: int | None,
        seed: int,
        upkeep: Upkeep | None = None,
    ) -> None:
        self.options = options
        self.source = source
        self.port = port
        self.upkeep = upkeep or Upkeep()
        self.steps = steps
        self.key = (seed, source.path, port.path)
        self.source_encoder = options.encoding.build(source.shape)
        self.target_encoder = options.encoding.build(port.shape)
        with randomness.seeded("adapter", *self.key):
            adapter = options.adapter.build(self.target_encoder.shape(), self.source_encoder.shape())
        self.adapter = adapter.to(port.device, torch.float32)
        self.optimizer = options.optimizer.build(_decay_groups(self.adapter))
        self.total_updates = sum(1 for step in range(steps or 0) if self.due(step))
        self.updates = 0
        self.pending: Pending | None = None
        self.figures: dict[str, Tensor] = {}

    def due(self, step: int) -> bool:
        """Whether a transfer comes before the target's `step`."""
        return self.options.is_due(step, self.steps)

    def ends(self, step: int) -> bool:
        """Whether the span of the pending transfer ends with the target's `step`."""
        if self.pending is None:
            return False
        last = self.pending.step
        if self.options.span == "cycle":
            last += self.options.cycle - 1
        return step == (last if self.steps is None else min(last, self.steps - 1))

    def read(self, step: int) -> None:
        """Copies both matrices and adapts the encoders to them.

        Raises:
            NotFinite: the leading directions of a matrix that is not cannot be found.
        """
        target = self.port.read()
        source = self.source.read(step).to(target.device)
        try:
            self.target_encoder.refresh(target)
            self.source_encoder.refresh(source)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise NotFinite(str(error)) from None
        memory = {name: buffer.clone() for name, buffer in self.adapter.named_buffers()}
        self.pending = Pending(step, target, source, memory)

    def write(self) -> None:
        """Generates the target's weight and writes it, rank 0's on every rank.

        Raises:
            NotFinite: what was generated is not; on every rank alike.
        """
        pending = self._pending()
        generated = self._generate(pending)
        weight = generated.detach().clone()
        from_first_rank(weight)
        if not bool(torch.isfinite(weight).all()):
            raise NotFinite("what was generated is not finite")
        self.port.write(weight)
        self.upkeep.after_write(self.port, pending.target, self.port.rounded(weight))
        self.figures["written"] = _relative(weight - pending.target, pending.target)
        if self.options.span == "step":
            pending.generated = generated

    def learn(self) -> None:
        """One update of the adapter towards where training moved the written weight, or down the target's loss.

        With delta = generated - moved, the gradient is the vector-Jacobian product of delta through the
        encoding and the adapter: that of 1/2 |generated - stopgrad(moved)|^2. With `update: loss` the gradient
        of the target's loss with respect to the written weight stands in delta's place: the chain rule. Where the
        weight lies as it was written there was no step, a gradient scaler skipped it, and nothing is learned.
        """
        pending = self._pending()
        generated = pending.generated if pending.generated is not None else self._generate_again(pending)
        moved = self.port.read()
        delta = self.port.rounded(generated.detach()) - moved
        self.figures["moved"] = _relative(delta, moved)
        self.pending = None
        if not moved_on_first_rank(delta):
            return
        parameters = [parameter for parameter in self.adapter.parameters() if parameter.requires_grad]
        taught = delta if self.options.update == "delta" else self.port.gradient()
        gradients = torch.autograd.grad(generated, parameters, grad_outputs=taught, materialize_grads=True)
        for parameter, gradient in zip(parameters, allfrom_first_rank(gradients), strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(parameters, self.options.clip)
        known = self.steps is not None
        progress = min(self.updates / self.total_updates, 1.0) if known else 0.0  # a resumed loop may be shorter
        multiplier = self.options.schedule.multiplier(progress)
        set_rate(self.optimizer, self.options.optimizer.lr, multiplier)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.updates += 1

    def _pending(self) -> Pending:
        assert self.pending is not None, "read comes before write and learn"
        return self.pending

    def _generate(self, pending: Pending) -> Tensor:
        """The generated weight (m, n), in fp32; dropout is keyed by the step and equal on all ranks."""
        device = pending.target.device.type
        with randomness.seeded("adapter dropout", *self.key, pending.step), torch.autocast(device, enabled=False):
            x = self.target_encoder.encode(pending.target)
            y = self.source_encoder.encode(pending.source)
            matrix = match_scale(self.adapter(x, y), x, self.options.match)
            generated = self.target_encoder.decode(pending.target, matrix)
            return generated if self.options.blend == 1.0 else pending.target.lerp(generated, self.options.blend)

    def _generate_again(self, pending: Pending) -> Tensor:
        """The weight that `write` generated, bit for bit: a graph does not live across ticks."""
        for name, buffer in self.adapter.named_buffers():
            buffer.copy_(pending.memory[name])
        return self._generate(pending)

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint between two ticks must hold."""
        pending = self.pending
        return {
            "adapter": self.adapter.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "source_encoder": self.source_encoder.state_dict(),
            "target_encoder": self.target_encoder.state_dict(),
            "updates": self.updates,
            "figures": self.figures,
            "pending": None
            if pending is None
            else {"step": pending.step, "target": pending.target, "source": pending.source, "memory": pending.memory},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave, from any device."""
        device = self.port.device
        self.adapter.load_state_dict(state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.source_encoder.load_state_dict(_on(device, state["source_encoder"]))
        self.target_encoder.load_state_dict(_on(device, state["target_encoder"]))
        self.updates = state["updates"]
        self.figures = _on(device, state["figures"])
        self.pending = Pending(**_on(device, state["pending"])) if state["pending"] else None


def _on(device: torch.device, state: Any) -> Any:
    """Nested maps of tensors and plain values, the tensors on `device`."""
    if isinstance(state, dict):
        return {name: _on(device, value) for name, value in state.items()}
    return state.to(device) if isinstance(state, Tensor) else state


def _decay_groups(adapter: nn.Module) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and gates do not."""
    trained = [parameter for parameter in adapter.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.dim() > 1]},
        {"params": [parameter for parameter in trained if parameter.dim() <= 1], "weight_decay": 0.0},
    ]


def _relative(change: Tensor, base: Tensor) -> Tensor:
    """The norm of a change in units of the norm of what it changes."""
    return change.norm() / base.norm()
