"""A port: a layer's weight seen as the matrix that takes part in a transfer.

Shape legend: (m, n) is the target's matrix, (p, q) the source's; rows are outputs.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from mergenet.config import InputError, nearest
from mergenet.method.layout import Dense, Layout

DENSE = Dense()


@dataclass(frozen=True)
class Port:
    """A weight that may take part.

    Attributes:
        name: as a person gave it.
        path: dotted, without `.weight`.
        parameters: dotted name -> tensor, as many as the layout wants; they may be sharded over ranks.
        layout: how they make the matrix; a Linear weight is (out, in), a Conv2d weight (out, in * kh * kw) unless
            it says otherwise.
    """

    name: str
    path: str
    parameters: Mapping[str, Tensor]
    layout: Layout = DENSE

    @property
    def tensors(self) -> list[Tensor]:
        """What is read and written."""
        return list(self.parameters.values())

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""
        rows, columns = self.layout.join([torch.empty(tensor.shape, device="meta") for tensor in self.tensors]).shape
        return rows, columns

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.tensors[0].device

    def read(self) -> Tensor:
        """A copy of the matrix in fp32: later steps of the optimizer do not reach it. All of it, if it is sharded."""
        return self._joined([tensor.detach() for tensor in self.tensors])

    def gradient(self) -> Tensor:
        """A copy of the gradient, as the last backward pass left it, as a matrix.

        Raises:
            InputError: there is none.
        """
        gradients = [tensor.grad for tensor in self.tensors if tensor.grad is not None]
        if len(gradients) < len(self.tensors):
            raise InputError(
                f"port '{self.name}' has no gradient to learn from: its learner steps before the tick ends"
            )
        return self._joined(gradients)

    def _joined(self, tensors: list[Tensor]) -> Tensor:
        return self.layout.join([whole(tensor) for tensor in tensors]).to(torch.float32, copy=True)

    def rounded(self, matrix: Tensor) -> Tensor:
        """`matrix` as it reads once it is written: in fp32, rounded to the type of the weight."""
        return matrix.to(self.tensors[0].dtype).to(torch.float32)

    def write(self, matrix: Tensor) -> None:
        """Copies `matrix` into the weight in place, to each rank its shard.

        The parameter stays the object that DDP's hooks and the optimizer's state hold on to.
        """
        with torch.no_grad():
            for tensor, part in zip(self.tensors, self.layout.split(matrix, self.tensors), strict=True):
                tensor.copy_(sharded_as(tensor, part))

    def numel(self) -> int:
        """How many numbers take part."""
        return sum(tensor.numel() for tensor in self.tensors)

    def with_each(self, change: Callable[[str, Tensor], Tensor]) -> Self:
        """The same port of other tensors: what `change` makes of each name and tensor."""
        return replace(self, parameters={name: change(name, tensor) for name, tensor in self.parameters.items()})


def check_flattening(ports: Iterable[Port]) -> None:
    """A flattening that changes no matrix would be the same transfer under another name.

    Raises:
        InputError: it changes none of `ports`; for one that is not the default.
    """
    if all(port.shape == replace(port, layout=DENSE).shape for port in ports):
        raise InputError("neither end is a kernel above 1 x 1; leave it out")


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be sharded over ranks; a collective call if it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_as(like: Tensor, tensor: Tensor) -> Tensor:
    """`tensor`, sharded over ranks as `like` is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.contiguous(), like.device_mesh, like.placements)


def find_port(weights: Mapping[str, Tensor], name: str, named: Mapping[str, str], layout: Layout = DENSE) -> Port:
    """The port `name` among `weights` (dotted parameter -> weight): a name in `named`, or a dotted parameter itself.

    `named` leads from names to dotted parameters; `.weight` may be left out of those.

    Raises:
        InputError: no such parameter (with the nearest), one that is no matrix, or not what the layout wants.
    """
    path = named.get(name, name).removesuffix(".weight")
    try:
        found = layout.names(path, weights)
    except InputError as error:
        raise InputError(f"port '{name}' {error}") from None
    if not found:
        ports = [*named, *(path.removesuffix(".weight") for path, weight in weights.items() if weight.dim() > 1)]
        raise InputError(f"no port '{name}'; {nearest(name, ports)}")
    weight = weights[found[0]]
    if weight.dim() < 2:
        raise InputError(f"port '{name}' is a vector of {weight.numel()}: only a matrix or a kernel can take part")
    return Port(name, path, {parameter: weights[parameter] for parameter in found}, layout)
