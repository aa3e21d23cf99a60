"""Where a transfer reads: a live weight, or a control in its place.

That one model teaches another is only shown beside controls: sources that know nothing (`random`), that know the same
in no order (`shuffled`), that never learn (`initial`), or that are the target itself (`own`). Where a control does as
well as the source, the source taught nothing.
"""

from typing import Literal, Protocol

import torch
from torch import Tensor
from typing_extensions import override

from mergenet import randomness
from mergenet.method.ports import Port

Control = Literal["none", "random", "shuffled", "initial", "own"]


class Source(Protocol):
    """Where a transfer reads: anything that has a path to be known by, a shape, and can be read."""

    @property
    def path(self) -> str:
        """The dotted name of what is read, the same whatever a person calls it."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""

    def read(self, step: int) -> Tensor:
        """A copy of the matrix as it is before the target's `step`."""


class Live(Source):
    """A weight as it is at each transfer, of a learner that trains or of one that stands frozen."""

    def __init__(self, port: Port) -> None:
        self.port = port

    @property
    @override
    def path(self) -> str:
        return self.port.path

    @property
    @override
    def shape(self) -> tuple[int, int]:
        return self.port.shape

    @override
    def read(self, step: int) -> Tensor:
        return self.port.read()


class Fixed(Live):
    """A weight as it is now, for the whole run."""

    def __init__(self, port: Port) -> None:
        super().__init__(port.with_each(lambda _, tensor: tensor.detach().clone()))


class Shuffled(Live):
    """A live weight with its entries in an order drawn afresh at each transfer: its values without their places.

    Args:
        seed: the run's; with the weight's path and the step it keys the order, which all ranks share.
    """

    def __init__(self, port: Port, seed: int) -> None:
        super().__init__(port)
        self._seed = seed

    @override
    def read(self, step: int) -> Tensor:
        matrix = super().read(step)
        order = torch.randperm(
            matrix.numel(), generator=randomness.generator("shuffled source", self._seed, self.path, step)
        )
        return matrix.flatten()[order.to(matrix.device)].view_as(matrix)


def controlled(control: Control, source: Port, target: Port, seed: int) -> Source:
    """What a transfer from `source` to `target` reads; for `random`, `source` is that of another model already."""
    match control:
        case "own":
            return Live(target)
        case "initial" | "random":
            return Fixed(source)
        case "shuffled":
            return Shuffled(source, seed)
        case "none":
            return Live(source)
