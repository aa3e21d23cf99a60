"""A transfer: read both matrices, generate, write into the target, learn from where training moved it.

Every call stands at an optimizer step boundary. `read` of all transfers of one turn comes before `write`
of any, so that two directions see the same moment. Steps are the target's own, counted from 0.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch import distributed as dist

from mergenet import randomness
from mergenet.config import Neutral, Options
from mergenet.method.adapter import Adapter, Lpka
from mergenet.method.encoding import Encoding, Factored, Svd
from mergenet.method.layout import Flattening, Layout
from mergenet.method.matching import Match, match_scale
from mergenet.method.ports import Port
from mergenet.method.sources import Control, Source
from mergenet.method.upkeep import Policy, Upkeep
from mergenet.optimization import AdamW, Cosine, Optimizer, Schedule, Share, set_rate


class TransferOptions(Options):
    """A transfer from a port of one learner to a port of another (Eq. 1 and 7).

    Attributes:
        source: `learner.port` where it reads.
        target: `learner.port` where it writes.
        flattening: of a convolution's kernel, `outputs` (out, in * height * width), or `kernel` (out * height,
            in * width), as the authors' low-rank convolution has it.
        bias: both layers' biases take part, as the last columns of their matrices (the authors' hyper_module.py).
        control: what stands in the source's place: `random` (another initialisation of its model), `shuffled` (its
            entries in a fresh order each time), `initial` (as it began), `own` (the target's own matrix at `to`).
        encoding: what of the two matrices takes part.
        adapter: what generates the new matrix.
        match: what the generated matrix takes over of the scale of the target's: nothing, the norm of each of its
            `rows`, the `norm` of the whole, or its `moments`, mean and deviation.
        blend: how much of the way from the target's weight to the generated one is gone.
        optimizer_state: what becomes of the momentum that the target's optimizer has of the written weight.
        batchnorm: what becomes of the running statistics right behind it. Both: `keep`, `reset`, or `rescale` by how
            much longer each row has become.
        turn: transfers of one turn all read before any of them writes; a later turn sees what an earlier one wrote.
        cycle: steps of the target from one transfer to the next (the paper's best: 4).
        start: share of the run before the first transfer.
        stop: share of the run after which there is none.
        span: the movement the adapter learns from: that of one `step` (the authors' code), or of the
            whole `cycle` (the paper's text).
        update: what the adapter learns from: the `delta` between what it wrote and where training moved it (the paper),
            or the gradient of the target's own `loss` there, which the paper does not compare with.
        optimizer: of the adapter; biases, norms and gates are not decayed (the authors' code). The small
            default rate keeps AdamW's first steps, whose size is the rate and not the movement, harmless.
        schedule: of the adapter's rate over its own updates.
        clip: the norm the adapter's gradient is clipped to (the authors' code: 50).
        enabled: false trains the target without the transfer, everything else equal.
    """

    source: str = Field(alias="from")
    target: str = Field(alias="to")
    control: Annotated[Control, Neutral("none")] = "none"
    flattening: Annotated[Flattening, Neutral("outputs")] = "outputs"
    bias: Annotated[bool, Neutral(False)] = False
    encoding: Encoding = Svd()
    adapter: Adapter = Lpka()
    match: Annotated[Match, Neutral("none")] = "none"
    blend: Annotated[float, Field(gt=0.0, le=1.0), Neutral(1.0)] = 1.0
    optimizer_state: Annotated[Policy, Neutral("keep")] = "keep"
    batchnorm: Annotated[Policy, Neutral("keep")] = "keep"
    turn: Annotated[NonNegativeInt, Neutral(0)] = 0
    cycle: PositiveInt = 4
    start: Share = 0.0
    stop: Share = 1.0
    span: Literal["step", "cycle"] = "step"
    update: Annotated[Literal["delta", "loss"], Neutral("delta")] = "delta"
    optimizer: Optimizer = AdamW(lr=1e-4)
    schedule: Schedule = Cosine()
    clip: PositiveFloat = 50.0
    enabled: bool = True

    @property
    def layout(self) -> Layout:
        """How the tensors of either layer make the matrix that takes part."""
        return self.encoding.layout(self.flattening, self.bias)

    def is_due(self, step: int, steps: int | None) -> bool:
        """Whether a transfer comes before the target's `step`, counted from 0, of `steps` (None: of any number)."""
        within = steps is None or self.start <= step / steps < self.stop
        return step > 0 and step % self.cycle == 0 and within

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.start >= self.stop:
            raise ValueError(f"start {self.start} is not before stop {self.stop}")
        if self.update == "loss" and self.span == "cycle":
            raise ValueError("update 'loss' is the gradient of the one step after a transfer; leave span 'cycle' out")
        if self.bias and self.flattening == "kernel":
            raise ValueError(
                "bias: one a row, and flattening 'kernel' has several rows an output; leave one of them out"
            )
        if isinstance(self.encoding, Factored) and self.batchnorm != "keep":
            raise ValueError("batchnorm: a factor has no outputs of its own; leave it at 'keep'")
        self.encoding.layout(self.flattening, self.bias)  # refuses what it cannot lay out
        return self


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
        _from_first_rank(weight)
        if not bool(torch.isfinite(weight).all()):
            raise NotFinite("what was generated is not finite")
        self.port.write(weight)
        self.upkeep.after_write(self.port, pending.target)
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
        if not _moved_on_first_rank(delta):
            return
        parameters = [parameter for parameter in self.adapter.parameters() if parameter.requires_grad]
        taught = delta if self.options.update == "delta" else self.port.gradient()
        gradients = torch.autograd.grad(generated, parameters, grad_outputs=taught, materialize_grads=True)
        for parameter, gradient in zip(parameters, _all_from_first_rank(gradients), strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(parameters, self.options.clip)
        progress = 0.0 if self.steps is None else self.updates / self.total_updates
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


def _several_ranks() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _from_first_rank(tensor: Tensor) -> None:
    """Rank 0's values on every rank: no drift from kernels that differ between machines."""
    if _several_ranks():
        dist.broadcast(tensor, src=0)


def _moved_on_first_rank(delta: Tensor) -> bool:
    """Whether any entry is not zero, as rank 0 sees it: what is computed elsewhere may differ in rounding."""
    moved = delta.count_nonzero()
    _from_first_rank(moved)
    return bool(moved)


def _all_from_first_rank(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Rank 0's values on every rank, in one message."""
    if not _several_ranks():
        return tensors
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    _from_first_rank(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return tuple(part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True))
