"""One transfer, in a loop that is not ours."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Unpack

import torch
from torch import Tensor, nn, optim

from mergenet.config import InputError
from mergenet.library.ends import End, Holder, check_ends, upkeep_of
from mergenet.library.keywords import Keywords, read_options
from mergenet.library.ticks import Ticking
from mergenet.method.sources import Fixed, controlled
from mergenet.method.transfer import NotFinite
from mergenet.method.transfer import Transfer as Engine


class Transfer(Ticking):
    """One transfer from a weight of `source` to a weight of `target`, in a loop that is not ours.

    Make it as an optimizer is made: after `.to(device)`, `fully_shard` and the like, before the first step. On several
    ranks each makes it and each enters every tick.

    Args:
        source: a module that trains or stands still, or a map from names to tensors (a state dict).
        target: a module that trains; it may be the source, for a transfer within one model. Either may be bare, in
            DDP, sharded by `fully_shard`, or compiled.
        from_port: where it reads: a layer or weight by its dotted name (`fc`, `fc.weight`), or by the name that
            `mergenet.models` has for it (`classifier`, `irb16`) where it knows the model.
        to_port: where it writes.
        rank: short for `encoding={"svd": {"rank": rank}}`; 8 if neither is given.
        steps: ticks of the whole run, after which nothing is transferred. If left out, the adapter's rate is constant
            and neither `schedule` nor `start` and `stop` can be given, which are shares of the run.
        seed: with the dotted names of the ports it keys the adapter's initial weights and dropout; the same on all
            ranks. The random numbers of the loop are not touched.
        target_optimizer: for `optimizer_state`, the optimizer that trains the target.
        options: `TransferOptions` by name.

    Attributes:
        ticks: how many have been counted.
        broken_at: the tick at which a matrix was not finite, and from which nothing is transferred; None while all is
            well.

    Raises:
        InputError: no such port or option, or what does not go together.
    """

    def __init__(
        self,
        source: Holder,
        target: nn.Module,
        from_port: str,
        to_port: str,
        *,
        rank: int | None = None,
        steps: int | None = None,
        seed: int = 0,
        target_optimizer: optim.Optimizer | None = None,
        **options: Unpack[Keywords],
    ) -> None:
        self.options = read_options(rank, steps, dict(options))
        self.ticks = 0
        self.broken_at: int | None = None
        self._open = False
        if not isinstance(target, nn.Module):
            raise InputError(f"target: is a torch.nn.Module, got {type(target).__name__}")
        self._ends_held = (
            End("source", source, from_port, self.options),
            End("target", target, to_port, self.options),
        )
        read, written = (end.port for end in self._ends_held)
        check_ends(read, written, self.options)
        taught_by = controlled(self.options.control, read, written, seed)
        upkeep = upkeep_of(self.options, target, written, target_optimizer)
        self._engine = Engine(self.options, taught_by, written, steps, seed, upkeep)

    @property
    def adapter(self) -> nn.Module:
        """What generates the written matrix: fp32, on the target's device, equal on all ranks."""
        return self._engine.adapter

    @property
    def updates(self) -> int:
        """How often the adapter has learned."""
        return self._engine.updates

    @property
    def figures(self) -> dict[str, Tensor]:
        """Of the last transfer: how far it `written` the weight from where it was, and training `moved` it then.

        Both are norms, in units of the weight's own.
        """
        return self._engine.figures

    def __repr__(self) -> str:
        ends = " -> ".join(f"{end.port.name} {end.port.shape}" for end in self._ends_held)
        return f"Transfer({ends}, cycle {self.options.cycle}: {self.ticks} ticks, {self.updates} updates)"

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint between two ticks must hold, beside models and optimizers; plain values and tensors."""
        source = self._engine.source
        return {
            "transfer": self._engine.state_dict(),
            "ticks": self.ticks,
            "broken_at": self.broken_at,
            "initial": source.read(0) if isinstance(source, Fixed) else None,
            "made": self._made(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave, from any device; `steps` may be another.

        Raises:
            InputError: it is the state of a transfer of other ports or options.
        """
        _check_made(state, self._made())
        self._engine.load_state_dict(state["transfer"])
        if isinstance(self._engine.source, Fixed):
            self._engine.source.port.write(state["initial"])
        self.ticks = state["ticks"]
        self.broken_at = state["broken_at"]
        self._open = False

    def _made(self) -> dict[str, Any]:
        """What a state must have been made with to go on here."""
        seed, *ends = self._engine.key
        return {**self.options.dump(), "seed": seed, "from": ends[0], "to": ends[1]}

    # --- on a tick -----------------------------------------------------------------------------------------------

    def _transfers(self) -> Sequence["Transfer"]:
        return [self]

    def _expect(self, *, open_: bool) -> None:
        if self._open and not open_:
            raise InputError("begin: the last tick has not ended; end() it, or abandon() it if its step failed")
        if open_ and not self._open:
            raise InputError("end: no tick has begun; begin() one before the step")

    def _due(self) -> bool:
        return self.options.enabled and self.broken_at is None and self._engine.due(self.ticks)

    def _ends(self) -> bool:
        return self.broken_at is None and self._engine.ends(self.ticks)

    def _read(self) -> None:
        for end in self._ends_held:
            end.check()
        with self._arithmetic():
            self._engine.read(self.ticks)

    def _write(self) -> None:
        if self.broken_at is None:
            with self._arithmetic():
                self._engine.write()
            torch.clear_autocast_cache()  # around the loop it would keep casts of the weight that was there

    def _learn(self) -> None:
        if self._ends():
            with self._arithmetic():
                self._engine.learn()

    def _check_gradient(self) -> None:
        port = self._engine.port
        if self.options.update == "loss" and self._ends() and any(tensor.grad is None for tensor in port.tensors):
            raise InputError(
                f"update: 'loss' needs the gradient of '{port.name}' when the tick ends, and there is none; "
                "call zero_grad before the forward pass and not after the step"
            )

    def _follow_the_target(self) -> None:
        device = self._engine.port.device
        if next(self.adapter.parameters()).device != device:
            self.adapter.to(device)
            self._engine.load_state_dict(self._engine.state_dict())

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """In fp32 and with gradients, whatever surrounds the tick; it stops for good at what is not finite."""
        self._follow_the_target()
        try:
            with torch.autocast(self._engine.port.device.type, enabled=False), torch.enable_grad():
                yield
        except NotFinite as error:
            self.broken_at, self._engine.pending = self.ticks, None
            message = f"{self!r}: {error}; nothing was written, and nothing is transferred any more"
            warnings.warn(message, RuntimeWarning, stacklevel=2)


def _check_made(state: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    if "made" not in state:
        raise InputError("state: is not that of a Transfer")
    of_state = state["made"]
    for name, value in here.items():
        if of_state.get(name) != value:
            raise InputError(
                f"state: is of a transfer whose `{name}` is {of_state.get(name)!r}, and here it is {value!r}"
            )
